"""What each thread of a trace does: bursts on the CPU, sleeps, and for vCPU threads what happens around KVM_RUN."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from sim.trace.fit.spins import INTERRUPTS, SOON_NS
from sim.trace.fit.thread_times import Life, VcpuTimes
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
    KVM_EXIT,
    KVM_FPU,
    SIGNAL_DELIVER,
    SWITCH,
)
from sim.xsave.components import XTILEDATA

WAKEUPS: Final = (CODE["sched_wakeup"], CODE["sched_waking"], CODE["sched_wakeup_new"])
WAKING: Final = CODE["sched_waking"]
MIGRATED: Final = CODE["sched_migrate_task"]
VCPU_WAKEUP: Final = CODE["kvm_vcpu_wakeup"]
RUNNABLE: Final = ord("R")
DEAD: Final = (ord("X"), ord("Z"))
JUST_WOKEN_NS: Final = 100_000
"""A thread that takes the CPU of another one so soon after its wake-up preempts it, wherever the tick is."""
AT_ONCE_NS: Final = 30_000
"""A thread that leaves its CPU so soon after a wake-up there is preempted by it: 5 us is usual in the sample traces."""
GOLDEN: Final = 0.618034
"""Multiples of it are spread evenly over the unit interval."""
REMEMBERED: Final = 8192
"""How many switches of a CPU are remembered."""
BY_SIGNAL_NS: Final = 100_000
"""A signal that ends a halt takes the thread out of KVM_RUN in less time on its CPU: 69 us in the sample traces."""


@dataclass(slots=True)
class Seen:
    """Counts over the whole trace; times in ns.

    ``missing`` of the ``switches`` are not in the trace: a CPU went on with another thread than the last one that was
    switched to.  ``unknown_idle_ns``: the same of idle CPUs; the switch was somewhere within this time, half of which
    counts as idle.  ``loads`` are calls of vcpu_load(), at KVM_RUN and where a thread inside it gets a CPU;
    ``entries`` are kvm_entry.  ``expired_ns`` are, by CPU, the times when it went on with another thread that had
    been runnable for a while, and not right after a PAUSE exit, whose directed yield ends a slice at any time.
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
    expired_ns: dict[int, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("q")))


