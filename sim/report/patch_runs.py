"""What is found by running a subset of the RFC's patches: values that reach the wrong owner, and how far XSAVES writes.

Nothing here is looked up: a kernel is booted, tasks and a vCPU go through short sequences, and the integrity check says
what it saw.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from sim.kernel import guest, kvm, process
from sim.kernel.config import Config, Settings, boot
from sim.kernel.integrity import VIOLATIONS, WRONG_VALUE, Finding
from sim.kernel.kernel import Kernel
from sim.kernel.masks import BootMasks
from sim.kernel.operations import XSAVES, Log
from sim.kernel.patches import Effect
from sim.kernel.state import Cpu, Task, Vcpu
from sim.xsave.components import AVX512, CET, CET_S, CET_U, COMPONENTS, EXTENDED, FP, SSE, bits


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found by running the sequences: findings by sequence, and warnings of the kernel.

    ``no_cet`` says why the guest had no CET, and so nothing to lose; ``not_run`` why there was no run at all.
    """

    no_cet: str = ""
    findings: tuple[tuple[str, Finding], ...] = ()
    warnings: tuple[str, ...] = ()
    not_run: str = ""

    @property
    def sound(self) -> bool | None:
        """Whether every consumer got its own values; None if nothing was run."""
        return None if self.not_run else not any(finding.kind in VIOLATIONS for _, finding in self.findings)

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        if self.not_run:
            return f"not run: {self.not_run}"
        sequences: dict[str, list[str]] = {}
        for sequence, finding in self.findings:
            where = sequences.setdefault(_finding_text(finding), [])
            where += [] if sequence in where else [sequence]
        parts = [f"{text} ({', '.join(where)})" for text, where in sequences.items()]
        if not parts:
            parts = [f"no CET for guests: {self.no_cet}" if self.no_cet else "sound"]
        if self.warnings:
            parts.append("WARN_ON_FPU at the save of a normal fpstate")
        return "; ".join(parts)


def _finding_text(finding: Finding) -> str:
    if finding.kind == WRONG_VALUE and finding.what == COMPONENTS[CET_U.bit_length() - 1].name:
        return f"task gets another's IA32_U_CET: {finding.kind} {finding.what}"
    if finding.kind == WRONG_VALUE and finding.what == COMPONENTS[CET_S.bit_length() - 1].name:
        return f"guest loses its SSPs: {finding.kind} {finding.what}"
    return f"{finding.kind} {finding.what} of {finding.who}"


# The sequences: a vCPU has written PL0-2_SSP in the guest; what is left of them after each?


def _enter(k: Kernel, cpu: Cpu) -> None:
    """ioctl(KVM_RUN) from user mode to the VM entry."""
    kvm.vcpu_load(k, cpu)
    kvm.kvm_load_guest_fpu(k, cpu)
    kvm.kvm_run_entry(k, cpu)
    kvm.vcpu_enter_guest(k, cpu)


def _preempted(k: Kernel, cpu: Cpu, vcpu: Vcpu, other: Task) -> None:
    kvm.vm_exit(k, cpu, "external-interrupt")
    process.schedule(k, cpu, other)
    process.return_to_user(k, cpu)
    process.user_writes(k, cpu, FP | SSE)
    process.schedule(k, cpu, vcpu.task)
    kvm.vcpu_enter_guest(k, cpu)


def _to_user_space(k: Kernel, cpu: Cpu, vcpu: Vcpu, other: Task) -> None:
    kvm.vm_exit(k, cpu, "io")
    kvm.kvm_run_exit(k, cpu)
    kvm.kvm_put_guest_fpu(k, cpu)
    kvm.vcpu_put(k, cpu)
    process.return_to_user(k, cpu)
    process.user_writes(k, cpu, FP | SSE)
    _enter(k, cpu)


