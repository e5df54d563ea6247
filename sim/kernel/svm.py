"""AMD SVM around vcpu_load, VM entry and VM exit.

Source: arch/x86/kvm/svm/svm.c svm_vcpu_load(), svm_prepare_switch_to_guest(), svm_vcpu_put();
arch/x86/kvm/svm/vmenter.S __svm_vcpu_run(); Linux v6.19 and, for the IBPB, v6.6.

IA32_S_CET, SSP and the interrupt SSP table are the VMCB fields s_cet, ssp and isst_addr, which hardware switches in
VMRUN and the exit; they cost no operation of their own.  PL0-2_SSP are not among them.
"""

from sim.kernel.kernel import Kernel
from sim.kernel.operations import GUEST_ENTRY, IBPB, MITIGATION, TRANSITION, VCPU_LOAD, VMENTRY, VMEXIT, VMLOAD, VMSAVE
from sim.kernel.state import Cpu, Vcpu
from sim.kernel.uret import load_user_return_msrs


def vcpu_load(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """Before v6.16, the IBPB if another VMCB was current here; nothing else."""
    if cpu.current_vmcs is not vcpu:
        cpu.current_vmcs = vcpu
        if "ibpb" in k.config.mitigations and k.version.vcpu_switch_ibpb == "vendor vcpu_load":
            cpu.record((cpu.current.kind, VCPU_LOAD, IBPB))


def prepare_switch_to_guest(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """VMSAVE of the host's state, once after vcpu_load or sched-in."""
    if vcpu.guest_state_loaded:
        return
    cpu.record((cpu.current.kind, GUEST_ENTRY, VMSAVE))
    load_user_return_msrs(k, cpu, vcpu)
    k.run_hooks("prepare_switch_to_guest", cpu, vcpu)
    vcpu.guest_state_loaded = True


def prepare_switch_to_host(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """From vcpu_put and the sched-out notifier: only the flag."""
    if not vcpu.guest_state_loaded:
        return
    k.run_hooks("prepare_switch_to_host", cpu, vcpu)
    vcpu.guest_state_loaded = vcpu.guest_uret_msrs_loaded = False


def vm_entry(k: Kernel, cpu: Cpu) -> None:
    """VMLOAD of the guest's VMCB, VERW where it is needed, and VMRUN.

    IA32_SPEC_CTRL costs nothing: hardware switches it on CPUs with V_SPEC_CTRL (Zen 3); on older ones, host and guest
    are assumed to have 0.
    """
    cpu.record((cpu.current.kind, TRANSITION, VMLOAD))
    for operation in k.mitigations_at_entry:
        cpu.record((cpu.current.kind, MITIGATION, operation))
    cpu.record((cpu.current.kind, TRANSITION, VMENTRY))


def vm_exit(k: Kernel, cpu: Cpu) -> None:
    """The exit itself, VMSAVE of the guest's VMCB and VMLOAD of the host's, and what must come before the first RET."""
    cpu.record((cpu.current.kind, TRANSITION, VMEXIT))
    cpu.record((cpu.current.kind, TRANSITION, VMSAVE))
    cpu.record((cpu.current.kind, TRANSITION, VMLOAD))
    for operation in (*k.rsb_at_exit, *k.mitigations_at_exit):
        cpu.record((cpu.current.kind, MITIGATION, operation))
