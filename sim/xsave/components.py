"""The XSAVE state components 0-19: bits, names, and which of them are supervisor components.

Intel SDM vol. 1, section 13.1 "XSAVE-Supported Features and State-Component Bitmaps"; component 19 from the APX
specification.  Names are Linux's (arch/x86/include/asm/fpu/types.h, enum xfeature, v6.19) without XFEATURE_, and the
SDM's for 13, 14 and 16, which Linux reserves.  Sizes, offsets and alignment are
not here: CPUID reports them, see :mod:`sim.xsave.profiles`.
"""

from dataclasses import dataclass
from typing import Final

from sim.errors import InputError


@dataclass(frozen=True, slots=True)
class Component:
    """One state component: its bit number in XCR0 or IA32_XSS, Linux's name for it, and what it holds."""

    number: int
    name: str
    supervisor: bool
    holds: str

    @property
    def mask(self) -> int:
        return 1 << self.number


COMPONENTS: Final = (
    Component(0, "FP", False, "x87: FCW, FSW, FTW, FOP, FIP, FDP, ST0-7"),
    Component(1, "SSE", False, "XMM0-15; MXCSR goes with it but has rules of its own"),
    Component(2, "YMM", False, "upper halves of YMM0-15"),
    Component(3, "BNDREGS", False, "MPX bounds BND0-3"),
    Component(4, "BNDCSR", False, "MPX BNDCFGU, BNDSTATUS"),
    Component(5, "OPMASK", False, "k0-k7"),
    Component(6, "ZMM_Hi256", False, "upper halves of ZMM0-15"),
    Component(7, "Hi16_ZMM", False, "ZMM16-31"),
    Component(8, "PT_UNIMPLEMENTED_SO_FAR", True, "Processor Trace MSRs"),
    Component(9, "PKRU", False, "PKRU"),
    Component(10, "PASID", True, "IA32_PASID"),
    Component(11, "CET_USER", True, "IA32_U_CET, IA32_PL3_SSP"),
    Component(12, "CET_KERNEL", True, "IA32_PL0_SSP, IA32_PL1_SSP, IA32_PL2_SSP"),
    Component(13, "HDC", True, "hardware duty cycling"),
    Component(14, "UINTR", True, "user interrupt MSRs"),
    Component(15, "LBR", True, "architectural last branch records"),
    Component(16, "HWP", True, "hardware P-states"),
    Component(17, "XTILE_CFG", False, "AMX TILECFG"),
    Component(18, "XTILE_DATA", False, "AMX TMM0-7"),
    Component(19, "APX", False, "R16-R31"),
)

FP: Final = 1 << 0
SSE: Final = 1 << 1
AVX: Final = 1 << 2
MPX: Final = 1 << 3 | 1 << 4
OPMASK: Final = 1 << 5
ZMM_HI256: Final = 1 << 6
HI16_ZMM: Final = 1 << 7
AVX512: Final = OPMASK | ZMM_HI256 | HI16_ZMM
PT: Final = 1 << 8
PKRU: Final = 1 << 9
PASID: Final = 1 << 10
CET_U: Final = 1 << 11
CET_S: Final = 1 << 12
CET: Final = CET_U | CET_S
UINTR: Final = 1 << 14
LBR: Final = 1 << 15
XTILECFG: Final = 1 << 17
XTILEDATA: Final = 1 << 18
XTILE: Final = XTILECFG | XTILEDATA
APX: Final = 1 << 19

ALL: Final = (1 << len(COMPONENTS)) - 1
USER: Final = sum(c.mask for c in COMPONENTS if not c.supervisor)
SUPERVISOR: Final = ALL & ~USER
EXTENDED: Final = (1 << 63) - 1 & ~(FP | SSE)
"""Components 2-62: those in the extended region."""

COMPACTED: Final = 1 << 63
"""XCOMP_BV[63]: the area is in the compacted format."""

MXCSR_INIT: Final = 0x1F80


class _Bits(dict[int, tuple[int, ...]]):
    """The bit numbers of a mask in ascending order; computed once per mask, since every save and restore asks."""

    def __missing__(self, mask: int) -> tuple[int, ...]:
        numbers = self[mask] = tuple(i for i in range(mask.bit_length()) if mask >> i & 1)
        return numbers


bits: Final = _Bits()


def decode(mask: int) -> tuple[str, ...]:
    """The Linux names of the components in ``mask``, such as an XCR0, IA32_XSS, RFBM, XSTATE_BV or XCOMP_BV.

    A bit without a component is "bit N"; bit 63, by which XCOMP_BV says that the area is compacted, is left out.
    Raises :class:`~sim.errors.InputError` for anything that is not a mask of 64 bits.
    """
    if isinstance(mask, bool) or not isinstance(mask, int) or not 0 <= mask < 1 << 64:
        raise InputError(f"mask: found {mask!r}; allowed: a whole number from 0 to {(1 << 64) - 1:#x}")
    return tuple(COMPONENTS[i].name if i < len(COMPONENTS) else f"bit {i}" for i in bits[mask & ~COMPACTED])


def names(mask: int) -> str:
    """The Linux names of the components in ``mask``, as "FP SSE PKRU"; unknown bits by number, nothing as "-"."""
    return " ".join(decode(mask)) or "-"
