"""What vCPUs spin for: a lock in their guest, by the PAUSE exits of those that wait for it.

A vCPU that spins for the whole of its PLE window exits; the next window is twice as long, until the vCPU gets its CPU
anew.  So the exits show how often a vCPU waits for longer than a window, and how much longer: the first depends most on
the share of its time for which the lock is held, the second on how long it is held at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, sqrt
from statistics import median
from typing import TYPE_CHECKING, Final

from sim.trace.fit.spins import Spins

if TYPE_CHECKING:
    from sim.trace.fit.thread_times import Life, VcpuTimes

SHARE: Final = 0.01
"""The share of PAUSE exits among all of a VM from which on its vCPUs spin for each other."""
ENOUGH: Final = 100
"""The fewest PAUSE exits of a VM that show a lock."""
GOES_ON: Final = 1.1
"""A vCPU that exits within this many windows after the VM entry has spun since then."""
MOST_GROWN: Final = 20
"""How often a window grows: KVM's limit is 2^32 - 1 cycles, or 65535 PAUSEs."""
FEW: Final = 10
"""The fewest exits that tell how long KVM takes for one."""
LONGEST_NS: Final = 50_000.0
"""The most that a lock is held for at once on average (assumed).  Rows of exits are also long where the holder has been
preempted, above all with the long windows of AMD."""
SHORTEST: Final = 0.3
"""Windows that a lock is held for at first, or longer."""
MOST_LOADED: Final = 0.8
"""Of a vCPU's time, for which it may hold the lock at first."""
STEP: Final = 4.0
"""By how much the hold, and the share of the time, is asked to change in a round."""
MOST: Final = 16.0
"""By how much in all."""


@dataclass(frozen=True, slots=True)
class Waited:
    """PAUSE exits of a VM's vCPUs: those that are the ``first`` of a wait, and those ``again`` in it.

    ``spinning`` is the guest time in ns that they show, at least, and ``window`` the shortest such wait.
    """

    first: int
    again: int
    spinning: float
    window: int


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock of the guest: guest time in ns between two critical sections of a vCPU, and of one.

    ``first`` and ``again`` are the exits per second that it has to cause, by ``waits`` in the trace, and ``act_ns`` is
    the guest time, with that in which it spins, of the vCPUs for each of their acts; 0: they have none.  ``handler`` is
    what KVM takes for such an exit, in ns; 0: not known.
    """

    every: float
    hold: float
    waits: int
    first: float
    again: float
    act_ns: float
    handler: float


def waited(spins: Sequence[Spins], begin_ns: int, end_ns: int) -> Waited:
    """What the vCPUs of a VM show within this time."""
    unit = min((ns for each in spins for ns, grown in zip(each.spans, each.grown, strict=True) if not grown), default=0)
    first = again = 0
    spinning = 0.0
    for each in spins:
        for at, span, grown in zip(each.at_ns, each.spans, each.grown, strict=True):
            window = unit * 2.0 ** min(grown, MOST_GROWN)
            if begin_ns <= at <= end_ns:
                goes_on = span <= GOES_ON * window
                first, again = first + (not goes_on), again + goes_on
                spinning += min(span, window)
    return Waited(first, again, spinning, unit)


def spinning(lives: Iterable[Life]) -> list[list[Life]]:
    """The VMs whose vCPUs spin for each other, with their vCPUs."""
    found = []
    for vm in _vms(lives):
        own = [life.vcpu for life in vm if life.vcpu is not None]
        pauses = sum(len(each.spins.spans) for each in own)
        if len(vm) > 1 and pauses >= max(ENOUGH, SHARE * sum(each.exits for each in own)):
            found.append(vm)
    return found


def _vms(lives: Iterable[Life]) -> list[list[Life]]:
    """The vCPUs of each VM, by their numbers in kvm_entry: a VMM starts its vCPU threads in order."""
    found: list[list[Life]] = []
    last = -1
    for life in sorted((each for each in lives if each.vcpu is not None), key=lambda each: each.tid):
        assert life.vcpu is not None
        if life.vcpu.number <= last or not found:
            found.append([])
        found[-1].append(life)
        last = life.vcpu.number
    return found


def lock_of(vcpus: Sequence[VcpuTimes], seconds: float, exit_ns: float, handler_ns: float) -> tuple[Lock, float]:
    """The lock of a VM, to begin with, and the share of the vCPUs' guest time in which they do not spin.

    Times count as exponential.  Each first exit is followed by half as many again as the hold has windows; and they
    come as often as a vCPU finds the lock held by another one that runs, and for longer than a window.  ``exit_ns`` and
    ``handler_ns`` are what the simulated host itself charges for a VM exit, outside of its handler and in it.
    """
    spins = [each.spins for each in vcpus]
    seen = waited(spins, 0, 1 << 62)
    clock, acts = sum(each.clock for each in vcpus), sum(each.acts for each in spins)
    own = max(1.0, clock - seen.spinning)
    window = max(1.0, seen.window - exit_ns)
    hold = min(LONGEST_NS, window * max(SHORTEST, 2 * seen.again / max(1, seen.first)))
    others = max(1.0, clock * 1e-9 / seconds - 1)
    load = min(MOST_LOADED, sqrt(max(1, seen.first) / own * hold * exp(window / hold) / others))
    handled = [ns for each in spins for ns in each.handled]
    handler = max(0.0, median(handled) - handler_ns) if len(handled) >= FEW else 0.0
    act_ns = clock / acts if acts else 0.0
    return Lock(hold / load, hold, seen.first, seen.first / seconds, seen.again / seconds, act_ns, handler), own / max(
        1, clock
    )


def tuned(lock: Lock, begun: Lock, first: float, again: float, gain: float) -> Lock:
    """After a simulation that has so many first exits, and exits again, per second; ``begun`` is the lock as fitted.

    How they follow from the lock was measured, with holds of one to six windows: of the share of the time for which it
    is held, twice as much makes 2.3 times as many exits; twice the hold at the same share hardly makes more, but 1.7
    times as many again for each first one.
    """
    more_first, more_again = (lock.first + 1) / (first + 1), (lock.again + 1) / (again + 1)
    more = (lock.first + lock.again + 1) / (first + again + 1)
    hold = lock.hold * _bounded((more_again / more_first) ** 1.2, STEP) ** gain
    hold = min(LONGEST_NS, begun.hold * _bounded(hold / begun.hold, MOST))
    load = lock.hold / lock.every * _bounded(more**0.87, STEP) ** gain
    load = begun.hold / begun.every * _bounded(load * begun.every / begun.hold, MOST)
    return replace(lock, hold=hold, every=hold / load)


def _bounded(factor: float, most: float) -> float:
    return max(1 / most, min(most, factor))
