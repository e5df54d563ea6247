"""What a kernel sets up at boot on a CPU: feature masks, sizes, IA32_XSS, and what KVM then offers to guests.

Source: arch/x86/kernel/fpu/xstate.c fpu__init_system_xstate() and arch/x86/kvm/x86.c kvm_setup_xss_caps(), Linux v6.19;
the differences to the other kernels are those of :mod:`sim.kernel.versions`, those of the RFC's patches in
:mod:`sim.kernel.patches`.
"""

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sim.errors import InputError
from sim.kernel.carried import CarriedState, carried_state
from sim.kernel.patches import ALL_PATCHES, Effect, effect
from sim.kernel.strategies import Strategy, strategy
from sim.kernel.versions import KernelVersion, version
from sim.xsave.components import (
    APX,
    AVX,
    AVX512,
    CET_S,
    CET_U,
    FP,
    LBR,
    MPX,
    PASID,
    PKRU,
    PT,
    SSE,
    XTILE,
    XTILEDATA,
)
from sim.xsave.profiles import CpuProfile, profile

CET: Final = CET_U | CET_S

XSAVE_CPUID_FEATURES: Final = (
    (AVX, "AVX"),
    (MPX, "MPX"),
    (AVX512, "AVX512F"),
    (PT, "INTEL_PT"),
    (PKRU, "PKU"),
    (PASID, "ENQCMD"),
    (CET_S, "SHSTK"),
    (XTILE, "AMX_TILE"),
    (APX, "APX"),
)
"""xsave_cpuid_features[]: components that are dropped if the CPU feature is off; CET_U is a difference of versions."""

NEVER: Final = sum(1 << i for i in (13, 14, 15, 16))
"""Components without an entry in xsave_cpuid_features[], which are always dropped."""

KVM_SUPPORTED_XCR0: Final = FP | SSE | AVX | MPX | AVX512 | PKRU | XTILE
"""What KVM can offer a guest in XCR0, without APX: arch/x86/kvm/x86.c, read in v6.6.0, v6.12.117, v6.17.0, v6.18.2,
v6.19.0, v7.2.13 and v7.3.4.  On a CPU with APX every guest's XCR0 then differs from the host's, since v6.16 enables it
there."""

ALIGN_STRUCT: Final = 64
PAGE: Final = 4096

