"""A comparison of strategies: its findings as data frames (``df_*``)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from sim.analysis import contrasts, estimates, feedback, metrics, notes, pricing, rates
from sim.analysis.answers import Answers
from sim.analysis.categories import CATEGORIES
from sim.analysis.contrast_frame import df_contrasts
from sim.analysis.latency import quantiles, resolution
from sim.analysis.replicated import Replicated
from sim.analysis.schedules import has_feedback, independent, walked
from sim.errors import InputError, unknown
from sim.kernel.config import strategy_of
from sim.kernel.integrity import VIOLATIONS
from sim.results.settings import settings_of
from sim.results.tables import Results, described


class Comparison:
    """The strategies of each case of ``results`` compared with ``reference``, by default the scenario's.

    ``references`` is the reference strategy of each case.  Frames are in the order of the scenario.  "mean", "low" and
    "high" are over replications: the t interval of 95 %, absent (NaN) for a single replication and for what is not a
    mean over replications.  The last columns of a frame by case are cpu, kernel and the swept values of the case.

    ``results`` are those of the common schedules, ``independent`` those of independent runs, which give the feedback;
    None if there are none.

    Raises :class:`~sim.errors.InputError` if a case has no results for that reference.
    """

    def __init__(self, results: Results, reference: str | None = None) -> None:
        if all(piece.metrics.empty for piece in results.pieces()):
            raise InputError("results without a single finished replication: nothing to compare")
        self.whole = results
        self.results = walked(results)
        self.independent = independent(results) if has_feedback(results) else None
        self.references: dict[str, str] = {}
        for case in results.cases:
            name = reference or case["reference"]
            if name not in case["strategies"]:
                raise unknown(f"reference in case {case['case']}:", name, case["strategies"])
            self.references[case["case"]] = name
        self.planned = contrasts.from_references(contrasts.planned(self.results), self.references)

    def _described(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A copy of a frame, with the columns that describe its cases."""
        return described(frame, self.results.cases)

    @cached_property
    def _everything(self) -> Replicated:
        return metrics.per_replication(self.results)

    @cached_property
    def _replications(self) -> Replicated:
        return self._asked(self._everything)

    def _asked(self, found: Replicated) -> Replicated:
        """Those of strategies that a case has; the one that times the schedule need not be among them."""
        asked = {(case["case"], strategy) for case in self.results.cases for strategy in case["strategies"]}
        return found.where(lambda key: (key["case"], key["strategy"]) in asked)

    @cached_property
    def _schedule(self) -> pd.DataFrame:
        of_host = self._everything.where(lambda key: not metrics.is_of_operations(key["metric"]))
        found = (estimates.with_intervals(each, ["case", "metric", "unit"]) for each in of_host.frames())
        return pd.concat(found, ignore_index=True).drop(columns="sd")

    def df_schedule(self) -> pd.DataFrame:
        """What the host did in each case, under the strategy that times the schedule: rates, shares of time, throughput
        and latencies.  Columns: case, metric, unit, n, mean, low, high.
        """
        return self._described(self._schedule)

    def df_replications(self) -> pd.DataFrame:
        """Every metric of every replication: case, strategy, replication, metric, unit, value."""
        return self._described(self._replications.frame())

    def by_replication(self, metric: str) -> pd.DataFrame:
        """The same of one metric, without what describes the cases."""
        return self._replications.where(lambda key: key["metric"] == metric).frame()

    @cached_property
    def _metrics(self) -> pd.DataFrame:
        by = ["case", "strategy", "metric", "unit"]
        some = [estimates.with_intervals(each, by) for each in self._replications.frames()]
        found = pd.concat(some, ignore_index=True)
        bucket = resolution(found["metric"], found["mean"])
        found["low"], found["high"] = found["low"] - bucket, found["high"] + bucket
        frames = [found.drop(columns="sd"), self._pooled_latency(found)]
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)

    def _pooled_latency(self, found: pd.DataFrame) -> pd.DataFrame:
        """Quantiles for which single replications have too few samples, without an interval."""
        there = set(zip(found["case"], found["strategy"], found["metric"], strict=True))
        pooled = self.df_latency()
        pooled["metric"] = [
            metrics.latency_metric(h, q) for h, q in zip(pooled["histogram"], pooled["quantile"], strict=True)
        ]
        keys = zip(pooled["case"], pooled["strategy"], pooled["metric"], strict=True)
        pooled = pooled[np.array([key not in there for key in keys], dtype=bool)]
        return pooled.assign(unit="us", n=1, mean=pooled["us"], low=float("nan"), high=float("nan"))[
            ["case", "strategy", "metric", "unit", "n", "mean", "low", "high"]
        ]

    def df_metrics(self) -> pd.DataFrame:
        """Every metric of every strategy: case, strategy, metric, unit, n, mean, low, high."""
        return self._described(self._metrics)

    @cached_property
    def _differences(self) -> pd.DataFrame:
        of_operations = self._replications.where(lambda key: metrics.is_of_operations(key["metric"]))
        moved = (estimates.paired(each, pd.Series(self.references)) for each in of_operations.frames())
        return pd.concat([estimates.compared(each, self.planned) for each in moved], ignore_index=True)

    def df_differences(self) -> pd.DataFrame:
        """Differences from the reference on one schedule, for every metric that is computed from operations.  Columns:

        case, strategy, metric, unit, n, mean, low, high, percent, percent_low, percent_high, p, planned, p_adjusted,
        verdict; see :func:`sim.analysis.estimates.compared`.
        """
        return self._described(self._differences)

    @cached_property
    def feedback_by_replication(self) -> feedback.Values | None:
        """What :mod:`sim.analysis.feedback` compares; None without independent runs of all strategies."""
        if self.independent is None:
            return None
        return feedback.Values(self._replications, self._asked(metrics.per_replication(self.independent)))

    @cached_property
    def _feedback(self) -> pd.DataFrame:
        values = self.feedback_by_replication
        if values is None:
            return pd.DataFrame(columns=list(feedback.COLUMNS))
        return feedback.df_feedback(values.frames(), self.references, self.planned)

    def df_feedback(self) -> pd.DataFrame:
        """What the host does differently than under the reference, from independent runs; empty without them.

        For metrics that only the host shows, the paired difference; for cost and cost_without_xss the difference of the
        whole cost less own operations.  The columns of :meth:`df_differences`, and no_more_than,
        percent_no_more_than (the smallest margin that two one-sided tests at 2.5 % show) and heavy_tails.
        """
        return self._described(self._feedback)

    @cached_property
    def _contrasts(self) -> pd.DataFrame:
        return df_contrasts(Answers(self).contrasts())

    def df_contrasts(self) -> pd.DataFrame:
        """The contrasts that the scenario asks about: see :func:`sim.analysis.contrast_frame.df_contrasts`."""
        return self._described(self._contrasts)

    def notes(self) -> list[str]:
        """What a reader must know about the estimates: see :func:`sim.analysis.notes.notes`."""
        return notes.notes(self)

    def df_categories(self) -> pd.DataFrame:
        """Where the operations' cycles go: case, strategy, category, unit, mean, low, high."""
        names = {f"cost_{name.lower()}": name for name in CATEGORIES}
        found = self._metrics[self._metrics["metric"].isin(names)].copy()
        found["category"] = found["metric"].map(names)
        return self._described(
            found[["case", "strategy", "category", "unit", "mean", "low", "high"]].reset_index(drop=True)
        )

    def df_levels(self) -> pd.DataFrame:
        """The difference in cost from the reference with all buffers warm, as modelled, and all in memory.  Columns:

        case, strategy, xss (whether the cycles of IA32_XSS are included), level, unit, mean, low, high.
        """
        names = {
            f"{cost}{suffix}": (cost == metrics.COST, level)
            for cost in (metrics.COST, metrics.COST_WITHOUT_XSS)
            for level, suffix in zip(pricing.LEVELS, ("_all_warm", "", "_all_memory"), strict=True)
        }
        found = self._differences[self._differences["metric"].isin(names)].copy()
        found["xss"] = found["metric"].map({name: xss for name, (xss, _) in names.items()})
        found["level"] = found["metric"].map({name: level for name, (_, level) in names.items()})
        return self._described(
            found[["case", "strategy", "xss", "level", "unit", "mean", "low", "high"]].reset_index(drop=True)
        )

    @cached_property
    def _grades(self) -> pd.DataFrame:
        return pricing.grades_of_differences(self.results, self.references)

    def df_grades(self) -> pd.DataFrame:
        """How much of the difference in cycles rests on cost rows of each grade: case, strategy, grade, percent."""
        return self._described(self._grades)

    def df_latency(self) -> pd.DataFrame:
        """Wake-up latencies, all replications together: case, strategy, histogram, quantile, us, samples."""
        tsc_hz = pd.Series({case["case"]: case["tsc_hz"] for case in self.results.cases})
        return self._described(quantiles(self.histograms, ["case", "strategy"], tsc_hz))

    @cached_property
    def histograms(self) -> pd.DataFrame:
        """Wake-up latencies of all replications: case, strategy, histogram, low, high, count.

        A bucket may have several rows.
        """
        keys = ["case", "strategy", "histogram", "low", "high"]
        latencies = (piece.latency for piece in self.results.pieces())
        some = [each.groupby(keys, sort=False)["count"].sum().reset_index() for each in latencies]
        return pd.concat(some, ignore_index=True)

    @cached_property
    def _integrity(self) -> pd.DataFrame:
        lines = [(case["case"], strategy) for case in self.results.cases for strategy in case["strategies"]]
        index = pd.MultiIndex.from_tuples(lines, names=["case", "strategy"])
        by = ["case", "strategy", "kind"]
        some = [piece.integrity.groupby(by)["count"].sum() for piece in self.results.pieces()]
        counts: pd.Series = pd.concat(some).groupby(level=by).sum()
        kinds = counts.unstack("kind", fill_value=0).reindex(index, fill_value=0)
        violations = kinds[[kind for kind in VIOLATIONS if kind in kinds]].sum(axis=1).astype("int64")
        documented = [
            strategy_of(settings).why_unsound(settings.host_shadow_stacks)
            for case in self.results.cases
            for settings in (settings_of(case, strategy) for strategy in case["strategies"])
        ]
        return kinds.assign(violations=violations, documented=documented).reset_index().rename_axis(columns=None)

    def df_integrity(self) -> pd.DataFrame:
        """What the integrity check found: case, strategy, violations, and a column for each kind that was found.

        "documented" says why a strategy is known to be unsound with the case's host shadow stacks, and is empty for the
        others.
        """
        return self._described(self._integrity)

    def violating(self, case: str) -> frozenset[str]:
        """The strategies that were caught violating integrity in ``case``: their costs are not comparable."""
        found = self._integrity[(self._integrity["case"] == case) & (self._integrity["violations"] > 0)]
        return frozenset(found["strategy"])

    def unsound(self, case: str) -> dict[str, str]:
        """Why the cost of a strategy of ``case`` is not comparable: it was caught, or is known to be unsound."""
        found = {}
        for row in self._integrity[self._integrity["case"] == case].to_dict("records"):
            count, documented = int(row["violations"]), str(row["documented"])
            if count and not documented:
                found[row["strategy"]] = f"{count} violations, and NOT documented as unsound"
            elif documented:
                found[row["strategy"]] = documented + ("" if count else " (not caught here)")
        return found

    def unexpected_violations(self) -> list[tuple[str, str, int]]:
        """Case, strategy and number of violations, of strategies that are not documented as unsound."""
        found = self.df_integrity().to_dict("records")
        return [
            (row["case"], row["strategy"], int(row["violations"]))
            for row in found
            if row["violations"] and not row["documented"]
        ]

    @cached_property
    def _law(self) -> pd.DataFrame:
        return rates.df_law(self.results)

    @cached_property
    def _law_check(self) -> pd.DataFrame:
        return rates.df_law_check(self)

    @cached_property
    def _break_even(self) -> pd.DataFrame:
        return rates.df_break_even(self)

    def df_law(self) -> pd.DataFrame:
        """The linear law of :mod:`sim.analysis.law`: see :func:`sim.analysis.rates.df_law`."""
        return self._described(self._law)

    def df_law_check(self) -> pd.DataFrame:
        """Whether the law agrees with what was simulated: see :func:`sim.analysis.rates.df_law_check`."""
        return self._described(self._law_check)

    def df_break_even(self) -> pd.DataFrame:
        """Rates at which a strategy costs as much as the reference: see :func:`sim.analysis.rates.df_break_even`."""
        return self._described(self._break_even)
