"""What each strategy costs at given rates: sequences of the kernel model, priced, without a simulation.

Cycles per second are the sum over events of events per second x cycles of the event's sequence.  Each event is run on
the kernel model from a stated starting point (:mod:`sim.analysis.price_own`).  The *own* operations of a strategy are
those that it runs more, or less, than the reference, which carries nothing, does in the same events.  Prices are not
rounded to whole cycles: half a cycle is a tenth of what an XSAVES takes for a component more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final, NamedTuple

import numpy as np

from sim.analysis.price_load import Event, Load
from sim.analysis.price_own import COMMON, Assumptions, Own, own, per_second, run, switches_xss
from sim.analysis.price_unsaid import Unsaid, unsaid
from sim.analysis.uncertainty.coefficients import Array, values
from sim.analysis.uncertainty.draws import Ranges, hypercube
from sim.costs.price import design_matrix, in_tsc, terms
from sim.costs.rows import RATIO, CostTable
from sim.errors import InputError
from sim.kernel.carried import carried_state
from sim.kernel.config import Config, Settings, boot, strategy_of
from sim.kernel.integrity import VIOLATIONS
from sim.kernel.operations import Operation
from sim.kernel.strategies import names, strategy
from sim.kernel.versions import version
from sim.xsave.profiles import profile

DRAWS: Final = 10_000
"""Draws of the cost table; another seed moves the ends of a range by about 1 % of it."""
SEED: Final = 1
TAIL: Final = 0.025
"""What a range leaves out of the draws at either end."""

REFERENCES: Final = ("free-ssp", "no-cet")
"""What carries nothing: the first of these that a CPU and a kernel can have."""

ASKED_ABOUT: Final = 4
"""So few strategies that carry something are all compared with one another."""

NOTHING: Final = 1e-9
"""Cycles per second, for the rounding of floats."""


class Spread(NamedTuple):
    """``value``: each cost row at its value; the rest over draws of all rows: the middle 95 %, and the median.

    ``low`` and ``high`` reach to the value where it lies outside the middle 95 %, because the table has rows at an end
    of their range.
    """

    value: float
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A strategy less the reference, in TSC cycles per second.

    ``own`` is what is left of ``all`` without ``switching_xss``, the switching of IA32_XSS.
    ``events``: own operations of one event of each kind that there is; ``pair`` of one load/put pair, the mean over the
    kinds of pairs, None without pairs.  ``rows``: ``all`` by cost row, at values.
    """

    all: Spread
    own: Spread
    switching_xss: Spread
    events: Mapping[str, Own]
    pair: Own | None
    rows: Mapping[str, float]

    @property
    def xss(self) -> float:
        """The cycles of IA32_XSS switching, each cost row at its value."""
        return self.switching_xss.value

    def assumed(self, table: CostTable) -> float | None:
        """The share of the difference, row by row without signs, that rests on assumed rows; None if there is none."""
        total = sum(map(abs, self.rows.values()))
        part = sum(abs(cycles) for row, cycles in self.rows.items() if table.rows[row].grade == "assumed")
        return part / total if total else None


@dataclass(frozen=True)
class PricedStrategy:
    """A strategy at given rates, in TSC cycles per second; ``difference`` is None if there is no reference.

    ``same_as``: the strategies that cost the same whatever the costs are.  ``unsound`` says why it is, and is empty
    otherwise.
    """

    name: str
    config: Config
    cycles: Spread
    difference: Difference | None
    same_as: tuple[str, ...]
    unsound: str


class Contrast(NamedTuple):
    """``a`` less ``b``, two strategies that carry something, in TSC cycles per second; ``own`` is without IA32_XSS."""

    a: str
    b: str
    all: Spread
    own: Spread


@dataclass(frozen=True)
class Priced:
    """All strategies at given rates, in the order in which they were given; ``tsc_hz`` are TSC cycles per second.

    ``asked``: names of those that one asks about; ``contrasts``: each of these with each other, the more expensive one
    first.  ``unsaid``: what rates leave open.
    """

    load: Load
    assumed: Assumptions
    table: CostTable
    tsc_hz: float
    reference: str | None
    strategies: tuple[PricedStrategy, ...]
    asked: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    unsaid: tuple[Unsaid, ...]

    def __getitem__(self, name: str) -> PricedStrategy:
        return next(each for each in self.strategies if each.name == name)


