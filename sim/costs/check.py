"""Errors in a cost table: rows that nobody could review, price or believe."""

import re
from collections.abc import Iterator
from typing import Final

from sim.costs.rows import ANY, COMPONENT_NAMES, RATIO, CostRow, CostTable
from sim.errors import cut, one_line, unknown
from sim.kernel import operations as op
from sim.kernel.carried import INSTRUCTIONS

DISTRIBUTIONS: Final = ("triangular", "uniform", "fixed")
GRADES: Final = ("measured", "published", "derived", "assumed")
CLOCKS: Final = ("core", "tsc")
LEVELS: Final = ("", "L2", "memory")
EVIDENCE_LEVEL: Final = "L3"
"""A level that rows have which are never priced: of a last-level cache only differences were measured, and no base."""

SAVES: Final = (op.XSAVES, op.XSAVE, "XSAVEC", "XSAVEOPT")
RESTORES: Final = (op.XRSTORS, op.XRSTOR)
MSR_OPERATION: Final = re.compile(
    r"(RDMSR|WRMSR|WRMSRNS|VM-entry MSR load|VM-exit MSR load|VM-exit MSR store)\((\w+|\*)\)"
)
MSR_LIST: Final = re.compile(r"(RDMSRLIST|WRMSRLIST)\((\d+)\)")
COUNTED: Final = re.compile(rf"({'|'.join(INSTRUCTIONS)})\((\d+)\)")
"""So many of an instruction, priced by a row of its name."""
LISTS: Final = ("RDMSRLIST", "WRMSRLIST")
PLAIN: Final = (
    op.RESTORE_SKIPPED, op.RDPKRU, op.WRPKRU, op.XSETBV, op.IBPB, op.LDMXCSR, op.XGETBV1, op.FWAIT, op.TILERELEASE,
    op.VMPTRLD, op.VMCLEAR, op.IPI, op.VMLOAD, op.VMSAVE, op.VMENTRY, op.VMEXIT, op.CONTEXT_SWITCH, op.KVM_RUN,
    op.RDPMC, op.VMREAD, op.PERF_CONTEXT, op.VPMU_SAMPLE, op.TEST_XCR0,
    op.VERW, op.RSB_FILL, op.RSB_ONE_CALL, op.BHB_CLEAR, op.BHB_LONG_CLEAR, op.UNTRAIN_RET, op.L1D_FLUSH,
)  # fmt: skip
HANDLER: Final = re.compile(r"exit handler\(([a-z-]+|\*)\)")
"""KVM's software for an exit that leaves the fastpath loop, by the reason: the way to the handler, and the handler."""

ALL: Final = (
    *SAVES, *RESTORES, *PLAIN, *LISTS, *INSTRUCTIONS,
    "RDMSR(...)", "WRMSR(...)", "WRMSRNS(...)", "VM-entry MSR load(...)",
    "VM-exit MSR load(...)", "VM-exit MSR store(...)", "exit handler(...)",
)  # fmt: skip
"""What a message names; an MSR goes into the parentheses."""

SAVE_TERMS: Final = ("base", "written", "initial", "unmodified", "writing")
RESTORE_TERMS: Final = ("base", "loaded", "initialised")
COUNTED_TERMS: Final = ("each",)
LIST_TERMS: Final = ("base", "msr")
PLAIN_TERMS: Final = ("base", "software", "in", "out")

NAMED_FREELY: Final = ("reference", "difference")
"""Terms of rows that are never priced, and may be of anything."""

OPENABLE: Final = re.compile(
    r"https?://|github\.com/|\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{7,40}\b|arXiv:?\s?\d|doi:?\s?10\.|\S@[^\s@]+\.\S",
    re.IGNORECASE,
)
"""A source that a reader can open: a link, a repository, a commit, a paper's number, a mail's message id."""
OWN: Final = (
    "measured by `fpswitch calibrate`",
    "measured by the method of `fpswitch calibrate`",
    "measured by fpswitch_bench",
)
"""How the source of a row begins that was measured on the user's machine: without privileges, or by the kernel
module."""
MOST: Final = 1e12
"""Cycles; no operation takes minutes."""
DATE: Final = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")
NOT_SEEN: Final = re.compile(
    r"\b(recalled|assum\w+|nobody has|guess\w*|stands in|stand-in|estimate[ds]?|(?:inter|extra)polated"
    r"|not (?:been )?measured|unmeasured|derived from)\b",
    re.IGNORECASE,
)


def known_terms(operation: str) -> tuple[str, ...]:
    """The terms that an operation is composed of; none for an unknown operation."""
    if operation in SAVES:
        return SAVE_TERMS if operation != op.XSAVE else SAVE_TERMS[:2]
    if operation in RESTORES:
        return RESTORE_TERMS
    if operation in LISTS:
        return LIST_TERMS
    if HANDLER.fullmatch(operation):
        return PLAIN_TERMS[1:2]
    if operation in INSTRUCTIONS:
        return COUNTED_TERMS
    return PLAIN_TERMS if operation in PLAIN or MSR_OPERATION.fullmatch(operation) else ()


