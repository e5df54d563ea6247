"""The answer of a run, case by case: what each strategy's own operations cost, how sure that is, and under which load.

Own operations are the difference in operations on one schedule, priced at the values of the cost table.  Two things are
not known exactly: the rates of a longer run (an interval over the replications) and the costs (a range over draws from
the table's rows).  They are stated apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from sim.analysis import student
from sim.analysis.between import Between, Side
from sim.analysis.contrasts import Family, p_value, planned
from sim.analysis.feedback import Feedback
from sim.analysis.feedback import feedback as feedback_of
from sim.analysis.pricing import with_tables
from sim.analysis.schedules import finished
from sim.analysis.uncertainty.coefficients import Array, values
from sim.analysis.uncertainty.counted import Counted, Moved, counted
from sim.analysis.uncertainty.draws import Ranges, draw
from sim.costs.price import design_matrix, in_tsc
from sim.costs.rows import CostTable
from sim.errors import InputError
from sim.kernel.operations import Operation
from sim.results.columns import KEY_COLUMNS
from sim.results.spool import Spool
from sim.scenario.contrasts import Contrast, Operand

if TYPE_CHECKING:
    from sim.analysis.compared import Compared

DRAWS: Final = 10_000
SEED: Final = 1
LEVEL: Final = 0.95
OF_LOAD: Final = (
    "elapsed_cycles", "idle_cycles", "vm_exits", "context_switches", "kvm_run_round_trips", "halts", "vcpu_loads",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``n`` replications with its 95 % t interval, in ``unit``; no interval (NaN) for one replication."""

    mean: float
    low: float
    high: float
    unit: str
    n: int


@dataclass(frozen=True, slots=True)
class Range:
    """The middle 95 % of draws of the costs, and their median."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Own operations of ``a`` less those of ``b`` in a case, in TSC cycles per vCPU-second (CPU-second, without vCPUs).

    Unlike those of the ledger, prices are not rounded to whole cycles here, so that they are comparable with draws of
    the costs.  ``own_without_xss`` and ``xss``, the switching of IA32_XSS, add up to ``own``, and so do not their
    ranges.  ``cheaper`` is the share of the draws in which ``a`` costs less than ``b``; ``assumed`` the share of the
    difference that rests on assumed cost rows; ``rows`` are the cost rows behind it, the one with most cycles first.

    ``planned``: the scenario asks about this pair.  ``p`` is raw, and so is ``p_xss``, that of ``xss``; ``p_adjusted``
    by Holm, over this and all differences from the references of all cases that are not planned, NaN where planned.
    ``verdict`` goes by the one that counts: "lower", "higher", "same", "not shown", or "not tested" with one
    replication.  ``heavy_tails``: few replications make most of the variance.  Of a contrast of two cases ``case`` is
    empty, ``a`` and ``b`` are STRATEGY@CASE, and the unit is microseconds where the two have other clocks.
    """

    case: str
    a: str
    b: str
    own: Estimate
    own_without_xss: Estimate
    xss: Estimate
    range: Range
    range_without_xss: Range
    range_xss: Range
    p: float
    p_without_xss: float
    cheaper: float
    cheaper_without_xss: float
    assumed: float
    rows: tuple[str, ...]
    planned: bool
    p_adjusted: float
    p_without_xss_adjusted: float
    verdict: str
    heavy_tails: bool
    p_xss: float = np.nan

    @property
    def p_that_counts(self) -> float:
        """The p of ``own_without_xss`` by which it is shown or not: raw where planned, else adjusted."""
        return self.p_without_xss if self.planned else self.p_without_xss_adjusted


@dataclass(frozen=True, slots=True)
class Load:
    """What the schedule was, per vCPU-second or CPU-second, and the share of all CPU time that was not idle."""

    exits: float
    switches: float
    kvm_runs: float
    halts: float
    load_puts: float
    busy: float


