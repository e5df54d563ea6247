"""fpswitch patches: the RFC's eight patches, one by one and together, and what became of them."""

import textwrap
from typing import Any

import click

from sim.cli.common import WIDTH, by_text, emit, json_option, table, wrapped, yes
from sim.kernel.patches import PATCHES, Patch
from sim.report import patch_tables
from sim.report.patch_runs import Verdict
from sim.report.patch_tables import Allocation, AllocationRow, PatchRow
from sim.xsave.profiles import profile


@click.command()
@click.option("--cpu", "cpu_name", metavar="NAME|FILE", default="sapphire-rapids", show_default=True,
              help="A CPU profile (fpswitch cpu).")  # fmt: skip
@click.option("--subset", metavar="LIST", help="Only this subset of the patches, such as 1-3,5 or none.")
@json_option
def patches(cpu_name: str, subset: str | None, as_json: bool) -> None:
    """Show the eight patches of the RFC "Introduce CET supervisor xstate support", alone and in combinations.

    For each patch it says what became of it; for each subset what builds, the resulting masks, what KVM offers, sizes,
    and a verdict. The verdict comes from running the model: a vCPU writes PL0-2_SSP in the guest, and then is preempted
    by a user task, exits to user space, or halts, and runs again. KVM v6 gives no CET to guests on AMD; there the model
    runs as if it did. On a CPU with IBT, two tasks that use it in user mode also share a CPU, since that is what patch
    1 is about, also in a guest kernel whose CPUID has IBT and no SHSTK.

    With --json: {"cpu", "patches", "subsets", "allocation", "cpus_that_show_patch_6"}. A patch has "number", "title",
    "does", "fate", "needs". A subset
    has "patches" and "builds" (lists of numbers), "notes" (what is left out or without effect, and why); as hexadecimal
    strings "xcr0", "xss", "normal_save", "guest_save", "restore"; the booleans "cet_s_in_normal_fpstates" and
    "kvm_offers_cet"; "normal_bytes", "allocation", "amx" (null on a CPU without AMX), and "verdict", "forced" (as if
    KVM gave AMD's guests CET; null elsewhere) and "tasks" (two with IBT), each {"sound" (null if nothing was run),
    "summary", "findings": [{"sequence", "kind", "who", "what"}], "warnings", "not_run", "no_cet"}. The last
    "allocation" is patch 2 on every CPU: [{"cpu", "v6_6", "with_cet", "written_v6_6", "written_with_cet" (the furthest
    byte that XSAVES wrote when it was run, or null)}]. Each allocation is {"allocated", "needed", "difference" (in
    bytes, negative if too short), "short", "pages_suffice", "hidden_by_pages"}.

    \b
    Examples:
      fpswitch patches
      fpswitch patches --subset 1-5
      fpswitch patches --cpu ibt-no-shstk --json
    """
    rows = patch_tables.patch_rows(cpu_name, None if subset is None else [patch_tables.parse_subset(subset)])
    allocation = patch_tables.allocation_rows()
    document = {
        "cpu": cpu_name,
        "patches": [
            {"number": p.number, "title": p.title, "does": p.does, "fate": p.fate, "needs": list(p.needs)}
            for p in PATCHES
        ],
        "subsets": [_patch_document(row) for row in rows],
        "allocation": [
            {
                "cpu": row.cpu,
                "v6_6": _allocation(row.now),
                "with_cet": _allocation(row.with_cet),
                "written_v6_6": row.written_now,
                "written_with_cet": row.written_with_cet,
            }
            for row in allocation
        ],
        "cpus_that_show_patch_6": patch_tables.cpus_that_show_patch_6(),
    }
    text = _patches_text(rows, allocation, cpu_name) if subset is None else _subset_text(rows[0], cpu_name)
    emit(document, text, as_json)


