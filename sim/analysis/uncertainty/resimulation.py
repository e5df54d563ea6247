"""How far repricing is from simulating again: a few draws, each of them simulated as the table of the machine.

Repricing keeps the counts of a run.  But operations take simulated time: a machine with more expensive ones gets less
work done, or is less idle, so other counts come about.  Here a draw becomes a cost table of its own, every strategy and
replication is simulated with it, and the result is put beside what repricing says for the same draw.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sim.analysis import student
from sim.analysis.uncertainty.coefficients import Array
from sim.analysis.uncertainty.counted import Counted
from sim.analysis.uncertainty.draws import Draws, Ranges, draw
from sim.analysis.uncertainty.pricing import LEVEL, Interval
from sim.costs.rows import CostRow, CostTable
from sim.costs.table import load
from sim.scenario.cases import Case

Rerun = Callable[[Case], pd.DataFrame]
"""Runs all strategies and replications of a case, and returns the ledger of the schedules that all of them walked."""


class Feedback(NamedTuple):
    """One strategy under one draw, in TSC cycles per unit of the case, as means over the replications.

    ``difference``: cost(strategy) - cost(reference), ``cost``: cost(strategy).  ``departure``: simulated less repriced
    difference, with its t interval over the replications, which are paired.
    """

    draw: int
    strategy: str
    cost_repriced: float
    cost_simulated: float
    difference_repriced: float
    difference_simulated: float
    departure: Interval


def resimulate(
    coefficients: Counted, case: Case, rerun: Rerun, folder: Path, *, draws: int, seed: int
) -> list[Feedback]:
    """Simulates ``draws`` draws of the case's costs again, with every strategy and replication.

    Writes each drawn table to ``folder``, where it is kept for inspection.  The draws are a Latin hypercube of their
    own, so that a few of them spread over the ranges, from the distributions of the table.
    """
    table = coefficients.table
    chosen = draw(Ranges(table, (True,) * len(table.rows), "table"), draws, seed)
    found = []
    for number in range(draws):
        path = folder / f"draw-{number}.toml"
        write_drawn(table, drawn_values(chosen, number), path)
        ledger = rerun(replace(case, table=load(path)))
        cycles = ledger.groupby(["strategy", "replication"])["cycles"].sum().unstack("replication")
        simulated = cycles.loc[list(coefficients.strategies)].to_numpy(dtype=np.float64) / coefficients.seconds
        found += _compare(coefficients, number, coefficients.priced(chosen.rows[number]), simulated)
    return found


def _compare(coefficients: Counted, number: int, repriced: Array, simulated: Array) -> list[Feedback]:
    """``repriced``, ``simulated``: strategies x replications."""
    reference = coefficients.strategies.index(coefficients.reference)
    found = []
    for i, strategy in enumerate(coefficients.strategies):
        old, new = repriced[i] - repriced[reference], simulated[i] - simulated[reference]
        found.append(
            Feedback(
                draw=number,
                strategy=strategy,
                cost_repriced=float(repriced[i].mean()),
                cost_simulated=float(simulated[i].mean()),
                difference_repriced=float(old.mean()),
                difference_simulated=float(new.mean()),
                departure=_t_interval(new - old),
            )
        )
    return found


class Departure(NamedTuple):
    """How far repricing is from simulating again, over all draws.

    ``largest_cost_percent``, ``largest_difference_percent``: the largest departure of a cost, and of a difference to
    the reference, in % of the repriced one.  ``clear``: of ``differences`` those whose departure has an interval
    without 0, the others being no more than what the replications leave open.  ``turned``: of ``pairs`` of strategies
    those whose order is another when simulated.
    """

    largest_cost_percent: float
    largest_difference_percent: float
    clear: int
    differences: int
    turned: int
    pairs: int


def departure(feedback: Sequence[Feedback]) -> Departure:
    """The summary of :func:`resimulate`."""
    costs = [abs(one.cost_simulated / one.cost_repriced - 1) for one in feedback if one.cost_repriced]
    other = [one for one in feedback if one.difference_repriced]
    turned = pairs = 0
    for number in {one.draw for one in feedback}:
        both = [(one.cost_repriced, one.cost_simulated) for one in feedback if one.draw == number]
        for (a, again_a), (b, again_b) in combinations(both, 2):
            pairs += 1
            turned += (a - b) * (again_a - again_b) < 0
    return Departure(
        100 * max(costs, default=0.0),
        100 * max((abs(one.departure.mean / one.difference_repriced) for one in other), default=0.0),
        sum(1 for one in other if not one.departure.low <= 0 <= one.departure.high),
        len(other),
        turned,
        pairs,
    )


def _t_interval(values: Array) -> Interval:
    n, mean = len(values), float(values.mean())
    half = float(student.quantile((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    return Interval(mean, mean - half, mean + half)


def drawn_values(draws: Draws, number: int) -> dict[str, float]:
    """The values of one draw by row, in the rows' own clocks."""
    ranges = draws.ranges
    scale = np.where(ranges.core == 1, draws.ratio[number], 1.0)
    return dict(zip(ranges.table.rows, (draws.rows[number] * scale).tolist(), strict=True))


def write_drawn(table: CostTable, drawn: Mapping[str, float], path: Path) -> None:
    """Writes a table of its own whose values are ``drawn``; everything else of a row stays."""
    import tomlkit

    document = tomlkit.document()
    document["title"] = f"a draw from the ranges of {table.name}"
    document["date"] = max(row.date for row in table.rows.values())
    rows = tomlkit.array()
    rows.multiline(True)
    for row in table.rows.values():
        line = tomlkit.inline_table()
        line.update(_as_written(row, drawn[row.id]))
        rows.append(line)
    document["rows"] = rows
    path.write_text(tomlkit.dumps(document), encoding="utf-8")


def _as_written(row: CostRow, value: float) -> dict[str, Any]:
    # A value is kept to more digits than any price needs, and inside its range whatever the rounding.
    value = min(max(value, row.low), row.high)
    keys = ("operation", "term", "component", "level", "requested", "low", "high", "distribution", "clock", "grade")
    texts = ("source", "conditions", "date", "origin")
    written = {key: getattr(row, key) for key in keys} | {"value": value} | {key: getattr(row, key) for key in texts}
    return {key: list(each) if isinstance(each, tuple) else each for key, each in written.items() if each != ""}