# Which strategies.


def settings_of(
    cpu: str,
    kernel: str,
    strategies: Sequence[str] = (),
    **chosen: Any,
) -> tuple[dict[str, Settings], dict[str, str]]:
    """The settings of ``strategies`` by name; and why, of shipped ones that are left out.

    ``chosen`` are other fields of :class:`~sim.kernel.config.Settings`.  Without ``strategies``: all shipped ones that
    the CPU and the kernel can have.  Raises :class:`~sim.errors.InputError` for an unknown name, and for a strategy
    that was named and is not possible.
    """
    for_all = Settings(cpu=cpu, kernel=kernel, **chosen)
    carried = carried_state(for_all.carried)
    for look_up, name in ((profile, cpu), (version, kernel)):
        look_up(name)
    found: dict[str, Settings] = {}
    left_out: dict[str, str] = {}
    for name in strategies or names(carried.name):
        xss = for_all.guest_xss if strategy(name).guest_has_cet else None
        its = replace(for_all, strategy=name, guest_xss=xss)
        if (why := _refused(its)) is None:
            found[name] = its
        elif strategies or (xss is not None and _refused(replace(its, guest_xss=None)) is None):
            raise why
        else:
            left_out[name] = str(why)
    if not found:
        raise InputError(f"no strategy is possible: {next(iter(left_out.values()))}")
    return found, left_out


def with_reference(settings: Mapping[str, Settings]) -> tuple[dict[str, Settings], str | None]:
    """The settings with those of the reference among them, and the reference; None if nothing can carry nothing."""
    some = next(iter(settings.values()))
    xss = next((each.guest_xss for each in settings.values() if each.guest_xss is not None), None)
    for name in REFERENCES:
        chosen = replace(some, strategy=name, guest_xss=xss if strategy(name).guest_has_cet else None)
        if name in settings or _refused(chosen) is None:
            return {name: chosen, **settings}, name
    return dict(settings), None


def _refused(settings: Settings) -> InputError | None:
    try:
        boot(settings)
    except InputError as error:
        return error
    return None


# All strategies at once.


def price(
    load: Load, settings: Mapping[str, Settings], table: CostTable, tsc_hz: float, assumed: Assumptions = COMMON
) -> Priced:
    """Every strategy of ``settings``, and the reference, at the rates of ``load``.

    Raises :class:`~sim.errors.InputError` if the table lacks the price of an operation, and for rates that take more
    cycles than one CPU has whatever the costs are.
    """
    settings, reference = with_reference(settings)
    events, pairs = load.events(), load.pair_events()
    ran = [per_second(events, each, assumed) for each in settings.values()]
    costs = _Costs(ran, table)
    counts = np.array([[each.get(op, 0.0) for op in costs.operations] for each in ran])
    totals = costs.spreads(counts)
    _check_possible(dict(zip(settings, totals, strict=True)), tsc_hz)
    differences: Sequence[Difference | None] = [None] * len(ran)
    if reference is not None:
        net = counts - counts[list(settings).index(reference)]
        alls, owns, xsses = (costs.spreads(net * part) for part in (1.0, costs.quiet, 1 - costs.quiet))
        by_event = [
            {event.name: own(chosen, settings[reference], table, {event: 1.0}, assumed) for event in events}
            for chosen in settings.values()
        ]
        differences = [
            Difference(
                all=alls[i],
                own=owns[i],
                switching_xss=xsses[i],
                events=by_event[i],
                pair=own(chosen, settings[reference], table, pairs, assumed) if pairs else None,
                rows=costs.by_row(net[i]),
            )
            for i, chosen in enumerate(settings.values())
        ]
    found = []
    for i, (name, chosen) in enumerate(settings.items()):
        same = tuple(other for j, other in enumerate(settings) if j != i and costs.same(counts[i], counts[j]))
        unsound = _unsound(chosen, events, assumed)
        found.append(PricedStrategy(name, boot(chosen), totals[i], differences[i], same, unsound))
    asked = _asked(found)
    open_ends = [] if reference is None else unsaid(load, settings, reference, table, assumed)
    contrasts = tuple(_contrasts(asked, dict(zip(settings, counts, strict=True)), costs))
    return Priced(load, assumed, table, tsc_hz, reference, tuple(found), asked, contrasts, tuple(open_ends))


