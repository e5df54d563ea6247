"""What a run did, in the cost rows that it uses: of hundreds of rows a case uses some dozens.

There may be ten thousand replications, of which a thousand are in memory at a time; the rest is in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.analysis.uncertainty.coefficients import Array, values
from sim.analysis.uncertainty.seen import Seen, seen
from sim.costs.price import design_matrix, in_tsc
from sim.costs.rows import RATIO, CostRow, CostTable
from sim.errors import InputError
from sim.kernel.operations import XSS_PHASE
from sim.results.columns import KEY_COLUMNS
from sim.results.spool import Spool

if TYPE_CHECKING:
    import pandas as pd

KEY: Final = list(KEY_COLUMNS)
HALF_A_CYCLE: Final = 0.5
"""What rounding may take from or add to the price of one operation."""


@dataclass(frozen=True, slots=True)
class Part:
    """How often each row counts, the mean over the replications, and TSC cycles by replication, rows at their values;
    both per unit of :attr:`Counted.per`.
    """

    mean: Array
    cycles: Array


@dataclass(frozen=True, slots=True)
class Moved:
    """What operations do: all of them, without those that switch IA32_XSS, and these; and which rows they use."""

    total: Part
    without_xss: Part
    xss: Part
    used: NDArray[np.bool_]


@dataclass(frozen=True)
class Counted:
    """One case: coefficients of the rows of ``table``.

    A coefficient is how often the row counts per unit of ``per`` (vCPU-second, or CPU-second in a case without vCPUs).
    ``used`` are the numbers of the rows that the case uses, in the table.  ``pieces`` read the coefficients of some
    replications, in their order: the total and the part that is IA32_XSS switching, each strategies x replications x
    rows that are used.  ``operations`` are the operations per unit of ``per``, by strategy, which bound what rounding
    does; ``seconds`` are the vCPU-seconds (or CPU-seconds) of a replication.  ``violating`` are the strategies that
    were caught violating integrity: their cost is not comparable; ``not_carrying`` those that carry nothing, and so
    have nothing to be compared.
    """

    case: str
    cpu: str
    kernel: str
    table: CostTable
    strategies: tuple[str, ...]
    reference: str
    per: str
    replications: int
    operations: Array
    seconds: float
    used: NDArray[np.intp]
    pieces: Sequence[Callable[[], NDArray[Any]]]
    violating: frozenset[str] = frozenset()
    not_carrying: frozenset[str] = frozenset()

    @property
    def rows(self) -> list[CostRow]:
        """The rows that it uses."""
        every = list(self.table.rows.values())
        return [every[i] for i in self.used]

    def taken(self, of_table: NDArray[Any]) -> NDArray[Any]:
        """Of something that is there for each row of the table, in its last dimension, what these rows have."""
        return of_table[..., self.used]

    def in_table(self, of_used: Array) -> Array:
        """Of something that is there for each row that is used, in its last dimension, all rows; 0 for the others."""
        found = np.zeros((*of_used.shape[:-1], len(self.table.rows)))
        found[..., self.used] = of_used
        return found

    @property
    def at_values(self) -> Array:
        """TSC cycles of each row that it uses, at its value."""
        return self.taken(in_tsc(self.table, values(self.table)))

    def moved(self, a: int, b: int | None = None) -> Moved:
        """What the strategy of number ``a`` does; or what it does more than ``b``."""
        at_values = self.at_values
        sums = [np.zeros(len(self.used))] * 3
        cycles: list[list[Array]] = [[], [], []]
        used = np.zeros(len(self.used), dtype=bool)
        for piece in self.pieces:
            total, xss = (each[a] if b is None else each[a] - each[b] for each in piece())
            used |= np.any(total != 0, axis=0)
            for i, each in enumerate((total, total - xss, xss)):
                sums[i] = np.add.reduce(np.vstack([sums[i], each]), axis=0)  # in their order, as if all were there
                cycles[i].append(each @ at_values)
        of_all, without, of_xss = (
            Part(each / self.replications, np.concatenate(some)) for each, some in zip(sums, cycles, strict=True)
        )
        return Moved(of_all, without, of_xss, used)

    def blocks(self, *, with_xss: bool) -> Iterator[Array]:
        """The coefficients of some replications at a time, with the phase in which IA32_XSS is switched or without:
        strategies x replications x rows that are used.
        """
        for piece in self.pieces:
            total, xss = piece()
            yield total if with_xss else total - xss

    def priced(self, rows: Array) -> Array:
        """Cycles of all operations, strategies x replications, by the prices of all rows of the table."""
        return np.concatenate([block @ self.taken(rows) for block in self.blocks(with_xss=True)], axis=1)

    def seen(self, *, with_xss: bool) -> Seen:
        """What was done in all replications, with the phase in which IA32_XSS is switched or without."""
        return self._seen[with_xss]

    @cached_property
    def _seen(self) -> tuple[Seen, Seen]:
        core = np.array([row.clock == "core" and row.id != RATIO for row in self.rows], dtype=np.float64)
        without, total = (
            seen(partial(self.blocks, with_xss=with_xss), self.at_values, core) for with_xss in (False, True)
        )
        return without, total

    @cached_property
    def switch_alike(self) -> bool:
        """Whether all strategies do the same in the phase in which IA32_XSS is switched."""
        return all(
            np.array_equal(xss, np.broadcast_to(xss[:1], xss.shape)) for _, xss in (each() for each in self.pieces)
        )


ROW: Final = np.dtype([("unit", np.int32), ("number", np.int32), ("count", np.float64), ("cycles", np.float64)])
"""A row of a ledger: the unit is a strategy in a replication, the number that of its key."""


def counted(
    ledgers: Iterable[pd.DataFrame],
    case: Mapping[str, Any],
    replications: int,
    table: CostTable,
    spool: Spool | None = None,
) -> Counted:
    """What one case did.

    ``ledgers``, each of other replications, in their order: the columns case, strategy, replication, :data:`KEY`, count
    and cycles; ``case``: the entry of the manifest.  All but the last of what is large is in ``spool``.  Raises
    :class:`InputError` for a strategy that lacks a replication, and for a table that is not the one the run was priced
    with.
    """
    name, spool = str(case["case"]), Spool() if spool is None else spool
    strategies = tuple(str(each) for each in case["strategies"])
    known: dict[tuple[Any, ...], int] = {}
    some: list[tuple[int, Callable[[], NDArray[Any]]]] = []
    begin = 0
    for ledger in ledgers:
        ledger = ledger[(ledger["case"] == name) & ledger["strategy"].isin(strategies)]
        end = max(begin, min(replications, int(ledger["replication"].max()) + 1)) if len(ledger) else begin
        some.append((end - begin, spool.array(_numbered(ledger, strategies, begin, end, known))))
        begin = end
    _check_all_there(np.zeros(0, dtype=np.int32), strategies, begin, replications - begin, name)
    distinct = sorted(known)
    matrix = design_matrix(distinct, table)
    used = np.flatnonzero(np.any(matrix != 0, axis=0))
    design = _Design([known[key] for key in distinct], [key[_PHASE] == XSS_PHASE for key in distinct], matrix[:, used])
    per, seconds = ("vCPU-second", case["vcpus"]) if case["vcpus"] else ("CPU-second", case["cpus"])
    seconds *= case["measure_s"]
    pieces, operations, begin = [], [], 0
    for number, read in some:
        rows = read()
        _check_all_there(rows["unit"], strategies, begin, number, name)
        total, xss = design.coefficients(rows, len(strategies), number)
        counts, cycles = (
            np.bincount(rows["unit"], rows[each], len(strategies) * number) for each in ("count", "cycles")
        )
        _check_table(total.reshape(-1, len(used)) @ in_tsc(table, values(table))[used], counts, cycles, name, table)
        pieces.append(spool.array(np.stack([total, xss]) / seconds))
        operations.append(counts.reshape(len(strategies), number))
        begin += number
    return Counted(
        case=name,
        cpu=str(case["cpu"]),
        kernel=str(case["kernel"]),
        table=table,
        strategies=strategies,
        reference=str(case["reference"]),
        per=per,
        replications=replications,
        operations=np.concatenate(operations, axis=1).mean(axis=1) / seconds,
        seconds=float(seconds),
        used=used,
        pieces=pieces,
    )


_PHASE: Final = KEY.index("phase")


class _Design:
    """What an operation counts in the rows that are used, by the number of its key."""

    def __init__(self, numbers: Sequence[int], is_xss: Sequence[bool], matrix: Array) -> None:
        from scipy.sparse import csr_array  # half a second that `fpswitch price` need not wait for

        self._order = np.argsort(numbers)
        self._design = csr_array(matrix)
        self._is_xss = csr_array(np.diag(np.array(is_xss, dtype=np.float64)))

    def coefficients(self, rows: NDArray[Any], strategies: int, replications: int) -> tuple[Array, Array]:
        """The total and the part that is IA32_XSS switching: strategies x replications x rows."""
        from scipy.sparse import csr_array

        shape = (strategies * replications, len(self._order))
        counts = csr_array((rows["count"], (rows["unit"], self._order[rows["number"]])), shape=shape)
        total, xss = ((each @ self._design).toarray() for each in (counts, counts @ self._is_xss))
        of_each = (strategies, replications, total.shape[1])
        return total.reshape(of_each), xss.reshape(of_each)


def _check_all_there(
    units: NDArray[np.int32], strategies: Sequence[str], begin: int, replications: int, case: str
) -> None:
    if len(missing := np.setdiff1d(np.arange(len(strategies) * replications), units)):
        number, replication = divmod(int(missing[0]), replications)
        raise InputError(f"case {case}: no ledger of strategy {strategies[number]}, replication {begin + replication}")


def _numbered(
    ledger: pd.DataFrame, strategies: Sequence[str], begin: int, end: int, known: dict[tuple[Any, ...], int]
) -> NDArray[Any]:
    """The rows of a ledger that are of replications ``begin`` to ``end``; to the numbers of ``known`` keys new ones are
    added.
    """
    ledger = ledger[(ledger["replication"] >= begin) & (ledger["replication"] < end)]
    keys = ledger[KEY].astype(dict.fromkeys(("thread_kind", "phase", "operation", "level"), str))
    # Neither the thread nor, but for the XSS, the phase has a part in a price: what remains are a few dozen keys.
    keys = keys.assign(thread_kind="", phase=keys["phase"].where(keys["phase"] == XSS_PHASE, ""))
    code = keys.groupby(KEY, sort=False).ngroup().to_numpy()
    distinct = keys.drop_duplicates().itertuples(index=False, name=None)
    numbers = np.array([known.setdefault(key, len(known)) for key in distinct], dtype=np.int32)
    place = ledger["strategy"].map({name: i for i, name in enumerate(strategies)}).to_numpy(dtype=np.int64)
    found = np.empty(len(ledger), dtype=ROW)
    found["unit"] = place * (end - begin) + ledger["replication"].to_numpy() - begin
    found["number"] = numbers[code]
    found["count"], found["cycles"] = (ledger[column].to_numpy(dtype=np.float64) for column in ("count", "cycles"))
    return found


def _check_table(repriced: Array, operations: NDArray[Any], cycles: NDArray[Any], case: str, table: CostTable) -> None:
    """A run's own prices differ from those of its table by rounding alone."""
    if np.any(np.abs(repriced - cycles) > HALF_A_CYCLE * operations + 1e-9 * cycles):
        worst = int(np.argmax(np.abs(repriced - cycles)))
        raise InputError(
            f"case {case}: cost table {table.name} is not the one of the run: "
            f"{repriced[worst]:.0f} TSC cycles by the table, {cycles[worst]:.0f} in the ledger"
        )
