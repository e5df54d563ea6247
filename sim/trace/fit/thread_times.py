"""What a trace shows of one thread: bursts on the CPU, sleeps, and for vCPU threads what happens around KVM_RUN."""

from __future__ import annotations

from array import array
from bisect import insort
from collections import Counter
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, overload

from sim.trace.exits import HALTS
from sim.trace.fit.spins import INTERRUPTS, Spins

NICE_0_PRIO: Final = 120
"""MAX_RT_PRIO + NICE_WIDTH / 2, include/linux/sched/prio.h, Linux v6.18."""
LAST_ACT_NS: Final = 100_000
"""A wake-up counts as the last thing that a thread does before it sleeps if it sleeps within this time after it."""


def _integers() -> array[int]:
    return array("q")


KICK: Final = "kick"
"""Stands for the reason of exits that KVM handles by waking somebody, where kvm_exit is not recorded."""
USERSPACE: Final = "userspace"
"""Stands for the reason of exits by which KVM_RUN returns."""


class Burst(NamedTuple):
    """From a wake-up to the next sleep: ``on_ns`` on a CPU, in ``stints``; ``wakes`` of others and ``forks`` in it.

    ``waker`` is the thread that ran where it was woken, idle 0, or -1 if nobody is known to have woken it.
    """

    ready_ns: int
    end_ns: int
    on_ns: int
    stints: int
    wakes: int
    forks: int
    waker: int


_FIELDS: Final = len(Burst._fields)


