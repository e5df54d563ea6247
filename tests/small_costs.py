"""Small cost tables, and ledgers priced with them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.analysis.uncertainty.coefficients import Coefficients
from sim.analysis.uncertainty.pricing import Pricing, draw_case, price_draws
from sim.costs.rows import RATIO, CostRow, CostTable


def row(identity: str, value: float, low: float, high: float, clock: str = "tsc", **more: str) -> CostRow:
    operation, term = identity.split("/")
    fields: dict[str, Any] = dict.fromkeys(("component", "level", "requested", "source", "conditions", "table"), "")
    fields |= {"operation": operation, "term": term, "value": value, "low": low, "high": high, "clock": clock}
    fields |= {"distribution": "uniform", "grade": "assumed", "date": "2026", "origin": (), "factor": identity}
    return CostRow(**fields | more)


def table(*rows: CostRow, ratio: CostRow | None = None) -> CostTable:
    every = (ratio or row(RATIO, 1.0, 1.0, 1.0), *rows)
    return CostTable("synthetic", "synthetic", "", {each.id: each for each in every})


def case(of: CostTable, counts: dict[str, Sequence[dict[str, float]]]) -> Coefficients:
    """``counts``: by strategy, for each replication how often each row counts; the first strategy is the reference."""
    ids = list(of.rows)
    total = np.array([[[one.get(each, 0) for each in ids] for one in runs] for runs in counts.values()], dtype=float)
    names = tuple(counts)
    return Coefficients(
        "c", "zen4", "v6.18", of, names, names[0], "vCPU-second", total, np.zeros_like(total), np.ones(len(names)), 1.0
    )


def priced(coefficients: Coefficients, draws: int = 10_000, seed: int = 1, **more: Any) -> Pricing:
    more = {"with_xss": True} | more
    return price_draws(coefficients, draw_case(coefficients, "table", draws=draws, seed=seed), **more)
