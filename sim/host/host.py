"""The host: its CPUs, where threads are woken, and what CPUs do for each other.

Source of the rules: kernel/sched/fair.c select_task_rq_fair(), wake_affine_idle(), select_idle_sibling(),
sched_balance_newidle(); kernel/sched/core.c ttwu_runnable(); Linux v6.18.  All CPUs share one last-level cache and one
scheduling domain.  What is left out is in docs/host.md.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

from sim.host.clock import Clock
from sim.host.cpu import HostCpu
from sim.host.events import Until, Work
from sim.host.exits import ExitKind
from sim.host.histogram import Histogram
from sim.host.hrtick import Hrtick
from sim.host.idle_thread import IdleThread
from sim.host.interrupts import Devices, TickTimes
from sim.host.ledger import PricedLedger
from sim.host.preemption import Preemption
from sim.host.runqueue import RunQueue
from sim.host.schedule import Schedule
from sim.host.streams import Draws
from sim.host.thread import Thread
from sim.kernel.operations import Key
from sim.kernel.state import Cpu
from sim.kernel.walker import idle_number
from sim.xsave.components import AVX, SSE

if TYPE_CHECKING:
    from sim.host.halting import HaltingVcpu
    from sim.host.vcpu import VcpuThread

TIMER: Final = 1
"""Priority of timers: before every CPU at the same time."""


class Listener(Protocol):
    """Receives what the scheduler and KVM do besides flow points, if a run is recorded."""

    def woken(self, thread: Thread, waker: HostCpu, *, new: bool) -> None:
        """``thread`` has been made runnable on its CPU by what runs on ``waker``; ``new``: for the first time."""

    def migrated(self, thread: Thread, by: HostCpu, source: HostCpu) -> None:
        """``thread`` has gone from ``source`` to its CPU, which a CPU ``by`` has done."""

    def halt_is_over(self, thread: "HaltingVcpu", cpu: HostCpu, cycles: int, *, polled: bool) -> None:
        """A vCPU continues, this long after its HLT, by polling or after having slept."""


class Host:
    """A host, to which :meth:`add_cpu` adds its CPUs.

    ``interrupt_draws`` and ``wakeup_draws`` give the kernel's cycles for an IPI or timer interrupt and for
    try_to_wake_up(); ``idle_exit`` is how many cycles a CPU takes to leave its idle state; ``batch`` is whether exits
    without effect are counted together; ``preemption`` is the model that all CPUs have.  ``counts_from_event``: a
    wake-up latency counts from the event that wakes, not from the end of try_to_wake_up().
    """

    exit_fpu_components: Final = SSE | AVX

    def __init__(
        self, env: Clock, schedule: Schedule, interrupt_draws: Draws, wakeup_draws: Draws, batch: bool,
        wakeup_preemption: bool, idle_balancing: bool, preemption: Preemption, idle_exit: int,
        counts_from_event: bool,
    ) -> None:  # fmt: skip
        self.env = env
        self.schedule = schedule
        self.kernel = schedule.timing.kernel
        self.kernel.call_function_single = self._call_function_single
        self.interrupt_cycles: Callable[[], int] = interrupt_draws.next
        self.wakeup_cycles: Callable[[], int] = wakeup_draws.next
        self.batch = batch
        self.wakeup_preemption = wakeup_preemption
        self.idle_balancing = idle_balancing
        self.preemption = preemption
        self.idle_exit = idle_exit
        self.counts_from_event = counts_from_event
        self.cpus: list[HostCpu] = []
        self.latency = {"vcpu": Histogram(), "thread": Histogram()}
        self.first_ticks: list[int] = []
        self.listener: Listener | None = None
        self._idle = 0
        self._overloaded = 0

    def add_cpu(
        self, cpu: Cpu, rq: RunQueue, devices: Devices, ticks: TickTimes, tick_period: int, first_tick: int,
        hrtick: Hrtick,
    ) -> None:  # fmt: skip
        """A CPU, idle."""
        ledger = cpu.ledger
        assert isinstance(ledger, PricedLedger)
        added = HostCpu(self, cpu, ledger, rq, devices, ticks, tick_period, hrtick)
        self.cpus.append(added)
        self.first_ticks.append(first_tick)
        self._idle |= 1 << cpu.id
        added.start(IdleThread(self, idle_number(cpu.id), cpu.idle))

    # Wake-ups.

    def begin(self, thread: Thread, cpu: HostCpu) -> None:
        """A thread that is runnable on ``cpu`` when the simulation begins."""
        thread.cpu = cpu
        thread.blocked = False
        self._enqueue(thread, cpu, initial=True)

    def start(self, thread: Thread, cpu: HostCpu) -> None:
        """A new thread is runnable: on an idle CPU if there is one, else on ``cpu``."""
        thread.cpu = cpu
        thread.cpu = self._select(thread, cpu)
        thread.blocked = False
        if self.listener is not None:
            self.listener.woken(thread, cpu, new=True)
        self._enqueue(thread, cpu, initial=True)

    def wake(self, thread: Thread, waker: HostCpu, sync: bool = False) -> None:
        """try_to_wake_up() on ``waker``; ``sync``: the waker is about to sleep (WF_SYNC)."""
        waker.count_wakeups += 1
        thread.blocked = False
        if not (self.counts_from_event and thread.woken_at >= 0):
            thread.woken_at = self.env.now
        # One that is still queued (ttwu_runnable()), or has not left its CPU yet (ttwu_queue_wakelist()), stays there.
        if not thread.sched_delayed and thread.cpu.thread is not thread:
            target = waker if sync and waker.rq.nr_running == 1 and thread.allowed >> waker.id & 1 else thread.cpu
            cpu = self._select(thread, target)
            if cpu is not thread.cpu:
                waker.count_migrations += 1
                source, thread.cpu = thread.cpu, cpu
                if self.listener is not None:
                    self.listener.migrated(thread, waker, source)
        if self.listener is not None:
            self.listener.woken(thread, waker, new=False)
        self._enqueue(thread, waker)

    def _select(self, thread: Thread, target: HostCpu) -> HostCpu:
        """select_idle_sibling(): the target, where it was, the next idle one; else the target."""
        idle = self._idle & thread.allowed
        if not thread.allowed >> target.id & 1:
            target = thread.cpu if thread.allowed >> thread.cpu.id & 1 else self.cpus[_lowest(thread.allowed)]
        if not idle or idle >> target.id & 1:
            return target
        if idle >> thread.cpu.id & 1:
            return thread.cpu
        return self.cpus[_next(idle, target.id)]

    def _enqueue(self, thread: Thread, waker: HostCpu, initial: bool = False) -> None:
        cpu, now, requeued = thread.cpu, self.env.now, thread.sched_delayed
        thread.queued_at = now
        was_idle = cpu.thread is cpu.idle_thread and cpu.rq.nr_running == 0
        cpu.catch_up_ticks(now)
        cpu.rq.enqueue(now, thread, initial=initial)
        self.note_queue(cpu)
        if was_idle:
            cpu.need_resched = True
            cpu.kick()
        elif (self.wakeup_preemption and cpu.rq.wakeup_preempts(now, thread, fork=initial)) or cpu.rq.need_resched:
            cpu.resched_curr_lazy(waker)
        else:
            cpu.kick()
        if not requeued:
            cpu.hrtick_update(waker)

    # Balancing.

    def note_queue(self, cpu: HostCpu) -> None:
        """Keeps the masks of idle CPUs and of those from which a thread could be pulled."""
        bit = 1 << cpu.id
        if cpu.rq.nr_running:
            self._idle &= ~bit
        else:
            self._idle |= bit
        if cpu.rq.nr_running > 1 and any(thread.allowed & (thread.allowed - 1) for thread in cpu.rq.waiting()):  # type: ignore[attr-defined]
            self._overloaded |= bit
        else:
            self._overloaded &= ~bit

    def pull(self, cpu: HostCpu, now: int) -> bool:
        """sched_balance_newidle(): takes a waiting thread from the next CPU that has one which may run here.

        Of several the one that has been on the list longest without running or coming (detach_tasks()).
        """
        busy = self._overloaded & ~(1 << cpu.id) if self.idle_balancing else 0
        i = cpu.id
        while busy:
            i = _next(busy, i)
            busy &= ~(1 << i)
            other = self.cpus[i]
            for thread in sorted(other.rq.waiting(), key=attrgetter("listed")):
                if thread.allowed >> cpu.id & 1:  # type: ignore[attr-defined]
                    other.rq.dequeue(now, thread, sleep=False)
                    self.note_queue(other)
                    if other.rq.need_resched:  # its slice was over, which the accounting has just found
                        other.resched_curr_lazy(cpu)
                    other.kick()
                    thread.cpu = cpu  # type: ignore[attr-defined]
                    cpu.count_migrations += 1
                    if self.listener is not None:
                        self.listener.migrated(thread, cpu, other)  # type: ignore[arg-type]
                    cpu.rq.enqueue(now, thread)
                    return True
        return False

    # Timers.

    def after(self, cycles: int, action: Callable[[], None]) -> None:
        """``action`` in ``cycles`` from now."""
        Until(self.env, self.env.now + cycles, TIMER).callbacks.append(lambda event: action())

    def wake_after(
        self, cycles: int, thread: Thread, *, at_tick: bool = False, still: Callable[[], bool] = lambda: True
    ) -> None:
        """A timer on the thread's CPU wakes it in ``cycles``, if ``still`` then says so: else it has been cancelled.

        ``at_tick``: one of the timer wheel, which expires at the first tick that is not before, in the softirq of that
        interrupt (run_local_timers(), kernel/time/timer.c, Linux v6.18).
        """
        if at_tick:
            cycles = thread.cpu.tick_after(self.env.now + cycles) - self.env.now

        def expires() -> None:
            if not still():
                return
            if self.counts_from_event:
                thread.woken_at = self.env.now
            cpu = thread.cpu
            own = 0 if at_tick and cpu.next_tick <= self.env.now else self.interrupt_cycles()
            cpu.post(Work(own, self.wakeup_cycles(), lambda cpu: self.wake(thread, cpu)))

        self.after(cycles, expires)

    def keep_asking(self, thread: "VcpuThread", gaps: Draws) -> None:
        """Requests for a vCPU, ``gaps`` apart, independently of when they are served."""

        def arrive() -> None:
            thread.request()
            self.after(gaps.next(), arrive)

        self.after(gaps.next(), arrive)

    # What threads ask.

    def ipi_target(self, sender: "VcpuThread", kind: ExitKind) -> "VcpuThread":
        """Another vCPU of the sender's VM."""
        vm = sender.vm
        me = vm.index(sender)
        if kind.target == "next":
            return vm[(me + 1) % len(vm)]
        return vm[(me + 1 + int(sender.others.next())) % len(vm)]

    def _call_function_single(self, cpu: Cpu, key: Key) -> None:
        """What one CPU asks another to run waits there for an interrupt."""
        self.schedule.timing.defer_call(cpu, key)
        self.cpus[cpu.id].post(Work(self.interrupt_cycles(), call=True))

    def first_tick(self, cpu: int) -> int:
        """The first tick of a CPU; ticks of different CPUs are spread over the period."""
        return self.first_ticks[cpu]


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _next(mask: int, after: int) -> int:
    """The lowest bit of ``mask`` above ``after``, or else the lowest."""
    above = mask >> (after + 1) << (after + 1)
    return _lowest(above or mask)
