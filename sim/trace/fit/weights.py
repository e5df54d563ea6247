"""Load weights of threads and control groups, from how the CPUs were shared out in a trace."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sim.trace.fit.entries import Group, Key, key_of
from sim.trace.fit.families import CONTENDED

NICE_0_LOAD: Final = 1024
LEAST_WEIGHT: Final = 15
"""The weight of nice 19."""
MOST_WEIGHT: Final = 88_761
"""The weight of nice -20."""
ANY: Final = -1
"""Stands for all CPUs where no thread is pinned."""


def set_weights(groups: Sequence[Group], least_ns: float, steady_ns: float, *, by_nice: bool) -> dict[int, float]:
    """Sets the weights with which threads that had to wait would have shared the CPU as they did.

    A thread's own nice value says little on a host that schedules by control groups.  Bursts of several slices show
    how much of the CPU a thread gets.  A shorter burst waits for the slice under way, whatever its weight, and so gets
    the average weight of those on its CPU.  But if nice values differ, and CPUs are shared ``by_nice``, all have those
    weights.  Weights of different CPUs cannot be compared.  Threads with less than ``least_ns`` on a CPU show none,
    unless they were runnable for ``steady_ns``.  Returns the largest share on each CPU, which is that of NICE_0_LOAD.
    """
    always = [group for group in groups if group.wanted_ns >= group.rows * steady_ns]
    starved = [group for group in always if group.on_ns < least_ns]
    contended = [group for group in groups if group.on_ns >= least_ns and group.share < CONTENDED]
    # Whoever has the CPU of a starved one hardly waits for it.
    contended += [group for group in always if group not in contended and any(_meet(group, each) for each in starved)]
    long = [group for group in contended if group.is_long]
    cpus = {cpu for group in contended for cpu in group.key[3]} or {ANY}
    most = {cpu: max(each.share for each in there) for cpu in cpus if (there := _there(long, cpu))}
    if by_nice and len({group.key[2] for group in contended}) > 1:
        return most
    for group in long:
        shares = [most[cpu] for cpu in group.key[3] or most]
        group.weight = max(LEAST_WEIGHT, round(NICE_0_LOAD * group.share * len(shares) / sum(shares)))
    for group in contended:
        if group.weight is None:
            rivals = [each for cpu in group.key[3] for each in _there(long, cpu)] or long
            on = sum(each.on_ns for each in rivals)
            group.weight = round(sum(each.on_ns * (each.weight or 0) for each in rivals) / on) if on else NICE_0_LOAD
    return most


def _meet(one: Group, other: Group) -> bool:
    """Whether two groups have a CPU in common, or both may be on any."""
    return not set(one.key[3]).isdisjoint(other.key[3]) or one.key[3] == other.key[3]


def _there(groups: Iterable[Group], cpu: int) -> list[Group]:
    """The groups that run on this CPU, or on any."""
    return [group for group in groups if cpu in group.key[3] or not group.key[3]]


def set_families(
    groups: Sequence[Group], families: Mapping[Key, str], most: Mapping[int, float], seconds_ns: int
) -> None:
    """Families compete as control groups: by the CPU time that they got, or as one thread if none of them is busy.

    ``most`` is the share of each CPU that a weight of NICE_0_LOAD got.  A family all of whose threads are pinned is a
    group of its own on each CPU: on the recorded host its threads move, so in the long run it gets the same on each.
    One thread may have been there for a part of the time: its share of that counts.
    """
    parts: dict[str, list[Group]] = defaultdict(list)
    for family in sorted(set(families.values())):
        members = [group for group in groups if families.get(group.key) == family]
        cpus = {group.key[3] for group in members}
        for group in members:
            parts[key_of(family) + (f"-cpu{group.key[3][0]}" if len(cpus) > 1 and () not in cpus else "")].append(group)
    for name, members in parts.items():
        weighed = [group.weight for group in members if group.weight is not None]
        if not weighed:
            continue
        weight = max(weighed)
        if most and any(group.is_long for group in members):
            on = {cpu: sum(each.on_ns / len(each.key[3] or most) for each in _there(members, cpu)) for cpu in most}
            got = sum(on[cpu] / (seconds_ns * most[cpu]) for cpu in most)
            if sum(group.rows for group in members) == 1:  # of one thread it is known how long it competed
                got *= seconds_ns / min(seconds_ns, members[0].wanted_ns)
            weight = min(MOST_WEIGHT, max(LEAST_WEIGHT, round(NICE_0_LOAD * got)))
        for group in members:
            group.family, group.family_weight, group.weight = name, weight, None
