"""Means with intervals over replications, paired differences, and p-values that allow for many comparisons."""

import math
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from sim.analysis import student
from sim.analysis.latency import resolution

CONFIDENCE: Final = 0.95
ENOUGH: Final = 10
"""Replications from which on an interval is shown without a warning."""
ROUNDING: Final = 1e-12
"""Relative size of what differs by the rounding of floating-point numbers alone."""


def with_intervals(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean, and t interval of the mean, of column "value" in each group.

    Adds n, mean, low, high and sd; low and high are absent (NaN) for a single replication.
    """
    grouped = frame.groupby(list(by), sort=False, observed=True)["value"]
    found = grouped.agg(n="size", mean="mean", sd="std").reset_index()
    found = found.astype({"n": "int64", "mean": "float64", "sd": "float64"})  # also where there is nothing
    with np.errstate(invalid="ignore"):
        half = student.quantile((1 + CONFIDENCE) / 2, found["n"] - 1) * found["sd"] / np.sqrt(found["n"])
    found["low"], found["high"] = found["mean"] - half, found["mean"] + half
    return found[[*by, "n", "mean", "low", "high", "sd"]]


def paired(frame: pd.DataFrame, references: pd.Series) -> pd.DataFrame:
    """Differences against the reference, replication by replication: the same replication is the same world.

    ``frame`` has columns case, strategy, replication, metric, unit, value; ``references`` the reference by case.
    Returns the same columns, value being the difference, and "of", the reference's own value.
    """
    reference = frame["case"].map(references)
    base = frame.loc[frame["strategy"] == reference, ["case", "replication", "metric", "value"]]
    others = frame[frame["strategy"] != reference]
    both = others.merge(base.rename(columns={"value": "of"}), on=["case", "replication", "metric"])
    both["value"] -= both["of"]
    return both


def p_values(mean: NDArray[np.float64], sd: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Two-sided p-values of the one-sample t test that a mean is 0; NaN for fewer than two values.

    Differences that are all the same have no variance, so that there is nothing to test: NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean) / (sd / np.sqrt(n))
    p: NDArray[np.float64] = np.where(sd > ROUNDING * np.abs(mean), 2 * student.upper_tail(t, n - 1), np.nan)
    return np.where(n < 2, np.nan, p)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values adjusted by Holm's step-down procedure (Scand. J. Statist. 6, 1979, pp. 65-70); NaN stays NaN."""
    tested = ~np.isnan(p)
    order = np.argsort(p[tested])
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[tested][order]), 1.0)
    result = np.full(p.shape, np.nan)
    result[tested] = adjusted
    return result


COMPARED: Final = (
    "case", "strategy", "metric", "unit", "n", "mean", "low", "high", "percent", "percent_low", "percent_high", "p",
    "planned", "p_adjusted", "verdict",
)  # fmt: skip
"""The columns of :func:`compared`."""


def compared(differences: pd.DataFrame, planned: Collection[tuple[str, str]] = ()) -> pd.DataFrame:
    """Paired differences with intervals and tests; ``differences`` are those of :func:`paired`.

    ``planned`` are the differences, by case and strategy, that were asked about before anything ran.

    Columns: case, strategy, metric, unit, n, mean, low, high, percent, percent_low, percent_high (of the reference's
    mean), p (two-sided paired t test), p_adjusted (by Holm, over all that are not planned, of all cases; absent where
    planned), planned, and verdict: "lower" or "higher" for p < 0.05, adjusted where it is not planned, and for
    differences that are all the same and not 0; "same" if all are exactly 0; "not tested" for one replication;
    otherwise "not shown".  Intervals of quantiles are wider by a bucket's width at both ends; a difference of less than
    a bucket is "not shown", without p.
    """
    by = ["case", "strategy", "metric", "unit"]
    found = with_intervals(differences, by)
    base = differences.groupby(by, sort=False, observed=True)["of"].mean().reset_index()["of"].abs()
    bucket = resolution(found["metric"], base + found["mean"].clip(lower=0))
    found["low"], found["high"] = found["low"] - bucket, found["high"] + bucket
    for column, percent in (("mean", "percent"), ("low", "percent_low"), ("high", "percent_high")):
        found[percent] = (100 * found[column] / base).where(base > 0)
    least = ROUNDING * base
    mean, sd = (found[column].mask(found[column].abs() <= least, 0.0) for column in ("mean", "sd"))
    hidden = (bucket > 0) & (mean != 0) & (mean.abs() < bucket)
    found["p"] = p_values(mean.to_numpy(), sd.to_numpy(), found["n"].to_numpy())
    found["p"] = found["p"].mask(hidden)
    found["planned"] = [key in planned for key in zip(found["case"], found["strategy"], strict=True)]
    unplanned = found["p"].mask(found["planned"])
    found["p_adjusted"] = unplanned.groupby(found["metric"]).transform(lambda p: holm(p.to_numpy()))
    decides = found["p"].where(found["planned"], found["p_adjusted"])
    found["verdict"] = [
        "not shown" if below else verdict(*row)
        for below, *row in zip(hidden, decides, mean, sd, found["n"], strict=True)
    ]
    return found[list(COMPARED)]