def _halted(k: Kernel, cpu: Cpu, vcpu: Vcpu, other: Task) -> None:
    kvm.vm_exit(k, cpu, "hlt")
    process.schedule(k, cpu, cpu.idle)
    process.schedule(k, cpu, vcpu.task)
    kvm.vcpu_enter_guest(k, cpu)


SEQUENCES: Final[dict[str, Callable[[Kernel, Cpu, Vcpu, Task], None]]] = {
    "preempted by a user task": _preempted,
    "exit to user space": _to_user_space,
    "halt with idle": _halted,
}
"""From a guest that runs back to the same guest, by name."""


def run_vcpus(config: Config) -> Verdict:
    """Runs each sequence on a kernel of its own."""
    findings: list[tuple[str, Finding]] = []
    warnings: list[str] = []
    for name, sequence in SEQUENCES.items():
        k = Kernel(config)
        _run(k, sequence)
        assert k.integrity is not None
        findings += [(name, finding) for finding in k.integrity.findings]
        warnings += [f"{name}: {warning}" for warning in k.warnings]
    no_cet = ""
    if not config.guest_has_cet:
        not_here = not config.version.kvm_cet[config.vendor]
        no_cet = f"KVM v6 on {config.vendor.upper()}" if not_here else "host XSS[12] = 0"
    return Verdict(no_cet, tuple(findings), tuple(warnings))


def _run(k: Kernel, sequence: Callable[[Kernel, Cpu, Vcpu, Task], None], used: int = FP | SSE) -> None:
    """A guest that has written registers of ``used``, and its SSPs if it has CET, goes through a sequence."""
    cpu, vcpu, other = k.cpus[0], k.new_vcpu("v0"), k.new_task("busy")
    process.schedule(k, cpu, vcpu.task)
    process.return_to_user(k, cpu)
    _enter(k, cpu)
    guest.writes(k, cpu, used)
    if vcpu.has_cet:
        vcpu.context.write(cpu.unit, CET_U)
    for index in range(len(k.carried_names)):
        guest.writes_carried(k, cpu, index)
    sequence(k, cpu, vcpu, other)


def forced(config: Config) -> Config:
    """The same kernel, whose KVM gives CET to guests anyway, with all of it in their IA32_XSS."""
    return replace(config, guest_has_cet=True, guest_xss=config.masks.xss & CET)


def run_tasks(cpu: str, masks: BootMasks, built: Effect) -> Verdict:
    """Two tasks that use IBT in user mode share a CPU of a kernel that has these masks.

    It stands for a guest kernel, too: RFC patch 1 is about guest kernels whose CPUID has IBT and no SHSTK.
    """
    config = boot(Settings(cpu=cpu, kernel="rfc", strategy="no-cet"))
    k = Kernel(replace(config, masks=masks, patched=built, restore_mask_normal=masks.restore_mask))
    c, first, second = k.cpus[0], k.new_task("first"), k.new_task("second")
    for task in (first, second, first):
        process.schedule(k, c, task)
        process.return_to_user(k, c)
        process.user_writes(k, c, FP | SSE | CET_U)
    assert k.integrity is not None
    return Verdict(findings=tuple(("two tasks with IBT", finding) for finding in k.integrity.findings))


def furthest_byte(config: Config) -> int:
    """How many bytes of a guest fpstate's area XSAVES writes, for a guest that uses all that it has except AMX."""
    events: list[tuple[int, Any]] = []
    for sequence in SEQUENCES.values():
        k = Kernel(config, ledger=lambda cpu: Log(cpu, events))
        _run(k, sequence, FP | SSE | AVX512 | config.guest_xcr0)
    layout, sizes = config.cpu.compacted(config.guest_xfeatures), config.cpu.sizes
    saved = 0
    for _, operation in events:
        if operation.operation == XSAVES and operation.rfbm == config.guest_xfeatures:
            saved |= operation.components
    return max((layout.offsets[i] + sizes[i] for i in bits[saved & EXTENDED]), default=0)
