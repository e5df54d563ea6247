"""Which threads end the sleeps of which others in a trace, and how often.

The thread that runs where another one is woken need not be its waker: most timers expire in an interrupt of whatever
runs.  It is the waker if it runs there much more often than at other times within the sleeps, or if the wake-up is the
last thing that it does in its bursts.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.trace.fit.thread_times import Burst, Life

LEAST: Final = 10
"""The fewest wake-ups of one entry by another that may be more than chance."""
SIGMAS: Final = 4.0
RATIO: Final = 2.0
SHARE: Final = 0.1
"""A waker runs at this share of the entry's wake-ups more than by chance, and this many times as often."""
NEARLY: Final = 0.9
HALF: Final = 0.5
"""vCPUs wake a thread if they run at this share of its wake-ups, and have a CPU for no more of the time than that."""
MOST_WAKES: Final = 100.0
TIMED_OUT: Final = 0.99
"""Sleeps that nobody ends and that last as long as the longest of them, to within this factor, are waits that timed
out, if there are many of them."""


@dataclass(slots=True)
class Member:
    """The threads of an entry, and their bursts by id(): for a forked thread perhaps all but the first.

    ``waits``: whether the entry can wait in a scenario.  Exits of vCPUs wake threads, but no vCPUs.
    """

    lives: Sequence[Life]
    bursts: Mapping[int, Sequence[Burst]]
    waits: bool = True
    is_vcpu: bool = False


@dataclass(slots=True)
class Waiting:
    """Whom an entry ``wakes``, by the number of the other entry, with means per burst.

    ``ended`` are its own sleeps that another thread ended, or that timed out before one did, by the sleeper's id() and
    the end of the burst before; the longest lasts ``longest_ns``; ``begins`` and ``ends`` are when they did so, in
    order.  ``any_order``: which of several threads that sleep so is woken is by chance, and not the one that has waited
    longest.  ``after`` is how long its bursts that wake others go on afterwards, by the thread's id() and the end of
    the burst: the time and the stints on the CPU.
    """

    wakes: dict[int, float] = field(default_factory=dict)
    longest_ns: int = 0
    ended: set[tuple[int, int]] = field(default_factory=set)
    begins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    ends: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    any_order: bool = False
    after: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)


def waiting(members: Sequence[Member]) -> list[Waiting]:
    """Who wakes whom among the entries of a trace."""
    owners: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for number, member in enumerate(members):
        for life in member.lives:
            if bursts := member.bursts.get(id(life)):
                owners[life.tid].append((bursts[0].ready_ns, bursts[-1].end_ns, number))
    found = [Waiting() for _ in members]
    for number, member in enumerate(members):
        if member.waits:
            _ended(number, members, owners, found)
    return found


def _owner(owners: dict[int, list[tuple[int, int, int]]], tid: int, ns: int) -> int:
    """The entry to which a thread belongs at a time, or -1."""
    return next((number for begin, end, number in owners.get(tid, ()) if begin <= ns <= end), -1)


def _ended(
    number: int, members: Sequence[Member], owners: dict[int, list[tuple[int, int, int]]], found: list[Waiting]
) -> None:
    """Fills in, for one entry, which sleeps end by whom."""
    member = members[number]
    wakers = _wakers(
        member.lives, owners, {i for i, each in enumerate(members) if not (each.is_vcpu and member.is_vcpu)}, members
    )
    if not wakers:
        return
    intervals: list[tuple[int, int]] = []
    others: list[tuple[int, int, int]] = []
    by: dict[int, dict[int, list[int]]] = {each: defaultdict(list) for each in wakers}
    for life in member.lives:
        for before, after in pairwise(member.bursts.get(id(life), ())):
            waker = _owner(owners, after.waker, after.ready_ns)
            if waker in by:
                intervals.append((before.end_ns, after.ready_ns))
                by[waker][after.waker].append(after.ready_ns)
                found[number].ended.add((id(life), before.end_ns))
            else:
                others.append((before.end_ns, after.ready_ns, id(life)))
    if not intervals:
        return
    found[number].longest_ns = max(end - begin for begin, end in intervals)
    found[number].any_order = _any_order(intervals)
    if out := _timed_out(others, intervals, {waker: (members[waker], at) for waker, at in by.items() if at}):
        found[number].longest_ns = min(end - begin for begin, end, _ in out)
        found[number].ended |= {(life, begin) for begin, _, life in out}
        intervals += [(begin, end) for begin, end, _ in out]
    begins, ends = (np.sort(np.array(each, np.int64)) for each in zip(*intervals, strict=True))
    found[number].begins, found[number].ends = begins, ends
    for waker, at in by.items():
        if at:
            found[waker].wakes[number] = min(MOST_WAKES, _per_burst(members[waker], at, begins, ends))
            _note_after(members[waker], at.keys(), {life.tid for life in member.lives}, found[waker].after)


