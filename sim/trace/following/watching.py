"""The records of a replay for a timeline: who runs, what vCPU threads do, and which operations the model ran when."""

from collections import deque
from collections.abc import Iterator
from typing import IO, Any, Final

from sim.costs.price import Prices
from sim.costs.rows import CostTable
from sim.kernel.config import Config
from sim.kernel.operations import CONTEXT_SWITCH, KVM_RUN, RESTORE_SKIPPED, Ledger, Operation
from sim.trace.following.known import Clock, Step
from sim.trace.following.replay import Recorded, Replay
from sim.trace.following.replica import Replica
from sim.trace.reading.events import CODE, IS_TOLD
from sim.trace.timeline import Ran, Record, Runs, State, VcpuState

DEACTIVATED: Final = CODE["x86_fpu_regs_deactivated"]
SWITCH: Final = CODE["sched_switch"]
KVM_FPU: Final = CODE["kvm_fpu"]
KVM_ENTRY: Final = CODE["kvm_entry"]
KVM_EXIT: Final = CODE["kvm_exit"]

_NO_INSTRUCTION: Final = (CONTEXT_SWITCH, KVM_RUN, RESTORE_SKIPPED)


class Timed(Ledger):
    """A ledger that hands on each operation with the time of the event that the follower judges."""

    __slots__ = ("clock", "cpu", "prices", "records", "tsc_hz")

    def __init__(
        self, cpu: int, clock: Clock, records: "deque[Record]", prices: Prices | None, tsc_hz: float | None
    ) -> None:
        super().__init__()
        self.cpu = cpu
        self.clock = clock
        self.records = records
        self.prices = prices
        self.tsc_hz = tsc_hz
        self.record = self._record

    def _record(self, key: tuple[Any, ...]) -> None:
        operation = Operation(*key)
        if operation.operation in _NO_INSTRUCTION:
            return
        duration = None
        if self.prices is not None and self.tsc_hz:
            duration = round(self.prices[key] * 1e9 / self.tsc_hz)
        self.records.append(Ran(self.clock.ns, self.cpu, operation, duration))


class Watcher:
    """Turns the events of a trace into records of who runs and of vCPU states."""

    def __init__(self) -> None:
        self.running: dict[int, tuple[int, str]] = {}
        self.left: dict[int, int] = {}
        self.vcpus: dict[int, tuple[str, bool]] = {}

    def see(self, step: Step) -> Iterator[Record]:
        """The records of one event."""
        if IS_TOLD[step.event]:
            return
        # A save comes after the switch, from the task that left.
        saved = step.event == DEACTIVATED and step.tid == self.left.get(step.cpu)
        if step.tid >= 0 and not saved:
            yield from self._runs(step.time_ns, step.cpu, step.tid, step.comm)
        if step.event == SWITCH:
            prev, _, state, name, tid, _ = step.values
            sleeps = state != ord("R")
            self.left[step.cpu] = prev
            yield from self._vcpu(step.time_ns, prev, "blocked" if sleeps else "preempted")
            yield from self._runs(step.time_ns, step.cpu, tid, name, always=True)
            if tid in self.vcpus:
                yield from self._vcpu(step.time_ns, tid, "exit" if self.vcpus[tid][1] else "VMM")
        elif step.event == KVM_FPU:
            inside = step.values[0] == "load"
            self._enters(step, inside)
            yield from self._vcpu(step.time_ns, step.tid, "guest" if inside else "VMM")
        elif step.event in (KVM_ENTRY, KVM_EXIT):
            self._enters(step, True)
            yield from self._vcpu(step.time_ns, step.tid, "guest" if step.event == KVM_ENTRY else "exit")

    def _enters(self, step: Step, inside: bool) -> None:
        name, _ = self.vcpus.get(step.tid, (f"{step.comm}-{step.tid}", False))
        self.vcpus[step.tid] = name, inside

    def _runs(self, time_ns: int, cpu: int, tid: int, name: str, *, always: bool = False) -> Iterator[Record]:
        if always or self.running.get(cpu, (-1, ""))[0] != tid:
            self.running[cpu] = (tid, name)
            yield Runs(time_ns, cpu, f"{name}-{tid}" if tid else "idle")

    def _vcpu(self, time_ns: int, tid: int, state: State) -> Iterator[Record]:
        if tid in self.vcpus:
            yield VcpuState(time_ns, self.vcpus[tid][0], state)


def records(
    stream: IO[bytes],
    name: str,
    *,
    cpu: str | None = None,
    kernel: str | None = None,
    strategy: str | None = None,
    costs: CostTable | None = None,
    notes: list[str] | None = None,
) -> Iterator[Record]:
    """The records of a replay of the trace in ``stream``, as it is read.

    Operations are those of ``strategy`` on ``cpu``, by default of the recorded kernel on the recorded machine.  What
    is to be said of that machine, such as a kernel that is none of the model's, goes to ``notes``.
    """
    clock, waiting = Clock(), deque[Record]()
    prices = Prices(costs) if costs else None
    watcher = Watcher()

    def make(recorded: Recorded) -> list[Replica]:
        config = _config(recorded, cpu, kernel, strategy)
        if notes is not None:
            notes.extend(recorded.notes)
        tsc_hz = recorded.header.tsc_hz
        return [Replica(config, ledger=lambda number: Timed(number, clock, waiting, prices, tsc_hz))]

    for step in Replay(stream, name, make_replicas=make, clock=clock).steps():
        yield from waiting
        waiting.clear()
        yield from watcher.see(step)
    yield from waiting


def _config(recorded: Recorded, cpu: str | None, kernel: str | None, strategy: str | None) -> Config:
    if cpu is None and kernel is None and strategy is None:
        return recorded.config
    from sim.trace.whatif import Choices, configs

    chosen = strategy or recorded.config.strategy.name
    return configs(recorded, Choices(cpu, kernel, (chosen,)))[chosen]
