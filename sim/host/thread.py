"""Threads of the host: what they do between two calls of the scheduler.

A CPU drives its thread through spans in which interrupts come at any time (user code, guest code, polling) and through
kernel work between them that nothing preempts:

- ``enter``: kernel work up to the span, return to user mode or VM entry;
- ``plan``: when the span will end, if nothing else happens; ``settle``: it has run up to now;
- ``leave``: something else has ended it; ``event``: it has come to its own end.

With full or lazy preemption a system call is a span, too, since it is preempted where it is.

``event`` is a process (``yield from``), because what it does to others must happen at the right time.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sim.host.preemption import KERNEL, TO_USER
from sim.host.runqueue import Entity
from sim.host.streams import Draws
from sim.host.waiting import Waits, Wakes, wake
from sim.kernel.state import Task
from sim.kernel.walker import Walker

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu
    from sim.host.host import Host

Steps = Generator[Any, None, bool]
"""A process that says at its end whether the thread is still in its user or guest mode."""


class Thread(Entity):
    """A thread of the host, and the span that it is in.

    ``number`` is what walkers know it by, ``task`` what the strategy that times the host has of it.  ``allowed`` are
    the CPUs on which it may run, as a mask; ``flow`` how much it touches, in bytes/s, and ``kernel_flow`` the kernel on
    its behalf; ``left`` what is left of the span in cycles; ``account`` the attribute of the CPU to which the span's
    time goes; ``place`` where it is for :mod:`sim.host.preemption`; ``queued_at`` since when it has been runnable
    without running (sched_info.last_queued).
    """

    __slots__ = (
        "_planned",
        "account",
        "allowed",
        "blocked",
        "cpu",
        "ended",
        "flow",
        "host",
        "kernel_flow",
        "left",
        "name",
        "number",
        "place",
        "queued_at",
        "task",
        "woken_at",
    )

    def __init__(self, host: "Host", name: str, number: int, task: Task, weight: int, allowed: int, flow: int) -> None:
        super().__init__(weight)
        self.host = host
        self.name = name
        self.number = number
        self.task = task
        self.allowed = allowed
        self.flow = self.kernel_flow = flow
        self.cpu: HostCpu
        self.blocked = True
        self.ended = False
        self.woken_at = -1
        self.queued_at = 0
        self.left = 0
        self.account = "user"
        self.place = TO_USER
        self._planned: Any = None

    # The span, for threads whose span is a number of cycles.

    def enter(self, cpu: "HostCpu") -> None:
        """Return to user mode."""
        cpu.passes(Walker.return_to_user)
        if self.woken_at >= 0:
            self._has_woken(cpu, "thread")

    def _has_woken(self, cpu: "HostCpu", histogram: str) -> None:
        assert self.woken_at >= 0
        cpu.charge()
        if cpu.measuring:
            self.host.latency[histogram].add(cpu.clock - self.woken_at)
        self.woken_at = -1

    def may_last(self, begin: int, until: int) -> bool:
        """Whether a span that begins now may go on beyond ``until``."""
        return begin + self.left > until

    def plan(self, cpu: "HostCpu", begin: int, limit: int) -> tuple[int, bool]:
        """When a span that begins now ends, at the latest at ``limit``, and whether by itself."""
        self._planned = planned = self._follow(cpu, begin, limit)
        return planned[0], planned[1]

    def settle(self, cpu: "HostCpu", begin: int, until: int, soft: bool = False) -> int:
        """The span has run up to ``until``: when the thread can be taken from it.

        That is later while interrupts are off or being served, and earlier where something had begun that now has to be
        done step by step.  ``soft``: nothing happens at ``until`` that could be under way.
        """
        planned, self._planned = self._planned, None
        if planned is None or planned[0] != until:
            planned = self._follow(cpu, begin, until)
        end: int
        end, _, left, ticks, devices, served = planned
        ran = self.left - left
        self.left = left
        setattr(cpu, self.account, getattr(cpu, self.account) + ran)
        cpu.touched += ran * self.flow
        if ticks or devices:
            cpu.absorbed(ticks, devices, served)
        return end

    def is_interrupted(self, begin: int, end: int) -> bool:
        """Whether an interrupt is being served now, in a span that began then, after which it could go on at ``end``.

        If so, its end shows a lazy request.
        """
        return self.place == TO_USER and begin <= self.host.env.now < end

    def _follow(self, cpu: "HostCpu", begin: int, until: int) -> tuple[int, bool, int, int, int, int]:
        """The end, whether by itself, what is left then, and the ticks, device interrupts and their cycles within.

        Interrupts that are due and use no FPU are served inside the span and make it longer; ``until`` is not.
        """
        now, left = begin, self.left
        tick, devices = cpu.next_tick, cpu.devices
        ticks = n = served = 0
        while True:
            device = devices.time(n)
            at = tick if tick < device else device
            if now + left <= at or at >= until:
                break
            if tick <= device:
                cycles = cpu.tick_cycles(ticks)
                ticks += 1
                tick += cpu.tick_period
            else:
                if devices.components(n) is not None:
                    until = at
                    break
                cycles = devices.cycles(n)
                n += 1
            if at > now:
                left -= at - now
                now = at
            now += cycles
            served += cycles
        if now + left <= until:
            return now + left, True, 0, ticks, n, served
        if until > now:
            left -= until - now
            now = until
        return now, False, left, ticks, n, served

    def leave(self, cpu: "HostCpu") -> None:
        """An interrupt, or the scheduler, takes the CPU from the span: into the kernel."""

    def event(self, cpu: "HostCpu") -> Steps:
        """The span has come to its end."""
        raise NotImplementedError

    def before_switch(self, cpu: "HostCpu") -> None:
        """The scheduler is about to take the CPU away."""


class ComputeThread(Thread):
    """Bursts of computing, with the system calls of each, and sleep between them.

    ``_then`` goes on after a system call, or what a burst has ``_after`` it has woken somebody, that is a span.
    ``_at_ticks``: sleeps end at ticks.  ``_waiting``: it is on its wait queue, from the end of a burst until it is
    woken or the wait is over by itself; ``_wait`` counts waits.
    """

    __slots__ = (
        "_after", "_at_ticks", "_bursts", "_components", "_left", "_sleeps", "_syscalls", "_then", "_uses_fpu",
        "_wait", "_waiting", "_waits", "_wakes", "_wrote",
    )  # fmt: skip

    BURST: ClassVar = ("user", TO_USER)
    """The account of a burst, and its place."""

    def __init__(self, *place: Any, bursts: Draws, sleeps: Draws | None, syscalls: Draws, components: int,
                 uses_fpu: Draws, at_ticks: bool, waits: Waits | None, wakes: Sequence[Wakes],
                 after: Draws | None = None) -> None:  # fmt: skip
        super().__init__(*place)
        self._after = after
        self._at_ticks = at_ticks
        self._waits = waits
        self._wakes = wakes
        self._waiting = False
        self._wait = 0
        self.account, self.place = self.BURST
        self._bursts = bursts
        self._sleeps = sleeps
        self._syscalls = syscalls
        self._components = components
        self._uses_fpu = uses_fpu
        self._then: Callable[[HostCpu], Steps] | None = None
        self._left = 0
        self._begin_burst()

    def _begin_burst(self) -> None:
        self.left = self._bursts.next()
        self._wrote = not (self._components and self._uses_fpu.next())

    def enter(self, cpu: "HostCpu") -> None:
        if self._then is None:
            super().enter(cpu)
            self._writes(cpu)
        elif self.account == "user":
            super().enter(cpu)

    def _writes(self, cpu: "HostCpu") -> None:
        """What the burst does to the registers, once."""
        if not self._wrote:
            self._wrote = True
            cpu.passes(Walker.user_writes, self._components)

    def event(self, cpu: "HostCpu") -> Steps:
        then, self._then = self._then, None
        if then is None:
            return (yield from self._burst_over(cpu))
        self.left = self._left
        self.account, self.place = self.BURST
        return (yield from then(cpu))

    def _burst_over(self, cpu: "HostCpu") -> Steps:
        cpu.count_bursts += 1
        syscall = self._syscalls.next()
        self._begin_burst()
        if not (syscall or self._wakes or self._sleeps is not None or self._waits is not None):
            self._writes(cpu)
            return True
        return (yield from self._syscall(cpu, syscall, self._sleep))

    def _syscall(self, cpu: "HostCpu", cycles: int, then: "Callable[[HostCpu], Steps]") -> Steps:
        """Kernel time of a system call, which ends with ``then``: a span where the kernel is preemptible."""
        if self.host.preemption.in_kernel:
            self._goes_on(cycles, then)
            return False
        cpu.spend("syscall", cycles)
        return (yield from then(cpu))

    def _goes_on(self, cycles: int, then: "Callable[[HostCpu], Steps]") -> None:
        """The next span is in the kernel."""
        self._left, self.left, self._then = self.left, cycles, then
        self.account, self.place = "syscall", KERNEL

    def _has_woken_somebody(self, cpu: "HostCpu", then: "Callable[[HostCpu], Steps]") -> Steps:
        """The preempt_enable() at the end of try_to_wake_up(): a preemptible kernel switches before it goes on."""
        if self.host.preemption.in_kernel and cpu.need_resched:
            self._goes_on(0, then)
            return False
        return (yield from then(cpu))

    def _sleep(self, cpu: "HostCpu") -> Steps:
        """The end of the system call: it wakes others, being on its own wait queue already if it is going to wait."""
        yield from cpu.sync()
        joined = self._waits is not None and self._waits.waits.next()
        if joined:
            assert self._waits is not None
            self._waiting = True
            self._wait += 1
            self._waits.queue.join(self)
        then = self._waits_its_turn if joined else self._sleeps_its_time
        if self._wakes and (yield from wake(cpu, self._wakes)):
            if self._after is not None:
                return self._computes_on(self._after.next(), then)
            return (yield from self._has_woken_somebody(cpu, then))
        return (yield from then(cpu))

    def _computes_on(self, cycles: int, then: "Callable[[HostCpu], Steps]") -> bool:
        """The rest of a burst that has woken somebody, who may preempt it."""
        self._left, self.left, self._then = self.left, cycles, then
        self.account, self.place = self.BURST
        return False

    def _sleeps_its_time(self, cpu: "HostCpu") -> Steps:
        yield from cpu.sync()
        if self._sleeps is not None:
            self.host.wake_after(self._sleeps.next(), self, at_tick=self._at_ticks)
            cpu.block(self)
        return False

    def _waits_its_turn(self, cpu: "HostCpu") -> Steps:
        """schedule() between prepare_to_wait() and finish_wait(), unless it has been woken in between."""
        yield from cpu.sync()
        if self._waiting:
            assert self._waits is not None
            if self._waits.at_most is not None:
                self.host.wake_after(self._waits.at_most, self, still=self._times_out(self._wait))
            cpu.block(self)
        return False

    def _times_out(self, wait: int) -> Callable[[], bool]:
        """Whether this wait is still going on when its time is over, which ends it."""

        def still() -> bool:
            assert self._waits is not None
            if self._wait != wait or not self._waits.queue.leave(self):
                return False
            self._waiting = False
            return True

        return still

    def ends_wait(self, cpu: "HostCpu") -> bool:
        """A waker has taken it from its queue; if it has not left its CPU yet, it continues there without a wake-up."""
        self._waiting = False
        return self.blocked

    def wake_up(self, cpu: "HostCpu") -> None:
        """try_to_wake_up()."""
        self.host.wake(self, cpu)


class KernelThread(ComputeThread):
    """The same, in the kernel: it never returns to user mode and has no FPU state."""

    __slots__ = ()

    BURST: ClassVar = ("syscall", KERNEL)

    def enter(self, cpu: "HostCpu") -> None:
        self.place = KERNEL
        if self.woken_at >= 0:
            self._has_woken(cpu, "thread")

    def _burst_over(self, cpu: "HostCpu") -> Steps:
        """cond_resched() comes at the end of a burst, and sees what nothing has seen before."""
        stays = yield from super()._burst_over(cpu)
        if cpu.preemption.kernel_points or not cpu.need_resched:
            return stays
        self.place = TO_USER
        return False


class Pipe:
    """What two threads hand to each other: a byte in one of two pipes."""

    __slots__ = ("bytes", "ends")

    def __init__(self) -> None:
        self.ends: list[PipeThread] = []
        self.bytes = [0, 0]


class PipeThread(ComputeThread):
    """One end of a pair that passes one byte back and forth, as will-it-scale's context_switch1 does."""

    __slots__ = ("_pipe", "_side")

    def __init__(self, *args: Any, pipe: Pipe, **given: Any) -> None:
        super().__init__(*args, **given)
        self._pipe = pipe
        self._side = len(pipe.ends)
        pipe.ends.append(self)

    def _burst_over(self, cpu: "HostCpu") -> Steps:
        cpu.count_handoffs += 1
        syscall = self._syscalls.next()
        self._begin_burst()
        return (yield from self._syscall(cpu, syscall, self._write))

    def _write(self, cpu: "HostCpu") -> Steps:
        """The other one gets a byte."""
        pipe, other = self._pipe, self._pipe.ends[1 - self._side]
        yield from cpu.sync()
        if other.blocked:  # in read(), which takes the byte
            cpu.spend("wakeup", self.host.wakeup_cycles())
            yield from cpu.sync()
            self.host.wake(other, cpu, sync=True)
        else:
            pipe.bytes[1 - self._side] += 1
        return (yield from self._has_woken_somebody(cpu, self._read))

    def _read(self, cpu: "HostCpu") -> Steps:
        pipe, side = self._pipe, self._side
        yield from cpu.sync()
        if pipe.bytes[side]:
            pipe.bytes[side] -= 1
        else:
            cpu.block(self)
        return False
