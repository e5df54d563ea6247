"""`fpswitch run` and `fpswitch compare`: a scenario in, a comparison and a result directory out."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sim.cli.common import emit, jobs_option, json_option, overrides, say, scenario_options
from sim.cli.design import asked, show
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.report.comparison import Comparison

_Command = TypeVar("_Command", bound=Callable[..., Any])


def shown_options(command: _Command) -> _Command:
    """What is printed of a comparison."""
    for option in (
        json_option,
        click.option("--mail", is_flag=True, help="Print 15 lines for a mail."),
        click.option("--full", is_flag=True, help="Print all tables."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("scenario", metavar="SCENARIO")
@scenario_options
@jobs_option()
@click.option("--cluster", metavar="ADDRESS", help="Dask workers: tcp://HOST:PORT, or local:N to start N here.")
@click.option(
    "--design", metavar="KIND:N", help="Points in ranges: lhs:N, sobol:N (a power of two) or factorial:N (levels)."
)
@click.option("--range", "ranges", metavar="KEY=LOW..HIGH", multiple=True, help="A range of --design; may be repeated.")
@click.option("--out", metavar="DIR", help="Result directory; by default results/ and the name of the scenario.")
@click.option("--check-engine", is_flag=True, help="First compare both engines, event for event, on replication 0.")
@click.option("--no-figures", is_flag=True, help="Write the tables only.")
@shown_options
def run(
    scenario: str,
    jobs: int | None,
    cluster: str | None,
    design: str | None,
    ranges: tuple[str, ...],
    out: str | None,
    check_engine: bool,
    no_figures: bool,
    full: bool,
    mail: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Simulate all cases and strategies of SCENARIO, compare them, and leave a result directory.

    SCENARIO is the name of a shipped scenario (fpswitch scenarios), or a path: an argument that ends in .toml or has a
    /. Options override its keys (docs/scenarios.md), and go through the same checks. It may also be the manifest.json
    of a result directory: that run is then repeated from what is in the directory alone, and the same version of
    fpswitch gives byte-identical tables.

    Progress goes to standard error, the answer to standard output: at most 40 lines of plain text, 72 columns wide, or
    all tables with --full, or 15 lines for a mail with --mail. Whatever is finished in DIR for the same cases, costs,
    seed and code is used again; what else it has of this scenario is kept, and shown when asked for. Results of another
    scenario are replaced when the new run is complete. The same seed gives the same tables with any number of jobs, and
    on a cluster (docs/cluster.md).

    With --design the scenario runs at N points, spread over all ranges at once, or (factorial:N) at every combination
    of N values of each, and the output is a table for each range. DIR then has the points, each as a result directory,
    and a dataset of all tables (docs/scenarios.md).

    Exit status 1 if a strategy that is not documented as unsound violates integrity, or the run fails; 130 if it is
    interrupted.

    With --json: {"scenario", "seed", "replications", "manifest" (its path), "cases": [{"case", "cpu", "kernel",
    "sweep": {}, "load": {"exits", "switches", "kvm_runs", "halts", "load_puts", "busy"}, "contrasts": [{"a", "b",
    "own", "own_without_xss" (a less b, each {"mean", "low", "high", "unit"}), "range": {"low", "median", "high"}, "p",
    "feedback"}], "strategies": {NAME: {"metrics": {METRIC: {"mean", "low", "high", "unit"}}, "difference": {METRIC:
    {"mean", "low", "high", "unit", "p", "verdict"} or null}, "own", "own_without_xss", "range" (less the reference's),
    "integrity": {"violations", "kinds": {}}}}}]}.

    \b
    Examples:
      fpswitch run rfc-question
      fpswitch run rfc-question --strategies manual-load,xstate-guest --contrast manual-load,xstate-guest
      fpswitch run my-host.toml --set host.cpus=64 --replications 20 --seed 7
      fpswitch run from-a-colleague/manifest.json
      fpswitch run my-host.toml --design sobol:256 --range host.cpus=2..64 --out results/design
    """
    _one_of(full, mail, as_json)
    if cluster is not None and jobs is not None:
        raise InputError("--cluster beside --jobs (allowed: one of them)")
    from sim import experiment

    of_a_run = {"--full": full, "--mail": mail, "--no-figures": no_figures, "--check-engine": check_engine}
    plan = asked(design, ranges, out, of_a_run)
    given = overrides(options)
    how: dict[str, Any] = {
        "overrides": given.values,
        "options": given.options,
        "jobs": jobs,
        "cluster": cluster,
        "progress": True,
        "command": ["fpswitch", *sys.argv[1:]],
    }
    if plan:
        show(experiment.run_design(scenario, plan, str(out), **how), plan, str(out), as_json)
        return
    directory = out if out is not None else str(experiment.directory_for(scenario))
    if out is None and scenario.endswith(".json"):
        say([f"the results go to {directory}"])
    if check_engine:
        for sentence in experiment.check_engines(scenario, given.values, given.options, lambda note: say([note])):
            say([sentence])
    results = experiment.run(scenario, out=directory, **how)
    from sim.report.comparison import compare as comparison_of

    comparison = comparison_of(results)
    if not no_figures:
        _of_directory(comparison).write_figures(Path(directory) / "figures")
    _finish(comparison, full, mail, as_json)


