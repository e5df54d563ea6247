"""fpswitch strategies and fpswitch patches: what is set up on which kernel, and what the RFC's patches do."""

import textwrap
from collections.abc import Iterable
from typing import Any

import click

from sim.cli.common import emit, json_option, parse_mask, table
from sim.kernel import versions
from sim.kernel.patches import PATCHES, Patch
from sim.report import kernel_tables
from sim.report.kernel_tables import Allocation, AllocationRow, PatchRow, StrategyMasks, StrategyRow
from sim.xsave.profiles import profile

WIDTH = 100

MASKS = (
    "host_xcr0", "host_xss", "normal_save", "normal_restore", "guest_save", "guest_restore", "guest_xcr0", "guest_xss",
)  # fmt: skip
PLAIN = ("swaps_xcr0", "swaps_xss", "kvm_offers_cet", "guest_has_cet", "normal_bytes", "guest_bytes")


@click.command()
@click.option("--kernel", metavar="NAME", help="Only on this kernel (fpswitch kernels); without it, on each.")
@click.option("--cpu", "cpu_name", metavar="NAME", default="sapphire-rapids", show_default=True)
@click.option("--strategy", "names", metavar="NAME", multiple=True, help="Only this one (or a file); may be repeated.")
@click.option("--guest-xss", metavar="MASK", help="IA32_XSS of guests with CET; without it, all that KVM offers.")
@click.option(
    "--host-shadow-stacks", metavar="MODE", default="off", show_default=True, help="off, fpstate or return-to-user."
)
@click.option("--hypothetical", is_flag=True, help="Also what the CPU lacks, such as MSR lists on AMD.")
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
    """Each strategy on each kernel: masks, IA32_XSS, what KVM offers, and what is hypothetical about the pair.

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
        _wrapped(
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
    notes = _by_text((row.strategy, note) for row, _ in possible for note in row.overrides)
    refused = _by_text((row.strategy, row.refused.replace(f"strategy {row.strategy}", "this strategy")) for row in rows)
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
        _yes(masks.swaps_xss),
        "forced" if masks.guest_has_cet and not masks.kvm_offers_cet else _yes(masks.kvm_offers_cet),
        f"{masks.normal_bytes}/{masks.guest_bytes}",
    )


def _by_text(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names by what is said of them, so that it is said once."""
    names: dict[str, list[str]] = {}
    for name, text in pairs:
        names.setdefault(text, []).append(name)
    return names


def _listed(names: dict[str, list[str]]) -> str:
    return "\n".join(_wrapped(f"{', '.join(who)}: {text}", "  ") for text, who in names.items())


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent * 2, break_long_words=False, break_on_hyphens=False
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@click.command()
@click.option("--cpu", "cpu_name", metavar="NAME", default="sapphire-rapids", show_default=True)
@click.option("--subset", metavar="LIST", help="Only this subset of the patches, such as 1-3,5 or none.")
@json_option
def patches(cpu_name: str, subset: str | None, as_json: bool) -> None:
    """The eight patches of the RFC "Introduce CET supervisor xstate support", one by one and together.

    For each subset: what builds, the masks that follow, what KVM offers, sizes, and a verdict. The verdict is found by
    running the model: a vCPU writes PL0-2_SSP in the guest, and then is preempted by a user task, exits to user space,
    or halts, and runs again.

    With --json: {"cpu", "patches", "subsets", "allocation"}. A patch has "number", "title", "does", "needs". A subset
    has "patches" and "builds" (lists of numbers), "notes" (what is left out or without effect, and why); as hexadecimal
    strings "xcr0", "xss", "normal_save", "guest_save", "restore"; the booleans "cet_s_in_normal_fpstates" and
    "kvm_offers_cet"; "normal_bytes", "allocation", "amx" (null on a CPU without AMX), and "verdict": {"sound" (null if
    nothing was run), "summary", "findings": [{"sequence", "kind", "who", "what"}], "warnings", "not_run", "no_cet"}.
    The last "allocation" is patch 2 on every CPU: [{"cpu", "v6_6", "with_cet"}]. Each allocation is {"allocated",
    "needed", "difference" (in bytes, negative if too short), "short", "pages_suffice", "hidden_by_pages"}.

    \b
    Examples:
      fpswitch patches
      fpswitch patches --subset 1-5
      fpswitch patches --cpu ibt-no-shstk --json
    """
    rows = kernel_tables.patch_rows(cpu_name, None if subset is None else [kernel_tables.parse_subset(subset)])
    allocation = kernel_tables.allocation_rows()
    document = {
        "cpu": cpu_name,
        "patches": [{"number": p.number, "title": p.title, "does": p.does, "needs": list(p.needs)} for p in PATCHES],
        "subsets": [_patch_document(row) for row in rows],
        "allocation": [
            {"cpu": row.cpu, "v6_6": _allocation(row.now), "with_cet": _allocation(row.with_cet)} for row in allocation
        ],
    }
    text = _patches_text(rows, allocation, cpu_name) if subset is None else _subset_text(rows[0], cpu_name)
    emit(document, text, as_json)


