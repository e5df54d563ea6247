"""An entry of the scenario while it is fitted: threads of the trace that are alike, and the samples of what they do."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sim.trace.fit.families import LONG_NS
from sim.trace.fit.order import Order

Kind = Literal["compute", "kthread", "pipe", "fork", "vcpu"]
Key = tuple[Kind, str, int, tuple[int, ...]]
"""Kind, name, nice, and the CPUs to which it is pinned (none: any)."""

ENOUGH: Final = 10
"""Samples from which on an entry has a distribution of its own."""


@dataclass(frozen=True, slots=True)
class Times:
    """Times in ns: all samples, or where there are too few or none, their mean alone."""

    mean: float
    samples: Sequence[float] = ()

    def with_samples(self, ns: NDArray[np.float64]) -> "Times":
        """With these, scaled to the mean, if there are enough."""
        total = float(ns.sum())
        return Times(self.mean, (ns * (self.mean * len(ns) / total)).tolist() if len(ns) >= ENOUGH and total else ())


@dataclass(frozen=True, slots=True)
class ExitEntry:
    """A kind of VM exit: the guest time between two, and the time of its handler, or of the VMM.

    ``name`` is that of the entry, ``counted`` how many there were of which ``known``.
    """

    name: str
    reason: str
    counted: int
    every: Times
    time: Times
    userspace: bool = False


@dataclass(frozen=True, slots=True)
class Charges:
    """What the simulated host itself charges, in ns: for each stint, each wake-up of another thread, each side of
    KVM_RUN.

    ``away`` is that of a vCPU that leaves its CPU inside KVM_RUN and comes back, beside the exit and the entry, which
    are ``guest``'s; ``signal`` is that of the VMM's side and of a signal there.  ``exit`` is that of a VM exit before
    kvm_exit and after kvm_entry, ``handler`` between the two.
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
    of a group that never sleeps is empty.  For vCPUs ``compute`` is the guest time between returns to user space, and
    ``demand``, ``halt``, ``vmm`` are theirs, ``signalled`` the times outside KVM_RUN after a signal that ended a halt.
    ``entry`` is its name in the scenario.  ``weight`` None is that of its nice value; ``at_ticks``: its sleeps end at
    ticks.  ``waits`` are the share of its sleeps or halts that somebody ends, which are not among ``sleep`` and
    ``halt``, and the longest of them in ns; ``wakes`` says whom it wakes, with means per burst, and
    ``exit_wakes`` whom the vCPU's exits of a name wake, per exit.  ``halts`` is how many
    there were, and ``exits`` those that KVM handles itself.  ``order`` None: bursts and sleeps are independent.
    ``family`` is its control group, if there are such, of so much weight.
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
    sleep: list[float] = field(default_factory=list)
    syscall: list[float] = field(default_factory=list)
    vmm: list[float] = field(default_factory=list)
    demand: list[float] = field(default_factory=list)
    halt: list[float] = field(default_factory=list)
    signalled: list[float] = field(default_factory=list)
    exits: list[ExitEntry] = field(default_factory=list)
    vmm_saves: Counter[int] = field(default_factory=Counter)
    cycles: int = 0
    halts: int = 0
    order: Order | None = None
    family: str = ""
    family_weight: int = 0
    waits: tuple[float, float] | None = None
    wakes: dict[Key, float] = field(default_factory=dict)
    exit_wakes: dict[str, dict[Key, float]] = field(default_factory=dict)
    entry: str = ""
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_long(self) -> bool:
        """Whether a burst takes several slices."""
        return self.on_ns >= LONG_NS * max(1, self.cycles)

    @property
    def share(self) -> float:
        """How much of its runnable time it was on a CPU."""
        return self.on_ns / max(1, self.wanted_ns)


def key_of(name: str) -> str:
    """The name in letters that a key of the scenario takes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name.replace("+", "p")).strip("-_") or "unnamed"
