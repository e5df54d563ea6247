"""A kernel booted on a CPU with a strategy: what it carries, where it keeps it, and what KVM then offers guests.

Source: arch/x86/kvm/x86.c kvm_setup_xss_caps(), Linux v6.19; the masks are those of :mod:`sim.kernel.masks`.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from sim.errors import InputError
from sim.kernel import mitigations, vpmu
from sim.kernel.carried import CarriedState, carried_state
from sim.kernel.datafile import STRICT
from sim.kernel.masks import ALIGN_STRUCT, PAGE, BootMasks, boot_masks, round_up
from sim.kernel.mitigations import IbpbAt, MitigationKind, SpecCtrl, VmscapeBy
from sim.kernel.patches import ALL_PATCHES, Effect, effect
from sim.kernel.settings_checks import (
    KVM_SUPPORTED_XCR0,
    HostShadowStacks,
    MsrAccess,
    check_carried_user_component,
    check_guest_xcr0,
    check_pair,
    check_user_return_msrs,
    hypothetical,
)
from sim.kernel.strategies import Strategy, strategy
from sim.kernel.versions import KernelVersion, version
from sim.kernel.vpmu import Vpmu
from sim.xsave.components import (
    CET,
    CET_S,
    SUPERVISOR,
    USER,
    XTILE,
    XTILEDATA,
)
from sim.xsave.profiles import GENERIC, CpuProfile, profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a user chooses about the kernel model; :func:`boot` checks and completes it.

    ``patches`` are the RFC's (kernel rfc only; None: those that the strategy needs).  ``guest_xss`` and ``guest_xcr0``
    default to what a guest enables that uses all that KVM offers.  ``guest_uret_msrs``: user-return MSRs in which
    guest and host differ.  ``mitigations`` are those of :mod:`sim.kernel.mitigations`: all that Linux has on this CPU,
    none, or those of some kinds.  ``cpu``, ``strategy`` and ``carried`` are names of shipped ones, paths of files, or
    what was read from a file.  ``apx`` False: the kernel leaves APX off (clearcpuid=apx).
    ``vpmu_in_use``: how many counters of each guest count, ``vpmu_counts_instructions``: one of them instructions.
    ``guest_spec_ctrl``: what guests write to IA32_SPEC_CTRL.
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
    guest_spec_ctrl: SpecCtrl = "host"
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
    vpmu_counts_instructions: bool = False
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
    check_pair(settings, cpu, kernel, how, what, vendor)

    vpmu.check(
        settings.vpmu,
        kernel.name,
        vendor,
        cpu.features,
        cpu.name,
        settings.vpmu_in_use,
        settings.vpmu_counts_instructions,
    )

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
    check_carried_user_component(cpu, kernel, how, what, masks)
    kvm_rule = kernel.kvm_cet[vendor] and "SHSTK" in cpu.features and masks.xss & CET == CET
    overrides_kvm = what.mask == CET_S and settings.patches is None and kernel.gives_cet
    has_cet = settings.guest_cet and how.guest_has_cet and (kvm_rule or overrides_kvm)
    most = (kernel.guest_xss[vendor] & masks.xss if kvm_rule else CET) if has_cet else 0
    guest_xss = _guest_xss(settings, most | what.mask & ~CET & masks.xss, has_cet)
    guest_default = masks.guest_default & ~(what.mask if how.mechanism == "instructions" else 0)
    kvm_supports = KVM_SUPPORTED_XCR0 | what.mask if how.carries else KVM_SUPPORTED_XCR0
    offered = masks.xcr0 & kvm_supports
    guest_xcr0 = offered if settings.guest_amx else offered & ~XTILE
    if settings.guest_xcr0 is not None:
        check_guest_xcr0(settings.guest_xcr0, offered, settings.guest_amx)
        guest_xcr0 = settings.guest_xcr0
    guest_xfeatures = guest_default | (XTILEDATA & masks.max_features if settings.guest_amx else 0)
    uret = default_uret_msrs(vendor) if settings.guest_uret_msrs is None else settings.guest_uret_msrs
    check_user_return_msrs(what, uret)
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
        hypothetical=tuple(hypothetical(settings, cpu, kernel, how, what, vendor, has_cet and not kvm_rule)),
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
    if what.xfeature is None or what.mask == CET_S:
        return cpu
    if what.mask & (cpu.xcr0_supported | cpu.xss_supported):
        if what.size_bytes != (size := cpu.sizes[what.xfeature]):
            raise InputError(
                f"carried state {what.name}: size_bytes = {what.size_bytes} (allowed on {cpu.name}, by CPUID: {size})"
            )
        return cpu
    return replace(
        cpu,
        sizes={**cpu.sizes, what.xfeature: what.size_bytes},
        offsets={**GENERIC.offsets, **cpu.offsets},
        xcr0_supported=cpu.xcr0_supported | what.mask & USER,
        xss_supported=cpu.xss_supported | what.mask & SUPERVISOR,
        features=cpu.features | {what.cpu_feature},
    )


def _patches_for(how: Strategy) -> frozenset[int]:
    """The RFC's patches that a strategy consists of on kernel rfc."""
    if how.normal_fpstates:
        return frozenset((1, 2, 3))
    return ALL_PATCHES if how.guest_fpstates else frozenset((1, 2))


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
