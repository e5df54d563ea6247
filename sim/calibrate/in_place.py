"""XSAVES and XRSTORS where the kernel executes them, at CPL 0: the terms of their prices from differences.

Two series of measurements are possible without own code at CPL 0: what a call costs more if XSAVES writes some
components than if it skips them, and if XRSTORS loads them than if it initialises them (:mod:`sim.calibrate.calls`
takes them).  Each is by in-use set, in TSC cycles, and there may be several: two calls, registers touched or not.

A save in place is not the sum of what single components cost.  The stores overlap with what follows, and the expensive
part is to write anything at all: on a Zen 4, x87 alone costs 17 TSC cycles, OPMASK alone 10, and both with SSE and AVX
23.  So a term ``writing`` counts once if anything is written, beside a term for each component.  Non-negative least
squares over the in-use sets gives them; with it the eleven sets of that Zen 4 come out within 3 TSC cycles, without it
10 off.

Of a restore only the difference between loading and initialising shows.  It may be negative; its smaller part is taken
as zero, as in :mod:`sim.calibrate.rows`.  The sum of the components' differences fits within 3 TSC cycles.

The values are those of the first series.  The range of a term is that of fits to every series, its low and high ends
among them, and then widened alike for all terms until the sum of the low ends is below everything that was measured,
and that of the high ends above.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sim.calibrate.fit import sum_of
from sim.calibrate.rows import PRIVILEGE_MARGIN, Line
from sim.calibrate.samples import Floats, Interval
from sim.costs.rows import COMPONENT_NAMES
from sim.xsave.components import bits

Series = Mapping[int, Interval]
"""TSC cycles by in-use set; the empty set is not included."""

_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Terms:
    """TSC cycles: ``writing`` once if any component is written (a restore has none), and by component.

    ``sets`` counts the in-use sets of the first series; ``misfit`` is the largest deviation from it in TSC cycles.
    """

    writing: Interval | None
    components: Mapping[int, Interval]
    sets: int
    misfit: float


def of_saves(series: Sequence[Series]) -> Terms:
    """Of XSAVES: ``writing`` and what each component costs that is written; none is negative."""
    return _terms(series, once=True)


def of_restores(series: Sequence[Series]) -> Terms:
    """Of XRSTORS: by component, what loading costs more than initialising; it may be less."""
    return _terms(series, once=False)


def added(series: Series, warm: Series) -> dict[int, Interval]:
    """What ``series`` has over ``warm``, by the in-use sets that both have: what a farther level adds."""
    return {
        each: Interval(found.value - warm[each].value, found.low - warm[each].high, found.high - warm[each].low)
        for each, found in series.items()
        if each in warm
    }


def of_levels(series: Sequence[Series]) -> Terms:
    """Of what :func:`added` returns: by component, and none is negative."""
    return _terms(series, once=False, non_negative=True)


def save_lines(terms: Terms, ratio: float, how: str, origin: tuple[str, ...]) -> list[Line]:
    """The rows of XSAVES: ``writing`` and ``written``, in core cycles, of which ``ratio`` are one TSC cycle."""
    assert terms.writing is not None
    lines = [Line("XSAVES", "writing", _core(terms.writing, ratio), "derived", how, origin=origin)]
    return lines + [
        Line("XSAVES", "written", _core(term, ratio), "derived", how, COMPONENT_NAMES[number], origin=origin)
        for number, term in terms.components.items()
    ]


def restore_lines(
    terms: Terms, ratio: float, nothing: Interval, how: str, origin: tuple[str, ...], whole: str
) -> list[Line]:
    """The rows of XRSTORS: loading and initialising each component, and a base, in core cycles.

    With nothing in use it costs ``nothing``, that of the ``whole`` row, since what was measured is less just that:
    XRSTOR in user mode, which gets a margin, or XRSTORS in a guest.
    """
    lines, initialising = [], 0.0
    for number, term in terms.components.items():
        name, more = COMPONENT_NAMES[number], _core(term, ratio)
        less = Interval(-more.value, -more.high, -more.low)
        initialising += max(less.value, 0)
        for which, each in (("loaded", more), ("initialised", less)):
            positive = Interval(*(max(x, 0.0) for x in (each.value, each.low, each.high)))
            lines.append(Line("XRSTORS", which, positive, "derived", how, name, origin=origin))
    value, low, high = (x - initialising for x in (nothing.value, nothing.low, nothing.high))
    said = "with nothing in use, less what this table has for initialising"
    if whole.startswith("XRSTORS/"):
        base, said = Interval(value, low, high), f"XRSTORS in a guest {said}"
    else:
        base = Interval(value, low * (1 - PRIVILEGE_MARGIN), high * (1 + PRIVILEGE_MARGIN))
        said = f"XRSTOR stands in for XRSTORS {said}; range: 10 % more"
    return [Line("XRSTORS", "base", base, "derived", said, origin=(whole,)), *lines]


def level_lines(terms: Terms, ratio: float, level: str, how: str, origin: tuple[str, ...]) -> list[Line]:
    """The rows of what a farther level adds to loading."""
    return [
        Line("XRSTORS", "loaded", _core(term, ratio), "derived", how, COMPONENT_NAMES[number], level, origin=origin)
        for number, term in terms.components.items()
    ]


def _core(term: Interval, ratio: float) -> Interval:
    return Interval(term.value * ratio, term.low * ratio, term.high * ratio)


def _terms(series: Sequence[Series], once: bool, non_negative: bool = False) -> Terms:
    numbers = bits[sum_of(list(series[0]))]
    non_negative |= once
    # A series of fewer sets, which cannot tell the components apart, says nothing by itself but must be in the range.
    whole = [each for each in series if len(each) > len(numbers)]
    ends = [
        _fit(each, numbers, [getattr(found, end) for found in each.values()], once, non_negative)
        for each in whole
        for end in ("value", "low", "high")
    ]
    value, low, high = ends[0], np.min(ends, axis=0), np.max(ends, axis=0)
    for each in series:
        columns = _columns(list(each), numbers, once)
        low = _widened(columns, low, np.array([found.low for found in each.values()]), 0.0 if non_negative else -np.inf)
        high = -_widened(columns, -high, -np.array([found.high for found in each.values()]), -np.inf)
    first = series[0]
    misfit = np.abs(_columns(list(first), numbers, once) @ value - [found.value for found in first.values()]).max()
    found = [Interval(*(float(x) for x in each)) for each in zip(value, low, high, strict=True)]
    writing = found.pop(0) if once else None
    return Terms(writing, dict(zip(numbers, found, strict=True)), len(first), float(misfit))


def _columns(sets: Sequence[int], numbers: Sequence[int], once: bool) -> Floats:
    presence = np.array([[each >> number & 1 for number in numbers] for each in sets], float)
    return np.column_stack([np.ones(len(sets)), presence]) if once else presence


def _fit(series: Series, numbers: Sequence[int], cycles: Sequence[float], once: bool, non_negative: bool) -> Floats:
    from scipy.optimize import lsq_linear

    bounds = (0.0 if non_negative else -np.inf, np.inf)
    return np.asarray(lsq_linear(_columns(list(series), numbers, once), np.asarray(cycles), bounds).x)


def _widened(columns: Floats, low: Floats, wanted: Floats, least: float) -> Floats:
    """``low``, taken down alike for all terms but not below ``least``, until no sum of them is above what is wanted."""
    while True:
        terms = (columns * (low > least)).sum(axis=1)
        over = np.where(terms > 0, (columns @ low - wanted) / np.maximum(terms, 1), 0.0).max()
        if over <= _ROUNDING:
            return low
        low = np.maximum(low - over, least)
