"""Named sequences of the flow, from a stated starting point: what `fpswitch flow` shows and what tests compare."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from sim.errors import InputError, unknown
from sim.kernel import fpu, kvm, process, signal
from sim.kernel.config import Settings, boot
from sim.kernel.integrity import VIOLATIONS, Finding
from sim.kernel.kernel import Kernel
from sim.kernel.operations import Log, Operation, TracePoint
from sim.kernel.scene import QUIET_GUEST, GuestUse, Scene, Steps, calls_kvm_run, enters, exits, runs, switches
from sim.kernel.selftests import GUEST_NEEDS_AMX, NEEDS_AMX, SELFTESTS
from sim.xsave.components import AVX, SSE

SCENE_SETTING: Final = "before the first step"
"""The step of a violation that was found while the scene was set."""


def preempt(s: Scene) -> Steps:
    """A vCPU is preempted by a busy user task and comes back on the same CPU."""
    s.start_in_guest()
    yield from exits(s, "external interrupt")
    yield from switches(s, s.n)
    yield from runs(s)
    yield from switches(s, s.v)
    yield from enters(s)


def kernel_preempt(s: Scene) -> Steps:
    """A vCPU is preempted by a kernel thread and comes back on the same CPU."""
    s.start_in_guest()
    yield from exits(s, "external interrupt")
    yield from switches(s, s.kthread)
    yield from switches(s, s.v)
    yield from enters(s)


def halt(s: Scene) -> Steps:
    """A vCPU halts, the CPU idles, and the vCPU is woken on the same CPU."""
    s.start_in_guest()
    yield from exits(s, "HLT", "hlt")
    yield from switches(s, s.cpu.idle)
    yield from switches(s, s.v)
    yield from enters(s)


def halt_c6(s: Scene) -> Steps:
    """As halt, but the CPU idles in C6, at whose entry Linux releases tiles that are in use.

    drivers/idle/intel_idle.c, spr_cstates[] (Sapphire and Emerald Rapids), CPUIDLE_FLAG_INIT_XSTATE; in torvalds/linux
    at 00433eae1771.
    """
    s.start_in_guest()
    yield from exits(s, "HLT", "hlt")
    yield from switches(s, s.cpu.idle)
    yield "the CPU enters C6"
    fpu.fpu_idle_fpregs(s.k, s.cpu)
    yield from switches(s, s.v)
    yield from enters(s)


def userspace_exit(s: Scene) -> Steps:
    """A vCPU exits to the VMM, which runs user code and calls KVM_RUN again."""
    s.start_in_guest()
    yield from exits(s, "I/O", "io")
    yield "KVM_RUN returns"
    s.leave_kvm_run("KVM_EXIT_IO")
    yield from runs(s, "the VMM")
    yield from calls_kvm_run(s)


def ping_pong(s: Scene) -> Steps:
    """Two user tasks hand work to each other on one CPU (will-it-scale context_switch1); no vCPU."""
    for task in (s.a, s.n, s.a):
        s.run_user(task)
    for task in (s.n, s.a):
        yield from switches(s, task)
        yield from runs(s)


def in_kernel_exit(s: Scene) -> Steps:
    """An exit that KVM handles while the vCPU keeps its CPU: the most frequent of all."""
    s.start_in_guest()
    yield from exits(s, "CPUID", "cpuid")
    yield from enters(s)


def vcpu_switch(s: Scene) -> Steps:
    """Two vCPUs share a CPU: V is preempted by W in its run loop, and comes back."""
    s.run_first(s.w)
    kvm.vm_exit(s.k, s.cpu, "external-interrupt")
    s.start_in_guest()
    for task in (s.w, s.v):
        yield from exits(s, "external interrupt")
        yield from switches(s, task)
        yield from enters(s)


def migrate(s: Scene) -> Steps:
    """A vCPU is preempted on CPU 0 and continues on CPU 1."""
    s.run_user(s.b, s.other_cpu)
    s.start_in_guest()
    yield from exits(s, "external interrupt")
    yield from switches(s, s.n, " on CPU 0")
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
    yield from switches(s, s.v, ", with a signal pending")
    yield "KVM_RUN returns -EINTR"
    s.leave_kvm_run("restart (4)")
    yield "the signal is delivered"
    signal.deliver(s.k, s.cpu)
    yield "the handler runs in user mode"
    s.back_to_user()
    yield "sigreturn"
    signal.sigreturn(s.k, s.cpu)
    s.back_to_user()
    yield from calls_kvm_run(s)


def kernel_fpu(s: Scene) -> Steps:
    """An interrupt that uses kernel_fpu_begin() hits a vCPU between VM exit and VM entry."""
    s.start_in_guest()
    yield from exits(s, "external interrupt")
    yield "softirq: kernel_fpu_begin(), crypto on SSE and AVX, kernel_fpu_end()"
    fpu.kernel_fpu_begin(s.k, s.cpu, SSE | AVX)
    yield from enters(s)


def fork(s: Scene) -> Steps:
    """A user task forks, and the child runs."""
    s.run_user(s.a)
    yield "A forks"
    child = process.fork(s.k, s.cpu, "C")
    yield from switches(s, child)
    yield from runs(s)


def fastpath_exit(s: Scene) -> Steps:
    """An exit that some kernels handle without leaving the fastpath."""
    s.start_in_guest()
    yield f"VM exit: {s.use.fastpath_exit}"
    if kvm.vm_exit(s.k, s.cpu, s.use.fastpath_exit):
        s.guest_works()
        return
    yield "V enters the guest (no fastpath for it here)"
    s.run_guest()


def init(s: Scene) -> Steps:
    """The guest's CPU gets an INIT inside KVM_RUN, and later a SIPI; the CPU idles in between."""
    s.start_in_guest()
    yield from exits(s, "kicked by another vCPU")
    yield "kvm_vcpu_reset()"
    kvm.guest_init(s.k, s.cpu)
    yield from switches(s, s.cpu.idle, ", until the SIPI")
    yield from switches(s, s.v)
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
    yield from switches(s, s.n)
    yield from runs(s)
    yield from switches(s, s.v)
    yield "KVM_GET_REGS: vcpu_put"
    kvm.vcpu_put(s.k, s.cpu)
    yield from runs(s, "the VMM")
    yield from calls_kvm_run(s)


FLOWS: Final[dict[str, Callable[[Scene], Steps]]] = {
    "preempt": preempt,
    "halt": halt,
    "halt-c6": halt_c6,
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


EVERY_FLOW: Final = FLOWS | SELFTESTS


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
    """A flow that has been run: its steps, the kernel's WARNs and, by step, the findings of the integrity check."""

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
    if name not in EVERY_FLOW:
        raise unknown("flow", name, EVERY_FLOW)
    if name in GUEST_NEEDS_AMX:
        settings, use = replace(settings, guest_amx=True), replace(use, tiles=True)
    if use.tiles and not settings.guest_amx:
        raise InputError("a guest that uses tiles needs AMX (--guest-amx)")
    config = boot(settings)
    if name in NEEDS_AMX and not config.xfd:
        raise InputError(f"{name} is about AMX, and {config.cpu.name} has none")
    events: list[tuple[int, Operation | TracePoint]] = []
    kernel = Kernel(config, 2, ledger=lambda cpu: Log(cpu, events), tracing=True)
    scene = Scene(kernel, use)
    integrity = kernel.integrity
    assert integrity is not None
    marks: list[tuple[str, int, int]] = []
    before: list[tuple[str, Finding]] = []
    for step in EVERY_FLOW[name](scene):
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
