"""What the schedule of each case comes to: CPU time, polling, spinning, steal, wake-up latency, throughput."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

HISTOGRAM: Final = "vcpu"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case, an entry of the manifest; NaN is what it does not have.

    ``work``, ``polling``, ``spinning`` and ``steal`` are shares of vCPU time in %, with half of their 95 % t intervals
    in ``half``; ``busy`` is the share of all CPU time that is not idle.  ``mean``, ``p50`` and ``p99`` are wake-up
    latencies of vCPUs in microseconds, all replications together; ``requests`` are per vCPU-second.
    """

    case: Mapping[str, Any]
    work: float
    polling: float
    spinning: float
    steal: float
    busy: float
    mean: float
    p50: float
    p99: float
    requests: float
    half: Mapping[str, float] = field(default_factory=dict)


def outcomes(comparison: "Comparison") -> list[Outcome]:
    """The outcome of each case that has vCPUs and a finished replication, in the order of the scenario."""
    schedule = comparison.df_schedule()
    latency = comparison.df_latency()
    latency = latency[latency["histogram"] == HISTOGRAM]
    waits: dict[Any, float] = latency.set_index(["case", "quantile"])["us"].to_dict()
    rows: dict[Any, Any] = schedule.set_index(["case", "metric"])[["mean", "high"]].to_dict("index")
    means = _mean_latency(comparison)
    found = []
    for case in comparison.results.cases:
        name, vcpus = case["case"], case["vcpus"]
        if (name, "time_idle") not in rows or not vcpus:
            continue
        percent = 100 / case["tsc_hz"]

        def at(metric: str, scale: float = 1.0, name: str = name) -> tuple[float, float]:
            row = rows.get((name, metric))
            return (scale * row["mean"], scale * (row["high"] - row["mean"])) if row else (math.nan, math.nan)

        shares = {
            "work": at("guest_cycles", percent), "polling": at("polling"), "spinning": at("spinning"),
            "steal": at("steal"), "requests": at("requests_per_second", 1 / vcpus),
        }  # fmt: skip
        found.append(
            Outcome(
                case,
                busy=100 - at("time_idle")[0],
                mean=means.get(name, math.nan),
                p50=waits.get((name, "p50"), math.nan),
                p99=waits.get((name, "p99"), math.nan),
                half={key: half for key, (_, half) in shares.items()},
                **{key: value for key, (value, _) in shares.items()},
            )
        )
    return found


def _mean_latency(comparison: "Comparison") -> dict[str, float]:
    """Mean wake-up latency of vCPUs by case in microseconds, each sample in the middle of its bucket."""
    frame = comparison.histograms
    frame = frame[frame["histogram"] == HISTOGRAM]
    hertz = {case["case"]: case["tsc_hz"] for case in comparison.results.cases}
    found = {}
    for name, rows in frame.groupby("case"):
        middle = (rows["low"] + rows["high"] - 1) / 2
        found[str(name)] = float(1e6 * (middle * rows["count"]).sum() / rows["count"].sum() / hertz[name])
    return found
