"""Times of which some were cut off before their end."""

from collections.abc import Sequence

import numpy as np


def whole_times(ended: Sequence[float], cut: Sequence[float]) -> list[float]:
    """As many times as there are, distributed as they would be if none had been ``cut`` off at that length.

    They are quantiles of the Kaplan-Meier estimate (Kaplan and Meier, "Nonparametric estimation from incomplete
    observations", 1958); beyond the longest time, where it says nothing, they are exponential, at the mean rate.
    """
    if not (ended and cut):
        return [*ended, *cut]
    times = np.concatenate([np.array(ended, float), np.array(cut, float)])
    is_end = np.arange(len(times)) < len(ended)
    order = np.lexsort((~is_end, times))
    times, is_end = times[order], is_end[order]
    survive = np.cumprod(1 - is_end / np.arange(len(times), 0, -1))
    left = 1 - (np.arange(len(times)) + 0.5) / len(times)
    at = np.searchsorted(-survive, -left)
    beyond = times[-1] + np.log(np.maximum(survive[-1], left) / left) * times.sum() / len(ended)
    return np.where(at < len(times), times[np.minimum(at, len(times) - 1)], beyond).tolist()  # type: ignore[no-any-return]
