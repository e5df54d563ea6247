"""A kernel booted on a CPU with a strategy: what it carries, where it keeps it, and what KVM then offers guests.

Source: arch/x86/kvm/x86.c kvm_setup_xss_caps(), Linux v6.19; the masks are those of :mod:`sim.kernel.masks`.
"""

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sim.errors import InputError, unknown
from sim.kernel import mitigations, vpmu
from sim.kernel.carried import CarriedState, carried_state
from sim.kernel.datafile import STRICT
from sim.kernel.masks import ALIGN_STRUCT, PAGE, BootMasks, boot_masks, round_up
from sim.kernel.mitigations import IbpbAt, MitigationKind, VmscapeBy
from sim.kernel.patches import ALL_PATCHES, Effect, effect
from sim.kernel.releases import release
from sim.kernel.strategies import Strategy, strategy
from sim.kernel.uret import URET_MSRS
from sim.kernel.versions import KernelVersion, version
from sim.kernel.vpmu import Vpmu
from sim.xsave.components import (
    AVX,
    AVX512,
    CET_S,
    CET_U,
    FP,
    MPX,
    PKRU,
    SSE,
    SUPERVISOR,
    USER,
    XTILE,
    XTILEDATA,
)
from sim.xsave.profiles import GENERIC, CpuProfile, profile

CET: Final = CET_U | CET_S

KVM_SUPPORTED_XCR0: Final = FP | SSE | AVX | MPX | AVX512 | PKRU | XTILE
"""What KVM can offer a guest in XCR0, without APX: arch/x86/kvm/x86.c, read in v6.6.0, v6.12.117, v6.17.0, v6.18.2,
v6.19.0, v7.2.13 and v7.3.4.  On a CPU with APX every guest's XCR0 then differs from the host's, since v6.16 enables it
there."""

SPEC_CTRL: Final = 0x48

