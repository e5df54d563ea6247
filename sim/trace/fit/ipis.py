"""vCPUs that wake each other by IPIs: the exits that send them, the timers that end other halts, a request's work.

An IPI to a vCPU that runs is not in a trace, but it is work, too, that the vCPU does before it halts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from typing import Final

from sim.trace.fit.censored import whole_times
from sim.trace.fit.entries import ENOUGH, Group
from sim.trace.fit.guests import INTERRUPT, reason_of
from sim.trace.fit.handled import LEAST
from sim.trace.fit.spins import INTERRUPTS
from sim.trace.fit.thread_times import KICK, USERSPACE, Life

SHARE: Final = 0.1
"""vCPUs send each other IPIs if at least this share of their halts end in exits of others that are the guest's own."""
TIMER: Final = "preemption-timer"
ICR: Final = "wrmsr-icr"
BY_MSR: Final = "msr-write"


def set_ipis(group: Group, lives: Sequence[Life]) -> None:
    """If vCPUs of the entry wake each other: their exits that do so send IPIs, and halts end by timers otherwise.

    The simulated guest's timers interrupt by themselves whatever runs when they expire: exits by the preemption timer
    and external interrupts are left out.
    """
    vcpus = {life.tid: life.vcpu for life in lives if life.vcpu is not None}
    sends = Counter[str]()
    for vcpu in vcpus.values():
        for (reason, tid), times in vcpu.woke.items():
            if tid in vcpus and reason not in (KICK, USERSPACE) and reason.lower() not in INTERRUPTS:
                sends[reason_of(reason)] += times
    woken = sends.total()
    if group.waits is not None or not group.demand or woken < max(ENOUGH, SHARE * group.halts):
        return
    exits = [each for each in group.exits if each.name not in (TIMER, INTERRUPT)]
    group.exits = [
        replace(each, ipi=True, reason=ICR if each.reason == BY_MSR else each.reason)
        if sends[each.name] >= LEAST * woken
        else each
        for each in exits
    ]
    group.halt = whole_times(
        [float(ns) for vcpu in vcpus.values() for ns in vcpu.halt],
        [begin in vcpu.by_ipi for vcpu in vcpus.values() for begin in vcpu.halt_from],
    )
    sent = sum(each.counted for each in group.exits if each.ipi)
    share = _of_a_request(sent - woken, len(group.demand))
    group.demand = [each * share for each in group.demand]


def _of_a_request(others: int, halts: int) -> float:
    """The share of the guest's work before a halt that is one request, if so many ``others`` come while it works.

    They come by chance, at a rate l.  After work of the mean d, exponential, one is pending with the probability
    ld / (1 + ld), as several that are pending are one.  So the mean before a halt is D = d (1 + ld).
    """
    more = max(0, others) / halts  # lD
    return (sqrt(1 + 4 * more) - 1) / (2 * more) if more else 1.0
