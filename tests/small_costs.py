"""Small cost tables, and ledgers priced with them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.analysis.uncertainty.counted import Counted
from sim.analysis.uncertainty.means import drawn_means
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


def case(of: CostTable, counts: dict[str, Sequence[dict[str, float]]]) -> Counted:
    """``counts``: by strategy, for each replication how often each row counts; the first strategy is the reference."""
    ids = list(of.rows)
    total = np.array([[[one.get(each, 0) for each in ids] for one in runs] for runs in counts.values()], dtype=float)
    return in_pieces(of, tuple(counts), total, [total.shape[1]])


def in_pieces(of: CostTable, names: tuple[str, ...], total: Any, sizes: Sequence[int]) -> Counted:
    """``total``: strategies x replications x rows; ``sizes``: how many replications are read at a time."""
    used = np.flatnonzero(np.any(total != 0, axis=(0, 1)))
    ends = np.cumsum(sizes)
    some = [np.stack([each, np.zeros_like(each)]) for each in np.split(total[..., used], ends[:-1], axis=1)]
    return Counted(
        case="c", cpu="zen4", kernel="v6.18", table=of, strategies=names, reference=names[0], per="vCPU-second",
        replications=total.shape[1], operations=np.ones(len(names)), seconds=1.0, used=used,
        pieces=[lambda each=each: each for each in some],
    )  # fmt: skip


def priced(coefficients: Counted, draws: int = 10_000, seed: int = 1, **more: Any) -> Pricing:
    more = {"with_xss": True} | more
    drawn = draw_case(coefficients, "table", draws=draws, seed=seed)
    return price_draws(coefficients, drawn, drawn_means(coefficients, draws, seed), **more)