def check(table: CostTable) -> list[str]:
    """A sentence for each defect, with the row that has it; empty for a table that is in order."""
    found = [f"{table.name}: two rows with the key {key}" for key in table.duplicates]
    if RATIO not in table.rows:
        found.append(f"{table.name}: no row {RATIO}, so core cycles cannot be converted")
    for row in table.rows.values():
        found += [f"{table.name}: {row.id}: {defect}" for defect in _defects(row, table)]
    return [cut(one_line(each)) for each in found]


def _defects(row: CostRow, table: CostTable) -> Iterator[str]:
    yield from _key_defects(row)
    yield from number_defects(row)
    yield from _grade_defects(row, table)


def _key_defects(row: CostRow) -> Iterator[str]:
    names = row.component.split()
    if row.id != RATIO and row.term not in NAMED_FREELY:
        terms = known_terms(row.operation)
        if not terms:
            yield str(unknown("operation", row.operation, ALL))
        elif row.term not in (*terms, "total"):
            yield f"unknown term {row.term!r} (allowed for {row.operation}: {', '.join((*terms, 'total'))})"
        if row.priced and (len(names) == 1) != (row.term in _PER_COMPONENT):
            yield f"term {row.term!r} takes {'one component' if row.term in _PER_COMPONENT else 'no component'}"
    for name in (*names, *row.requested.split()):
        if name not in COMPONENT_NAMES and not (name == ANY and row.priced):
            yield f"unknown component {name!r} (allowed: {', '.join(COMPONENT_NAMES)})"
    allowed = (*LEVELS, EVIDENCE_LEVEL) if row.term in NAMED_FREELY else LEVELS
    if row.level not in allowed:
        yield f"unknown level {row.level!r} (allowed: {', '.join(allowed[1:])}; L1 is without)"
    if row.level and row.operation not in (*SAVES, *RESTORES) and row.term not in NAMED_FREELY:
        yield f"level {row.level!r}: {row.operation} has no buffer"
    if row.requested and row.term != "total":
        yield "'requested' belongs to rows of term 'total'"


def number_defects(row: CostRow) -> Iterator[str]:
    """What makes the row's numbers no cost with a range."""
    numbers = (row.value, row.low, row.high)
    if not all(-MOST <= number <= MOST for number in numbers):  # a comparison, because an integer may have any size
        yield f"value, low and high must be finite (at most {MOST:g})"
    elif row.low > row.high:
        yield f"low {row.low} is above high {row.high}"
    elif not row.low <= row.value <= row.high:
        yield f"value {row.value} is outside its range {row.low} to {row.high}"
    if (min(numbers) < 0 and row.term != "difference") or (row.id == RATIO and min(numbers) <= 0):
        yield "a cost cannot be negative, nor a ratio zero"
    if row.clock not in (*CLOCKS, "ns") or (row.clock == "ns" and row.term != "reference"):
        yield f"unknown clock {row.clock!r} (allowed: core, tsc; ns in a reference)"
    if row.distribution not in DISTRIBUTIONS:
        yield f"unknown distribution {row.distribution!r} (allowed: {', '.join(DISTRIBUTIONS)})"


def _grade_defects(row: CostRow, table: CostTable) -> Iterator[str]:
    where, told = row.source.strip(), f"{row.source} {row.conditions}"
    if row.grade not in GRADES:
        yield f"unknown grade {row.grade!r} (allowed: {', '.join(GRADES)})"
    if not where:
        yield "no source"
    if not DATE.fullmatch(row.date):
        yield f"date {row.date!r} is not like 2026, 2026-11 or 2026-11-22"
    if row.grade in ("measured", "published") and (match := NOT_SEEN.search(told)):
        yield f"graded {row.grade}, but it says {match[0]!r}"
    if row.grade == "measured" and where and not (OPENABLE.search(where) or where.startswith(OWN)):
        yield f"graded measured, but {where!r} is nothing that a reader can open (allowed also: {', or '.join(OWN)})"
    if row.grade == "measured":
        for label in ("CPU: ", "kernel: ", "method: "):
            if label not in row.conditions:
                yield f"graded measured, but the conditions do not say {label.strip()!r}"
    if row.grade in ("published", "derived") and where and not _openable(row, table):
        yield f"graded {row.grade}, but a reader cannot open {where!r}"
    if row.grade == "assumed" and "because" not in told:
        yield 'graded assumed, but it does not say why this range ("because ...")'
    if row.grade == "assumed" and row.low == row.high:
        yield "graded assumed, but without a range"
    if row.grade == "derived" and not row.origin:
        yield "graded derived, but without an origin"
    for origin in row.origin:
        if ":" not in origin and origin not in table.rows:
            yield f"origin {origin!r} is not a row of this table"
        if origin == row.id:
            yield "is its own origin"


def _openable(row: CostRow, table: CostTable) -> bool:
    """Whether a reader can open the source, or it is that of measured rows from which a derived row comes."""
    if OPENABLE.search(row.source):
        return True
    seen: set[str] = set()
    waiting = [row] if row.grade == "derived" else []
    while waiting:
        each = waiting.pop()
        if each.grade == "measured" or any(":" in origin for origin in each.origin):  # another table has been checked
            return True
        seen.add(each.id)
        waiting += [table.rows[origin] for origin in each.origin if origin in table.rows and origin not in seen]
    return False


_PER_COMPONENT: Final = ("written", "initial", "unmodified", "loaded", "initialised")
