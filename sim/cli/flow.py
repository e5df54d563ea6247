"""`fpswitch flow`: the operations of a named sequence, in kernel order, and why."""

from collections import Counter
from dataclasses import asdict
from textwrap import fill
from typing import Any, get_args

import click

from sim.cli.common import by_reason, emit, json_option, kernel_name, table, wrapped
from sim.cli.kernel_options import guest_options, kernel_options, take_mitigations
from sim.errors import InputError, unknown

ALL_RFC_TESTS = "rfc-tests"
MASKED = ("XSAVES", "XSAVE", "XRSTORS", "XRSTOR")


def parse_patches(context: click.Context, parameter: click.Parameter, value: str | None) -> frozenset[int] | None:
    """Patch numbers given as 1-3,5."""
    from sim.report.patch_tables import parse_subset

    return None if value is None else parse_subset(value)


@click.command()
@click.argument("name", metavar="FLOW")
@click.option("--strategy", default="xstate-guest", show_default=True, metavar="NAME|FILE",
              help="A shipped strategy (fpswitch strategies), or a TOML file.")  # fmt: skip
@click.option("--cpu", default="sapphire-rapids", show_default=True, metavar="NAME|FILE",
              help="A CPU profile (fpswitch cpu).")  # fmt: skip
@click.option("--kernel", callback=kernel_name, default="v6.18", show_default=True, metavar="NAME",
              help="A kernel (fpswitch kernels).")  # fmt: skip
@click.option("--carried", default="cet-s", show_default=True, metavar="NAME|FILE",
              help="The carried state: shipped, or a TOML file.")  # fmt: skip