class Answers:
    """The answers of a comparison; draws of a case's costs are made once."""

    def __init__(self, comparison: "Compared") -> None:
        self._comparison = comparison
        self._counted: dict[str, Counted] = {}
        self._spool = Spool()
        self._drawn: dict[str, Array] = {}
        self._tables = with_tables(comparison.results)

    def _case(self, name: str) -> Counted:
        """What a case did, in the rows that it uses."""
        if name not in self._counted:
            results = self._comparison.results
            ledgers, replications = finished(results, results.case(name))
            self._counted[name] = counted(ledgers, results.case(name), replications, self._tables[name], self._spool)
        return self._counted[name]

    def _moved(self, case: str, a: str, b: str | None = None) -> Moved:
        """What ``a`` does in a case, or does more than ``b``."""
        of = self._case(case)
        return of.moved(of.strategies.index(a), None if b is None else of.strategies.index(b))

    def _draws(self, name: str) -> Array:
        """Draws of the rows of a case's cost table, in TSC cycles."""
        table = self._tables[name]
        if table.name not in self._drawn:
            # Of all rows, since the draws of a row do not depend on which others there are: once for all cases.
            every = Ranges(table, (True,) * len(table.rows), "table")
            self._drawn[table.name] = draw(every, DRAWS, SEED).rows
        return self._drawn[table.name]

    def difference(self, case: str, a: str, b: str) -> Difference:
        """``a`` less ``b`` in ``case``, both walked there."""
        of, moved = self._case(case), self._moved(case, a, b)
        draws, rows = of.taken(self._draws(case)), of.rows
        by_row = np.abs(moved.total.mean * of.at_values)
        order = [row for row in np.argsort(-by_row, kind="stable") if by_row[row] > 0]
        assumed = sum(by_row[row] for row in order if rows[row].grade == "assumed")
        unit = "cycles/vCPU-s" if of.per == "vCPU-second" else "cycles/CPU-s"
        with_xss, without_xss, xss = (each.cycles for each in (moved.total, moved.without_xss, moved.xss))
        drawn, drawn_without, drawn_xss = (
            _priced(draws, each.mean) for each in (moved.total, moved.without_xss, moved.xss)
        )
        return Difference(
            case=case,
            a=a,
            b=b,
            own=_estimate(with_xss, unit),
            own_without_xss=_estimate(without_xss, unit),
            xss=_estimate(xss, unit),
            range=_range(drawn),
            range_without_xss=_range(drawn_without),
            range_xss=_range(drawn_xss),
            p=p_value(with_xss),
            p_without_xss=p_value(without_xss),
            p_xss=p_value(xss),
            cheaper=float(np.mean(drawn < 0)),
            cheaper_without_xss=float(np.mean(drawn_without < 0)),
            assumed=float(assumed / by_row.sum()) if by_row.any() else 0.0,
            rows=tuple(rows[row].id for row in order),
            **self._family.tests(_pair(case, a, b), with_xss, without_xss)._asdict(),
        )

    def by_row(self, case: str, a: str, b: str) -> dict[str, float]:
        """What each cost row adds to ``a`` less ``b``, the row at its value; rows that add nothing are left out."""
        of = self._case(case)
        cycles = self._moved(case, a, b).total.mean * of.at_values
        return {row.id: float(each) for row, each in zip(of.rows, cycles, strict=True) if each}

    def of_component(self, case: str, strategy: str, mask: int) -> tuple[Estimate, Range]:
        """What a strategy's saves and restores cost more with the components of ``mask`` than without, and its range.

        They are priced again without the bits; how often they run, and where buffers are, stays.
        """
        of, results = self._case(case), self._comparison.results
        ledgers, _ = finished(results, results.case(case))
        at_values = in_tsc(of.table, values(of.table))
        total, begin, by_replication = np.zeros(len(of.table.rows)), 0, []
        for ledger in ledgers:
            rows = ledger[ledger["strategy"] == strategy]
            keys = list(rows[list(KEY_COLUMNS)].drop_duplicates().itertuples(index=False, name=None))
            less = [_without(Operation(*key), mask) for key in keys]
            of_key = design_matrix(keys, of.table) - design_matrix(less, of.table)
            number = {key: i for i, key in enumerate(keys)}
            code = np.array([number[key] for key in rows[list(KEY_COLUMNS)].itertuples(index=False, name=None)])
            replication, count = rows["replication"].to_numpy(), rows["count"].to_numpy()
            moved = np.zeros((int(replication.max()) + 1 - begin, len(total)))
            for row in np.flatnonzero(np.any(of_key != 0, axis=0)).tolist():
                np.add.at(moved[:, row], replication - begin, count * of_key[code, row])
            moved /= of.seconds
            total = np.add.reduce(np.vstack([total, moved]), axis=0)
            by_replication.append(moved @ at_values)
            begin += len(moved)
        unit = "cycles/vCPU-s" if of.per == "vCPU-second" else "cycles/CPU-s"
        drawn = _priced(self._draws(case), total / of.replications)
        return _estimate(np.concatenate(by_replication), unit), _range(drawn)

    def over_costs(self, case: str, rows: Mapping[str, float]) -> Range:
        """What this many of each cost row cost over the draws, in TSC cycles."""
        moved = np.array([rows.get(row, 0.0) for row in self.table(case).rows])
        return _range(_priced(self._draws(case), moved))

    def contrasts(self) -> list[Difference]:
        """The planned contrasts, in the order of the scenario; of those of two cases ``case`` is empty."""
        return [
            self.difference(a.case, a.strategy, b.strategy) if a.case == b.case else self.between(a, b)
            for a, b in planned(self._comparison.results)
        ]

    def between(self, a: Operand, b: Operand) -> Difference:
        """``a`` less ``b``, each on the schedule of its own case; replication n is the same world for both.

        Raises :class:`~sim.errors.InputError` if only one of the cases has vCPUs.
        """
        pair = Between(*(Side(self._case(each.case), each.strategy, self._tsc_hz(each.case)) for each in (a, b)))
        with_xss, without_xss = (pair.by_replication(with_xss=with_xss) for with_xss in (True, False))
        drawn, drawn_without = pair.drawn(DRAWS, SEED)
        rows = pair.by_row()
        total = sum(abs(cycles) for cycles, _ in rows.values())
        assumed = sum(abs(cycles) for cycles, is_assumed in rows.values() if is_assumed)
        return Difference(
            case="",
            a=str(a),
            b=str(b),
            own=_estimate(with_xss, pair.unit),
            own_without_xss=_estimate(without_xss, pair.unit),
            xss=_estimate(with_xss - without_xss, pair.unit),
            range=_range(drawn),
            range_without_xss=_range(drawn_without),
            range_xss=_range(drawn - drawn_without),
            p=p_value(with_xss),
            p_without_xss=p_value(without_xss),
            p_xss=p_value(with_xss - without_xss),
            cheaper=float(np.mean(drawn < 0)),
            cheaper_without_xss=float(np.mean(drawn_without < 0)),
            assumed=assumed / total if total else 0.0,
            rows=tuple(rows),
            **self._family.tests(Contrast(a, b), with_xss, without_xss)._asdict(),
        )

    def _tsc_hz(self, case: str) -> float:
        return float(self._comparison.results.case(case)["tsc_hz"])

    def feedback(self, case: str, a: str, b: str) -> Feedback | None:
        """What the host does otherwise under ``a`` than under ``b``; None without independent runs of both."""
        found = self._comparison.feedback_by_replication
        return None if found is None else feedback_of(found, case, a, b)

    @cached_property
    def _family(self) -> Family:
        """All differences from the references that were not planned."""
        comparison = self._comparison
        unplanned = {
            _pair(case["case"], strategy, reference): self.by_replication(case["case"], strategy, reference)
            for case in comparison.results.cases
            if self._has(case["case"])
            for strategy in case["strategies"]
            if strategy != (reference := comparison.references[case["case"]])
            and (case["case"], strategy) not in comparison.planned
        }
        return Family(planned(comparison.results), unplanned)

    def _has(self, case: str) -> bool:
        """Whether there is a replication of all strategies, which an incomplete run may lack."""
        try:
            self._case(case)
        except InputError:
            return False
        return True

    def replications(self, case: str) -> int:
        """How many replications there are of every strategy of ``case``."""
        return self._case(case).replications

    def by_replication(self, case: str, a: str, b: str | None = None) -> tuple[Array, Array]:
        """All operations of ``a``, or less those of ``b``, in each replication: with IA32_XSS and without."""
        moved = self._moved(case, a, b)
        return moved.total.cycles, moved.without_xss.cycles

    def table(self, case: str) -> CostTable:
        """The cost table of ``case``."""
        return self._tables[case]

    def used(self, case: str) -> dict[str, float]:
        """The cost rows that ``case`` was priced with, and the largest share that each has of a strategy's cost."""
        of = self._case(case)
        moved = [of.moved(i) for i in range(len(of.strategies))]
        cycles = np.array([each.total.mean for each in moved]) * of.at_values
        total = cycles.sum(axis=1, keepdims=True)
        share = np.divide(cycles, total, out=np.zeros_like(cycles), where=total > 0).max(axis=0)
        used = np.any([each.used for each in moved], axis=0)
        return {row.id: float(each) for row, there, each in zip(of.rows, used, share, strict=True) if there}

    def load(self, case: str) -> Load:
        """The load that was realised in ``case``."""
        document = self._comparison.results.case(case)
        pieces = (piece.metrics for piece in self._comparison.results.pieces(case))
        of_record = pd.concat([_of_load(each[each["case"] == case]) for each in pieces]).sort_index(kind="stable")
        seconds = of_record["elapsed_cycles"] / (document["cpus"] * document["tsc_hz"])
        seconds *= document["vcpus"] or document["cpus"]

        def rate(metric: str) -> float:
            return float((of_record[metric] / seconds).mean()) if metric in of_record else np.nan

        return Load(
            exits=rate("vm_exits"),
            switches=rate("context_switches"),
            kvm_runs=rate("kvm_run_round_trips"),
            halts=rate("halts"),
            load_puts=rate("vcpu_loads"),
            busy=float((1 - of_record["idle_cycles"] / of_record["elapsed_cycles"]).mean()),
        )


def _of_load(metrics: pd.DataFrame) -> pd.DataFrame:
    """What is counted of the load, a column each, in each replication."""
    counted = metrics[metrics["metric"].isin(OF_LOAD)]
    return counted.pivot(index=["timed_by", "replication"], columns="metric", values="value")


def _estimate(by_replication: Array, unit: str) -> Estimate:
    n, mean = len(by_replication), float(by_replication.mean())
    half = np.nan
    if n > 1:
        half = float(student.quantile((1 + LEVEL) / 2, n - 1) * by_replication.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, unit, n)


def _priced(draws: Array, moved: Array) -> Array:
    """What a change of coefficients costs under each draw."""
    used = np.flatnonzero(moved)
    priced: Array = draws[:, used] @ moved[used]
    return priced


def _without(op: Operation, mask: int) -> Operation:
    """The operation without the components of ``mask``."""
    return op._replace(rfbm=op.rfbm & ~mask, components=op.components & ~mask, initialised=op.initialised & ~mask)


def _pair(case: str, a: str, b: str) -> Contrast:
    return Contrast(Operand(a, case), Operand(b, case))


def _range(draws: Array) -> Range:
    low, median, high = np.quantile(draws, ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2))
    return Range(float(low), float(median), float(high))
