"""Watching a simulated host: what runs on each CPU, what vCPU threads do, and which operations run when.  A watcher
receives what the kernel model's tracepoints say (sched_switch, kvm_fpu, kvm_entry, kvm_exit), and the operations as
they are recorded.  A host that nobody watches passes no tracepoints and has plain ledgers, so that it pays nothing.  A
watched one has one event per VM exit, which changes no result.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

from sim.costs.price import Prices
from sim.host.clock import Clock
from sim.host.cpu import HostCpu
from sim.host.host import Host
from sim.host.ledger import PricedLedger
from sim.host.population import populate
from sim.host.simulation import Measurement, cross, prices_of
from sim.host.vcpu import VcpuThread
from sim.host.warmup import warmup_seconds
from sim.kernel.operations import Operation
from sim.scenario.cases import Case

IDLE: Final = "idle"
"""What a watcher sees running when nothing is."""

STEP_S: Final = 1e-3

State = Literal["guest", "exit", "VMM", "blocked", "woken", "preempted"]
"""A vCPU thread runs its guest; is in KVM, or polls there after HLT; is in the VMM; sleeps; has been woken or was
preempted, and waits for a CPU."""


class Watcher(Protocol):
    """Receives what happens in a measurement; times are TSC cycles since the simulation began."""

    def runs(self, time: int, cpu: int, thread: str) -> None:
        """From now on this thread, or ``IDLE``, runs on the CPU."""

    def vcpu(self, time: int, thread: str, state: State) -> None:
        """From now on a vCPU thread is in this state."""

    def ran(self, time: int, cpu: int, operation: Operation, cycles: int) -> None:
        """An operation began at ``time`` and took ``cycles`` cycles."""


@dataclass(slots=True)
class _Seen:
    """A vCPU thread as it was last seen; ``shown``: the watcher knows."""

    thread: VcpuThread
    state: State = "preempted"
    since: int = 0
    in_kvm_run: bool = False
    shown: bool = False


class _Watch:
    """What the host's ledgers pass on to the watcher, from ``begin`` to ``end``."""

    def __init__(self, watcher: Watcher, begin: int, end: int) -> None:
        self.watcher = watcher
        self._begin = begin
        self._end = end
        self.cpus: list[HostCpu] = []
        self._vcpus: dict[str, _Seen] = {}

    def attach(self, host: Host) -> None:
        """The host is populated, and every thread is still where it starts."""
        self.cpus = host.cpus
        for cpu in host.cpus:
            for thread in cpu.rq.waiting():
                if isinstance(thread, VcpuThread):
                    self._vcpus[thread.task.name] = _Seen(thread)

    def begin(self, cpu: HostCpu) -> None:
        """The measurement begins on a CPU."""
        self.watcher.runs(cpu.clock, cpu.id, self._name(cpu, cpu.thread.task.name))

    def end(self) -> None:
        """The measurement is over: states that have not changed, and wake-ups of threads that still wait."""
        for seen in self._vcpus.values():
            self._note_wakeup(seen)
            self._show(seen)

    def passed(self, number: int, event: str, ahead: int, fields: dict[str, object]) -> None:
        """A tracepoint was passed on a CPU whose clock is ``ahead`` cycles behind, for operations not charged yet."""
        cpu = self.cpus[number]
        time = cpu.clock + ahead
        current = self._vcpus.get(cpu.thread.task.name)
        if event == "sched:sched_switch":
            name = str(fields["next_comm"])
            if cpu.measuring:
                self.watcher.runs(time, number, self._name(cpu, name))
            if current is not None:
                self._is(current, time, "blocked" if cpu.thread.blocked else "preempted")
            if (following := self._vcpus.get(name)) is not None:
                self._note_wakeup(following)
                self._is(following, time, "exit" if following.in_kvm_run else "VMM")
        elif current is None:
            return
        elif event == "kvm:kvm_fpu":
            current.in_kvm_run = fields["load"] == "load"
            self._is(current, time, "exit" if current.in_kvm_run else "VMM")
        elif event == "kvm:kvm_entry":
            self._is(current, time, "guest")
        elif event == "kvm:kvm_exit":
            self._is(current, time, "exit")

    @staticmethod
    def _name(cpu: HostCpu, task: str) -> str:
        return IDLE if task == cpu.idle_thread.task.name else task

    def _note_wakeup(self, seen: _Seen) -> None:
        if seen.state == "blocked" and seen.thread.woken_at >= 0:
            self._is(seen, seen.thread.woken_at, "woken")

    def _is(self, seen: _Seen, time: int, state: State) -> None:
        # A thread is taken over by another CPU before the switch away from it has taken its time.
        time = max(time, seen.since)
        if time > self._begin:
            self._show(seen)
            if time < self._end and state != seen.state:
                self.watcher.vcpu(time, seen.thread.name, state)
        seen.state, seen.since = state, time

    def _show(self, seen: _Seen) -> None:
        """The state in which the measurement finds it."""
        if not seen.shown:
            seen.shown = True
            self.watcher.vcpu(self._begin, seen.thread.name, seen.state)