@click.option(
    "--patches", callback=parse_patches, metavar="LIST", help="The RFC's patches to apply (kernel rfc): 1-3,5."
)
@guest_options
@click.option(
    "--guest-ssp",
    type=click.Choice(["none", "wrmsr", "xrstors", "rewritten"]),
    default="wrmsr",
    show_default=True,
    help=(
        "How the guest writes PL0-2_SSP: not at all, once by WRMSR, only by its own XRSTORS, or new values in each run."
    ),
)
@click.option(
    "--reason",
    default="wrmsr-tsc-deadline",
    show_default=True,
    metavar="EXIT",
    help="Which exit the flow fastpath-exit takes.",
)
@click.option(
    "--guest-xrstors", is_flag=True, help="While the guest runs, its kernel executes XRSTORS (a task switch)."
)
@click.option("--guest-amx", is_flag=True, help="The guest has AMX, and its kernel writes IA32_XFD at boot.")
@click.option("--guest-tiles", is_flag=True, help="The guest runs a task that uses AMX tiles (with --guest-amx).")
@kernel_options
@click.option("--no-init-optimisation", is_flag=True, help="A CPU whose XINUSE is always 1.")
@click.option("--no-modified-optimisation", is_flag=True, help="A CPU whose XMODIFIED is always 1.")
@click.option(
    "--vm-transition-clears-xrstor-info",
    is_flag=True,
    default=None,
    help="A CPU on which VM entry and VM exit clear XRSTOR_INFO.",
)
@click.option("--hypothetical", is_flag=True, help="Allow what needs features that the CPU lacks.")
@click.option("--cost", is_flag=True, help="Price each operation, with its range and the cost rows behind it.")
@click.option("--costs", metavar="TABLE", help="The cost table for --cost, shipped or a TOML file; default: the CPU's.")
@click.option("--every-strategy", is_flag=True, help="Show only the verdict of the integrity check, for each strategy.")
@click.option("--trace/--no-trace", default=True, show_default=True, help="Show tracepoints between the operations.")
@json_option
def flow(
    name: str, cost: bool, costs: str | None, trace: bool, every_strategy: bool, as_json: bool, **options: Any
) -> None:
    """Show the operations of FLOW, in kernel order, and why they run.

    \b
    FLOW is one of
      preempt          a vCPU is preempted by a busy user task and comes back
      kernel-preempt   the same by a kernel thread
      vcpu-switch      two vCPUs share a CPU
      migrate          a vCPU is preempted and continues on another CPU
      halt             HLT, idle, wake-up
      halt-c6          the same, and the CPU idles in C6, which releases a guest's tiles (--guest-tiles)
      in-kernel-exit   an exit that KVM handles while the vCPU keeps its CPU
      fastpath-exit    one that some kernels handle in the fastpath
      userspace-exit   an exit to the VMM, and KVM_RUN again
      short-ioctl      another vCPU ioctl, preempted, and KVM_RUN
      signal           a signal to a vCPU that is scheduled out
      init             an INIT and a SIPI of the guest's CPU
      kernel-fpu       kernel_fpu_begin() in an interrupt
      ping-pong        two user tasks, no vCPU
      fork             a user task forks
    or what one of the RFC's tests does to registers (rfc-tests: all of them, with --every-strategy)
      test-fpu         a system call computes with the FPU
      amx-64           two tasks with tiles, and a child
      amx-test         a guest with tiles, saved and restored
      state-test       a guest saved and restored beside another
      smm-test         a guest in SMM, saved and restored there
      ssp-test         PL0-2_SSP of two guests, read and written by guest and VMM

    V and W are vCPU threads, A, B and N are busy user tasks, K is a kernel thread.

    For a save, "initial" components were skipped by the init optimisation and "unmodified" ones by the modified
    optimisation; for a restore, "initialised" ones were set to their initial configuration.

    The integrity check reports wrong-value (a task or guest gets a value that is not its own), guest-to-guest (one that
    another guest wrote), foreign-in-fpstate (an fpstate holds a value that is not its owner's) and residue (a guest's
    value in a register that nobody uses, which is not a violation). Findings do not change the exit status.

    With --cost it shows the TSC cycles of each operation, with all buffers in L1 and each cost row at its value and, in
    brackets, at the ends of its range; the weakest grade of the rows (measured, published, derived, assumed); and the
    rows.

    With --json: flow, cpu, kernel, strategy, carried, host_xss, guest_xss, guest_has_cet, hypothetical, patches (the
    RFC's, with notes), steps (step, events), operations (count by name), integrity (violations, kinds), findings,
    warnings. With --cost each operation also has cycles, low, high, grade and rows, and there is totals: cost_table,
    cycles, low, high, by_phase (cycles, low, high), by_grade (cycles). With --every-strategy it is flows, cpu, kernel,
    carried, not_run (sentences) and rows (strategy, carries, refused, verdicts: flow, sound, violations, warnings).

    \b
    Example:
      fpswitch flow preempt --strategy xstate-guest --cpu sapphire-rapids --kernel v6.18
    """
    from sim.kernel.config import Settings
    from sim.kernel.flows import run
    from sim.kernel.scene import GuestUse
    from sim.kernel.versions import Exit

    if (reason := options.pop("reason")) not in get_args(Exit):
        raise unknown("fastpath exit", reason, get_args(Exit))
    use = GuestUse(
        xrstors=options.pop("guest_xrstors"),
        ssp=options.pop("guest_ssp"),
        fastpath_exit=reason,
        tiles=options.pop("guest_tiles"),
    )
    off: dict[str, Any] = {
        f"{what}_optimisation": False for what in ("init", "modified") if options.pop(f"no_{what}_optimisation")
    }
    settings = Settings(mitigations=take_mitigations(options), **off, **options)  # type: ignore[arg-type]
    if name == ALL_RFC_TESTS and not every_strategy:
        raise InputError(f"{name} are several flows, which --every-strategy runs")
    if every_strategy:
        _print_verdicts(name, settings, use, as_json)
        return
    result = run(name, settings, use)
    document = _document(name, result)
    if cost or costs:
        _add_costs(document, result, costs or options["cpu"])
    emit(document, _text(document, trace), as_json)


def _print_verdicts(name: str, settings: Any, use: Any, as_json: bool) -> None:
    from click.core import ParameterSource

    from sim.kernel.selftests import NEEDS_AMX, SELFTESTS
    from sim.report.flow_verdicts import verdicts
    from sim.xsave.profiles import profile

    if click.get_current_context().get_parameter_source("strategy") is ParameterSource.COMMANDLINE:
        raise InputError("--strategy: found beside --every-strategy; allowed: one of them")
    flows, not_run = [name], []
    if name == ALL_RFC_TESTS:
        amx = "AMX_TILE" in profile(settings.cpu).features
        flows = [each for each in SELFTESTS if amx or each not in NEEDS_AMX]
        not_run = [] if amx else [f"{', '.join(NEEDS_AMX)}: {settings.cpu} has no AMX"]
    rows = verdicts(flows, settings, use)
    document = {
        "flows": flows,
        "cpu": settings.cpu,
        "kernel": settings.kernel,
        "carried": settings.carried,
        "not_run": not_run,
        "rows": [asdict(row) for row in rows],
    }
    for row in document["rows"]:
        row["refused"] = row["refused"] or None
        for verdict in row["verdicts"]:
            verdict["sound"] = not verdict["violations"]
    emit(document, _verdicts_text(document, rows), as_json)


