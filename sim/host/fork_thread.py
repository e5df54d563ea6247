"""Threads that fork, and their children."""

from typing import TYPE_CHECKING, Any

from sim.host.thread import ComputeThread, Steps
from sim.host.waiting import wake
from sim.kernel.state import Task
from sim.kernel.walker import Walker

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu


class ForkThread(ComputeThread):
    """A parent that forks a child every now and then; the child may exec, computes, and exits."""

    __slots__ = ("_child", "_children", "_execs")

    def __init__(self, *args: Any, execs: bool, **given: Any) -> None:
        super().__init__(*args, **given)
        self._execs = execs
        self._children = 0
        self.left = 0

    def _burst_over(self, cpu: "HostCpu") -> Steps:
        cpu.count_forks += 1
        self._children += 1
        number = cpu.schedule.number()
        task: Task = cpu.passes(Walker.fork, number, f"{self.name}.{self._children}")
        self._child = ChildThread(
            self.host, task.name, number, task, self.weight, self.allowed, self.flow, bursts=self._bursts, sleeps=None,
            syscalls=self._syscalls, components=self._components, uses_fpu=self._uses_fpu, execs=self._execs,
            at_ticks=False, waits=None, wakes=self._wakes,
        )  # fmt: skip
        self._child.group = self.group
        self._wrote = True
        self.left = 0
        return (yield from self._syscall(cpu, self._syscalls.next(), self._forked))

    def _forked(self, cpu: "HostCpu") -> Steps:
        yield from cpu.sync()
        self.host.start(self._child, cpu)
        return (yield from self._has_woken_somebody(cpu, self._sleeps_its_time))


class ChildThread(ComputeThread):
    """A child: one burst."""

    __slots__ = ("_execs",)

    def __init__(self, *args: Any, execs: bool, **given: Any) -> None:
        super().__init__(*args, **given)
        self._execs = execs

    def enter(self, cpu: "HostCpu") -> None:
        if self._execs:
            self._execs = False
            cpu.passes(Walker.return_to_user)  # from fork(), to call execve()
            cpu.passes(Walker.exec)
        super().enter(cpu)

    def _burst_over(self, cpu: "HostCpu") -> Steps:
        cpu.count_bursts += 1
        cpu.passes(Walker.exit)
        self.ended = True
        yield from cpu.sync()
        yield from wake(cpu, self._wakes)
        cpu.block(self)
        return False