def _patch_document(row: PatchRow) -> dict[str, Any]:
    masks = row.masks
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
        "verdict": _verdict(row.verdict),
        "forced": _verdict(row.forced) if row.forced else None,
        "tasks": _verdict(row.tasks),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "sound": verdict.sound,
        "summary": verdict.summary,
        "findings": [
            {"sequence": sequence, "kind": finding.kind, "who": finding.who, "what": finding.what}
            for sequence, finding in verdict.findings
        ],
        "warnings": list(verdict.warnings),
        "not_run": verdict.not_run or None,
        "no_cet": verdict.no_cet or None,
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
    not_run = by_text((patch_tables.subset_name(row.asked), row.verdict.not_run) for row in rows)
    not_run.pop("", None)
    notes = by_text((patch_tables.subset_name(row.asked), note) for row in rows for note in row.effect.notes)
    parts = [
        f"{title}\n{'=' * len(title)}",
        table([_patch_cells(patch) for patch in PATCHES], ("patch", "what it does, and what became of it", "needs")),
        wrapped(
            f"Masks on {profile(cpu_name).title}, and a verdict: a vCPU that has written PL0-2_SSP is preempted by a "
            "user task, exits to user space, or halts, and runs again."
        ),
        *_about_runs(rows),
        *(wrapped(f"Nothing was run ({', '.join(who)}): {reason}.") for reason, who in not_run.items()),
        table(
            [_mask_cells(row) for row in rows],
            ("subset", "builds", "XSS", "normal\nsave", "guest\nsave", "\nrestore", "KVM\nCET", "found by running"),
        ),
        "What does not build or has no effect:\n"
        + "\n".join(wrapped(f"{note} (subset {'; '.join(who)})", "  ") for note, who in notes.items()),
        wrapped(
            'Bytes of XSAVE areas. "hidden": too short, and only the rounding to whole pages gives the room. A guest '
            f"with AMX: what its permission request computes, and what is then needed. {_about_patch_6()}"
        ),
        table(
            [_subset_sizes(row) for row in rows],
            ("subset", "normal", "guest:\nallocated", "\nneeded", "\ndiff", "\nin pages", "with AMX:\ncomputed",
             "\nneeded", "\ndiff"),
        ),
        wrapped(
            "Patch 2: what v6.6 allocates for a guest fpstate (the standard format's size), and what XSAVES needs "
            "there and with CET_U and CET_S enabled (patches 1 and 3); written: the furthest byte that XSAVES wrote "
            "when it was run, with a guest that uses all that it has, CET as if KVM gave it. It matters on AMD, where "
            "PKRU is the last component of the standard format: on v6.6 nothing beyond the allocation is written, "
            "since no guest has CET and CET_U is initial; with CET in guests it is, and the page has the room."
        ),
        table(
            [_allocation_cells(row) for row in allocation],
            ("CPU", "allo-\ncated", "v6.6:\nneeded", "\ndiff", "\npages", "\nwritten", "1,3:\nneeded", "\ndiff",
             "\npages", "\nwritten"),
        ),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _about_runs(rows: list[PatchRow]) -> list[str]:
    """What the runs of the tasks and of AMD's guests say, if there were any."""
    parts = []
    if any(row.forced for row in rows):
        parts.append(
            wrapped("KVM v6 gives AMD's guests no CET, so they lose nothing; in brackets is what is found if it did.")
        )
    if any(not row.tasks.not_run for row in rows):
        parts.append(
            wrapped(
                "Patch 1: two tasks that use IBT in user mode share a CPU, on this kernel as it is, or as the kernel "
                "of a guest with such a CPUID. No kernel enables IBT in user mode. Unless a finding is listed, both "
                "keep their own values."
            )
        )
    return parts


def _about_patch_6() -> str:
    if shows := patch_tables.cpus_that_show_patch_6():
        return f"Patch 6 makes a difference on {', '.join(shows)}."
    return (
        "Patch 6 cannot be observed on any CPU here: XTILE_CFG starts on a 64-byte boundary, and the 24 bytes of CET_S "
        "vanish in the gap before it."
    )


def _allocation_cells(row: AllocationRow) -> tuple[Any, ...]:
    return (
        row.cpu,
        *_size_cells(row.now),
        row.written_now,
        *_size_cells(row.with_cet)[1:],
        row.written_with_cet or "-",
    )


def _patch_cells(patch: Patch) -> tuple[Any, ...]:
    needs = ",".join(map(str, patch.needs)) or "-"
    texts = (textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="  ") for text in (patch.does, patch.fate))
    return (patch.number, "\n".join((patch.title, *texts)), needs)


def _mask_cells(row: PatchRow) -> tuple[Any, ...]:
    masks = row.masks
    found = "not run" if row.verdict.not_run else row.verdict.summary
    if row.forced:
        found += f" [{row.forced.summary}]"
    if row.tasks.sound is False:
        found += f"; {row.tasks.summary}"
    if row.cet_s_in_normal_fpstates:
        found += "; CET_S in every task"
    return (
        patch_tables.subset_name(row.asked),
        "all" if row.effect.patches == row.asked else patch_tables.subset_name(row.effect.patches),
        *(f"{mask:#x}" for mask in (masks.xss, masks.host_default, masks.guest_default, masks.restore_mask)),
        yes(row.kvm_offers_cet),
        textwrap.fill(found, 35),
    )


def _subset_sizes(row: PatchRow) -> tuple[Any, ...]:
    amx = _size_cells(row.amx)[:3] if row.amx else ("-", "-", "-")
    return (patch_tables.subset_name(row.asked), row.masks.host_size, *_size_cells(row.allocation), *amx)


def _size_cells(allocation: Allocation) -> tuple[Any, ...]:
    return (allocation.allocated, allocation.needed, f"{allocation.difference:+d}", _pages(allocation))


def _pages(allocation: Allocation) -> str:
    if not allocation.short:
        return "enough"
    return "hidden" if allocation.pages_suffice else "TOO SHORT"


def _subset_text(row: PatchRow, cpu_name: str) -> str:
    masks = row.masks
    title = f"RFC patches {patch_tables.subset_name(row.asked)} on v6.6-rc1"
    parts = [f"{title}\n{'=' * len(title)}", profile(cpu_name).title]
    if row.asked:
        parts.append(
            "\n".join(wrapped(f"{p.number} {p.does}: {p.fate}", "  ") for p in PATCHES if p.number in row.asked)
        )
    fields: list[tuple[str, str]] = [
        ("builds", patch_tables.subset_name(row.effect.patches)),
        *(("note", note) for note in row.effect.notes),
        ("IA32_XSS", f"{masks.xss:#x}"),
        ("normal save", f"{masks.host_default:#x}, {masks.host_size} bytes"),
        ("guest save", f"{masks.guest_default:#x}, {masks.guest_size} bytes"),
        ("restore", f"{masks.restore_mask:#x}"),
        ("CET_S in every task", yes(row.cet_s_in_normal_fpstates)),
        ("KVM offers CET", yes(row.kvm_offers_cet)),
        ("guest allocation", _allocation_text(row.allocation, "allocated")),
        ("guest with AMX", _allocation_text(row.amx, "computed") if row.amx else "this CPU has no AMX"),
        ("found by running", row.verdict.summary),
        *([("if KVM gave CET", row.forced.summary)] if row.forced else []),
        ("two tasks with IBT", row.tasks.summary),
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