HostShadowStacks = Literal["off", "fpstate", "return-to-user"]
MsrAccess = Literal["rdmsr-wrmsr", "wrmsrns", "msr-list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a user chooses about the kernel model; :func:`boot` checks and completes it.

    ``patches`` are the RFC's (kernel rfc only; None: those that the strategy needs).  ``guest_xss`` and ``guest_xcr0``
    default to what a guest enables that uses all that KVM offers.  ``guest_uret_msrs``: user-return MSRs in which
    guest and host differ.  ``mitigations`` are those of :mod:`sim.kernel.mitigations`: all that Linux has on this CPU,
    none, or those of some kinds.  ``cpu``, ``strategy`` and ``carried`` are names of shipped ones, paths of files, or
    what was read from a file.  ``apx`` False: the kernel leaves APX off (clearcpuid=apx).
    ``vpmu_in_use``: how many counters of each guest count.
    """

    __pydantic_config__ = STRICT

    cpu: str | CpuProfile = "sapphire-rapids"
    kernel: str = "v6.18"
    strategy: str | Strategy = "xstate-guest"
    carried: str | CarriedState = "cet-s"
    patches: frozenset[int] | None = None
    guest_cet: bool = True
    guest_xss: int | None = None
    guest_xcr0: int | None = None
    guest_amx: bool = False
    host_shadow_stacks: HostShadowStacks = "off"
    msr_access: MsrAccess = "rdmsr-wrmsr"
    guest_uret_msrs: tuple[str, ...] | None = None
    mitigations: bool | tuple[MitigationKind, ...] = True
    vmscape_by: VmscapeBy = "ibpb"
    ibpb_at: IbpbAt = "vcpu_load"
    pasid: bool = True
    apx: bool = True
    vpmu: Vpmu = "none"
    vpmu_in_use: int = 0
    debug_fpu: bool = True
    hypothetical: bool = False
    init_optimisation: bool | None = None
    modified_optimisation: bool | None = None
    vm_transition_clears_xrstor_info: bool | None = None
    legacy_sse_write_marks_avx_in_use: bool | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """A booted kernel with a strategy and a kind of guest: complete, checked, and all that the model reads."""

    settings: Settings
    cpu: CpuProfile
    version: KernelVersion
    strategy: Strategy
    carried: CarriedState
    masks: BootMasks
    vendor: Literal["vmx", "svm"]
    pku: bool
    xfd: int
    restore_mask_normal: int
    patched: Effect | None
    kvm_offers_cet: bool
    guest_has_cet: bool
    guest_xss: int
    offered_xcr0: int
    guest_xcr0: int
    guest_default: int
    guest_xfeatures: int
    guest_fpstate_size: int
    guest_uret_msrs: tuple[str, ...]
    mitigations: frozenset[str]
    hypothetical: tuple[str, ...] = field(default=())

    @property
    def unsound(self) -> str:
        """Why the strategy is known to be unsound on this host; empty if it is not."""
        return self.strategy.why_unsound(self.settings.host_shadow_stacks)

    @property
    def guest_fpstate_bytes(self) -> int:
        """Bytes of pages that vzalloc() takes for this guest's fpstate; AMX needs a larger one (fpstate_realloc())."""
        return round_up(ALIGN_STRUCT + max(self.masks.guest_allocated, self.guest_fpstate_size), PAGE)


def strategy_of(settings: Settings) -> Strategy:
    """The strategy of the settings, with texts that name what they carry."""
    return strategy(settings.strategy).about(carried_state(settings.carried))


def boot(settings: Settings, cpu: CpuProfile | None = None) -> Config:
    """Checks ``settings`` and completes them; :class:`InputError` says what does not go together and why.

    ``cpu``, a machine that is known from its boot log, replaces the profile that ``settings`` name.
    """
    cpu, kernel = cpu or profile(settings.cpu), version(settings.kernel)
    how, what = strategy_of(settings), carried_state(settings.carried)
    vendor: Literal["vmx", "svm"] = "vmx" if cpu.vendor == "intel" else "svm"
    _check_pair(settings, cpu, kernel, how, what, vendor)

    vpmu.check(settings.vpmu, kernel.name, vendor, cpu.features, cpu.name, settings.vpmu_in_use)

    patched: Effect | None = None
    if kernel.name == "rfc":
        patched = effect(_patches_for(how) if settings.patches is None else settings.patches)
    cpu = _with_component(cpu, what)
    if not settings.apx:
        cpu = replace(cpu, features=cpu.features - {"APX"})
    places = _places(settings, kernel, how, what, patched)
    if patched and what.mask != CET_S:
        patched = effect(ALL_PATCHES)
    masks = boot_masks(cpu, version("v6.6") if patched else kernel, pasid=settings.pasid, patched=patched, **places)
    _check_carried_user_component(cpu, kernel, how, what, masks)
    kvm_rule = kernel.kvm_cet[vendor] and "SHSTK" in cpu.features and masks.xss & CET == CET
    overrides_kvm = what.mask == CET_S and settings.patches is None and kernel.gives_cet
    has_cet = settings.guest_cet and how.guest_has_cet and (kvm_rule or overrides_kvm)
    most = (kernel.guest_xss[vendor] & masks.xss if kvm_rule else CET) if has_cet else 0
    guest_xss = _guest_xss(settings, most | what.mask & ~CET & masks.xss, has_cet)
    guest_default = masks.guest_default & ~(what.mask if how.mechanism == "instructions" else 0)
    offered = masks.xcr0 & (KVM_SUPPORTED_XCR0 | (what.mask if how.carries else 0))
    guest_xcr0 = offered if settings.guest_amx else offered & ~XTILE
    if settings.guest_xcr0 is not None:
        if settings.guest_xcr0 & ~offered or not settings.guest_xcr0 & FP:
            raise InputError(f"guest XCR0 {settings.guest_xcr0:#x}: allowed are bit 0 and bits of {offered:#x}")
        guest_xcr0 = settings.guest_xcr0
    guest_xfeatures = guest_default | (XTILEDATA & masks.max_features if settings.guest_amx else 0)
    uret = default_uret_msrs(vendor) if settings.guest_uret_msrs is None else settings.guest_uret_msrs
    _check_user_return_msrs(what, uret)
    return Config(
        settings=settings,
        cpu=_with_knobs(cpu, settings),
        version=kernel,
        strategy=how,
        carried=what,
        masks=masks,
        vendor=vendor,
        pku="PKU" in cpu.features,
        xfd=masks.xfd,
        restore_mask_normal=masks.restore_mask & ~(what.mask if how.resident else 0),
        patched=patched,
        kvm_offers_cet=kvm_rule,
        guest_has_cet=has_cet,
        guest_xss=guest_xss,
        offered_xcr0=offered,
        guest_xcr0=guest_xcr0,
        guest_default=guest_default,
        guest_xfeatures=guest_xfeatures,
        guest_fpstate_size=cpu.compacted(guest_xfeatures).size,
        guest_uret_msrs=uret,
        mitigations=mitigations.chosen(settings.mitigations),
        hypothetical=tuple(_hypothetical(settings, cpu, kernel, how, what, vendor, has_cet and not kvm_rule)),
    )


def default_uret_msrs(vendor: str) -> tuple[str, ...]:
    """The user-return MSRs in which a guest differs from the host by default."""
    return ("LSTAR", "TSC_AUX") if vendor == "vmx" else ("TSC_AUX",)


def _places(
    settings: Settings, kernel: KernelVersion, how: Strategy, what: CarriedState, patched: Effect | None
) -> dict[str, int]:
    """The supervisor components that depend on the strategy, as :func:`~sim.kernel.masks.boot_masks` takes them.

    What the strategy carries by an xfeature is where the strategy says.  If that is not CET_S, CET_S is where this
    kernel has it.
    """
    own, stacks = what.mask & SUPERVISOR, settings.host_shadow_stacks == "fpstate"
    in_normal, in_guest = how.normal_fpstates, how.guest_fpstates
    enabled = in_normal or in_guest
    if patched and how.mechanism == "fpstate" and own == CET_S:
        in_normal, in_guest, enabled = patched.in_normal_fpstates, patched.in_guest_fpstates, patched.enables
    by_kernel = CET_S if kernel.guest_only and own != CET_S else 0
    stacks_in = CET_S if stacks else 0
    return {
        "enabled": (own if enabled else 0) | by_kernel | stacks_in,
        "normal": (own if in_normal else 0) | stacks_in,
        "guest": (own if in_guest else 0) | by_kernel,
        "independent": own if how.mechanism == "independent" else 0,
    }


def _with_component(cpu: CpuProfile, what: CarriedState) -> CpuProfile:
    """The CPU with the carried component added, if it lacks it; the output says that this is hypothetical."""
    if what.xfeature is None or what.mask & (cpu.xcr0_supported | cpu.xss_supported) or what.mask == CET_S:
        return cpu
    return replace(
        cpu,
        sizes={**cpu.sizes, what.xfeature: what.size_bytes},
        offsets={**GENERIC.offsets, **cpu.offsets},
        xcr0_supported=cpu.xcr0_supported | what.mask & USER,
        xss_supported=cpu.xss_supported | what.mask & SUPERVISOR,
        features=cpu.features | {what.cpu_feature},
    )


def _check_carried_user_component(
    cpu: CpuProfile, kernel: KernelVersion, how: Strategy, what: CarriedState, masks: BootMasks
) -> None:
    """A user component is in all fpstates or in none, as the kernel has it."""
    if how.carries and what.mask & USER & ~masks.max_features:
        raise InputError(
            f"strategy {how.name} with {what.name}: {kernel.name} does not enable {what.component} on {cpu.name}"
        )


def _check_user_return_msrs(what: CarriedState, uret: tuple[str, ...]) -> None:
    """An MSR must not be carried in two ways."""
    for name, number in what.msrs.items():
        for msr in uret:
            if URET_MSRS[msr] == number:
                raise InputError(
                    f"{what.name} carries {name}, which is a user-return MSR of these guests already (allowed: "
                    f"guest_uret_msrs without {msr})"
                )


def _patches_for(how: Strategy) -> frozenset[int]:
    """The RFC's patches that a strategy consists of on kernel rfc."""
    if how.normal_fpstates:
        return frozenset((1, 2, 3))
    return ALL_PATCHES if how.guest_fpstates else frozenset((1, 2))


def _check_pair(
    settings: Settings, cpu: CpuProfile, kernel: KernelVersion, how: Strategy, what: CarriedState, vendor: str
) -> None:
    """Refuses pairs that make no sense."""
    for option, allowed in (
        ("host_shadow_stacks", HostShadowStacks),
        ("msr_access", MsrAccess),
        ("vmscape_by", VmscapeBy),
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
    for count, key in ((how.zero, "zero"), (how.restore if how.mechanism == "user-return" else 0, "restore")):
        if count > len(what.msrs):
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
        raise InputError(
            f"strategy {how.name} on {kernel.name}: its KVM has no CET for guests; the first that has is v6.18, and "
            f"kernel rfc is v6.6-rc1 with the series that adds it (allowed on {kernel.name}: no-cet"
            f"{', and xstate-guest, which is what it does' if kernel.guest_only else ''})"
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
    if what.xfeature is not None and what.mask != CET_S and not what.mask & (cpu.xcr0_supported | cpu.xss_supported):
        return f"CPUID does not enumerate state component {what.xfeature}, {what.component}"
    if how.mechanism in ("msr", "user-return") and needed and needed not in cpu.features:
        return f"CPUID does not enumerate {needed}"
    return ""


def _guest_xss(settings: Settings, most: int, has_cet: bool) -> int:
    if settings.guest_xss is None:
        return most
    if settings.guest_xss & ~most:
        why = "this guest has no CET" if not has_cet else "it is offered no more"
        raise InputError(f"guest IA32_XSS {settings.guest_xss:#x}: allowed are bits of {most:#x}, since {why}")
    return settings.guest_xss


def _with_knobs(cpu: CpuProfile, settings: Settings) -> CpuProfile:
    knobs = (
        "init_optimisation",
        "modified_optimisation",
        "vm_transition_clears_xrstor_info",
        "legacy_sse_write_marks_avx_in_use",
    )
    chosen = {knob: getattr(settings, knob) for knob in knobs if getattr(settings, knob) is not None}
    return replace(cpu, freedoms=replace(cpu.freedoms, **chosen)) if chosen else cpu


def _hypothetical(
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
    if what.mask & USER & ~KVM_SUPPORTED_XCR0 and how.carries:
        notes.append(f"no KVM up to v7.3 offers {what.component} to guests")
    if what.mask & ~CET & SUPERVISOR and how.mechanism == "fpstate":
        notes.append(f"no kernel up to v7.3 has {what.component} in an fpstate")
    if SPEC_CTRL in what.msrs.values() and "spec-ctrl" in mitigations.chosen(settings.mitigations):
        notes.append("KVM switches IA32_SPEC_CTRL as a mitigation already, and that runs besides")
    if what.per_task_msr:
        notes.append(f"no KVM up to v7.3 gives {what.name} to guests; the series that would is not merged")
    for option, usual in (("vmscape_by", "ibpb"), ("ibpb_at", "vcpu_load")):
        if (value := getattr(settings, option)) != usual:
            notes.append(f"{option} = {value!r}: no kernel up to v7.3 does that; the series is not merged")
    if lacking := _lacking(settings, cpu, how, what):
        notes.append(f"{cpu.name}: {lacking}")
    return notes
