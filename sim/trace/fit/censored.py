"""Times of which some were cut off before their end."""

from collections.abc import Sequence
from typing import Final

import numpy as np

GOLDEN: Final = 0.618034
"""Multiples of it are spread evenly over the unit interval."""


def whole_times(times: Sequence[float], is_cut: Sequence[bool]) -> list[float]:
    """The times in their order; instead of those that were cut off, longer ones as the others say, spread evenly.

    Survival is the estimate of Kaplan and Meier ("Nonparametric estimation from incomplete observations", 1958);
    beyond the longest time, where it says nothing, it is exponential, at the mean rate.
    """
    found, cut = np.array(times, float), np.array(is_cut, bool)
    if cut.all() or not cut.any():
        return found.tolist()  # type: ignore[no-any-return]
    order = np.lexsort((cut, found))
    at = found[order]
    survive = np.cumprod(1 - ~cut[order] / np.arange(len(at), 0, -1))
    left = survive[np.searchsorted(at, found[cut], "right") - 1] * (1 - GOLDEN * np.arange(1, cut.sum() + 1) % 1.0)
    first = np.searchsorted(-survive, -left)
    beyond = at[-1] + np.log(np.maximum(survive[-1], left) / left) * at.sum() / (~cut).sum()
    found[cut] = np.where(first < len(at), at[np.minimum(first, len(at) - 1)], beyond)
    return found.tolist()  # type: ignore[no-any-return]
