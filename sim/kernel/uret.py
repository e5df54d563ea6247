"""KVM's user-return MSRs: guest values stay in the CPU until some task returns to user mode there.

Source: arch/x86/kvm/x86.c kvm_set_user_return_msr(), kvm_on_user_return(), Linux v6.19.  The host's value of every slot
is 0 here; a CPU's current value is in ``cpu.uret``.  Carried MSRs whose host value is not restored are not among KVM's
slots; their values are recorded in the same place, and the notifier skips them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sim.kernel.operations import GUEST_ENTRY, URET
from sim.kernel.state import Cpu, Vcpu

if TYPE_CHECKING:
    from sim.kernel.kernel import Kernel


URET_MSRS: Final = {
    "LSTAR": 0xC0000082,
    "CSTAR": 0xC0000083,
    "STAR": 0xC0000081,
    "SYSCALL_MASK": 0xC0000084,
    "EFER": 0xC0000080,
    "TSC_AUX": 0xC0000103,
    "TSX_CTRL": 0x122,
}
"""Numbers by name: arch/x86/kvm/vmx/vmx.c, vmx_uret_msrs_list, Linux v6.18; of them SVM has TSC_AUX (svm.c,
svm_hardware_setup()).  The numbers are those of arch/x86/include/asm/msr-index.h."""

SYSCALL_MSRS: Final = ("STAR", "LSTAR", "SYSCALL_MASK")
"""Loaded for a guest in long mode with EFER.SCE only (vmx_setup_uret_msrs())."""


def load_user_return_msrs(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """The guest's values of all user-return MSRs that it has, before it is entered."""
    for msr, value in vcpu.uret.items():
        if msr in SYSCALL_MSRS and not vcpu.efer_sce:
            continue
        kvm_set_user_return_msr(k, cpu, msr, value, GUEST_ENTRY)


def kvm_set_user_return_msr(k: Kernel, cpu: Cpu, msr: str, value: int, phase: str) -> None:
    """WRMSR unless the value recorded for the CPU is the same; neither the hardware nor the host's value is checked."""
    if cpu.uret.get(msr, 0) == value:
        return
    _wrmsr(k, cpu, msr, value, phase)
    cpu.user_return_notify = cpu.user_return_notify or msr not in k.not_restored


def note_current(k: Kernel, cpu: Cpu, msr: str, value: int) -> None:
    """The MSR was found to hold ``value``: no WRMSR, but the recorded value is right again, and the host's value will
    be restored."""
    cpu.uret[msr] = value
    if value and msr not in k.not_restored:
        cpu.user_return_notify = True


def kvm_on_user_return(k: Kernel, cpu: Cpu) -> None:
    """The notifier: every slot gets the host's value; WRMSR only if the recorded value differs."""
    cpu.user_return_notify = False
    for msr, value in list(cpu.uret.items()):
        if value and msr not in k.not_restored:
            _wrmsr(k, cpu, msr, 0, URET)


def _wrmsr(k: Kernel, cpu: Cpu, msr: str, value: int, phase: str) -> None:
    if msr in k.carried_names:
        k.wrmsr_carried(cpu, k.carried_names.index(msr), value, phase)
    else:
        cpu.record((cpu.current.kind, phase, f"WRMSR({msr})"))
        k.trace_msr(cpu, "write", msr)
    cpu.uret[msr] = value
