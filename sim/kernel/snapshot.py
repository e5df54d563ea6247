"""A vCPU saved and restored by its VMM: the ioctls of a snapshot and of live migration, as far as XSAVE state goes.

Source: arch/x86/kvm/x86.c kvm_vcpu_ioctl_x86_get_xsave2(), kvm_vcpu_ioctl_x86_set_xsave(), __kvm_set_xcr(), __msr_io(),
kvm_set_msr_common(), kvm_vcpu_reset() and the KVM_GET_XSAVE case of kvm_arch_vcpu_ioctl(); in arch/x86/kernel/fpu/
__copy_xstate_to_uabi_buf(), fpu_copy_uabi_to_guest_fpstate() and copy_uabi_to_xstate(); read in v6.6.0, v6.12.117,
v6.18.2, v6.19.0 and v7.3.4.

KVM_GET_XSAVE2 copies user components from the guest fpstate in memory, and KVM_SET_XSAVE leaves the supervisor bits of
XSTATE_BV as they are: CET_U and PL0-2_SSP travel only as MSRs, and so does IA32_XSS, which says that they are in the
guest's own areas.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sim.kernel import fpu, kvm, process
from sim.kernel.guests import AS_ALL, GuestChoice
from sim.kernel.kernel import Kernel
from sim.kernel.operations import MSR_IOCTL
from sim.kernel.state import Cpu, Vcpu
from sim.xsave.area import Area, standard_layout
from sim.xsave.components import AVX, CET_U, FP, PKRU, SSE, SUPERVISOR, XTILEDATA, bits
from sim.xsave.unit import Fault

KVM_XSAVE_BYTES: Final = 4096
"""sizeof(struct kvm_xsave): KVM_GET_XSAVE fails with -EINVAL for a guest that needs more."""

CET_U_MSRS: Final = ("U_CET", "PL3_SSP")


@dataclass(frozen=True, slots=True)
class Vmm:
    """What a VMM saves, and in which order it restores it.

    ``msrs_first``: KVM_SET_MSRS comes before KVM_SET_XSAVE, and IA32_XSS is the last in its list, not the first.
    Without ``saves_xss`` or ``saves_carried`` the list leaves IA32_XSS, or the carried MSRs, out; without ``xsave2``
    the VMM calls KVM_GET_XSAVE.
    """

    name: str
    title: str
    msrs_first: bool = False
    saves_xss: bool = True
    saves_carried: bool = True
    xsave2: bool = True


VMMS: Final = (
    Vmm("all", "KVM_SET_XSAVE, KVM_SET_XCRS, then KVM_SET_MSRS with IA32_XSS first in its list"),
    Vmm("msrs-first", "KVM_SET_MSRS with IA32_XSS last in its list, then the others", msrs_first=True),
    Vmm("no-xss", "IA32_XSS is not saved", saves_xss=False),
    Vmm("no-carried", "the MSRs of {carried} are not saved", saves_carried=False),
    Vmm("old-xsave", "KVM_GET_XSAVE, which has 4096 bytes, not KVM_GET_XSAVE2", xsave2=False),
)
"""A VMM that does everything right, in two orders, and VMMs that leave something out.

Firecracker left IA32_XSS out until pull request 5972 of 16 June 2026, and before it the fork superfly/firecracker until
its pull request 10 of 23 April 2026: the guest's next XRSTORS raised #GP.
"""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a VMM has saved from a vCPU, and what that vCPU's guest must find when it runs again.

    ``xsave`` has the user components, or is None where the ioctl failed; ``msrs`` the contents by name, CET_U as one
    content for U_CET and PL3_SSP. ``vcpu`` is the source, as it was left.
    """

    vcpu: Vcpu
    xsave: Area | None
    xcr0: int
    msrs: dict[str, Any]
    problems: tuple[str, ...]


@contextmanager
def vcpu_ioctl(k: Kernel, cpu: Cpu) -> Iterator[Vcpu]:
    """A vCPU ioctl of the current thread, from user mode and back to it."""
    kvm.vcpu_load(k, cpu)
    vcpu = cpu.current.vcpu
    assert vcpu is not None
    yield vcpu
    kvm.vcpu_put(k, cpu)
    process.return_to_user(k, cpu)


def save(k: Kernel, cpu: Cpu, vmm: Vmm) -> Saved:
    """The current vCPU thread, in user mode outside KVM_RUN, saves its vCPU."""
    problems, xsave = [], None
    with vcpu_ioctl(k, cpu) as vcpu:
        if vmm.xsave2 or _uabi_size(k, vcpu) <= KVM_XSAVE_BYTES:
            xsave = _get_xsave(k, vcpu)
        else:
            problems.append("KVM_GET_XSAVE: -EINVAL, a guest with AMX needs KVM_GET_XSAVE2")
    with vcpu_ioctl(k, cpu) as vcpu:
        xcr0 = vcpu.xcr0
    with vcpu_ioctl(k, cpu) as vcpu:
        msrs = _get_msrs(k, cpu, vcpu, vmm)
    return Saved(vcpu, xsave, xcr0, msrs, tuple(problems))