class Bursts(MutableSequence[Burst]):
    """Bursts in an array of 64-bit integers, which takes a quarter of the memory of tuples."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = _integers()

    def __len__(self) -> int:
        return len(self._values) // _FIELDS

    @overload
    def __getitem__(self, index: int) -> Burst: ...
    @overload
    def __getitem__(self, index: slice) -> MutableSequence[Burst]: ...
    def __getitem__(self, index: int | slice) -> Burst | MutableSequence[Burst]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        begin = range(len(self))[index] * _FIELDS
        return Burst(*self._values[begin : begin + _FIELDS])

    def __iter__(self) -> Iterator[Burst]:
        values = iter(self._values)
        return (Burst(*each) for each in zip(*[values] * _FIELDS, strict=True))

    def __setitem__(self, index: Any, burst: Any) -> None:
        begin = range(len(self))[index] * _FIELDS
        self._values[begin : begin + _FIELDS] = array("q", burst)

    def __delitem__(self, index: Any) -> None:
        begin = range(len(self))[index] * _FIELDS
        del self._values[begin : begin + _FIELDS]

    def insert(self, index: int, burst: Burst) -> None:
        """Inserts a burst before that of this number; appends it if there is none."""
        begin = min(index, len(self)) * _FIELDS
        self._values[begin:begin] = array("q", burst)


@dataclass(slots=True)
class Handled:
    """Exits for one reason that KVM handled: when, in guest time and exits of the vCPU, and for how long on the CPU.

    ``at_ns`` is when in the trace; empty if kvm_exit does not say.
    """

    guest_ns: array[int] = field(default_factory=_integers)
    number: array[int] = field(default_factory=_integers)
    after_ns: array[int] = field(default_factory=_integers)
    at_ns: array[int] = field(default_factory=_integers)


@dataclass(slots=True)
class VcpuTimes:
    """Times in ns of a vCPU thread; ``guest``, ``vmm`` and ``demand`` are on the CPU, ``halt`` is wall time.

    ``guest``: inside KVM_RUN between two returns to user space; ``vmm``: outside; ``demand``: inside between blocks;
    ``halt``: from a block inside KVM_RUN, at ``halt_from``, to its wake-up.  ``blocked_outside`` counts sleeps of the
    VMM's own.
    ``guest_breaks`` and ``demand_breaks`` are how often the thread left its CPU within each of these times, and
    ``demand_returns`` how often KVM_RUN returned.

    ``woke`` are wake-ups of others, by the reason of the exit and who was woken; ``kicks`` are when, in guest time,
    those inside KVM_RUN came that no kvm_exit shows.  Of its ``total`` time on the CPU it has been ``acting`` outside
    KVM_RUN, or in exits that are not interrupts for the host.

    ``number`` is the vCPU's in its VM, -1 if kvm_entry is not recorded.
    Where kvm_exit is recorded, ``exits`` of them, guest time is that from kvm_entry to kvm_exit alone, ``clock`` in
    all; then ``guest_exits`` and ``demand_returns`` count exits, and ``handled`` are those that KVM handled, by reason.
    ``in_guest``: the guest runs; ``acts``: KVM handles an exit that is the guest's own; ``reason`` is that of the exit,
    and ``handling`` how long it has been handled on the CPU. ``halted_ns`` is when HLT came, of a halt that is not
    over.  ``last`` is the reason of the last exit, "" for HLT: what happens after kvm_entry is part of an exit that was
    handled in the fastpath, as no code of the host runs in the guest.  ``by_ipi`` are when halts began that exits of
    other vCPUs ended.  ``of_host`` are interrupts for the host that woke a thread or let another one have the CPU, as
    the exit under way does if ``for_host``.  A signal that ends a halt takes the thread out of KVM_RUN without a VM
    entry; that is no return of the guest's: ``signalled`` are the times outside KVM_RUN then.
    ``exit_ns`` and ``put_ns`` are when the guest last exited, and KVM_RUN last returned, and ``returns_ns`` when it did
    so for a reason of the guest's.
    ``returned``: KVM_RUN has, after so many ``restores_at_return``, and ``signals`` were delivered since.
    ``vmm_saves`` are XSTATE_BV of the VMM.  ``amx``: its guest fpstate has room for tiles, so that its guest has AMX.
    """

    guest: array[int] = field(default_factory=_integers)
    vmm: array[int] = field(default_factory=_integers)
    demand: array[int] = field(default_factory=_integers)
    halt: array[int] = field(default_factory=_integers)
    halt_from: array[int] = field(default_factory=_integers)
    guest_breaks: array[int] = field(default_factory=_integers)
    guest_exits: array[int] = field(default_factory=_integers)
    demand_breaks: array[int] = field(default_factory=_integers)
    demand_returns: array[int] = field(default_factory=_integers)
    signalled: array[int] = field(default_factory=_integers)
    returns_ns: array[int] = field(default_factory=_integers)
    vmm_saves: Counter[int] = field(default_factory=Counter)
    amx: bool = False
    handled: dict[str, Handled] = field(default_factory=dict)
    woke: Counter[tuple[str, int]] = field(default_factory=Counter)
    kicks: dict[int, array[int]] = field(default_factory=dict)
    number: int = -1
    spins: Spins = field(default_factory=Spins)
    exits: int = 0
    clock: int = 0
    by_ipi: set[int] = field(default_factory=set)
    in_guest: bool = False
    acts: bool = False
    reason: str = ""
    last: str = ""
    handling: int = 0
    halted_ns: int = -1
    exit_ns: int = 0
    put_ns: int = 0
    of_host: int = 0
    for_host: bool = False
    at_return: tuple[int, int] = (0, 0)
    at_halt: tuple[int, int] = (0, 0)
    blocked_outside: int = 0
    since_exit: int = 0
    breaks: int = 0
    breaks_since_halt: int = 0
    returns_since_halt: int = 0
    halted: tuple[int, int, int] | None = None
    restores: int = 0
    restored: int = 0
    returned: bool = False
    restores_at_return: int = 0
    signals: int = 0
    by_signal: bool = False
    since_halt: int = 0
    since_put: int = 0
    total: int = 0
    acting: int = 0

    def runs(self, on_ns: int, *, inside: bool) -> None:
        """Notes that it has been on its CPU for ``on_ns`` more."""
        self.total += on_ns
        if not inside or self.acts:
            self.acting += on_ns
        if not inside:
            self.since_put += on_ns
            return
        self.since_exit += on_ns
        self.since_halt += on_ns
        if self.in_guest or not self.exits:
            self.clock += on_ns
        elif self.reason:
            self.handling += on_ns

    def wakes_somebody(self, tid: int, *, inside: bool) -> None:
        """A thread is woken where this one runs: by an exit of that reason, or outside KVM_RUN."""
        if inside and not self.exits:
            self.kicks.setdefault(tid, _integers()).append(self.clock)
        self.woke[(self.last or KICK) if inside else USERSPACE, tid] += 1
        self.for_host |= inside

    def enters_guest(self) -> None:
        """kvm_entry: KVM has handled the exit before it; a halted vCPU continues."""
        if self.reason:
            handled = self.handled.setdefault(self.reason, Handled())
            handled.guest_ns.append(self.clock)
            handled.number.append(self.exits)
            handled.after_ns.append(self.handling)
            handled.at_ns.append(self.exit_ns)
            self.of_host += self.for_host and self.reason.lower() in INTERRUPTS
            self.spins.enters(self.reason, self.handling, for_host=self.for_host)
        self.spins.entered = self.clock
        self.in_guest, self.acts, self.reason, self.halted = True, False, "", None

    def leaves_guest(self, reason: str, now_ns: int, moved_ns: int) -> bool:
        """kvm_exit; that of HLT begins a halt.  Whether it is by PAUSE; ``moved_ns`` as for :meth:`Spins.exits`."""
        self.exits += 1
        self.in_guest, self.for_host, self.handling, self.exit_ns = False, False, 0, now_ns
        halts = reason in HALTS
        self.reason, self.halted_ns = ("", now_ns) if halts else (reason, -1)
        self.last = self.reason
        self.acts = not halts and reason.lower() not in INTERRUPTS
        return self.spins.exits(reason, self.clock, now_ns, moved_ns)

    def end_guest(self) -> None:
        """KVM_RUN has returned to user space for a reason of the guest's."""
        clock, exits = self.at_return
        self.at_return = self.clock, self.exits
        self.guest.append(self.clock - clock if self.exits else self.since_exit)
        self.guest_exits.append(self.exits - exits if self.exits else 1)
        self.guest_breaks.append(self.breaks)
        self.returns_ns.append(self.put_ns)
        self.since_exit = self.breaks = 0
        self.returns_since_halt += 1

    def end_demand(self) -> None:
        """The vCPU blocks, or the trace ends."""
        clock, exits = self.at_halt
        self.at_halt = self.clock, self.exits
        self.demand.append(self.clock - clock if self.exits else self.since_halt)
        self.demand_breaks.append(self.breaks_since_halt)
        self.demand_returns.append(self.exits - exits if self.exits else self.returns_since_halt)
        self.since_halt = self.breaks_since_halt = self.returns_since_halt = 0

    def end_halt(self, now_ns: int, slept_ns: int) -> None:
        """A halt is over; it began with HLT, or when the thread went to sleep if HLT is not recorded."""
        began = self.halted_ns if self.halted_ns >= 0 else slept_ns
        self.halt.append(now_ns - began)
        self.halt_from.append(slept_ns)
        self.halted_ns = -1


