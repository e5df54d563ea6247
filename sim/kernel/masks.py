"""Feature masks and sizes that a kernel sets up at boot: fpu__init_system_xstate().

Source: arch/x86/kernel/fpu/xstate.c, Linux v6.19; the differences from the other kernels are those of
:mod:`sim.kernel.versions`, those of the RFC's patches in :mod:`sim.kernel.patches`.
"""

from dataclasses import dataclass
from typing import Final

from sim.errors import InputError
from sim.kernel.patches import Effect
from sim.kernel.versions import KernelVersion
from sim.xsave.components import APX, AVX, AVX512, CET_S, CET_U, LBR, MPX, PASID, PKRU, PT, XTILE, XTILEDATA
from sim.xsave.profiles import CpuProfile

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

ALIGN_STRUCT: Final = 64
PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class BootMasks:
    """Feature masks and sizes in bytes, under the names of fpu_kernel_cfg, fpu_user_cfg and guest_default_cfg.

    ``restore_mask`` is the RFBM of restores (max_features & XFEATURE_MASK_FPSTATE), ``xfd`` the value of IA32_XFD for
    tasks (init_fpstate.xfd), ``independent`` the features outside all fpstates, ``amx_size`` the size of a task's
    fpstate with XTILEDATA.
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
    amx_size: int

    @property
    def task_bytes(self) -> int:
        """Bytes that the fpstate takes in the task's slab object, which is aligned to 64 bytes (kernel/fork.c)."""
        return round_up(ALIGN_STRUCT + self.host_size, ALIGN_STRUCT)

    @property
    def amx_task_bytes(self) -> int:
        """The same of a task that has used AMX: pages for the larger fpstate come on top (fpstate_realloc())."""
        return self.task_bytes + round_up(self.amx_fpstate_bytes, PAGE)

    @property
    def amx_fpstate_bytes(self) -> int:
        """Bytes of that larger fpstate with its head, before they are rounded to pages."""
        return ALIGN_STRUCT + self.amx_size

    @property
    def guest_bytes(self) -> int:
        """Bytes of pages that vzalloc() takes for a guest fpstate."""
        return round_up(ALIGN_STRUCT + self.guest_allocated, PAGE)


def round_up(size: int, unit: int) -> int:
    """``size`` rounded up to a multiple of ``unit``."""
    return -(-size // unit) * unit


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

    ``enabled``, ``normal``, ``guest`` and ``independent`` are supervisor components that depend on the strategy, CET_S
    and what else it carries: enabled in IA32_XSS and max_features, in normal fpstates, in guest fpstates, and outside
    all fpstates.  ``patched`` is what a subset of the RFC's patches does to v6.6.
    """
    supported = cpu.xcr0_supported | cpu.xss_supported
    cet_u_needs = patched.cet_u_needs if patched else kernel.cet_u_needs
    if patched and patched.adds_cet_u and cpu.features & {*cet_u_needs} and not supported & CET_U:
        raise InputError(
            f"{cpu.name}: RFC patch 1 sets IA32_XSS[11], which CPUID.(0DH,1) does not have there, so that the write "
            "faults (#GP)"
        )
    maximum = supported
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
        amx_size=cpu.compacted(host_default | maximum & XTILEDATA).size,
    )