def _uabi_size(k: Kernel, vcpu: Vcpu) -> int:
    cpu = k.config.cpu
    return standard_layout(vcpu.fpstate.user_xfeatures, cpu.sizes, cpu.offsets).size


def _get_xsave(k: Kernel, vcpu: Vcpu) -> Area:
    """The user components that memory has and the guest was offered; PKRU is KVM's copy, where the header has it."""
    source, copy = vcpu.fpstate.area, k.new_area()
    copy.xstate_bv = source.xstate_bv & vcpu.fpstate.user_xfeatures & (vcpu.xcr0 | FP | SSE)
    for i in bits[copy.xstate_bv]:
        copy.standard[i] = source.compacted[i]
    if copy.xstate_bv & (SSE | AVX):
        copy.mxcsr = source.mxcsr
    copy.pkru = vcpu.pkru
    return copy


def _get_msrs(k: Kernel, cpu: Cpu, vcpu: Vcpu, vmm: Vmm) -> dict[str, Any]:
    """KVM_GET_MSRS of the list, in one ioctl."""
    msrs: dict[str, Any] = {"XSS": vcpu.xss} if vmm.saves_xss else {}
    msrs["XFD"] = vcpu.fpstate.xfd
    with guest_fpu_for_msrs(k, cpu, vcpu) as loaded:
        if loaded and vcpu.has_cet:
            kvm.kvm_fpu_get(k, cpu)
            for name in CET_U_MSRS:
                cpu.record((cpu.current.kind, MSR_IOCTL, f"RDMSR({name})"))
                k.trace_msr(cpu, "read", name)
            msrs["CET_U"] = cpu.unit.regs[CET_U.bit_length() - 1]
        if vmm.saves_carried and k.carried_numbers and k.guest_has_carried(vcpu):
            for index, name in enumerate(k.carried_names):
                msrs[name] = kvm.access_carried_msr(k, cpu, index)
    return msrs


@contextmanager
def guest_fpu_for_msrs(k: Kernel, cpu: Cpu, vcpu: Vcpu) -> Iterator[bool]:
    """The guest fpstate is loaded, if this kernel does that for MSRs that it manages; whether it is."""
    loads = kvm.msr_ioctl_loads_fpu(k, vcpu)
    if loads:
        kvm.kvm_load_guest_fpu(k, cpu)
    yield loads
    if loads:
        kvm.kvm_put_guest_fpu(k, cpu)


def restore(
    k: Kernel, cpu: Cpu, name: str, saved: Saved, vmm: Vmm, choice: GuestChoice = AS_ALL
) -> tuple[Vcpu, tuple[str, ...]]:
    """A VMM that runs on ``cpu`` makes a vCPU from what was saved; returns the vCPU, and which ioctls refused what.

    The new vCPU's thread is the current one afterwards, in user mode, outside KVM_RUN.  ``choice`` is what its CPUID
    says, by KVM_SET_CPUID2.
    """
    vcpu = k.new_vcpu(name, choice)
    offered = vcpu.xcr0, vcpu.xss
    vcpu.has_cet &= saved.vcpu.has_cet
    vcpu.has_pku &= saved.vcpu.has_pku
    vcpu.xcr0, vcpu.xss, vcpu.pkru = FP, 0, 0  # kvm_vcpu_reset()
    process.schedule(k, cpu, vcpu.task)
    process.return_to_user(k, cpu)
    refused: list[str] = []
    steps = [_set_sregs, _set_xsave, _set_xcrs, _set_msrs]
    for step in steps[:1] + steps[3:] + steps[1:3] if vmm.msrs_first else steps:
        with vcpu_ioctl(k, cpu):
            refused += step(k, cpu, vcpu, _Given(saved, vmm, *offered))
    _expect(vcpu, saved)
    return vcpu, tuple(refused)


@dataclass(frozen=True, slots=True)
class _Given:
    """What is to be restored, how, and the XCR0 and IA32_XSS that the new vCPU's CPUID has."""

    saved: Saved
    vmm: Vmm
    xcr0: int
    xss: int

    def moved(self, content: Any, vcpu: Vcpu) -> Any:
        """A content that the source's guest wrote, as if the new vCPU's guest had written it: they are the same
        guest."""
        return _moved(content, self.saved.vcpu.context.id, vcpu.context.id)


def _moved(content: Any, source: int, target: int) -> Any:
    if isinstance(content, tuple):
        return tuple(_moved(each, source, target) for each in content)
    if isinstance(content, int) and content >> 32 == source:
        return target << 32 | content & 0xFFFFFFFF
    return content


def _set_sregs(k: Kernel, cpu: Cpu, vcpu: Vcpu, given: _Given) -> Iterator[str]:
    """CR4 and EFER; kvm_is_valid_cr4() refuses what this guest is not offered."""
    source = given.saved.vcpu
    if source.cr4_pke and not vcpu.has_pku:
        yield "KVM_SET_SREGS: -EINVAL, CR4.PKE is set and this host has no PKU"
        return
    vcpu.cr4_osxsave, vcpu.cr4_pke, vcpu.efer_sce = source.cr4_osxsave, source.cr4_pke, source.efer_sce