class Ran:
    """Which threads have run on a CPU recently."""

    def __init__(self) -> None:
        self._ns: list[int] = []
        self._tids: list[int] = []

    def note(self, ns: int, tid: int) -> None:
        """The thread runs from now on."""
        self._ns.append(ns)
        self._tids.append(tid)
        if len(self._ns) > REMEMBERED:
            del self._ns[: REMEMBERED // 2], self._tids[: REMEMBERED // 2]

    def at(self, ns: int) -> int:
        """The thread that ran at a time, or at the earliest remembered time if that is too long ago; -1: not known."""
        return self._tids[max(0, bisect_right(self._ns, ns) - 1)] if self._ns else -1


class Watcher:
    """Fills :attr:`lives` from the steps of a trace.

    ``of_guests`` are components that only guest fpstates have: a thread whose fpstate has them is inside KVM_RUN.
    """

    def __init__(self) -> None:
        self.of_guests = 0
        self.alive: dict[int, Life] = {}
        self.lives: list[Life] = []
        self.seen = Seen()
        self._running: dict[int, tuple[int, int]] = {}
        self._signals = False
        self._moved_ns = -SOON_NS - 1
        self._ran: dict[int, Ran] = defaultdict(Ran)
        self._woken: dict[int, Life] = {}  # the last one on each CPU

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
        if step.tid > 0 and event != DEACTIVATED:  # a save comes after the switch, from the thread that left
            self._shows(step.cpu, step.tid, step.comm, now)
        if IS_FPU[event] and step.tid > 0:
            life = self._life(step.tid, step.comm, now)
            if event != CODE["x86_fpu_copy_dst"]:
                life.user = True
            if step.values[3] & self.of_guests and life.vcpu is None:
                self._inside(step)
            if event == DEACTIVATED and (life.vcpu is None or life.inside):
                life.saves[step.values[2]] += 1
                if life.vcpu is not None and step.values[3] & XTILEDATA:
                    life.vcpu.amx = True
            elif event == ACTIVATED and life.vcpu is not None:
                life.vcpu.restores += 1
                life.vcpu.restored = step.values[2]
        elif event in WAKEUPS:
            seen.wakeups += event != WAKING
            self._wakes(step)
        elif event == KVM_ENTRY:
            seen.entries += 1
            vcpu = self._inside(step)
            vcpu.number = step.values[0]
            vcpu.enters_guest()
        elif event == KVM_EXIT:
            if self._inside(step).leaves_guest(step.values[0], now, self._moved_ns):
                self._moved_ns = now
        elif event == SIGNAL_DELIVER:
            thread = self.alive.get(step.tid)
            if thread is not None and thread.vcpu is not None:
                self._signals = True
                thread.vcpu.signals += 1
        elif event == MIGRATED:
            seen.migrations += 1
            self._moved_ns = now
        elif event == FORK:
            seen.forks += 1
            child = self._life(step.values[2], step.values[1], now, new=True)
            child.forked_ns = child.ready_ns = now
            child.parent = step.values[0]
            if (parent := self.alive.get(step.values[0])) is not None:
                parent.forks += 1
        elif event == EXEC and step.tid > 0:
            self._life(step.tid, step.comm, now).execs = True
        elif event == KVM_FPU:
            self._kvm_fpu(step)
        elif event == VCPU_WAKEUP:
            if step.values[0] == "poll":
                seen.polled += 1
                vcpu = self._inside(step)
                if vcpu.halted_ns >= 0:
                    vcpu.end_demand()
                    vcpu.end_halt(now, now)
            else:
                seen.waited += 1
        elif event == EXIT and step.tid > 0:
            self._life(step.tid, step.comm, now).ended = True

    def _inside(self, step: Step) -> VcpuTimes:
        """The thread is a vCPU's; if that was not known, it has been inside KVM_RUN since before the trace."""
        life = self._life(step.tid, step.comm, step.time_ns)
        life.runs_until(step.time_ns)
        if life.vcpu is None:
            life.vcpu = VcpuTimes()
            life.inside = True
        return life.vcpu

    def idle_until(self, ns: int) -> int:
        """How long CPUs have been idle up to ``ns``, summed over all CPUs, in ns."""
        return self.seen.idle_ns + sum(max(0, ns - since) for tid, since in self._running.values() if tid == 0)

    def finish(self) -> None:
        """The trace has ended; bursts under way end with it."""
        end = self.seen.last_ns
        for cpu, (tid, since) in self._running.items():
            if tid == 0:
                self.seen.idle_ns += end - since
                self._running[cpu] = (0, end)
            elif tid in self.alive:
                self.alive[tid].runs_until(end)
        for life in self.alive.values():
            if life.vcpu is not None and life.vcpu.returned:
                self._has_returned(life.vcpu)
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
        self._ran[cpu].note(now, tid)
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
        """The CPU went on with a thread at about ``at``, known at ``known``; the one before it went to sleep."""
        gone, since = self._running[cpu]
        seen = self.seen
        seen.switches += 1
        seen.missing += 1
        self._running[cpu] = (tid, at)
        self._ran[cpu].note(at, tid)
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
            life.gets(step.cpu, since)
            life.stints += 1
            if life.ready_ns is None:
                life.ready_ns = since
        life.runs_until(now)
        life.since_ns = -1
        life.prio = prio
        life.last_ns = now
        if life.vcpu is not None and life.inside:
            life.vcpu.breaks += 1
            life.vcpu.breaks_since_halt += 1
        if state == RUNNABLE:
            if life.vcpu is not None:
                life.vcpu.for_host = True
            if life.wakers.get(successor) or (successor in self.alive and self.alive[successor].wakers.get(tid)):
                life.hand_off()
            other = self.alive.get(successor)
            is_yield = now - self._moved_ns <= SOON_NS
            waited = other is not None and other.ready_ns is not None and now - other.ready_ns > JUST_WOKEN_NS
            if waited and not is_yield:
                self.seen.expired_ns[step.cpu].append(now)
            woken = self._woken.pop(step.cpu, None)
            if woken is not None and woken.ready_ns is not None and now - woken.ready_ns <= AT_ONCE_NS:
                woken.took[step.cpu, tid, successor] += 1
            return
        life.hand_off()
        life.handed[step.cpu, successor] += 1
        life.handed_after[step.cpu, successor, life.waker] += 1
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
        life.gets(cpu, now)
        life.stints += 1
        life.cpus[cpu] += 1
        if life.vcpu is not None:
            life.vcpu.spins.since_switch = 0
        self.seen.loads += life.inside

    def _wakes(self, step: Step) -> None:
        tid = step.values[0]
        life = self.alive.get(tid)
        if life is None or not life.asleep:
            return
        slept_ns = life.last_ns
        self._awake(life, step.time_ns)
        self._woken[step.cpu] = life
        running = self._running.get(step.cpu, (0, 0))[0]
        life.wakers[running] += 1
        life.waker = running
        at = slept_ns + int((step.time_ns - slept_ns) * (GOLDEN * len(life.bursts) % 1.0))
        life.by_chance[self._ran[step.cpu].at(at)] += 1
        if (waker := self.alive.get(running)) is not None:
            waker.wakes += 1
            if (vcpu := waker.vcpu) is None:
                on_ns = waker.on_ns + (max(0, step.time_ns - waker.since_ns) if waker.since_ns >= 0 else 0)
                waker.woke.append((life, step.time_ns, on_ns, waker.stints))
                return
            waker.runs_until(step.time_ns)
            vcpu.wakes_somebody(tid, inside=waker.inside)
            if life.vcpu is not None and waker.inside and vcpu.last and vcpu.last.lower() not in INTERRUPTS:
                life.vcpu.by_ipi.add(slept_ns)
            life.last_acts[running] += vcpu.acts or not waker.inside
            chance = life.last_by_chance.get(running, 0.0) + vcpu.acting / max(1, vcpu.total)
            life.last_by_chance[running] = chance

    def _awake(self, life: Life, now: int) -> None:
        life.asleep = False
        life.ready_ns = now
        if life.vcpu is not None and life.inside:
            life.vcpu.end_halt(now, life.last_ns)

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
            if vcpu.returned:
                self._has_returned(vcpu)
            (vcpu.signalled if vcpu.by_signal else vcpu.vmm).append(vcpu.since_put)
            vcpu.since_put, vcpu.by_signal = 0, False
        else:
            self.seen.round_trips += 1
            vcpu.vmm_saves[vcpu.restored] += 1
            vcpu.returned, vcpu.restores_at_return, vcpu.signals = True, vcpu.restores, 0
            vcpu.in_guest, vcpu.acts, vcpu.reason, vcpu.put_ns = False, False, "", now
        life.inside = loads

    def _has_returned(self, vcpu: VcpuTimes) -> None:
        """KVM_RUN has returned, and it is now known whether a signal or the guest was the reason.

        If it was a signal, there was no VM entry since the halt, and so no restore except that of the swap; but a guest
        whose registers were still in place had no other either.
        """
        vcpu.returned = False
        if vcpu.halted is not None:
            since_exit, restores, breaks = vcpu.halted
            soon = vcpu.signals > 0 if self._signals else vcpu.since_exit - since_exit < BY_SIGNAL_NS
            vcpu.by_signal = vcpu.restores_at_return == restores + 1 and soon
        if vcpu.by_signal:
            vcpu.since_exit, vcpu.breaks, vcpu.since_halt = since_exit, breaks, 0
        else:
            vcpu.end_guest()
        vcpu.halted = None
