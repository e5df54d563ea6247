"""What a guest is offered: the features of its CPUID, if they are chosen for it in particular, and what KVM makes of
them.

Source: arch/x86/kvm/cpuid.c, arch/x86/kvm/x86.c __kvm_set_xcr(), kvm_load_xfeatures(), kvm_load_guest_pkru(), Linux
v6.19.  An fpstate has all that the kernel gives guests, whatever this one's CPUID lacks; AMX alone makes it larger.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sim.errors import InputError
from sim.kernel import vpmu
from sim.kernel.config import Config
from sim.kernel.mitigations import SpecCtrl
from sim.xsave.components import PKRU, SUPERVISOR, XTILE, XTILEDATA


@dataclass(frozen=True, slots=True)
class GuestChoice:
    """What is chosen for one guest; None: as the settings of the kernel say for all guests.

    ``xss`` are the bits of IA32_XSS that it may have, where it has CET or another carried xfeature at all.  ``pku``
    False: its CPUID has no PKU, so that it has neither XCR0[9] nor CR4.PKE.  ``vpmu`` False: its CPUID has no
    performance counters, so that KVM leaves them alone (kvm_vcpu_has_mediated_pmu()).  ``vpmu_in_use`` and
    ``vpmu_counts_instructions``: how many counters it uses, and that one of them counts retired instructions.
    ``spec_ctrl``: what its kernel writes to IA32_SPEC_CTRL.  ``components`` are those of its
    CPU model: of what the host offers, it has these and no others in XCR0 and IA32_XSS, as QEMU leaves out what the
    host lacks.  ``xsave`` False: its CPUID has no XSAVE, so that CR4.OSXSAVE stays clear and KVM switches neither XCR0
    nor IA32_XSS.  ``xsaves`` False: it has no XSAVES, so that KVM on VMX does not switch IA32_XSS; SVM cannot forbid
    XSAVES, and switches it (vmx_vcpu_after_set_cpuid(), svm_vcpu_after_set_cpuid(), v6.6 to v7.3).
    """

    xcr0: int | None = None
    xss: int | None = None
    pku: bool | None = None
    amx: bool | None = None
    vpmu: bool = True
    components: int | None = None
    xsave: bool = True
    xsaves: bool = True
    vpmu_in_use: int | None = None
    vpmu_counts_instructions: bool | None = None
    spec_ctrl: SpecCtrl | None = None


AS_ALL = GuestChoice()


@dataclass(frozen=True, slots=True)
class GuestFeatures:
    """A guest's XCR0 and IA32_XSS, whether it sets CR4.PKE, its fpstate's features and size in bytes, and its vPMU.

    ``lacks`` are the supervisor components that its CPU model lacks: it has their MSRs under no strategy.
    """

    xcr0: int
    xss: int
    pku: bool
    lacks: int
    xfeatures: int
    fpstate_size: int
    vpmu_in_use: int
    counts_instructions: bool


def features(config: Config, choice: GuestChoice = AS_ALL) -> GuestFeatures:
    """What a guest has on this kernel; :class:`~sim.errors.InputError` if that cannot be."""
    for key, problem in problems(config, choice):
        raise InputError(f"guest {key}: {problem}")
    amx = _amx(config, choice)
    xcr0 = _xcr0(config, choice)
    xfeatures = config.guest_default | (XTILEDATA & config.masks.max_features if amx else 0)
    return GuestFeatures(
        xcr0=xcr0,
        xss=_offered_xss(config, choice) & (-1 if choice.xss is None else choice.xss),
        pku=bool(xcr0 & PKRU) if choice.pku is None else choice.pku,
        lacks=_lacks(choice),
        xfeatures=xfeatures,
        fpstate_size=config.cpu.compacted(xfeatures).size,
        vpmu_in_use=_vpmu_in_use(config, choice),
        counts_instructions=counts_instructions(config.settings.vpmu_counts_instructions, choice),
    )


def counts_instructions(all_do: bool, choice: GuestChoice) -> bool:
    """Whether a counter of a guest counts retired instructions, where ``all_do`` is the setting for all guests."""
    return choice.vpmu and (all_do if choice.vpmu_counts_instructions is None else choice.vpmu_counts_instructions)


def problems(config: Config, choice: GuestChoice) -> Iterator[tuple[str, str]]:
    """The parts of a choice that are impossible on this kernel and CPU: the key, what was found and what is allowed."""
    offered, xcr0 = config.offered_xcr0, choice.xcr0
    if choice.amx and not offered & XTILE:
        yield "amx", f"found true, and {config.cpu.name} has no AMX to give to a guest"
    if choice.pku and not config.pku:
        yield "pku", f"found true, and {config.cpu.name} has no PKU"
    if xcr0 is not None:
        if xcr0 & ~offered or not xcr0 & 1:
            yield "xcr0", f"found {xcr0:#x}; allowed are bit 0 and bits of {offered:#x}"
        elif xcr0 & XTILE and not _amx(config, choice):
            yield "xcr0", f"found {xcr0:#x} with AMX (bits 17 and 18), which needs amx = true"
        elif xcr0 & PKRU and choice.pku is False:
            yield "xcr0", f"found {xcr0:#x} with PKRU (bit 9) beside pku = false"
    offered_xss = _offered_xss(config, choice)
    if choice.xss is not None and config.guest_has_cet and choice.xss & ~offered_xss:
        yield "xss", f"found {choice.xss:#x}; allowed: bits of {offered_xss:#x}, which these guests are offered"

    yield from _vpmu_problems(config, choice)


def _vpmu_problems(config: Config, choice: GuestChoice) -> Iterator[tuple[str, str]]:
    most, in_use = vpmu.COUNTERS[config.vendor][0], choice.vpmu_in_use
    for key, value in (("vpmu_in_use", in_use), ("vpmu_counts_instructions", choice.vpmu_counts_instructions)):
        if value and not choice.vpmu:
            yield key, f"found {str(value).lower()} beside vpmu = false"
    if in_use is not None and not 0 <= in_use <= most:
        yield "vpmu_in_use", f"found {in_use}; allowed on {config.vendor.upper()}: 0 to {most}"
    elif counts_instructions(config.settings.vpmu_counts_instructions, choice) and not _vpmu_in_use(config, choice):
        yield "vpmu_counts_instructions", "found true with vpmu_in_use = 0; allowed: with a counter in use"


def _vpmu_in_use(config: Config, choice: GuestChoice) -> int:
    return config.settings.vpmu_in_use if choice.vpmu_in_use is None else choice.vpmu_in_use


def _lacks(choice: GuestChoice) -> int:
    return 0 if choice.components is None else SUPERVISOR & ~choice.components


def _offered_xss(config: Config, choice: GuestChoice) -> int:
    return config.guest_xss & ~_lacks(choice)


def _amx(config: Config, choice: GuestChoice) -> bool:
    if choice.amx is None and choice.components is not None:
        return bool(choice.components & config.offered_xcr0 & XTILE)
    return config.settings.guest_amx if choice.amx is None else choice.amx


def _xcr0(config: Config, choice: GuestChoice) -> int:
    if choice.xcr0 is not None:
        return choice.xcr0
    xcr0 = config.guest_xcr0 if choice.components is None else config.offered_xcr0 & choice.components
    for wanted, component in ((choice.amx, XTILE), (choice.pku, PKRU)):
        if wanted is not None:
            xcr0 = xcr0 | component & config.offered_xcr0 if wanted else xcr0 & ~component
    return xcr0
