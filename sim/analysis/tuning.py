"""Tunes a fitted scenario by simulating it: what a trace shows of a thread is also the work of the host's scheduler.

How long a thread waits for a CPU follows from weights, control groups and the kernel's preemption, of which the
simulated host has a part.  A thread that waits too long there comes round too seldom, with all that it does.  So sleeps
are made longer or shorter until threads and vCPUs come round as often as in the trace, and weights of vCPUs and threads
that never sleep until they get as much of the CPUs.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from sim.analysis.fitness import in_processes, twin
from sim.analysis.recorded_run import RecordedRun
from sim.host.watching import window
from sim.scenario.cases import Case
from sim.trace.fit.estimate import Fitted
from sim.trace.fit.groups import LEAST_WEIGHT, NICE_0_LOAD, Group
from sim.trace.fit.lives import Watcher
from sim.trace.fit.writing import write
from sim.trace.reading.reader import Reader
from sim.trace.reading.reader import steps as events_of

ROUNDS: Final = 3
REPLICATIONS: Final = 4
"""Of each round: long bursts and sleeps make single ones differ by a third."""
FIRST_REPLICATION: Final = 1000
"""Those of the check are others."""
ENOUGH: Final = 40
"""Cycles in the trace from which on their number says something."""
LONGEST: Final = 8.0
"""By how much a mean sleep may change in all."""
LEAST_SHARE: Final = 0.02
"""The share of a CPU from which on a weight is tuned."""
LATE: Final = 0.85
"""The share of its cycles below which a thread that hardly sleeps any more gets more weight."""
NICE_STEP: Final = 1.25
"""What one step of nice changes the weight by (sched_prio_to_weight[], kernel/sched/core.c, Linux v6.18)."""
MOST: Final = NICE_STEP**2
"""By what factor a weight may change in all."""
MOST_WEIGHT: Final = 88_761


class _Seen(NamedTuple):
    """By entry and second: how often its threads went to sleep, and for how long they were on a CPU."""

    cycles: dict[str, float]
    on: dict[str, float]


def tune(fitted: Fitted, out: Path, jobs: int, step: Callable[[], None] = lambda: None) -> Fitted:
    """Simulates the scenario ``out`` and writes it anew, ``ROUNDS`` times; ``step`` is called after each replication.

    ``jobs`` are processes.
    """
    first = {group.entry: group for group in fitted.groups}
    seconds = fitted.counted.seconds
    for number in range(ROUNDS):
        case = twin(fitted, out)
        begin = FIRST_REPLICATION + REPLICATIONS * number
        work = [(case, fitted.strategy, fitted.events, begin + each) for each in range(REPLICATIONS)]
        seen = _mean(list(in_processes(_simulated, work, jobs, step)))
        groups = tuple(_tuned(group, first[group.entry], seen, seconds) for group in fitted.groups)
        fitted = replace(fitted, groups=groups)
        write(fitted, out, force=True)
    return fitted


def _mean(several: Sequence[_Seen]) -> _Seen:
    def mean(columns: Sequence[dict[str, float]]) -> dict[str, float]:
        names = {name for column in columns for name in column}
        return {name: sum(column.get(name, 0.0) for column in columns) / len(columns) for name in names}

    return _Seen(mean([each.cycles for each in several]), mean([each.on for each in several]))


def _simulated(work: tuple[Case, str, frozenset[str], int]) -> _Seen:
    case, strategy, events, replication = work
    run = RecordedRun(case, strategy, replication, only=events)
    text = "\n".join(run.lines()) + "\n"
    watcher, reader = Watcher(), Reader(io.BytesIO(text.encode()), f"replication {replication}")
    for chunk in reader.chunks():
        for each in events_of(chunk, reader.names):
            watcher.see(each)
    watcher.finish()
    begin, end = (round(cycles * 1e9 / case.tsc_hz) for cycles in window(case))
    seconds = (end - begin) * 1e-9
    found = _Seen(defaultdict(float), defaultdict(float))
    for life in watcher.lives:
        entry = run.entries.get(life.tid)
        if entry is None:
            continue
        for burst in life.bursts:
            found.cycles[entry] += (begin < burst.end_ns < end) / seconds
            within = min(end, burst.end_ns) - max(begin, burst.ready_ns)
            if within > 0:
                share = within / max(1, burst.end_ns - burst.ready_ns)
                found.on[entry] += share * burst.on_ns * 1e-9 / seconds
    return found


def _mean_sleep(group: Group) -> float:
    sleeps = group.halt if group.key[0] == "vcpu" else group.sleep
    return sum(sleeps) / len(sleeps) if sleeps else 0.0


def _tuned(group: Group, first: Group, seen: _Seen, seconds: float) -> Group:
    """``first`` is the group as it was fitted."""
    kind, rate = group.key[0], seen.cycles.get(group.entry, 0.0)
    mean, first_mean = _mean_sleep(group), _mean_sleep(first)
    if kind != "pipe" and mean and group.cycles >= ENOUGH and rate:
        late_ns = 1e9 * group.rows * (seconds / group.cycles - 1 / rate)
        wanted = min(first_mean * LONGEST, max(first_mean / LONGEST, mean + late_ns))
        if wanted == first_mean / LONGEST and rate < LATE * group.cycles / seconds:  # it waits for a CPU too long
            group = _weighted(group, first, NICE_STEP)
        if kind == "vcpu":
            return replace(group, halt=[each * wanted / mean for each in group.halt])
        return replace(group, sleep=[each * wanted / mean for each in group.sleep])
    on, share = seen.on.get(group.entry, 0.0), group.on_ns * 1e-9 / seconds
    if (kind == "vcpu" or not mean) and share >= LEAST_SHARE and on:
        return _weighted(group, first, share / on)
    return group


def _weighted(group: Group, first: Group, factor: float) -> Group:
    least, most = _weight(first) / MOST, _weight(first) * MOST
    weight = round(max(least, min(most, _weight(group) * factor)))
    return replace(group, weight=max(LEAST_WEIGHT, min(MOST_WEIGHT, weight)))


def _weight(group: Group) -> float:
    return NICE_0_LOAD * NICE_STEP ** -group.key[2] if group.weight is None else group.weight
