"""VM exits that KVM handles itself, of vCPUs that are alike: the guest time between two, and how long one takes.

Exits by external interrupts are the host's own work: its ticks, and the interrupts that wake a thread or preempt a
vCPU.  The simulated host makes those itself; only what there is beyond them is kept.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.trace.fit.entries import ENOUGH, Charges, ExitEntry, Key, Times
from sim.trace.fit.guests import INTERRUPT, reason_of, spaced, taken
from sim.trace.fit.thread_times import KICK, USERSPACE, Handled, VcpuTimes

LEAST: Final = 0.05
"""A kind of exit with this share of a vCPU's wake-ups of others, or more, is one that wakes."""
PAUSE: Final = "pause"
BEYOND: Final = 0.1
"""External interrupts are an entry if at least this share of them are not the host's own."""


class Waited(NamedTuple):
    """The threads of an entry that exits wake, and when their sleeps that somebody ended began and ended, in order."""

    tids: Collection[int]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]

    def at(self, ns: NDArray[np.int64]) -> int:
        """At how many of these times one of the threads waits."""
        begun, ended = np.searchsorted(self.begins, ns, "right"), np.searchsorted(self.ends, ns, "left")
        return int((begun > ended).sum())


def handled_exits(
    vcpus: Sequence[VcpuTimes], charges: Charges, interrupts: float, woken: Mapping[Key, Waited],
    *, spin: bool = False, yields: bool = False,
) -> list[ExitEntry]:  # fmt: skip
    """The kinds of exits, by their names; a host CPU has so many ``interrupts`` a second that the twin makes
    itself: ticks, and those that use the FPU.

    If they ``spin`` for a lock that the twin has, it makes PAUSE exits itself; it ``yields`` if any VM's do, and makes
    interrupts by yields and migrations itself.
    Without kvm_exit there are only those that wake threads: ``woken``, by entry.
    """
    found: dict[str, list[list[Handled]]] = defaultdict(list)
    for vcpu in vcpus:
        of_vcpu: dict[str, list[Handled]] = defaultdict(list)
        for name, handled in vcpu.handled.items():
            of_vcpu[reason_of(name)].append(handled)
        if at := sorted(ns for each in woken.values() for tid in each.tids for ns in vcpu.kicks.get(tid, ())):
            n = len(at)
            of_vcpu[KICK].append(Handled(array("q", at), array("q", range(n)), array("q", [0]) * n))
        for reason, several in of_vcpu.items():
            if not (spin and reason == PAUSE):
                found[reason].append(several)
    guest_ns = max(1.0, sum(vcpu.clock - vcpu.exits * charges.exit for vcpu in vcpus))
    entries = []
    for reason, parts in sorted(found.items()):
        count = sum(len(each.number) for several in parts for each in several)
        kept = float(count)
        if reason == INTERRUPT:
            kept -= interrupts * guest_ns * 1e-9 + sum(vcpu.of_host for vcpu in vcpus)
            kept -= sum(vcpu.spins.by_host for vcpu in vcpus) if yields else 0
            if kept < BEYOND * count:
                continue
        gaps = [ns for several in parts for ns in spaced(several, guest_ns, charges.exit).samples]
        every = Times(guest_ns / kept).with_samples(np.array(gaps))
        time = taken([each for several in parts for each in several], charges.handler)
        # A doorbell is port I/O or an EPT misconfiguration: KVM wakes whoever waits for its eventfd.
        entries.append(ExitEntry(reason, "io" if reason == KICK else reason, count, every, time))
    return entries


def exit_wakes(
    vcpus: Sequence[VcpuTimes], exits: Sequence[ExitEntry], woken: Mapping[Key, Waited]
) -> dict[str, dict[Key, float]]:
    """How many threads of the entries in ``woken`` an exit wakes, by its name: of the exits at which one of them waits,
    since at others a wake-up leaves no event.

    ``exits`` are those that KVM handles.
    """
    at: dict[str, list[array[int]]] = {each.name: [] for each in exits}
    kicks = sum(each.counted for each in exits if each.name == KICK)
    if sum(len(vcpu.guest) for vcpu in vcpus) >= ENOUGH:
        at[USERSPACE] = [vcpu.returns_ns for vcpu in vcpus]
    for vcpu in vcpus:
        for reason, handled in vcpu.handled.items():
            if (name := reason_of(reason)) in at:
                at[name].append(handled.at_ns)
    found: dict[str, dict[Key, float]] = defaultdict(dict)
    for key, waited in woken.items():
        by: Counter[str] = Counter()
        for vcpu in vcpus:
            for (reason, tid), times in vcpu.woke.items():
                if tid in waited.tids:
                    by[reason if reason in (KICK, USERSPACE) else reason_of(reason)] += times
        for name, times in by.items():
            if name in at and times >= LEAST * by.total():
                then = sum(waited.at(np.array(each, np.int64)) for each in at[name])
                found[name][key] = times / (then or kicks or times)
    return dict(found)
