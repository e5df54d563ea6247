"""One CPU of the host in time: a SimPy process that drives the thread that runs there.

``clock`` is the time up to which this CPU has done its work; it runs ahead of the simulation's by kernel work that
nothing preempts, and the process waits for it (``sync``) before it does anything to others.  Each cycle of the clock
goes to exactly one account.
"""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final

import simpy

from sim.host.cpu_time import CpuTime
from sim.host.events import Until, Work
from sim.host.exits import INF
from sim.host.hrtick import Hrtick
from sim.host.interrupts import Devices, TickTimes
from sim.host.ledger import PricedLedger
from sim.host.preemption import TO_USER
from sim.kernel.state import Cpu, Vcpu
from sim.kernel.walker import Walker

if TYPE_CHECKING:
    from sim.host.host import Host
    from sim.host.runqueue import RunQueue
    from sim.host.thread import Thread

SPAN: Final = 1 << 24
"""The longest span that is planned at once, in cycles: it bounds how far interrupts are drawn ahead, and for how long
an event that nobody waits for any more stays in SimPy's queue."""


LATE: Final = 1 << 20
"""Added to the priority of the end of a span: at the same time, what other CPUs and timers ask comes first."""


class HostCpu(CpuTime):
    """A CPU of the host: its accounts, its run queue, and what is to be done on it.

    ``need_resched`` and ``need_resched_lazy`` are the flags of the running thread; ``exit_request``: the span in
    progress began with the lazy one set, so that a guest's next VM exit is its last.
    """

    __slots__ = (
        "boundary", "env", "exit_request", "host", "idle_thread", "measuring", "need_resched",
        "need_resched_lazy", "on_boundary", "posted", "preemption", "priority", "process", "rq", "span_begin",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, host: "Host", cpu: Cpu, ledger: PricedLedger, rq: "RunQueue", devices: Devices, ticks: TickTimes,
        tick_period: int, hrtick: Hrtick,
    ) -> None:  # fmt: skip
        super().__init__()
        self.host = host
        self.env = host.env
        self.schedule = host.schedule
        self.walker = host.schedule.timing
        self.cpu = cpu
        self.id = cpu.id
        self.ledger = ledger
        self.rq = rq
        self.devices = devices
        self.tick_times = ticks
        self.tick_period = tick_period
        self.hrtick = hrtick
        self.preemption = host.preemption
        self.next_tick = INF
        self.due = devices.time(0)
        self.priority = 2 + cpu.id
        self.clock = 0
        self.touched = 0
        self.posted: list[Work] = []
        self.need_resched = self.need_resched_lazy = self.exit_request = False
        self.waiting = False
        self.span_begin = 0
        self.boundary = False
        self.measuring = False
        self.on_boundary: Callable[[HostCpu], None] = lambda cpu: None

    def start(self, idle: "Thread") -> None:
        """The CPU begins to run, idle."""
        self.idle_thread = self.thread = idle
        self.process = self.env.process(self._run())

    def sync(self) -> Generator[simpy.Event, None, None]:
        """Waits until the simulation's time is this CPU's."""
        self.charge()
        if self.clock > self.env.now:
            yield Until(self.env, self.clock, self.priority)

    # What others ask of it.

    def post(self, work: Work) -> None:
        """An interrupt for this CPU, now."""
        self.posted.append(work)
        self.kick()

    def kick(self) -> None:
        """Something has changed that a span in progress must take note of."""
        if self.waiting:
            self.waiting = False
            self.process.interrupt()

    def block(self, thread: "Thread") -> None:
        """The running thread goes to sleep."""
        self.rq.dequeue(self.env.now, thread, sleep=True, special=thread.ended)
        thread.blocked = True
        self.need_resched = True

    def catch_up_ticks(self, now: int) -> None:
        """What the ticks of a thread that ran alone have done to its request: they renew it when it is used up."""
        while (time := self.rq.renewal_time()) is not None:
            tick = self.tick_after(time)
            if tick > now:
                return
            self.rq.update_current(tick)

    # Rescheduling.

    def resched_curr_lazy(self, asker: "HostCpu") -> None:
        """resched_curr_lazy(): the fair class asks for the CPU, from ``asker``.

        A lazy request is no interrupt, so only the span in progress takes note of it; idle always goes at once.  Where
        TIF_NEED_RESCHED is set already, no second IPI is sent (__resched_curr()).
        """
        if self.need_resched:
            self.kick()
            return
        if self.preemption.lazy and self.thread is not self.idle_thread:
            self.need_resched_lazy = True
            self.kick()
            return
        self.need_resched = True
        if self is not asker:
            self.post(Work(self.host.interrupt_cycles()))

    def ask_resched(self) -> None:
        """resched_curr() by another CPU: the flag is set, and an IPI makes it seen; one is enough."""
        if not self.need_resched:
            self.need_resched = True
            self.post(Work(self.host.interrupt_cycles()))

    def preempts(self) -> bool:
        """Whether TIF_NEED_RESCHED takes the CPU from the running thread where that is now."""
        return self.need_resched and self.preemption.seen(self.thread.place)

    def must_schedule(self) -> bool:
        """The same in the kernel, where a thread that goes on to user or guest mode sees the lazy flag, too."""
        return self.preempts() or (self.need_resched_lazy and self.thread.place == TO_USER)

    def hrtick_update(self, asker: "HostCpu") -> None:
        """hrtick_update(): somebody was enqueued by ``asker``; another CPU has the timer started by an IPI."""
        hrtick = self.hrtick
        if not hrtick.enabled or hrtick.asked or hrtick.time != INF or self.thread is self.idle_thread:
            return
        if self is asker:
            self._hrtick_start_fair()
        elif (delay := self.rq.time_to_deadline()) is not None:
            at, hrtick.asked = hrtick.due_after(self.env.now, delay), True
            self.post(Work(self.host.interrupt_cycles(), action=lambda cpu: cpu._hrtick_asked(at)))

    def _hrtick_asked(self, at: int) -> None:
        """__hrtick_start(): the IPI has come; a timer that was started meanwhile stays."""
        self.hrtick.asked = False
        if self.hrtick.time == INF:
            self.hrtick.time = at
            self._note_due()

    def _hrtick_start_fair(self) -> None:
        """hrtick_start_fair(): the timer for the end of the running thread's request, if somebody waits."""
        if self.hrtick.enabled and (delay := self.rq.time_to_deadline()) is not None:
            self.hrtick.time = self.hrtick.due_after(self.env.now, delay)
            self._note_due()

    # The process.

    def _run(self) -> Generator[simpy.Event, None, None]:
        while True:
            self.charge()
            if not self._can_go_on():
                yield from self._kernel_work()
            thread = self.thread
            thread.enter(self)
            stays = True
            while stays:
                stays = False
                if (yield from self._span(thread)):
                    stays = yield from thread.event(self)
                else:
                    thread.leave(self)

    def _span(self, thread: "Thread") -> Generator[simpy.Event, None, bool]:
        """User mode, the guest, polling or idle, until its own end (True) or something else's."""
        self.charge()
        env, begin = self.env, self.clock
        if self.boundary:
            self.pass_boundary()
        while True:
            if self.posted or self.preempts():
                self.clock = thread.settle(self, begin, env.now, soft=True)
                return False
            self.exit_request = self.need_resched_lazy
            longest = begin + SPAN
            limit = min(self.next_tick, longest)
            if thread.may_last(begin, limit):  # before a tick, nothing of the scheduler's ends a slice but HRTICK
                limit = min(self._resched_tick(), longest)
            limit = min(limit, self.hrtick.time)
            if self.need_resched_lazy:  # the next interrupt shows it, or in the kernel the next tick promotes it
                limit = min(limit, self.due if thread.place == TO_USER else self.next_tick)
            end, reached = thread.plan(self, begin, limit)
            if not self._undisturbed(end):
                self.span_begin = begin
                self.waiting = True
                try:
                    yield Until(env, max(end, env.now), LATE + self.priority)
                    self.waiting = False
                except simpy.Interrupt:
                    if (self.boundary or self.need_resched_lazy) and not (self.posted or self.preempts()):
                        begun = begin
                        begin = self.clock = thread.settle(self, begin, env.now, soft=True)
                        if begin < env.now or (self.need_resched_lazy and thread.is_interrupted(begun, begin)):
                            return False
                        if self.boundary:
                            self.pass_boundary()
                    continue
            soft = not reached and end == longest
            begin = self.clock = thread.settle(self, begin, end, soft)
            if reached:
                return True
            if begin < end or self.due <= end:
                return False

    def _undisturbed(self, until: int) -> bool:
        """Whether nothing else happens in the simulation up to then, so that this CPU can go on without waiting."""
        return self.host.batch and self.env.peek() > until

    def _resched_tick(self) -> int:
        """The first tick that finds the thread's slice over."""
        time = self.rq.preempt_time()
        return INF if time is None else _tick_after(time, self.next_tick, self.tick_period)

    def _can_go_on(self) -> bool:
        """Whether there is nothing to do in the kernel, not even to wait for what others may ask meanwhile."""
        clock = self.clock
        return not (self.posted or self.need_resched or self.need_resched_lazy or self.thread.blocked) and (
            self.due > clock and (clock <= self.env.now or self._undisturbed(clock))
        )

    def _kernel_work(self) -> Generator[simpy.Event, None, None]:
        """Serves what is due and schedules, until a thread can go on."""
        env = self.env
        while True:
            self.charge()
            if self.clock > env.now and not self._undisturbed(self.clock):
                yield Until(env, self.clock, self.priority)
            if self.thread.blocked:  # __schedule() at once: nothing comes between
                self._switch()
                continue
            if self.due <= self.clock:
                self._serve_due()
                continue
            if not (self.posted or self.must_schedule()):
                return
            if self.clock > env.now:
                yield Until(env, self.clock, self.priority)
            if self.posted:
                work = self.posted.pop(0)
                if work.call:
                    self.passes(Walker.serve_call)
                self.spend("interrupt", work.interrupt)
                self.spend("wakeup", work.wakeup)
                self.count_interrupts += work.interrupt > 0
                yield from self.sync()
                if work.action is not None and (more := work.action(self)) is not None:
                    self.posted.insert(0, more)
            else:
                self.thread.before_switch(self)
                self._switch()

    def _serve_due(self) -> None:
        """One tick, device interrupt or expiry of the HRTICK, in the kernel."""
        if self.hrtick.time < min(self.next_tick, self.devices.time(0)):
            self.hrtick.stop()
            self.need_resched = True
            self.count_interrupts += 1
            self.spend("interrupt", self.host.interrupt_cycles())
            self._note_due()
            return
        if self.next_tick <= self.devices.time(0):
            self._sched_tick()
            self.next_tick += self.tick_period
            self.count_ticks += 1
            self.spend("interrupt", self.tick_times.cycles(0))
            self.tick_times.serve(1)
            self._note_due()
            return
        components = self.devices.components(0)
        if components is not None:
            self.use_kernel_fpu(components)
        self.count_interrupts += 1
        self.spend("interrupt", self.devices.cycles(0))
        self.devices.serve(1)
        self._note_due()

    def _sched_tick(self) -> None:
        """sched_tick(): promotes a lazy request that is there already, and then asks whether the slice is over."""
        if self.need_resched_lazy:
            self.need_resched = True
        time = self.rq.preempt_time()
        if time is not None and time <= self.next_tick:
            self.resched_curr_lazy(self)
            if not self.must_schedule():  # else the pick that follows at once accounts for the slice
                self.rq.update_current(self.next_tick)

    def use_kernel_fpu(self, components: int) -> None:
        """kernel_fpu_begin() in an interrupt, whose code writes ``components``."""
        self.count_kernel_fpu += 1
        self.passes(Walker.kernel_fpu, components)

    def _switch(self) -> None:
        """__schedule(): picks, pulls from another CPU before going idle, and switches."""
        self.need_resched = self.need_resched_lazy = False
        host, prev, now = self.host, self.thread, self.env.now
        next = self.rq.pick_next(now)
        if next is None and host.pull(self, now):
            next = self.rq.pick_next(now)
        host.note_queue(self)
        thread: Thread = self.idle_thread if next is None else next  # type: ignore[assignment]
        if thread is prev:
            return
        self.count_switches += 1
        if not prev.blocked and prev is not self.idle_thread:
            self.count_preemptions += 1
            prev.queued_at = now
        if thread.task.vcpu is not None:
            self.steal += now - thread.queued_at
        if prev is self.idle_thread:
            self._end_tickless(now)
        elif thread is self.idle_thread:
            self.next_tick = INF
            self.hrtick.stop()
            self._note_due()
        self.charge()  # __schedule() may fold what is pending
        self.passes(Walker.schedule, thread.number)
        self.count_loads += thread.task.notifier is not None
        self.thread = thread
        self._hrtick_start_fair()
        if prev.ended:
            self.passes(Walker.free, prev.number)

    def vmcs_is_elsewhere(self, vcpu: Vcpu) -> bool:
        """Whether a vCPU's VMCS is still current on another CPU, which vcpu_load then asks for VMCLEAR."""
        return vcpu.vmcs_cpu not in (None, self.cpu)

    def tick_after(self, time: int) -> int:
        """The first tick of the CPU's period that is not before ``time``."""
        return _tick_after(time, self.host.first_tick(self.id), self.tick_period)

    def _end_tickless(self, now: int) -> None:
        """The tick goes on where its period has it."""
        self.next_tick = self.tick_after(now)
        self._note_due()

    def pass_boundary(self) -> None:
        """Warm-up or measurement is over on this CPU."""
        self.boundary = False
        self.on_boundary(self)


def _tick_after(time: int, tick: int, period: int) -> int:
    """The first of the ticks from ``tick`` on that is not before ``time``."""
    return tick + max(0, -(-(time - tick) // period)) * period
