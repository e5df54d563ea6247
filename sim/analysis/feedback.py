"""The second estimate: what the host does otherwise because operations take another time.

From independent runs, in which each strategy times a host of its own.  Of what only the host shows (throughput,
latency, time per hand-off) it is the paired difference; of the cost it is the difference of the whole cost less that on
one schedule, which are the strategy's own operations.  Replication n is the same world for all of them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from sim.analysis import estimates, metrics
from sim.analysis.latency import resolution
from sim.analysis.replicated import Replicated

COSTS: Final = (metrics.COST, metrics.COST_WITHOUT_XSS)

HOST: Final = (
    "guest_cycles", "us_per_handoff", "requests_per_second", "handoffs_per_second", "bursts_per_second",
    *(metrics.latency_metric(kind, quantile) for kind in ("vcpu", "thread") for quantile in ("p50", "p99", "p99.9")),
)  # fmt: skip
"""Throughput and latency: what users of the host would notice."""


COLUMNS: Final = (*estimates.COMPARED, "no_more_than", "percent_no_more_than", "heavy_tails")


@dataclass(frozen=True, slots=True)
class Response:
    """The feedback in one metric: ``mean`` with its 95 % t interval over ``n`` replications, in ``unit``.

    ``no_more_than``: the smallest margin within which it is shown to be, by two one-sided tests at 2.5 %, as the
    interval of 95 % is.  ``percent`` and ``percent_no_more_than`` are shares of ``of``, the mean of the other strategy;
    None where that is 0, or where the interval is wider than ``of`` to either side: nothing is known then.  Not a
    number where there is one replication, or nothing to test.
    """

    metric: str
    mean: float
    low: float
    high: float
    unit: str
    n: int
    no_more_than: float
    of: float
    percent: float | None
    percent_no_more_than: float | None
    p: float
    heavy_tails: bool


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the host does otherwise under ``a`` than under ``b`` in a case.

    ``cost`` and ``cost_without_xss``: the difference of the whole cost, of independent runs, less own operations;
    ``host``: throughput and latencies, of what the case has.
    """

    case: str
    a: str
    b: str
    cost: Response
    cost_without_xss: Response
    host: tuple[Response, ...]

    def document(self) -> dict[str, Any]:
        """As JSON; what is not a number is null."""
        host = {each.metric: _document(each) for each in self.host}
        return {"cost": _document(self.cost), "cost_without_xss": _document(self.cost_without_xss), "host": host}


def _document(response: Response) -> dict[str, Any]:
    names = ("mean", "low", "high", "unit", "no_more_than", "percent", "percent_no_more_than", "p")
    found = {name: getattr(response, name) for name in names}
    return {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in found.items()}


class Values:
    """What is compared, by replication: case, strategy, replication, metric, unit, value, and "of".

    ``walked`` and ``independent`` are those of :func:`sim.analysis.metrics.per_replication`.  The value of a cost is
    what it is on a schedule of the strategy's own less what it is on the one that all walk; "of" is the whole.
    """

    def __init__(self, walked: Replicated, independent: Replicated) -> None:
        self._host = independent.where(lambda key: not metrics.is_of_operations(key["metric"]))
        keys = ["case", "strategy", "replication", "metric", "unit"]
        whole, on_one = (each.where(lambda key: key["metric"] in COSTS).frame() for each in (independent, walked))
        costs = whole.merge(on_one, on=keys, suffixes=("", "_walked"))
        costs = costs.assign(of=costs["value"], value=costs["value"] - costs["value_walked"])
        self._costs = costs.drop(columns="value_walked")

    def frames(self) -> Iterator[pd.DataFrame]:
        """Frames of some metrics at a time."""
        for each in self._host.frames():
            yield each.assign(of=each["value"])
        yield self._costs

    def of(self, case: str, strategies: Collection[str]) -> pd.DataFrame:
        """Those of these strategies in a case."""
        host = self._host.where(lambda key: key["case"] == case and key["strategy"] in strategies).frame()
        costs = self._costs[(self._costs["case"] == case) & self._costs["strategy"].isin(strategies)]
        frames = [host.assign(of=host["value"]), costs]
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def differences(values: pd.DataFrame, references: Mapping[str, str]) -> pd.DataFrame:
    """Differences from the reference by replication, as :func:`sim.analysis.estimates.compared` takes them."""
    base = values["case"].map(pd.Series(dict(references))) == values["strategy"]
    of = values.loc[base, ["case", "replication", "metric", "of"]]
    moved = estimates.paired(values.drop(columns="of"), pd.Series(dict(references))).drop(columns="of")
    return moved.merge(of, on=["case", "replication", "metric"])


