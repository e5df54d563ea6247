"""What each thread of a trace does: bursts on the CPU, sleeps, and for vCPU threads what happens around KVM_RUN."""

from bisect import insort
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sim.trace.following.known import Step
from sim.trace.reading.events import (
    ACTIVATED,
    CODE,
    DEACTIVATED,
    EXEC,
    EXIT,
    FORK,
    IS_FPU,
    IS_TOLD,
    KVM_ENTRY,
    KVM_FPU,
    SWITCH,
)

WAKEUPS: Final = (CODE["sched_wakeup"], CODE["sched_waking"], CODE["sched_wakeup_new"])
WAKING: Final = CODE["sched_waking"]
MIGRATED: Final = CODE["sched_migrate_task"]
VCPU_WAKEUP: Final = CODE["kvm_vcpu_wakeup"]
RUNNABLE: Final = ord("R")
DEAD: Final = (ord("X"), ord("Z"))
NICE_0_PRIO: Final = 120
"""MAX_RT_PRIO + NICE_WIDTH / 2, include/linux/sched/prio.h, Linux v6.18."""


class Burst(NamedTuple):
    """From a wake-up to the next sleep: ``on_ns`` on a CPU, in ``stints``; ``wakes`` of others and ``forks`` in it."""

    ready_ns: int
    end_ns: int
    on_ns: int
    stints: int
    wakes: int
    forks: int


@dataclass(slots=True)
class VcpuTimes:
    """Times in ns of a vCPU thread; ``guest``, ``vmm`` and ``demand`` are on the CPU, ``halt`` is wall time.

    ``guest``: inside KVM_RUN between two returns to user space; ``vmm``: outside; ``demand``: inside between blocks;
    ``halt``: from a block inside KVM_RUN to its wake-up.  ``blocked_outside`` counts sleeps of the VMM's own.
    ``guest_breaks`` and ``demand_breaks`` are how often the thread left its CPU within each of these times, and
    ``demand_returns`` how often KVM_RUN returned.

    A signal that ends a halt takes the thread out of KVM_RUN without a VM entry; that is no return of the guest's:
    ``signalled`` are the times outside KVM_RUN then.  ``vmm_saves`` are XSTATE_BV of the VMM.
    """

    guest: list[int] = field(default_factory=list)
    vmm: list[int] = field(default_factory=list)
    demand: list[int] = field(default_factory=list)
    halt: list[int] = field(default_factory=list)
    guest_breaks: list[int] = field(default_factory=list)
    demand_breaks: list[int] = field(default_factory=list)
    demand_returns: list[int] = field(default_factory=list)
    signalled: list[int] = field(default_factory=list)
    vmm_saves: Counter[int] = field(default_factory=Counter)
    blocked_outside: int = 0
    since_exit: int = 0
    breaks: int = 0
    breaks_since_halt: int = 0
    returns_since_halt: int = 0
    halted: tuple[int, int, int] | None = None
    restores: int = 0
    restored: int = 0
    by_signal: bool = False
    since_halt: int = 0
    since_put: int = 0
    total: int = 0

    def end_demand(self) -> None:
        """It blocks, or the trace ends."""
        self.demand.append(self.since_halt)
        self.demand_breaks.append(self.breaks_since_halt)
        self.demand_returns.append(self.returns_since_halt)
        self.since_halt = self.breaks_since_halt = self.returns_since_halt = 0


