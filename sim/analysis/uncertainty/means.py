"""Means over the replications, drawn from their t distribution.

With z standard normal and s^2 a chi-squared over its n - 1 degrees of freedom, a draw of the mean of x is

    mean x + (sum over the replications of z (x - mean x)) / (s sqrt(n (n - 1)))

which is mean x + (standard error) x (standard normal / s): Student's t with n - 1 degrees of freedom, whatever linear
combination of counts x is.  All strategies and rows share z and s, so that pairing is kept.  The sums are over what
rows count, and z is drawn for some replications at a time; so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.analysis.uncertainty.coefficients import Array
from sim.analysis.uncertainty.counted import Counted
from sim.analysis.uncertainty.draws import quantiles

NORMAL: Final = 1 << 20
"""Standard normals that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Means:
    """``total``: of each strategy, draws x rows that are used; ``without``: the same without what switches IA32_XSS, of
    the rows ``other``, in which that counts.
    """

    total: Sequence[Array]
    without: Sequence[Array]
    other: NDArray[np.intp]

    def of(self, strategy: int, *, with_xss: bool) -> Array:
        """How often each row counts for a strategy: draws x rows."""
        if with_xss or not len(self.other):
            return self.total[strategy]
        found = self.total[strategy].copy()
        found[:, self.other] = self.without[strategy]
        return found


def drawn_means(case: Counted, draws: int, seed: int) -> Means:
    """Means over the replications of a case, ``draws`` of each; the same seed gives the same."""
    from scipy.stats import chi2, norm  # half a second that others need not wait for

    n = case.replications
    other = np.flatnonzero(np.any(case.seen(with_xss=True).mean != case.seen(with_xss=False).mean, axis=0))
    every, alone = case.seen(with_xss=True).mean, case.seen(with_xss=False).mean[:, other]
    if n == 1:
        total, without = ([np.tile(mean, (draws, 1)) for mean in each] for each in (every, alone))
        return Means(total, without, other)
    total, without = ([np.zeros((draws, len(mean))) for mean in each] for each in (every, alone))
    numbers, at_once = count(), max(1, NORMAL // draws)
    for block, of_alone in zip(case.blocks(with_xss=True), case.blocks(with_xss=False), strict=True):
        for begin in range(0, block.shape[1], at_once):
            some = slice(begin, min(begin + at_once, block.shape[1]))
            names = [f"replication {next(numbers)}" for _ in range(some.stop - some.start)]
            z = norm.ppf(np.column_stack([quantiles(name, draws, seed) for name in names]))
            for i in range(len(total)):
                total[i] += z @ (block[i, some] - every[i])
                without[i] += z @ (of_alone[i, some][:, other] - alone[i])
    scale = np.sqrt((n - 1) / chi2.ppf(quantiles("replications", draws, seed), n - 1)) / np.sqrt(n * (n - 1))
    for found, means in ((total, every), (without, alone)):
        for sums, mean in zip(found, means, strict=True):
            sums *= scale[:, None]
            sums += mean
    return Means(total, without, other)
