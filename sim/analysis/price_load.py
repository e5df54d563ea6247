"""What happens on one CPU, in events per second, and which sequence of the kernel model each event is.

Four rates say it: VM exits that KVM handles while the vCPU keeps its CPU, pairs of vcpu_load() and vcpu_put(), those
among them that go to user space, and context switches.  A pair that goes to user space is a KVM_RUN round trip; one
that does not is a vCPU that is switched out in KVM and in again, because it is preempted or halts.  Each pair has an
exit and an entry of its own.  A switch that is no vCPU's is one between two user tasks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal, NamedTuple, get_args

from sim.errors import InputError, unknown
from sim.kernel.versions import Exit
from sim.trace.reading.perf_kvm_stat import KvmStat

Between = Literal["user", "kthread", "idle", "vcpu"]
"""Who runs on the CPU while a vCPU is switched out: a user task that uses the registers, a kernel thread, nobody (the
vCPU has halted), or another vCPU."""

ALMOST: Final = 1e-9
"""By how much of the largest of them a rate may be over another that is computed, for the rounding of floats."""


def count(rate: float) -> str:
    """A number of events per second without an exponent: "20000", "0.25"."""
    return f"{rate:.0f}" if abs(rate) >= 100_000 else f"{rate:g}"


class Event(NamedTuple):
    """One kind of event: the flow of :mod:`sim.kernel.flows` that is it, or is ``times`` of it.

    ``reason``: which exit a fastpath-exit is.
    """

    name: str
    flow: str
    times: int = 1
    reason: Exit = "wrmsr-tsc-deadline"


EXIT: Final = Event("exit", "in-kernel-exit")
ROUND_TRIP: Final = Event("kvm_run", "userspace-exit")
TASK_SWITCH: Final = Event("switch", "ping-pong", times=2)
SWITCHED_OUT: Final[Mapping[Between, Event]] = {
    "user": Event("load_put:user", "preempt"),
    "kthread": Event("load_put:kthread", "kernel-preempt"),
    "idle": Event("load_put:idle", "halt"),
    "vcpu": Event("load_put:vcpu", "vcpu-switch", times=2),
}
SWITCHES_PER_PAIR: Final[Mapping[Between, int]] = {"user": 2, "kthread": 2, "idle": 2, "vcpu": 1}
"""Context switches of a vCPU that is switched out and in; from one vCPU to another, each is both."""

FASTPATH: Final[tuple[Exit, ...]] = get_args(Exit)


def fastpath_exit(reason: Exit) -> Event:
    """An exit that some kernels handle in the fastpath; on others it is handled like any other."""
    return Event(f"exit:{reason}", "fastpath-exit", reason=reason)


@dataclass(frozen=True)
class Load:
    """Events per second on one CPU; what is None follows from the others.

    ``exits`` are VM exits that KVM handles while the vCPU keeps its CPU, ``fastpath`` such exits by reason, not among
    ``exits``.  ``load_put`` are all pairs of vcpu_load() and vcpu_put(), ``kvm_run`` those among them that go to user
    space; None: there are no others.  ``switches`` are all context switches of the CPU; None: those of the pairs.
    ``between``: who runs while a vCPU is switched out, as shares that sum to 1; None: user tasks, or other vCPUs as far
    as there are too few switches for that.

    Raises :class:`~sim.errors.InputError` for what is no rate and for rates that cannot be together.
    """

    exits: float = 0.0
    load_put: float | None = None
    kvm_run: float = 0.0
    switches: float | None = None
    fastpath: Mapping[Exit, float] = field(default_factory=dict)
    between: Mapping[Between, float] | None = None

    def __post_init__(self) -> None:
        named = {"exits": self.exits, "load-put": self.load_put, "kvm-run": self.kvm_run, "switches": self.switches}
        for name, rate in (*named.items(), *((f"exits {reason}", rate) for reason, rate in self.fastpath.items())):
            if rate is not None and not 0 <= rate < math.inf:
                raise InputError(f"{name} {count(rate)}/s (allowed: a rate of 0/s or more)")
        for reason in self.fastpath:
            if reason not in FASTPATH:
                raise unknown("fastpath exit", reason, FASTPATH)
        if self.kvm_run > self.pairs * (1 + ALMOST):
            raise InputError(
                f"kvm-run {count(self.kvm_run)}/s and load-put {count(self.pairs)}/s: each KVM_RUN is one of the "
                f"load/put pairs (allowed: kvm-run of {count(self.pairs)}/s at most)"
            )
        self._check_switches()

    def _check_switches(self) -> None:
        if self.between is not None:
            for who, share in self.between.items():
                if who not in SWITCHED_OUT:
                    raise unknown("thread between", who, SWITCHED_OUT)
                if not 0 <= share <= 1:
                    raise InputError(f"between {who} = {share:g} (allowed: shares from 0 to 1)")
            if abs(sum(self.between.values()) - 1) > 1e-6:
                raise InputError(f"between: the shares sum to {sum(self.between.values()):g} (allowed: 1)")
        if self.switches is None:
            return
        out = (
            f"switches {count(self.switches)}/s, and {count(self.switched_out)}/s load/put pairs that do not go to "
            "user space"
        )
        allowed = self.switches + ALMOST * self.pairs
        if self.switched_out > allowed:
            raise InputError(
                f"{out}: each of them takes a context switch, or two if no other vCPU takes its place (allowed: "
                f"{count(self.switched_out)}/s switches or more)"
            )
        if self._of_pairs > allowed:
            raise InputError(
                f"{out}, which with these shares between take {count(self._of_pairs)}/s (allowed: that many switches "
                "or more, or a larger share of vcpu)"
            )

    @property
    def pairs(self) -> float:
        """All load/put pairs."""
        return self.kvm_run if self.load_put is None else self.load_put

    @property
    def switched_out(self) -> float:
        """Pairs that do not go to user space: vCPUs that are preempted or halt."""
        return max(0.0, self.pairs - self.kvm_run)

    @cached_property
    def shares(self) -> Mapping[Between, float]:
        """Who runs while a vCPU is switched out: shares that sum to 1."""
        if self.between is not None:
            return self.between
        if self.switches is None or not self.switched_out:
            return {"user": 1.0}
        vcpu = min(1.0, max(0.0, 2 - self.switches / self.switched_out))
        return {"user": 1 - vcpu, "vcpu": vcpu} if vcpu > ALMOST else {"user": 1.0}

    @property
    def _of_pairs(self) -> float:
        return self.switched_out * sum(SWITCHES_PER_PAIR[who] * share for who, share in self.shares.items())

    @property
    def all_switches(self) -> float:
        """All context switches of the CPU."""
        return self._of_pairs if self.switches is None else self.switches

    @property
    def task_switches(self) -> float:
        """Context switches in which no vCPU takes part."""
        return max(0.0, self.all_switches - self._of_pairs)

    @property
    def entries(self) -> float:
        """VM entries: as many as VM exits."""
        return self.exits + sum(self.fastpath.values()) + self.pairs

    def pair_events(self) -> dict[Event, float]:
        """The events that are load/put pairs, per second."""
        out = {SWITCHED_OUT[who]: share * self.switched_out for who, share in self.shares.items()}
        return _some({ROUND_TRIP: self.kvm_run, **out})

    def events(self) -> dict[Event, float]:
        """Every event that there is, per second."""
        exits = {EXIT: self.exits, **{fastpath_exit(reason): rate for reason, rate in self.fastpath.items()}}
        return _some({**exits, **self.pair_events(), TASK_SWITCH: self.task_switches})


def _some(events: Mapping[Event, float]) -> dict[Event, float]:
    return {event: rate for event, rate in events.items() if rate > 0}


COUNTED_AS: Final[Mapping[str, Exit]] = {"PREEMPTION_TIMER": "preemption-timer", "INVD": "invd", "invd": "invd"}
"""Exit reasons of perf that are all of one kind that some kernels handle in the fastpath."""


def with_exits_of(counted: KvmStat, seconds: float, load: Load) -> Load:
    """``load`` with the exits that perf counted in ``seconds`` of one CPU.

    perf counts all exits: those of load/put pairs, and those that ``load`` has in the fastpath, are among them.  Raises
    :class:`~sim.errors.InputError` if they are more than all.
    """
    named = {COUNTED_AS[reason]: n / seconds for reason, n in counted.exits.items() if reason in COUNTED_AS}
    fastpath = named | dict(load.fastpath)
    total, others = counted.total / seconds, load.pairs + sum(fastpath.values())
    if others > total * (1 + ALMOST):
        raise InputError(
            f"perf kvm stat has {count(total)}/s exits in all, and {count(others)}/s are asked for: "
            f"{count(load.pairs)}/s of load/put pairs, {count(sum(fastpath.values()))}/s in the fastpath (allowed: no "
            "more than there are)"
        )
    return replace(load, exits=max(0.0, total - others), fastpath=fastpath)
