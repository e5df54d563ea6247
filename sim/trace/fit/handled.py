"""VM exits that KVM handles itself, of vCPUs that are alike: the guest time between two, and how long one takes.

Exits by external interrupts are the host's own work: its ticks, and the interrupts by which a vCPU is preempted.  Only
what there is beyond that is kept.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from sim.trace.fit.entries import Charges, ExitEntry, Times
from sim.trace.fit.guests import INTERRUPT, reason_of, spaced, taken
from sim.trace.fit.thread_times import Handled, VcpuTimes

BEYOND: Final = 0.1
"""The share of external interrupts that the host does not make itself, from which on they are an entry."""


def handled_exits(vcpus: Sequence[VcpuTimes], charges: Charges, hz: int) -> list[ExitEntry]:
    """The kinds of exits, by their names; none if kvm_exit is not recorded.  A host CPU has ``hz`` ticks a second."""
    found: dict[str, list[list[Handled]]] = defaultdict(list)
    for vcpu in vcpus:
        of_vcpu: dict[str, list[Handled]] = defaultdict(list)
        for name, handled in vcpu.handled.items():
            of_vcpu[reason_of(name)].append(handled)
        for reason, several in of_vcpu.items():
            found[reason].append(several)
    guest_ns = max(1.0, sum(vcpu.clock - vcpu.exits * charges.exit for vcpu in vcpus))
    entries = []
    for reason, parts in sorted(found.items()):
        count = sum(len(each.number) for several in parts for each in several)
        kept = float(count)
        if reason == INTERRUPT:
            kept -= hz * guest_ns * 1e-9 + sum(vcpu.preempted for vcpu in vcpus)
            if kept < BEYOND * count:
                continue
        # The mean cancels: the samples are scaled to that of all.
        gaps = [ns for several in parts for ns in spaced(several, guest_ns, charges.exit).samples]
        every = Times(guest_ns / kept).with_samples(np.array(gaps))
        time = taken([each for several in parts for each in several], charges.handler)
        entries.append(ExitEntry(reason, reason, count, every, time))
    return entries
