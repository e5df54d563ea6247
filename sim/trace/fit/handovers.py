"""Threads that share a control group, by whom short bursts leave the CPU to.

Within a group's turn its own threads follow one another: when one goes to sleep, the scheduler picks the next from the
same group, whose request is not used up yet (pick_next_task_fair() and RUN_TO_PARITY, kernel/sched/fair.c, Linux
v6.18).  Without groups a busy thread gets the CPU after a short burst about as often as it has it at all.

And by whom their wake-ups preempt: one that would run before the busy thread of its group ends the slice, but then the
groups are compared first, and if this one has had its share, a busy thread of another group goes on.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import Final

from sim.trace.fit.families import LEAST_ON, is_long, series
from sim.trace.fit.thread_times import Life

SELDOM: Final = 0.6
"""Threads outside of the group get the CPU after at most this part of the bursts after which they would without
groups: a fifth to a half where the host has groups, nine tenths and more where it has none."""
MOST: Final = 0.5
"""Threads outside of the group have at least this share of the busy threads' time: without groups, those of small
weight get the CPU after a short burst less often than they have it at all, and those of large weight more often."""
SIGMAS: Final = 4.0
WAKES_SIGMAS: Final = 3.0
ALWAYS: Final = 0.8
"""Busy threads count that are runnable for this share of the time that the other is there: of those that come and go
nothing says how often they would get the CPU."""
LEAST: Final = 20
"""The fewest bursts that say anything."""
LEAST_OF_SOME: Final = 5
"""The fewest after which one thread got the CPU that say that it is in the group."""
PASSED: Final = 0.1
"""Without groups, a busy thread of another series gets the CPU at this share of the wake-ups that preempt, or less: a
slice that was over is noticed then.  Where the one preempted is in the woken one's group it is a quarter to a half."""
BACK: Final = 2.0
"""It does so more often by this factor than the other way round: into the group short ones go first."""


def sharing(lives: Sequence[Life], seconds_ns: int) -> list[tuple[Life, Life]]:
    """Pairs of threads that are in one group, unlike others on their CPU.

    Of kernel threads those are looked at that vCPUs wake: a vhost thread is in the control groups of its VMM
    (cgroup_attach_task_all() in vhost_attach_cgroups_work(), drivers/vhost/vhost.c).
    """
    found: list[tuple[Life, Life]] = []
    busy = _busy(lives, seconds_ns)
    vcpus = [life.tid for life in lives if life.vcpu is not None]
    for life in lives:
        of_guests = 2 * sum(life.wakers[tid] for tid in vcpus) > life.wakers.total()
        if not (life.user or of_guests) or is_long(life) or life.handed.total() < LEAST:
            continue
        begin_ns, end_ns = life.bursts[0].ready_ns, life.bursts[-1].end_ns
        always = [each for each in busy if _runnable(each, begin_ns, end_ns) >= ALWAYS * (end_ns - begin_ns)]
        for cpu in life.cpus:
            there = [each for each in always if each.at_ns[cpu]]
            inside = _inside(life, {each.tid: each.at_ns[cpu] for each in there}, cpu)
            found += pairwise([life, *(each for each in there if each.tid in inside)])
    return found


def passed_over(lives: Sequence[Life], seconds_ns: int) -> list[tuple[Life, Life]]:
    """Pairs of threads that are in one group of a host that has groups: series of short bursts, and who is preempted by
    their wake-ups while others go on.
    """
    busy = _busy(lives, seconds_ns)
    named = {life.tid: series(life.name) for life in busy}
    alike: dict[tuple[str, int], list[Life]] = defaultdict(list)
    for life in lives:
        if life.user and not is_long(life):
            alike[series(life.name), life.nice].append(life)
    found: list[tuple[Life, Life]] = []
    for short in alike.values():
        took = sum((life.took for life in short), Counter())
        handed = sum((life.handed for life in short), Counter())
        for one in busy:
            others = [tid for tid, name in named.items() if name != named[one.tid]]
            for cpu in one.at_ns:
                there = [each for each in busy if each.at_ns[cpu]]
                after = sum(handed[cpu, each.tid] for each in there)
                time = sum(each.at_ns[cpu] for each in there)
                preempted = sum(times for (at, tid, _), times in took.items() if (at, tid) == (cpu, one.tid))
                passed = sum(took[cpu, one.tid, tid] for tid in others)
                more = passed - PASSED * preempted > SIGMAS * sqrt(PASSED * preempted + 1)
                back = BACK * sum(took[cpu, tid, one.tid] for tid in others)
                if more and passed > back and handed[cpu, one.tid] * time >= after * one.at_ns[cpu]:
                    found += pairwise([one, *short])
    return found


def _busy(lives: Iterable[Life], seconds_ns: int) -> list[Life]:
    return [life for life in lives if is_long(life) and life.at_ns.total() >= LEAST_ON * seconds_ns]


def _runnable(life: Life, begin_ns: int, end_ns: int) -> int:
    """For how long it was runnable in that time."""
    return sum(max(0, min(end_ns, burst.end_ns) - max(begin_ns, burst.ready_ns)) for burst in life.bursts)


def _inside(life: Life, on_ns: Mapping[int, int], cpu: int) -> set[int]:
    """Of the busy threads of a CPU, ``on_ns`` for so long, those in the group of a thread of short bursts, if it has
    one.

    A thread that is woken by one of them, or only while they run, leaves the CPU to its waker, group or not: then only
    those of its bursts count that others have begun.
    """
    inside, outside = _unlike({tid: life.handed[cpu, tid] for tid in on_ns}, on_ns)
    by_others = sum(life.wakers[tid] for tid in outside) >= LEAST_OF_SOME
    if by_others and not any(_is_woken_by(life, tid) for tid in inside):
        return inside
    handed: Counter[int] = Counter()
    for (at, tid, waker), times in life.handed_after.items():
        handed[tid] += times * (at == cpu and waker not in inside)
    return inside & _unlike(handed, on_ns)[0]


def _unlike(handed: Mapping[int, int], on_ns: Mapping[int, int]) -> tuple[set[int], set[int]]:
    """Of busy threads those that get the CPU after short bursts as often as they have it, and those that hardly do;
    none if they might do so by chance."""
    total = sum(on_ns.values())
    bursts = sum(handed[tid] for tid in on_ns)
    if bursts < LEAST or not total:
        return set(), set()
    as_without = {tid: bursts * ns / total for tid, ns in on_ns.items()}
    outside = {tid for tid, expected in as_without.items() if handed[tid] <= SELDOM * expected}
    expected = sum(as_without[tid] for tid in outside)
    fewer = expected - sum(handed[tid] for tid in outside)
    if expected < MOST * bursts or fewer <= SIGMAS * sqrt(expected * (1 - expected / bursts) + 1):
        return set(), set()
    return {tid for tid in on_ns if handed[tid] >= max(LEAST_OF_SOME, as_without[tid])}, outside


def _is_woken_by(life: Life, tid: int) -> bool:
    """Whether it is woken where that thread runs more often than by chance."""
    chance = life.by_chance[tid]
    return life.wakers[tid] - chance > WAKES_SIGMAS * sqrt(chance + 1)