def df_feedback(
    frames: Iterable[pd.DataFrame], references: Mapping[str, str], planned: Collection[tuple[str, str]]
) -> pd.DataFrame:
    """The columns of :func:`sim.analysis.estimates.compared`, and no_more_than, percent_no_more_than, heavy_tails.

    ``frames`` are those of :meth:`Values.frames`.  If half the interval is wider than the metric, the columns of
    percent are absent.
    """
    some = [each for values in frames if len(each := _compared(differences(values, references), planned))]
    if not some:
        return pd.DataFrame(columns=list(COLUMNS))
    found = pd.concat(some, ignore_index=True)
    return found.assign(heavy_tails=[estimates.is_heavy(tails, len(found)) for tails in found["heavy_tails"]])


def _compared(moved: pd.DataFrame, planned: Collection[tuple[str, str]]) -> pd.DataFrame:
    """The columns of :func:`df_feedback`, but how heavy the tails are in place of whether they are."""
    found = estimates.compared(moved, planned)
    by = ["case", "strategy", "metric", "unit"]
    grouped = moved.groupby(by, sort=False, observed=True)
    base = grouped["of"].mean().reset_index()["of"].abs()
    spread = estimates.with_intervals(moved, by)
    bucket = resolution(found["metric"], base + found["mean"].clip(lower=0))
    margin = estimates.no_more_than(*(spread[column].to_numpy() for column in ("mean", "sd", "n")))
    found["no_more_than"] = margin + bucket
    found["percent_no_more_than"] = (100 * found["no_more_than"] / base).where(base > 0)
    unknown = found["high"] - found["mean"] > base
    for column in ("percent", "percent_low", "percent_high", "percent_no_more_than"):
        found[column] = found[column].mask(unknown)
    found["heavy_tails"] = [estimates.tails(each.to_numpy()) for _, each in grouped["value"]]
    return found


def feedback(values: Values, case: str, a: str, b: str) -> Feedback | None:
    """The feedback of ``a`` less that of ``b``; None where the case lacks an independent run of one of them."""
    here = values.of(case, (a, b))
    frame = df_feedback([here], {case: b}, {(case, a)}) if {a, b} <= set(here["strategy"]) else here.head(0)
    if frame.empty:
        return None
    of = here[here["strategy"] == b].groupby("metric")["of"].mean()
    found = {row["metric"]: _response(row, float(of[row["metric"]])) for row in frame.to_dict("records")}
    host = tuple(each for metric in HOST if (each := found.get(metric)) and (each.of or each.mean))
    return Feedback(case, a, b, found[metrics.COST], found[metrics.COST_WITHOUT_XSS], host)


def _response(row: Mapping[Any, Any], of: float) -> Response:
    percent, most = (None if np.isnan(row[key]) else float(row[key]) for key in ("percent", "percent_no_more_than"))
    return Response(
        metric=row["metric"],
        mean=float(row["mean"]),
        low=float(row["low"]),
        high=float(row["high"]),
        unit=row["unit"],
        n=int(row["n"]),
        no_more_than=float(row["no_more_than"]),
        of=of,
        percent=percent,
        percent_no_more_than=most,
        p=float(row["p"]),
        heavy_tails=bool(row["heavy_tails"]),
    )
