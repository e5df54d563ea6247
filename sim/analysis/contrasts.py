"""Pairs that are asked about, and tests of pairs: what was planned before anything ran has a raw p, all else Holm's."""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from sim.analysis import estimates
from sim.analysis.uncertainty.coefficients import Array
from sim.results.tables import Results
from sim.scenario.contrasts import Contrast, Operand

if TYPE_CHECKING:
    from sim.analysis.answers import Difference


def planned(results: Results) -> tuple[Contrast, ...]:
    """The contrasts that a scenario asks about, both operands with their case, as the manifest has them."""
    found = results.manifest.get("contrasts", ())
    return tuple(Contrast(Operand(*a), Operand(*b)) for a, b in found)


def from_references(pairs: Collection[Contrast], references: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Those of ``pairs`` that are differences from the reference of their case, either way: case and strategy."""
    return frozenset(
        (one.case, one.strategy)
        for a, b in pairs
        for one, other in ((a, b), (b, a))
        if a.case == b.case and other.strategy == references.get(other.case)
    )


class Tests(NamedTuple):
    """What tests say of a pair; see :class:`sim.analysis.answers.Difference`."""

    planned: bool
    p_adjusted: float
    p_without_xss_adjusted: float
    verdict: str
    heavy_tails: bool


class Family:
    """The differences of a run that nobody planned, by which a p among them is adjusted.

    ``unplanned``: by pair, the differences by replication with the cycles of IA32_XSS, and without.
    """

    def __init__(self, planned: Iterable[Contrast], unplanned: Mapping[Contrast, tuple[Array, Array]]) -> None:
        self._planned = {frozenset(pair) for pair in planned}
        self._unplanned = {frozenset(pair): tuple(map(p_value, values)) for pair, values in unplanned.items()}

    def tests(self, pair: Contrast, with_xss: Array, without_xss: Array) -> Tests:
        """The tests of a pair, from its differences by replication."""
        key = frozenset(pair)
        p = p_value(with_xss), p_value(without_xss)
        is_planned = key in self._planned
        adjusted = (np.nan, np.nan) if is_planned else self._adjusted(key, p)
        n = len(with_xss)
        spread = float(with_xss.std(ddof=1)) if n > 1 else np.nan
        among = len(self._planned | self._unplanned.keys() | {key})
        return Tests(
            planned=is_planned,
            p_adjusted=adjusted[0],
            p_without_xss_adjusted=adjusted[1],
            verdict=estimates.verdict(p[0] if is_planned else adjusted[0], float(with_xss.mean()), spread, n),
            heavy_tails=estimates.has_heavy_tails(with_xss, among),
        )

    def _adjusted(self, key: frozenset[Operand], p: tuple[float, float]) -> tuple[float, float]:
        family = {**self._unplanned, key: p}
        place = list(family).index(key)
        one, other = (float(estimates.holm(np.array(each))[place]) for each in zip(*family.values(), strict=True))
        return one, other


def p_value(by_replication: Array) -> float:
    """The p of the paired t test; NaN for one replication, and where all are the same."""
    n = len(by_replication)
    spread = by_replication.std(ddof=1) if n > 1 else np.nan
    found = estimates.p_values(np.array([by_replication.mean()]), np.array([spread]), np.array([n]))
    return float(found[0])


COLUMNS: Final = (
    "case", "a", "b", "unit", "n", "mean", "low", "high", "mean_without_xss", "low_without_xss", "high_without_xss",
    "range_low", "range_median", "range_high", "p", "p_without_xss", "verdict", "cheaper", "assumed", "heavy_tails",
)  # fmt: skip


def df_contrasts(found: Iterable["Difference"]) -> pd.DataFrame:
    """The planned contrasts as a frame: own operations of ``a`` less those of ``b``.

    Columns: case (empty where there are two, which are in a and b then), a, b, unit, n, mean, low, high (over
    replications, each cost at its value), the same without_xss, range_low, range_median, range_high (over draws of the
    costs), p and p_without_xss (raw), verdict, cheaper, assumed, heavy_tails: see
    :class:`sim.analysis.answers.Difference`.
    """
    return pd.DataFrame([_line(each) for each in found], columns=list(COLUMNS))


def _line(each: "Difference") -> dict[str, Any]:
    own, without, over = each.own, each.own_without_xss, each.range
    return {
        **{name: getattr(each, name) for name in COLUMNS if hasattr(each, name)},
        **{name: getattr(own, name) for name in ("unit", "n", "mean", "low", "high")},
        **{f"{name}_without_xss": getattr(without, name) for name in ("mean", "low", "high")},
        **{f"range_{name}": getattr(over, name) for name in ("low", "median", "high")},
    }