@click.command()
@click.argument("directory", metavar="DIR")
@click.argument("other", metavar="[DIR]", required=False)
@click.option("--reference", metavar="STRATEGY", help="The strategy from which differences are taken.")
@shown_options
def compare(directory: str, other: str | None, reference: str | None, full: bool, mail: bool, as_json: bool) -> None:
    """Print the answer again from the result directory DIR, and with another reference if you like.

    Options for the output and the exit status are those of `fpswitch run`.

    With a second DIR: the second result less the first, for two kernels, CPUs, loads or versions of fpswitch; cases
    that differ in nothing else are matched. If seed, load and random streams are the same, replications are paired;
    otherwise Welch's test compares them. The output says which. With --json: {"a", "b" (each {"scenario", "seed",
    "replications", ...}), "tool", "alone", "alone_in": {"a": [...], "b": [...]}, "cases": [{"a", "b", "paired", "test",
    "differs": [{"key", "a", "b"}], "load": {"a", "b"}, "unsound", "found": [{"what" ("cost", "own", "own_without_xss"),
    "strategy", "a", "b", "difference" (each {"mean", "low", "high", "unit", "n"}), "p", "p_adjusted", "verdict"}]}]}.

    \b
    Examples:
      fpswitch compare results/rfc-question
      fpswitch compare results/rfc-question --reference manual-load --json
      fpswitch compare results/v6.18 results/v6.19
    """
    _one_of(full, mail, as_json)
    if other is not None and mail:
        raise InputError("--mail goes with one result directory (allowed with two: --full, --json)")
    from sim.report.comparison import compare as comparison_of
    from sim.results import load

    results = load(directory)
    say(results.notes)
    comparison = comparison_of(results, reference)
    if other is None:
        _finish(comparison, full, mail, as_json)
        return
    from sim.analysis.two_results import two_results
    from sim.report.two_results import document, text

    others = load(other)
    say(others.notes)
    second = comparison_of(others, reference)
    found = two_results(comparison, second)
    if as_json:
        emit(document(found, comparison, second), "", as_json)
    else:
        emit({}, text(found, comparison, second, full=full), as_json)


def _of_directory(comparison: "Comparison") -> "Comparison":
    """The comparison of all that the directory shows, which may be more than was asked for."""
    from sim.report.comparison import compare as comparison_of
    from sim.results import load, manifest
    from sim.results.parts import keys

    results = comparison.results
    assert results.directory, "it was written to one"
    whole, asked = (keys(each, each["replications"]) for each in (manifest.read(results.directory), results.manifest))
    return comparison if whole == asked else comparison_of(load(results.directory))


def _one_of(full: bool, mail: bool, as_json: bool) -> None:
    if full + mail + as_json > 1:
        raise InputError("--full, --mail, --json: found more than one of them (allowed: one)")


def _finish(comparison: "Comparison", full: bool, mail: bool, as_json: bool) -> None:
    text = comparison.summary if full else comparison.mail if mail else comparison.answer
    emit(comparison.document() if as_json else "", "" if as_json else text(), as_json)
    unexpected = comparison.unexpected_violations()
    for case, strategy, count in unexpected:
        click.echo(
            f"fpswitch: {case}: {strategy} violates integrity ({count} times), and is not documented as unsound",
            err=True,
        )
    sys.exit(1 if unexpected else 0)
