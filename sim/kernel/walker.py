"""The walker leads one kernel model along a schedule, flow point by flow point.

A schedule is a simulated host's or a recorded trace's; neither knows the other. The source of a schedule names threads
by numbers; each walker makes its own tasks, vCPUs and CPUs for them. So any number of walkers, one per strategy, can
follow one schedule, and differ only in their strategies.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sim.kernel import fpu, guest, kvm, process, signal
from sim.kernel.config import Config
from sim.kernel.guests import AS_ALL, GuestChoice
from sim.kernel.kernel import BufferLevel, Kernel
from sim.kernel.operations import Key, Keys, Ledger, LedgerFactory
from sim.kernel.state import USER_TASK, Cpu, Task, Vcpu
from sim.xsave.components import XTILEDATA

FlowPoint = tuple[Callable[..., Any], int, int, tuple[Any, ...]]
"""Something that happens to a CPU: a method of :class:`Walker`, the CPU's number, what has run through its caches so
far, and the method's further arguments."""


def idle_number(cpu: int) -> int:
    """The number of a CPU's idle task; those of threads are not negative."""
    return ~cpu


STATELESS: Final = ("none", "fpstate", "msr", "msr-list")
"""Mechanisms whose operations at each VM exit and entry are always the same, so that exits can be counted together."""


