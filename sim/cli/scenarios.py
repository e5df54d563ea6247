"""``fpswitch scenarios`` and ``fpswitch new``: the shipped scenarios, and a new one to start from."""

import textwrap
from importlib.resources import files
from pathlib import Path

import click

from sim.cli.common import emit, json_option, kernel_name
from sim.errors import InputError
from sim.scenario.shipped import Shipped, catalogue

WIDTH = 72


@click.command()
@json_option
def scenarios(as_json: bool) -> None:
    """List the shipped scenarios: what each asks, and how long it takes on two cores.

    Every command that takes a scenario, and extends in a scenario file, accepts these names.

    With --json: {"scenarios": [{"name", "question", "seconds"}]}.

    \b
    Examples:
      fpswitch scenarios
      fpswitch show rfc-question
    """
    found = catalogue()
    emit({"scenarios": [each._asdict() for each in found]}, _text(found), as_json)


@click.command()
@click.argument("file", metavar="FILE.toml")
@click.option(
    "--perf-kvm-stat", metavar="TABLE", help="Take guests from the text of perf kvm stat report: exits and halts."
)
@click.option("--rt-app", metavar="WORKLOAD", help="Take threads from the JSON of an rt-app workload.")
@click.option("--duration", metavar="TIME", help="How long perf recorded, if TABLE does not say.")
@click.option("--vcpus", type=click.IntRange(1, 65536), metavar="N", help="vCPUs in TABLE; default: one.")
@click.option("--cpu", metavar="NAME|FILE", help="With TABLE: the CPU profile; default: by its exit reasons.")
@click.option("--kernel", callback=kernel_name, metavar="NAME", help="With TABLE: the kernel; default: v6.18.")
@json_option
def new(
    file: str,
    perf_kvm_stat: str | None,
    rt_app: str | None,
    duration: str | None,
    vcpus: int | None,
    cpu: str | None,
    kernel: str | None,
    as_json: bool,
) -> None:
    """Write a scenario to start from: small, complete, with comments that say what to change.

    With --perf-kvm-stat, its guests have the exits that perf counted, with the frequency and time of each reason, and
    the halts. The time that vCPUs did not spend in exits counts as time in their guests, so for a table that sums up
    several vCPUs their number is needed.

    With --rt-app, its threads are the tasks of the workload: bursts of CPU time, the sleeps after them, their number,
    nice value and CPUs. What tasks do to each other is left out, and the output says so.

    With --json: {"file"}, and with --perf-kvm-stat or --rt-app "notes".

    \b
    Examples:
      fpswitch new my-host.toml && fpswitch run my-host.toml
      fpswitch new my-host.toml --perf-kvm-stat report.txt --duration "10 s" --vcpus 4
      fpswitch new my-threads.toml --rt-app workload.json
    """
    if not file.endswith(".toml"):
        raise InputError(f"FILE: found {file!r}; allowed: the path of a file that ends in .toml")
    what_next = f"{file}: edit it, check it (fpswitch show {file}), run it (fpswitch run {file})"
    if perf_kvm_stat is not None and rt_app is not None:
        raise InputError("--perf-kvm-stat and --rt-app both say what runs: leave one of them out")
    if perf_kvm_stat is not None:
        notes = _from_table(file, perf_kvm_stat, duration, vcpus, cpu, kernel)
        text = "\n".join([*(f"note: {each}" for each in notes), what_next])
        emit({"file": file, "notes": notes}, text, as_json)
        return
    for option, value in (("--duration", duration), ("--vcpus", vcpus), ("--cpu", cpu), ("--kernel", kernel)):
        if value is not None:
            raise InputError(f"{option} goes with --perf-kvm-stat, which is not given")
    if rt_app is not None:
        notes = _from_workload(file, rt_app)
        emit({"file": file, "notes": notes}, "\n".join([*(f"note: {each}" for each in notes), what_next]), as_json)
        return
    template = (files("sim.scenario") / "new.toml").read_text(encoding="utf-8")
    try:
        with Path(file).open("x", encoding="utf-8") as stream:
            stream.write(template)
    except FileExistsError as error:
        raise InputError(f"{file!r} already exists; allowed: a new file") from error
    except (OSError, ValueError) as error:  # the latter for a null character
        raise InputError(f"cannot write {file!r}: {getattr(error, 'strerror', None) or error}") from error
    emit({"file": file}, what_next, as_json)


def _from_workload(file: str, workload: str) -> list[str]:
    """Writes the scenario of a workload of rt-app; what is left out of it."""
    from sim.trace.fit import of_rt_app
    from sim.trace.fit.writing import samples_of, store

    found = of_rt_app.tasks(workload)
    text, columns = of_rt_app.scenario_text(found, workload, samples_of(Path(file)).name)
    store(text, columns, Path(file), workload)
    return [f"{task.name}: {note}" for task in found for note in task.notes]


def _from_table(
    file: str, table: str, duration: str | None, vcpus: int | None, cpu: str | None, kernel: str | None
) -> list[str]:
    """Writes the scenario of a table of perf kvm stat; what is assumed of it."""
    from sim.cli.price import parse_time
    from sim.trace.fit import exits_writing, of_kvm_stat
    from sim.trace.reading.perf_kvm_stat import read

    seconds = parse_time("--duration", duration)
    fitted = of_kvm_stat.fit(read(table), table, seconds=seconds, vcpus=vcpus, cpu=cpu, kernel=kernel)
    exits_writing.write(fitted, Path(file))
    return list(fitted.notes)


def _text(found: list[Shipped]) -> str:
    names = max(len(each.name) for each in found)
    lines = []
    for each in found:
        head = f"{each.name:<{names}} {each.seconds:>5} s  "
        lines += textwrap.wrap(each.question, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    return "\n".join(lines)