class _WatchedLedger(PricedLedger):
    """A ledger that notes when each operation begins, and passes it on when it is charged.

    ``_ahead`` are the cycles of the operations that are not charged yet.
    """

    __slots__ = ("_ahead", "_begun", "_number", "_watch")

    def __init__(self, prices: Prices, watch: _Watch, number: int) -> None:
        super().__init__(prices)
        self._watch = watch
        self._number = number
        self._begun: list[tuple[int, tuple[Any, ...], int]] = []
        self._ahead = 0
        self.record = self._record

    def _record(self, key: tuple[Any, ...]) -> None:
        self.pending.append(key)
        cycles = self._price(key)
        self._begun.append((self._watch.cpus[self._number].clock + self._ahead, key, cycles))
        self._ahead += cycles

    def charge(self) -> int:
        if self._watch.cpus[self._number].measuring:
            for time, key, cycles in self._begun:
                self._watch.watcher.ran(time, self._number, Operation(*key), cycles)
        self._begun.clear()
        self._ahead = 0
        return super().charge()

    def trace(self, event: str, **fields: object) -> None:
        self._watch.passed(self._number, event, self._ahead, fields)


def window(case: Case) -> tuple[int, int]:
    """When the measurement begins and ends, in TSC cycles since the simulation began."""
    begin = case.cycles(warmup_seconds(case))
    return begin, begin + case.cycles(case.scenario.run.measure)


def watch(case: Case, strategy: str, replication: int, watcher: Watcher) -> Iterator[None]:
    """Runs what :func:`~sim.host.simulation.simulate` runs, and tells ``watcher``; yields after each millisecond.

    What is told of a CPU is within its own window of the measurement, and in the order of time; what is told of a vCPU
    thread is within the nominal window, in the order of time, and begins with the state that the window finds.

    Raises :class:`~sim.errors.InputError` as ``simulate`` does.
    """
    run = case.scenario.run.model_copy(update={"batch": False})
    case = replace(case, scenario=case.scenario.model_copy(update={"run": run}))
    env, prices = Clock(initial_time=0), prices_of(case.table)
    begin, end = window(case)
    seen = _Watch(watcher, begin, end)
    host = populate(case, strategy, (), replication, env, prices, lambda cpu: _WatchedLedger(prices, seen, cpu))
    seen.attach(host)
    measurement = Measurement(host)

    def begins(cpu: HostCpu) -> None:
        measurement.begin(cpu)
        seen.begin(cpu)

    step = case.cycles(STEP_S)
    for at, what in ((begin, begins), (end, measurement.end)):
        while env.now < at:
            env.run(until=min(at, env.now + step))
            yield
        cross(host, what)
    measurement.finish(case)
    seen.end()
    yield
