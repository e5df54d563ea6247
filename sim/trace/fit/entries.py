"""An entry of the scenario while it is fitted: threads of the trace that are alike, and the samples of what they do."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sim.trace.fit.families import LONG_NS
from sim.trace.fit.locks import Lock
from sim.trace.fit.order import Order

Kind = Literal["compute", "kthread", "pipe", "fork", "vcpu"]
Key = tuple[Kind, str, int, tuple[int, ...]]
"""Kind, name, nice, and the CPUs to which the thread is pinned (none: any)."""

FULL_NS: Final = 500_000_000
"""In a shorter trace most long bursts are cut off by its ends: it does not show when they come."""
ENOUGH: Final = 10
"""The fewest samples that make a distribution; of fewer only the mean is written."""


@dataclass(frozen=True, slots=True)
class Times:
    """Times in ns: all samples, or only their mean if there are too few."""

    mean: float
    samples: Sequence[float] = ()

    def with_samples(self, ns: NDArray[np.float64]) -> "Times":
        """The same mean with these samples, scaled to it, if there are enough of them."""
        total = float(ns.sum())
        return Times(self.mean, (ns * (self.mean * len(ns) / total)).tolist() if len(ns) >= ENOUGH and total else ())

    def times(self, factor: float) -> "Times":
        """All of them so many times as long."""
        return Times(self.mean * factor, [ns * factor for ns in self.samples])


@dataclass(frozen=True, slots=True)
class ExitEntry:
    """A kind of VM exit: the guest time between two, and the time of its handler, or of the VMM.

    ``name`` is that of the entry in the scenario, ``counted`` how many exits of this kind there were; ``ipi``: they
    interrupt another vCPU.
    """

    name: str
    reason: str
    counted: int
    every: Times
    time: Times
    userspace: bool = False
    ipi: bool = False


@dataclass(frozen=True, slots=True)
class Charges:
    """What the simulated host itself charges, in ns: for each stint, each wake-up of another thread, each side of
    KVM_RUN.

    ``away``: for a vCPU that leaves its CPU inside KVM_RUN and comes back, without the exit and the entry, which are
    in ``guest``; ``signal``: on the VMM's side, with a signal there.  ``exit``: for a VM exit, before kvm_exit and
    after kvm_entry; ``handler``: between the two.
    """

    stint: float = 0.0
    wakeup: float = 0.0
    guest: float = 0.0
    away: float = 0.0
    vmm: float = 0.0
    signal: float = 0.0
    exit: float = 0.0
    handler: float = 0.0


@dataclass(slots=True)
class Group:
    """An entry of the scenario; samples in ns.

    ``rows`` threads are simulated for ``threads`` in the trace, where they went to sleep ``cycles`` times.  ``sleep``
    is empty if the group never sleeps.  For vCPUs ``compute`` is the guest time between returns to user space,
    ``demand``, ``halt`` and ``vmm`` are as in the scenario, and ``signalled`` are the times outside KVM_RUN after a
    signal that ended a halt.  ``entry`` is the group's name in the scenario.  ``weight`` None: that of its nice value;
    ``at_ticks``: its sleeps end at ticks.  ``waits`` has the share of its sleeps or halts that other threads end, which
    are not in ``sleep`` and ``halt``, and the longest of them in ns; ``any_order``: any of those that wait is woken.
    ``wakes`` says whom it wakes, with means per burst, ``after`` how long these bursts go on then, which is not in
    ``compute``, and ``exit_wakes`` whom a vCPU's exits wake, by their name, per exit.  ``halts`` is the number of
    halts, ``exits`` are those that KVM handles itself, and ``lock`` is that of the guest, if its vCPUs spin for one.
    ``amx``: these guests have AMX.  ``order`` None: bursts and sleeps are independent.  ``family`` is its control
    group, if the host has any, and ``family_weight`` that group's weight.
    """

    key: Key
    threads: int
    rows: int
    saves: Counter[int]
    on_ns: int = 0
    wanted_ns: int = 0
    weight: int | None = None
    at_ticks: bool = False
    compute: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    sleep: list[float] = field(default_factory=list)
    syscall: list[float] = field(default_factory=list)
    vmm: list[float] = field(default_factory=list)
    demand: list[float] = field(default_factory=list)
    halt: list[float] = field(default_factory=list)
    signalled: list[float] = field(default_factory=list)
    exits: list[ExitEntry] = field(default_factory=list)
    lock: Lock | None = None
    vmm_saves: Counter[int] = field(default_factory=Counter)
    amx: bool = False
    cycles: int = 0
    halts: int = 0
    order: Order | None = None
    family: str = ""
    family_weight: int = 0
    waits: tuple[float, float] | None = None
    any_order: bool = False
    wakes: dict[Key, float] = field(default_factory=dict)
    exit_wakes: dict[str, dict[Key, float]] = field(default_factory=dict)
    entry: str = ""
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def works(self, factor: float) -> "Group":
        """With so many times as much guest time between halts, exits and returns to user space."""
        return replace(
            self,
            demand=[ns * factor for ns in self.demand],
            compute=[ns * factor for ns in self.compute],
            exits=[replace(each, every=each.every.times(factor)) for each in self.exits],
        )

    @property
    def is_long(self) -> bool:
        """Whether a burst takes several slices."""
        return self.on_ns >= LONG_NS * max(1, self.cycles)

    @property
    def share(self) -> float:
        """The share of its runnable time for which it was on a CPU."""
        return self.on_ns / max(1, self.wanted_ns)


def key_of(name: str) -> str:
    """The name, in characters that a key of the scenario may have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name.replace("+", "p")).strip("-_") or "unnamed"
