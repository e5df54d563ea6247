"""fpswitch strategies: what each strategy sets up on which kernel."""

import textwrap
from typing import Any

import click

from sim.cli.common import by_reason, by_text, emit, json_option, kernel_name, parse_mask, table, wrapped, yes
from sim.kernel import versions
from sim.report import kernel_tables
from sim.report.kernel_tables import StrategyMasks, StrategyRow
from sim.xsave.profiles import profile

MASKS = (
    "host_xcr0", "host_xss", "normal_save", "normal_restore", "guest_save", "guest_restore", "guest_xcr0", "guest_xss",
)  # fmt: skip
PLAIN = ("swaps_xcr0", "swaps_xss", "kvm_offers_cet", "guest_has_cet", "normal_bytes", "guest_bytes")


@click.command()
@click.option(
    "--kernel", callback=kernel_name, metavar="NAME", help="Only on this kernel (fpswitch kernels); default: on each."
)
@click.option("--cpu", "cpu_name", metavar="NAME|FILE", default="sapphire-rapids", show_default=True,
              help="A CPU profile (fpswitch cpu).")  # fmt: skip
@click.option("--strategy", "names", metavar="NAME|FILE", multiple=True, help="Only this one. May be repeated.")
@click.option("--guest-xss", metavar="MASK", help="IA32_XSS of guests with CET; default: all that KVM offers.")
@click.option(
    "--host-shadow-stacks", metavar="MODE", default="off", show_default=True, help="off, fpstate or return-to-user."
)
@click.option(
    "--hypothetical", is_flag=True, help="Also strategies that need what the CPU lacks, such as MSR lists on AMD."
)
@json_option
def strategies(
    kernel: str | None,
    cpu_name: str,
    names: tuple[str, ...],
    guest_xss: str | None,
    host_shadow_stacks: str,
    hypothetical: bool,
    as_json: bool,
) -> None:
    """Show each strategy on each kernel: masks, IA32_XSS, what KVM offers, and what is hypothetical about the pair.

    A pair that makes no sense is listed with the reason.

    With --json: {"cpu", "guest_xss", "host_shadow_stacks", "rows"}. A row has "kernel", "strategy", "mechanism",
    "title", "refused" (the reason, or null), "hypothetical" (sentences), "unsound" (with these host shadow stacks; a
    sentence, or null); as hexadecimal strings "host_xcr0", "host_xss", "normal_save", "normal_restore", "guest_save",
    "guest_restore" (RFBM of XSAVES and XRSTORS), "guest_xcr0", "guest_xss"; as booleans "swaps_xcr0", "swaps_xss",
    "kvm_offers_cet", "guest_has_cet"; and in bytes "normal_bytes", "guest_bytes". From "host_xcr0" on, all are null in
    a row that is refused.

    \b
    Examples:
      fpswitch strategies --kernel v6.18
      fpswitch strategies --kernel v6.18 --cpu zen4 --guest-xss 0x800
      fpswitch strategies --strategy xstate-guest --strategy manual-load --json
    """
    xss = None if guest_xss is None else parse_mask(guest_xss, "--guest-xss")
    rows = kernel_tables.strategy_rows(
        [kernel] if kernel is not None else (),
        cpu_name,
        names=names,
        guest_xss=xss,
        host_shadow_stacks=host_shadow_stacks,
        hypothetical=hypothetical,
    )
    document = {
        "cpu": cpu_name,
        "guest_xss": None if xss is None else f"{xss:#x}",
        "host_shadow_stacks": host_shadow_stacks,
        "rows": [_strategy_document(row) for row in rows],
    }
    emit(document, _strategies_text(rows, cpu_name), as_json)


def _strategy_document(row: StrategyRow) -> dict[str, Any]:
    masks = row.masks
    return {
        "kernel": row.kernel,
        "strategy": row.strategy,
        "mechanism": row.mechanism,
        "title": row.title,
        "refused": row.refused or None,
        "hypothetical": [*([row.hypothetical] if row.hypothetical else []), *row.overrides],
        "unsound": row.unsound or None,
        **{key: f"{getattr(masks, key):#x}" if masks else None for key in MASKS},
        **{key: getattr(masks, key) if masks else None for key in PLAIN},
    }


def _strategies_text(rows: list[StrategyRow], cpu_name: str) -> str:
    parts = []
    for kernel in dict.fromkeys(row.kernel for row in rows):
        parts.append(_kernel_text(kernel, [row for row in rows if row.kernel == kernel], cpu_name))
    parts.append(
        wrapped(
            "normal, guest: RFBM of XSAVES and XRSTORS of normal and of guest fpstates, and bytes of their areas. XSS "
            "swap: guest and host differ, so KVM writes IA32_XSS at VM entry and at VM exit. KVM CET: whether KVM by "
            'its own rule offers CET to guests; "forced": it does not, and the guest has CET all the same.',
        )
    )
    about = []
    for row in {row.strategy: row for row in rows}.values():
        lines = [row.title]
        lines += [f"hypothetical: {row.hypothetical}"] if row.hypothetical else []
        lines += [f"UNSOUND: {row.unsound}"] if row.unsound else []
        about.append((row.strategy, row.mechanism, "\n".join(textwrap.fill(line, 60) for line in lines)))
    parts.append(table(about, ("strategy", "mechanism", "what it is")))
    return "\n\n".join(parts)


def _kernel_text(kernel: str, rows: list[StrategyRow], cpu_name: str) -> str:
    title = versions.version(kernel).title
    parts = [f"{title}\n{'=' * len(title)}", profile(cpu_name).title]
    possible = [(row, row.masks) for row in rows if row.masks]
    for host, guest in dict.fromkeys((masks.host_xcr0, masks.guest_xcr0) for _, masks in possible):
        swap = "KVM writes XCR0 at VM entry and at VM exit" if host != guest else "no XSETBV at VM entry and VM exit"
        parts.append(f"XCR0: host {host:#x}, guest {guest:#x}: {swap}")
    if possible:
        headers = (
            "strategy", "host\nXSS", "normal:\nsave/restore", "guest:\nsave/restore",
            "guest\nXSS", "XSS\nswap", "KVM\nCET", "bytes\nnormal/\nguest",
        )  # fmt: skip
        parts.append(table([_strategy_cells(row.strategy, masks) for row, masks in possible], headers))
    notes = by_text((row.strategy, note) for row, _ in possible for note in row.overrides)
    refused = by_reason((row.strategy, row.refused) for row in rows)
    refused.pop("", None)
    if notes:
        parts.append("Hypothetical here:\n" + _listed(notes))
    if refused:
        parts.append("Makes no sense here:\n" + _listed(refused))
    return "\n\n".join(parts)


def _strategy_cells(name: str, masks: StrategyMasks) -> tuple[Any, ...]:
    return (
        name,
        f"{masks.host_xss:#x}",
        f"{masks.normal_save:#x}/{masks.normal_restore:#x}",
        f"{masks.guest_save:#x}/{masks.guest_restore:#x}",
        f"{masks.guest_xss:#x}",
        yes(masks.swaps_xss),
        "forced" if masks.guest_has_cet and not masks.kvm_offers_cet else yes(masks.kvm_offers_cet),
        f"{masks.normal_bytes}/{masks.guest_bytes}",
    )


def _listed(names: dict[str, list[str]]) -> str:
    return "\n".join(wrapped(f"{', '.join(who)}: {text}", "  ") for text, who in names.items())
