"""What a run did, as numbers by which the rows of its cost table are multiplied."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.costs.rows import CostTable

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """One case: coefficients of the rows of ``table``, strategies x replications x rows.

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

    @property
    def replications(self) -> int:
        """Replications of each strategy."""
        return int(self.total.shape[1])

    def of(self, *, with_xss: bool) -> Array:
        """The coefficients with the phase in which IA32_XSS is switched, or without it."""
        return self.total if with_xss else self.total - self.xss


def values(table: CostTable) -> Array:
    """The rows' values, in their own clocks."""
    return np.array([row.value for row in table.rows.values()], dtype=np.float64)
