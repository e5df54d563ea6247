"""Means with intervals over replications, paired differences, and p-values that allow for many comparisons."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

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
        half = stats.t.ppf((1 + CONFIDENCE) / 2, found["n"] - 1) * found["sd"] / np.sqrt(found["n"])
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
    p: NDArray[np.float64] = np.where(sd > ROUNDING * np.abs(mean), 2 * stats.t.sf(t, n - 1), np.nan)
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


def compared(differences: pd.DataFrame) -> pd.DataFrame:
    """Paired differences with intervals and tests; ``differences`` are those of :func:`paired`.

    Columns: case, strategy, metric, unit, n, mean, low, high, percent, percent_low, percent_high (of the reference's
    mean), p (two-sided paired t test, adjusted by Holm over the strategies of the case), and verdict: "lower" or
    "higher" for p < 0.05 and for differences that are all the same and not 0, "same" if all are exactly 0, otherwise
    "not shown".  Intervals of quantiles are wider by a bucket's width at both ends; a difference of less than a bucket
    is "not shown", without p.
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
    found["p"] = p_values(mean.to_numpy(), sd.to_numpy(), found["n"].to_numpy())
    found["p"] = found.groupby(["case", "metric"])["p"].transform(lambda p: holm(p.to_numpy()))
    hidden = (bucket > 0) & (mean != 0) & (mean.abs() < bucket)
    found["p"] = found["p"].mask(hidden)
    found["verdict"] = [
        "not shown" if below else _verdict(*row) for below, *row in zip(hidden, found["p"], mean, sd, strict=True)
    ]
    return found.drop(columns="sd")


def _verdict(p: Any, mean: Any, sd: Any) -> str:
    if mean == 0 and not sd > 0:
        return "same"
    if sd != 0 and not p < 1 - CONFIDENCE:
        return "not shown"
    return "lower" if mean < 0 else "higher"
