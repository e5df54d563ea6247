"""Own operations at a point of a design, and how they go with the values of a range."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sim.analysis import student

if TYPE_CHECKING:
    import pandas as pd

Cycles = Callable[[str, str], Sequence[int]]
"""The cycles of all operations of a strategy on the schedule of a case, by replication."""

LEVEL: Final = 0.95
BINS: Final = 4
DIFFERENCE: Final = "difference_us"


def own_costs(cases: Iterable[Mapping[str, Any]], n: int, cycles: Cycles) -> Iterator[dict[str, Any]]:
    """For each case and strategy: what its operations cost on the case's schedule, and how much more than the
    reference's.

    In microseconds per vCPU-second (CPU-second, on a host without vCPUs): means over ``n`` replications, and half of
    the 95 % t interval of the difference, which is paired; NaN with one replication.  ``cases`` are entries of the
    manifest.
    """
    for case in cases:
        per = (case["vcpus"] or case["cpus"]) * case["measure_s"] * case["tsc_hz"] / 1e6
        names = dict.fromkeys([*case["strategies"], case["reference"]])
        of = {name: np.array(cycles(case["case"], name)[:n], np.int64) / per for name in names}
        for strategy in case["strategies"]:
            costs, difference = of[strategy], of[strategy] - of[case["reference"]]
            half = student.quantile((1 + LEVEL) / 2, n - 1) * difference.std(ddof=1) / n**0.5 if n > 1 else math.nan
            yield {
                "case": case["case"],
                "strategy": strategy,
                "reference": case["reference"],
                "replications": n,
                "own_us": float(costs.mean()),
                DIFFERENCE: float(difference.mean()),
                "difference_half_us": float(half),
            }


def by_value(points: "pd.DataFrame", path: str) -> "pd.DataFrame":
    """The difference from the reference over quarters of the values at ``path``: mean, least and most.

    ``points`` are rows of :func:`own_costs` with the values of their points; the quarters have as many points each, as
    far as values allow: points of one value are in one quarter.
    """
    values = points.drop_duplicates("point").set_index("point")[path]
    n = len(values)
    ends = (values.rank(method="average") - 1) * min(BINS, n) / max(n - 1, 1)
    quarters = ends.map(math.ceil).clip(lower=1) - 1
    rows = points.assign(quarter=points["point"].map(quarters))
    others = rows[rows["strategy"] != rows["reference"]]
    found = others.groupby(["quarter", "case", "strategy"], sort=True).agg(
        low=(path, "min"),
        high=(path, "max"),
        points=("point", "nunique"),
        mean=(DIFFERENCE, "mean"),
        least=(DIFFERENCE, "min"),
        most=(DIFFERENCE, "max"),
    )
    return found.reset_index()
