"""A simulated run as the events that a kernel would have recorded of it, and those flow points that leave no event.

Events are what the kernel model's tracepoints say, and what the scheduler and KVM do beside it (wake-ups, migrations,
fork, exec, exit, the end of a halt).  Returns to user mode, kernel_fpu_begin() and what code writes into registers
leave no event in Linux; they are recorded under the name of the flow point.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

from sim.costs.price import Prices
from sim.host.clock import Clock
from sim.host.cpu import HostCpu
from sim.host.halting import HaltingVcpu
from sim.host.ledger import PricedLedger
from sim.host.population import populate
from sim.host.simulation import Measurement, cross, prices_of
from sim.host.thread import Thread
from sim.host.watching import STEP_S, window
from sim.host.weights import NICE_0_LOAD
from sim.kernel.config import Config
from sim.kernel.guests import AS_ALL, GuestChoice
from sim.kernel.state import Task
from sim.kernel.walker import FlowPoint, Walker
from sim.scenario.cases import Case

SILENT: Final = {
    Walker.return_to_user: "return_to_user",
    Walker.user_writes: "user_writes",
    Walker.kernel_fpu: "kernel_fpu",
    Walker.guest_boots: "guest_boots",
    Walker.guest_writes: "guest_writes",
    Walker.guest_writes_carried: "guest_writes_carried",
    Walker.guest_switches_task: "guest_switches_task",
    Walker.begin: "begin",
    Walker.end: "end",
}
"""Flow points without an event of their own, by the name of the method; begin and end are those of the measurement."""

_IN_GUEST: Final = (
    Walker.guest_boots,
    Walker.guest_writes,
    Walker.guest_writes_carried,
    Walker.guest_switches_task,
)
"""What a guest does between entry and exit; an exit within, which a strategy makes, belongs to the flow point."""


class Noted(NamedTuple):
    """An event on a CPU, from the thread of that number that runs there (idle: -1), at ``ns`` since the simulation
    began.  ``event`` has its subsystem, or is a flow point's name alone."""

    ns: int
    cpu: int
    thread: int
    event: str
    fields: dict[str, Any]


class ThreadSeen(NamedTuple):
    """A thread that is there from the start: of a kind of :mod:`sim.kernel.state`, with what its guest alone has."""

    number: int
    name: str
    kind: str
    choice: GuestChoice


class _Ledger(PricedLedger):
    """Knows how far its CPU's clock is behind: by the operations that are not charged yet."""

    __slots__ = ("_number", "_recorder", "ahead")

    def __init__(self, prices: Prices, recorder: "Recorder", number: int) -> None:
        super().__init__(prices)
        self.ahead = 0
        self._recorder = recorder
        self._number = number
        self.record = self._record

    def _record(self, key: tuple[Any, ...]) -> None:
        self.pending.append(key)
        self.ahead += self._price(key)

    def charge(self) -> int:
        self.ahead = 0
        return super().charge()

    def trace(self, event: str, **fields: object) -> None:
        self._recorder.passed(self._number, event, fields)


class _Points(list[FlowPoint]):
    """Where a schedule puts its flow points, each before it is passed."""

    def __init__(self, recorder: "Recorder") -> None:
        super().__init__()
        self._recorder = recorder

    def append(self, point: FlowPoint) -> None:
        self._recorder.passes(point)