def _patch_document(row: PatchRow) -> dict[str, Any]:
    masks, verdict = row.masks, row.verdict
    return {
        "patches": sorted(row.asked),
        "builds": sorted(row.effect.patches),
        "notes": list(row.effect.notes),
        "xcr0": f"{masks.xcr0:#x}",
        "xss": f"{masks.xss:#x}",
        "normal_save": f"{masks.host_default:#x}",
        "guest_save": f"{masks.guest_default:#x}",
        "restore": f"{masks.restore_mask:#x}",
        "cet_s_in_normal_fpstates": row.cet_s_in_normal_fpstates,
        "kvm_offers_cet": row.kvm_offers_cet,
        "normal_bytes": masks.host_size,
        "allocation": _allocation(row.allocation),
        "amx": _allocation(row.amx) if row.amx else None,
        "verdict": {
            "sound": verdict.sound,
            "summary": verdict.summary,
            "findings": [
                {"sequence": sequence, "kind": finding.kind, "who": finding.who, "what": finding.what}
                for sequence, finding in verdict.findings
            ],
            "warnings": list(verdict.warnings),
            "not_run": verdict.not_run or None,
            "no_cet": verdict.no_cet or None,
        },
    }


def _allocation(allocation: Allocation) -> dict[str, Any]:
    return {
        "allocated": allocation.allocated,
        "needed": allocation.needed,
        "difference": allocation.difference,
        "short": allocation.short,
        "pages_suffice": allocation.pages_suffice,
        "hidden_by_pages": allocation.hidden_by_pages,
    }