class Walker:
    """One kernel model with its CPUs and tasks, by number. ``buffer_level`` makes the rule that says where a buffer is,
    from what has run through the caches of each CPU (``touched``) up to the current flow point. ``defers_calls``: what
    one CPU asks another to run (VMCLEAR) waits there for :meth:`serve_call`; otherwise it runs at once.
    """

    def __init__(
        self,
        config: Config,
        cpus: int = 0,
        *,
        ledger: LedgerFactory = lambda cpu: Ledger(),
        buffer_level: Callable[[Sequence[int]], BufferLevel] | None = None,
        integrity: bool = True,
        tracing: bool = False,
        defers_calls: bool = False,
    ) -> None:
        self.touched = [0] * cpus
        self.kernel = Kernel(
            config,
            cpus,
            ledger=ledger,
            buffer_level=buffer_level(self.touched) if buffer_level else None,
            integrity=integrity,
            tracing=tracing,
        )
        if defers_calls:
            self.kernel.call_function_single = self.defer_call
        self.cpus: dict[int, Cpu] = {cpu.id: cpu for cpu in self.kernel.cpus}
        self.tasks: dict[int, Task] = {idle_number(cpu.id): cpu.idle for cpu in self.kernel.cpus}
        self.measured: Counter[Key] = Counter()
        self._ledger = ledger
        self._calls: dict[int, deque[Key]] = {}
        self._exits: dict[tuple[Any, ...], Keys] = {}

    @property
    def batches(self) -> bool:
        """Whether VM exits without effect may be counted together under this strategy."""
        hooked = any(self.kernel.at.get(point) for point in ("vm_exit", "vm_entry"))
        strategy = self.kernel.strategy
        return not hooked or (strategy.mechanism in STATELESS and not strategy.lazy)

    def walk(self, points: Iterable[FlowPoint]) -> None:
        """Passes the points, one after the other."""
        cpus, touched = self.cpus, self.touched
        for what, cpu, count, arguments in points:
            touched[cpu] = count
            what(self, cpus[cpu], *arguments)

    # What there is.

    def cpu(self, number: int) -> Cpu:
        """The CPU of that number, which is made when it is first asked for."""
        if number not in self.cpus:
            self.cpus[number] = self.kernel.new_cpu(number, self._ledger(number))
        return self.cpus[number]

    def new_task(self, number: int, name: str, kind: str = USER_TASK) -> Task:
        """A thread that is on no CPU."""
        task = self.tasks[number] = self.kernel.new_task(name, kind)
        return task

    def new_vcpu(self, number: int, name: str, choice: GuestChoice = AS_ALL) -> Vcpu:
        """A vCPU thread; ``choice`` is what is chosen for its guest in particular."""
        vcpu = self.kernel.new_vcpu(name, choice)
        self.tasks[number] = vcpu.task
        return vcpu

    # Flow points of host threads.

    def schedule(self, cpu: Cpu, number: int) -> None:
        """__schedule() to the thread."""
        process.schedule(self.kernel, cpu, self.tasks[number])

    def return_to_user(self, cpu: Cpu) -> None:
        """The current thread returns to user mode."""
        process.return_to_user(self.kernel, cpu)

    def user_writes(self, cpu: Cpu, components: int) -> None:
        """User code of the current thread writes registers; its first use of AMX faults."""
        if components & XTILEDATA and not cpu.current.fpstate.xfeatures & XTILEDATA:
            cpu.unit.xfd_err = XTILEDATA
            fpu.handle_xfd_event(self.kernel, cpu)
        process.user_writes(self.kernel, cpu, components)

    def kernel_fpu(self, cpu: Cpu, components: int = 0) -> None:
        """kernel_fpu_begin() and kernel_fpu_end(), between which the kernel writes ``components``."""
        fpu.kernel_fpu_begin(self.kernel, cpu, components)

    def fork(self, cpu: Cpu, number: int, name: str) -> Task:
        """The current thread forks another one."""
        task = self.tasks[number] = process.fork(self.kernel, cpu, name)
        return task

    def exec(self, cpu: Cpu) -> None:
        """execve() by the current thread."""
        process.exec(self.kernel, cpu)

    def exit(self, cpu: Cpu) -> None:
        """do_exit() by the current thread, up to its last __schedule()."""
        process.exit(self.kernel, cpu)

    def deliver_signal(self, cpu: Cpu) -> None:
        """A signal is delivered to the current thread on its way to user mode."""
        signal.deliver(self.kernel, cpu)

    def sigreturn(self, cpu: Cpu) -> None:
        """The handler of the current thread returns."""
        signal.sigreturn(self.kernel, cpu)

    def free(self, cpu: Cpu, number: int) -> None:
        """A thread that has exited is freed; ``cpu`` is where that is noticed."""
        task = self.tasks.pop(number)
        self.kernel.forget(task)

    def serve_call(self, cpu: Cpu) -> None:
        """The interrupt arrives by which another CPU asked for something that was deferred."""
        cpu.record(self._calls[cpu.id].popleft())

    def defer_call(self, cpu: Cpu, key: Key) -> None:
        """Another CPU asks this one to run an operation."""
        self._calls.setdefault(cpu.id, deque()).append(key)

    # Flow points of vCPU threads.

    def enter_kvm_run(self, cpu: Cpu) -> None:
        """ioctl(KVM_RUN), up to the run loop."""
        kvm.kvm_run(self.kernel, cpu)
        kvm.kvm_load_guest_fpu(self.kernel, cpu)
        kvm.kvm_run_entry(self.kernel, cpu)

    def leave_kvm_run(self, cpu: Cpu) -> None:
        """From the run loop to the end of ioctl(KVM_RUN)."""
        kvm.kvm_run_exit(self.kernel, cpu)
        kvm.kvm_put_guest_fpu(self.kernel, cpu)
        kvm.vcpu_put(self.kernel, cpu)

    def vm_entry(self, cpu: Cpu) -> None:
        """vcpu_enter_guest() of the current thread, up to the VM entry."""
        kvm.vcpu_enter_guest(self.kernel, cpu)

    def vm_exit(self, cpu: Cpu, reason: str, exit_request: bool = False) -> bool:
        """A VM exit, until preemption is on again; True if the fastpath has re-entered the guest. ``exit_request``:
        there is a request to reschedule, with which it does not re-enter.
        """
        return kvm.vm_exit(self.kernel, cpu, reason, exit_request)

    def exits(self, cpu: Cpu, reason: str, times: int) -> None:
        """``count`` VM exits, each with the entry after it and nothing between: one is run, the others are counted."""
        vcpu = cpu.guest
        assert vcpu is not None
        kind = vcpu.id, reason
        keys = self._exits.get(kind)
        if keys is None:
            mark = len(cpu.pending)
            if not kvm.vm_exit(self.kernel, cpu, reason):
                kvm.vcpu_enter_guest(self.kernel, cpu)
            keys = self._exits[kind] = tuple(cpu.pending[mark:])
            times -= 1
        cpu.ledger.repeat(keys, times)

    def guest_boots(self, cpu: Cpu) -> None:
        """The guest's kernel sets up its CPU: the first thing that a vCPU runs."""
        guest.boots(self.kernel, cpu)

    def guest_writes(self, cpu: Cpu, components: int) -> None:
        """The guest writes registers of user components."""
        guest.writes(self.kernel, cpu, components)

    def guest_writes_carried(self, cpu: Cpu) -> None:
        """The guest writes the first of the carried MSRs, or the one that it would lose by XSAVES."""
        guest.writes_carried(self.kernel, cpu, self.kernel.carried.cleared_by_xsaves or 0)

    def guest_switches_task(self, cpu: Cpu, components: int, carried: int) -> None:
        """The guest's kernel switches to a task with ``components``, and ``carried`` new values of the carried MSRs.

        A guest whose IA32_XSS lacks the xfeature writes them by WRMSR, since its XRSTORS does not reach them.
        """
        kernel, vcpu = self.kernel, cpu.guest
        assert vcpu is not None
        guest.switches_task(kernel, cpu, components, carried)
        if carried and not kernel.carried_mask & vcpu.xss:
            guest.writes_carried(kernel, cpu, 0)

    # What was counted.

    def begin(self, cpu: Cpu) -> None:
        """The measurement begins on a CPU."""
        cpu.ledger.restart()

    def end(self, cpu: Cpu) -> None:
        """The measurement is over on a CPU."""
        self.measured.update(cpu.ledger.counts)

    def counts(self) -> Counter[Key]:
        """The operations that ran on all CPUs."""
        total: Counter[Key] = Counter()
        for cpu in self.cpus.values():
            total.update(cpu.ledger.counts)
        return total