def _set_xsave(k: Kernel, cpu: Cpu, vcpu: Vcpu, given: _Given) -> Iterator[str]:
    source, area = given.saved.xsave, vcpu.fpstate.area
    if source is None:
        return
    bits_set = source.xstate_bv
    if k.version.guest_xfd_write_clears_xstate_bv:  # the same fix, "Clear XSTATE_BV[i] in guest XSAVE state ..."
        bits_set &= ~vcpu.fpstate.xfd
    if beyond := bits_set & ~(k.config.offered_xcr0 & vcpu.fpstate.user_xfeatures):
        yield f"KVM_SET_XSAVE: -EINVAL, XSTATE_BV has bits {beyond:#x}, which this host does not offer"
        return
    for i in bits[bits_set]:
        area.compacted[i] = given.moved(source.standard[i], vcpu)
    if bits_set & (FP | SSE | AVX):
        area.mxcsr = source.mxcsr
    if bits_set & PKRU:
        vcpu.pkru = source.pkru
    area.xstate_bv = area.xstate_bv & SUPERVISOR | bits_set


def _set_xcrs(k: Kernel, cpu: Cpu, vcpu: Vcpu, given: _Given) -> Iterator[str]:
    if beyond := given.saved.xcr0 & ~(given.xcr0 | FP):
        yield f"KVM_SET_XCRS: -EINVAL, XCR0 has bits {beyond:#x}, which this guest is not offered here"
        return
    vcpu.xcr0 = given.saved.xcr0


def _set_msrs(k: Kernel, cpu: Cpu, vcpu: Vcpu, given: _Given) -> Iterator[str]:
    """KVM_SET_MSRS of the list; the first that KVM refuses ends it.

    __msr_io() loads the guest fpstate at the first MSR that lives there, so that IA32_XFD, which comes before, is set
    in memory.
    """
    msrs = dict(given.saved.msrs)
    if given.vmm.msrs_first and "XSS" in msrs:
        msrs["XSS"] = msrs.pop("XSS")
    with ExitStack() as stack:
        loaded = False
        for name, content in msrs.items():
            if not loaded and name not in ("XSS", "XFD"):
                loaded = stack.enter_context(guest_fpu_for_msrs(k, cpu, vcpu))
            if not _set_msr(k, cpu, vcpu, given, name, content, loaded):
                yield f"KVM_SET_MSRS: {name} is refused, this guest is not offered it here"
                return


def _set_msr(k: Kernel, cpu: Cpu, vcpu: Vcpu, given: _Given, name: str, content: Any, loaded: bool) -> bool:
    """One MSR of the list; returns whether KVM accepts it, as it accepts 0 for any MSR that it knows."""
    if name == "XSS":
        vcpu.xss = vcpu.xss if content & ~given.xss else content
        return not content & ~given.xss
    if name == "XFD":
        if content & ~(vcpu.fpstate.xfeatures & XTILEDATA):
            return False
        fpu.fpu_update_guest_xfd(k, cpu, vcpu, content)
        vcpu.xfd_passthrough = bool(content)
        return True
    moved = given.moved(content, vcpu)
    if name == "CET_U":
        if not (loaded and vcpu.has_cet):
            return not content
        kvm.kvm_fpu_get(k, cpu)
        for each in CET_U_MSRS:
            cpu.record((cpu.current.kind, MSR_IOCTL, f"WRMSR({each})"))
            k.trace_msr(cpu, "write", each)
        cpu.unit.write(CET_U.bit_length() - 1, moved)
        return True
    if name not in k.carried_names or not k.guest_has_carried(vcpu):
        return not content
    kvm.access_carried_msr(k, cpu, k.carried_names.index(name), moved)
    return True


def _expect(vcpu: Vcpu, saved: Saved) -> None:
    """The guest must find what the source's guest had to find, whatever happened to it on the way."""
    source, target = saved.vcpu.context, vcpu.context
    target.version = source.version
    target.regs = [_moved(each, source.id, target.id) for each in source.regs]
    target.carried = _moved(source.carried, source.id, target.id)
    target.mxcsr, target.pkru = source.mxcsr, source.pkru


def guest_switches_task(k: Kernel, cpu: Cpu, saved: Saved) -> str:
    """The guest's kernel runs XRSTORS from an area that it made earlier; returns the fault that this raises, or
    nothing.

    That area's XCOMP_BV has all of XCR0 and IA32_XSS as the guest's kernel knows them.
    """
    area = k.new_area(saved.vcpu.xcr0 | saved.vcpu.xss)
    try:
        cpu.unit.xrstors(area, saved.vcpu.xcr0 | saved.vcpu.xss)
    except Fault as fault:
        return str(fault)
    return ""