class ImpossibleRates(InputError):
    """The operations alone of these events take more cycles than a CPU has."""


def _check_possible(totals: Mapping[str, Spread], tsc_hz: float) -> None:
    """Refuses rates that a CPU cannot have even if all costs are low: they must be rates of something else."""
    name, least = min(totals.items(), key=lambda each: each[1].low)
    if least.low > tsc_hz:
        raise ImpossibleRates(
            f"at these rates the operations alone take {100 * least.low / tsc_hz:.0f} % of a CPU with {name}, every "
            "cost at its low end (allowed: rates of one CPU; those of a host are divided by the number of its CPUs)"
        )


def _asked(strategies: Sequence[PricedStrategy]) -> tuple[str, ...]:
    """The strategies that are asked about: a few that are named, or those that somebody posted, or the two extremes.
    Strategies that carry nothing or are unsound are not among them.
    """
    carrying = [each for each in strategies if each.config.strategy.carries and not each.unsound]
    if len(carrying) > ASKED_ABOUT:
        ranked = sorted(carrying, key=lambda each: each.cycles.value)
        carrying = [each for each in carrying if not each.config.strategy.hypothetical] or [ranked[0], ranked[-1]]
    return tuple(each.name for each in carrying)


def _contrasts(asked: Sequence[str], counts: Mapping[str, Array], costs: "_Costs") -> Iterator[Contrast]:
    for one, other in combinations(asked, 2):
        net = counts[one] - counts[other]
        own_value = float((net * costs.quiet) @ costs.at_values)
        if own_value < 0:
            one, other, net = other, one, -net
        whole, own_spread = costs.spreads(np.array([net, net * costs.quiet]))
        yield Contrast(one, other, whole, own_spread)


class _Costs:
    """The costs of all operations that some strategy runs: ``at_values``, and as draws of the rows that they need.

    ``quiet``: 0 for an operation that switches IA32_XSS, 1 for others.
    """

    def __init__(self, ran: Sequence[Mapping[Operation, float]], table: CostTable) -> None:
        self.operations = list(dict.fromkeys(op for counts in ran for op in counts))
        self.quiet = np.array([not switches_xss(op) for op in self.operations], dtype=np.float64)
        used = {row for op in self.operations for row in terms(op, table)} | {RATIO}
        self._rows = replace(table, rows={name: row for name, row in table.rows.items() if name in used})
        self._design = design_matrix(self.operations, self._rows)
        self.at_values = self._design @ in_tsc(self._rows, values(self._rows))
        ranges = Ranges(self._rows, (True,) * len(self._rows.rows), "table")
        self._drawn = in_tsc(self._rows, ranges.at(hypercube(ranges.factors, DRAWS, SEED)))

    def spreads(self, counts: Array) -> list[Spread]:
        """What each line of ``counts``, lines x operations, costs."""
        drawn = self._drawn @ (counts @ self._design).T
        low, median, high = (found.tolist() for found in np.quantile(drawn, (TAIL, 0.5, 1 - TAIL), axis=0))
        return [
            Spread(value, min(low[i], value), median[i], max(high[i], value))
            for i, value in enumerate((counts @ self.at_values).tolist())
        ]

    def by_row(self, counts: Array) -> dict[str, float]:
        """The cycles of ``counts`` by row of the table, each at its value."""
        cycles = (counts @ self._design) * in_tsc(self._rows, values(self._rows))
        return {row: part for row, part in zip(self._rows.rows, cycles.tolist(), strict=True) if abs(part) > NOTHING}

    def same(self, one: Array, other: Array) -> bool:
        """Whether two cost the same with any table, in IA32_XSS and without it."""
        difference = one - other
        return not any(
            np.any(np.abs((difference * part) @ self._design) > NOTHING) for part in (self.quiet, 1 - self.quiet)
        )


def _unsound(settings: Settings, events: Iterable[Event], assumed: Assumptions) -> str:
    if why := strategy_of(settings).why_unsound(settings.host_shadow_stacks):
        return why
    runs = (run(event, settings, assumed.guest_ssp, assumed.registers) for event in events)
    kinds = {finding.kind for each in runs for _, finding in each.findings if finding.kind in VIOLATIONS}
    return f"violates integrity ({', '.join(sorted(kinds))})" if kinds else ""
