"""A sequence of the kernel model, priced operation by operation, with what each price rests on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sim.analysis.price_own import cost as cost_of
from sim.costs.check import GRADES
from sim.costs.price import Prices, terms
from sim.costs.rows import CostTable
from sim.kernel.operations import Operation


class Cost(NamedTuple):
    """TSC cycles: each cost row at its value, and at the end of its range that makes it least and most."""

    cycles: int
    low: int
    high: int


class LineCost(NamedTuple):
    """What one operation costs: ``grade`` is the weakest of those of ``rows``, the ids of the rows in its price."""

    cost: Cost
    grade: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FlowCost:
    """A sequence with its buffers in L1; ``by_grade``: TSC cycles, before rounding, by the grade of the cost rows."""

    table: CostTable
    lines: tuple[LineCost, ...]
    whole: Cost
    by_phase: Mapping[str, Cost]
    by_grade: Mapping[str, float]


def flow_cost(operations: Iterable[Operation], table: CostTable) -> FlowCost:
    """The operations of a flow, priced in their order; :class:`~sim.errors.InputError` for one without a price."""
    prices = Prices(table)
    lines: list[LineCost] = []
    phases: dict[str, list[Cost]] = {}
    grades = dict.fromkeys(GRADES, 0.0)
    for op in operations:
        rows = terms(op, table)
        _, low, high = cost_of({op: 1}, table)
        cycles = prices[op]
        cost = Cost(cycles, min(round(low), cycles), max(round(high), cycles))
        grade = max((table.rows[row].grade for row in rows), key=GRADES.index)
        lines.append(LineCost(cost, grade, tuple(rows)))
        phases.setdefault(op.phase, []).append(cost)
        for name, n in rows.items():
            row = table.rows[name]
            grades[row.grade] += n * row.value * table.scale(row)
    by_phase = {phase: _sum(costs) for phase, costs in phases.items()}
    return FlowCost(table, tuple(lines), _sum(by_phase.values()), by_phase, grades)


def _sum(costs: Iterable[Cost]) -> Cost:
    return Cost(*(sum(column) for column in zip((0, 0, 0), *costs, strict=True)))
