"""Pairs that are asked about, and tests of pairs: planned ones have an unadjusted p, all others Holm's."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from sim.analysis import estimates
from sim.analysis.uncertainty.coefficients import Array
from sim.results.tables import Results
from sim.scenario.contrasts import Contrast, Operand


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
    """The unplanned differences of a run, for which each p among them is adjusted.

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
