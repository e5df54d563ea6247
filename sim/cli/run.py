"""`fpswitch run` and `fpswitch compare`: a scenario in, a comparison and a result directory out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli import INTERRUPTED_STATUS
from sim.cli.common import emit, json_option, overrides, scenario_options
from sim.errors import RunError

if TYPE_CHECKING:
    from sim.report.comparison import Comparison


@click.command()
@click.argument("scenario", metavar="SCENARIO")
@scenario_options
@click.option("--jobs", type=int, metavar="N", help="Processes; by default one per CPU.")
@click.option("--out", metavar="DIR", help="Result directory; by default results/ and the name of the scenario.")
@click.option("--no-figures", is_flag=True, help="Write the tables only.")
@json_option
def run(scenario: str, jobs: int | None, out: str | None, no_figures: bool, as_json: bool, **options: Any) -> None:
    """Simulate all cases and strategies of SCENARIO, compare them, and leave a result directory.

    SCENARIO is the name of a shipped one (fpswitch scenarios), or a path: what ends in .toml or has a /.  Options take
    the place of its keys (docs/scenarios.md), and pass the same checks.

    Progress goes to standard error, the summary (plain text, at most 72 columns) to standard output.  An unfinished run
    of the same scenario, costs, seed and code in DIR is continued; a finished one there is replaced when the new one is
    complete.  The same seed gives the same tables with any number of jobs.

    Exit status 1 if a strategy that is not documented as unsound violates integrity, or the run fails; 130 if it is
    interrupted.

    With --json: {"scenario", "seed", "replications", "manifest" (its path), "cases": [{"case", "cpu", "kernel",
    "sweep": {}, "strategies": {NAME: {"metrics": {METRIC: {"mean", "low", "high", "unit"}}, "difference": {METRIC:
    {"mean", "low", "high", "unit", "p", "verdict"}}, "integrity": {"violations", "kinds": {}}}}}]}.

    \b
    Examples:
      fpswitch run rfc-question
      fpswitch run rfc-question --strategies manual-load,xstate-guest --contrast manual-load,xstate-guest
      fpswitch run my-host.toml --set host.cpus=64 --replications 20 --seed 7
    """
    from sim import experiment

    directory = out if out is not None else str(Path("results") / Path(scenario).stem)
    given = overrides(options)
    try:
        results = experiment.run(
            scenario,
            overrides=given.values,
            options=given.options,
            jobs=jobs,
            out=directory,
            progress=True,
            command=["fpswitch", *sys.argv[1:]],
        )
    except RunError as error:
        click.echo(f"fpswitch: {error}", err=True)
        sys.exit(INTERRUPTED_STATUS if isinstance(error, experiment.Interrupted) else 1)
    from sim.report.comparison import compare as comparison_of

    comparison = comparison_of(results)
    if not no_figures:
        comparison.write_figures(Path(directory) / "figures")
    _finish(comparison, as_json)


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--reference", metavar="STRATEGY", help="The strategy from which differences are taken.")
@json_option
def compare(directory: str, reference: str | None, as_json: bool) -> None:
    """Print the comparison again from the result directory DIR, and with another reference if you like.

    Output and exit status are those of `fpswitch run`.

    \b
    Examples:
      fpswitch compare results/rfc-question
      fpswitch compare results/rfc-question --reference manual-load --json
    """
    from sim.report.comparison import compare as comparison_of
    from sim.results import load

    _finish(comparison_of(load(directory), reference), as_json)


def _finish(comparison: "Comparison", as_json: bool) -> None:
    emit(comparison.document() if as_json else "", "" if as_json else comparison.summary(), as_json)
    unexpected = comparison.unexpected_violations()
    for case, strategy, count in unexpected:
        click.echo(
            f"fpswitch: {case}: {strategy} violates integrity ({count} times), and is not documented as unsound",
            err=True,
        )
    sys.exit(1 if unexpected else 0)
