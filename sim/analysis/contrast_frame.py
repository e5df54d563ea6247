"""The planned contrasts as a frame."""

from collections.abc import Iterable
from typing import Any, Final

import pandas as pd

from sim.analysis.answers import Difference

COLUMNS: Final = (
    "case", "a", "b", "unit", "n", "mean", "low", "high", "mean_without_xss", "low_without_xss", "high_without_xss",
    "range_low", "range_median", "range_high", "range_low_without_xss", "range_median_without_xss",
    "range_high_without_xss", "p", "p_without_xss", "verdict", "cheaper", "assumed", "heavy_tails",
)  # fmt: skip


def df_contrasts(found: Iterable[Difference]) -> pd.DataFrame:
    """The planned contrasts as a frame: own operations of ``a`` less those of ``b``.

    Columns: case (empty where there are two, which are in a and b then), a, b, unit, n, mean, low, high (over
    replications, each cost at its value), the same without_xss, range_low, range_median, range_high (over draws of the
    costs; the same without_xss), p and p_without_xss (raw), verdict, cheaper, assumed, heavy_tails: see
    :class:`sim.analysis.answers.Difference`.
    """
    return pd.DataFrame([_line(each) for each in found], columns=list(COLUMNS))


def _line(each: Difference) -> dict[str, Any]:
    own, without, over = each.own, each.own_without_xss, each.range
    return {
        **{name: getattr(each, name) for name in COLUMNS if hasattr(each, name)},
        **{name: getattr(own, name) for name in ("unit", "n", "mean", "low", "high")},
        **{f"{name}_without_xss": getattr(without, name) for name in ("mean", "low", "high")},
        **{f"range_{name}": getattr(over, name) for name in ("low", "median", "high")},
        **{f"range_{name}_without_xss": getattr(each.range_without_xss, name) for name in ("low", "median", "high")},
    }
