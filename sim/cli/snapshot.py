"""`fpswitch snapshot`: a guest saved on one host and restored on another, and what is lost."""

from collections import Counter
from dataclasses import asdict, replace
from textwrap import fill
from typing import Any

import click

from sim.cli.common import by_reason, by_text, emit, json_option, kernel_name, table, wrapped
from sim.cli.kernel_options import mask_option
from sim.kernel.config import Settings
from sim.kernel.snapshot import VMMS
from sim.report import snapshots
from sim.report.snapshots import Outcome, SnapshotRow

VERDICT = 13
"""Columns of a verdict: what five VMMs do fits beside the longest shipped name."""


@click.command()
@click.option("--cpu", default="sapphire-rapids", show_default=True, metavar="NAME|FILE",
              help="Where the guest is saved: a CPU profile (fpswitch cpu).")  # fmt: skip
@click.option(
    "--kernel",
    metavar="NAME",
    callback=kernel_name,
    default="v6.18",
    show_default=True,
    help="The kernel there: one of fpswitch kernels.",
)
@click.option("--to-cpu", metavar="NAME|FILE", help="The CPU on which it is restored; default: the same.")
@click.option("--to-kernel", callback=kernel_name, metavar="NAME", help="The kernel there; default: the same.")
@click.option("--strategy", "names", metavar="NAME|FILE", multiple=True, help="Only this one. May be repeated.")
@click.option("--to-strategy", metavar="NAME|FILE", help="The strategy there; default: the same.")
@click.option("--carried", default="cet-s", show_default=True, metavar="NAME|FILE",
              help="The carried state: shipped, or a TOML file.")  # fmt: skip
