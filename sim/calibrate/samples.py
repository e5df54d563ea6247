"""From samples to a number with an interval: which samples count, and what they say.

A sample is a block of repetitions between two chains of dependent adds (timing.h).  A block counts if it began and
ended on the CPU that was asked for, left in use what was to be in use, and met one core clock: its two chains differ
by at most :data:`CHAIN_MISMATCH`.  Of those, blocks farther than :data:`OUTLIER` scaled median absolute deviations
from the median of their row and process are left out.

The number of a row is the median, over processes, of the median of each process; its interval is the distribution-free
one for a median (order statistics, by the binomial distribution).  Processes and not blocks are resampled, because what
differs from process to process (which pages the buffers have) is the same for all blocks of one.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CHAIN_ADDS: Final = 4000
CHAIN_MISMATCH: Final = 0.06
OUTLIER: Final = 6.0
MAD_TO_SIGMA: Final = 1.4826
LEAST_BLOCKS: Final = 3
"""Fewer accepted blocks of a row in a process, and the process says nothing about that row."""
CONFIDENCE: Final = 0.95
EPOCHS: Final = 6
CPU_MASK: Final = 0xFFF
"""IA32_TSC_AUX: the CPU in bits 11:0, the node above (Linux v6.18, arch/x86/include/asm/segment.h)."""

SAMPLE: Final = np.dtype(
    [(name, "<u8") for name in
     ("row", "chain_before", "ticks", "empty", "chain_after", "cpu_before", "cpu_after", "in_use")]
)  # fmt: skip
"""struct sample of timing.h."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and the range in which it lies with :data:`CONFIDENCE`."""

    value: float
    low: float
    high: float

    @property
    def spans_zero(self) -> bool:
        return self.low <= 0 <= self.high


def undisturbed(samples: NDArray[np.void], cpu: int) -> NDArray[np.bool_]:
    """Which samples stayed on ``cpu`` and met one core clock."""
    before, after = (samples[name].astype(float) for name in ("chain_before", "chain_after"))
    stayed = (samples["cpu_before"] == samples["cpu_after"]) & (samples["cpu_before"] & CPU_MASK == cpu)
    return np.asarray(stayed & (np.abs(before - after) <= CHAIN_MISMATCH * np.minimum(before, after)))


def as_wanted(samples: NDArray[np.void], in_use: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which samples left in use what was to be in use, which ``in_use`` has by row."""
    return np.asarray(samples["in_use"] == in_use[samples["row"].astype(int)])


def clock_ratio(samples: NDArray[np.void]) -> Floats:
    """Core cycles per TSC cycle, by sample."""
    both = samples["chain_before"].astype(float) + samples["chain_after"].astype(float)
    return np.asarray(2 * CHAIN_ADDS / both)


def ticks(samples: NDArray[np.void]) -> Floats:
    """TSC cycles of all repetitions of a sample, without those of as many repetitions of nothing."""
    return np.asarray(samples["ticks"].astype(float) - samples["empty"].astype(float))


def without_outliers(values: Floats) -> Floats:
    """The values that are near the median of all."""
    median = np.median(values)
    spread = MAD_TO_SIGMA * np.median(np.abs(values - median))
    return values if spread == 0 else values[np.abs(values - median) <= OUTLIER * spread]


def medians_by_row(rows: NDArray[np.integer], values: Floats, count: int) -> Floats:
    """The median of each of ``count`` rows in one process, NaN where too few samples count."""
    found = np.full(count, np.nan)
    order = np.argsort(rows, kind="stable")
    edges = np.searchsorted(rows[order], np.arange(count + 1))
    for row in range(count):
        mine = values[order[edges[row] : edges[row + 1]]]
        if len(mine) >= LEAST_BLOCKS:
            found[row] = np.median(without_outliers(mine))
    return found


def median_interval(values: Floats) -> Interval | None:
    """The median of ``values`` (NaN is left out) and its distribution-free interval; None if nothing is left.

    Order statistics k and n + 1 - k with the largest k for which the binomial distribution leaves at most
    1 - :data:`CONFIDENCE` outside; with fewer than six values, no pair is wide enough, and it is the range of all.
    """
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return None
    below = order_below(len(known))
    return Interval(float(np.median(known)), float(known[below]), float(known[-1 - below]))


def epoch_interval(values: Floats) -> Interval | None:
    """The median of ``values`` in the order of time, and the range of the medians of six equal parts of the time.

    For small effects: neighbours in time share what disturbs them, so that the processes are not independent and the
    interval of their median would be too narrow.  Six independent medians have theirs in between with 97 %.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    parts = [np.median(part) for part in np.array_split(known, EPOCHS) if len(part)]
    value = float(np.median(known))
    return Interval(value, min(value, float(min(parts))), max(value, float(max(parts))))


@cache
def order_below(count: int) -> int:
    """How many of ``count`` order statistics lie below the interval of their median."""
    from scipy.stats import binom

    outside = 2 * binom.cdf(np.arange(count // 2), count, 0.5)
    return max(int(np.searchsorted(outside, 1 - CONFIDENCE, side="right")) - 1, 0)
