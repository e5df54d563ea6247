"""Whether a fitted scenario shows what its trace shows: the two side by side, with the tolerance between them.

The simulated host is recorded with the events that the trace has, and its recording is followed by the code that
follows the trace.  So both sides are counted alike, at the same buffer level and with the same use of shadow stacks,
and what a trace cannot show is missing on both.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.analysis import student
from sim.analysis.recorded_run import RecordedRun
from sim.costs.price import Prices
from sim.host.watching import window
from sim.kernel.versions import version
from sim.processes import in_processes
from sim.scenario.cases import Case, cases
from sim.scenario.reading import read
from sim.trace.fit.estimate import Fitted
from sim.trace.fit.lives import Watcher
from sim.trace.fit.tally import (
    COST,
    COUNTED,
    ENTRIES,
    IDLE,
    LOADS,
    MIGRATIONS,
    RESTORED,
    ROUND_TRIPS,
    SKIPPED,
    SWITCHES,
    WAKEUPS,
    Counted,
    Tally,
)
from sim.trace.following.replay import Recorded, Replay
from sim.trace.following.replica import Replica
from sim.trace.whatif import Choices, replicas

ENOUGH: Final = 100
"""Counts below this are shown and not compared."""
RATE: Final = 0.05
SKIPS: Final = 0.01
BUSY: Final = 0.02
BLOCKS: Final = 16
"""Blocks of the trace, of whose figures the interval of the whole is made."""
REFERENCE: Final = "free-ssp"
"""The strategy that carries nothing, with which the costs of carrying are compared."""
NOTHING: Final = 1e-3
"""The share of what the reference costs below which a difference is none."""
LONGEST_S: Final = 5.0
MOST_EVENTS: Final = 40_000
"""A replication of the check is as long as the trace, or as this many events of it, or as long as this."""

Blocks = NDArray[np.float64]

EXITS_BY: Final = "exits by "

LIKELY: Final = {
    SWITCHES: "how often threads preempt each other (nice, base slice, host.preemption, control groups), or who waits "
    "for whom",
    ROUND_TRIPS: "the guest and VMM times between returns to user space, or the CPU time that the vCPUs get",
    LOADS: "how often vCPUs are preempted, or halt",
    ENTRIES: "the exits that KVM handles itself, or the CPU time that the vCPUs get",
    WAKEUPS: "bursts and sleeps of the threads, or who wakes whom",
    MIGRATIONS: "where threads are woken and to which CPU they are pulled; the twin's host has one rule for it",
    "skipped restores": "who runs between two stints of a thread on its CPU",
    "CPU utilisation": "bursts and sleeps: that threads are independent of each other, and draws of each other",
    "VM exits": "that exits of each kind come independently of each other, and as often in all phases of the trace",
    "halts": "that halts are independent of exits, and last as long in all phases of the trace",
    "time in the guest": "who else had the vCPUs' CPUs, which these events do not show",
    EXITS_BY: "that exits of this kind come independently of the others, and as often in all phases of the trace",
    "cost": "the figures above, or which components are in use when a thread is saved",
}
"""Which assumption of the twin is likely wrong, by the figure that misses."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of trace and simulation in ``unit``; ``low`` and ``high`` bound what holds, None: too few samples."""

    what: str
    unit: str
    trace: float
    simulated: float
    low: float | None
    high: float | None
    samples: int

    @property
    def holds(self) -> bool | None:
        """None if there were too few samples to say."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.simulated <= self.high

    @property
    def is_cost(self) -> bool:
        """Whether it is what a strategy costs in all."""
        return self.what.startswith(COST)

    @property
    def likely(self) -> str:
        """Which assumption is likely wrong, if it misses."""
        return LIKELY.get(self.what, LIKELY[EXITS_BY if self.what.startswith(EXITS_BY) else "cost"])

    def document(self) -> dict[str, Any]:
        """As JSON."""
        found: dict[str, Any] = {
            "figure": self.what,
            "unit": self.unit,
            "trace": self.trace,
            "simulated": self.simulated,
            "low": self.low,
            "high": self.high,
            "samples": self.samples,
            "holds": self.holds,
        }
        return found | {"likely": self.likely} if self.holds is False else found


def unsupported(trace: Counted) -> list[str]:
    """What a trace is too short, or too quiet, to be compared in."""
    few = [name for name in COUNTED if 0 < trace.total(name) < ENOUGH]
    found = [f"under {ENOUGH} {name} in the trace: not compared" for name in few]
    if trace.seconds < 1:
        found.append(
            f"the trace covers {trace.seconds:.3f} s: intervals are from blocks of {trace.seconds / BLOCKS * 1e3:.1f} "
            "ms, and what changes more slowly than that is not in them"
        )
    return found


def side_by_side(trace: Counted, simulated: Sequence[Counted], unsure: float = 0.0) -> list[Compared]:
    """Rates and costs within 5 % or the 95 % interval from blocks of the trace, whichever is wider; shares in points.

    ``unsure`` is by how much the trace leaves its utilisation open.
    """
    seconds = sum(each.seconds for each in simulated)
    found = []
    for name in COUNTED:
        if trace.total(name) or any(each.total(name) for each in simulated):
            rate = sum(each.total(name) for each in simulated) / seconds
            found.append(_rate(name, "1/s", trace, rate, round(trace.total(name))))
    restores = trace.total(RESTORED) + trace.total(SKIPPED)
    ran = sum(each.total(RESTORED) for each in simulated)
    skipped = sum(each.total(SKIPPED) for each in simulated)
    low = high = None
    if restores >= ENOUGH:
        share, half = _share(trace)
        half = max(half, SKIPS)
        low, high = max(0.0, share - half), min(1.0, share + half)
    share = trace.total(SKIPPED) / restores if restores else 0.0
    found.append(
        Compared("skipped restores", "share", share, skipped / max(1.0, ran + skipped), low, high, round(restores))
    )
    idle = trace.total(IDLE) * 1e-9 / (trace.seconds * trace.cpus)
    other = sum(each.total(IDLE) * 1e-9 / each.cpus for each in simulated) / seconds
    half = BUSY + unsure
    busy = 1 - idle
    found.append(
        Compared("CPU utilisation", "share", busy, 1 - other, max(0.0, busy - half), min(1.0, busy + half), ENOUGH)
    )
    return found + _costs(trace, simulated, seconds)


def _costs(trace: Counted, simulated: Sequence[Counted], seconds: float) -> list[Compared]:
    """What each strategy costs, and how much more than the reference."""
    both = [name for name in trace.strategies if all(COST + name in each.names for each in simulated)]
    samples = round(trace.total(SWITCHES))
    found = []
    for name in both:
        cost = sum(each.total(COST + name) for each in simulated) / seconds
        found.append(_rate(COST + name, "cycles/s", trace, cost, samples))
    for name in both if REFERENCE in both else ():
        blocks = trace.blocks(COST + name, BLOCKS) - trace.blocks(COST + REFERENCE, BLOCKS)
        own = sum(each.total(COST + name) - each.total(COST + REFERENCE) for each in simulated) / seconds
        least = NOTHING * trace.total(COST + REFERENCE) / trace.seconds
        if max(abs(own), abs(float(blocks.sum())) / trace.seconds) > least:
            found.append(_within(f"{name} less {REFERENCE}", "cycles/s", trace, blocks, own, samples))
    return found


def _rate(name: str, unit: str, trace: Counted, simulated: float, samples: int) -> Compared:
    return _within(name, unit, trace, trace.blocks(name, BLOCKS), simulated, samples)


def _within(what: str, unit: str, trace: Counted, blocks: Blocks, simulated: float, samples: int) -> Compared:
    rate = float(blocks.sum()) / trace.seconds
    low = high = None
    if samples >= ENOUGH:
        half = max(RATE * abs(rate), half_of(blocks) * BLOCKS / trace.seconds)
        low, high = rate - half, rate + half
    return Compared(what, unit, rate, simulated, low, high, samples)


def half_of(blocks: Blocks) -> float:
    """Half of the 95 % interval of the mean of the blocks."""
    return float(student.quantile(0.975, len(blocks) - 1) * blocks.std(ddof=1) / np.sqrt(len(blocks)))


def _share(trace: Counted) -> tuple[float, float]:
    """The share of skipped restores and half of its interval, as a ratio of the blocks' sums."""
    skipped = trace.blocks(SKIPPED, BLOCKS)
    all_of_them = skipped + trace.blocks(RESTORED, BLOCKS)
    share = float(skipped.sum() / all_of_them.sum())
    return share, half_of((skipped - share * all_of_them) / all_of_them.mean())


