"""Histograms of latencies: buckets of at most 1/16 of an octave, in whole TSC cycles."""

from collections import Counter
from typing import Final

STEPS: Final = 16
"""Buckets per octave: a bucket is at most 6.25 % of its lower bound wide."""


class Histogram:
    """Counts values by bucket, in constant time and bounded memory."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        """One sample, not negative."""
        shift = max(value.bit_length() - 5, 0)
        self._counts[(shift << 5) + (value >> shift)] += 1

    def buckets(self) -> dict[tuple[int, int], int]:
        """The number of samples by bucket [low, high), in order."""
        found = {}
        for index in sorted(self._counts):
            shift, low = index >> 5, (index & 31) << (index >> 5)
            found[low, low + (1 << shift)] = self._counts[index]
        return found