@dataclass(slots=True, eq=False)
class Life:
    """A thread as far as the trace shows it.

    ``cpus`` counts its stints by CPU; ``saves`` its saves by XSTATE_BV, of the normal and of the guest fpstate;
    ``wakers`` its wake-ups by the thread that ran there.  ``handoffs`` are times on
    the CPU, in ns, up to a sleep or to the one that it woke or that wakes it.
    """

    tid: int
    name: str
    first_ns: int
    prio: int = NICE_0_PRIO
    user: bool = False
    forked_ns: int = -1
    execs: bool = False
    ended: bool = False
    last_ns: int = 0
    bursts: list[Burst] = field(default_factory=list)
    cpus: Counter[int] = field(default_factory=Counter)
    saves: Counter[int] = field(default_factory=Counter)
    wakers: Counter[int] = field(default_factory=Counter)
    successors: Counter[int] = field(default_factory=Counter)
    handoffs: list[int] = field(default_factory=list)
    since_handoff: int = 0
    vcpu: VcpuTimes | None = None
    inside: bool = False
    ready_ns: int | None = None
    asleep: bool = False
    on_ns: int = 0
    stints: int = 0
    wakes: int = 0
    forks: int = 0
    since_ns: int = -1

    @property
    def nice(self) -> int:
        """A real-time thread counts as the nicest that a fair one can be."""
        return max(-20, min(19, self.prio - NICE_0_PRIO))

    def runs_until(self, now_ns: int) -> None:
        """It has been on its CPU up to now."""
        if self.since_ns < 0:
            return
        on = max(0, now_ns - self.since_ns)
        self.since_ns = now_ns
        self.on_ns += on
        self.since_handoff += on
        if (vcpu := self.vcpu) is not None:
            if self.inside:
                vcpu.since_exit += on
                vcpu.since_halt += on
                vcpu.total += on
            else:
                vcpu.since_put += on

    def hand_off(self) -> None:
        """It gives the CPU away for its own reasons."""
        self.handoffs.append(self.since_handoff)
        self.since_handoff = 0

    def end_burst(self, now_ns: int) -> None:
        """It sleeps or is gone."""
        if self.ready_ns is not None and self.stints:
            end_ns = max(now_ns, self.ready_ns + self.on_ns)  # clocks of CPUs may differ
            self.bursts.append(Burst(self.ready_ns, end_ns, self.on_ns, self.stints, self.wakes, self.forks))
        self.ready_ns = None
        self.on_ns = self.stints = self.wakes = self.forks = 0


@dataclass(slots=True)
class Seen:
    """Counts over the whole trace; times in ns.

    ``missing`` of the ``switches`` are not in the trace: a CPU went on with another thread than the last one that was
    switched to.  ``unknown_idle_ns``: an idle CPU went on so, and when that was lies somewhere in this time, half of
    which counts as idle.  ``loads`` are vcpu_load()s, at KVM_RUN and where a thread inside it gets a CPU; ``entries``
    are kvm_entry.  ``stint_ns`` are those that ended in preemption.
    """

    first_ns: int = -1
    last_ns: int = 0
    switches: int = 0
    missing: int = 0
    unknown_idle_ns: int = 0
    round_trips: int = 0
    polled: int = 0
    waited: int = 0
    idle_ns: int = 0
    forks: int = 0
    loads: int = 0
    entries: int = 0
    wakeups: int = 0
    migrations: int = 0
    stint_ns: list[int] = field(default_factory=list)