def verdict(p: float, mean: float, sd: float, n: int) -> str:
    """What may be said of a difference with this p; see :func:`compared`."""
    if mean == 0 and not sd > 0:
        return "same"
    if n < 2:
        return "not tested"
    if sd != 0 and not p < 1 - CONFIDENCE:
        return "not shown"
    return "lower" if mean < 0 else "higher"


def no_more_than(mean: NDArray[np.float64], sd: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """The smallest margin within which a mean is shown to be by two one-sided t tests at 2.5 %; NaN for one value.

    Both tests reject where the interval of 95 %, which is stated beside it, lies within the margin (D. J. Schuirmann,
    J. Pharmacokin. Biopharm. 15, 1987, pp. 657-680).
    """
    with np.errstate(invalid="ignore"):
        margin: NDArray[np.float64] = np.abs(mean) + student.quantile((1 + CONFIDENCE) / 2, n - 1) * sd / np.sqrt(n)
    return margin


def has_heavy_tails(values: NDArray[np.float64], among: int = 1) -> bool:
    """Whether a few values make most of the variance: then so small a sample says little of mean and interval.

    Geary's ratio of mean deviation to standard deviation (Biometrika 27, 1935, pp. 310-332), which is
    sqrt(2 / pi) = 0.80 for normal values and small where most values lie close together and a few far away.  Of
    ``among`` normal samples that are looked at, one is named in about one of a hundred cases.
    """
    return is_heavy(tails(values), among)


def tails(values: NDArray[np.float64]) -> float:
    """How heavy the tails are: Geary's ratio in standard deviations; 0 for too few values, which show nothing."""
    return _geary(values) if len(values) >= FEWEST_FOR_TAILS else 0.0


def is_heavy(tails: float, among: int) -> bool:
    """What :func:`has_heavy_tails` says of :func:`tails`."""
    return bool(tails < special.ndtri(RARELY / among))


FEWEST_FOR_TAILS: Final = 8
"""Values from which on there is something to see of tails."""
RARELY: Final = 0.01


def _geary(values: NDArray[np.float64]) -> float:
    """Geary's ratio less its mean for normal values, in standard deviations; 0 if all values are the same.

    Mean deviation and standard deviation about the mean of the sample: their moments are known exactly, and the ratio
    is independent of its denominator, so that its moments are ratios of theirs.
    """
    n = len(values)
    deviations = values - values.mean()
    spread = math.sqrt(float(np.mean(deviations**2)))
    if spread <= ROUNDING * float(np.abs(values).max()):
        return 0.0
    ratio = float(np.mean(np.abs(deviations))) / spread
    mean_deviation = math.sqrt(2 / math.pi * (n - 1) / n)
    mean_spread = math.sqrt(2 / n) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
    of_square = (
        2 * (n - 1) / (math.pi * n**2) * (math.pi / 2 + math.sqrt(n * (n - 2)) + math.asin(1 / (n - 1)))
    )  # of the mean deviation
    mean = mean_deviation / mean_spread
    return (ratio - mean) / math.sqrt(of_square * n / (n - 1) - mean**2)
