"""Whether bursts and sleeps of a thread depend on those before them, as in phases of a load, or are few and unequal; if
so, order is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_ROWS: Final = 50
"""Bursts from which on a correlation says something."""
SIGMAS: Final = 3.3
"""1 in 1,000 of independent samples is farther from 0."""
LEAST: Final = 0.1
"""A smaller correlation changes little."""
LEAST_BLOCK: Final = 8
FEWEST_BLOCKS: Final = 8
"""In a recording, so that they can come in another order."""
REACH: Final = 4
"""A block is as many times as long as the correlation reaches."""


UNEQUAL: Final = 0.05
"""Standard error of the CPU time of as many independent bursts, or of the time that they and their sleeps take, from
which on all come in recorded order: what is compared may differ by as much."""
MOST: Final = 2000
"""Rows of a file (MOST_SAMPLES of sim.trace.fit.writing)."""


@dataclass(frozen=True, slots=True)
class Order:
    """``rows`` of a block, and ``why`` there are any; of phases also the largest correlation, and that of independent
    samples."""

    rows: int
    why: str
    correlation: float = 0.0
    bound: float = 0.0


def whole(bursts: Sequence[float], sleeps: Sequence[float]) -> Order | None:
    """All rows in their order, if they are so few and unequal that as many, drawn with replacement, would have another
    CPU time, or take another time; None if not.

    A simulated run of the length of the trace then has about the long bursts that the trace has.
    """
    rows = len(bursts)
    if not 0 < rows <= MOST or len(sleeps) != rows:
        return None
    if rows == 1:
        return Order(2, "once in the trace, at some time")
    burst, sleep = (np.asarray(each, np.float64) for each in (bursts, sleeps))
    error = max(float(each.std() / max(1.0, each.mean())) for each in (burst, burst + sleep)) / np.sqrt(rows)
    if error < UNEQUAL:
        return None
    return Order(rows, f"in recorded order: of as many independent ones the sum varies by {error:.0%}")


def order(bursts: Sequence[float], sleeps: Sequence[float]) -> Order | None:
    """None if ``sleeps``, each after its burst, and ``bursts`` look independent of those before them and each other.

    Correlations are those of logarithms, of neighbours and of a burst with its sleep.
    """
    rows = len(bursts)
    if rows < LEAST_ROWS or len(sleeps) != rows:
        return None
    burst, sleep = (_normal(np.log(np.maximum(np.asarray(each, np.float64), 1.0))) for each in (bursts, sleeps))
    found = {
        "a burst with the next": float((burst[:-1] * burst[1:]).mean()),
        "a sleep with the next": float((sleep[:-1] * sleep[1:]).mean()),
        "a burst with its sleep": float((burst * sleep).mean()),
    }
    of = max(found, key=lambda each: abs(found[each]))
    bound = SIGMAS / np.sqrt(rows)
    if abs(found[of]) <= max(bound, LEAST):
        return None
    reach = max(_reach(burst, bound), _reach(sleep, bound))
    block = max(LEAST_BLOCK, min(REACH * reach, rows // FEWEST_BLOCKS))
    why = (
        f"in recorded blocks: the correlation of {of} is {found[of]:.2f}, where independent ones are within {bound:.2f}"
    )
    return Order(block, why, found[of], float(bound)) if 2 <= block < rows else None


def _normal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = float(values.std())
    return (values - values.mean()) / deviation if deviation > 1e-9 else np.zeros_like(values)


def _reach(values: NDArray[np.float64], bound: float) -> int:
    """The first lag at which the correlation is no longer outside the bound."""
    for lag in range(1, len(values) // FEWEST_BLOCKS):
        if abs(float((values[:-lag] * values[lag:]).mean())) <= bound:
            return lag
    return len(values) // FEWEST_BLOCKS
