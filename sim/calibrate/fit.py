"""The terms of a price from whole instructions, by least squares over the in-use sets.

The composition (:mod:`sim.costs.price`) of an instruction that had all of XCR0 requested is a base and a term for each
component that is in use, or for each that is not.  Which of the two a component costs cannot be told from such
measurements: only their difference can.  The smaller is taken to be zero, so that no term is negative: ``base_set``
are the components of which the absence costs more (on some CPUs XRSTOR takes longer to initialise than to load),
and the base is the whole instruction as it was measured with exactly those in use.  Non-negative least
squares: Lawson and Hanson 1974, in scipy.optimize.nnls.

A far buffer is not that simple: misses overlap, and a save that the store buffer takes in costs nothing more.  There
the terms are fitted to the sets that programs leave behind (:func:`nested`), each weighted by its cost, so that the
error is a part of the price.

The interval of a term is that of refits to processes drawn with replacement (bootstrap, percentiles), widened on both
sides by the root mean square of what the fit leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sim.calibrate.samples import CONFIDENCE, Floats, Interval, median_interval
from sim.xsave.components import bits

DRAWS: Final = 200
SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Terms:
    """A base, and a term for each component: for its presence, or for its absence if it is in ``base_set``."""

    base_set: int
    base: Interval
    components: dict[int, Interval]
    sets: int
    misfit: float
    """The largest deviation of the composition from a measured instruction, as a part of that instruction."""


def warm(sets: Sequence[int], values: Floats, base_set: int | None = 0) -> Terms:
    """The terms of an instruction: ``values`` by in-use set (of ``sets``) and process, in core cycles.

    ``base_set`` None: the components of which the absence costs more than the presence, or the nearest set that
    programs leave.
    """
    medians = _medians(values)
    numbers = bits[sum_of(sets)]
    if base_set is None:
        presence = np.column_stack([np.ones(len(sets)), _columns(sets, numbers, 0)])
        slopes = np.linalg.lstsq(presence, medians, rcond=None)[0][1:]
        wanted = sum(1 << number for number, slope in zip(numbers, slopes, strict=True) if slope < 0)
        base_set = min(nested(sets), key=lambda each: (each ^ wanted).bit_count())
    columns, at = _columns(sets, numbers, base_set), list(sets).index(base_set)
    draws = np.array([_pinned(columns, draw, at) for draw in _resampled(values) if not np.isnan(draw[at])])
    fitted = _pinned(columns, medians, at)
    base = median_interval(values[at])
    assert base is not None
    residual = medians[at] + columns @ fitted - medians
    misfit = float((np.abs(residual) / medians).max())
    return Terms(base_set, base, _intervals(numbers, fitted, draws, _rms(residual)), len(sets), misfit)


def colder(sets: Sequence[int], values: Floats, warmer: Floats) -> Terms:
    """What is added when the buffer is at a farther level: a base, and a term for each component in use."""
    added = values - warmer
    numbers = bits[sum_of(sets)]
    columns = np.column_stack([np.ones(len(sets)), _columns(sets, numbers, 0)])
    whole, medians = _medians(values), _medians(added)
    fitted = _nnls(columns, medians, whole)
    draws = np.array([_nnls(columns, draw, whole) for draw in _resampled(added)])
    residual = columns @ fitted - medians
    intervals = _intervals([_BASE, *numbers], fitted, draws, _rms(residual))
    misfit = float((np.abs(residual) / whole).max())
    return Terms(0, intervals.pop(_BASE), intervals, len(sets), misfit)


def nested(sets: Sequence[int]) -> list[int]:
    """The sets in which each vector component comes with all lower ones, with x87 or without: what programs leave."""
    others = [number for number in bits[sum_of(sets)] if number]
    chain = [sum(1 << number for number in others[:n]) for n in range(len(others) + 1)]
    return [each for each in sets if each & ~1 in chain and each != 1]


_BASE: Final = -1


def _rms(residual: Floats) -> float:
    return float(np.sqrt(np.mean(residual**2)))


def sum_of(sets: Sequence[int]) -> int:
    """All components of all sets."""
    return int(np.bitwise_or.reduce(np.array(sets, np.int64)))


def _columns(sets: Sequence[int], numbers: Sequence[int], base_set: int) -> Floats:
    """One where a set differs from the base set in a component."""
    return np.array([[(each ^ base_set) >> number & 1 for number in numbers] for each in sets], float)


def _pinned(columns: Floats, values: Floats, at: int) -> Floats:
    return _nnls(columns, values - values[at])


def _nnls(columns: Floats, values: Floats, scale: Floats | float = 1.0) -> Floats:
    from scipy.optimize import nnls

    known = ~np.isnan(values)
    per = (np.ones(len(values)) * scale)[known]
    return np.asarray(nnls(columns[known] / per[:, None], values[known] / per)[0])


def _resampled(values: Floats) -> list[Floats]:
    rng = np.random.default_rng(SEED)
    processes = values.shape[1]
    return [_medians(values[:, rng.integers(processes, size=processes)]) for _ in range(DRAWS)]


def _medians(values: Floats) -> Floats:
    """The median of each row without its NaN; NaN for a row that has nothing else."""
    found = np.full(len(values), np.nan)
    some = ~np.isnan(values).all(axis=1)
    found[some] = np.nanmedian(values[some], axis=1)
    return found


def _intervals(numbers: Sequence[int], fitted: Floats, draws: Floats, margin: float) -> dict[int, Interval]:
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [outside, 100 - outside], axis=0)
    return {
        number: Interval(float(value), float(max(min(low[i], value) - margin, 0)), float(max(high[i], value) + margin))
        for i, (number, value) in enumerate(zip(numbers, fitted, strict=True))
    }
