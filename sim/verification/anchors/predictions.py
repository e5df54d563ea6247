"""What the model predicts for each published number, and whether the number may count as evidence."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import numpy as np

from sim.analysis.uncertainty.coefficients import Array, values
from sim.analysis.uncertainty.draws import Ranges, draw
from sim.costs.price import design_matrix, in_tsc
from sim.costs.rows import CostRow, CostTable
from sim.costs.table import load
from sim.errors import InputError, unknown
from sim.verification.anchors.data import Anchor, Anchors, Setup
from sim.verification.anchors.experiments import operations

DRAWS: Final = 4000
SEED: Final = 1

Standing = Literal["untouched", "input", "same as an input", "difference of others"]
"""untouched: no row that the prediction uses names the source of the number.  input: one does.  same as an input:
another number is an input to this very prediction, so that this one can only agree or disagree with that publication.
difference of others: the difference of two other anchors."""


class Touch(NamedTuple):
    """A row of a cost table that names the source of a number: as its own source, or in its conditions."""

    table: str
    row: str
    where: Literal["source", "conditions"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One anchor: the model's number in the unit of the published one, and the middle 95 % of draws of its costs.

    ``operations`` are those of one round (of a difference: of its first part), ``touched`` the rows that know the
    number, ``with_anchors`` the input of the same prediction, or those of which this is the difference.
    """

    anchor: Anchor
    predicted: float
    low: float
    high: float
    operations: Counter[str]
    touched: tuple[Touch, ...]
    standing: Standing
    with_anchors: tuple[str, ...] = ()

    @property
    def error_percent(self) -> float:
        """Predicted minus published, in % of the published number."""
        return 100 * (self.predicted - self.anchor.published) / abs(self.anchor.published)

    @property
    def within(self) -> bool | None:
        """Whether the prediction lies within the spread that the source gives; None if it gives none."""
        anchor = self.anchor
        if anchor.low is None or anchor.high is None:
            return None
        return anchor.low <= self.predicted <= anchor.high


class _Tables(dict[str, CostTable]):
    """Cost tables by name, each loaded once."""

    def __missing__(self, name: str) -> CostTable:
        found = self[name] = load(name)
        return found


def predict(anchors: Anchors) -> list[Prediction]:
    """The predictions, in the order of the file; :class:`InputError` names the anchor that the model cannot run."""
    tables = _Tables()
    found: list[Prediction] = []
    vectors: list[tuple[str, bytes]] = []
    for anchor in anchors.anchors:
        try:
            table = tables[anchor.table or anchor.cpu]
            prediction, vector = _predict(anchor, table, tables)
        except InputError as error:
            raise InputError(f"anchor {anchor.id!r}: {error}") from error
        found.append(prediction)
        vectors.append((table.name, vector.tobytes()))
    return [_settled(i, found, vectors) for i in range(len(found))]


def _predict(anchor: Anchor, table: CostTable, tables: _Tables) -> tuple[Prediction, Array]:
    counted = operations(anchor.cpu, anchor.setup)
    vector = _coefficients(anchor.cpu, anchor.setup, table)
    if anchor.minus is not None:
        vector = vector - _coefficients(anchor.cpu, anchor.minus, table)
    used = tuple(bool(each) for each in vector)
    drawn = draw(Ranges(table, used, "table"), DRAWS, SEED)
    low, high = np.quantile(_in_unit(drawn.rows @ vector, drawn.ratio, anchor), (0.025, 0.975))
    at_values = in_tsc(table, values(table)) @ vector
    predicted = float(_in_unit(np.array([at_values]), np.array([table.ratio]), anchor)[0])
    rows = [row for row, each in zip(table.rows.values(), used, strict=True) if each]
    touched = tuple(dict.fromkeys(touch for row in rows for touch in _touches(row, table, anchor, tables)))
    names: Counter[str] = Counter()
    for operation, count in counted.items():
        names[operation.operation] += count
    standing: Standing = "input" if touched else "untouched"
    return Prediction(anchor, predicted, float(low), float(high), names, touched, standing), vector


def _coefficients(cpu: str, setup: Setup, table: CostTable) -> Array:
    counted = operations(cpu, setup)
    found: Array = np.array(list(counted.values()), dtype=np.float64) @ design_matrix(counted, table)
    for row in setup.without_rows:
        if row not in table.rows:
            raise unknown("row", row, table.rows)
    found[[row in setup.without_rows for row in table.rows]] = 0.0
    return found


def _in_unit(tsc_cycles: Array, ratio: Array, anchor: Anchor) -> Array:
    cycles = tsc_cycles * ratio if anchor.core_clock or anchor.unit == "core cycles" else tsc_cycles
    return cycles * 1e9 / anchor.hertz if anchor.unit == "ns" else cycles


def _touches(row: CostRow, table: CostTable, anchor: Anchor, tables: _Tables) -> Iterator[Touch]:
    """Those of the row and the rows from which it comes that name the source of the number."""
    for each in _ancestry(row, table, tables):
        for key in anchor.keys:
            if key in each.source:
                yield Touch(each.table, each.id, "source")
            elif key in each.conditions:
                yield Touch(each.table, each.id, "conditions")


def _ancestry(row: CostRow, table: CostTable, tables: _Tables) -> Iterator[CostRow]:
    seen: set[tuple[str, str]] = set()
    waiting = [(row, table)]
    while waiting:
        each, where = waiting.pop()
        if (where.name, each.id) in seen:
            continue
        seen.add((where.name, each.id))
        yield each
        for origin in each.origin:
            name, _, there = origin.rpartition(":") if ":" in origin else (where.name, "", origin)
            parent = where if name == where.name else tables[name]
            if there in parent.rows:
                waiting.append((parent.rows[there], parent))


def _settled(i: int, found: list[Prediction], vectors: list[tuple[str, bytes]]) -> Prediction:
    """The prediction, with its standing among the others."""
    one = found[i]
    if one.standing == "input":
        return one
    parts = [
        other.anchor.id
        for setup in (one.anchor.setup, one.anchor.minus)
        for other in found
        if (other.anchor.series, other.anchor.cpu, other.anchor.minus) == (one.anchor.series, one.anchor.cpu, None)
        and other.anchor.setup == setup
    ]
    if one.anchor.minus is not None and len(parts) == 2:
        return replace(one, standing="difference of others", with_anchors=tuple(parts))
    for j, other in enumerate(found):
        if vectors[j] == vectors[i] and other.standing == "input":
            return replace(one, standing="same as an input", with_anchors=(other.anchor.id,))
    return one


def count(predictions: Sequence[Prediction]) -> dict[str, int]:
    """How many numbers there are by standing.

    ``floors``: of the untouched, those whose prediction leaves something out; ``bounds``: those that are smaller than
    the spread of their source.
    """
    standings = Counter(each.standing for each in predictions)
    untouched = [each.anchor for each in predictions if each.standing == "untouched"]
    return {
        "untouched": standings["untouched"],
        "floors": sum(1 for anchor in untouched if anchor.floor),
        "bounds": sum(1 for anchor in untouched if anchor.is_bound),
        "inputs": standings["input"],
        "same_as_an_input": standings["same as an input"],
        "differences_of_others": standings["difference of others"],
    }
