"""Sizes and offsets of state components, from which the layout of an XSAVE area follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sim.errors import InputError
from sim.xsave.area import Layout, compacted_layout, standard_layout
from sim.xsave.components import APX, COMPACTED, MPX, SUPERVISOR, XTILE
from sim.xsave.components import names as component_names

LEGACY_SIZES: Final = {0: 160, 1: 256}
"""x87 and SSE are in the legacy region, which CPUID does not describe (SDM vol. 1, section 13.4.1).

SSE here is XMM0-15; MXCSR and MXCSR_MASK are 8 bytes more, at offset 24 amid the x87 state.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Sizes and offsets of state components, from which a layout follows.

    ``sizes`` and ``offsets`` are in bytes by component; ``offsets`` are those of the standard format.  ``aligned`` is
    the mask of components that start on a 64-byte boundary in the compacted format.
    """

    name: str
    sizes: Mapping[int, int] = field(hash=False)
    offsets: Mapping[int, int] = field(hash=False)
    aligned: int

    @property
    def components(self) -> int:
        """The mask of all components that the CPU has."""
        return sum(1 << i for i in self.sizes)

    def compacted(self, mask: int) -> Layout:
        """The compacted format for the components in ``mask`` (bit 63, as XCOMP_BV has it, is ignored)."""
        self._check(mask & ~COMPACTED)
        return compacted_layout(mask, self.sizes, self.aligned)

    def standard(self, xcr0: int) -> Layout:
        """The standard format for the user components in ``xcr0``."""
        if supervisor := xcr0 & SUPERVISOR:
            raise InputError(
                f"the standard format has no place for supervisor components, and {xcr0:#x} has "
                f"{component_names(supervisor)} ({supervisor:#x})"
            )
        self._check(xcr0)
        if xcr0 & APX and xcr0 & MPX:
            # Linux refuses XSAVE on such a CPU (v7.1, arch/x86/kernel/fpu/xstate.c, fpu__init_system_xstate).
            raise InputError(f"{xcr0:#x} has both MPX and APX, which share their place in the standard format")
        return standard_layout(xcr0, self.sizes, self.offsets)

    def _check(self, mask: int) -> None:
        if missing := mask & ~self.components:
            raise InputError(
                f"{self.name} has no state component {component_names(missing)} ({missing:#x}); "
                f"it has {self.components:#x}"
            )


GENERIC: Final = Geometry(
    name="generic",
    sizes=LEGACY_SIZES
    | {2: 256, 3: 64, 4: 64, 5: 64, 6: 512, 7: 1024, 8: 128, 9: 8, 10: 8, 11: 16}
    | {12: 24, 13: 8, 14: 48, 15: 808, 16: 8, 17: 64, 18: 8192, 19: 128},
    offsets={2: 576, 3: 960, 4: 1024, 5: 1088, 6: 1152, 7: 1664, 9: 2688, 17: 2752, 18: 2816, 19: 960},
    aligned=XTILE,
)
"""Every component, for a layout when no CPU is named.

Sizes and alignment of all but APX are those that CPUID reports wherever the component exists (the dumps of
:mod:`sim.xsave.cpus`; HDC: client Ice Lake, InstLatx64/InstLatx64 @ 087af2c7d72c,
GenuineIntel/GenuineIntel00706E5_IceLakeY_CPUID.txt), and Linux refuses to use XSAVE where they differ (v7.1,
arch/x86/kernel/fpu/xstate.c, check_xstate_against_struct).  APX: Intel APX Architecture Specification (355828), 128
bytes in the place of MPX.  The standard format's offsets are Intel's; AMD's differ.
"""