class Watcher:
    """Fills :attr:`lives` from the steps of a trace."""

    def __init__(self) -> None:
        self.alive: dict[int, Life] = {}
        self.lives: list[Life] = []
        self.seen = Seen()
        self._running: dict[int, tuple[int, int]] = {}

    def see(self, step: Step) -> None:
        """The next event, in the order of the trace."""
        event, now = step.event, step.time_ns
        if IS_TOLD[event]:
            return
        seen = self.seen
        if seen.first_ns < 0:
            seen.first_ns = now
        seen.last_ns = max(seen.last_ns, now)
        if event == SWITCH:
            self._switch(step)
            return
        if step.tid > 0 and event != DEACTIVATED:  # a save comes behind the switch, from the thread that is gone
            self._shows(step.cpu, step.tid, step.comm, now)
        if event in WAKEUPS:
            seen.wakeups += event != WAKING
            self._wakes(step)
        elif event == KVM_ENTRY:
            seen.entries += 1
        elif event == MIGRATED:
            seen.migrations += 1
        elif event == FORK:
            seen.forks += 1
            child = self._life(step.values[2], step.values[1], now, new=True)
            child.forked_ns = child.ready_ns = now
            if (parent := self.alive.get(step.values[0])) is not None:
                parent.forks += 1
        elif event == EXEC and step.tid > 0:
            self._life(step.tid, step.comm, now).execs = True
        elif event == KVM_FPU:
            self._kvm_fpu(step)
        elif event == VCPU_WAKEUP:
            if step.values[0] == "poll":
                seen.polled += 1
            else:
                seen.waited += 1
        elif IS_FPU[event] and step.tid > 0:
            life = self._life(step.tid, step.comm, now)
            if event != CODE["x86_fpu_copy_dst"]:
                life.user = True
            if event == DEACTIVATED and (life.vcpu is None or life.inside):
                life.saves[step.values[2]] += 1
            elif event == ACTIVATED and life.vcpu is not None:
                life.vcpu.restores += 1
                life.vcpu.restored = step.values[2]
        elif event == EXIT and step.tid > 0:
            self._life(step.tid, step.comm, now).ended = True

    def idle_until(self, ns: int) -> int:
        """How long CPUs have been idle, in ns of all of them."""
        return self.seen.idle_ns + sum(max(0, ns - since) for tid, since in self._running.values() if tid == 0)

    def finish(self) -> None:
        """The trace has ended; bursts under way end with it."""
        end = self.seen.last_ns
        for tid, since in self._running.values():
            if tid == 0:
                self.seen.idle_ns += end - since
            elif tid in self.alive:
                self.alive[tid].runs_until(end)
        for life in self.alive.values():
            life.last_ns = end
            life.end_burst(end)

    def _life(self, tid: int, name: str, now: int, *, new: bool = False) -> Life:
        life = self.alive.get(tid)
        if life is None or new:
            life = self.alive[tid] = Life(tid, name, now)
            self.lives.append(life)
        return life

    def _switch(self, step: Step) -> None:
        prev, prio, state, name, tid, next_prio = step.values
        now, cpu, seen = step.time_ns, step.cpu, self.seen
        seen.switches += 1
        ran, since = self._running.get(cpu, (prev, seen.first_ns))
        if ran != prev:
            life = self.alive.get(prev)
            woken = life.ready_ns if life is not None and not life.asleep and life.ready_ns else 0
            self._missed(cpu, prev, step.comm, woken if since < woken < now else (since + now) // 2, now)
            ran, since = self._running[cpu]
        self._running[cpu] = (tid, now)
        if prev == 0:
            seen.idle_ns += max(0, now - since)
        else:
            self._leaves(prev, prio, state, now, since, tid, step)
        if tid:
            self._enters(self._life(tid, name, now), name, next_prio, now, cpu)

    def _shows(self, cpu: int, tid: int, name: str, now: int) -> None:
        """An event of a thread: it runs here, though perhaps no switch to it is in the trace."""
        if cpu in self._running and self._running[cpu][0] != tid:
            life = self._life(tid, name, now)
            if life.since_ns < 0 and not life.ended:
                self._missed(cpu, tid, name, now, now)

    def _missed(self, cpu: int, tid: int, name: str, at: int, known: int) -> None:
        """The CPU went on with a thread at about ``at``, known at ``known``; what it had run went to sleep."""
        gone, since = self._running[cpu]
        seen = self.seen
        seen.switches += 1
        seen.missing += 1
        self._running[cpu] = (tid, at)
        if gone == 0:
            seen.idle_ns += max(0, at - since)
            seen.unknown_idle_ns += max(0, known - since)
        elif gone in self.alive:
            life = self.alive[gone]
            life.runs_until(at)
            life.since_ns, life.last_ns = -1, at
            life.end_burst(at)
            life.asleep = True
        if tid:
            life = self._life(tid, name, at)
            self._enters(life, life.name, life.prio, at, cpu)

    def _leaves(self, tid: int, prio: int, state: int, now: int, since: int, successor: int, step: Step) -> None:
        life = self._life(tid, step.comm if step.tid == tid else "", self.seen.first_ns)
        if life.since_ns < 0:  # on this CPU since before the first event that says so
            life.since_ns = since
            life.stints += 1
            if life.ready_ns is None:
                life.ready_ns = since
        stint = now - since
        life.runs_until(now)
        life.since_ns = -1
        life.prio = prio
        life.last_ns = now
        life.successors[successor] += 1
        if life.vcpu is not None and life.inside:
            life.vcpu.breaks += 1
            life.vcpu.breaks_since_halt += 1
        if state == RUNNABLE:
            if life.wakers.get(successor) or (successor in self.alive and self.alive[successor].wakers.get(tid)):
                life.hand_off()
            self.seen.stint_ns.append(stint)
            return
        life.hand_off()
        if state in DEAD:
            life.end_burst(now)
            life.ended = True
            self.alive.pop(tid, None)
            return
        vcpu = life.vcpu
        if vcpu is not None:
            if life.inside:
                vcpu.end_demand()
                vcpu.halted = vcpu.since_exit, vcpu.restores, vcpu.breaks
            else:
                vcpu.blocked_outside += 1
        life.end_burst(now)
        life.asleep = True

    def _enters(self, life: Life, name: str, prio: int, now: int, cpu: int) -> None:
        if life.asleep:  # its wake-up is not in the trace
            self._awake(life, now)
        if life.ready_ns is None:
            life.ready_ns = now
        life.name, life.prio = name, prio
        life.since_ns = now
        life.stints += 1
        life.cpus[cpu] += 1
        self.seen.loads += life.inside

    def _wakes(self, step: Step) -> None:
        tid = step.values[0]
        life = self.alive.get(tid)
        if life is None or not life.asleep:
            return
        self._awake(life, step.time_ns)
        running = self._running.get(step.cpu, (0, 0))[0]
        life.wakers[running] += 1
        if running in self.alive:
            self.alive[running].wakes += 1

    def _awake(self, life: Life, now: int) -> None:
        life.asleep = False
        life.ready_ns = now
        if life.vcpu is not None and life.inside:
            life.vcpu.halt.append(now - life.last_ns)

    def _kvm_fpu(self, step: Step) -> None:
        if step.tid <= 0:
            return
        life, now = self._life(step.tid, step.comm, step.time_ns), step.time_ns
        loads = step.values[0] == "load"
        life.runs_until(now)
        if life.vcpu is None:
            life.vcpu = VcpuTimes()
            life.inside = loads
            return
        if loads == life.inside:
            return
        vcpu = life.vcpu
        if loads:
            self.seen.loads += 1
            (vcpu.signalled if vcpu.by_signal else vcpu.vmm).append(vcpu.since_put)
            vcpu.since_put, vcpu.by_signal = 0, False
        else:
            self.seen.round_trips += 1
            vcpu.vmm_saves[vcpu.restored] += 1
            if vcpu.halted is not None and vcpu.restores == vcpu.halted[1] + 1:  # that of the swap alone
                vcpu.since_exit, _, vcpu.breaks = vcpu.halted
                vcpu.since_halt, vcpu.by_signal = 0, True
            else:
                vcpu.guest.append(vcpu.since_exit)
                vcpu.guest_breaks.append(vcpu.breaks)
                vcpu.since_exit = vcpu.breaks = 0
                vcpu.returns_since_halt += 1
            vcpu.halted = None
        life.inside = loads


def slots(lives: list[Life]) -> list[list[Life]]:
    """The lives, in as few rows as hold them one after the other: those that were never there at once share one."""
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
