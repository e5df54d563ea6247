"""The idle thread of a CPU."""

from typing import TYPE_CHECKING

from sim.host.exits import INF
from sim.host.thread import Thread
from sim.kernel.state import Task

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu
    from sim.host.host import Host


class IdleThread(Thread):
    """What a CPU runs when there is nothing to run; never in a run queue."""

    __slots__ = ()

    def __init__(self, host: "Host", number: int, task: Task) -> None:
        super().__init__(host, task.name, number, task, 1024, 0, 0)
        self.account = "idle"
        self.left = INF
        self.blocked = False

    def enter(self, cpu: "HostCpu") -> None:
        """Idle stays in the kernel."""

    def leave(self, cpu: "HostCpu") -> None:
        """The CPU takes its time to leave the idle state."""
        cpu.spend("idle", self.host.idle_exit)

    def settle(self, cpu: "HostCpu", begin: int, until: int, soft: bool = False) -> int:
        end = super().settle(cpu, begin, until)
        self.left = INF
        return end