def _patches_text(rows: list[PatchRow], allocation: list[AllocationRow], cpu_name: str) -> str:
    title = "[RFC PATCH 0/8] Introduce CET supervisor xstate support, on v6.6-rc1"
    not_run = _by_text((kernel_tables.subset_name(row.asked), row.verdict.not_run) for row in rows)
    not_run.pop("", None)
    notes = _by_text((kernel_tables.subset_name(row.asked), note) for row in rows for note in row.effect.notes)
    parts = [
        f"{title}\n{'=' * len(title)}",
        table([_patch_cells(patch) for patch in PATCHES], ("patch", "what it does", "needs")),
        _wrapped(
            f"Masks on {profile(cpu_name).title}, and a verdict: a vCPU that has written PL0-2_SSP is preempted by a "
            "user task, exits to user space, or halts, and runs again."
        ),
        *(_wrapped(f"Nothing was run ({', '.join(who)}): {reason}.") for reason, who in not_run.items()),
        table(
            [_mask_cells(row) for row in rows],
            ("subset", "builds", "XSS", "normal\nsave", "guest\nsave", "\nrestore", "KVM\nCET", "found by running"),
        ),
        "What does not build or has no effect:\n"
        + "\n".join(_wrapped(f"{note} (subset {'; '.join(who)})", "  ") for note, who in notes.items()),
        _wrapped(
            'Bytes of XSAVE areas. "hidden": too short, and only the rounding to whole pages gives the room. A guest '
            "with AMX: what its permission request computes, and what is then needed."
        ),
        table(
            [_subset_sizes(row) for row in rows],
            ("subset", "normal", "guest:\nallocated", "\nneeded", "\ndiff", "\nin pages", "with AMX:\ncomputed",
             "\nneeded", "\ndiff"),
        ),
        _wrapped(
            "Patch 2: what v6.6 allocates for a guest fpstate (the standard format's size), and what XSAVES needs "
            "there and with CET_U and CET_S enabled (patches 1 and 3)"
        ),
        table(
            [(row.cpu, *_size_cells(row.now), *_size_cells(row.with_cet)[1:]) for row in allocation],
            ("CPU", "allocated", "v6.6:\nneeded", "\ndiff", "\nin pages", "1,3:\nneeded", "\ndiff", "\nin pages"),
        ),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _patch_cells(patch: Patch) -> tuple[Any, ...]:
    needs = ",".join(map(str, patch.needs)) or "-"
    return (
        patch.number,
        f"{patch.title}\n{textwrap.fill(patch.does, 80, initial_indent='  ', subsequent_indent='  ')}",
        needs,
    )


def _mask_cells(row: PatchRow) -> tuple[Any, ...]:
    masks = row.masks
    found = "not run" if row.verdict.not_run else row.verdict.summary
    if row.cet_s_in_normal_fpstates:
        found += "; CET_S in every task"
    return (
        kernel_tables.subset_name(row.asked),
        "all" if row.effect.patches == row.asked else kernel_tables.subset_name(row.effect.patches),
        *(f"{mask:#x}" for mask in (masks.xss, masks.host_default, masks.guest_default, masks.restore_mask)),
        _yes(row.kvm_offers_cet),
        textwrap.fill(found, 35),
    )


def _subset_sizes(row: PatchRow) -> tuple[Any, ...]:
    amx = _size_cells(row.amx)[:3] if row.amx else ("-", "-", "-")
    return (kernel_tables.subset_name(row.asked), row.masks.host_size, *_size_cells(row.allocation), *amx)


def _size_cells(allocation: Allocation) -> tuple[Any, ...]:
    return (allocation.allocated, allocation.needed, f"{allocation.difference:+d}", _pages(allocation))


def _pages(allocation: Allocation) -> str:
    if not allocation.short:
        return "enough"
    return "hidden" if allocation.pages_suffice else "TOO SHORT"


def _subset_text(row: PatchRow, cpu_name: str) -> str:
    masks = row.masks
    title = f"RFC patches {kernel_tables.subset_name(row.asked)} on v6.6-rc1"
    parts = [f"{title}\n{'=' * len(title)}", profile(cpu_name).title]
    if row.asked:
        parts.append("\n".join(_wrapped(f"{p.number} {p.does}", "  ") for p in PATCHES if p.number in row.asked))
    fields: list[tuple[str, str]] = [
        ("builds", kernel_tables.subset_name(row.effect.patches)),
        *(("note", note) for note in row.effect.notes),
        ("IA32_XSS", f"{masks.xss:#x}"),
        ("normal save", f"{masks.host_default:#x}, {masks.host_size} bytes"),
        ("guest save", f"{masks.guest_default:#x}, {masks.guest_size} bytes"),
        ("restore", f"{masks.restore_mask:#x}"),
        ("CET_S in every task", _yes(row.cet_s_in_normal_fpstates)),
        ("KVM offers CET", _yes(row.kvm_offers_cet)),
        ("guest allocation", _allocation_text(row.allocation, "allocated")),
        ("guest with AMX", _allocation_text(row.amx, "computed") if row.amx else "this CPU has no AMX"),
        ("found by running", row.verdict.summary),
        *(("warning", warning) for warning in row.verdict.warnings),
    ]
    indent = max(len(key) for key, _ in fields) + 2
    parts.append(
        "\n".join(
            textwrap.fill(text, WIDTH, initial_indent=key.ljust(indent), subsequent_indent=" " * indent)
            for key, text in fields
        )
    )
    return "\n\n".join(parts)


def _allocation_text(allocation: Allocation, how: str) -> str:
    verdict = {
        "enough": "enough",
        "hidden": "too short, hidden by the rounding to pages",
        "TOO SHORT": "TOO SHORT: XSAVES writes beyond the pages",
    }[_pages(allocation)]
    return f"{how} {allocation.allocated}, needed {allocation.needed}, difference {allocation.difference:+d}: {verdict}"
