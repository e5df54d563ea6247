"""The ledger priced again: with every buffer in L1 or in memory, and apart by the grade of the rows behind a price.

Only prices change.  On a host where restores come from memory there would also be fewer of them per second; repricing
does not say so, a run with ``host.buffer_level = "memory"`` does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from sim.analysis.replicated import Replicated
from sim.costs.check import GRADES
from sim.costs.document import from_document
from sim.costs.price import Prices, terms
from sim.costs.rows import CostTable
from sim.results.columns import KEY_COLUMNS, RUN_COLUMNS
from sim.results.tables import Results

LEVELS: Final = ("L1", "modelled", "memory")
"""Where buffers are: all of them warm, as the host's rule has it, all of them in memory."""


def with_tables(results: Results) -> dict[str, CostTable]:
    """The cost table of each case."""
    tables = {name: from_document(document, name) for name, document in results.costs.items()}
    return {case["case"]: tables[case["cost_table"]] for case in results.cases}


def repriced(results: Results, level: str = "modelled") -> pd.Series:
    """TSC cycles of each row of the ledger, whole cycles, with all buffers at ``level``.

    "modelled" leaves them where they were, and then gives the ledger's own cycles again.
    """
    ledger = results.ledger
    cycles = np.zeros(len(ledger), dtype=np.int64)
    for case, table in with_tables(results).items():
        prices = Prices(table)
        here = (ledger["case"] == case).to_numpy()
        keys = ledger.loc[here, list(KEY_COLUMNS)].copy()
        if level != "modelled":
            keys["level"] = keys["level"].where(keys["level"] == "", level)
        price = [prices[key] for key in keys.itertuples(index=False, name=None)]
        cycles[here] = ledger.loc[here, "count"].to_numpy() * np.array(price, dtype=np.int64)
    return pd.Series(cycles, index=ledger.index, name="cycles")


def by_cost_row(results: Results) -> pd.DataFrame:
    """What each row of the cost tables contributes to the operations' cycles of each replication.

    Columns: case, strategy, replication, row, grade, cycles (TSC, not rounded: coefficient x value x count).
    """
    ledger, tables = results.ledger, with_tables(results)
    keys = list(ledger[["case", *KEY_COLUMNS]].itertuples(index=False, name=None))
    lines: list[tuple[str, str, float]] = []
    places: dict[tuple[Any, ...], range] = {}
    for case, *key in dict.fromkeys(keys):
        table, begin = tables[case], len(lines)
        for name, n in terms(tuple(key), table).items():
            row = table.rows[name]
            lines.append((name, row.grade, n * row.value * table.scale(row)))
        places[case, *key] = range(begin, len(lines))
    worth = pd.DataFrame(lines, columns=["row", "grade", "worth"])
    joined = ledger[[*RUN_COLUMNS, "count"]].take(np.repeat(np.arange(len(keys)), [len(places[key]) for key in keys]))
    of = worth.take([place for key in keys for place in places[key]]).set_axis(joined.index)
    joined = joined.assign(row=of["row"], grade=of["grade"], cycles=joined["count"] * of["worth"])
    return joined.groupby([*RUN_COLUMNS, "row", "grade"], sort=False)["cycles"].sum().reset_index()


def grades_of_differences(results: Results, references: Mapping[str, str]) -> pd.DataFrame:
    """How much of each strategy's difference in cycles against the reference rests on rows of each grade.

    ``references`` is the reference by case.  The share of a grade is the sum of \\|difference of a row\\| over its
    rows, divided by that sum over all rows; means over replications.  Columns: case, strategy, grade, percent.  A
    strategy that differs in nothing has no lines.
    """
    keys = ["case", "strategy", "row", "grade"]
    replications: Counter[Any] = Counter()

    def frames() -> Iterator[pd.DataFrame]:
        for piece in results.pieces():
            rows = by_cost_row(piece)
            replications.update(rows.groupby(keys[:2])["replication"].nunique().to_dict())
            yield rows[[*keys, "replication", "cycles"]].rename(columns={"cycles": "value"})

    rows = Replicated(frames(), keys, apart="row")
    means = pd.concat([each.groupby(keys)["value"].sum() for each in rows.frames()]).sort_index()
    means = means / [replications[key[:2]] for key in means.index]
    found = []
    for case, reference in references.items():
        if case not in means.index.get_level_values("case"):
            continue
        table = means[case].unstack("strategy", fill_value=0.0)
        if reference not in table:
            continue
        moved = table.sub(table[reference], axis=0).abs().groupby("grade").sum()
        for strategy, by_grade in moved.items():
            if strategy != reference and (total := by_grade.sum()) > 0:
                found += [(case, strategy, grade, 100 * by_grade.get(grade, 0.0) / total) for grade in GRADES]
    return pd.DataFrame(found, columns=["case", "strategy", "grade", "percent"])
