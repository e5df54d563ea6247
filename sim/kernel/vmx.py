"""Intel VMX around vcpu_load, VM entry and VM exit.

Source: arch/x86/kvm/vmx/vmx.c vmx_vcpu_load(), vmx_prepare_switch_to_guest(), vmx_prepare_switch_to_host(); Linux v6.19
and, for the IBPB, v6.6.

IA32_S_CET, SSP and the interrupt SSP table are VMCS fields, which hardware switches in the VM entry and the VM exit;
they cost no operation of their own.  PL0-2_SSP are not among them.
"""

from sim.kernel.kernel import Kernel
from sim.kernel.operations import (
    GUEST_ENTRY,
    IBPB,
    IPI,
    L1D_FLUSH,
    MITIGATION,
    RDMSR_KERNEL_GS_BASE,
    RDMSR_SPEC_CTRL,
    TRANSITION,
    VCPU_LOAD,
    VCPU_PUT,
    VMCLEAR,
    VMENTRY,
    VMEXIT,
    VMPTRLD,
    WRMSR_KERNEL_GS_BASE,
    WRMSR_SPEC_CTRL,
)
from sim.kernel.state import Cpu, Vcpu
from sim.kernel.uret import load_user_return_msrs


def vcpu_load(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """The VMCS becomes current here, after a VMCLEAR on the CPU where it was; before v6.16, also the IBPB."""
    kind = cpu.current.kind
    elsewhere = vcpu.vmcs_cpu
    if elsewhere is not None and elsewhere is not cpu:
        cpu.record((kind, VCPU_LOAD, IPI))
        k.call_function_single(elsewhere, (elsewhere.current.kind, VCPU_LOAD, VMCLEAR))
        if elsewhere.current_vmcs is vcpu:
            elsewhere.current_vmcs = None
    vcpu.vmcs_cpu = cpu
    if cpu.current_vmcs is not vcpu:
        cpu.current_vmcs = vcpu
        cpu.record((kind, VCPU_LOAD, VMPTRLD))
        if "ibpb" in k.config.mitigations and k.version.vcpu_switch_ibpb == "vendor vcpu_load":
            cpu.record((kind, VCPU_LOAD, IBPB))


def prepare_switch_to_guest(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """Costs something only before the first entry after vcpu_load or sched-in."""
    if not vcpu.guest_uret_msrs_loaded:
        vcpu.guest_uret_msrs_loaded = True
        load_user_return_msrs(k, cpu, vcpu)
    if vcpu.guest_state_loaded:
        return
    cpu.record((cpu.current.kind, GUEST_ENTRY, WRMSR_KERNEL_GS_BASE))
    k.trace_msr(cpu, "write", "KERNEL_GS_BASE")
    k.run_hooks("prepare_switch_to_guest", cpu, vcpu)
    vcpu.guest_state_loaded = True


def prepare_switch_to_host(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """From vcpu_put and the sched-out notifier."""
    if not vcpu.guest_state_loaded:
        return
    cpu.record((cpu.current.kind, VCPU_PUT, RDMSR_KERNEL_GS_BASE))
    k.trace_msr(cpu, "read", "KERNEL_GS_BASE")
    cpu.record((cpu.current.kind, VCPU_PUT, WRMSR_KERNEL_GS_BASE))
    k.trace_msr(cpu, "write", "KERNEL_GS_BASE")
    k.run_hooks("prepare_switch_to_host", cpu, vcpu)
    vcpu.guest_state_loaded = vcpu.guest_uret_msrs_loaded = False


def vm_entry(k: Kernel, cpu: Cpu) -> None:
    """The L1D flush if it is due, IA32_SPEC_CTRL if the guest's value differs, VERW where needed, and the entry."""
    vcpu = cpu.current.vcpu
    assert vcpu is not None
    if vcpu.l1tf_flush_l1d:
        vcpu.l1tf_flush_l1d = False
        cpu.record((cpu.current.kind, MITIGATION, L1D_FLUSH))
    if k.host_spec_ctrl and vcpu.spec_ctrl != "host":
        cpu.record((cpu.current.kind, MITIGATION, WRMSR_SPEC_CTRL))
    for operation in k.mitigations_at_entry:
        cpu.record((cpu.current.kind, MITIGATION, operation))
    cpu.record((cpu.current.kind, TRANSITION, VMENTRY))


def vm_exit(k: Kernel, cpu: Cpu) -> None:
    """The VM exit itself, and what must come before the first RET; IA32_SPEC_CTRL is read where it is passed through.

    KVM intercepts IA32_SPEC_CTRL until the guest has written another value than 0 (vmx_set_msr()), and does not begin
    again at an INIT (vmx_vcpu_reset(); v6.6.0 to v7.3.4).  It is accessed where there are no tracepoints.
    """
    vcpu = cpu.current.vcpu
    assert vcpu is not None
    cpu.record((cpu.current.kind, TRANSITION, VMEXIT))
    for operation in k.rsb_at_exit:
        cpu.record((cpu.current.kind, MITIGATION, operation))
    if k.host_spec_ctrl and vcpu.boots_with_spec_ctrl != "unwritten":
        cpu.record((cpu.current.kind, MITIGATION, RDMSR_SPEC_CTRL))
    if k.writes_spec_ctrl_at_exit or (k.host_spec_ctrl and vcpu.spec_ctrl != "host"):
        cpu.record((cpu.current.kind, MITIGATION, WRMSR_SPEC_CTRL))
    for operation in k.mitigations_at_exit:
        cpu.record((cpu.current.kind, MITIGATION, operation))
