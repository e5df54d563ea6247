"""``fpswitch replay``: a recorded trace of a real host, checked and priced."""

import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from sim.cli.common import WIDTH, counting_events, emit, json_option, kernel_name, table
from sim.errors import InputError
from sim.kinds import Kind, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.costs.rows import CostTable
    from sim.results.replayed import ReplayDirectory
    from sim.trace.following.replay import Replayed
    from sim.trace.whatif import Priced

SHOWN = 20
ENOUGH = 0.999
"""The agreement below which ``replay --check`` says that the check did not hold."""
INFERRED = 0.005
"""The share of events that may be inferred without being signals."""

cpu_option = click.option(
    "--cpu",
    metavar="NAME|FILE",
    help="A CPU profile (fpswitch cpu), and its cost table; default: the recorded machine, without prices.",
)
costs_option = click.option(
    "--costs", metavar="TABLE", help="The cost table that prices --cpu, a name or a file; default: its own."
)
kernel_option = click.option(
    "--kernel",
    callback=kernel_name,
    metavar="NAME",
    help=("Run on this kernel (fpswitch kernels) instead of the recorded one; the check always uses the recorded one."),
)


@contextmanager
def opened(trace: str) -> "Iterator[tuple[IO[bytes], str]]":
    """The stream of a trace, and what errors call it; perf.data and trace.dat are printed by their own tools."""
    if trace == "-":
        yield sys.stdin.buffer, "standard input"
        return
    from sim.trace.reading.recorded import command, printed

    try:
        words = command(Path(trace))
        with Path(trace).open("rb") if words is None else printed(words) as stream:
            yield stream, trace
    except OSError as error:
        with wanted(trace, Kind.TRACE):
            raise InputError(f"cannot read {trace}: {error.strerror}") from error


def prices(cpu: str | None, costs_name: str | None) -> "CostTable | None":
    """The table that prices a CPU: the one named, or the CPU's own; none without a CPU."""
    from sim.costs.table import load_for
    from sim.xsave.profiles import profile

    if cpu is None:
        if costs_name is not None:
            raise InputError("--costs prices a CPU: give --cpu NAME, or FILE")
        return None
    return load_for(profile(cpu).name, costs_name)