HostShadowStacks = Literal["off", "fpstate", "return-to-user"]
MsrAccess = Literal["rdmsr-wrmsr", "wrmsrns", "msr-list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a user chooses about the kernel model; :func:`boot` checks and completes it.

    ``patches`` are the RFC's (kernel rfc only; None: those that the strategy needs).  ``guest_xss`` and ``guest_xcr0``
    default to what a guest enables that uses all that KVM offers.  ``guest_uret_msrs``: user-return MSRs in which
    guest and host differ.  ``mitigations`` are the IBPBs at vCPU switches and at return to user mode.
    """

    cpu: str = "sapphire-rapids"
    kernel: str = "v6.18"
    strategy: str = "xstate-guest"
    carried: str = "cet-s"
    patches: frozenset[int] | None = None
    guest_cet: bool = True
    guest_xss: int | None = None
    guest_xcr0: int | None = None
    guest_amx: bool = False
    host_shadow_stacks: HostShadowStacks = "off"
    msr_access: MsrAccess = "rdmsr-wrmsr"
    guest_uret_msrs: tuple[str, ...] | None = None
    mitigations: bool = True
    pasid: bool = True
    debug_fpu: bool = True
    hypothetical: bool = False
    init_optimisation: bool | None = None
    modified_optimisation: bool | None = None
    vm_transition_clears_xrstor_info: bool | None = None
    legacy_sse_write_marks_avx_in_use: bool | None = None


@dataclass(frozen=True, slots=True)
class BootMasks:
    """Feature masks and sizes in bytes, under the names of fpu_kernel_cfg, fpu_user_cfg and guest_default_cfg.

    ``restore_mask`` is the RFBM of restores (max_features & XFEATURE_MASK_FPSTATE), ``xfd`` the value of IA32_XFD for
    tasks (init_fpstate.xfd), ``independent`` the features outside all fpstates.
    """

    max_features: int
    host_default: int
    guest_default: int
    user_default: int
    independent: int
    restore_mask: int
    xcr0: int
    xss: int
    xfd: int
    host_size: int
    guest_size: int
    user_size: int
    guest_allocated: int

    @property
    def task_bytes(self) -> int:
        """Bytes that the fpstate takes in the task's slab object, which is aligned to 64 bytes (kernel/fork.c)."""
        return round_up(ALIGN_STRUCT + self.host_size, ALIGN_STRUCT)

    @property
    def guest_bytes(self) -> int:
        """Bytes of pages that vzalloc() takes for a guest fpstate."""
        return round_up(ALIGN_STRUCT + self.guest_allocated, PAGE)


def round_up(size: int, unit: int) -> int:
    """``size`` rounded up to a multiple of ``unit``."""
    return -(-size // unit) * unit


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
    guest_xcr0: int
    guest_xfeatures: int
    guest_fpstate_size: int
    guest_uret_msrs: tuple[str, ...]
    hypothetical: tuple[str, ...] = field(default=())

    @property
    def guest_fpstate_bytes(self) -> int:
        """Bytes of pages that vzalloc() takes for this guest's fpstate; AMX needs a larger one (fpstate_realloc())."""
        return round_up(ALIGN_STRUCT + max(self.masks.guest_allocated, self.guest_fpstate_size), PAGE)


def boot_masks(
    cpu: CpuProfile,
    kernel: KernelVersion,
    *,
    enabled: int,
    normal: int,
    guest: int,
    independent: int = 0,
    pasid: bool = True,
    patched: Effect | None = None,
) -> BootMasks:
    """The masks that fpu__init_system_xstate() computes.

    ``enabled``, ``normal``, ``guest`` and ``independent`` are the carried xfeature, or 0: enabled in IA32_XSS
    and max_features, in normal fpstates, in guest fpstates, and outside all fpstates.  ``patched`` is what a subset of
    the RFC's patches does to v6.6.
    """
    supported = cpu.xcr0_supported | cpu.xss_supported
    cet_u_needs = patched.cet_u_needs if patched else kernel.cet_u_needs
    if patched and patched.adds_cet_u and cpu.features & {*cet_u_needs} and not supported & CET_U:
        raise InputError(
            f"{cpu.name}: RFC patch 1 sets IA32_XSS[11], which CPUID.(0DH,1) does not have there, so that the write "
            "faults (#GP)"
        )
    maximum = supported & ~NEVER
    for components, feature in XSAVE_CPUID_FEATURES:
        if feature not in cpu.features:
            maximum &= ~components
    if not pasid:
        maximum &= ~PASID
    if not any(feature in cpu.features for feature in cet_u_needs):
        maximum &= ~CET_U
    supervisor_supported = kernel.supervisor_supported & ~CET_S | enabled
    if "XFD" not in cpu.features:
        maximum &= ~XTILEDATA
    maximum &= kernel.user_supported | (supervisor_supported if "XSAVES" in cpu.features else 0)
    user_maximum = maximum & kernel.user_supported

    host_default = maximum & ~XTILEDATA & ~(enabled & ~normal)
    guest_default = maximum & ~XTILEDATA & ~(enabled & ~guest)
    user_default = user_maximum & ~XTILEDATA
    independent_features = (supported & LBR if "ARCH_LBR" in cpu.features else 0) | (independent & supported)
    user_size = cpu.standard(user_default).size
    guest_size = cpu.compacted(guest_default).size
    allocates_user_size = patched.allocates_user_size if patched else kernel.guest_allocation == "user default size"
    return BootMasks(
        max_features=maximum,
        host_default=host_default,
        guest_default=guest_default,
        user_default=user_default,
        independent=independent_features,
        restore_mask=maximum & ~PKRU,
        xcr0=user_maximum,
        xss=maximum & supervisor_supported | independent_features,
        xfd=user_maximum & XTILEDATA,
        host_size=cpu.compacted(host_default).size,
        guest_size=guest_size,
        user_size=user_size,
        guest_allocated=user_size if allocates_user_size else guest_size,
    )


def boot(settings: Settings, cpu: CpuProfile | None = None) -> Config:
    """Checks ``settings`` and completes them; :class:`InputError` says what does not go together and why.

    ``cpu`` stands in for the profile that ``settings`` name: a machine that is known from its boot log.
    """
    cpu, kernel = cpu or profile(settings.cpu), version(settings.kernel)
    how, what = strategy(settings.strategy), carried_state(settings.carried)
    vendor: Literal["vmx", "svm"] = "vmx" if cpu.vendor == "intel" else "svm"
    _check_pair(settings, cpu, kernel, how, what, vendor)

    sss_in_fpstate = settings.host_shadow_stacks == "fpstate"
    in_normal, in_guest = how.normal_fpstates, how.guest_fpstates
    enabled = in_normal or in_guest or sss_in_fpstate
    patched: Effect | None = None
    if kernel.name == "rfc":
        patched = effect(_patches_for(how) if settings.patches is None else settings.patches)
        if how.mechanism == "fpstate":
            in_normal, in_guest, enabled = patched.in_normal_fpstates, patched.in_guest_fpstates, patched.enables
    if what.mask != CET_S:  # another state is carried, and CET_S as the kernel does it by itself
        in_guest = enabled = bool(kernel.guest_only)
        patched = effect(ALL_PATCHES) if patched else None
    masks = boot_masks(
        cpu,
        version("v6.6") if patched else kernel,
        enabled=CET_S if enabled else 0,
        normal=CET_S if in_normal or sss_in_fpstate else 0,
        guest=CET_S if in_guest else 0,
        independent=CET_S if how.mechanism == "independent" else 0,
        pasid=settings.pasid,
        patched=patched,
    )
    kvm_rule = kernel.kvm_cet[vendor] and "SHSTK" in cpu.features and masks.xss & CET == CET
    overrides_kvm = what.mask == CET_S and settings.patches is None and kernel.gives_cet
    has_cet = settings.guest_cet and how.guest_has_cet and (kvm_rule or overrides_kvm)
    guest_xss = _guest_xss(settings, kernel.guest_xss[vendor] & masks.xss if kvm_rule else CET, has_cet)
    offered = masks.xcr0 & KVM_SUPPORTED_XCR0
    guest_xcr0 = offered if settings.guest_amx else offered & ~XTILE
    if settings.guest_xcr0 is not None:
        if settings.guest_xcr0 & ~offered or not settings.guest_xcr0 & FP:
            raise InputError(f"guest XCR0 {settings.guest_xcr0:#x}: allowed are bit 0 and bits of {offered:#x}")
        guest_xcr0 = settings.guest_xcr0
    guest_xfeatures = masks.guest_default | (XTILEDATA & masks.max_features if settings.guest_amx else 0)
    uret = default_uret_msrs(vendor) if settings.guest_uret_msrs is None else settings.guest_uret_msrs
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
        guest_xcr0=guest_xcr0,
        guest_xfeatures=guest_xfeatures,
        guest_fpstate_size=cpu.compacted(guest_xfeatures).size,
        guest_uret_msrs=uret,
        hypothetical=tuple(_hypothetical(settings, cpu, kernel, how, what, vendor, has_cet and not kvm_rule)),
    )


def default_uret_msrs(vendor: str) -> tuple[str, ...]:
    """The user-return MSRs in which a guest differs from the host if nothing else is said."""
    return ("LSTAR", "TSC_AUX") if vendor == "vmx" else ("TSC_AUX",)


def _patches_for(how: Strategy) -> frozenset[int]:
    """The RFC's patches that a strategy consists of on kernel rfc."""
    if how.normal_fpstates:
        return frozenset((1, 2, 3))
    return ALL_PATCHES if how.guest_fpstates else frozenset((1, 2))


def _check_pair(
    settings: Settings, cpu: CpuProfile, kernel: KernelVersion, how: Strategy, what: CarriedState, vendor: str
) -> None:
    """Pairs that make no sense."""
    for option, allowed in (("host_shadow_stacks", HostShadowStacks), ("msr_access", MsrAccess)):
        value = getattr(settings, option)
        if value not in allowed.__args__:  # type: ignore[attr-defined]
            raise InputError(f"{option} = {value!r} (allowed: {', '.join(allowed.__args__)})")  # type: ignore[attr-defined]
    if settings.patches is not None:
        if kernel.name != "rfc" or how.name != "xstate-guest":
            raise InputError("a choice of the RFC's patches needs kernel rfc and strategy xstate-guest")
        effect(settings.patches)
    if what.xfeature is None and how.mechanism in ("fpstate", "independent"):
        raise InputError(f"strategy {how.name} needs an xfeature, and {what.name} has none")
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
    if how.mechanism in ("msr", "user-return") and needed and needed not in cpu.features:
        return f"CPUID does not enumerate {needed}"
    return ""


def _guest_xss(settings: Settings, offered: int, has_cet: bool) -> int:
    most = offered if has_cet else 0
    if settings.guest_xss is None:
        return most
    if settings.guest_xss & ~most:
        why = "this guest has no CET" if not has_cet else "KVM offers CET_U and CET_S at most"
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
    """What about this pair no kernel does, in sentences."""
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
    if what.per_task_msr:
        notes.append(f"no KVM up to v7.3 gives {what.name} to guests; the series that would is not merged")
    if lacking := _lacking(settings, cpu, how, what):
        notes.append(f"{cpu.name}: {lacking}")
    return notes
