"""Named sequences of the flow, from a stated starting point: what `fpswitch flow` shows and what tests compare.

A flow is a generator over a :class:`Scene`: it yields the name of each step just before it takes it.  What runs before
the first yield sets the scene and is not shown.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from sim.errors import InputError, unknown
from sim.kernel import fpu, guest, kvm, process, signal
from sim.kernel.config import Settings, boot
from sim.kernel.integrity import VIOLATIONS, Finding
from sim.kernel.kernel import Kernel
from sim.kernel.operations import Log, Operation, TracePoint
from sim.kernel.state import IDLE_TASK, KTHREAD, Cpu, Task
from sim.kernel.versions import Exit
from sim.xsave.components import AVX, FP, SSE, XTILE

USED: Final = SSE | AVX
"""What threads and guests of a flow write whenever they run, if nothing else is said."""

SspUse = Literal["none", "wrmsr", "xrstors", "rewritten"]


@dataclass(frozen=True, slots=True)
class GuestUse:
    """What the guests of a flow do while they run.

    ``xrstors``: the guest's kernel switches tasks by an XRSTORS of its own.  ``ssp``: it has written the carried MSRs
    once, by WRMSR, or it loads new values by that XRSTORS alone, or neither; "rewritten": once by WRMSR, and new ones
    each time that it runs, by an XRSTORS that loads ``registers``, or by WRMSR where its XRSTORS does not reach them.
    ``registers`` are the components that guests, and user tasks, write whenever they run.  ``fastpath_exit`` is the
    reason of the exit in the flow of that name.  ``tiles``: the guest's task uses AMX.
    """

    xrstors: bool = False
    ssp: SspUse = "wrmsr"
    registers: int = USED
    fastpath_exit: Exit = "wrmsr-tsc-deadline"
    tiles: bool = False


QUIET_GUEST: Final = GuestUse()

SCENE_SETTING: Final = "before the first step"
"""The step of a violation that was found while the scene was set."""


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


def _exits(s: Scene, what: str, reason: str = "external-interrupt") -> Steps:
    yield f"VM exit: {what}"
    kvm.vm_exit(s.k, s.cpu, reason)


def _switches(s: Scene, next: Task, note: str = "") -> Steps:
    yield f"schedule: {_name(s.cpu.current)} -> {_name(next)}{note}"
    process.schedule(s.k, s.cpu, next)


def _name(task: Task) -> str:
    return "idle" if task.kind == IDLE_TASK else task.name


def _runs(s: Scene, who: str = "") -> Steps:
    yield f"{who or s.cpu.current.name} returns to user mode and runs"
    s.back_to_user()


def _enters(s: Scene) -> Steps:
    yield f"{s.cpu.current.name} enters the guest"
    s.run_guest()


def _calls_kvm_run(s: Scene) -> Steps:
    yield "KVM_RUN is called"
    s.enter_kvm_run()
    yield from _enters(s)


def preempt(s: Scene) -> Steps:
    """A vCPU is preempted by a busy user task and comes back on the same CPU."""
    s.start_in_guest()
    yield from _exits(s, "external interrupt")
    yield from _switches(s, s.n)
    yield from _runs(s)
    yield from _switches(s, s.v)
    yield from _enters(s)


def kernel_preempt(s: Scene) -> Steps:
    """A vCPU is preempted by a kernel thread and comes back on the same CPU."""
    s.start_in_guest()
    yield from _exits(s, "external interrupt")
    yield from _switches(s, s.kthread)
    yield from _switches(s, s.v)
    yield from _enters(s)


def halt(s: Scene) -> Steps:
    """A vCPU halts, the CPU idles, and the vCPU is woken on the same CPU."""
    s.start_in_guest()
    yield from _exits(s, "HLT", "hlt")
    yield from _switches(s, s.cpu.idle)
    yield from _switches(s, s.v)
    yield from _enters(s)


def userspace_exit(s: Scene) -> Steps:
    """A vCPU exits to the VMM, which runs user code and calls KVM_RUN again."""
    s.start_in_guest()
    yield from _exits(s, "I/O", "io")
    yield "KVM_RUN returns"
    s.leave_kvm_run("KVM_EXIT_IO")
    yield from _runs(s, "the VMM")
    yield from _calls_kvm_run(s)


def ping_pong(s: Scene) -> Steps:
    """Two user tasks hand work to each other on one CPU (will-it-scale context_switch1); no vCPU."""
    for task in (s.a, s.n, s.a):
        s.run_user(task)
    for task in (s.n, s.a):
        yield from _switches(s, task)
        yield from _runs(s)


def in_kernel_exit(s: Scene) -> Steps:
    """An exit that KVM handles while the vCPU keeps its CPU: the most frequent of all."""
    s.start_in_guest()
    yield from _exits(s, "CPUID", "cpuid")
    yield from _enters(s)


def vcpu_switch(s: Scene) -> Steps:
    """Two vCPUs share a CPU: V is preempted by W in its run loop, and comes back."""
    s.run_first(s.w)
    kvm.vm_exit(s.k, s.cpu, "external-interrupt")
    s.start_in_guest()
    for task in (s.w, s.v):
        yield from _exits(s, "external interrupt")
        yield from _switches(s, task)
        yield from _enters(s)


def migrate(s: Scene) -> Steps:
    """A vCPU is preempted on CPU 0 and goes on on CPU 1."""
    s.run_user(s.b, s.other_cpu)
    s.start_in_guest()
    yield from _exits(s, "external interrupt")
    yield from _switches(s, s.n, " on CPU 0")
    yield "schedule: B -> V on CPU 1"
    process.schedule(s.k, s.other_cpu, s.v)
    yield "V enters the guest on CPU 1"
    s.run_guest(s.other_cpu)


def signal_flow(s: Scene) -> Steps:
    """A signal arrives while a vCPU is scheduled out: KVM_RUN ends with -EINTR, the handler runs, KVM_RUN again."""
    s.start_in_guest()
    kvm.vm_exit(s.k, s.cpu, "external-interrupt")
    process.schedule(s.k, s.cpu, s.n)
    s.back_to_user()
    yield from _switches(s, s.v, ", with a signal pending")
    yield "KVM_RUN returns -EINTR"
    s.leave_kvm_run("restart (4)")
    yield "the signal is delivered"
    signal.deliver(s.k, s.cpu)
    yield "the handler runs in user mode"
    s.back_to_user()
    yield "sigreturn"
    signal.sigreturn(s.k, s.cpu)
    s.back_to_user()
    yield from _calls_kvm_run(s)


def kernel_fpu(s: Scene) -> Steps:
    """An interrupt that uses kernel_fpu_begin() hits a vCPU between VM exit and VM entry."""
    s.start_in_guest()
    yield from _exits(s, "external interrupt")
    yield "softirq: kernel_fpu_begin(), crypto on SSE and AVX, kernel_fpu_end()"
    fpu.kernel_fpu_begin(s.k, s.cpu, SSE | AVX)
    yield from _enters(s)


def fork(s: Scene) -> Steps:
    """A user task forks, and the child runs."""
    s.run_user(s.a)
    yield "A forks"
    child = process.fork(s.k, s.cpu, "C")
    yield from _switches(s, child)
    yield from _runs(s)


def fastpath_exit(s: Scene) -> Steps:
    """An exit that some kernels handle without leaving the fastpath."""
    s.start_in_guest()
    yield f"VM exit: {s.use.fastpath_exit}"
    if kvm.vm_exit(s.k, s.cpu, s.use.fastpath_exit):
        s.guest_works()
        return
    yield "V enters the guest (this kernel has no fastpath for it here)"
    s.run_guest()


def init(s: Scene) -> Steps:
    """The guest's CPU gets an INIT inside KVM_RUN, and later a SIPI; the CPU idles in between."""
    s.start_in_guest()
    yield from _exits(s, "kicked by another vCPU")
    yield "kvm_vcpu_reset()"
    kvm.guest_init(s.k, s.cpu)
    yield from _switches(s, s.cpu.idle, ", until the SIPI")
    yield from _switches(s, s.v)
    yield "V enters the guest, whose CR4.OSXSAVE is 0"
    kvm.vcpu_enter_guest(s.k, s.cpu)