@click.command()
@click.argument("trace")
@cpu_option
@costs_option
@kernel_option
@click.option(
    "--strategies",
    metavar="LIST",
    help=("Names or files, separated by commas; default: all that are possible on the CPU."),
)
@click.option(
    "--reference",
    default="free-ssp",
    show_default=True,
    metavar="STRATEGY",
    help=("The strategy that the others are compared with; it always runs."),
)
@click.option(
    "--guest-ssp",
    default="constant",
    show_default=True,
    metavar="USE",
    help="What guests do with PL0-2_SSP: none, constant (written once) or rewritten (each time they run).",
)
@click.option(
    "--touched",
    default="common",
    show_default=True,
    metavar="SET",
    help="Components in use that are written in each run: common (SSE, AVX), all, or changed (none).",
)
@click.option("--check", "check_only", is_flag=True, help="Check the trace and do nothing else.")
@click.option("--exits", "exits_only", is_flag=True, help="Show only the VM exits; the trace needs only KVM's events.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the ledger and the check to this directory: empty, or an earlier replay's.",
)
@json_option
def replay(
    trace: str,
    cpu: str | None,
    costs: str | None,
    kernel: str | None,
    strategies: str | None,
    reference: str,
    guest_ssp: str,
    touched: str,
    check_only: bool,
    exits_only: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Replay a recorded TRACE on the kernel model: check it, and price every strategy on its schedule.

    TRACE is the text of perf script, of ftrace's trace file or of trace-cmd report, plain or compressed (gzip, xz,
    bzip2, zstd), or a perf.data or trace.dat file, which perf or trace-cmd then prints; - is standard input.

    The check explains every x86_fpu event or says which rule of the kernel it contradicts
    (docs/reference/trace-rules.md). Exit status 1 if fewer than 99.9 % of the events agree, or if more than 0.5 % of
    them are restores that only kernel_fpu_begin() or a task outside the recording would explain.

    With --exits, and for a trace that has no other events, KVM's events are enough: the output has KVM_RUN round trips,
    exits by reason with the time in the guest before each and the time until the next entry, halts, and what such a
    trace does not show.

    What-if: all strategies run on the recorded schedule. Amounts are per vCPU-second, or per CPU-second if the trace
    has no vCPUs, as in fpswitch run. Without --cpu, masks are the trace's and nothing is priced.

    With --json and --check: events, explained, inferred, agreement, by_kind, unexplained (line, event, rule, likely),
    notes. With --exits: seconds, vcpus, round_trips, entries, exits, to_user_space, reasons (by name: exits,
    per_second, to_user_space, guest_ns, handler_ns, outside_ns), user_space_reasons, halts, halted_ns, not_said,
    notes.
    Without: trace (what was read), machine, check, per (what, number, and their seconds in all: what the text divides
    by), and strategies (by name: operations, cycles_per_second, difference; per second of the trace).

    \b
    Example:
      fpswitch replay trace.txt.gz --cpu zen4 --strategies free-ssp,xstate-guest,manual-load
    """
    if exits_only:
        if check_only or cpu or strategies or out is not None:
            raise InputError("--exits shows the exits alone: leave out --check, --cpu, --strategies and --out")
        _show_exits(trace, as_json)
        return
    from sim.kernel.strategies import strategy as find_strategy
    from sim.report.what_if import per
    from sim.results.replayed import ReplayDirectory
    from sim.trace import whatif
    from sim.trace.following.replay import KvmAlone, Recorded
    from sim.trace.following.replay import replay as run
    from sim.trace.following.replica import Replica

    named = tuple(each for each in (strategies or "").split(",") if each)
    called = find_strategy(reference).name
    choices = whatif.Choices(cpu, kernel, named, guest_ssp, touched, reference)  # type: ignore[arg-type]  # checked there
    cost_table = None if check_only else prices(cpu, costs)
    made: dict[str, Replica] = {}

    def make(recorded: Recorded) -> list[Replica]:
        made.update({} if check_only else whatif.replicas(recorded, choices))
        return list(made.values())

    kept = ReplayDirectory(out) if out is not None else None
    if kept is not None:
        click.get_current_context().call_on_close(kept.close)
    try:
        with opened(trace) as (stream, name):
            result = run(stream, name, progress=counting_events, make_replicas=make)
    except KvmAlone:
        if trace == "-" or check_only or cpu or strategies or out is not None:  # a stream is read once
            raise
        _show_exits(trace, as_json)
        return
    results = whatif.priced(made, cost_table)
    check = result.verdict.document()
    document: dict[str, Any] = {**check, "notes": result.recorded.notes}
    if not check_only:
        document = {
            "trace": _read_document(result, name),
            "machine": _machine(result, results, cpu, cost_table),
            "check": check,
            "per": per(result)._asdict(),
            "strategies": whatif.document(results, result, called),
        }
    if kept is not None:
        _write(kept, document, results, name)
    text = _text(result, name)
    if not check_only:
        text += "\n\n" + _what_if_text(results, result, called, cpu, cost_table)
    emit(document, text, as_json)
    sys.exit(0 if _holds(result) else 1)


def _show_exits(trace: str, as_json: bool) -> None:
    from sim.trace.exits import exits

    with opened(trace) as (stream, name):
        found = exits(stream, name, counting_events)
    document = found.document()
    rows = []
    for reason, each in document["reasons"].items():
        times = (each["guest_ns"], each["handler_ns"], each["outside_ns"])
        rate = "-" if each["per_second"] is None else f"{each['per_second']:.0f}"
        rows.append([reason, each["exits"], rate, each["to_user_space"], *map(_microseconds, times)])
    lines = [
        f"{name}: {len(found.vcpus)} vCPU threads in {found.seconds:.6f} s; {found.round_trips} KVM_RUN round trips, "
        f"{document['entries']} VM entries, {found.exits} VM exits, of which {document['to_user_space']} to user space",
        "",
        table(rows, ["reason", "exits", "exits/s", "to user space", "guest before", "until entry", "outside"]),
        "",
        "times: mean and 99th percentile in us; until entry: of exits that KVM handled itself",
        f"halts: {found.halts}"
        + "".join(f"; {how}: {_microseconds(times)}" for how, times in document["halted_ns"].items()),
        *(f"not said: {each}" for each in found.unsaid),
        *found.notes,
    ]
    emit(document, "\n".join(lines), as_json)


def _microseconds(times: dict[str, float] | None) -> str:
    return "-" if times is None else f"{times['mean'] / 1000:.1f} / {times['p99'] / 1000:.1f}"


def _holds(result: "Replayed") -> bool:
    verdict = result.verdict
    return verdict.agreement >= ENOUGH and _doubtful(result) <= max(3, INFERRED * verdict.events)


def _doubtful(result: "Replayed") -> int:
    return sum(count for kind, count in result.verdict.inferred.items() if kind != "signal")


def _read_document(result: "Replayed", name: str) -> dict[str, Any]:
    report = result.report
    return {
        "name": name,
        "lines": report.lines,
        "seconds": result.seconds,
        "cpus": sorted(report.cpus),
        "events": dict(sorted(report.events.items())),
        "other_events": report.others.total(),
        "foreign_lines": report.foreign,
        "truncated": report.truncated,
        "lost": {"times": report.lost_times, "events": report.lost_events},
        "recordings": report.recordings,
        "steps_back": report.steps_back,
        "out_of_order": report.out_of_order,
        "notes": result.recorded.notes,
    }


def _machine(result: "Replayed", results: "list[Priced]", cpu: str | None, costs: "CostTable | None") -> dict[str, Any]:
    masks = result.recorded.config.masks
    return {
        "kernel": result.recorded.config.version.name,
        "max_features": f"{masks.max_features:#x}",
        "normal": f"{masks.host_default:#x}",
        "guest": f"{masks.guest_default:#x}",
        "tsc_hz": result.recorded.header.tsc_hz,
        "what_if_cpu": cpu,
        "cost_table": None if costs is None else costs.name,
        "what_if_max_features": f"{max(map(_enabled, results)):#x}" if results else None,
    }


def _enabled(priced: "Priced") -> int:
    return priced.config.masks.max_features


def _text(result: "Replayed", name: str) -> str:
    report, verdict, recorded = result.report, result.verdict, result.recorded
    masks = recorded.config.masks
    cpus = "one CPU" if len(report.cpus) == 1 else f"{len(report.cpus)} CPUs"
    lines = [
        f"{name}: {report.events.total()} events on {cpus} in {result.seconds:.3f} s; "
        f"followed as Linux {recorded.config.version.name}, fpstates {masks.host_default:#x}, guests' "
        f"{masks.guest_default:#x}",
        *_amiss(result),
        "",
        f"{verdict.events} x86_fpu events: {verdict.explained.total()} explained, {verdict.inferred.total()} inferred, "
        f"{verdict.events - verdict.explained.total() - verdict.inferred.total()} unexplained; "
        f"agreement {verdict.agreement:.3%}",
    ]
    for what, counts in (
        ("explained", verdict.explained),
        ("inferred", verdict.inferred),
        ("assumed between events", verdict.assumed),
    ):
        if counts := +counts:
            lines.append(f"  {what}: " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
    if verdict.contradictions:
        from sim.trace.following.rules import RULES

        lines.append("")
        for found in verdict.contradictions[:SHOWN]:
            lines.append(f"line {found.line}, {found.event}: {found.likely}")
            rule = RULES[found.rule]
            lines.append(f"    rule {found.rule}: {rule.says}")
            lines.append(f"    ({rule.source})")
        if verdict.found > SHOWN:
            lines.append(f"and {verdict.found - SHOWN} more contradictions")
    if _doubtful(result) > max(3, INFERRED * verdict.events):
        lines.append(
            f"{_doubtful(result)} inferred restores are more than {INFERRED:.1%} of the events: either the kernel uses "
            "the FPU itself a lot (crypto, RAID), or events are missing"
        )
    return "\n".join(map(_fitted, lines))


def _amiss(result: "Replayed") -> list[str]:
    report, recorded = result.report, result.recorded
    lines = [f"note: {note}" for note in recorded.notes]
    if recorded.partial:
        lines.append("note: not all CPUs of the machine are in the recording; what ran there is unknown")
    lines.extend(report.amiss())
    return lines


def _what_if_text(
    results: "list[Priced]", result: "Replayed", reference: str, cpu: str | None, costs: "CostTable | None"
) -> str:
    from sim.report.what_if import per, table
    from sim.xsave.profiles import profile

    over = per(result)
    recorded = result.recorded.config.masks.max_features
    where = "on the recorded machine (--cpu NAME prices them)"
    if cpu and costs:
        where = f"on {cpu}" + ("" if costs.name == cpu else f", at the prices of {costs.name} ({costs.title})")
    text = _fitted(f"What if, on this schedule {where}, per {over.what}-second ({over.number} {over.what}s):")
    lines = [text, *table(results, reference, over, profile(cpu).tsc_hz if cpu else None)]
    most = max(results, key=_enabled, default=None)
    if most and (enabled := most.config.masks.max_features) != recorded:
        lines.append(f"note: {cpu or most.strategy} enables {enabled:#x}, and the recorded machine {recorded:#x}")
    return "\n".join(lines)


def _fitted(line: str) -> str:
    """A line in as many as it takes; those that follow are indented further."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(line, WIDTH, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False)


def _write(out: "ReplayDirectory", document: dict[str, Any], results: "list[Priced]", name: str) -> None:
    import pandas as pd

    rows = [
        (name, each.strategy, 0, *operation, count, cycles)
        for each in results
        for operation, count, cycles in each.rows
    ]
    columns = ["case", "strategy", "replication", "thread_kind", "phase", "operation", "rfbm", "components"]
    columns += ["initialised", "level", "count", "cycles"]
    ledger = pd.DataFrame(rows, columns=columns)
    ledger["cycles"] = ledger["cycles"].astype("Int64")
    out.write(document, ledger, {"trace": name, "command": sys.argv[1:]})
