"""KVM's run loop: KVM_RUN, vcpu_load and vcpu_put, VM entry and VM exit, and what is switched where.

Source: arch/x86/kvm/x86.c and virt/kvm/kvm_main.c, Linux v6.19; what v6.6 and v6.18 do elsewhere is a field of
:class:`~sim.kernel.versions.KernelVersion`.  What differs between VMX and SVM
is in :mod:`sim.kernel.vmx` and :mod:`sim.kernel.svm`.

Each function is a step that nothing preempts; between two calls preemption is on, unless the CPU is in the guest.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from sim.kernel import carriers, fpu, svm, vmx, vpmu
from sim.kernel.kernel import IllegalFlow, Kernel
from sim.kernel.mitigations import UNSAFE_EXITS
from sim.kernel.operations import (
    GUEST_ENTRY,
    GUEST_EXIT,
    IBPB,
    KVM_FPU_GET,
    KVM_RUN,
    MSR_IOCTL,
    RDMSR_XFD,
    RDMSR_XFD_ERR,
    RDPKRU,
    VCPU_LOAD,
    WRMSR_XFD_ERR,
    WRMSR_XSS,
    WRPKRU,
    XSETBV,
    XSS_PHASE,
)
from sim.kernel.state import Cpu, Vcpu
from sim.xsave.area import INIT
from sim.xsave.components import bits


class KvmX86Ops(Protocol):
    """What a vendor's module has (struct kvm_x86_ops)."""

    def vcpu_load(self, k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None: ...
    def prepare_switch_to_guest(self, k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None: ...
    def prepare_switch_to_host(self, k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None: ...
    def vm_entry(self, k: Kernel, cpu: Cpu) -> None: ...
    def vm_exit(self, k: Kernel, cpu: Cpu) -> None: ...


KVM_X86_OPS: Final[Mapping[str, KvmX86Ops]] = {"vmx": vmx, "svm": svm}


def _vcpu_of_current(cpu: Cpu, *, loaded: bool = True, in_guest: bool = False) -> Vcpu:
    vcpu = cpu.current.vcpu
    if vcpu is None or (cpu.current.notifier is vcpu) != loaded or (cpu.guest is vcpu) != in_guest:
        raise IllegalFlow(f"{cpu!r}, {vcpu!r}: expected loaded={loaded}, in guest={in_guest}")
    return vcpu


# vcpu_load, vcpu_put and the preempt notifiers.


def vcpu_load(k: Kernel, cpu: Cpu) -> None:
    """The start of every vCPU ioctl: registers the preempt notifier, then kvm_arch_vcpu_load()."""
    vcpu = _vcpu_of_current(cpu, loaded=False)
    cpu.current.notifier = vcpu
    kvm_arch_vcpu_load(k, cpu, vcpu)


def kvm_arch_vcpu_load(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """The vendor's part, the IBPB if another vCPU ran here last, host_pkru = RDPKRU."""
    KVM_X86_OPS[k.vendor].vcpu_load(k, cpu, vcpu)
    if cpu.last_vcpu is not vcpu:
        if "ibpb" in k.config.mitigations and k.version.vcpu_switch_ibpb == "kvm_arch_vcpu_load":
            if k.defers_ibpb:
                vcpu.needs_ibpb = True
            else:
                cpu.record((cpu.current.kind, VCPU_LOAD, IBPB))
        cpu.last_vcpu = vcpu
    vcpu.l1tf_flush_l1d = k.flushes_l1d
    if k.pku:
        cpu.record((cpu.current.kind, VCPU_LOAD, RDPKRU))
        vcpu.host_pkru = cpu.unit.pkru


def vcpu_put(k: Kernel, cpu: Cpu) -> None:
    """The end of every vCPU ioctl."""
    vcpu = _vcpu_of_current(cpu)
    KVM_X86_OPS[k.vendor].prepare_switch_to_host(k, cpu, vcpu)
    cpu.current.notifier = None


def kvm_sched_out(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """The preempt notifier, before the XSAVES of __switch_to()."""
    k.run_hooks("sched_out", cpu, vcpu)
    KVM_X86_OPS[k.vendor].prepare_switch_to_host(k, cpu, vcpu)


def kvm_sched_in(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """The preempt notifier of the task that has just been switched to."""
    k.run_hooks("sched_in", cpu, vcpu)
    kvm_arch_vcpu_load(k, cpu, vcpu)


# ioctl(KVM_RUN): vcpu_load, kvm_load_guest_fpu, the loop, kvm_put_guest_fpu, vcpu_put.


def kvm_run(k: Kernel, cpu: Cpu) -> None:
    """ioctl(KVM_RUN) is called: the system call itself, and vcpu_load."""
    cpu.record((cpu.current.kind, VCPU_LOAD, KVM_RUN))
    vcpu_load(k, cpu)


def kvm_load_guest_fpu(k: Kernel, cpu: Cpu) -> None:
    """The swap to the guest fpstate."""
    vcpu = _vcpu_of_current(cpu)
    if vcpu.fpstate.in_use:
        raise IllegalFlow(f"{vcpu!r}: the guest fpstate is loaded already")
    fpu.fpu_swap_kvm_fpstate(k, cpu, vcpu, enter_guest=True)
    if k.tracing:
        cpu.ledger.trace("kvm:kvm_fpu", load="load")


def kvm_put_guest_fpu(k: Kernel, cpu: Cpu) -> None:
    """The swap back to the task's fpstate."""
    vcpu = _vcpu_of_current(cpu)
    if not vcpu.fpstate.in_use:
        raise IllegalFlow(f"{vcpu!r}: the guest fpstate is not loaded")
    fpu.fpu_swap_kvm_fpstate(k, cpu, vcpu, enter_guest=False)
    if k.tracing:
        cpu.ledger.trace("kvm:kvm_fpu", load="unload")


def kvm_run_entry(k: Kernel, cpu: Cpu) -> None:
    """Right after kvm_load_guest_fpu() in kvm_arch_vcpu_ioctl_run()."""
    k.run_hooks("kvm_run_entry", cpu, _vcpu_of_current(cpu))


def kvm_run_exit(k: Kernel, cpu: Cpu) -> None:
    """Right before kvm_put_guest_fpu() in kvm_arch_vcpu_ioctl_run()."""
    k.run_hooks("kvm_run_exit", cpu, _vcpu_of_current(cpu))


def kvm_userspace_exit(k: Kernel, cpu: Cpu, reason: str) -> None:
    """The tracepoint after vcpu_put."""
    if k.tracing:
        cpu.ledger.trace("kvm:kvm_userspace_exit", reason=reason)


# One iteration of vcpu_run: vcpu_enter_guest.


def vcpu_enter_guest(k: Kernel, cpu: Cpu) -> None:
    """From prepare_switch_to_guest() to the VM entry."""
    vcpu = _prepare_entry(k, cpu)
    if vcpu.needs_ibpb:
        vcpu.needs_ibpb = False
        cpu.record((cpu.current.kind, GUEST_ENTRY, IBPB))
    if cpu.current.need_fpu_load:
        fpu.switch_fpu_return(k, cpu, GUEST_ENTRY)
    k.run_hooks("fpu_loaded", cpu, vcpu)
    if vcpu.xfd_err:
        cpu.record((cpu.current.kind, GUEST_ENTRY, WRMSR_XFD_ERR))
        k.trace_msr(cpu, "write", "XFD_ERR")
        cpu.unit.xfd_err = vcpu.xfd_err
    if not k.swaps_in_vcpu_run:
        kvm_load_xfeatures(k, cpu, vcpu, guest=True)
    vpmu.run(cpu, vcpu, k.vpmu_load[vcpu.vpmu_in_use])
    if not k.swaps_in_vcpu_run:
        kvm_load_guest_pkru(k, cpu, vcpu)
    k.run_hooks("loop_entry", cpu, vcpu)
    _vcpu_run_entry(k, cpu, vcpu)


def cancel_entry(k: Kernel, cpu: Cpu) -> None:
    """vcpu_enter_guest() that finds an exit request after prepare_switch_to_guest(), and goes back to the loop."""
    _prepare_entry(k, cpu)


def _prepare_entry(k: Kernel, cpu: Cpu) -> Vcpu:
    vcpu = _vcpu_of_current(cpu)
    if not vcpu.fpstate.in_use:
        raise IllegalFlow(f"{vcpu!r}: VM entry outside KVM_RUN")
    KVM_X86_OPS[k.vendor].prepare_switch_to_guest(k, cpu, vcpu)
    return vcpu


class ExitPath(NamedTuple):
    """Everything that the reason of a VM exit decides: whether the fastpath re-enters, and what else is done.

    ``emulates``: the fastpath does, an instruction, which keeps it from guests whose mediated vPMU counts instructions.
    """

    fastpath: bool
    flushes_l1d: bool
    pmu: bool
    nm: bool
    emulates: bool


def exit_path(k: Kernel, reason: str, exit_request: bool = False) -> ExitPath:
    """How an exit is handled.

    ``reason`` is one of :data:`~sim.kernel.versions.Exit` for what some kernel handles in the fastpath, or anything
    else.  ``exit_request`` is what kvm_vcpu_exit_request() says after the fastpath: it leaves the loop then.
    """
    fastpath = reason in k.fastpath and not exit_request
    emulates = fastpath and reason in vpmu.EMULATED_IN_FASTPATH
    flushes_l1d = k.flushes_l1d and reason in UNSAFE_EXITS
    return ExitPath(fastpath, flushes_l1d, reason == "pmu", reason == "nm", emulates)


def vm_exit(k: Kernel, cpu: Cpu, reason: str, exit_request: bool = False) -> bool:
    """A VM exit, up to the point where interrupts and preemption are on again; True if the fastpath re-entered.

    ``reason`` and ``exit_request`` are those of :func:`exit_path`.
    """
    return exit_by(k, cpu, exit_path(k, reason, exit_request), reason)


def exit_by(k: Kernel, cpu: Cpu, path: ExitPath, reason: str) -> bool:
    """The same on a path that is known; the reason is only what the tracepoint says."""
    vcpu = _vcpu_of_current(cpu, in_guest=True)
    _vcpu_run_exit(k, cpu, vcpu, reason)
    if path.fastpath and not (path.emulates and vcpu.counts_instructions):
        _vcpu_run_entry(k, cpu, vcpu)
        return True
    if path.flushes_l1d:
        vcpu.l1tf_flush_l1d = True
    k.run_hooks("loop_exit", cpu, vcpu)
    if not k.swaps_in_vcpu_run:
        kvm_load_host_pkru(k, cpu, vcpu)
    vpmu.run(cpu, vcpu, k.vpmu_put[vcpu.vpmu_in_use])
    if not k.swaps_in_vcpu_run:
        kvm_load_xfeatures(k, cpu, vcpu, guest=False)
    if vcpu.xfd_passthrough:
        cpu.record((cpu.current.kind, GUEST_EXIT, RDMSR_XFD))
        k.trace_msr(cpu, "read", "XFD")
        vcpu.fpstate.xfd = cpu.xfd_state = cpu.unit.xfd
    if path.pmu:
        vpmu.overflow(k, cpu)
    if path.nm and vcpu.fpstate.xfd:  # handle_nm_fault_irqoff(); since v6.18 also CR0.TS = 0, which guests have here
        cpu.record((cpu.current.kind, GUEST_EXIT, RDMSR_XFD_ERR))
        k.trace_msr(cpu, "read", "XFD_ERR")
        vcpu.xfd_err = cpu.unit.xfd_err
    if vcpu.xfd_err:
        cpu.record((cpu.current.kind, GUEST_EXIT, WRMSR_XFD_ERR))
        k.trace_msr(cpu, "write", "XFD_ERR")
        cpu.unit.xfd_err = 0
    cpu.ibpb_exit_to_user = k.vmscape
    return False


def _vcpu_run_entry(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """The vendor's vcpu_run(), first half."""
    if k.tracing:
        cpu.ledger.trace("kvm:kvm_entry", vcpu=vcpu.name)
    if k.swaps_in_vcpu_run:
        kvm_load_xfeatures(k, cpu, vcpu, guest=True)
        kvm_load_guest_pkru(k, cpu, vcpu)
    k.run_hooks("vm_entry", cpu, vcpu)
    KVM_X86_OPS[k.vendor].vm_entry(k, cpu)
    cpu.unit.enter_mode(cpl=0, nonroot=True)
    cpu.guest = vcpu
    if k.host_consumes_carried:
        cpu.carried_cache = None  # the guest may write SSP0 without an exit
    if k.integrity:
        k.integrity.vm_entry(cpu, vcpu)


def _vcpu_run_exit(k: Kernel, cpu: Cpu, vcpu: Vcpu, reason: str) -> None:
    """The vendor's vcpu_run(), second half; the tracepoint's place against XCR0 and XSS differs between versions."""
    cpu.guest = None
    cpu.unit.enter_mode(cpl=0, nonroot=False)
    KVM_X86_OPS[k.vendor].vm_exit(k, cpu)
    k.run_hooks("vm_exit", cpu, vcpu)
    vpmu.run(cpu, vcpu, k.vpmu_after_exit)
    if k.swaps_in_vcpu_run:
        kvm_load_host_pkru(k, cpu, vcpu)
        kvm_load_xfeatures(k, cpu, vcpu, guest=False)
    if k.tracing:
        cpu.ledger.trace("kvm:kvm_exit", vcpu=vcpu.name, reason=reason)


def kvm_load_xfeatures(k: Kernel, cpu: Cpu, vcpu: Vcpu, guest: bool) -> None:
    """XCR0 and IA32_XSS, each only where guest and host differ, and only for a guest with CR4.OSXSAVE.

    IA32_XSS only for a guest that KVM takes to have XSAVES.
    """
    if not vcpu.cr4_osxsave:
        return
    host, unit, kind = k.config.masks, cpu.unit, cpu.current.kind
    if vcpu.xcr0 != host.xcr0:
        unit.xcr0 = vcpu.xcr0 if guest else host.xcr0
        if not k.strategy.hardware_xcr0:
            cpu.record((kind, GUEST_ENTRY if guest else GUEST_EXIT, XSETBV))
    if vcpu.xss != host.xss and vcpu.has_xsaves:
        unit.xss = vcpu.xss if guest else host.xss
        cpu.record((kind, XSS_PHASE, WRMSR_XSS))
        k.trace_msr(cpu, "write", "XSS")


def kvm_load_guest_pkru(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """WRPKRU if the guest's value differs from the host's."""
    if vcpu.pkru != vcpu.host_pkru and k.pkru_switched(vcpu):
        _write_pkru(k, cpu, vcpu.pkru, GUEST_ENTRY)


def kvm_load_host_pkru(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> None:
    """RDPKRU into the vCPU, and WRPKRU if that is not the host's value."""
    if k.pkru_switched(vcpu):
        cpu.record((cpu.current.kind, GUEST_EXIT, RDPKRU))
        vcpu.pkru = cpu.unit.pkru
        if vcpu.pkru != vcpu.host_pkru:
            _write_pkru(k, cpu, vcpu.host_pkru, GUEST_EXIT)


def _write_pkru(k: Kernel, cpu: Cpu, value: int, phase: str) -> None:
    if k.version.write_pkru_reads:
        cpu.record((cpu.current.kind, phase, RDPKRU))
    cpu.record((cpu.current.kind, phase, WRPKRU))
    cpu.unit.write_pkru(value)


# What else KVM does to guest state.


def guest_init(k: Kernel, cpu: Cpu) -> None:
    """kvm_vcpu_reset() for an INIT inside KVM_RUN; the guest fpstate is swapped out and back to be reset in memory."""
    swaps = xstate_reset_components(k) != 0
    if swaps:
        kvm_put_guest_fpu(k, cpu)
    vcpu_reset(k, cpu)
    if swaps:
        kvm_load_guest_fpu(k, cpu)


def xstate_reset_components(k: Kernel) -> int:
    """What a guest INIT makes initial: asked of what KVM supports, not of what this guest has."""
    return k.version.init_reset_components & (k.config.masks.xcr0 | k.kvm_supported_xss)


def vcpu_reset(k: Kernel, cpu: Cpu) -> None:
    """kvm_vcpu_reset() between the two swaps: zeroes in the guest fpstate, CR4 = 0 and EFER = 0.

    fpstate_clear_xstate_component() (fpu/xstate.c) zeroes the bytes and leaves XSTATE_BV as it is, so the next restore
    loads the zeroes.
    """
    vcpu = _vcpu_of_current(cpu)
    components = xstate_reset_components(k)
    for i in bits[components & vcpu.fpstate.area.xstate_bv]:
        vcpu.fpstate.area.compacted[i] = INIT
    vcpu.context.written_in_memory(components, INIT)
    vcpu.cr4_osxsave = vcpu.cr4_pke = vcpu.efer_sce = False
    vcpu.spec_ctrl = "unwritten"
    vcpu.guest_uret_msrs_loaded = False  # vmx_setup_uret_msrs()
    if components & k.carried_mask:
        carriers.reset(k, cpu, vcpu)


def access_carried_msr(k: Kernel, cpu: Cpu, index: int, value: int | None = None) -> int:
    """KVM_GET_MSRS, or with ``value`` KVM_SET_MSRS, on a carried MSR after vcpu_load; the value that is there then.

    A state that lives in the guest fpstate is accessed in the registers, between kvm_load_guest_fpu() and
    kvm_put_guest_fpu() (v6.18: kvm_access_xstate_msr()); one that software keeps, in KVM's copy.
    """
    vcpu = _vcpu_of_current(cpu)
    context, mechanism = vcpu.context, k.strategy.mechanism
    if mechanism != "fpstate":
        return carriers.access_copy(k, vcpu, index, value)
    if not vcpu.fpstate.in_use:
        raise IllegalFlow(f"{vcpu!r}: CET MSR access without the guest FPU")
    kvm_fpu_get(k, cpu)
    if value is not None:
        k.wrmsr_carried(cpu, index, value, MSR_IOCTL)
        xfeature = k.carried.xfeature
        assert xfeature is not None
        context.regs[xfeature] = cpu.unit.regs[xfeature]
    else:
        cpu.record((cpu.current.kind, MSR_IOCTL, f"RDMSR({k.carried_names[index]})"))
        k.trace_msr(cpu, "read", k.carried_names[index])
    return k.carried_value(cpu, index)


def kvm_fpu_get(k: Kernel, cpu: Cpu) -> None:
    """The registers hold the guest's state while the guest fpstate is loaded (arch/x86/kvm/fpu.h)."""
    if cpu.current.need_fpu_load:
        fpu.switch_fpu_return(k, cpu, KVM_FPU_GET)


def msr_ioctl_loads_fpu(k: Kernel, vcpu: Vcpu) -> bool:
    """Whether KVM_GET_MSRS and KVM_SET_MSRS of the CET MSRs swap the fpstate, whoever carries PL0-2_SSP.

    Another state that lives in the guest fpstate can be reached in no other way either.
    """
    if k.strategy.mechanism == "fpstate" and k.guest_has_carried(vcpu):
        return True
    if k.version.cet_msr_ioctl_asks_cpuid and not vcpu.has_cet:
        return False
    return k.version.cet_msr_ioctl_loads_fpu and k.kvm_supported_xss != 0