@dataclass(slots=True, eq=False)
class Life:
    """A thread as far as the trace shows it.

    ``cpus`` counts its stints by CPU, and ``at_ns`` its time; ``saves`` its saves by XSTATE_BV, of the normal and of
    the guest fpstate; ``wakers`` its wake-ups by the thread that ran there, and ``by_chance`` by the thread that had
    run there at a time within the sleep that has nothing to do with its end.  ``last_acts`` are the wake-ups, by
    thread, after which that thread went to sleep or ended within :data:`LAST_ACT_NS`, or that a vCPU made while KVM or
    the VMM acted for it; ``last_by_chance`` is how many of them would be expected at a random time of its burst.
    ``woke`` says whom it has woken in the burst under way, when, and after how much time and how many stints on the
    CPU.  ``after_wakes`` has four numbers for each wake-up of another thread in its bursts: the end of the burst, whom,
    and its time and stints on the CPU between the two.  ``handed`` counts who got the CPU when it went to sleep, by
    CPU and thread, and ``handed_after`` also by who had woken it; ``took`` who got it when it had just been woken
    there, by CPU, who was preempted, and who got it.
    ``handoffs`` are times on the CPU, in ns, up to a sleep or to the one that it woke or that wakes
    it.  ``moves`` has four numbers for each time that it got another CPU than the one before: which, when, and its time
    and stints on CPUs before that.
    """

    tid: int
    name: str
    first_ns: int
    prio: int = NICE_0_PRIO
    user: bool = False
    forked_ns: int = -1
    parent: int = -1
    execs: bool = False
    ended: bool = False
    last_ns: int = 0
    bursts: MutableSequence[Burst] = field(default_factory=lambda: Bursts())
    cpus: Counter[int] = field(default_factory=Counter)
    at_ns: Counter[int] = field(default_factory=Counter)
    moves: array[int] = field(default_factory=_integers)
    saves: Counter[int] = field(default_factory=Counter)
    wakers: Counter[int] = field(default_factory=Counter)
    after_wakes: array[int] = field(default_factory=_integers)
    by_chance: Counter[int] = field(default_factory=Counter)
    last_acts: Counter[int] = field(default_factory=Counter)
    last_by_chance: dict[int, float] = field(default_factory=dict)
    woke: list[tuple[Life, int, int, int]] = field(default_factory=list)
    handed: Counter[tuple[int, int]] = field(default_factory=Counter)
    handed_after: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    took: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    handoffs: array[int] = field(default_factory=_integers)
    since_handoff: int = 0
    vcpu: VcpuTimes | None = None
    inside: bool = False
    ready_ns: int | None = None
    asleep: bool = False
    on_ns: int = 0
    stints: int = 0
    wakes: int = 0
    forks: int = 0
    waker: int = -1
    since_ns: int = -1
    cpu: int = -1

    @property
    def nice(self) -> int:
        """Its nice value; a real-time thread counts as -20."""
        return max(-20, min(19, self.prio - NICE_0_PRIO))

    def gets(self, cpu: int, now_ns: int) -> None:
        """It runs on this CPU from now on."""
        if cpu != self.cpu:
            self.moves.extend((cpu, now_ns, self.at_ns.total(), self.cpus.total()))
        self.since_ns, self.cpu = now_ns, cpu

    def runs_until(self, now_ns: int) -> None:
        """It has been on its CPU up to now."""
        if self.since_ns < 0:
            return
        on = max(0, now_ns - self.since_ns)
        self.since_ns = now_ns
        self.on_ns += on
        self.at_ns[self.cpu] += on
        self.since_handoff += on
        if self.vcpu is not None:
            self.vcpu.runs(on, inside=self.inside)

    def hand_off(self) -> None:
        """It gives up the CPU of its own accord."""
        self.handoffs.append(self.since_handoff)
        self.since_handoff = 0

    def end_burst(self, now_ns: int) -> None:
        """It sleeps or is gone."""
        if self.ready_ns is not None and self.stints:
            end_ns = max(now_ns, self.ready_ns + self.on_ns)  # clocks of CPUs may differ
            burst = Burst(self.ready_ns, end_ns, self.on_ns, self.stints, self.wakes, self.forks, self.waker)
            self.bursts.append(burst)
            for woken, at, on_ns, stints in self.woke:
                self.after_wakes.extend((end_ns, woken.tid, self.on_ns - on_ns, self.stints - stints))
                woken.last_acts[self.tid] += now_ns - at <= LAST_ACT_NS
                chance = woken.last_by_chance.get(self.tid, 0.0) + min(1.0, LAST_ACT_NS / max(1, self.on_ns))
                woken.last_by_chance[self.tid] = chance
        self.woke.clear()
        self.ready_ns = None
        self.waker = -1
        self.on_ns = self.stints = self.wakes = self.forks = 0


def slots(lives: list[Life]) -> list[list[Life]]:
    """The lives, in as few rows as possible: lives that do not overlap in time can share one."""
    rows: list[list[Life]] = []
    free: list[tuple[int, int]] = []
    for life in sorted(lives, key=lambda each: each.bursts[0].ready_ns):
        begin, end = life.bursts[0].ready_ns, life.bursts[-1].end_ns
        if free and free[0][0] <= begin:
            row = free.pop(0)[1]
            rows[row].append(life)
        else:
            row = len(rows)
            rows.append([life])
        insort(free, (end, row))
    return rows
