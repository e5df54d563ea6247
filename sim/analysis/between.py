"""A contrast of two cases, such as one strategy on two kernels: each on the schedule of its own case.

Random streams are named by entity and purpose, so that replication n is the same world for both and the difference is
paired.  On one CPU what a row costs is the same for both; the costs of two CPUs are drawn independently.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.analysis.uncertainty.coefficients import Array
from sim.analysis.uncertainty.counted import Counted, Moved
from sim.analysis.uncertainty.draws import Ranges, draw_pair
from sim.errors import InputError

US_PER_SECOND = 1e6


@dataclass(frozen=True)
class Side:
    """One operand: a strategy on the schedule of its case, whose TSC has ``tsc_hz``."""

    counted: Counted
    strategy: str
    tsc_hz: float

    @cached_property
    def moved(self) -> Moved:
        """What it does."""
        return self.counted.moved(self.counted.strategies.index(self.strategy))

    @cached_property
    def ranges(self) -> Ranges:
        """The rows that this side uses."""
        used = np.zeros(len(self.counted.table.rows), dtype=bool)
        used[self.counted.used] = self.moved.used
        return Ranges(self.counted.table, tuple(used.tolist()), "table")


@dataclass(frozen=True)
class Between:
    """``a`` less ``b``, in cycles per vCPU-second (CPU-second), or in microseconds where their clocks differ."""

    a: Side
    b: Side

    def __post_init__(self) -> None:
        if self.a.counted.per != self.b.counted.per:
            cases = f"{self.a.counted.case!r} and {self.b.counted.case!r}"
            raise InputError(f"contrast of {cases}: only one has vCPUs (allowed: both, or none)")

    @property
    def unit(self) -> str:
        """The unit of all that follows."""
        what = "cycles" if self.a.tsc_hz == self.b.tsc_hz else "us"
        return f"{what}/{'vCPU' if self.a.counted.per == 'vCPU-second' else 'CPU'}-s"

    @property
    def _scales(self) -> tuple[float, float]:
        if self.a.tsc_hz == self.b.tsc_hz:
            return 1.0, 1.0
        return US_PER_SECOND / self.a.tsc_hz, US_PER_SECOND / self.b.tsc_hz

    def by_replication(self, *, with_xss: bool) -> Array:
        """The difference in each replication, rows at their values."""
        found: list[Array] = [
            (side.moved.total if with_xss else side.moved.without_xss).cycles * scale
            for side, scale in zip((self.a, self.b), self._scales, strict=True)
        ]
        return found[0] - found[1]

    def drawn(self, draws: int, seed: int) -> tuple[Array, Array]:
        """The difference of the means in each draw of the costs, with the cycles of IA32_XSS and without."""
        rows = draw_pair(self.a.ranges, self.b.ranges, draws, seed, same_cpu=self.a.counted.cpu == self.b.counted.cpu)
        sides = [
            (side, side.counted.taken(drawn), scale)
            for side, drawn, scale in zip((self.a, self.b), rows, self._scales, strict=True)
        ]
        one, other = (
            [drawn @ each.mean * scale for each, drawn, scale in of]
            for of in (
                [(side.moved.total, drawn, scale) for side, drawn, scale in sides],
                [(side.moved.without_xss, drawn, scale) for side, drawn, scale in sides],
            )
        )
        return one[0] - one[1], other[0] - other[1]

    def by_row(self) -> dict[str, tuple[float, bool]]:
        """What each row adds, the one that adds most first, and whether it is assumed in either table."""
        moved: dict[str, float] = defaultdict(float)
        assumed: dict[str, bool] = defaultdict(bool)
        for side, scale in zip((self.a, self.b), (self._scales[0], -self._scales[1]), strict=True):
            cycles = side.moved.total.mean * side.counted.at_values * scale
            for row, each in zip(side.counted.rows, cycles, strict=True):
                moved[row.id] += float(each)
                assumed[row.id] |= bool(each) and row.grade == "assumed"
        found = {row: (moved[row], assumed[row]) for row in moved if moved[row]}
        return dict(sorted(found.items(), key=lambda each: -abs(each[1][0])))
