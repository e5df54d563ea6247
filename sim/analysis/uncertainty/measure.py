"""What to measure next: the factor whose exact value would take most doubt from the ranking.

The doubt of a pair is the probability that the order one would name is the wrong one: min(p, 1 - p), where p is the
probability that the first is cheaper.  The doubt of the ranking is the sum over all pairs, the expected number of pairs
in the wrong order.  If a factor were known to be at its quantile u, p would be P(first cheaper | u), and one would name
the order that is likelier then: the doubt that is left is the mean over u of min(p(u), 1 - p(u)), never more than
before.  Knowing the replications' means exactly, by running more of them, is treated as a factor like the others.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from sim.analysis import student
from sim.analysis.uncertainty.coefficients import Array
from sim.analysis.uncertainty.draws import quantile
from sim.analysis.uncertainty.pricing import Pricing
from sim.costs.rows import RATIO

REPLICATIONS: Final = "more replications"
NODES: Final = 16
"""Quantiles at which a factor is assumed to be known; midpoints of equal parts."""
LITTLE: Final = 1e-3
"""A pair with less doubt is decided."""


class Gain(NamedTuple):
    """``reduction``: how much of the doubt ``before`` is expected to disappear if ``factor`` is known; ``pairs``: by
    pair."""

    factor: str
    before: float
    reduction: float
    pairs: dict[tuple[str, str], float]


def measure_next(pricing: Pricing) -> list[Gain]:
    """Every factor that would take doubt from the ranking, the one that takes most first."""
    names = pricing.coefficients.strategies
    before, gains = 0.0, dict[str, dict[tuple[str, str], float]]()
    for a, b in pricing.pairs():
        if pricing.are_alike(a, b):
            continue
        doubt = _doubt(pricing.joint[:, a] - pricing.joint[:, b])
        before += doubt
        if doubt < LITTLE:
            continue
        for factor, taken in _reductions(pricing, a, b):
            if taken > 0:
                gains.setdefault(factor, {})[names[a], names[b]] = taken
    found = [
        Gain(factor, before, sum(pairs.values()), dict(sorted(pairs.items(), key=lambda item: -item[1])))
        for factor, pairs in gains.items()
    ]
    return sorted(found, key=lambda gain: -gain.reduction)


def _doubt(differences: Array) -> float:
    p = float(np.mean(differences < 0))
    return min(p, 1 - p)


def _reductions(pricing: Pricing, a: int, b: int) -> Iterator[tuple[str, float]]:
    """By factor, what knowing it takes from the doubt of one pair, all else drawn as before."""
    ranges, ratio, seen = pricing.draws.ranges, pricing.draws.ratio, pricing.seen
    difference, rows = seen.difference(a, b), pricing.rows
    some = np.flatnonzero((difference.least != 0) | (difference.most != 0))
    columns = pricing.coefficients.used[some]
    coefficients = pricing.drawn(a, b)[:, some]
    parts = rows[:, some] * coefficients
    whole = parts.sum(axis=1)
    doubt = _doubt(whole)
    nodes = (np.arange(NODES) + 0.5) / NODES
    table = ranges.table
    row_of = list(table.rows.values())
    numbers = list(ranges.factor_of.values())
    of_column = np.array([numbers[i] for i in columns])
    core = ranges.core[columns].astype(bool)
    for number in dict.fromkeys(of_column.tolist()):
        mine = np.flatnonzero(of_column == number)
        rest = whole - parts[:, mine].sum(axis=1)
        at = np.array([quantile(row_of[columns[i]], nodes, ranges.distributions) for i in mine])
        scale = np.where(core[mine], 1 / ratio[:, None], 1.0)
        yield ranges.factors[number], doubt - _left(rest[:, None] + (coefficients[:, mine] * scale) @ at)
    if core.any():
        in_core = parts[:, core].sum(axis=1)
        at = quantile(table.rows[RATIO], nodes, ranges.distributions)
        known = (whole - in_core)[:, None] + (in_core * ratio)[:, None] / at
        yield RATIO, doubt - _left(known)
    if (n := seen.replications) > 1:
        mean = rows @ (seen.mean[a] - seen.mean[b])
        squares = np.einsum("dr,dr->d", rows @ difference.squares, rows)  # of what differs from the mean
        error = np.sqrt(np.maximum(squares, 0) / (n - 1) / n)
        at = student.quantile(nodes, n - 1)
        yield REPLICATIONS, doubt - _left(mean[:, None] + error[:, None] * at)


def _left(known: Array) -> float:
    """The mean doubt over the columns, each of them draws of a difference with something known."""
    p = np.mean(known < 0, axis=0)
    return float(np.mean(np.minimum(p, 1 - p)))
