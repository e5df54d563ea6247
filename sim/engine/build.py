"""From a populated host of sim.host to arrays: the same threads, streams and queues, at time 0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.engine import layout as at
from sim.engine import loop
from sim.engine.arrays import BITS, empty
from sim.engine.asked import Point
from sim.engine.blocks import Streams, address
from sim.engine.device_interrupts import DeviceInterrupts
from sim.engine.fragments import Unsupported
from sim.engine.queues import Queues, groups_of, most_queued
from sim.engine.table import Points, zeros
from sim.engine.transitions import handles_signal
from sim.engine.walking import MUCH
from sim.host.cpu import HostCpu
from sim.host.directed_yield import FORCED_EVERY_S
from sim.host.exits import ExitKind
from sim.host.fork_thread import ForkThread
from sim.host.guest_lock import LockingVcpu
from sim.host.host import TIMER, Host
from sim.host.hrtick import LEAST_S, SLACK_S
from sim.host.thread import ComputeThread, KernelThread, PipeThread, Thread
from sim.host.vcpu import VcpuThread
from sim.host.waiting import WaitQueue, Waits, Wakes
from sim.kernel.state import TASK_KINDS
from sim.kernel.walker import Walker
from sim.scenario.cases import Case
from sim.xsave.components import AVX, SSE

Integers = NDArray[np.int64]

POINTS: Final = Points(
    [
        Point(Walker.schedule), Point(Walker.return_to_user), Point(Walker.enter_kvm_run),
        Point(Walker.leave_kvm_run), Point(Walker.vm_entry), Point(Walker.guest_boots),
        Point(Walker.guest_writes_carried), Point(Walker.kernel_fpu, (SSE | AVX,)), Point(Walker.fork),
        Point(Walker.exec), Point(Walker.exit), Point(Walker.begin), Point(Walker.end), Point(Walker.serve_call),
        Point(Walker.exits), Point(Walker.deliver_signal), Point(Walker.sigreturn), Point(handles_signal),
    ]
)  # fmt: skip
"""In the order of POINT_SCHEDULE and the numbers after it; the last, POINT_EQUAL, is not a flow point."""
POINTS.of(Point(handles_signal, ("",)))

LEAST_DEVICES: Final = 64
"""So many device interrupts of a CPU are drawn ahead at least."""
MOST_CHILDREN: Final = 4096
"""The most forked threads that may exist at the same time."""
EXIT_COLUMNS: Final = [at.S_GUEST, at.S_WALL, at.S_KIND, at.S_TIME, at.S_HANDLED, at.S_EFFECTS]
DRAWN_COLUMNS: Final = [at.K_DRAWN, at.K_DRAWN_TIME, at.K_DRAWN_FPU, at.K_PART]
ACCOUNT_COLUMNS: Final = {
    "guest": at.GUEST, "user": at.USER, "vmm": at.VMM, "syscall": at.SYSCALL, "halt_poll": at.HALT_POLL,
    "idle": at.IDLE,
}  # fmt: skip


class Built:
    """The arrays of a host, and what Python keeps for them."""

    def __init__(self, case: Case, host: Host, walkers: int, *, grouped: bool) -> None:
        self.case = case
        self.host = host
        self.streams = Streams()
        self.points = POINTS
        self.kinds: list[ExitKind] = []
        self.queues: dict[WaitQueue, int] = {}
        self.masks = {0: 0}
        self.wakes: list[tuple[int, int, int]] = []
        self.columns: dict[int, Integers] = {}
        self.drawn: dict[int, Any] = {}
        self.devices: dict[int, DeviceInterrupts] = {}
        self.reasons: list[str] = []
        self.threads = _threads(host)
        children = MOST_CHILDREN if any(isinstance(each, ForkThread) for each in self.threads) else 0
        cpus, n = len(host.cpus), len(host.cpus) + len(self.threads) + children
        groups = len(groups_of(host))
        queues = cpus * (2 + groups) if grouped else cpus
        most = most_queued(self.threads, children, groups)
        self.a = empty(cpus, n, self._count_kinds(), walkers, queues, cpus * groups, most)
        self._queues = Queues(host, self.a, n, grouped=grouped)
        self.most_events, self.has_timeouts = len(self.a.heap), False
        for cpu in host.cpus:
            self._idle(cpu)
        for thread in self.threads:
            self._thread(thread)
        self._globals(walkers)
        self.a.t[n - children : n, at.FREE_AFTER] = range(n - children + 1, n + 1)
        self.a.g[at.FREE_THREAD], self.a.g[at.THREADS] = n - children, n
        for cpu in host.cpus:
            self._cpu(cpu)
        waiters = self._wait_queues()
        self.a.put("allowed", self._allowed())
        self.a.put("d", self.streams.table())
        self.a.put("waiters", waiters)
        self.a.put("wakes", np.array(self.wakes or [(0, 0, 0)], np.int64))
        self.a.put("exits", np.full((walkers, n, max(len(self.reasons), 1)), -1, np.int64))
        self._events()
        loop.begin(self.a.handle)

    def number(self, thread: Thread) -> int:
        """The row of a thread."""
        return len(self.host.cpus) + thread.number

    def _count_kinds(self) -> int:
        return sum(
            len(each._stream.kinds) + 3 + isinstance(each, LockingVcpu)
            for each in self.threads
            if isinstance(each, VcpuThread)
        )

    # Threads.

    def _idle(self, cpu: HostCpu) -> None:
        row = self.a.t[cpu.id]
        row[at.KIND], row[at.CPU], row[at.WOKEN_AT] = at.IDLE_KIND, cpu.id, -1
        row[at.REMAINING], row[at.ACCOUNT] = at.INF, at.IDLE
        row[at.TASK_KIND] = TASK_KINDS.index(cpu.idle_thread.task.kind)

    def _thread(self, thread: Thread) -> None:
        row = self.a.t[self.number(thread)]
        allowed = thread.allowed
        row[at.MASK] = self.masks.setdefault(allowed, len(self.masks))
        row[at.CPU], row[at.BLOCKED], row[at.WOKEN_AT] = thread.cpu.id, thread.blocked, thread.woken_at
        row[at.REMAINING], row[at.ACCOUNT] = thread.left, ACCOUNT_COLUMNS[thread.account]
        row[at.FLOW], row[at.KERNEL_FLOW] = thread.flow, thread.kernel_flow
        row[at.TASK_KIND], row[at.WHERE] = TASK_KINDS.index(thread.task.kind), thread.place
        row[at.SEVERAL_CPUS] = allowed & (allowed - 1) != 0
        self._queues.of_thread(thread)
        if isinstance(thread, ComputeThread):
            self._compute(thread, row)
        else:
            assert isinstance(thread, VcpuThread)
            self._vcpu(thread, row)

    def _compute(self, thread: ComputeThread, row: Integers) -> None:
        add = self.streams.add
        row[at.KIND] = at.KTHREAD_KIND if isinstance(thread, KernelThread) else at.COMPUTE
        row[at.BURST_DRAWS], row[at.SLEEP_DRAWS] = add(thread._bursts), add(thread._sleeps)
        row[at.SYSCALL_DRAWS], row[at.FPU_DRAWS] = add(thread._syscalls), add(thread._uses_fpu)
        row[at.AT_TICKS], row[at.AFTER_DRAWS] = thread._at_ticks, add(thread._after)
        self._waits(thread._waits, row)
        row[at.WAKES_FIRST], row[at.WAKES_END] = self._wakes(thread._wakes)
        row[at.WRITES_POINT] = self.points.of(Point(Walker.user_writes, (thread._components,)))
        row[at.HAS_FPU], row[at.WROTE] = thread._components != 0, thread._wrote
        if isinstance(thread, ForkThread):
            row[at.KIND], row[at.EXECS] = at.FORK, thread._execs
        if isinstance(thread, PipeThread):
            row[at.KIND] = at.PIPE
            row[at.OTHER_END] = self.number(thread._pipe.ends[1 - thread._side])

    def _allowed(self) -> Integers:
        """The masks of CPUs that threads have, each once."""
        rows = zeros(len(self.masks), len(self.a.idle))
        for mask, number in self.masks.items():
            rows[number] = np.frombuffer(mask.to_bytes(len(self.a.idle) * BITS // 8, "little"), "<u4")
        return rows

    def _queue(self, queue: WaitQueue) -> int:
        """The number of a wait queue."""
        return self.queues.setdefault(queue, len(self.queues))

    def _wait_queues(self) -> Integers:
        """Nobody is on a queue yet."""
        rows = zeros(max(len(self.queues), 1), at.Q_COLUMNS) - 1
        for queue, number in self.queues.items():
            rows[number, at.Q_PLACES] = self.streams.add(queue.places)
        return rows

    def _wakes(self, wakes: Iterable[Wakes]) -> tuple[int, int]:
        """Adds rows for those whom a thread or an exit wakes: the first row, and the one after the last."""
        first = len(self.wakes)
        self.wakes += [(self._queue(queue), whole, self.streams.add(more)) for queue, whole, more in wakes]
        return first, len(self.wakes)

    def _waits(self, waits: Waits | None, row: Integers) -> None:
        row[at.WAIT_QUEUE] = row[at.WAIT_TIMEOUT] = row[at.AT_MOST] = -1
        if waits is not None:
            row[at.WAIT_QUEUE], row[at.WAITS_DRAWS] = self._queue(waits.queue), self.streams.add(waits.waits)
            if waits.at_most is not None:
                row[at.AT_MOST], self.has_timeouts = waits.at_most, True

    def _vcpu(self, thread: VcpuThread, row: Integers) -> None:
        add, use, requests = self.streams.add, thread._use, thread._requests
        row[at.KIND] = at.VCPU
        row[at.GUEST_TIME], row[at.WALL], row[at.DEMAND_END] = thread._guest_time, thread._wall, thread._demand_end
        row[at.ONGOING] = row[at.LEARNING] = -1
        row[at.DEMAND_DRAWS], row[at.ARRIVAL_DRAWS] = add(requests.demand), add(requests.arrivals)
        row[at.REQUEST_SLEEPS] = add(requests.sleeps)
        self._waits(requests.waits, row)
        row[at.USE_WRITES], row[at.USE_SWITCHES] = add(use.writes), add(use.switches)
        row[at.USE_FPU_DRAWS], row[at.USE_CONSTANT] = add(use.fpu_tasks), use.constant
        row[at.P_GUEST_WRITES] = self.points.of(Point(Walker.guest_writes, (use.components,)))
        row[at.P_SWITCH_FPU] = self.points.of(Point(Walker.guest_switches_task, (use.components, use.carried)))
        row[at.P_SWITCH_NONE] = self.points.of(Point(Walker.guest_switches_task, (0, use.carried)))
        row[at.POSTS] = thread._posted_interrupts
        row[at.SIGNALLED_DRAWS], row[at.SIGNAL_TIMES] = add(thread._signalled), add(thread._signal_times)
        row[at.VMM_POINT] = self.points.of(Point(Walker.user_writes, (thread._vmm_components,)))
        row[at.GUEST_FLOW], row[at.VMM_FLOW] = thread._guest_flow, thread._vmm_flow
        polling = thread._polling
        row[at.WINDOW], row[at.POLL_MOST] = polling.window, polling._most
        row[at.POLL_START], row[at.POLL_SHRINK], row[at.POLL_GROW] = polling._grow_start, polling._shrink, polling._grow
        if thread._guest_polling is not None:
            row[at.GUEST_MOST], row[at.GUEST_START] = thread._guest_polling._most, thread._guest_polling._grow_start
        row[at.VM_FIRST], row[at.VM_SIZE] = self.number(thread.vm[0]), len(thread.vm)
        row[at.VM_INDEX], row[at.OTHERS_DRAWS] = thread.vm.index(thread), add(thread.others)
        row[at.FIRST_KIND], row[at.KINDS] = len(self.kinds), len(thread._stream.kinds)
        for kind in thread._stream.kinds:
            self._kind(kind)
        row[at.INTERRUPT_KIND] = self._kind(thread._interrupt)
        row[at.HLT_KIND] = self._kind(thread._hlt)
        row[at.TIMER_KIND] = -1 if thread._hv_timer is None else self._kind(thread._hv_timer)
        if isinstance(thread, LockingVcpu):
            self._locking(thread, row)
        self._exits(thread)

    def _locking(self, thread: LockingVcpu, row: Integers) -> None:
        g, add, ple, pausing = self.a.g, self.streams.add, thread._ple, thread._pausing
        row[at.LOCKS], row[at.LOCK_HOLDER], row[at.BOOSTED] = True, -1, -1
        row[at.LOCK_GAPS], row[at.LOCK_HOLDS], row[at.PLE_DRAWS] = map(
            add, (thread._gaps, thread._holds, pausing.handler)
        )
        row[at.TURN], row[at.REQUEST_END], row[at.PLE_WINDOW] = thread._turn, thread._request_end, ple.value
        row[at.PAUSE_KIND] = self._kind(thread._pause)
        g[at.PLE_EXITS], g[at.PLE_UNIT], g[at.YIELDS] = pausing.exits, pausing.unit, pausing.yields
        g[at.PLE_BASE], g[at.PLE_GROW], g[at.PLE_SHRINK], g[at.PLE_MOST] = ple._of
        g[at.LAG_CREDIT], g[at.COUNTS_STEPS] = pausing.credit, thread._lock.boosted.counts_steps

    def _kind(self, kind: ExitKind) -> int:
        number = len(self.kinds)
        self.kinds.append(kind)
        if kind.reason not in self.reasons:
            self.reasons.append(kind.reason)
        row = self.a.k[number]
        row[at.K_POINT] = self.points.of(Point(Walker.vm_exit, (kind.reason, kind.requests)))
        row[at.K_POINT_REQUEST] = self.points.of(Point(Walker.vm_exit, (kind.reason, True)))
        row[at.K_REASON] = self.reasons.index(kind.reason)
        row[at.K_EFFECT], row[at.K_USERSPACE] = kind.effect, kind.userspace
        row[at.K_TARGET] = (None, "next", "random").index(kind.target)
        row[at.K_VMM] = self.streams.add(kind.vmm)
        row[at.K_WAKES_FIRST], row[at.K_WAKES_END] = self._wakes(kind.wakes)
        row[at.K_ROW] = row[at.K_ROW2] = -1
        return number

    def _exits(self, thread: VcpuThread) -> None:
        """The first exits, which the loop merges when it begins; without kinds there is one, which never comes."""
        n = self.more_exits(thread) if thread._stream.kinds else 1
        columns = self._columns(thread, n + 1)
        columns[:, 0] = 0
        if not thread._stream.kinds:
            columns[:4, 1] = at.INF, 0, 0, 0
        row = self.a.t[self.number(thread)]
        row[at.S_NEXT], row[at.S_LEN] = 1, n + 1

    def _columns(self, thread: VcpuThread, length: int) -> Integers:
        """Allocates room for ``length`` exits, and tells the loop where it is."""
        kinds, row = len(thread._stream.kinds), self.a.t[self.number(thread)]
        columns = self.columns.get(thread.number)
        if columns is None or columns.shape[1] < length:
            columns = self.columns[thread.number] = np.empty((len(EXIT_COLUMNS) + kinds, length), np.int64)
        where = range(address(columns), address(columns) + columns.nbytes, columns.strides[0])
        row[EXIT_COLUMNS] = where[: len(EXIT_COLUMNS)]
        first = int(row[at.FIRST_KIND])
        self.a.k[first : first + kinds, at.K_COUNTS] = where[len(EXIT_COLUMNS) :]
        return columns

    def more_exits(self, thread: VcpuThread) -> int:
        """Draws more exits, all of which the loop merges; returns how many there are."""
        stream, total = thread._stream, 0
        first, horizon = int(self.a.t[self.number(thread), at.FIRST_KIND]), stream._draw()
        drawn = self.drawn[thread.number] = [
            (kind.drawn_guest, kind.drawn_time, kind.drawn_fpu) for kind in stream.kinds
        ]
        for i, (kind, columns) in enumerate(zip(stream.kinds, drawn, strict=True)):
            n = int(np.searchsorted(kind.drawn_guest, horizon, "right"))
            self.a.k[first + i, DRAWN_COLUMNS] = (*map(address, columns), n)
            kind.drawn_guest, kind.drawn_time, kind.drawn_fpu = (column[n:] for column in columns)
            total += n
        self._columns(thread, total + 1)
        return total

    # CPUs.

    def _cpu(self, cpu: HostCpu) -> None:
        c, a = cpu.id, self.a
        row = a.c[c]
        row[at.THREAD] = row[at.IDLE_THREAD] = c
        row[at.NEED_RESCHED], row[at.BEGUN_AT] = cpu.need_resched, -1
        row[at.NEXT_TICK] = at.INF
        row[at.FIRST_TICK] = self.host.first_tick(c)
        row[at.TICK_DRAWS] = self.streams.add(cpu.tick_times._draws)
        row[at.HAS_DEVICES] = bool(cpu.devices._sources)
        row[at.DUE] = at.INF
        if cpu.devices._sources:
            point_of = lambda components: self.points.of(Point(Walker.kernel_fpu, (components,)))  # noqa: E731
            self.devices[cpu.id] = DeviceInterrupts(cpu.devices, point_of)
            row[at.DUE] = self.more_devices(cpu.id, 0)
        row[at.NEED_RESCHED_LAZY], row[at.HRTICK_TIME] = cpu.need_resched_lazy, cpu.hrtick.time
        row[at.HRTICK_ASKED] = cpu.hrtick.asked
        for mask, array in ((self.host._idle, a.idle), (self.host._overloaded, a.overloaded)):
            if mask >> c & 1:
                array[c // BITS] |= 1 << c % BITS
        a.g[at.IDLE_CPUS] += self.host._idle >> c & 1

    def more_devices(self, cpu: int, n: int) -> int:
        """Draws device interrupts of a CPU up to at least the ``n``-th from now; returns when the next one comes."""
        row = self.a.c[cpu]
        columns = self.devices[cpu].columns(int(row[at.DEVICES]), n + LEAST_DEVICES)
        row[at.DEVICES], row[at.DEVICES_READY] = 0, columns.shape[1]
        for column, of in zip((at.DEVICE_TIMES, at.DEVICE_CYCLES, at.DEVICE_FPU), columns, strict=True):
            row[column] = address(of)
        return int(columns[0, 0])

    # The rest.

    def _globals(self, walkers: int) -> None:
        case, host, g = self.case, self.host, self.a.g
        settings = case.scenario.host
        g[at.CPUS], g[at.WALKERS], g[at.WORDS] = len(host.cpus), walkers, len(self.a.idle)
        g[at.BATCH], g[at.ALL_EVENTS] = host.batch, not host.batch
        g[at.WAKEUP_PREEMPTION], g[at.IDLE_BALANCING] = host.wakeup_preemption, host.idle_balancing
        for draws, column in ((host.interrupt_cycles, at.INTERRUPTS), (host.wakeup_cycles, at.WAKEUPS)):
            g[column] = self.streams.add(draws.__self__)  # type: ignore[attr-defined]
        assert settings.base_slice is not None, "cases are complete"
        g[at.BASE_SLICE], g[at.TICK] = case.cycles(settings.base_slice), case.cycles(1 / settings.hz)
        g[at.SAME_WEIGHT] = not case.scenario.groups and len({thread.weight for thread in self.threads}) <= 1
        g[at.LEFT], g[at.PAUSED_CPU] = len(host.cpus), -1
        g[at.LEVEL] = {"L1": 0, "memory": 2, "touched": -1}[settings.buffer_level]
        if settings.buffer_level == "touched":
            assert settings.l1 is not None, "cases are complete"
            assert settings.l2 is not None, "cases are complete"
            sizes = round(settings.l1 * case.tsc_hz), round(settings.l2 * case.tsc_hz)
            if max(sizes) > MUCH:
                raise Unsupported("a cache whose bytes, times TSC Hz, do not fit in 61 bits")
            g[at.L1_BYTES], g[at.L2_BYTES] = sizes
        g[at.ROUND_ROBIN] = settings.scheduler == "round-robin"
        g[at.EVENTS], g[at.MOST_EVENTS] = at.FIRST_EVENT - 1, len(self.a.heap)
        g[at.AREAS] = self.a.used.shape[1]
        g[at.FORCED_EVERY] = case.cycles(FORCED_EVERY_S)
        g[at.HRTICK] = host.cpus[0].hrtick.enabled
        g[at.HRTICK_LEAST], g[at.HRTICK_SLACK] = case.cycles(LEAST_S), case.cycles(SLACK_S)
        g[at.LAZY], g[at.KERNEL_POINTS] = host.preemption.lazy, host.preemption.kernel_points
        g[at.IN_KERNEL] = host.preemption.in_kernel
        g[at.IDLE_EXIT], g[at.FROM_EVENT] = host.idle_exit, host.counts_from_event

    def _events(self) -> None:
        """Schedules what SimPy schedules at time 0, in the same order: CPUs' starts, and guests' first requests."""
        starting = iter(range(len(self.host.cpus)))
        asking = iter(
            self.number(thread)
            for thread in self.threads
            if isinstance(thread, VcpuThread) and thread._requests.arrivals is not None
        )
        for time, priority, _, _ in sorted(self.host.env._queue, key=lambda each: each[2]):
            if priority == at.URGENT:
                loop.schedule_event(self.a.handle, int(time), at.URGENT, at.CPU_STARTS, next(starting))
            else:
                assert priority == TIMER
                loop.schedule_event(self.a.handle, int(time), at.TIMER, at.ARRIVAL, next(asking))


def _threads(host: Host) -> list[Any]:
    """All threads, by number."""
    found: dict[int, Thread] = {}
    for cpu in host.cpus:
        for thread in cpu.rq.waiting():
            assert isinstance(thread, Thread)
            found[thread.number] = thread
            if isinstance(thread, PipeThread):
                found.update((end.number, end) for end in thread._pipe.ends)
    return [found[number] for number in sorted(found)]
