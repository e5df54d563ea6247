"""Own operations per event: on one schedule, and in independent runs in which each strategy times its own host.

If walking one schedule is right, what a strategy runs per VM exit, per vCPU load/put pair and per context switch is the
same in both, and what differs of the totals is how many such events there are: the feedback.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from sim.costs.price import terms
from sim.costs.rows import CostTable
from sim.costs.table import load
from sim.host.simulation import simulate
from sim.kernel import flows
from sim.kernel import operations as op
from sim.kernel.config import Settings
from sim.processes import in_processes
from sim.results import Record
from sim.scenario.cases import Case, cases
from sim.scenario.reading import read

LEVEL: Final = 0.95
SHORT: Final = {"run.measure": "30 ms", "run.warmup": "5 ms", "run.integrity": False}
REPLICATIONS: Final = 12

EXIT: Final = "VM exit"
LOAD_PUT: Final = "vCPU load/put pair"
SWITCH: Final = "context switch"
EVENTS: Final = (EXIT, LOAD_PUT, SWITCH)

OF_GUESTS: Final = frozenset(
    (
        op.GUEST_ENTRY,
        op.GUEST_EXIT,
        op.XSS_PHASE,
        op.TRANSITION,
        op.VCPU_LOAD,
        op.VCPU_PUT,
        op.SWAP_LOAD,
        op.SWAP_PUT,
    )
)
"""Phases of KVM: what does not run at each exit runs once for each load/put pair, much of it at the first VM entry."""


class Compared(NamedTuple):
    """One strategy in one case, by replication.

    ``own``: by event, cycles of own operations per event in its independent run less those on the common schedule, if
    there are such events.  ``of``: their mean on that schedule.  ``feedback``: the difference of the totals, in cycles;
    ``by_rates``: the part of it that different numbers of events explain, at the common schedule's costs per event.
    """

    scenario: str
    case: str
    strategy: str
    own: Mapping[str, tuple[float, ...]]
    of: Mapping[str, float]
    feedback: tuple[float, ...]
    by_rates: tuple[float, ...]


class Counted(NamedTuple):
    """A record: cycles by event and cost row, and how many events there were."""

    cycles: Mapping[tuple[str, str], float]
    events: Mapping[str, int]

    def total(self, event: str, rows: frozenset[str] | None = None) -> float:
        """The cycles that an event causes, of all rows, or of some."""
        return sum(n for (of, row), n in self.cycles.items() if of == event and (rows is None or row in rows))


@cache
def at_each_exit(settings: Settings) -> frozenset[tuple[str, str]]:
    """Phase and operation of what runs at a VM exit that KVM handles, in the kernel model's own sequence."""
    return frozenset((each.phase, each.operation) for each in flows.run("in-kernel-exit", settings).operations)


def event_of(operation: op.Operation, settings: Settings) -> str:
    """The event that causes an operation."""
    if (operation.phase, operation.operation) in at_each_exit(settings):
        return EXIT
    return LOAD_PUT if operation.phase in OF_GUESTS else SWITCH


def counted(
    record: Record, metrics: Mapping[str, tuple[int | float, str]], table: CostTable, settings: Settings
) -> Counted:
    """A record with the counts of its schedule; VM exits that only its strategy causes are included."""
    found: Counter[tuple[str, str]] = Counter()
    exits = 0
    for operation, n, _ in record.ledger:
        exits += n * (operation.operation == op.VMEXIT)
        for row, times in terms(operation, table).items():
            found[event_of(operation, settings), row] += (  # type: ignore[assignment]
                n * times * table.rows[row].value * table.scale(table.rows[row])
            )
    return Counted(
        found, {EXIT: exits, LOAD_PUT: int(metrics["vcpu_loads"][0]), SWITCH: int(metrics["context_switches"][0])}
    )


def compared(scenario: str, case: Case, replications: int) -> list[Compared]:
    """All strategies of a case except the one that times its schedule."""
    table = load(case.costs)
    schedules, alone = [], []
    for n in range(replications):
        records = simulate(case, case.timed_by, case.strategies, n)
        schedules.append(
            {each.strategy: counted(each, records[0].metrics, table, case.settings(each.strategy)) for each in records}
        )
        runs = {name: simulate(case, name, (), n)[0] for name in case.strategies if name != case.timed_by}
        alone.append({name: counted(each, each.metrics, table, case.settings(name)) for name, each in runs.items()})
    return [
        _compared(
            scenario,
            case,
            name,
            [each[name] for each in schedules],
            [each[case.timed_by] for each in schedules],
            [each[name] for each in alone],
        )
        for name in case.strategies
        if name != case.timed_by
    ]


