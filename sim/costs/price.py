"""What an operation costs, composed of the rows of a cost table the way the hardware does it.

A save (XSAVES; a table may also have XSAVEC and XSAVEOPT; XSAVE, which skips nothing, writes all that is requested)::

    base + written(each component written) + initial(each one requested but initial, hence not written)
         + unmodified(each one requested, in use and skipped) + writing(once, if any component is written)

A restore (XRSTORS, XRSTOR)::

    base + loaded(each component loaded) + initialised(each one set to its initial configuration)

A buffer that is not in L1 adds, from the rows of its level (L2 or memory)::

    base@level + written@level or loaded@level (each component written or loaded)

An MSR list adds ``msr`` for each MSR to its ``base``; so many of a plain instruction are so many times its ``each``.
Everything else is the sum of what the table has of ``base``, ``software`` (what KVM or Linux runs around a hardware
transition), ``in`` and ``out`` (the two halves of a call).  A component without a row of its own takes the row ``*``;
an MSR takes the row of its name, then of its kind (PLx_SSP), then ``*``.

So a price is linear in the rows: the sum of coefficient x value, where values in core cycles are divided by the
table's core cycles per TSC cycle, rounded once to whole TSC cycles.

That this is how hardware behaves is tested against every ``total`` row of the shipped tables, which are whole
instructions as measured (Zen 4, by in-use set and level); the measurements repeat within 10 %. One thing is not linear:
a save to memory that the store buffer takes in costs no more than a warm one, until the buffer is full.  An image of
about that size (AVX-512 without ZMM16-31) may be priced at a third of its cost, or a quarter too high.

``writing`` is optional, and there because a save in the kernel is not the sum of what user mode shows between LFENCEs:
its stores overlap with what follows, and most of what a component costs alone it does not cost beside others.  Zen 4's
terms of XSAVES and XRSTORS are those of a context switch, measured in place; its ``difference`` rows have what was
measured, in a context switch and in a write to /dev/urandom.  Each of the eleven in-use sets comes out within 4 TSC
cycles of the context switch, a sum without ``writing`` would be 10 off, and the range of a price spans both calls and
both runs (tests/test_cost_rows.py).  They were measured without PKRU.  With PKU enabled, Linux stores a PKRU that is
not 0 in each save, so ``writing`` is always there; that it then is the same is an extrapolation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sim.costs.check import (
    COUNTED,
    HANDLER,
    LISTS,
    MSR_LIST,
    MSR_OPERATION,
    PLAIN,
    PLAIN_TERMS,
    RESTORES,
    SAVES,
    known_terms,
)
from sim.costs.rows import ANY, COMPONENT_NAMES, RATIO, CostRow, CostTable, row_id
from sim.errors import InputError, unknown
from sim.kernel.carried import INSTRUCTIONS
from sim.kernel.operations import PERF_CONTEXT, RDPMC, VMREAD, VPMU_SAMPLE, XSAVE
from sim.xsave.components import bits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Key = tuple[Any, ...]
"""A key of the ledger: thread kind, phase, operation[, RFBM, components, initialised[, level]]."""

WARM: Final = ("", "L1")
MSR_KINDS: Final = (
    (re.compile(r"PL[012]_SSP"), "PLx_SSP"),
    (re.compile(r"PERF\w+|FIXED_CTR_CTRL|LVTPC"), "PMU"),
)


class Prices(dict[Key, int]):
    """Prices in TSC cycles by ledger key, each composed when it is first asked for."""

    def __init__(self, table: CostTable) -> None:
        super().__init__()
        self.table = table
        self._worth = {row.id: row.value * table.scale(row) for row in table.rows.values() if row.priced}

    def __missing__(self, key: Key) -> int:
        price = self[key] = round(math.fsum(n * self._worth[row] for row, n in terms(key, self.table).items()))
        return price


def price(key: Key, table: CostTable) -> int:
    """The price of one operation in TSC cycles; for many, keep a :class:`Prices`."""
    return Prices(table)[key]


def terms(key: Key, table: CostTable) -> dict[str, int]:
    """The rows of ``table`` that the operation is composed of, and how often each counts.

    Raises :class:`InputError` for an operation of which the table has no row.
    """
    _, _, operation, rfbm, components, initialised, level = key + _DEFAULTS[len(key) :]
    parts: tuple[tuple[str, int], ...]
    once = ""
    if operation == XSAVE:
        parts = (("written", rfbm),)
    elif operation in SAVES:
        rest = rfbm & ~components & ~initialised
        parts = (("written", components), ("initial", initialised), ("unmodified", rest))
        once = row_id(operation, "writing") if components else ""
    elif operation in RESTORES:
        parts = (("loaded", components), ("initialised", initialised))
    else:
        return _plain_terms(operation, table)
    found: dict[str, int] = {}
    _add(found, table, operation, "base")
    if once in table.rows:
        found[once] = 1
    for term, mask in parts:
        for number in bits[mask]:
            _add(found, table, operation, term, number)
    if level not in WARM:
        _add(found, table, operation, "base", level=level)
        touched, mask = parts[0]
        for number in bits[mask]:
            _add(found, table, operation, touched, number, level)
    return found


_DEFAULTS: Final[Key] = ("", "", "", 0, 0, 0, "")


def _add(
    found: dict[str, int], table: CostTable, operation: str, term: str, number: int | None = None, level: str = ""
) -> None:
    wanted = [""] if number is None else [*COMPONENT_NAMES[number : number + 1], ANY]
    for component in wanted:
        if (row := row_id(operation, term, component, level)) in table.rows:
            found[row] = found.get(row, 0) + 1
            return
    raise _missing(operation, row_id(operation, term, wanted[0], level), table)


def _plain_terms(operation: str, table: CostTable) -> dict[str, int]:
    if match := MSR_LIST.fullmatch(operation):
        ids = {row_id(match[1], "base"): 1, row_id(match[1], "msr"): int(match[2])}
        for row in ids:
            if row not in table.rows:
                raise _missing(operation, row, table)
        return ids
    if match := COUNTED.fullmatch(operation):
        if (row := row_id(match[1], "each")) not in table.rows:
            raise _missing(operation, row, table)
        return {row: int(match[2])}
    for name in _row_names(operation):
        found = {row: 1 for term in PLAIN_TERMS if (row := row_id(name, term)) in table.rows}
        if found:
            return found
    if not known_terms(operation):
        raise unknown(
            "operation",
            operation,
            (*SAVES[:2], *RESTORES, *PLAIN, *LISTS, "RDMSR(...)", "WRMSR(...)", "exit handler(...)"),
        )
    raise _missing(operation, row_id(operation, "base"), table)


def _row_names(operation: str) -> list[str]:
    """The operations under which a table may have the rows of this one, the most specific first."""
    if HANDLER.fullmatch(operation):
        return [operation, f"exit handler({ANY})"]
    match = MSR_OPERATION.fullmatch(operation)
    if not match:
        return [operation]
    kinds = [kind for pattern, kind in MSR_KINDS if pattern.fullmatch(match[2])]
    return [operation, *(f"{match[1]}({kind})" for kind in (*kinds, ANY))]


def _missing(operation: str, row: str, table: CostTable) -> InputError:
    return InputError(f"cost table {table.name}: no price for {operation!r}, which needs a row {row!r}")


_FOR_SOME: Final = re.compile(
    rf"XSAVEC|XSAVEOPT|WRMSRNS\(.*|VM-\w+ MSR .*|\w+\(PMU\)"
    rf"|{'|'.join((*LISTS, *INSTRUCTIONS, RDPMC, VMREAD, PERF_CONTEXT, VPMU_SAMPLE))}"
)
"""What only some strategies and settings run, or nothing."""


def lacking(table: CostTable, like: CostTable, components: int) -> list[str]:
    """The rows of ``like`` for which ``table`` has nothing, of what every kernel runs on a CPU with ``components``."""
    names = {COMPONENT_NAMES[number] for number in bits[components]} | {"", ANY}
    return [
        row.id
        for row in like.rows.values()
        if row.priced and row.component in names and not _FOR_SOME.fullmatch(row.operation) and not _priced(row, table)
    ]


def _priced(row: CostRow, table: CostTable) -> bool:
    if row.operation in (*SAVES, *RESTORES):
        each = (row_id(row.operation, row.term, component, row.level) for component in (row.component, ANY))
        return row.term == "writing" or not table.rows.keys().isdisjoint(each)
    names = _row_names(row.operation)
    return any(row_id(name, term) in table.rows for name in names for term in PLAIN_TERMS)


def composed(row: CostRow, table: CostTable) -> float:
    """What the composition says for a ``total`` row, in the clock of the row and not rounded."""
    components, requested = (_mask(text) for text in (row.component, row.requested or row.component))
    key = ("", "", row.operation, requested, components, requested & ~components, row.level)
    parts = ((table.rows[part], n) for part, n in terms(key, table).items())
    tsc = math.fsum(n * part.value * table.scale(part) for part, n in parts)
    return tsc / table.scale(row)


def _mask(names: str) -> int:
    return sum(1 << COMPONENT_NAMES.index(name) for name in names.split())


def design_matrix(keys: Iterable[Key], table: CostTable) -> NDArray[np.float64]:
    """The coefficients, a line per key and a column per row of ``table``, also for rows that are never priced.

    ``design_matrix(keys, table) @ in_tsc(table, values)`` are the prices before rounding.  Columns of rows with the
    same :attr:`~sim.costs.rows.CostRow.factor` are to be drawn together.
    """
    import numpy as np

    columns = {row: i for i, row in enumerate(table.rows)}
    lines = list(keys)
    matrix = np.zeros((len(lines), len(columns)))
    for i, key in enumerate(lines):
        for row, n in terms(key, table).items():
            matrix[i, columns[row]] = n
    return matrix


def in_tsc(table: CostTable, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of all rows, one draw or one per line, in TSC cycles; the ratio of each draw is among its values."""
    import numpy as np

    rows: Mapping[str, CostRow] = table.rows
    ratio = list(rows).index(RATIO)
    core = np.array([row.clock == "core" and key != RATIO for key, row in rows.items()])
    return np.where(core, values / values[..., ratio : ratio + 1], values)
