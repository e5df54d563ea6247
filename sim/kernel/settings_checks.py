"""Which settings go together, and what no kernel does about those that do: :func:`~sim.kernel.config.boot` asks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

from sim.errors import InputError, unknown
from sim.kernel import mitigations
from sim.kernel.carried import CarriedState
from sim.kernel.masks import BootMasks
from sim.kernel.mitigations import IbpbAt, SpecCtrl, VmscapeBy
from sim.kernel.patches import effect
from sim.kernel.releases import release
from sim.kernel.strategies import Strategy
from sim.kernel.uret import URET_MSRS
from sim.kernel.versions import KernelVersion
from sim.xsave.components import ALL, APX, AVX, AVX512, CET, CET_S, FP, LBR, MPX, PKRU, SSE, UINTR, USER, XTILE
from sim.xsave.profiles import CpuProfile

if TYPE_CHECKING:
    from sim.kernel.config import Settings

KVM_SUPPORTED_XCR0: Final = FP | SSE | AVX | MPX | AVX512 | PKRU | XTILE
"""What KVM can offer a guest in XCR0, without APX: arch/x86/kvm/x86.c, read in v6.6.0, v6.12.117, v6.17.0, v6.18.2,
v6.19.0, v7.2.13 and v7.3.4.  On a CPU with APX every guest's XCR0 then differs from the host's, since v6.16 enables it
there."""

SPEC_CTRL: Final = 0x48

NOT_MERGED: Final = ("bhb-clear", "vcpu_enter_guest")
"""Values of ``vmscape_by`` and ``ibpb_at`` that no kernel up to v7.3 has."""

HostShadowStacks = Literal["off", "fpstate", "return-to-user"]
MsrAccess = Literal["rdmsr-wrmsr", "wrmsrns", "msr-list"]


def xsetbv_refuses(xcr0: int) -> Iterator[str]:
    """What a mask would have to have for XSETBV to take it (arch/x86/kvm/x86.c, __kvm_set_xcr(), Linux v6.18)."""
    for mask, needs, which in (
        (ALL, FP, "bit 0, x87"),
        (AVX, SSE, "bit 1 with bit 2, SSE with AVX"),
        (AVX512, AVX512 | AVX, "bits 2 and 5 to 7 together, AVX with AVX-512"),
        (MPX, MPX, "bits 3 and 4 together, MPX"),
        (XTILE, XTILE, "bits 17 and 18 together, AMX"),
    ):
        if xcr0 & mask and needs & ~xcr0:
            yield which


def check_guest_xcr0(xcr0: int, offered: int, amx: bool) -> None:
    """Refuses an XCR0 that guests cannot have."""
    if xcr0 & ~offered or not xcr0 & FP:
        raise InputError(f"guest XCR0 {xcr0:#x}: allowed are bit 0 and bits of {offered:#x}")
    for which in xsetbv_refuses(xcr0):
        raise InputError(f"guest XCR0 {xcr0:#x}: allowed are masks that have {which}")
    if xcr0 & XTILE and not amx:
        raise InputError(f"guest XCR0 {xcr0:#x} has AMX (bits 17 and 18): allowed with guest_amx (--guest-amx)")


def check_carried_user_component(
    cpu: CpuProfile, kernel: KernelVersion, how: Strategy, what: CarriedState, masks: BootMasks
) -> None:
    """A user component is in all fpstates or in none, as the kernel has it."""
    if how.carries and what.mask & USER & ~masks.max_features:
        raise InputError(
            f"strategy {how.name} with {what.name}: {kernel.name} does not enable {what.component} on {cpu.name}"
        )


def check_user_return_msrs(what: CarriedState, uret: tuple[str, ...]) -> None:
    """An MSR must not be carried in two ways."""
    for name, number in what.msrs.items():
        for msr in uret:
            if URET_MSRS[msr] == number:
                raise InputError(
                    f"{what.name} carries {name}, which is a user-return MSR of these guests already (allowed: "
                    f"guest_uret_msrs without {msr})"
                )


def check_pair(
    settings: Settings, cpu: CpuProfile, kernel: KernelVersion, how: Strategy, what: CarriedState, vendor: str
) -> None:
    """Refuses pairs that make no sense."""
    for option, allowed in (
        ("host_shadow_stacks", HostShadowStacks),
        ("msr_access", MsrAccess),
        ("vmscape_by", VmscapeBy),
        ("guest_spec_ctrl", SpecCtrl),
        ("ibpb_at", IbpbAt),
    ):
        value = getattr(settings, option)
        if value not in allowed.__args__:  # type: ignore[attr-defined]
            raise InputError(f"{option} = {value!r} (allowed: {', '.join(allowed.__args__)})")  # type: ignore[attr-defined]
    if settings.vmscape_by != "ibpb" and mitigations.LONG_CLEAR_ON not in cpu.mitigations:
        raise InputError(
            f"vmscape_by = {settings.vmscape_by!r}: {cpu.name} has no BHI_DIS_S, so only the IBPB is enough"
        )
    if settings.vmscape_by != "ibpb" and (release(kernel.name) or (0, 0)) < mitigations.VMSCAPE_SERIES_SINCE:
        why = "has no mitigation of VMSCAPE" if not kernel.ibpb_exit_to_user else "is older"
        raise InputError(
            f"vmscape_by = {settings.vmscape_by!r}: the series is for v6.18 and later, and {kernel.name} {why}"
        )
    if settings.ibpb_at != "vcpu_load" and kernel.vcpu_switch_ibpb != "kvm_arch_vcpu_load":
        raise InputError(
            f"ibpb_at = {settings.ibpb_at!r}: the series is for v6.17 and later, and this is {kernel.name}"
        )
    for msr in settings.guest_uret_msrs or ():
        if msr not in URET_MSRS:
            raise unknown("user-return MSR", msr, URET_MSRS)
    if settings.patches is not None:
        if kernel.name != "rfc" or how.name != "xstate-guest":
            raise InputError("a choice of the RFC's patches needs kernel rfc and strategy xstate-guest")
        effect(settings.patches)
    if what.xfeature is None and how.mechanism in ("fpstate", "independent"):
        raise InputError(f"strategy {how.name} needs an xfeature, and {what.name} has none")
    if how.carries_only and what.name not in how.carries_only:
        raise InputError(f"strategy {how.name} is about {', '.join(how.carries_only)}, and carried here is {what.name}")
    if how.mechanism == "instructions" and not what.save_by:
        raise InputError(f"strategy {how.name} copies registers by instructions, and {what.name} does not say by which")
    if how.carries and what.mask & USER and not settings.apx:
        raise InputError(f"strategy {how.name} carries {what.component}, which apx = false leaves off")
    if not what.msrs and how.mechanism not in ("none", "fpstate", "independent", "instructions"):
        raise InputError(f"strategy {how.name} copies MSRs, and {what.name} has none")
    if what.mask & USER and how.mechanism == "independent":
        raise InputError(f"strategy {how.name}: {what.component} is a user component, and independent features are not")
    for count, key in ((how.zero, "zero"), (how.restore, "restore")):
        if what.msrs and count > len(what.msrs):
            raise InputError(f"strategy {how.name}: {key} = {count}, and {what.name} has {len(what.msrs)} MSRs")
    if what.per_task_msr and not how.carries:
        raise InputError(f"strategy {how.name} leaves a guest's {what.name} to the host, which needs its own")
    if what.per_task_msr and settings.host_shadow_stacks != "off":
        raise InputError(f"host shadow stacks are about CET_S; carrying {what.name} leaves them off")
    needs_cet = how.guest_has_cet and what.mask & CET
    if needs_cet and "SHSTK" not in cpu.features:
        raise InputError(
            f"{cpu.name} has no supervisor shadow stacks (CET_S), which strategy {how.name} is about; "
            "without them only no-cet makes sense"
        )
    if needs_cet and not kernel.gives_cet and not (kernel.guest_only and how.is_merged):
        possible = ["no-cet"] if settings.host_shadow_stacks == "off" else []
        possible += ["xstate-guest, which is what it does"] if kernel.guest_only else []
        raise InputError(
            f"strategy {how.name} on {kernel.name}: its KVM has no CET for guests; the first that has is v6.18, and "
            f"kernel rfc is v6.6-rc1 with the series that adds it (allowed on {kernel.name}: "
            f"{', and '.join(possible) or 'none, with host shadow stacks'})"
        )
    if settings.host_shadow_stacks != "off" and not how.guest_has_cet:
        raise InputError("host shadow stacks need a kernel with CET_S; no-cet is one without")
    if settings.host_shadow_stacks == "fpstate" and how.mechanism == "independent":
        raise InputError("an independent feature is in no fpstate, so SSP0 cannot live in the normal one")
    if (lacking := _lacking(settings, cpu, how, what)) and not settings.hypothetical:
        raise InputError(f"strategy {how.name} on {cpu.name}: {lacking} (--hypothetical overrides)")
    if settings.guest_amx and "AMX_TILE" not in cpu.features:
        raise InputError(f"{cpu.name} has no AMX to give to a guest")


def _lacking(settings: Settings, cpu: CpuProfile, how: Strategy, what: CarriedState) -> str:
    """What the strategy needs and the CPU does not have, or nothing."""
    if how.needs == "vmx" and cpu.vendor != "intel":
        return "SVM has no MSR load and store lists"
    if what.cpu_feature and what.cpu_feature not in cpu.features:
        return f"CPUID does not enumerate {what.cpu_feature}, which {what.name} belongs to"
    needed = {"wrmsrns": "WRMSRNS", "msr-list": "MSRLIST"}.get(settings.msr_access)
    by_xsave = not what.mask & CET_S or how.mechanism in ("fpstate", "independent")  # by MSRs SHSTK is enough
    if by_xsave and what.xfeature is not None and not what.mask & (cpu.xcr0_supported | cpu.xss_supported):
        return f"CPUID does not enumerate state component {what.xfeature}, {what.component}"
    if how.mechanism in ("msr", "user-return") and needed and needed not in cpu.features:
        return f"CPUID does not enumerate {needed}"
    return ""


def hypothetical(
    settings: Settings,
    cpu: CpuProfile,
    kernel: KernelVersion,
    how: Strategy,
    what: CarriedState,
    vendor: str,
    overrides_kvm: bool,
) -> list[str]:
    """What no kernel does about this pair, in sentences."""
    notes = [f"{how.name}: {how.hypothetical}"] if how.hypothetical else []
    if how.guest_has_cet and not how.carries:
        notes.append("nothing carries the state, so the integrity check leaves it out")
    if not how.guest_has_cet and kernel.guest_only and "SHSTK" in cpu.features:
        notes.append(f"{kernel.name} would carry CET_S on this CPU; here it is as on a kernel that cannot")
    if overrides_kvm:
        if kernel.kvm_cet[vendor]:  # type: ignore[index]
            notes.append("KVM gives CET to guests only if host XSS has bits 11 and 12; overridden here")
        else:
            notes.append(f"KVM of {kernel.name} gives no CET to guests on {vendor.upper()}; overridden here")
    if settings.host_shadow_stacks != "off":
        notes.append("no kernel uses supervisor shadow stacks for itself")
    if what.mask & APX and how.carries:
        notes.append(f"no KVM up to v7.3 offers {what.component} to guests")
    if what.mask & (UINTR | LBR) and how.mechanism == "fpstate":
        notes.append(f"no kernel up to v7.3 has {what.component} in an fpstate")
    if what.mask & LBR and how.mechanism in ("fpstate", "independent"):
        notes.append("what XSAVES of LBR does besides writing memory (LBREn) is not modelled")
    if SPEC_CTRL in what.msrs.values() and "spec-ctrl" in mitigations.chosen(settings.mitigations):
        notes.append("KVM switches IA32_SPEC_CTRL as a mitigation already, and that runs besides")
    if what.per_task_msr:
        notes.append(f"no KVM up to v7.3 gives {what.name} to guests; the series that would is not merged")
        since = release(kernel.name)
        if since is None or since < (6, 12):
            notes.append(f"{kernel.name} has no fred_update_rsp0(), which v6.12 has")
    for option in ("vmscape_by", "ibpb_at"):
        if (value := getattr(settings, option)) in NOT_MERGED:
            notes.append(f"{option} = {value!r}: no kernel up to v7.3 does that; the series is not merged")
    if lacking := _lacking(settings, cpu, how, what):
        notes.append(f"{cpu.name}: {lacking}")
    return notes