def _compared(
    scenario: str,
    case: Case,
    name: str,
    walked: Sequence[Counted],
    timing: Sequence[Counted],
    alone: Sequence[Counted],
) -> Compared:
    keys = {
        key
        for one, other in zip(walked, timing, strict=True)
        for key in one.cycles.keys() | other.cycles.keys()
        if one.cycles.get(key) != other.cycles.get(key)
    }
    own, of = {}, {}
    for event in EVENTS:
        rows = frozenset(row for where, row in keys if where == event)
        if not rows or not all(each.events[event] for each in (*walked, *alone, *timing)):
            continue
        own[event] = tuple(
            independent.total(event, rows) / independent.events[event] - one.total(event, rows) / one.events[event]
            for one, independent in zip(walked, alone, strict=True)
        )
        of[event] = float(
            np.mean(
                [
                    (
                        one.total(event, rows) / one.events[event]
                        - reference.total(event, rows) / reference.events[event]
                    )
                    for one, reference in zip(walked, timing, strict=True)
                ]
            )
        )
    feedback, by_rates = zip(*(_rates(one, other) for one, other in zip(walked, alone, strict=True)), strict=True)
    return Compared(scenario, case.name, name, own, of, feedback, by_rates)


def _rates(walked: Counted, alone: Counted) -> tuple[float, float]:
    """The difference of the totals of a replication, and the part that different numbers of events explain."""
    whole = sum(alone.cycles.values()) - sum(walked.cycles.values())
    by_rates = sum(
        walked.total(event) / walked.events[event] * (alone.events[event] - walked.events[event])
        for event in EVENTS
        if walked.events[event]
    )
    return whole, by_rates


ROUNDING: Final = 1e-9
"""A relative difference below this is due to rounding of floating-point numbers."""


class Finding(NamedTuple):
    """One comparison: a mean that should be 0 and its adjusted interval.

    ``what`` is an event, or "feedback less rates".  ``of``: what the mean is compared with: own operations per event,
    or the mean feedback.
    """

    scenario: str
    case: str
    strategy: str
    what: str
    mean: float
    low: float
    high: float
    of: float

    @property
    def holds(self) -> bool:
        """Whether 0 is in the interval."""
        return self.low <= 0 <= self.high


RATES: Final = "feedback less rates"


def findings(found: Sequence[Compared]) -> list[Finding]:
    """All comparisons, each with an interval of 95 % that is adjusted for how many there are (Bonferroni)."""
    samples = [
        (each, what, np.array(values), of)
        for each in found
        for what, values, of in (
            *((event, values, each.of[event]) for event, values in each.own.items()),
            (RATES, np.subtract(each.feedback, each.by_rates), float(np.mean(each.feedback))),
        )
    ]
    level = 1 - (1 - LEVEL) / max(len(samples), 1)
    lines = []
    for each, what, values, of in samples:
        half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * float(values.std(ddof=1)) / len(values) ** 0.5
        half += ROUNDING * abs(of)
        mean = float(values.mean())
        lines.append(Finding(each.scenario, each.case, each.strategy, what, mean, mean - half, mean + half, of))
    return lines


def explained(found: Sequence[Compared]) -> float:
    """The share of all feedback, squared and summed over strategies and replications, that the rates explain."""
    feedback = np.concatenate([each.feedback for each in found])
    left = feedback - np.concatenate([each.by_rates for each in found])
    total = float(feedback @ feedback)
    return 1 - float(left @ left) / total if total else 1.0


def study(names: Sequence[str], jobs: int, replications: int = REPLICATIONS) -> list[Compared]:
    """All strategies of all cases of these shipped scenarios, with a short measurement."""
    work = [(name, i, replications) for name in names for i in range(len(cases(read(name, SHORT))))]
    return [each for some in in_processes(_of_case, work, jobs) for each in some]


def _of_case(work: tuple[str, int, int]) -> list[Compared]:
    name, i, replications = work
    return compared(name, cases(read(name, SHORT))[i], replications)
