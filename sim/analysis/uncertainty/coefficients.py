"""What a run did, as numbers by which the rows of its cost table are multiplied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.costs.price import design_matrix, in_tsc
from sim.costs.rows import CostRow, CostTable
from sim.errors import InputError
from sim.kernel.operations import XSS_PHASE

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

KEY: Final = ["thread_kind", "phase", "operation", "rfbm", "components", "initialised", "level"]
HALF_A_CYCLE: Final = 0.5
"""What rounding may take from or add to the price of one operation."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """One case: coefficients of the rows of ``table``, strategies x replications x rows.

    Where ``used`` is given, they are those of the rows of these numbers alone; of the others they are 0: of hundreds of
    rows a case uses some dozens, and there may be ten thousand replications.

    A coefficient is how often the row counts per unit of ``per`` (vCPU-second, or CPU-second in a case without vCPUs);
    ``xss`` is the part of it that is IA32_XSS switching.  ``operations`` are the operations per unit of ``per``, by
    strategy, which bound what rounding does; ``seconds`` are the vCPU-seconds (or CPU-seconds) of a replication.
    ``violating`` are the strategies that were caught violating integrity: their cost is not comparable;
    ``not_carrying`` those that carry nothing, and so have nothing to be compared.
    """

    case: str
    cpu: str
    kernel: str
    table: CostTable
    strategies: tuple[str, ...]
    reference: str
    per: str
    total: Array
    xss: Array
    operations: Array
    seconds: float
    violating: frozenset[str] = frozenset()
    not_carrying: frozenset[str] = frozenset()
    used: NDArray[np.intp] | None = None

    @property
    def replications(self) -> int:
        """Replications of each strategy."""
        return int(self.total.shape[1])

    @property
    def rows(self) -> list[CostRow]:
        """The rows that there are coefficients of."""
        every = list(self.table.rows.values())
        return every if self.used is None else [every[i] for i in self.used]

    def taken(self, of_table: NDArray[Any]) -> NDArray[Any]:
        """Of something that is there for each row of the table, in its last dimension, what these rows have."""
        return of_table if self.used is None else of_table[..., self.used]

    def whole(self) -> Coefficients:
        """The same with all rows of the table."""
        if self.used is None:
            return self
        total, xss = (np.zeros((*self.total.shape[:2], len(self.table.rows))) for _ in range(2))
        total[..., self.used], xss[..., self.used] = self.total, self.xss
        return replace(self, total=total, xss=xss, used=None)

    def of(self, *, with_xss: bool) -> Array:
        """The coefficients with the phase in which IA32_XSS is switched, or without it."""
        return self.total if with_xss else self.total - self.xss


def values(table: CostTable) -> Array:
    """The rows' values, in their own clocks."""
    return np.array([row.value for row in table.rows.values()], dtype=np.float64)


def from_ledger(ledger: pd.DataFrame, case: Mapping[str, Any], replications: int, table: CostTable) -> Coefficients:
    """The coefficients of one case: those of :func:`of_used_rows` with all rows of the table."""
    return of_used_rows([ledger], case, replications, table).whole()


def of_used_rows(
    ledgers: Iterable[pd.DataFrame], case: Mapping[str, Any], replications: int, table: CostTable
) -> Coefficients:
    """The coefficients of one case, of the rows that it uses.

    ``ledgers``, each of some replications: the columns case, strategy, replication, :data:`KEY`, count and cycles;
    ``case``: the entry of the manifest.  Raises :class:`InputError` for a strategy that lacks a replication, and for a
    table that is not the one the run was priced with.
    """
    import pandas as pd  # with SciPy, a second that `fpswitch price` need not wait for
    from scipy.sparse import csr_array

    name = str(case["case"])
    strategies = tuple(str(each) for each in case["strategies"])
    units = pd.MultiIndex.from_product([strategies, range(replications)], names=["strategy", "replication"])
    known: dict[tuple[Any, ...], int] = {}
    some = [_numbered(ledger[ledger["case"] == name], units, known) for ledger in ledgers]
    unit, number, count, cycles = (np.concatenate(each) for each in zip(*some, strict=True))
    if len(missing := np.setdiff1d(np.arange(len(units)), unit)):
        strategy, replication = units[int(missing[0])]
        raise InputError(f"case {name}: no ledger of strategy {strategy}, replication {replication}")
    distinct = sorted(known)
    number = np.argsort([known[key] for key in distinct])[number]
    matrix = design_matrix(distinct, table)
    used = np.flatnonzero(np.any(matrix != 0, axis=0))
    design = csr_array(matrix[:, used])
    counts = csr_array((count, (unit, number)), shape=(len(units), len(distinct)))
    is_xss = csr_array(np.diag(np.array([key[KEY.index("phase")] == XSS_PHASE for key in distinct], dtype=np.float64)))
    shape = (len(strategies), replications, len(used))
    total = (counts @ design).toarray()
    priced = total @ in_tsc(table, values(table))[used]
    _check_table(priced, np.bincount(unit, count), np.bincount(unit, cycles), name, table)
    per, seconds = ("vCPU-second", case["vcpus"]) if case["vcpus"] else ("CPU-second", case["cpus"])
    seconds *= case["measure_s"]
    return Coefficients(
        case=name,
        cpu=str(case["cpu"]),
        kernel=str(case["kernel"]),
        table=table,
        strategies=strategies,
        reference=str(case["reference"]),
        per=per,
        total=total.reshape(shape) / seconds,
        xss=(counts @ is_xss @ design).toarray().reshape(shape) / seconds,
        operations=np.bincount(unit, count).reshape(shape[:2]).mean(axis=1) / seconds,
        seconds=float(seconds),
        used=used,
    )


def _numbered(
    ledger: pd.DataFrame, units: pd.MultiIndex, known: dict[tuple[Any, ...], int]
) -> tuple[NDArray[np.int32], NDArray[np.int32], Array, Array]:
    """Of the rows of a ledger that are of these units: the unit, the number of the key, count and cycles.

    ``known`` are the numbers of keys, to which new ones are added.
    """
    import pandas as pd

    unit = units.get_indexer(pd.MultiIndex.from_arrays([ledger["strategy"].astype(str), ledger["replication"]]))
    ledger, unit = ledger[unit >= 0], unit[unit >= 0]
    keys = ledger[KEY].astype(dict.fromkeys(("thread_kind", "phase", "operation", "level"), str))
    # Neither the thread nor, but for the XSS, the phase has a part in a price: what remains are a few dozen keys.
    keys = keys.assign(thread_kind="", phase=keys["phase"].where(keys["phase"] == XSS_PHASE, ""))
    code = keys.groupby(KEY, sort=False).ngroup().to_numpy()
    distinct = keys.drop_duplicates().itertuples(index=False, name=None)
    number = np.array([known.setdefault(key, len(known)) for key in distinct], dtype=np.int32)[code]
    count, cycles = (ledger[column].to_numpy(dtype=np.float64) for column in ("count", "cycles"))
    return unit.astype(np.int32), number, count, cycles


def _check_table(repriced: Array, operations: NDArray[Any], cycles: NDArray[Any], case: str, table: CostTable) -> None:
    """A run's own prices differ from those of its table by rounding alone."""
    if np.any(np.abs(repriced - cycles) > HALF_A_CYCLE * operations + 1e-9 * cycles):
        worst = int(np.argmax(np.abs(repriced - cycles)))
        raise InputError(
            f"case {case}: cost table {table.name} is not the one of the run: "
            f"{repriced[worst]:.0f} TSC cycles by the table, {cycles[worst]:.0f} in the ledger"
        )
