"""Which factor explains how much of the variance of a difference: first-order Sobol indices in closed form.

A difference is D = X / q + Y: q is the ratio of the clocks, X the sum over rows in core cycles, Y over rows in TSC
cycles.  Factors are independent, so with W = 1 / q::

    Var E[D | factor g] = Var(E[W] X_g + Y_g)            X_g, Y_g: the parts of the rows of g, which move together
    Var E[D | q]        = E[X]^2 Var W
    the rest            = Var W x (sum over g of Var X_g)   the interaction of the ratio with rows in core cycles

and these sum to the variance of the costs.  The replications add the mean of their squared standard errors over the
draws.  Shares are of the sum of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sim.analysis.uncertainty.coefficients import Array
from sim.analysis.uncertainty.draws import Ranges
from sim.analysis.uncertainty.pricing import Pricing


class Shares(NamedTuple):
    """Shares of the variance of one difference, which sum to 1 (all 0 for a difference that has none).

    ``factors``: by factor, without those of no share; ``interaction``: of the ratio with rows in core cycles.
    ``deviation``: the standard deviation, in TSC cycles per unit of the case.
    """

    factors: dict[str, float]
    interaction: float
    replications: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Moments:
    """Means and covariances of the rows of a table, in their own clocks, and of 1 / ratio."""

    mean: Array
    covariance: Array
    inverse_ratio_mean: float
    inverse_ratio_variance: float
    member: Array


def moments(ranges: Ranges) -> Moments:
    """The moments over the rows' distributions; rows of different factors have covariance 0."""
    grid = ranges.grid
    member = np.zeros((grid.shape[1], len(ranges.factors)))
    for i, number in enumerate(ranges.factor_of.values()):
        member[i, number] = 1
    inverse = 1 / grid[:, ranges.ratio]
    spread = grid - grid.mean(axis=0)
    covariance = (spread.T @ spread) / len(grid) * (member @ member.T)
    return Moments(grid.mean(axis=0), covariance, float(inverse.mean()), float(inverse.var()), member)


def shares(pricing: Pricing, pairs: Sequence[tuple[int, int]], known: Moments | None = None) -> list[Shares]:
    """The shares for cost(a) - cost(b), for each pair (a, b); ``known``: :func:`moments`, if they are at hand."""
    ranges = pricing.draws.ranges
    found = known or moments(ranges)
    used = pricing.coefficients.in_table(pricing.seen.mean)
    differences = np.array([used[a] - used[b] for a, b in pairs])
    core = differences * ranges.core
    whole = core * found.inverse_ratio_mean + differences * (1 - ranges.core)
    # The ratio's own column has no coefficient in a difference: it only divides.
    by_factor = ((whole @ found.covariance) * whole) @ found.member
    by_factor[:, ranges.factors.index(_ratio_factor(ranges))] = (core @ found.mean) ** 2 * found.inverse_ratio_variance
    interaction = ((core @ found.covariance) * core).sum(axis=1) * found.inverse_ratio_variance
    second_moment = pricing.rows.T @ pricing.rows / len(pricing.rows)
    noise = np.array([_squared_standard_error(pricing, second_moment, a, b) for a, b in pairs])
    variance = by_factor.sum(axis=1) + interaction + noise
    results = []
    for i, total in enumerate(variance):
        scale = 1 / total if total > 0 else 0.0
        named = {name: float(by_factor[i, j] * scale) for j, name in enumerate(ranges.factors) if by_factor[i, j] > 0}
        named = dict(sorted(named.items(), key=lambda item: -item[1]))
        results.append(Shares(named, float(interaction[i] * scale), float(noise[i] * scale), float(np.sqrt(total))))
    return results


def _ratio_factor(ranges: Ranges) -> str:
    return ranges.factors[list(ranges.factor_of.values())[ranges.ratio]]


def _squared_standard_error(pricing: Pricing, second_moment: Array, a: int, b: int) -> float:
    """The mean over the draws of the squared standard error of the mean difference, T' S T / n in closed form."""
    n = pricing.seen.replications
    return float(np.sum(pricing.seen.difference(a, b).squares * second_moment) / (n - 1) / n) if n > 1 else 0.0
