"""Everything that is said of the uncertainty of a run, in one object per case."""

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sim.analysis.schedules import walked
from sim.analysis.uncertainty.breakeven import BreakEven, Together, break_even, together
from sim.analysis.uncertainty.counted import Counted, counted
from sim.analysis.uncertainty.draws import DISTRIBUTIONS, Distributions, factor
from sim.analysis.uncertainty.means import drawn_means
from sim.analysis.uncertainty.measure import Gain, measure_next
from sim.analysis.uncertainty.pricing import Intervals, Pricing, draw_case, price_draws
from sim.analysis.uncertainty.resimulation import Feedback, departure
from sim.analysis.uncertainty.shares import Shares, moments, shares
from sim.costs.document import from_document
from sim.costs.rows import CostTable
from sim.errors import InputError
from sim.kernel.integrity import RESIDUE
from sim.kernel.strategies import strategy
from sim.results.settings import settings_of

if TYPE_CHECKING:
    from sim.results.tables import Results


@dataclass(frozen=True)
class View:
    """One case with or without the XSS phase, with the distributions of the table or all uniform.

    ``pairs`` are all pairs of strategies, the cheaper (each row at its value) first; ``shares`` go with them.
    """

    pricing: Pricing
    distributions: Distributions
    pairs: tuple[tuple[int, int], ...]
    shares: tuple[Shares, ...]

    @property
    def with_xss(self) -> bool:
        """Whether the phase in which IA32_XSS is switched is counted."""
        return self.pricing.with_xss

    @cached_property
    def gains(self) -> list[Gain]:
        """What to measure next."""
        return measure_next(self.pricing)

    @cached_property
    def order(self) -> list[int]:
        """The strategies, from the cheapest to the most expensive, each row at its value."""
        mean = self.pricing.at_values.mean(axis=1)
        return sorted(range(len(mean)), key=lambda i: (mean[i], i))

    @cached_property
    def carrying(self) -> list[int]:
        """The strategies that carry the guest's values, and soundly, in order; all of them if none does."""
        case = self.pricing.coefficients
        sound = [i for i in self.order if case.strategies[i] not in case.violating]
        return [i for i in sound if case.strategies[i] not in case.not_carrying] or self.order

    @cached_property
    def groups(self) -> list[list[int]]:
        """The strategies in order, those that do exactly the same together."""
        found: list[list[int]] = []
        for i in self.order:
            same = next((group for group in found if self.pricing.are_alike(group[0], i)), None)
            if same is None:
                found.append([i])
            else:
                same.append(i)
        return found

    def versus_reference(self, number: int) -> Intervals:
        """The difference to the reference."""
        case = self.pricing.coefficients
        return self.pricing.difference(number, case.strategies.index(case.reference))

    def break_even(self, a: int, b: int) -> list[BreakEven]:
        """Where the order of two strategies turns."""
        return break_even(self.pricing, a, b)


@dataclass(frozen=True)
class CaseReport:
    """A case; ``views`` in the order (with XSS, table), (with XSS, uniform), (without, table), (without, uniform)."""

    coefficients: Counted
    views: tuple[View, ...]
    feedback: list[Feedback] = field(default_factory=list)


def report(coefficients: Counted, *, draws: int, seed: int) -> CaseReport:
    """Prices a case with every draw, in all four views."""
    drawn = {name: draw_case(coefficients, name, draws=draws, seed=seed) for name in DISTRIBUTIONS}
    means = drawn_means(coefficients, draws, seed)
    known = {name: moments(drawn[name].ranges) for name in DISTRIBUTIONS}
    views = []
    for with_xss in (True, False):
        for distributions in DISTRIBUTIONS:
            pricing = price_draws(coefficients, drawn[distributions], means, with_xss=with_xss)
            pairs = tuple(pricing.pairs())
            views.append(View(pricing, distributions, pairs, tuple(shares(pricing, pairs, known[distributions]))))
    return CaseReport(coefficients, tuple(views))