def short_ioctl(s: Scene) -> Steps:
    """A vCPU ioctl other than KVM_RUN is preempted between vcpu_load and vcpu_put; then KVM_RUN."""
    s.start_in_guest()
    kvm.vm_exit(s.k, s.cpu, "io")
    s.leave_kvm_run("KVM_EXIT_IO")
    s.back_to_user()
    yield "KVM_GET_REGS: vcpu_load"
    kvm.vcpu_load(s.k, s.cpu)
    yield from _switches(s, s.n)
    yield from _runs(s)
    yield from _switches(s, s.v)
    yield "KVM_GET_REGS: vcpu_put"
    kvm.vcpu_put(s.k, s.cpu)
    yield from _runs(s, "the VMM")
    yield from _calls_kvm_run(s)


FLOWS: Final[dict[str, Callable[[Scene], Steps]]] = {
    "preempt": preempt,
    "halt": halt,
    "userspace-exit": userspace_exit,
    "ping-pong": ping_pong,
    "kernel-preempt": kernel_preempt,
    "in-kernel-exit": in_kernel_exit,
    "vcpu-switch": vcpu_switch,
    "migrate": migrate,
    "signal": signal_flow,
    "kernel-fpu": kernel_fpu,
    "fork": fork,
    "fastpath-exit": fastpath_exit,
    "init": init,
    "short-ioctl": short_ioctl,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a flow and what ran in it, in order, with the CPU on which it ran."""

    name: str
    events: tuple[tuple[int, Operation | TracePoint], ...]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations alone."""
        return tuple(event for _, event in self.events if isinstance(event, Operation))


@dataclass(frozen=True, slots=True)
class FlowRun:
    """A flow that has been run: its steps, and what the kernel's WARNs and, by step, the integrity check said."""

    kernel: Kernel
    steps: tuple[Step, ...]
    findings: tuple[tuple[str, Finding], ...]
    warnings: tuple[str, ...]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations in order."""
        return tuple(op for step in self.steps for op in step.operations)


def run(name: str, settings: Settings, use: GuestUse = QUIET_GUEST) -> FlowRun:
    """Runs the flow ``name``; :class:`~sim.errors.InputError` for an unknown name or settings that do not fit."""
    if name not in FLOWS:
        raise unknown("flow", name, FLOWS)
    if use.tiles and not settings.guest_amx:
        raise InputError("a guest that uses tiles needs AMX (--guest-amx)")
    events: list[tuple[int, Operation | TracePoint]] = []
    kernel = Kernel(boot(settings), 2, ledger=lambda cpu: Log(cpu, events), tracing=True)
    scene = Scene(kernel, use)
    integrity = kernel.integrity
    assert integrity is not None
    marks: list[tuple[str, int, int]] = []
    before: list[tuple[str, Finding]] = []
    for step in FLOWS[name](scene):
        if not marks:  # what set the scene is not shown, but a violation in it is
            before = [(SCENE_SETTING, each) for each in integrity.findings if each.kind in VIOLATIONS]
            events.clear()
            integrity.clear()
            kernel.warnings.clear()
        marks.append((step, len(events), len(integrity.findings)))
    marks.append(("", len(events), len(integrity.findings)))
    steps, findings = [], before
    for (step, start, found), (_, end, found_then) in pairwise(marks):
        steps.append(Step(step, tuple(events[start:end])))
        findings += [(step, finding) for finding in integrity.findings[found:found_then]]
    return FlowRun(kernel, tuple(steps), tuple(findings), tuple(kernel.warnings))
