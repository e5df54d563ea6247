"""Draws of a cost table: each row from its own range, rows of one factor together.

A factor is a row at the root of others that are derived from it or stand for another instruction
(:attr:`~sim.costs.rows.CostRow.factor`).  All rows of a factor are drawn at the same quantile of their ranges; factors
are independent.  The ratio of the clocks is a factor of its own.

A Latin hypercube (McKay, Beckman and Conover 1979, Technometrics 21) takes each of n strata of each factor once, so
that an estimate has at most about the standard error of n independent draws, and a much smaller one where the result
is nearly linear.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Literal

import numpy as np

from sim.analysis.uncertainty.coefficients import Array, values
from sim.costs.price import in_tsc
from sim.costs.rows import RATIO, CostRow, CostTable

Distributions = Literal["table", "uniform"]
"""table: as each row says; uniform: every row uniform over low to high."""
DISTRIBUTIONS: Final[tuple[Distributions, ...]] = ("table", "uniform")

GRID: Final = 4096
"""Quantiles over which moments are taken; a midpoint rule, whose variances are good to a millionth."""


def factor(row: CostRow) -> str:
    """The name of the factor that a row belongs to."""
    return row.id if row.factor == RATIO else row.factor


def quantile(row: CostRow, at: Array, distributions: Distributions) -> Array:
    """The row's quantiles ``at`` (0 to 1), in its own clock."""
    if row.low == row.high or row.distribution == "fixed":
        return np.full_like(at, row.value)
    width = row.high - row.low
    if distributions == "uniform" or row.distribution == "uniform":
        return row.low + width * at
    return row.low + width * _triangle(at, (row.value - row.low) / width)


def _triangle(at: Array, mode: float) -> Array:
    """Quantiles of the triangle over 0 to 1; scipy.stats has them, but takes most of a second to import."""
    return np.where(at < mode, np.sqrt(mode * at), 1 - np.sqrt((1 - mode) * (1 - at)))


@dataclass(frozen=True)
class Ranges:
    """The rows of a table that a run uses, as random variables."""

    table: CostTable
    used: tuple[bool, ...]
    distributions: Distributions

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """The factors of all rows, used or not."""
        return tuple(dict.fromkeys(factor(row) for row in self.table.rows.values()))

    @cached_property
    def factor_of(self) -> dict[str, int]:
        """The number of the factor of each row, by the row's id."""
        number = {name: i for i, name in enumerate(self.factors)}
        return {row.id: number[factor(row)] for row in self.table.rows.values()}

    @cached_property
    def rows_of(self) -> dict[str, list[CostRow]]:
        """The rows of each factor."""
        found: dict[str, list[CostRow]] = {name: [] for name in self.factors}
        for row in self.table.rows.values():
            found[factor(row)].append(row)
        return found

    @cached_property
    def ratio(self) -> int:
        """The column of the ratio of the clocks."""
        return list(self.table.rows).index(RATIO)

    @cached_property
    def core(self) -> Array:
        """1 for a row in core cycles, 0 for one in TSC cycles."""
        return np.array([row.clock == "core" and row.id != RATIO for row in self.table.rows.values()], dtype=np.float64)

    def at(self, quantiles: Array) -> Array:
        """Values of all rows, lines x rows in their own clocks, from quantiles of the factors, lines x factors."""
        found = np.tile(values(self.table), (len(quantiles), 1))
        for i, row in enumerate(self.table.rows.values()):
            if self.used[i] or i == self.ratio:
                found[:, i] = quantile(row, quantiles[:, self.factor_of[row.id]], self.distributions)
        return found

    @cached_property
    def grid(self) -> Array:
        """Values of all rows at :data:`GRID` midpoints, the same quantile in every factor."""
        midpoints = (np.arange(GRID) + 0.5) / GRID
        return self.at(np.repeat(midpoints[:, None], len(self.factors), axis=1))


@dataclass(frozen=True, slots=True)
class Draws:
    """``rows``: draws x rows in TSC cycles; ``ratio``: core cycles per TSC cycle."""

    ranges: Ranges
    rows: Array
    ratio: Array


@lru_cache(maxsize=8)  # ten thousand draws of a table are 8 MB, and each contrast of two cases asks for those of both
def hypercube(names: tuple[str, ...], draws: int, *seed: int) -> Array:
    """Quantiles, draws x names, one in each of ``draws`` equal parts; those of a name do not depend on the other names.

    They are those of scipy.stats.qmc.LatinHypercube in one dimension, the import of which takes half a second.  Not to
    be written to: the next call has the same array.
    """
    found = np.empty((draws, len(names)))
    for i, name in enumerate(names):
        found[:, i] = quantiles(name, draws, *seed)
    found.flags.writeable = False
    return found


def quantiles(name: str, draws: int, *seed: int) -> Array:
    """Those of one name in :func:`hypercube`."""
    generator = np.random.default_rng([*seed, *name.encode()]).spawn(1)[0]
    within = generator.uniform(size=draws)
    found: Array = (generator.permutation(draws) + 1 - within) / draws
    return found


def draw(ranges: Ranges, draws: int, seed: int) -> Draws:
    """Costs; the same seed gives the same draws."""
    rows = ranges.at(hypercube(ranges.factors, draws, seed))
    return Draws(ranges, in_tsc(ranges.table, rows), rows[:, ranges.ratio])


def draw_pair(a: Ranges, b: Ranges, draws: int, seed: int, *, same_cpu: bool) -> tuple[Array, Array]:
    """Rows of two tables in TSC cycles, draws x rows; those of ``a`` are the ones that :func:`draw` gives.

    Of one CPU, a factor whose rows are the same in both tables is one uncertainty.  Two CPUs are independent, even if
    the same is assumed for both: nobody knows that it is the same.
    """
    one, other = hypercube(a.factors, draws, seed), hypercube(b.factors, draws, seed, 1).copy()
    number = {name: i for i, name in enumerate(a.factors)}
    for i, name in enumerate(b.factors):
        if same_cpu and name in number and a.rows_of[name] == b.rows_of[name]:
            other[:, i] = one[:, number[name]]
    return in_tsc(a.table, a.at(one)), in_tsc(b.table, b.at(other))
