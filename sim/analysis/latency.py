"""Quantiles of a histogram, where there are enough samples to speak of one."""

from fractions import Fraction
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

QUANTILES: Final = {"p50": Fraction(1, 2), "p99": Fraction(99, 100), "p99.9": Fraction(999, 1000)}
BEYOND: Final = 20
"""How many samples must be beyond a quantile for it to be stated."""

RESOLUTION: Final = 1 / 16
"""The width of a histogram's bucket, in units of its lower bound, is at most this."""

OF_QUANTILE: Final = r"_wakeup_p[\d.]+$"
"""How the metric of a quantile ends."""

Buckets = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Lower bounds, upper bounds and numbers of samples."""


def quantile(buckets: Buckets, q: Fraction) -> float | None:
    """The quantile of a histogram, whose buckets are in order; None with fewer than 20 samples beyond it.

    Inside its bucket it is interpolated as if the samples there were spread evenly, so that it is off by the width of a
    bucket at most (a sixteenth of its lower bound).
    """
    low, high, count = buckets
    cumulative = np.cumsum(count)
    total = int(cumulative[-1])
    if total * (1 - q) < BEYOND:
        return None
    wanted = float(total * q)
    at = int(np.searchsorted(cumulative, wanted))
    inside = (wanted - (cumulative[at] - count[at])) / count[at]
    return float(low[at] + inside * (high[at] - low[at]))


def resolution(metric: pd.Series, value: pd.Series) -> pd.Series:
    """How wide a bucket is at ``value`` for metrics that are quantiles, in the unit of ``value``; 0 for others."""
    return (RESOLUTION * value).where(metric.str.contains(OF_QUANTILE), 0.0)


def quantiles(latency: pd.DataFrame, by: list[str], tsc_hz: pd.Series) -> pd.DataFrame:
    """Quantiles in microseconds of each histogram in each group of ``by``, which begins with case.

    Histograms of a group are added up.  Columns: ``by``, histogram, quantile, us, samples; those that cannot be stated
    are not there.
    """
    merged = latency.groupby([*by, "histogram", "low", "high"], sort=False)["count"].sum().reset_index()
    lines: list[tuple[Any, ...]] = []
    hertz: dict[Any, float] = tsc_hz.to_dict()
    for key, group in merged.sort_values("low").groupby([*by, "histogram"], sort=False):
        buckets = (group["low"].to_numpy(), group["high"].to_numpy(), group["count"].to_numpy())
        for name, q in QUANTILES.items():
            if (cycles := quantile(buckets, q)) is not None:
                lines.append((*key, name, cycles / hertz[key[0]] * 1e6, int(buckets[2].sum())))
    return pd.DataFrame(lines, columns=[*by, "histogram", "quantile", "us", "samples"])
