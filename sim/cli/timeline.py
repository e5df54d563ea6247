"""``fpswitch timeline``: a recorded trace or a simulated run, drawn for the Perfetto UI."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import click
from click.core import ParameterSource

from sim.cli.common import emit_of_file, json_option, set_option
from sim.cli.replay import costs_option, cpu_option, kernel_option, opened, prices
from sim.errors import InputError, unknown
from sim.scenario.shipped import names

OF_TRACES = ("cpu", "costs", "kernel", "guest")
OF_SCENARIOS = ("settings", "case", "replication", "duration")


out_option = click.option(
    "-o",
    "--out",
    "--output",
    "output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write.",
)


@click.command()
@click.argument("source", metavar="TRACE|SCENARIO")
@out_option
@click.option("--force", is_flag=True, help="Overwrite it.")
@click.option(
    "--strategy",
    metavar="NAME",
    help="Whose operations to draw; default: those of the recorded kernel; for a scenario xstate-guest, or the "
    "reference if the case does not have it.",
)
@cpu_option
@costs_option
@kernel_option
@click.option(
    "--guest",
    metavar="FILE",
    help=("For a merged report of trace-cmd: also draw who runs on the CPUs of this guest's file."),
)
@click.option("--case", metavar="NAME", help="Of a scenario (fpswitch show lists them); default: the first.")
@click.option(
    "--replication", metavar="N", type=int, default=0, show_default=True, help="Of a scenario, as in fpswitch run."
)
@click.option(
    "--duration",
    metavar="TIME",
    default="20 ms",
    show_default=True,
    help="For a scenario: how much to draw, from the end of its warm-up.",
)
@set_option
@json_option
@click.pass_context
def timeline(context: click.Context, /, source: str, output: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Write a recorded TRACE, or a simulated run of a SCENARIO, as a Perfetto trace, to open at https://ui.perfetto.dev.

    Each CPU has a track that shows who runs and one with the FPU and MSR operations of the kernel model and their
    masks; each vCPU thread has one that shows whether it runs its guest, is in KVM (exit), in the VMM, blocked, woken
    or preempted.

    TRACE is as for fpswitch replay; - is standard input. Operations start at the event in which they ran, one after
    the other. Their width is their price if --cpu names a cost table and the trace its TSC frequency; otherwise it
    means nothing.

    A SCENARIO is a file whose name ends in .toml, or the name of a shipped one. The beginning of the measurement of a
    replication of fpswitch run is drawn, with the same seed: every VM exit and every operation, at its place and with
    its price in simulated time, including the software cost of a context switch and of KVM_RUN.

    With --json: output, records; of a trace also notes; of a scenario also case, strategy, replication, begin_ns,
    end_ns.

    \b
    Examples:
      fpswitch timeline trace.txt.gz --cpu zen4 -o run.pftrace
      fpswitch timeline overcommit --strategy manual-load --duration "5 ms" -o run.pftrace
    """
    simulated = source.endswith(".toml") or source in names()
    _check_options(context, simulated)
    if not simulated and source != "-" and not Path(source).exists():
        raise unknown("trace or scenario", source, names())
    check_output(output, force)
    if simulated:
        document = _draw_scenario(source, output, **{each: options[each] for each in ("strategy", *OF_SCENARIOS)})
    else:
        document = _draw_trace(source, output, **{each: options[each] for each in ("strategy", *OF_TRACES)})
    what = f" of {document['case']}, {document['strategy']}" if simulated else ""
    text = [*(f"note: {note}" for note in document.get("notes", ())), f"{output}: {document['records']} records{what}"]
    emit_of_file(output, document, "\n".join(text), as_json)


def _check_options(context: click.Context, simulated: bool) -> None:
    foreign, own = (OF_TRACES, OF_SCENARIOS) if simulated else (OF_SCENARIOS, OF_TRACES)
    why = "a scenario has that itself" if simulated else "that is for scenarios, whose names end in .toml"
    what = "a scenario" if simulated else "a trace"
    allowed = ", ".join(_option(name) for name in ("strategy", *own))
    for name in foreign:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise InputError(f"{_option(name)}: {why}; allowed with {what}: {allowed}")


def _option(name: str) -> str:
    return "--set" if name == "settings" else f"--{name}"


def _draw_scenario(
    scenario: str,
    output: Path,
    strategy: str | None,
    settings: Sequence[str],
    case: str | None,
    replication: int,
    duration: str,
) -> dict[str, Any]:
    from sim.cli.simulated import begin_ns, choose, end_ns, records
    from sim.trace.timeline import write

    shown = choose(scenario, settings, case, strategy, replication, duration)
    with whole(output) as out:
        count = write(records(shown), out, end_ns(shown))
    return {
        "output": str(output),
        "records": count,
        "case": shown.case.name,
        "strategy": shown.strategy,
        "replication": shown.replication,
        "begin_ns": begin_ns(shown),
        "end_ns": end_ns(shown),
    }


def _draw_trace(
    trace: str,
    output: Path,
    strategy: str | None,
    cpu: str | None,
    costs: str | None,
    kernel: str | None,
    guest: str | None,
) -> dict[str, Any]:
    from itertools import chain

    from sim.trace.following.watching import records
    from sim.trace.guest_lines import records as guest_records
    from sim.trace.timeline import write

    if guest is not None and trace == "-":
        raise InputError("--guest reads the report twice, and standard input is read once: name a file")
    cost_table = prices(cpu, costs)
    with opened(trace) as (stream, name), whole(output) as out:
        notes: list[str] = []
        drawn = records(stream, name, cpu=cpu, kernel=kernel, strategy=strategy, costs=cost_table, notes=notes)
        if guest is None:
            count = write(drawn, out)
        else:
            with opened(trace) as (again, _):
                count = write(chain(drawn, guest_records(again, name, guest)), out)
    return {"output": str(output), "records": count, "notes": notes}


def check_output(path: Path, force: bool) -> None:
    """Raises :class:`~sim.errors.InputError` if the file exists and may not be overwritten, or is a directory."""
    from sim.results import files

    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory; allowed: the name of a file")
    try:
        if path.exists() and not force and not files.is_stream(path):
            raise InputError(f"{path} already exists; --force overwrites it")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream as of :func:`sim.results.files.whole`; raises :class:`~sim.errors.InputError` if there is none."""
    from sim.results import files

    with ExitStack() as stack:
        try:
            stream = stack.enter_context(files.whole(path))
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        yield stream
