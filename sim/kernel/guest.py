"""What a guest does to the registers between VM entry and VM exit, as far as the host can tell the difference.

The guest's own XSAVE instructions are not the host's operations: they are run on the XSAVE unit, because they change
XINUSE and XRSTOR_INFO, and are not recorded.
"""

from sim.kernel import fpu, kvm
from sim.kernel.kernel import IllegalFlow, Kernel
from sim.kernel.operations import GUEST_EXIT
from sim.kernel.state import Cpu, Vcpu
from sim.xsave.area import INIT
from sim.xsave.components import FP, MXCSR_INIT, PKRU, SSE, XTILEDATA, bits


def _running(cpu: Cpu) -> Vcpu:
    if cpu.guest is None:
        raise IllegalFlow(f"{cpu!r} is not in a guest")
    return cpu.guest


def boots(k: Kernel, cpu: Cpu) -> None:
    """The guest's kernel sets up its CPU: what a vCPU does first, and again after an INIT.

    An INIT has cleared CR4.OSXSAVE, CR4.PKE and EFER.SCE; setting them is intercepted.  Where the guest has AMX, every
    Linux then writes IA32_XFD on each CPU: arch/x86/kernel/fpu/xstate.c fpu__init_cpu_xstate(), read in v6.6.0,
    v6.12.117, v6.18.2 and v7.3.4.
    """
    vcpu = _running(cpu)
    if not vcpu.efer_sce:
        kvm.vm_exit(k, cpu, "cr-access")
        vcpu.efer_sce = True
        vcpu.spec_ctrl = vcpu.boots_with_spec_ctrl
        vcpu.cr4_osxsave = vcpu.has_xsave
        vcpu.cr4_pke = vcpu.has_pku
        vcpu.guest_uret_msrs_loaded = False
        kvm.vcpu_enter_guest(k, cpu)
    if vcpu.fpstate.xfeatures & XTILEDATA:
        writes_xfd(k, cpu, XTILEDATA)


def _ready(k: Kernel, cpu: Cpu) -> Vcpu:
    """The running guest, whose kernel has set up XSAVE again if there was an INIT."""
    vcpu = _running(cpu)
    if not vcpu.efer_sce:
        boots(k, cpu)
    return vcpu


def writes(k: Kernel, cpu: Cpu, components: int) -> None:
    """The guest writes registers of user components that its XCR0 enables.

    Only a task that has tiles writes them, so IA32_XFD is 0; its first use of them is :func:`uses_disabled_amx`.
    """
    vcpu = _ready(k, cpu) if components & ~(FP | SSE) else _running(cpu)
    if components & vcpu.xcr0 & cpu.unit.xfd:
        writes_xfd(k, cpu, 0)
    vcpu.context.write(cpu.unit, components & vcpu.xcr0 & ~PKRU)


def wrpkru(k: Kernel, cpu: Cpu, value: int) -> None:
    """The guest runs WRPKRU."""
    vcpu = _running(cpu)
    if k.pkru_switched(vcpu):
        vcpu.context.pkru = value
        cpu.unit.write_pkru(value)