class Recorder:
    """Runs a case and yields what was recorded, in the order in which the model did it.

    Times are in order for each CPU and for each thread.  Of two CPUs the later event may come first, since a CPU does
    kernel work ahead of the others.  ``threads`` is complete before the first event.
    """

    def __init__(self, case: Case, strategy: str, replication: int) -> None:
        run = case.scenario.run.model_copy(update={"batch": False})
        self._case = replace(case, scenario=case.scenario.model_copy(update={"run": run}))
        prices = prices_of(case.table)
        self._out: list[Noted] = []
        self._after: Noted | None = None
        self._dirty: set[int] = set()
        self._point: Any = None
        self._arguments: tuple[Any, ...] = ()
        self._cpu_ns: dict[int, int] = {}
        self._thread_ns: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._weights: dict[int, int] = {}
        self._host = populate(
            self._case, strategy, (), replication, Clock(initial_time=0), prices,
            lambda cpu: _Ledger(prices, self, cpu), _Points(self),
        )  # fmt: skip
        self._host.listener = self
        self._always = self._host.kernel.host_writes_at_user_return
        self.threads = [
            self._seen(number, task) for number, task in self._host.schedule.timing.tasks.items() if number >= 0
        ]
        for cpu in self._host.cpus:
            for thread in cpu.rq.waiting():
                self._weights[thread.number] = thread.weight  # type: ignore[attr-defined]
            self._note(cpu, "starts", {})

    def _seen(self, number: int, task: Task) -> ThreadSeen:
        self._names[number] = task.name
        choice = self._case.scenario.guests[task.name.rsplit("/", 2)[0]].choice if task.vcpu else AS_ALL
        return ThreadSeen(number, task.name, task.kind, choice)

    def events(self) -> Iterator[Noted]:
        """The run, from the start to the end of the measurement."""
        host, env = self._host, self._host.env
        measurement = Measurement(host)
        begin, end = window(self._case)
        step = self._case.cycles(STEP_S)
        for at, what in ((begin, measurement.begin), (end, measurement.end)):
            while env.now < at:
                env.run(until=min(at, env.now + step))
                yield from self._taken()
            cross(host, what)
        measurement.finish(self._case)
        self._flush()
        yield from self._taken()

    def _taken(self) -> list[Noted]:
        taken, self._out = self._out, []
        return taken

    @property
    def config(self) -> Config:
        """The kernel and the strategy that time the host."""
        return self._host.kernel.config

    def comm(self, number: int) -> str:
        """The name of a thread, idle ones included."""
        return self._names[number] if number >= 0 else f"swapper/{~number}"

    def weight(self, number: int) -> int:
        """The load weight of a thread; that of nice 0 for idle ones."""
        return self._weights.get(number, NICE_0_LOAD)

    # What the host tells.

    def _note(self, cpu: HostCpu, event: str, fields: dict[str, Any], *threads: int, now: bool = True) -> Noted:
        ledger = cpu.ledger
        assert isinstance(ledger, _Ledger)
        ns = max(
            round((cpu.clock + ledger.ahead) * 1e9 / self._case.tsc_hz),
            self._cpu_ns.get(cpu.id, 0),
            *(self._thread_ns.get(each, 0) for each in threads),
        )
        self._cpu_ns[cpu.id] = ns
        for each in threads:
            self._thread_ns[each] = ns
        noted = Noted(ns, cpu.id, cpu.thread.number, event, fields)
        if now:
            self._out.append(noted)
        return noted

    def _flush(self) -> None:
        """What belongs behind the flow point that is over now."""
        if self._after is not None:
            self._out.append(self._after)
            self._after = None

    def passes(self, point: FlowPoint) -> None:
        """A flow point is about to be passed."""
        what, number, _, arguments = point
        self._flush()
        cpu = self._host.cpus[number]
        thread = cpu.thread.number
        self._point, self._arguments = what, arguments
        if what is Walker.return_to_user:
            if number in self._dirty or self._always:
                self._dirty.discard(number)
                self._after = self._note(cpu, SILENT[what], {}, thread, now=False)
        elif what in SILENT:
            names = ("components", "carried")
            fields = dict(zip(names, arguments, strict=False))
            if what is not Walker.user_writes or fields["components"]:
                self._note(cpu, SILENT[what], fields, thread)
        else:
            self._dirty.add(number)
            if what is Walker.exec:
                self._note(cpu, "sched:sched_process_exec", {}, thread)
            elif what is Walker.deliver_signal:
                self._note(cpu, "signal:signal_deliver", {}, thread)
            elif what is Walker.sigreturn:
                self._note(cpu, "syscalls:sys_enter_rt_sigreturn", {}, thread)
            elif what is Walker.exit:
                self._note(cpu, "sched:sched_process_exit", {}, thread)
            elif what is Walker.fork:
                child, name = arguments
                self._names[child], self._weights[child] = name, cpu.thread.weight
                self._after = self._note(cpu, "sched:sched_process_fork", {"child": child}, thread, now=False)
            elif what is Walker.leave_kvm_run:
                self._after = self._note(cpu, "kvm:kvm_userspace_exit", {}, thread, now=False)

    def passed(self, number: int, event: str, fields: dict[str, object]) -> None:
        """A tracepoint was passed."""
        if event.startswith("msr:") or (self._point in _IN_GUEST and event.startswith("kvm:")):
            return
        cpu = self._host.cpus[number]
        threads = [cpu.thread.number]
        if event == "sched:sched_switch":
            following = self._arguments[0]
            state = "R" if not cpu.thread.blocked else "X" if cpu.thread.ended else "S"
            fields = {"next": following, "state": state}
            threads.append(following)
        elif event == "x86_fpu:x86_fpu_regs_activated" and self._point is Walker.return_to_user:
            self._after = None
        elif event.endswith("x86_fpu_copy_dst"):
            fields = {**fields, "of": self._arguments[0]}
        self._note(cpu, event, fields, *(each for each in threads if each >= 0))
        if self._after is not None:
            self._after = self._after._replace(ns=self._cpu_ns[number])

    def woken(self, thread: Thread, waker: HostCpu, *, new: bool) -> None:
        """try_to_wake_up() or wake_up_new_task()."""
        self._flush()
        self._weights[thread.number] = thread.weight
        event = "sched:sched_wakeup_new" if new else "sched:sched_wakeup"
        self._note(waker, event, {"woken": thread.number, "target": thread.cpu.id}, thread.number)

    def migrated(self, thread: Thread, by: HostCpu, source: HostCpu) -> None:
        """set_task_cpu()."""
        self._flush()
        fields = {"moved": thread.number, "source": source.id, "target": thread.cpu.id}
        self._note(by, "sched:sched_migrate_task", fields, thread.number)

    def halt_is_over(self, thread: HaltingVcpu, cpu: HostCpu, cycles: int, *, polled: bool) -> None:
        """kvm_vcpu_wakeup."""
        self._flush()
        fields = {"how": "poll" if polled else "wait", "ns": round(cycles * 1e9 / self._case.tsc_hz)}
        self._note(cpu, "kvm:kvm_vcpu_wakeup", fields, thread.number)
