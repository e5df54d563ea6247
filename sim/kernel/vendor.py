"""What VMX and SVM do differently around VM entry and exit.

Source: arch/x86/kvm/vmx/vmx.c vmx_vcpu_load(), vmx_prepare_switch_to_guest(), vmx_prepare_switch_to_host();
arch/x86/kvm/svm/svm.c svm_vcpu_load(), svm_prepare_switch_to_guest(), svm_vcpu_put(); arch/x86/kvm/svm/vmenter.S
__svm_vcpu_run(); Linux v6.19 and, for the IBPB, v6.6.

IA32_S_CET, SSP and the interrupt SSP table are VMCS fields (VMX) or VMCB fields s_cet, ssp and isst_addr (SVM), which
hardware switches in the VM entry and the VM exit; they cost no operation of their own.  PL0-2_SSP are in neither.
"""

from typing import Final

from sim.kernel.kernel import Kernel
from sim.kernel.operations import (
    GUEST_ENTRY,
    IBPB,
    IPI,
    RDMSR_KERNEL_GS_BASE,
    TRANSITION,
    VCPU_LOAD,
    VCPU_PUT,
    VMCLEAR,
    VMENTRY,
    VMEXIT,
    VMLOAD,
    VMPTRLD,
    VMSAVE,
    WRMSR_KERNEL_GS_BASE,
)
from sim.kernel.state import Cpu, Vcpu
from sim.kernel.uret import kvm_set_user_return_msr

SYSCALL_MSRS: Final = ("STAR", "LSTAR", "SYSCALL_MASK")
"""Loaded for a guest in long mode with EFER.SCE only (vmx_setup_uret_msrs())."""


def vcpu_load(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """VMX: the VMCS becomes current here, after a VMCLEAR where it was.  SVM: nothing but, before v6.16, the IBPB."""
    kind = cpu.current.kind
    elsewhere = vcpu.vmcs_cpu
    if k.config.vendor == "vmx" and elsewhere is not None and elsewhere is not cpu:
        cpu.record((kind, VCPU_LOAD, IPI))
        elsewhere.record((elsewhere.current.kind, VCPU_LOAD, VMCLEAR))
        if elsewhere.current_vmcs is vcpu:
            elsewhere.current_vmcs = None
    vcpu.vmcs_cpu = cpu
    if cpu.current_vmcs is not vcpu:
        cpu.current_vmcs = vcpu
        if k.config.vendor == "vmx":
            cpu.record((kind, VCPU_LOAD, VMPTRLD))
        if k.config.settings.mitigations and k.version.vcpu_switch_ibpb == "vendor vcpu_load":
            cpu.record((kind, VCPU_LOAD, IBPB))


def prepare_switch_to_guest(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """Costs something only before the first entry after vcpu_load or sched-in."""
    vmx = k.config.vendor == "vmx"
    if vmx and not vcpu.guest_uret_msrs_loaded:
        vcpu.guest_uret_msrs_loaded = True
        _load_user_return_msrs(k, cpu, vcpu)
    if vcpu.guest_state_loaded:
        return
    if vmx:
        cpu.record((cpu.current.kind, GUEST_ENTRY, WRMSR_KERNEL_GS_BASE))
        k.trace_msr(cpu, "write", "KERNEL_GS_BASE")
    else:
        cpu.record((cpu.current.kind, GUEST_ENTRY, VMSAVE))
        _load_user_return_msrs(k, cpu, vcpu)
    k.run_hooks("prepare_switch_to_guest", cpu, vcpu)
    vcpu.guest_state_loaded = True


def prepare_switch_to_host(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """From vcpu_put and the sched-out notifier; SVM's part is the flag alone."""
    if not vcpu.guest_state_loaded:
        return
    if k.config.vendor == "vmx":
        cpu.record((cpu.current.kind, VCPU_PUT, RDMSR_KERNEL_GS_BASE))
        k.trace_msr(cpu, "read", "KERNEL_GS_BASE")
        cpu.record((cpu.current.kind, VCPU_PUT, WRMSR_KERNEL_GS_BASE))
        k.trace_msr(cpu, "write", "KERNEL_GS_BASE")
    k.run_hooks("prepare_switch_to_host", cpu, vcpu)
    vcpu.guest_state_loaded = vcpu.guest_uret_msrs_loaded = False


def vm_entry(k: Kernel, cpu: Cpu) -> None:
    """The VM entry itself: VMLAUNCH/VMRESUME, or VMLOAD of the guest's VMCB and VMRUN."""
    if k.config.vendor == "svm":
        cpu.record((cpu.current.kind, TRANSITION, VMLOAD))
    cpu.record((cpu.current.kind, TRANSITION, VMENTRY))


def vm_exit(k: Kernel, cpu: Cpu) -> None:
    """The VM exit itself; SVM: then VMSAVE of the guest's VMCB and VMLOAD of the host's."""
    cpu.record((cpu.current.kind, TRANSITION, VMEXIT))
    if k.config.vendor == "svm":
        cpu.record((cpu.current.kind, TRANSITION, VMSAVE))
        cpu.record((cpu.current.kind, TRANSITION, VMLOAD))


def _load_user_return_msrs(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    for msr, value in vcpu.uret.items():
        if msr in SYSCALL_MSRS and not vcpu.efer_sce:
            continue
        kvm_set_user_return_msr(k, cpu, msr, value, GUEST_ENTRY)