def switches_task(k: Kernel, cpu: Cpu, components: int, carried: int = 0) -> None:
    """The guest's kernel switches between its tasks: XRSTORS of what the next one had in ``components``.

    With XSS[12] and ``carried`` > 0 the first ``carried`` of the carried MSRs get new values by that XRSTORS, without
    an exit; with ``carried`` = 0 they keep their values.  If the guest's kernel uses IA32_XFD, it is switched with the
    tasks (xfd_update_state()): 0 for a task that has tiles, which took its #NM at its first use of them, XTILEDATA for
    others.
    """
    vcpu = _ready(k, cpu)
    xfd = XTILEDATA & ~components
    if vcpu.xfd_passthrough and cpu.unit.xfd != xfd:
        writes_xfd(k, cpu, xfd)
    unit, context = cpu.unit, vcpu.context
    enabled = (vcpu.xcr0 | vcpu.xss) & ~PKRU
    area = k.new_area(enabled)
    area.xstate_bv = components & enabled & ~k.carried_mask
    for i in bits[area.xstate_bv]:
        area.compacted[i] = context.token()
    xfeature = k.carried.xfeature
    if xfeature is not None and k.carried_mask & enabled:
        values = [k.carried_value(cpu, each) for each in range(len(k.carried_names))]
        values[:carried] = [context.token() for _ in values[:carried]]
        if any(values):
            area.compacted[xfeature] = tuple(values)
            area.xstate_bv |= k.carried_mask
    unit.xrstors(area, enabled)
    for i in bits[enabled]:
        context.regs[i] = area.compacted[i]
    context.mxcsr = MXCSR_INIT


def writes_xfd(k: Kernel, cpu: Cpu, xfd: int) -> None:
    """The guest writes IA32_XFD, which is intercepted until the first non-zero value and passed through after it.

    Source: arch/x86/kvm/x86.c kvm_set_msr_common(), arch/x86/kvm/vmx/vmx.c vmx_set_msr(), Linux v6.19.
    """
    vcpu = _running(cpu)
    if xfd:  # its state i can become initial at once (fpu_update_guest_xfd()); a guest releases its tiles first
        cpu.unit.initialise(xfd)
        vcpu.context.written_in_memory(xfd, INIT)
    if vcpu.xfd_passthrough:
        cpu.unit.xfd = xfd
        return
    kvm.vm_exit(k, cpu, "wrmsr")
    fpu.fpu_update_guest_xfd(k, cpu, vcpu, xfd)
    vcpu.xfd_passthrough = bool(xfd)
    kvm.vcpu_enter_guest(k, cpu)


def uses_disabled_amx(k: Kernel, cpu: Cpu) -> None:
    """The guest uses AMX while its XFD forbids it: #NM, which KVM intercepts and injects; its handler clears XFD."""
    vcpu = _running(cpu)
    cpu.unit.xfd_err = XTILEDATA
    kvm.vm_exit(k, cpu, "nm")
    kvm.vcpu_enter_guest(k, cpu)
    kvm.vm_exit(k, cpu, "wrmsr")  # of XFD_ERR, which is intercepted
    vcpu.xfd_err = 0
    kvm.vcpu_enter_guest(k, cpu)
    cpu.unit.xfd = 0


def writes_carried(k: Kernel, cpu: Cpu, index: int, zero: bool = False) -> None:
    """The guest writes a carried MSR by WRMSR, which is passed through unless a lazy strategy still intercepts it."""
    vcpu = _running(cpu)
    if not k.guest_has_carried(vcpu):
        return
    value = 0 if zero else vcpu.context.token()
    if k.strategy.lazy and not vcpu.carried_active:
        kvm.vm_exit(k, cpu, "wrmsr")
        if value:
            vcpu.carried_active = True
            # The guest state is loaded already, so no load would follow at the next entry.
            vcpu.carried_loaded = True
            k.wrmsr_carried(cpu, index, value, GUEST_EXIT)
        _note_truth(k, vcpu, index, value)
        kvm.vcpu_enter_guest(k, cpu)
        return
    k.set_carried_value(cpu, index, value)
    _note_truth(k, vcpu, index, value)


def _note_truth(k: Kernel, vcpu: Vcpu, index: int, value: int) -> None:
    """What the guest must find from now on, even if an interception dropped the write, as a lazy strategy drops a write
    of 0."""
    context, i = vcpu.context, k.carried.xfeature
    held = context.carried if i is None else context.regs[i]
    values = list(held) if isinstance(held, tuple) else [0] * len(k.carried_names)
    values[index] = value
    if i is None:
        context.carried = tuple(values)
    else:
        context.regs[i] = tuple(values) if any(values) else INIT
