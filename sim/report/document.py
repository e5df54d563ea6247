"""A comparison as one JSON document: the form that scripts read."""

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from sim.analysis.metrics import COST
from sim.results.manifest import NAME

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison


def document(comparison: "Comparison") -> dict[str, Any]:
    """What ``fpswitch run --json`` prints.

    "manifest" is the path of the manifest, or null.  "low" and "high" are null where there is no interval; a difference
    also has "p" and "verdict" (see :func:`sim.analysis.estimates.compared`), and that of "cost" "assumed_percent", how
    much of it rests on assumed rows; the difference of the reference is empty.
    """
    results = comparison.results
    metrics = _by_strategy(comparison.df_metrics())
    differences = _by_strategy(comparison.df_differences())
    found = comparison.df_integrity()
    grades = comparison.df_grades()
    of_assumed = grades[grades["grade"] == "assumed"].set_index(["case", "strategy"])["percent"]
    assumed: dict[Any, float] = of_assumed.to_dict()
    integrity = {(row["case"], row["strategy"]): row for row in found.to_dict("records")}
    kinds = [column for column in found.columns if column not in ("case", "strategy", "violations", "documented")]
    return {
        "scenario": results.manifest["scenario"],
        "seed": results.manifest["seed"],
        "replications": results.manifest["replications"],
        "manifest": str(results.directory / NAME) if results.directory else None,
        "cases": [
            {
                "case": case["case"],
                "cpu": case["cpu"],
                "kernel": case["kernel"],
                "sweep": dict(case["sweep"]),
                "strategies": {
                    strategy: {
                        "metrics": _metrics(metrics.get((case["case"], strategy))),
                        "difference": _difference(
                            differences.get((case["case"], strategy)), assumed.get((case["case"], strategy))
                        ),
                        "integrity": {
                            "violations": int(integrity[case["case"], strategy]["violations"]),
                            "kinds": {
                                kind: int(count) for kind in kinds if (count := integrity[case["case"], strategy][kind])
                            },
                        },
                    }
                    for strategy in case["strategies"]
                },
            }
            for case in results.cases
        ],
    }


def _by_strategy(frame: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    return dict(iter(frame.groupby(["case", "strategy"], sort=False)))


def _metrics(frame: pd.DataFrame | None, *more: str) -> dict[str, dict[str, Any]]:
    if frame is None:
        return {}
    columns = ["mean", "low", "high", "unit", *more]
    rows = zip(frame["metric"], *(frame[column] for column in columns), strict=True)
    return {metric: dict(zip(columns, map(_plain, values), strict=True)) for metric, *values in rows}


def _difference(frame: pd.DataFrame | None, assumed: float | None) -> dict[str, dict[str, Any]]:
    found = _metrics(frame, "p", "verdict")
    if COST in found:
        found[COST]["assumed_percent"] = assumed
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None
