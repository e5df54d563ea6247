"""At which value of one row, all others at their values, two strategies cost the same."""

import math
from typing import Final, Literal, NamedTuple

from sim.analysis.uncertainty.coefficients import values
from sim.analysis.uncertainty.pricing import Pricing
from sim.costs.price import in_tsc
from sim.costs.rows import RATIO, CostRow

NOTHING: Final = 1e-9
"""Cycles; two strategies that differ in one row alone cost the same when it costs nothing."""


class BreakEven(NamedTuple):
    """``cheaper`` costs less than ``more_expensive`` with each row at its value, and as much with ``row`` at ``value``.

    ``wins``: the more expensive one is cheaper when the row is under, or over, that value.  ``value`` is in the row's
    clock.  ``within``: the value lies in the row's range.  ``value`` is None if it would have to be negative, or
    nothing at all: no value of this row, alone, makes the more expensive one cheaper.  ``steady``: the row counts more
    often in the same one of both in every replication; where it does not, chance has a part in the value.
    """

    cheaper: str
    more_expensive: str
    row: str
    value: float | None
    wins: Literal["under", "over"]
    within: bool
    steady: bool


def break_even(pricing: Pricing, a: int, b: int) -> list[BreakEven]:
    """For every row that counts differently in a and b, where their order turns; the nearest to its range first."""
    case = pricing.coefficients
    used = case.in_table(pricing.seen.mean)
    at = in_tsc(case.table, values(case.table))
    if float((used[a] - used[b]) @ at) > 0:
        a, b = b, a
    difference = used[b] - used[a]
    gap = float(difference @ at)
    moved = pricing.seen.difference(b, a)
    least, most = case.in_table(moved.least), case.in_table(moved.most)
    found = []
    for i, row in enumerate(case.table.rows.values()):
        scale = case.table.scale(row)
        if row.id == RATIO:
            core = float((difference * pricing.draws.ranges.core) @ at) * case.table.ratio
            in_tsc_clock = float((difference * (1 - pricing.draws.ranges.core)) @ at)
            if core == 0 or in_tsc_clock == 0:
                continue
            value, slope = -core / in_tsc_clock, -core
            steady = moved.least_in_core > 0 or moved.most_in_core < 0
        elif difference[i] != 0:
            slope = float(difference[i] * scale)
            value = row.value - gap / slope
            steady = bool(least[i] > 0 or most[i] < 0)
        else:
            continue
        wins: Literal["under", "over"] = "under" if slope > 0 else "over"
        possible = value if value > NOTHING else None
        within = possible is not None and row.low <= value <= row.high
        found.append(BreakEven(case.strategies[a], case.strategies[b], row.id, possible, wins, within, steady))
    rows = case.table.rows
    return sorted(found, key=lambda each: _distance(each.value, rows[each.row]))


class Together(NamedTuple):
    """Both cost the same when all that counts more often in ``more_expensive`` costs ``share`` of its value."""

    cheaper: str
    more_expensive: str
    share: float


def together(pricing: Pricing, a: int, b: int) -> Together:
    """What is left of the costs in which the more expensive of two strategies costs more, when both cost the same.

    Rows that count more often in the more expensive one, all multiplied by the same number and the others at their
    values; 1 for two that cost the same.
    """
    case = pricing.coefficients
    at = in_tsc(case.table, values(case.table))
    each = case.in_table(pricing.seen.mean[b] - pricing.seen.mean[a]) * at
    if each.sum() < 0:
        a, b, each = b, a, -each
    more, less = float(each[each > 0].sum()), float(abs(each[each < 0].sum()))
    return Together(case.strategies[a], case.strategies[b], less / more if more else 1.0)


def _distance(value: float | None, row: CostRow) -> float:
    """How far outside its range a value lies, as a multiple of the range."""
    if value is None:
        return math.inf
    outside = max(row.low - value, value - row.high, 0.0)
    return outside / (row.high - row.low) if row.high > row.low else math.inf if outside else 0.0
