"""Every draw prices every strategy: probabilities and intervals."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np

from sim.analysis import student
from sim.analysis.uncertainty.coefficients import Array
from sim.analysis.uncertainty.counted import Counted
from sim.analysis.uncertainty.draws import Distributions, Draws, Ranges, draw
from sim.analysis.uncertainty.means import Means
from sim.analysis.uncertainty.seen import Seen

LEVEL: Final = 0.95


class Interval(NamedTuple):
    """The middle 95 % of something, with its mean, in TSC cycles per unit of ``per``."""

    mean: float
    low: float
    high: float


class Intervals(NamedTuple):
    """What is not known, by cause.

    ``replications``: Student's t over the replications, each row at its value.  ``costs``: quantiles over draws of the
    costs, of the mean over the replications.  ``joint``: quantiles over draws of both together.
    """

    replications: Interval
    costs: Interval
    joint: Interval


@dataclass(frozen=True)
class Pricing:
    """One case under all draws of its costs.

    ``costs`` (draws x strategies) is the mean over the replications under each draw of the costs; ``joint`` draws that
    mean, too, from its t distribution.  Both in TSC cycles per unit of ``coefficients.per``.
    """

    coefficients: Counted
    with_xss: bool
    draws: Draws
    means: Means
    costs: Array
    joint: Array

    @property
    def seen(self) -> Seen:
        """What this view has of the replications."""
        return self.coefficients.seen(with_xss=self.with_xss)

    @property
    def at_values(self) -> Array:
        """Strategies x replications, each row at its value."""
        return self.seen.at_values

    @cached_property
    def rows(self) -> Array:
        """Draws of the rows that are used, in TSC cycles: draws x rows."""
        return self.coefficients.taken(self.draws.rows)

    def drawn(self, a: int, b: int) -> Array:
        """How much more often each row counts in ``a`` than in ``b``, the replications' part drawn: draws x rows."""
        return self.means.of(a, with_xss=self.with_xss) - self.means.of(b, with_xss=self.with_xss)

    def are_alike(self, a: int, b: int) -> bool:
        """Whether two strategies do the same in every replication."""
        return bool(self.seen.alike[a] == self.seen.alike[b])

    def strategy(self, number: int) -> Intervals:
        """What is known of the cost of a strategy."""
        return _intervals(self.at_values[number], self.costs[:, number], self.joint[:, number])

    def difference(self, a: int, b: int) -> Intervals:
        """What is known of cost(a) - cost(b)."""
        return _intervals(
            self.at_values[a] - self.at_values[b],
            self.costs[:, a] - self.costs[:, b],
            self.joint[:, a] - self.joint[:, b],
        )

    def cheaper(self, a: int, b: int) -> float:
        """The probability that ``a`` is cheaper than ``b``; of two that do the same neither is."""
        return float(np.mean(self.joint[:, a] < self.joint[:, b]))

    def cheapest(self, number: int, among: list[int]) -> float:
        """The probability that no other strategy of ``among`` is cheaper."""
        return float(np.mean(self.joint[:, number] <= self.joint[:, among].min(axis=1)))

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Every two strategies, the cheaper one (each row at its value) first."""
        order = [int(i) for i in np.argsort(self.at_values.mean(axis=1), kind="stable")]
        return combinations(order, 2)


def draw_case(case: Counted, distributions: Distributions, *, draws: int, seed: int) -> Draws:
    """Draws of all rows that the case uses, with the XSS phase or without."""
    used = np.isin(np.arange(len(case.table.rows)), case.used)
    return draw(Ranges(case.table, tuple(used.tolist()), distributions), draws, seed)


def price_draws(case: Counted, drawn: Draws, means: Means, *, with_xss: bool) -> Pricing:
    """Prices a case with every draw."""
    seen, rows = case.seen(with_xss=with_xss), case.taken(drawn.rows)
    # A matrix product may round equal columns differently; strategies that do the same are priced once.
    costs, joint = (np.empty((len(rows), len(case.strategies))) for _ in range(2))
    for i, first in enumerate(seen.alike.tolist()):
        if first == i:
            costs[:, i] = rows @ seen.mean[i]
            joint[:, i] = np.einsum("dr,dr->d", rows, means.of(i, with_xss=with_xss))
    return Pricing(case, with_xss, drawn, means, costs[:, seen.alike], joint[:, seen.alike])


def _intervals(at_values: Array, costs: Array, joint: Array) -> Intervals:
    n = len(at_values)
    mean = float(at_values.mean())
    half = 0.0
    if n > 1:
        half = float(student.quantile((1 + LEVEL) / 2, n - 1) * at_values.std(ddof=1) / np.sqrt(n))
    return Intervals(Interval(mean, mean - half, mean + half), _middle(costs), _middle(joint))


def _middle(draws: Array) -> Interval:
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(draws.mean()), float(low), float(high))