@click.option("--guest-xss", callback=mask_option, metavar="MASK", help="The guest's IA32_XSS; default: all of CET.")
@click.option(
    "--guest-xcr0", callback=mask_option, metavar="MASK", help="The guest's XCR0; default: all that it may have."
)
@click.option("--no-guest-cet", "guest_cet", flag_value=False, default=True, type=bool, help="The guest has no CET.")
@click.option("--guest-amx", is_flag=True, help="The guest has AMX, and a task that uses tiles.")
@click.option("--hypothetical", is_flag=True, help="Allow what needs features that the CPU lacks.")
@click.option(
    "--cost", is_flag=True, help="TSC cycles of saving and restoring, for the VMM that does everything right."
)
@json_option
def snapshot(
    to_cpu: str | None,
    to_kernel: str | None,
    names: tuple[str, ...],
    to_strategy: str | None,
    cost: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Save a guest by KVM's ioctls, restore it on the same host or another, enter it, and show what is lost.

    A guest that has used all its registers and written the carried MSRs is saved by KVM_GET_XSAVE2, KVM_GET_XCRS and
    KVM_GET_MSRS while its vCPU is outside KVM_RUN. On the other host, where another guest has run, the VMM restores it
    in one of five ways, and a busy task runs before KVM_RUN. The integrity check compares at the first entry. Then the
    guest's kernel switches tasks, by an XRSTORS from an area whose XCOMP_BV has all components that the guest knows.

    KVM_GET_XSAVE2 has only user components: whatever carries PL0-2_SSP on the host, the VMM must save them, CET_U and
    IA32_XSS as MSRs.

    With --json: {"from", "to" (each {"cpu", "kernel"}), "vmms": [{"name", "title"}], "rows"}. A row has "strategy",
    "carries" (false: nobody carries the state, so that its loss is not counted), "impossible" (why it cannot be run, or
    null) and "outcomes": [{"vmm", "sound", "verdict", "refused" (ioctls that failed, and why), "findings", "fault" (of
    the guest's own XRSTORS, or null), "saving", "restoring" (operations by name)}]; with --cost also "saving_cost" and
    "restoring_cost": {"cycles", "low", "high"}.

    \b
    Examples:
      fpswitch snapshot
      fpswitch snapshot --to-cpu skylake-sp --guest-xcr0 0x7
      fpswitch snapshot --strategy xstate-guest --to-kernel v6.12 --to-strategy no-cet
    """
    source = Settings(**options)
    target = replace(
        source, cpu=to_cpu or source.cpu, kernel=to_kernel or source.kernel, guest_xcr0=None, guest_xss=None
    )
    rows = snapshots.rows(source, target, names, to_strategy)
    document = {
        "from": {"cpu": source.cpu, "kernel": source.kernel},
        "to": {"cpu": target.cpu, "kernel": target.kernel},
        "vmms": [{"name": vmm.name, "title": vmm.title} for vmm in snapshots.vmms(source)],
        "rows": [_row(row, (options["cpu"], to_cpu or options["cpu"]) if cost else ()) for row in rows],
    }
    emit(document, _text(document, rows, cost), as_json)


def _row(row: SnapshotRow, cpus: tuple[str, ...]) -> dict[str, Any]:
    return {
        "strategy": row.strategy,
        "carries": row.carries,
        "impossible": row.impossible or None,
        "outcomes": [_outcome(outcome, cpus) for outcome in row.outcomes],
    }


def _outcome(outcome: Outcome, cpus: tuple[str, ...]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "vmm": outcome.vmm.name,
        "sound": outcome.sound,
        "verdict": outcome.verdict,
        "refused": list(outcome.refused),
        "findings": [asdict(each) for each in outcome.findings],
        "fault": outcome.fault or None,
        "saving": dict(Counter(op.operation for op in outcome.saving)),
        "restoring": dict(Counter(op.operation for op in outcome.restoring)),
    }
    if cpus:
        from sim.analysis.price_flow import flow_cost
        from sim.costs.table import load

        for what, cpu, operations in (("saving", cpus[0], outcome.saving), ("restoring", cpus[1], outcome.restoring)):
            document[f"{what}_cost"] = flow_cost(operations, load(cpu)).whole._asdict()
    return document


def _text(document: dict[str, Any], rows: list[SnapshotRow], cost: bool) -> str:
    here, there = document["from"], document["to"]
    place = "the same" if here == there else f"{there['cpu']}, Linux {there['kernel']}"
    title = f"A guest saved on {here['cpu']}, Linux {here['kernel']}, and restored on {place}"
    entries = [(row, entry) for row, entry in zip(rows, document["rows"], strict=True) if row.outcomes]
    parts = [title + "\n" + "=" * len(title)]
    if entries:
        parts.append(table([_verdicts(*each) for each in entries], ["strategy", *(vmm.name for vmm in VMMS)]))
    if entries and cost:
        parts.append(table([_costs(*each) for each in entries], ["strategy", "cycles to save", "to restore"]))
    parts.append("\n".join(wrapped(f"{vmm['name']}: {vmm['title']}", "  ") for vmm in document["vmms"]))
    for heading, found in (
        ("An ioctl fails, and the guest is not entered:", _by_text(rows, "refused")),
        ("The guest's next task switch:", _by_text(rows, "fault")),
        ("Lost, or left where it does not belong:", _by_text(rows, "findings")),
        ("Not run:", by_reason((row.strategy, row.impossible) for row in rows if row.impossible)),
    ):
        if found:
            lines = (wrapped(f"{text} ({_few(who)})", "  ") for text, who in found.items())
            parts.append("\n".join([heading, *lines]))
    if any(not row.carries for row in rows):
        parts.append("* nobody carries the state there, so its loss is not counted")
    return "\n\n".join(parts)


def _by_text(rows: list[SnapshotRow], what: str) -> dict[str, list[str]]:
    pairs = []
    for row in rows:
        for outcome in row.outcomes:
            texts = {
                "refused": outcome.refused,
                "fault": (outcome.fault,) if outcome.fault else (),
                "findings": tuple(f"{each.kind}: {each.what} of {each.who}" for each in outcome.findings),
            }[what]
            pairs += [(f"{outcome.vmm.name} of {row.strategy}", text) for text in texts]
    return by_text(pairs)


def _few(who: list[str]) -> str:
    """The strategies of each VMM, and how many if there are more than a few."""
    by_vmm: dict[str, list[str]] = {}
    for each in dict.fromkeys(who):
        vmm, _, strategy = each.partition(" of ")
        by_vmm.setdefault(vmm, []).extend([strategy] if strategy else [])
    texts = ((vmm, ", ".join(them) if len(them) < 4 else f"{len(them)} strategies") for vmm, them in by_vmm.items())
    return "; ".join(
        ": ".join(filter(None, ("always" if len(vmms) == len(VMMS) else ", ".join(vmms), text)))
        for text, vmms in by_text(texts).items()
    )


def _verdicts(row: SnapshotRow, entry: dict[str, Any]) -> list[str]:
    return [_name(row), *(fill(each["verdict"], VERDICT) for each in entry["outcomes"])]


def _costs(row: SnapshotRow, entry: dict[str, Any]) -> list[str]:
    return [_name(row), *(str(entry["outcomes"][0][f"{what}_cost"]["cycles"]) for what in ("saving", "restoring"))]


def _name(row: SnapshotRow) -> str:
    return row.strategy if row.carries else f"{row.strategy} *"
