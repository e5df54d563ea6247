"""Whether a recorded host schedules by control groups, and which threads belong to one.

A trace does not name groups.  If threads that always have work get other shares of a CPU than their nice values say,
the kernel schedules by groups; and threads that were forked by one another are probably in one.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from sim.trace.fit.thread_times import Life

Entry = TypeVar("Entry")

LONG_NS: Final = 5_000_000
"""A burst of several slices (of 1.4 ms with two CPUs, 2.8 ms with eight)."""
LEAST_ON: Final = 0.05
"""The share of a CPU that a thread must have had for it to count."""
MAINLY: Final = 0.8
"""A thread with this share of its stints on one CPU, or more, competes with the others there."""
CONTENDED: Final = 0.8
"""A thread that was on the CPU for less than this share of its runnable time had to compete."""
NICE_STEP: Final = 1.25
"""The factor between the weights of neighbouring nice values (sched_prio_to_weight[], kernel/sched/core.c, v6.18)."""
SHORTEST_NS: Final = 1_000_000_000
"""In a shorter recording too few bursts of several slices make up the shares."""
UNLIKE: Final = 1.5
"""Without groups, CPU time per weight differs by less than this factor between threads of a CPU."""

_NUMBERED: Final = re.compile(r"[-_:/.]?\d+$")
"""What the numbered threads of a series differ in."""
_ANONYMOUS: Final = re.compile(r"task-\d+$")


def series(name: str) -> str:
    """The name that the numbered threads of a series have in common; one without a name of its own has no series."""
    return name if _ANONYMOUS.match(name) else _NUMBERED.sub("", name)


def by_groups(lives: Iterable[Life], seconds_ns: int) -> bool:
    """Whether the trace is long enough to show that the host schedules by control groups, and shows it."""
    return seconds_ns >= SHORTEST_NS and not by_nice(lives, seconds_ns)


def by_nice(lives: Iterable[Life], seconds_ns: int) -> bool:
    """Whether busy threads of one CPU got the shares of it that their nice values say."""
    per_weight: dict[int, list[float]] = defaultdict(list)
    for life in lives:
        on = sum(burst.on_ns for burst in life.bursts)
        wanted = sum(burst.end_ns - burst.ready_ns for burst in life.bursts)
        if on < max(LEAST_ON * seconds_ns, LONG_NS * len(life.bursts)) or on > CONTENDED * wanted:
            continue
        cpu, stints = life.cpus.most_common(1)[0]
        if stints >= MAINLY * life.cpus.total():
            per_weight[cpu].append(on / wanted * NICE_STEP**life.nice)
    return all(max(each) <= UNLIKE * min(each) for each in per_weight.values())


def is_long(life: Life) -> bool:
    """Whether it is a user thread whose bursts take several slices."""
    return life.user and life.at_ns.total() >= LONG_NS * len(life.bursts)


def families(lives: Iterable[Life], pairs: Iterable[tuple[Life, Life]] = ()) -> list[list[Life]]:
    """Threads that forked one another in the trace, with the thread that forked the first; families of two or more.

    Of each of the ``pairs`` both are in one family.

    Who forked a thread that was there before the trace is not known.  If only one family has forked threads of its
    name, it belongs there, with all that it has forked itself: it is another job of the same make.  If none has, long
    ones of one series and nice value belong together: they are jobs of one make that forked nothing in the trace.
    """
    lives = list(lives)
    parents = {life.tid: life.parent for life in lives if life.parent >= 0}
    trees: dict[int, list[Life]] = defaultdict(list)
    for life in lives:
        tid = life.tid
        seen = {tid}
        while (parent := parents.get(tid, -1)) >= 0 and parent not in seen:
            tid = parent
            seen.add(tid)
        trees[tid].append(life)
    forked: dict[tuple[str, int], set[int]] = defaultdict(set)
    for top, tree in trees.items():
        for life in tree:
            if life.parent >= 0:
                forked[life.name, life.nice].add(top)
    found: dict[int, list[Life]] = defaultdict(list)
    alike: dict[tuple[str, int], int] = {}
    for top, tree in trees.items():
        first = min(tree, key=lambda life: life.first_ns)
        others = forked[first.name, first.nice] - {top}
        into = top
        if first.tid == top and len(others) == 1:
            (into,) = others
        elif not others and {life.tid for life in tree} == {top} and any(map(is_long, tree)):
            into = alike.setdefault((series(first.name), first.nice), top)
        found[into] += tree
    for one, other in pairs:
        here, there = (next(key for key, family in found.items() if life in family) for life in (one, other))
        if here != there:
            found[here] += found.pop(there)
    return [each for each in found.values() if len(each) > 1]


def family_names(
    lives: Sequence[Life], entries: Mapping[Entry, Sequence[Life]], pairs: Iterable[tuple[Life, Life]] = ()
) -> dict[Entry, str]:
    """By entry, the family to which all its threads belong, named after the family's first thread."""
    of_life: dict[int, str] = {}
    used: dict[str, int] = defaultdict(int)
    for family in families(lives, pairs):
        name = min(family, key=lambda life: life.first_ns).name
        used[name] += 1
        for life in family:
            of_life[id(life)] = name if used[name] == 1 else f"{name}-{used[name]}"
    names = {}
    for entry, members in entries.items():
        own = {of_life.get(id(life), "") for life in members}
        if len(own) == 1 and "" not in own:
            (names[entry],) = own
    return names
