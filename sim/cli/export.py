"""``fpswitch export``: a simulated run as the trace of a recorded one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from sim.cli.common import emit_of_file, json_option, set_option
from sim.cli.timeline import check_output, out_option, whole


@click.command()
@click.argument("scenario")
@out_option
@click.option("--force", is_flag=True, help="Overwrite it.")
@click.option(
    "--strategy", metavar="NAME", help="The strategy that times the host; default: the case's, as in fpswitch run."
)
@click.option("--case", metavar="NAME", help="Of the scenario (fpswitch show lists them); default: the first.")
@click.option(
    "--replication", metavar="N", type=int, default=0, show_default=True, help="Of the scenario, as in fpswitch run."
)
@click.option("--duration", metavar="TIME", help="How much to measure, after the warm-up; default: run.measure.")
@set_option
@json_option
def export(
    scenario: str,
    output: Path,
    force: bool,
    strategy: str | None,
    settings: Sequence[str],
    case: str | None,
    replication: int,
    duration: str | None,
    as_json: bool,
) -> None:
    """Write a simulated run of a SCENARIO as the text of perf script, which fpswitch replay, fit and timeline read.

    The run is that of a replication of fpswitch run with the same seed, including the warm-up; every VM exit is an
    event of its own. What leaves no event in Linux (what guests do with their shadow stacks, which components are
    written, returns to user mode without a restore, kernel_fpu_begin(), start and end of the measurement) is in comment
    lines that begin with "# fpswitch". So if host.buffer_level is L1, as in a replay, replay counts the same operations
    as the run for every strategy.

    With --json: output, case, strategy, replication, events.

    \b
    Examples:
      fpswitch export rfc-question --duration "20 ms" -o run.txt
      fpswitch replay run.txt --cpu sapphire-rapids
    """
    from sim.analysis.recorded_run import RecordedRun
    from sim.cli.simulated import choose

    check_output(output, force)
    shown = choose(scenario, settings, case, strategy, replication, duration, timed=True)
    exported = RecordedRun(*shown)
    with whole(output) as out:
        for line in exported.lines():
            out.write(line.encode() + b"\n")
    document: dict[str, Any] = {
        "output": str(output),
        "case": shown.case.name,
        "strategy": shown.strategy,
        "replication": shown.replication,
        "events": exported.events,
    }
    text = f"{output}: {exported.events} events of {shown.case.name}, timed by {shown.strategy}"
    emit_of_file(output, document, text, as_json)
