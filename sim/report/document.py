"""A comparison as one JSON document: the form that scripts read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from sim.analysis.answers import Answers
from sim.analysis.contrasts import planned
from sim.analysis.metrics import COST, COST_WITHOUT_XSS
from sim.errors import InputError
from sim.kernel.integrity import KINDS
from sim.report import not_shown
from sim.results.manifest import NAME
from sim.scenario.contrasts import Contrast, Operand

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison


ESTIMATES: Final = ("own", "own_without_xss", "xss")
RANGES: Final = ("range", "range_without_xss", "range_xss")
TESTS: Final = ("p", "p_without_xss", "p_xss")


def document(comparison: "Comparison", answers: Answers) -> dict[str, Any]:
    """What ``fpswitch run --json`` prints; ``answers`` are those of ``comparison``.

    "manifest" is the path of the manifest, or null; "not_shown" are sentences about differences between kernels that no
    number shows.  "low" and "high" are null if there is no interval.  A difference also has "p", "p_adjusted" and
    "verdict" (see :func:`sim.analysis.estimates.compared`), and that of "cost" has "assumed_percent", how much of it
    rests on assumed rows; the difference of the reference is empty, and that of a metric which only the host has is
    null.  "own", "own_without_xss", "xss" and their ranges are the answer (:class:`sim.analysis.answers.Difference`),
    in a contrast with p for each.  They are a less b in a contrast, and in a strategy its own less the reference's;
    they are null for the reference, and in a case without a replication of all strategies.  "difference" of "cost" and
    of "cost_without_xss" are the same numbers as "own": there prices are not rounded to whole cycles, unlike those of
    "metrics".
    """
    results = comparison.results
    metrics = _by_strategy(comparison.df_metrics())
    differences = _by_strategy(comparison.df_differences())
    found = comparison.df_integrity()
    grades = comparison.df_grades()
    of_assumed = grades[grades["grade"] == "assumed"].set_index(["case", "strategy"])["percent"]
    assumed: dict[Any, float] = of_assumed.to_dict()
    schedule = comparison.df_schedule()
    of_host = {case: tuple(rows["metric"]) for case, rows in schedule.groupby("case")}
    integrity = {(row["case"], row["strategy"]): row for row in found.to_dict("records")}
    kinds = [kind for kind in KINDS if kind in found]
    return {
        "scenario": results.manifest["scenario"],
        "seed": results.manifest["seed"],
        "replications": results.manifest["replications"],
        "manifest": str(results.directory / NAME) if results.directory else None,
        "not_shown": not_shown.sentences(results.manifest),
        "cases": [
            {
                "case": case["case"],
                "cpu": case["cpu"],
                "kernel": case["kernel"],
                "sweep": dict(case["sweep"]),
                "load": _load(answers, case["case"]),
                "contrasts": _contrasts(comparison, answers, case),
                "strategies": {
                    strategy: {
                        "metrics": _metrics(metrics.get((case["case"], strategy))),
                        **_compared(
                            _own(answers, case["case"], strategy, comparison.references[case["case"]]),
                            differences.get((case["case"], strategy)),
                            assumed.get((case["case"], strategy)),
                            of_host.get(case["case"], ()),
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


def _compared(
    own: Mapping[str, Any], frame: pd.DataFrame | None, assumed: float | None, of_host: Sequence[str]
) -> dict[str, Any]:
    """The difference from the reference, metric by metric, and the answer; a metric that is in both has one number."""
    found = _difference(frame, assumed, of_host)
    for metric, name in ((COST, "own"), (COST_WITHOUT_XSS, "own_without_xss")):
        if own[name] and (difference := found.get(metric)):
            difference.update(own[name])
    return {"difference": found, **own}


def _difference(
    frame: pd.DataFrame | None, assumed: float | None, of_host: Sequence[str]
) -> dict[str, dict[str, Any] | None]:
    found = _metrics(frame, "p", "p_adjusted", "verdict")
    if COST in found:
        found[COST]["assumed_percent"] = assumed
    return {**found, **{metric: None for metric in of_host if metric not in found}} if found else {}


def _load(answers: Answers, case: str) -> dict[str, Any]:
    """The load that was simulated; rates are per vCPU-second, or per CPU-second of a host without vCPUs."""
    return {name: _plain(value) for name, value in asdict(answers.load(case)).items()}


def _contrasts(comparison: "Comparison", answers: Answers, case: Mapping[str, Any]) -> list[dict[str, Any]]:
    name, found = case["case"], []
    for pair in planned(comparison.results):
        (a, b), within = pair, pair.a.case == pair.b.case
        if a.case == name:
            feedback = answers.feedback(name, a.strategy, b.strategy) if within else None
            names = {"a": a.strategy, "b": b.strategy} if within else {"a": str(a), "b": str(b)}
            found.append(names | _contrast(answers, pair) | {"feedback": feedback.document() if feedback else None})
    return found


def _own(answers: Answers, case: str, strategy: str, reference: str) -> dict[str, Any]:
    found = _answer(answers, case, strategy, reference) if strategy != reference else {}
    return {key: found.get(key) for key in (*ESTIMATES, *RANGES)}


def _answer(answers: Answers, case: str, a: str, b: str) -> dict[str, Any]:
    return _contrast(answers, Contrast(Operand(a, case), Operand(b, case)))


def _contrast(answers: Answers, pair: Contrast) -> dict[str, Any]:
    (a, b), within = pair, pair.a.case == pair.b.case
    try:
        found = answers.difference(a.case, a.strategy, b.strategy) if within else answers.between(a, b)
    except InputError:  # no replication of all strategies
        return dict.fromkeys((*ESTIMATES, *RANGES, *TESTS))
    own = {
        name: {key: _plain(getattr(getattr(found, name), key)) for key in ("mean", "low", "high", "unit")}
        for name in ESTIMATES
    }
    over = {name: {key: _plain(value) for key, value in asdict(getattr(found, name)).items()} for name in RANGES}
    return own | over | {name: _plain(getattr(found, name)) for name in TESTS}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None
