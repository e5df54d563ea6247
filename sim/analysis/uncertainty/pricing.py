"""Every draw prices every strategy: probabilities and intervals."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
from scipy.stats import t as student

from sim.analysis.uncertainty.coefficients import Array, Coefficients, values
from sim.analysis.uncertainty.draws import Distributions, Draws, Ranges, draw
from sim.costs.price import in_tsc

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

    coefficients: Coefficients
    with_xss: bool
    draws: Draws
    costs: Array
    joint: Array

    @cached_property
    def used(self) -> Array:
        """The coefficients of this view, strategies x replications x rows."""
        return self.coefficients.of(with_xss=self.with_xss)

    @cached_property
    def at_values(self) -> Array:
        """Strategies x replications, each row at its value."""
        table = self.coefficients.table
        found: Array = self.used @ in_tsc(table, values(table))
        return found

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


def draw_case(coefficients: Coefficients, distributions: Distributions, *, draws: int, seed: int) -> Draws:
    """Draws of all rows that the case uses, with the XSS phase or without, and of its replications."""
    used = tuple(bool(each) for each in np.any(coefficients.total != 0, axis=(0, 1)))
    return draw(Ranges(coefficients.table, used, distributions), draws, coefficients.replications, seed)


def price_draws(coefficients: Coefficients, drawn: Draws, *, with_xss: bool) -> Pricing:
    """Prices a case with every draw."""
    vectors = coefficients.of(with_xss=with_xss)
    # A matrix product may round equal columns differently; strategies that do the same are priced once.
    distinct, number = np.unique(vectors.reshape(len(vectors), -1), axis=0, return_inverse=True)
    vectors = distinct.reshape(-1, *vectors.shape[1:])
    priced = (drawn.rows @ vectors.reshape(-1, vectors.shape[2]).T).reshape(-1, *vectors.shape[:2])
    joint = np.einsum("dsr,dr->ds", priced, drawn.weights)
    return Pricing(coefficients, with_xss, drawn, priced.mean(axis=2)[:, number], joint[:, number])


def _intervals(at_values: Array, costs: Array, joint: Array) -> Intervals:
    n = len(at_values)
    mean = float(at_values.mean())
    half = 0.0
    if n > 1:
        half = float(student.ppf((1 + LEVEL) / 2, n - 1) * at_values.std(ddof=1) / np.sqrt(n))
    return Intervals(Interval(mean, mean - half, mean + half), _middle(costs), _middle(joint))


def _middle(draws: Array) -> Interval:
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(draws.mean()), float(low), float(high))