def holds(compared: Sequence[Compared]) -> bool:
    """Whether nothing that could be compared misses."""
    return all(each.holds is not False for each in compared)


# The simulated side.


def recordings(
    fitted: Fitted, case: Case, replications: int, jobs: int, step: Callable[[], None] = lambda: None
) -> list[Counted]:
    """The counts of the replications of a twin, recorded and followed as the trace was.

    ``jobs`` are processes; ``step`` is called after each replication.
    """
    work = [(case, fitted.strategy, number, fitted.events) for number in range(replications)]
    return in_processes(_recording, work, jobs, step)


def twin(fitted: Fitted, scenario: Path, kernel: str | None = None, preemption: str | None = None) -> Case:
    """The case of a fitted scenario, measured for as long as the trace is, or for many of its events.

    ``kernel`` and ``preemption`` take the place of the recorded ones; of a kernel that does not have the recorded
    preemption model, its default is taken.
    """
    changed: dict[str, Any] = {}
    if kernel is not None or preemption is not None:
        model = version(kernel or fitted.kernel)
        recorded = fitted.preemption if fitted.preemption in model.preemption_models else model.preemption_default
        changed = {"host.kernel": [model.name], "host.preemption": preemption or recorded}
    options = {"host.kernel": "--kernel", "host.preemption": "--preemption"}
    (case,) = cases(read(scenario, changed, options))
    seconds, events = fitted.counted.seconds, fitted.replayed.report.events.total()
    measure = min(LONGEST_S, seconds * min(1.0, MOST_EVENTS / events))
    run = case.scenario.run.model_copy(update={"measure": measure})
    return replace(case, scenario=case.scenario.model_copy(update={"run": run}))


