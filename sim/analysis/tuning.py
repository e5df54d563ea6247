"""Tunes a fitted scenario by simulating it: what a trace shows of a thread also depends on the host's scheduler.

How long a thread waits for a CPU follows from weights, control groups and the kernel's preemption, of which the
simulated host has a part.  A thread that waits too long there comes round too seldom, with all that it does.  So
weights are changed until threads wait for a CPU as long as in the trace, and those that hardly ever sleep get as much
of the CPUs; and sleeps are made longer or shorter, and wake-ups of others more or fewer, until threads and vCPUs come
round as often.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import log, sqrt
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from sim.analysis.fitness import twin
from sim.analysis.recorded_run import RecordedRun
from sim.host.watching import window
from sim.processes import in_processes
from sim.scenario.cases import Case
from sim.trace.fit.entries import FULL_NS, Group, Key
from sim.trace.fit.estimate import Fitted
from sim.trace.fit.families import LONG_NS
from sim.trace.fit.lives import Watcher
from sim.trace.fit.locks import tuned, waited
from sim.trace.fit.thread_times import VcpuTimes
from sim.trace.fit.weights import LEAST_WEIGHT, MOST_WEIGHT, NICE_0_LOAD
from sim.trace.fit.writing import write
from sim.trace.reading.chunks import steps as events_of
from sim.trace.reading.reader import Reader

ROUNDS: Final = 5
GAIN: Final = (0.7, 0.5, 0.4, 0.3, 0.2)
"""The part of each correction that is applied in a round, as a power: long bursts, and where threads happen to be, make
replications differ by tenths, and how long a thread waits for a CPU depends on how often it comes round."""
LOCK_GAIN: Final = (1.0, 1.0, 0.8, 0.6, 0.4)
"""The same of a lock, which begins farther from what it becomes."""
REPLICATIONS: Final = 3
"""Of each round."""
FIRST_REPLICATION: Final = 1000
"""Those of the check are others."""
ENOUGH: Final = 20
"""Cycles in the trace from which on their number says something."""
LONGEST: Final = 8.0
"""By how much a mean sleep may change in all."""
STEP: Final = 2.0
"""By how much a mean or a weight is asked to change in a round."""
LEAST_OWN: Final = 0.5
"""The share of its sleeps that end by time from which on their length is tuned; the others end when their wakers do."""
ALWAYS: Final = 0.95
"""The share of its time for which a thread is runnable from which on how much it gets shows its weight, not how long it
waits."""
LEAST_SHARE: Final = 0.02
"""The share of a CPU from which on the weight of a thread that never sleeps is tuned."""
LEAST_WAIT: Final = 0.1
"""Waits for a CPU, of the time that a thread was runnable, from which on its weight is tuned by them."""
SURE: Final = 2.0
"""Standard errors of the mean wait, as if waits were exponential, from which on a weight is tuned by them.  Threads of
one weight have exactly that: at a tick, which renews the request of a thread that is alone, it decides who goes on."""
NICE_STEP: Final = 1.25
"""What one step of nice changes the weight by (sched_prio_to_weight[], kernel/sched/core.c, Linux v6.18)."""
MOST: Final = NICE_STEP**10
"""By what factor a weight may change in all: as nice 10 does."""


NONE: Final[Mapping[str, float]] = MappingProxyType({})


class _Seen(NamedTuple):
    """By entry and second: how often its threads went to sleep, or its vCPUs halted, whether KVM polled or not; how
    long they were on a CPU, and runnable; of vCPUs that spin, exits by PAUSE that are the first of a wait and those
    again in it, and the guest time in ns and the number of other exits."""

    cycles: dict[str, float]
    on: dict[str, float]
    wanted: dict[str, float]
    first: Mapping[str, float] = NONE
    again: Mapping[str, float] = NONE
    guest: Mapping[str, float] = NONE
    acts: Mapping[str, float] = NONE


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
        seen = _mean(in_processes(_simulated, work, jobs, step))
        groups = tuple(_tuned(group, first[group.entry], seen, seconds, GAIN[number]) for group in fitted.groups)
        groups = _families_tuned(groups, first, seen, seconds, GAIN[number])
        groups = _wakers_tuned(groups, first, seen, seconds, GAIN[number])
        groups = tuple(_lock_tuned(group, first[group.entry], seen, LOCK_GAIN[number]) for group in groups)
        fitted = replace(fitted, groups=groups)
        write(fitted, out, force=True)
    return fitted


def _mean(several: Sequence[_Seen]) -> _Seen:
    def mean(columns: Sequence[Mapping[str, float]]) -> dict[str, float]:
        names = {name for column in columns for name in column}
        return {name: sum(column.get(name, 0.0) for column in columns) / len(columns) for name in names}

    return _Seen(*(mean([each[i] for each in several]) for i in range(len(_Seen._fields))))


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
    found = _Seen(defaultdict(float), defaultdict(float), defaultdict(float))
    spinning: dict[str, list[VcpuTimes]] = defaultdict(list)
    for life in watcher.lives:
        entry = run.entries.get(life.tid, run.entries.get(life.parent))
        if entry is None:
            continue
        forks = entry in case.scenario.threads and case.scenario.threads[entry].kind == "fork"
        counts = not forks or life.tid not in run.entries  # of a parent the children are counted
        if life.vcpu is not None and case.scenario.guests[entry].lock is not None:
            spinning[entry].append(life.vcpu)
        halts = [] if life.vcpu is None else life.vcpu.halt_from
        found.cycles[entry] += sum(begin < ns < end for ns in halts) / seconds
        for burst in life.bursts:
            found.cycles[entry] += counts * (not halts) * (begin < burst.end_ns < end) / seconds
            within = min(end, burst.end_ns) - max(begin, burst.ready_ns)
            if within > 0:
                share = within / max(1, burst.end_ns - burst.ready_ns)
                found.on[entry] += share * burst.on_ns * 1e-9 / seconds
                found.wanted[entry] += within * 1e-9 / seconds
    waits = {entry: waited([each.spins for each in vcpus], begin, end) for entry, vcpus in spinning.items()}
    return found._replace(
        first={entry: each.first / seconds for entry, each in waits.items()},
        again={entry: each.again / seconds for entry, each in waits.items()},
        guest={entry: sum(each.clock for each in vcpus) for entry, vcpus in spinning.items()},
        acts={entry: sum(each.spins.acts for each in vcpus) for entry, vcpus in spinning.items()},
    )


def _cycles(group: Group) -> int:
    return group.halts or group.cycles


def _mean_sleep(group: Group) -> float:
    sleeps = group.halt if group.key[0] == "vcpu" else group.sleep
    return sum(sleeps) / len(sleeps) if sleeps else 0.0


def _tuned(group: Group, first: Group, seen: _Seen, seconds: float, gain: float) -> Group:
    """``first`` is the group as it was fitted."""
    kind, rate = group.key[0], seen.cycles.get(group.entry, 0.0)
    on, wanted = seen.on.get(group.entry, 0.0), seen.wanted.get(group.entry, 0.0)
    mean, first_mean = _mean_sleep(group), _mean_sleep(first)
    own = 1.0 if group.waits is None else 1 - group.waits[0]
    if not rate or not on or kind == "pipe":
        return group
    cycles = _cycles(group)
    always = kind != "fork" and group.wanted_ns > ALWAYS * group.rows * seconds * 1e9  # children of a parent queue up
    if not (mean or group.waits) or always or (cycles < ENOUGH and (kind == "vcpu" or seconds * 1e9 < FULL_NS)):
        share = group.on_ns * 1e-9 / seconds
        return _weighted(group, first, share / on, gain) if share >= LEAST_SHARE else group
    there, here = (group.wanted_ns - group.on_ns) / cycles, 1e9 * (wanted - on) / rate
    waits = cycles + group.on_ns / LONG_NS  # a long burst waits several times
    if there > LEAST_WAIT * group.wanted_ns / cycles and abs(log(max(here, 1) / there)) > SURE / sqrt(waits):
        group = _weighted(group, first, here / there, gain / 2)
    if not mean or own < LEAST_OWN or cycles < ENOUGH:
        return group
    late_ns = 1e9 * group.rows * (seconds / cycles - 1 / rate) / own
    least, most = max(first_mean / LONGEST, mean / STEP), min(first_mean * LONGEST, mean * STEP)
    factor = (min(most, max(least, mean + late_ns)) / mean) ** gain
    if kind == "vcpu":
        return replace(group, halt=[each * factor for each in group.halt])
    return replace(group, sleep=[each * factor for each in group.sleep])


def _families_tuned(
    groups: tuple[Group, ...], first: Mapping[str, Group], seen: _Seen, seconds: float, gain: float
) -> tuple[Group, ...]:
    """The weights of control groups: until their threads get as much of the CPUs, or wait as long."""
    weights = {}
    for family in {group.family for group in groups if group.family}:
        members = [group for group in groups if group.family == family]
        on, wanted = (sum(each.get(group.entry, 0.0) for group in members) for each in (seen.on, seen.wanted))
        there = sum(group.on_ns for group in members) * 1e-9 / seconds
        waited = sum(group.wanted_ns for group in members) * 1e-9 / seconds - there
        if not on or wanted <= on or waited <= 0:
            continue
        busy = any(group.is_long for group in members)
        factor = (there / on) ** gain if busy else ((wanted - on) / waited) ** (gain / 2)
        begun, now = first[members[0].entry].family_weight, members[0].family_weight
        weight = now * min(STEP, max(1 / STEP, factor))
        weights[family] = max(LEAST_WEIGHT, min(MOST_WEIGHT, round(max(begun / MOST, min(begun * MOST, weight)))))
    return tuple(
        replace(group, family_weight=weights[group.family]) if group.family in weights else group for group in groups
    )


def _wakers_tuned(
    groups: tuple[Group, ...], first: Mapping[str, Group], seen: _Seen, seconds: float, gain: float
) -> tuple[Group, ...]:
    """How many others wake: until those whose sleeps they end come round as often.

    A wake-up that finds nobody waiting is lost, and how often that is so depends on who has the CPUs.
    """
    factors = {
        group.key: min(STEP, max(1 / STEP, _cycles(group) / seconds / rate)) ** gain
        for group in groups
        if group.waits is not None and 1 - group.waits[0] < LEAST_OWN and _cycles(group) >= ENOUGH
        if (rate := seen.cycles.get(group.entry, 0.0))
    }

    def tuned(wakes: Mapping[Key, float], begun: Mapping[Key, float]) -> dict[Key, float]:
        return {
            key: min(STEP * begun[key], max(begun[key] / STEP, mean * factors.get(key, 1.0)))
            for key, mean in wakes.items()
        }

    return tuple(
        replace(
            group,
            wakes=tuned(group.wakes, first[group.entry].wakes),
            exit_wakes={
                name: tuned(wakes, first[group.entry].exit_wakes[name]) for name, wakes in group.exit_wakes.items()
            },
        )
        for group in groups
    )


def _lock_tuned(group: Group, first: Group, seen: _Seen, gain: float) -> Group:
    """The lock, until its waits show as often and for as long; and the guest's own work, which spinning is not."""
    if group.lock is None or first.lock is None:
        return group
    firsts, again = seen.first.get(group.entry, 0.0), seen.again.get(group.entry, 0.0)
    found = replace(group, lock=tuned(group.lock, first.lock, firsts, again, gain))
    acts = seen.acts.get(group.entry, 0.0)
    if not group.lock.act_ns or not acts:
        return found
    return found.works((group.lock.act_ns * acts / seen.guest[group.entry]) ** gain)


def _weighted(group: Group, first: Group, factor: float, gain: float) -> Group:
    if group.family:
        return group
    least, most = _weight(first) / MOST, _weight(first) * MOST
    weight = round(max(least, min(most, _weight(group) * min(STEP, max(1 / STEP, factor)) ** gain)))
    return replace(group, weight=max(LEAST_WEIGHT, min(MOST_WEIGHT, weight)))


def _weight(group: Group) -> float:
    return NICE_0_LOAD * NICE_STEP ** -group.key[2] if group.weight is None else group.weight