def _verdicts_text(document: dict[str, Any], rows: list[Any]) -> str:
    """A table of strategies and flows, then what was found where, each once."""
    run = [row for row in rows if not row.refused]
    cells = [
        [row.strategy if row.carries else f"{row.strategy} *", *("sound" if v.sound else "NOT" for v in row.verdicts)]
        for row in run
    ]
    notes = []
    for text, where in _found(run).items():
        by_strategy = (f"{strategy}: {', '.join(flows)}" for strategy, flows in where.items())
        notes.append(f"{text} ({'; '.join(by_strategy)})")
    refused = by_reason((row.strategy, row.refused) for row in rows if row.refused)
    notes += [f"not run: {why} ({', '.join(who)})" for why, who in refused.items()]
    notes += [f"not run: {why}" for why in document["not_run"]]
    if not all(row.carries for row in run):
        notes.append("* nobody carries the state there, so its loss is not counted")
    parts = [
        f"{document['cpu']}, Linux {document['kernel']}, carried: {document['carried']}",
        table(cells, ("strategy", *document["flows"])),
        "\n".join(wrapped(note, "  ") for note in notes),
    ]
    return "\n\n".join(filter(None, parts))


def _found(rows: list[Any]) -> dict[str, dict[str, list[str]]]:
    """What was found, by strategy and flow."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for verdict in row.verdicts:
            for text in (*verdict.violations, *verdict.warnings):
                found.setdefault(text, {}).setdefault(row.strategy, []).append(verdict.flow)
    return found


def _document(name: str, result: Any) -> dict[str, Any]:
    from sim.kernel.integrity import VIOLATIONS

    config = result.kernel.config
    kinds = Counter(finding.kind for _, finding in result.findings)
    return {
        "flow": name,
        "cpu": config.cpu.name,
        "kernel": config.version.name,
        "strategy": config.strategy.name,
        "carried": config.carried.name,
        "host_xss": f"{config.masks.xss:#x}",
        "guest_xss": f"{config.guest_xss:#x}",
        "guest_has_cet": config.guest_has_cet,
        "hypothetical": list(config.hypothetical),
        "patches": config.patched and {"built": sorted(config.patched.patches), "notes": list(config.patched.notes)},
        "steps": [
            {"step": step.name, "events": [_event(cpu, event) for cpu, event in step.events]} for step in result.steps
        ],
        "operations": dict(Counter(op.operation for op in result.operations)),
        "integrity": {"violations": sum(kinds[kind] for kind in VIOLATIONS), "kinds": dict(kinds)},
        "findings": [{"step": step, **asdict(finding)} for step, finding in result.findings],
        "warnings": list(result.warnings),
    }


def _add_costs(document: dict[str, Any], result: Any, table: str) -> None:
    """Cycles and what they rest on, for each operation and for all of them."""
    from sim.analysis.price_flow import flow_cost
    from sim.costs.table import load

    priced = flow_cost(result.operations, load(table))
    lines = iter(priced.lines)
    for step in document["steps"]:
        for event in step["events"]:
            if "operation" in event:
                line = next(lines)
                event |= line.cost._asdict() | {"grade": line.grade, "rows": list(line.rows)}
    document["totals"] = {
        "cost_table": priced.table.name,
        **priced.whole._asdict(),
        "by_phase": {phase: cost._asdict() for phase, cost in priced.by_phase.items()},
        "by_grade": dict(priced.by_grade),
    }


def _event(cpu: int, event: Any) -> dict[str, Any]:
    from sim.kernel.operations import RESTORE_SKIPPED, TracePoint

    if isinstance(event, TracePoint):
        return {"cpu": cpu, "trace": event.event, **event.fields}
    entry: dict[str, Any] = {
        "cpu": cpu,
        "thread_kind": event.thread_kind,
        "phase": event.phase,
        "operation": event.operation,
    }
    if event.operation in MASKED:
        entry |= {
            "rfbm": f"{event.rfbm:#x}",
            "components": f"{event.components:#x}",
            "initialised": f"{event.initialised:#x}",
            "unmodified": f"{event.rfbm & ~event.components & ~event.initialised:#x}",
        }
        entry["why"] = _why(event)
    elif event.operation == RESTORE_SKIPPED:
        entry["why"] = "the registers still hold this thread's state: it is fpregs_owner here and last_cpu is this CPU"
    return entry


def _why(event: Any) -> str:
    from sim.xsave.components import names

    saves = event.operation.startswith("XSAVE")
    unmodified = event.rfbm & ~event.components & ~event.initialised
    parts = [f"{'written' if saves else 'loaded'}: {names(event.components)}"]
    if event.initialised:
        verb = "initial, not written" if saves else "initialised"
        parts.append(f"{verb}: {names(event.initialised)}")
    if unmodified:
        parts.append(f"unmodified, not written: {names(unmodified)}")
    return "; ".join(parts)


def _text(document: dict[str, Any], trace: bool) -> str:
    lines = [
        f"{document['flow']}: {document['strategy']} on {document['cpu']}, Linux {document['kernel']}"
        f" (host XSS {document['host_xss']}, guest XSS {document['guest_xss']})",
        *(f"hypothetical: {note}" for note in document["hypothetical"]),
    ]
    if document["carried"] != "cet-s":
        lines.append(f"carried state: {document['carried']}")
    if not document["guest_has_cet"]:
        lines.append("the guest has no CET")
    if document["patches"]:
        lines.append("RFC patches: " + (", ".join(map(str, document["patches"]["built"])) or "none"))
        lines += [f"  {note}" for note in document["patches"]["notes"]]
    cpus = {event["cpu"] for step in document["steps"] for event in step["events"]}
    for step in document["steps"]:
        lines += ["", step["step"]]
        for event in step["events"]:
            where = f"cpu{event['cpu']} " if len(cpus) > 1 else ""
            if "trace" in event:
                if trace:
                    fields = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("cpu", "trace"))
                    lines.append(f"  {where}~ {event['trace']} {fields}")
                continue
            masks = f" rfbm={event['rfbm'][2:]}" if "rfbm" in event else ""
            line = f"  {where}{event['operation'] + masks:32} [{event['phase']}]"
            lines.append(f"{line:56} {_cost(event)} {event['grade']}" if "grade" in event else line)
            if "why" in event:
                lines += [f"  {where}    {part}" for part in event["why"].split("; ")]
            if "rows" in event:
                rows = f"rests on {', '.join(event['rows'])}"
                lines.append(fill(rows, 100, initial_indent=" " * 8, subsequent_indent=" " * 10))
    counts = ", ".join(f"{n} {operation}" for operation, n in document["operations"].items())
    lines += ["", fill(f"operations: {counts}", 100, subsequent_indent="  ")]
    if "totals" in document:
        lines += _totals(document["totals"])
    kinds = document["integrity"]["kinds"]
    lines.append(
        "integrity: "
        + (", ".join(f"{n} {kind}" for kind, n in kinds.items()) if kinds else "nothing found in this sequence")
    )
    for each in document["findings"]:
        lines.append(f"  {each['kind']} at '{each['step']}': {each['what']} of {each['who']}, cpu {each['cpu']}")
        lines.append(f"    expected {each['expected']}, got {each['got']}")
    lines += [f"WARN: {warning}" for warning in document["warnings"]]
    return "\n".join(lines)


def _cost(entry: dict[str, Any]) -> str:
    return f"{entry['cycles']:6} [{entry['low']} to {entry['high']}]"


def _totals(totals: dict[str, Any]) -> list[str]:
    phases = ", ".join(f"{phase} {_cost(cost).strip()}" for phase, cost in totals["by_phase"].items())
    whole = sum(totals["by_grade"].values())
    grades = ", ".join(f"{100 * part / whole:.0f} % {name}" for name, part in totals["by_grade"].items() if part)
    return [
        f"cost: {_cost(totals).strip()} TSC cycles by {totals['cost_table']}, each row at its ends; {grades}",
        fill(f"by phase: {phases}", 100, subsequent_indent="  ", break_on_hyphens=False),
    ]