def change(before: Sequence[Counted], after: Sequence[Counted]) -> list[tuple[str, str, float, float]]:
    """What another kernel does to a twin: each figure, its unit, and it with the recorded kernel and with that one."""
    names = [*COUNTED, *(COST + each for each in before[0].strategies if COST + each in after[0].names)]
    found = []
    for name in names:
        rates = [sum(x.total(name) for x in side) / sum(x.seconds for x in side) for side in (before, after)]
        if any(rates):
            found.append((name, "cycles/s" if name.startswith(COST) else "1/s", rates[0], rates[1]))
    busy = [
        1 - sum(x.total(IDLE) * 1e-9 / x.cpus for x in side) / sum(x.seconds for x in side) for side in (before, after)
    ]
    return [*found, ("CPU utilisation", "share", busy[0], busy[1])]


def _recording(work: tuple[Case, str, int, frozenset[str]]) -> Counted:
    case, strategy, replication, events = work
    text = "\n".join(RecordedRun(case, strategy, replication, only=events).lines()) + "\n"
    watcher = Watcher()
    found: dict[str, Tally] = {}

    def make(recorded: Recorded) -> list[Replica]:
        (first,) = replicas(recorded, Choices(strategies=(recorded.config.strategy.name,))).values()
        priced = replicas(recorded, Choices(case.cpu))
        found["tally"] = Tally(watcher, first, priced, Prices(case.table))
        return [first, *priced.values()]

    replay = Replay(io.BytesIO(text.encode()), f"replication {replication}", make_replicas=make)
    for step in replay.steps():
        found["tally"].see(step)
        watcher.see(step)
    watcher.finish()
    counted = found["tally"].finish(case.scenario.host.cpus)
    begin, end = (round(cycles * 1e9 / case.tsc_hz) for cycles in window(case))
    return counted.between(max(begin, int(counted.ns[0])), min(end, int(counted.ns[-1])))
