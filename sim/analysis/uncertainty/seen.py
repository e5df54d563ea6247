"""What strategies did in all replications of a case, without all of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sim.analysis.uncertainty.coefficients import Array

Blocks = Callable[[], Iterator[Array]]
"""Coefficients of some replications at a time, in their order: strategies x replications x rows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """``mean``: strategies x rows, over the replications; ``at_values``: TSC cycles with each row at its value,
    strategies x replications; ``alike``: of each strategy the first one that does the same in every replication.

    ``between`` has what two strategies, the first of the lower number, do differently.
    """

    mean: Array
    at_values: Array
    alike: NDArray[np.intp]
    between: dict[tuple[int, int], Between]

    @property
    def replications(self) -> int:
        """How many there are."""
        return int(self.at_values.shape[1])

    def difference(self, a: int, b: int) -> Between:
        """What ``a`` does more than ``b``."""
        return self.between[a, b] if a < b else self.between[b, a].turned()


@dataclass(frozen=True, slots=True)
class Between:
    """A difference of two strategies: the least and the largest of each row, and of the cycles of rows in core cycles,
    over the replications; ``squares``, rows x rows, are sums over the replications of products of what differs from
    the mean.
    """

    least: Array
    most: Array
    least_in_core: float
    most_in_core: float
    squares: Array

    def turned(self) -> Between:
        """The other one less the one."""
        return Between(-self.most, -self.least, -self.most_in_core, -self.least_in_core, self.squares)


def seen(blocks: Blocks, at_values: Array, core: Array) -> Seen:
    """Of some coefficients: two passes. ``at_values``: TSC cycles of each row; ``core``: 1 for a row in core cycles."""
    first = next(blocks())
    number, rows = len(first), first.shape[2]
    sums, same, cycles = np.zeros((number, rows)), np.ones((number, number), dtype=bool), list[Array]()
    for block in blocks():
        sums = np.add.reduce(np.concatenate([sums[:, None], block], axis=1), axis=1)  # as if all were there
        cycles.append(block @ at_values)
        for a, b in combinations(range(number), 2):
            same[a, b] = same[b, a] = same[a, b] and np.array_equal(block[a], block[b])
    alike = np.argmax(same, axis=0)
    priced = np.concatenate(cycles, axis=1)
    mean = sums / priced.shape[1]
    pairs = list(combinations(range(number), 2))
    sum_up = {pair: _Sums(mean[pair[0]] - mean[pair[1]], core * at_values) for pair in pairs}
    for block in blocks():
        for a, b in pairs:
            sum_up[a, b].take(block[a] - block[b])
    return Seen(mean, priced[alike], alike, {pair: found.whole() for pair, found in sum_up.items()})


class _Sums:
    def __init__(self, mean: Array, in_core: Array) -> None:
        self._mean, self._in_core = mean, in_core
        self._least, self._most = np.full(len(mean) + 1, np.inf), np.full(len(mean) + 1, -np.inf)
        self._squares = np.zeros((len(mean), len(mean)))

    def take(self, difference: Array) -> None:
        """Some replications, replications x rows."""
        every = np.column_stack([difference, difference @ self._in_core])
        self._least, self._most = np.minimum(self._least, every.min(axis=0)), np.maximum(self._most, every.max(axis=0))
        spread = difference - self._mean
        self._squares += spread.T @ spread

    def whole(self) -> Between:
        (*least, least_in_core), (*most, most_in_core) = self._least, self._most
        moves = np.array(least) != np.array(most)  # of others the mean may be rounded
        squares = self._squares * np.outer(moves, moves)
        return Between(np.array(least), np.array(most), float(least_in_core), float(most_in_core), squares)