def _timed_out(
    others: Sequence[tuple[int, int, int]], ended: Sequence[tuple[int, int]],
    wakers: Mapping[int, tuple[Member, dict[int, list[int]]]],
) -> list[tuple[int, int, int]]:  # fmt: skip
    """Of the sleeps that nobody ended (begin, end and whose), those that waited for the wakers until a limit.

    They are as long as the longest, no sleep that ``ended`` is longer, and the wakers did so little meanwhile that it
    is no wonder.
    """
    longest = max((end - begin for begin, end, _ in others), default=0)
    out = [each for each in others if each[1] - each[0] >= TIMED_OUT * longest]
    longer = sum(TIMED_OUT * (end - begin) > longest for begin, end in ended)
    if len(out) < max(LEAST, SHARE * len(others)) or longer > (1 - TIMED_OUT) * len(ended):
        return []
    begins, ends = (np.sort(np.array(each, np.int64)) for each in zip(*ended, strict=True))
    woken = 0.0
    for waker, at in wakers.values():
        over = np.sort([burst.end_ns for life in waker.lives for burst in waker.bursts.get(id(life), ())])
        within = sum(int(np.searchsorted(over, end) - np.searchsorted(over, begin)) for begin, end, _ in out)
        woken += _per_burst(waker, at, begins, ends) * within
    return out if woken < len(out) else []


def _any_order(intervals: Sequence[tuple[int, int]]) -> bool:
    """Whether the sleeps that end are the longest ones under way hardly more often than by chance."""
    begins, ends = np.array(sorted(intervals, key=lambda each: each[1]), np.int64).T
    of_later = np.append(np.minimum.accumulate(begins[::-1])[::-1][1:], ends[-1])
    under_way = np.searchsorted(np.sort(begins), ends) - np.arange(len(ends))
    several = under_way > 1
    if several.sum() < LEAST:
        return False
    return bool((begins <= of_later)[several].mean() < (1 + (1 / under_way[several]).mean()) / 2)


def _note_after(
    waker: Member, tids: Collection[int], woken: Collection[int], after: dict[tuple[int, int], tuple[int, int]]
) -> None:
    """What is left of its bursts after they have woken any of ``woken``; of several entries, after the last one."""
    for life in waker.lives:
        if life.tid not in tids:
            continue
        numbers = iter(life.after_wakes)
        for end_ns, tid, on_ns, stints in zip(*[numbers] * 4, strict=True):
            if tid in woken:
                burst = id(life), end_ns
                after[burst] = min(after.get(burst, (on_ns, stints)), (on_ns, stints))


def _busiest(members: Iterable[Member]) -> float:
    """The largest share of a CPU's time that is theirs."""
    lives = [life for member in members for life in member.lives]
    at: Counter[int] = Counter()
    for life in lives:
        at.update(life.at_ns)
    seconds = max((life.last_ns for life in lives), default=0) - min((life.first_ns for life in lives), default=0)
    return max(at.values(), default=0) / max(1, seconds)


def _wakers(
    lives: Iterable[Life], owners: dict[int, list[tuple[int, int, int]]], able: set[int], members: Sequence[Member]
) -> set[int]:
    """The entries that wake these threads, by more than chance.

    A vCPU that kicks a thread again and again runs during all of its sleeps, so comparing with other times within them
    shows nothing.  It is found because all of the wake-ups come while vCPUs run that have the CPU for less than half of
    the time.
    """
    seen: Counter[int] = Counter()
    chance: Counter[int] = Counter()
    last: Counter[int] = Counter()
    last_chance: defaultdict[int, float] = defaultdict(float)
    of_tid = {tid: entries[-1][2] for tid, entries in owners.items()}
    for life in lives:
        for counted, by_tid in ((seen, life.wakers), (chance, life.by_chance), (last, life.last_acts)):
            for tid, times in by_tid.items():
                counted[of_tid.get(tid, -1)] += times
        for tid, share in life.last_by_chance.items():
            last_chance[of_tid.get(tid, -1)] += share
    total = seen.total()
    enough = max(LEAST, SHARE * total)
    of_vcpus = {i for i, times in seen.items() if i in able and members[i].is_vcpu and times >= enough}
    if sum(seen[i] for i in of_vcpus) >= NEARLY * total and _busiest(members[i] for i in of_vcpus) <= HALF:
        return of_vcpus
    return {
        each
        for each, times in seen.items()
        if each in able
        and times >= enough
        and (
            _more_than_chance(times, chance[each], total)
            or (2 * last[each] >= times and last[each] - last_chance[each] > SIGMAS * sqrt(last_chance[each] + 1))
        )
    }


def _more_than_chance(times: int, by_chance: int, total: int) -> bool:
    there, then = ((each + 0.5) / (total + 1) for each in (times, by_chance))
    error = sqrt((there * (1 - there) + then * (1 - then)) / total)
    return there - then > max(SHARE, SIGMAS * error) and times >= RATIO * by_chance


def _per_burst(waker: Member, at: dict[int, list[int]], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> float:
    """How many threads a burst wakes, of bursts during which one waits: in others a wake-up would do nothing."""
    bursts = 0
    for life in waker.lives:
        own = waker.bursts.get(id(life), [])
        first = np.array([burst.ready_ns for burst in own], np.int64)
        last = np.array([burst.end_ns for burst in own], np.int64)
        times = np.sort(np.array(at.get(life.tid, ()), np.int64))
        woken = np.searchsorted(times, last, "right") - np.searchsorted(times, first, "left")
        wait = np.searchsorted(begins, last, "right") - np.searchsorted(ends, last, "right")
        bursts += int(((woken > 0) | (wait > 0)).sum())
    return sum(map(len, at.values())) / max(1, bursts)
