"""What flows are made of: a kernel with two CPUs, its threads and guests, and the steps that many flows share.

A flow is a generator over a :class:`Scene`: it yields the name of each step just before it takes it.  What runs before
the first yield sets the scene and is not shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from sim.kernel import guest, kvm, process
from sim.kernel.kernel import Kernel
from sim.kernel.state import IDLE_TASK, KTHREAD, Cpu, Task
from sim.kernel.versions import Exit
from sim.xsave.components import AVX, FP, SSE, XTILE

USED: Final = SSE | AVX
"""What threads and guests of a flow write whenever they run, by default."""

SspUse = Literal["none", "wrmsr", "xrstors", "rewritten"]


@dataclass(frozen=True, slots=True)
class GuestUse:
    """What the guests of a flow do while they run.

    ``xrstors``: the guest's kernel switches tasks by an XRSTORS of its own.  ``ssp``: it has written the carried MSRs
    once, by WRMSR, or it loads new values only by that XRSTORS, or neither; "rewritten": once by WRMSR, and new values
    each time it runs, by an XRSTORS that loads ``registers``, or by WRMSR if its XRSTORS does not reach them.
    ``registers`` are the components that guests, and user tasks, write whenever they run.  ``fastpath_exit`` is the
    reason of the exit in the flow of that name.  ``tiles``: the guest's task uses AMX.
    """

    xrstors: bool = False
    ssp: SspUse = "wrmsr"
    registers: int = USED
    fastpath_exit: Exit = "wrmsr-tsc-deadline"
    tiles: bool = False


QUIET_GUEST: Final = GuestUse()


class Scene:
    """A kernel with two CPUs, vCPU threads V and W, busy user tasks A, B and N, and a kernel thread K."""

    def __init__(self, kernel: Kernel, use: GuestUse) -> None:
        self.k = kernel
        self.use = use
        self.cpu, self.other_cpu = kernel.cpus
        self.vcpu, self.other_vcpu = kernel.new_vcpu("V"), kernel.new_vcpu("W")
        self.v, self.w = self.vcpu.task, self.other_vcpu.task
        self.a, self.b, self.n = (kernel.new_task(name) for name in "ABN")
        self.kthread = kernel.new_task("K", KTHREAD)

    def run_user(self, task: Task, cpu: Cpu | None = None) -> None:
        """``task`` is switched in, returns to user mode and writes registers."""
        cpu = cpu or self.cpu
        process.schedule(self.k, cpu, task)
        self.back_to_user(cpu)

    def back_to_user(self, cpu: Cpu | None = None) -> None:
        """The current task returns to user mode and writes registers."""
        cpu = cpu or self.cpu
        process.return_to_user(self.k, cpu)
        process.user_writes(self.k, cpu, self.use.registers)

    def enter_kvm_run(self) -> None:
        """The VMM calls KVM_RUN: up to the run loop."""
        kvm.kvm_run(self.k, self.cpu)
        kvm.kvm_load_guest_fpu(self.k, self.cpu)
        kvm.kvm_run_entry(self.k, self.cpu)

    def leave_kvm_run(self, reason: str) -> None:
        """From the run loop to the exit to user space."""
        kvm.kvm_run_exit(self.k, self.cpu)
        kvm.kvm_put_guest_fpu(self.k, self.cpu)
        kvm.vcpu_put(self.k, self.cpu)
        kvm.kvm_userspace_exit(self.k, self.cpu, reason)

    def run_guest(self, cpu: Cpu | None = None) -> None:
        """VM entry, and the guest does what :class:`GuestUse` says."""
        cpu = cpu or self.cpu
        kvm.vcpu_enter_guest(self.k, cpu)
        self.guest_works(cpu)

    def guest_works(self, cpu: Cpu | None = None) -> None:
        """The guest runs for a while."""
        cpu, use = cpu or self.cpu, self.use
        assert cpu.guest is not None
        used = use.registers | XTILE if use.tiles else use.registers
        if use.xrstors or use.ssp in ("xrstors", "rewritten"):
            loads = 0 if use.ssp in ("none", "wrmsr") else len(self.k.carried_names)
            x87 = 0 if use.ssp == "rewritten" else FP
            guest.switches_task(self.k, cpu, x87 | used, carried=loads)
        if use.ssp == "rewritten" and not self.k.carried_mask & cpu.guest.xss:  # its XRSTORS does not reach them
            for index in range(len(self.k.carried_names)):
                guest.writes_carried(self.k, cpu, index)
        guest.writes(self.k, cpu, used)

    def run_first(self, task: Task) -> None:
        """A vCPU thread gets to its guest for the first time; the guest boots and writes its SSPs."""
        self.run_user(task)
        self.enter_kvm_run()
        kvm.vcpu_enter_guest(self.k, self.cpu)
        guest.boots(self.k, self.cpu)
        if self.use.tiles:
            guest.uses_disabled_amx(self.k, self.cpu)
        self.guest_works()
        if self.use.ssp in ("wrmsr", "rewritten"):
            for index in range(len(self.k.carried_names)):
                guest.writes_carried(self.k, self.cpu, index)

    def start_in_guest(self) -> None:
        """N and A have run; V is in its guest, entered for the second time since KVM_RUN."""
        self.run_user(self.a)
        self.run_user(self.n)
        self.run_first(self.v)
        kvm.vm_exit(self.k, self.cpu, "external-interrupt")
        process.schedule(self.k, self.cpu, self.n)
        self.back_to_user()
        process.schedule(self.k, self.cpu, self.v)
        self.run_guest()


Steps = Iterator[str]


def exits(s: Scene, what: str, reason: str = "external-interrupt") -> Steps:
    """A VM exit."""
    yield f"VM exit: {what}"
    kvm.vm_exit(s.k, s.cpu, reason)


def switches(s: Scene, next: Task, note: str = "") -> Steps:
    """The current task is switched out for ``next``."""
    yield f"schedule: {_name(s.cpu.current)} -> {_name(next)}{note}"
    process.schedule(s.k, s.cpu, next)


def _name(task: Task) -> str:
    return "idle" if task.kind == IDLE_TASK else task.name


def runs(s: Scene, who: str = "") -> Steps:
    """The current task returns to user mode."""
    yield f"{who or s.cpu.current.name} returns to user mode and runs"
    s.back_to_user()


def enters(s: Scene) -> Steps:
    """The current vCPU thread enters its guest."""
    yield f"{s.cpu.current.name} enters the guest"
    s.run_guest()


def calls_kvm_run(s: Scene) -> Steps:
    """The VMM calls KVM_RUN, up to the guest."""
    yield "KVM_RUN is called"
    s.enter_kvm_run()
    yield from enters(s)
