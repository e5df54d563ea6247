"""How a CPU's cycles are spent: flow points, kernel work beside them, and what was served within a span."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sim.host.accounts import Accounts
from sim.host.exits import ExitKind
from sim.host.interrupts import Devices, TickTimes
from sim.host.ledger import PricedLedger
from sim.host.schedule import BLOCK, Schedule
from sim.kernel.state import Cpu
from sim.kernel.walker import Walker

if TYPE_CHECKING:
    from sim.host.hrtick import Hrtick
    from sim.host.thread import Thread


class CpuTime(Accounts):
    """A CPU's clock and its accounts, to one of which each cycle of the clock goes."""

    __slots__ = (
        "clock", "cpu", "devices", "due", "hrtick", "id", "ledger", "next_tick", "schedule", "thread", "tick_period",
        "tick_times", "touched", "walker",
    )  # fmt: skip

    clock: int
    cpu: Cpu
    devices: Devices
    due: int
    hrtick: "Hrtick"
    id: int
    ledger: PricedLedger
    next_tick: int
    schedule: Schedule
    thread: "Thread"
    tick_period: int
    tick_times: TickTimes
    touched: int
    walker: Walker

    # The flow.

    def passes(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """A flow point, a method of :class:`~sim.kernel.walker.Walker`, is passed on this CPU; what it returns."""
        self.tell(what, *arguments)
        self.walker.touched[self.id] = self.touched
        return what(self.walker, self.cpu, *arguments)

    def tell(self, what: Callable[..., Any], *arguments: Any) -> None:
        """The same for all strategies but the one that times the host, which knows already."""
        schedule = self.schedule
        if schedule.points is not None:
            schedule.points.append((what, self.id, self.touched, arguments))
            if len(schedule.points) >= BLOCK:
                schedule.walk()

    # Spending time.

    def charge(self) -> None:
        """The operations that the kernel model has recorded since the last call take their time."""
        ledger = self.ledger
        if ledger.charged < len(ledger.pending):
            cycles = ledger.charge()
            self.clock += cycles
            self.operations += cycles

    def spend(self, account: str, cycles: int) -> None:
        """Kernel work beside operations."""
        setattr(self, account, getattr(self, account) + cycles)
        self.clock += cycles
        self.touched += cycles * self.thread.kernel_flow

    def repeat(self, kind: ExitKind, times: int) -> None:
        """Exits of a kind whose cost is known came ``times`` times in a span; the span's settling has their time."""
        assert kind.cost is not None
        self.ledger.repeat(kind.cost.keys, times)
        self.operations += times * kind.cost.cycles
        self.tell(Walker.exits, kind.reason, times)

    def tick_cycles(self, n: int) -> int:
        """How long the ``n``-th tick from now is served."""
        return self.tick_times.cycles(n)

    def absorbed(self, ticks: int, devices: int, cycles: int) -> None:
        """Ticks and device interrupts that were served within a span, for which its settling accounts no time."""
        self.interrupt += cycles
        self.touched += cycles * self.thread.kernel_flow
        self.count_ticks += ticks
        self.count_interrupts += devices
        self.next_tick += ticks * self.tick_period
        self.tick_times.serve(ticks)
        self.devices.serve(devices)
        self._note_due()

    def _note_due(self) -> None:
        """Another tick or device interrupt is the next."""
        self.due = min(self.next_tick, self.devices.time(0), self.hrtick.time)