def read_cases(results: "Results") -> list[Counted]:
    """The coefficients of each case of a run, priced with the cost tables that the run kept.

    Raises :class:`InputError` for a run of one strategy, which has no ranking.
    """
    results = walked(results)
    tables = {name: from_document(document, name) for name, document in results.costs.items()}
    found = []
    for case in results.cases:
        if len(case["strategies"]) < 2:
            raise InputError(f"case {case['case']}: one strategy alone has no ranking (needed: two or more)")
        if case["reference"] not in case["strategies"]:
            raise InputError(f"case {case['case']}: the reference {case['reference']!r} was not run")
        replications = int(results.manifest["replications"])
        ledgers = (piece.ledger for piece in results.pieces(case["case"]))
        numbers = counted(ledgers, case, replications, tables[case["cost_table"]])
        nothing = frozenset(
            name for name in numbers.strategies if not strategy(settings_of(case, name).strategy).carries
        )
        found.append(replace(numbers, violating=_violating(results, numbers.case), not_carrying=nothing))
    return found


def _violating(results: "Results", case: str) -> frozenset[str]:
    names: set[str] = set()
    for piece in results.pieces(case):
        found = piece.integrity
        names.update(found[(found["case"] == case) & (found["kind"] != RESIDUE)]["strategy"].astype(str))
    return frozenset(names)


def file_name(case: str) -> str:
    """The name of a case as part of a file's name."""
    return re.sub("[^A-Za-z0-9.]+", "-", case)


def factor_rows(table: CostTable, name: str) -> list[str]:
    """The priced rows that are drawn together as the factor ``name``."""
    return [row.id for row in table.rows.values() if factor(row) == name and row.priced]


def as_document(each: CaseReport) -> dict[str, Any]:
    """A case as `fpswitch uncertainty --json` prints it."""
    case = each.coefficients
    return {
        "case": case.case,
        "cpu": case.cpu,
        "kernel": case.kernel,
        "cost_table": case.table.name,
        "unit": f"TSC cycles per {case.per}",
        "reference": case.reference,
        "violating": sorted(case.violating),
        "replications": case.replications,
        "views": [_view(view) for view in each.views],
        "break_even": [
            {"xss": view.with_xss, **_break_even(turn, case.table)}
            for view in each.views
            if view.distributions == "table"
            for a, b in view.pairs
            for turn in view.break_even(a, b)
        ],
        "together": [
            {"xss": view.with_xss, **_named(together(view.pricing, a, b))}
            for view in each.views
            if view.distributions == "table"
            for a, b in view.pairs
        ],
        "feedback": [{**one._asdict(), "departure": one.departure._asdict()} for one in each.feedback],
        "departure": departure(each.feedback)._asdict() if each.feedback else None,
    }


def _view(view: View) -> dict[str, Any]:
    pricing = view.pricing
    case = pricing.coefficients
    names = case.strategies
    return {
        "xss": view.with_xss,
        "distributions": view.distributions,
        "strategies": {
            names[i]: {
                "cost": _intervals(pricing.strategy(i)),
                "difference": _intervals(view.versus_reference(i)),
                "cheapest": pricing.cheapest(i, view.carrying) if i in view.carrying else None,
            }
            for i in view.order
        },
        "cheaper": {names[a]: {names[b]: pricing.cheaper(a, b) for b in view.order if b != a} for a in view.order},
        "variance": [
            {"a": names[a], "b": names[b], **found._asdict()}
            for (a, b), found in zip(view.pairs, view.shares, strict=True)
        ],
        "measure_next": [
            {
                "factor": gain.factor,
                "rows": factor_rows(case.table, gain.factor),
                "doubt": gain.before,
                "reduction": gain.reduction,
                "pairs": [_pair(a, b) | {"reduction": taken} for (a, b), taken in gain.pairs.items()],
            }
            for gain in view.gains
        ],
    }


def _intervals(found: Intervals) -> dict[str, dict[str, float]]:
    return {name: interval._asdict() for name, interval in found._asdict().items()}


def _named(turn: BreakEven | Together) -> dict[str, Any]:
    return turn._asdict() | _pair(turn.cheaper, turn.more_expensive)


def _pair(cheaper: str, more_expensive: str) -> dict[str, str]:
    """Two strategies; the first name of the second key is kept for programs that read it."""
    return {"cheaper": cheaper, "more_expensive": more_expensive, "dearer": more_expensive}


def _break_even(turn: BreakEven, table: CostTable) -> dict[str, Any]:
    row = table.rows[turn.row]
    return _named(turn) | {"clock": row.clock, "now": row.value, "low": row.low, "high": row.high}
