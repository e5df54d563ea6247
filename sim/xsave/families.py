"""Families of CPUs by CPUID's signature: their names, and what Linux assumes about them.

Names: Linux v7.3.4, arch/x86/include/asm/intel-family.h, and arch/x86/kernel/cpu/amd.c, bsp_init_amd().  VMSCAPE:
cpu_vuln_blacklist[] of arch/x86/kernel/cpu/common.c, there.  L1TF: the cores of Intel before those whose
IA32_ARCH_CAPABILITIES has RDCL_NO, which is not in CPUID; the list is from memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Family:
    """CPUs that share a name; ``like`` is the shipped profile of one of them or of the nearest, empty if none is."""

    vendor: str
    family: int
    models: Sequence[int]
    name: str
    like: str
    vmscape: bool = True
    l1tf: bool = False
    steppings: Sequence[int] = range(16)

    @property
    def bugs(self) -> tuple[str, ...]:
        """X86_BUG_* that the model asks for, as a profile has them."""
        return ("VMSCAPE",) * self.vmscape + ("L1TF",) * self.l1tf


INTEL, AMD, HYGON = "GenuineIntel", "AuthenticAMD", "HygonGenuine"

FAMILIES: Final = (
    Family(INTEL, 6, (0x17, 0x1D), "Penryn", "", vmscape=False, l1tf=True),
    Family(INTEL, 6, (0x2A, 0x2D), "Sandy Bridge", "", l1tf=True),
    Family(INTEL, 6, (0x3A, 0x3E), "Ivy Bridge", "", l1tf=True),
    Family(INTEL, 6, (0x3C, 0x3F, 0x45, 0x46), "Haswell", "", l1tf=True),
    Family(INTEL, 6, (0x3D, 0x47, 0x4F, 0x56), "Broadwell", "", l1tf=True),
    Family(INTEL, 6, (0x4E, 0x5E), "Skylake", "skylake-sp", l1tf=True),
    Family(INTEL, 6, (0x55,), "Skylake-SP", "skylake-sp", l1tf=True, steppings=range(5)),
    Family(INTEL, 6, (0x55,), "Cascade Lake", "cascade-lake", steppings=range(5, 10)),
    Family(INTEL, 6, (0x55,), "Cooper Lake", "cascade-lake", steppings=range(10, 16)),
    Family(INTEL, 6, (0x8E, 0x9E), "Kaby Lake", "skylake-sp", l1tf=True),
    Family(INTEL, 6, (0xA5, 0xA6), "Comet Lake", "skylake-sp"),
    Family(INTEL, 6, (0x66,), "Cannon Lake", "skylake-sp"),
    Family(INTEL, 6, (0x6A, 0x6C), "Ice Lake-SP", "ice-lake-sp", vmscape=False),
    Family(INTEL, 6, (0x7D, 0x7E, 0x9D), "Ice Lake", "ice-lake-sp", vmscape=False),
    Family(INTEL, 6, (0xA7,), "Rocket Lake", "ice-lake-sp", vmscape=False),
    Family(INTEL, 6, (0x8C, 0x8D), "Tiger Lake", "ice-lake-sp", vmscape=False),
    Family(INTEL, 6, (0x8A,), "Lakefield", "alder-lake", vmscape=False),
    Family(INTEL, 6, (0x8F,), "Sapphire Rapids", "sapphire-rapids"),
    Family(INTEL, 6, (0xCF,), "Emerald Rapids", "emerald-rapids"),
    Family(INTEL, 6, (0xAD,), "Granite Rapids", "granite-rapids"),
    Family(INTEL, 6, (0xAE,), "Granite Rapids", "granite-rapids", vmscape=False),
    Family(INTEL, 19, (0x01,), "Diamond Rapids", "diamond-rapids", vmscape=False),
    Family(INTEL, 6, (0x97, 0x9A), "Alder Lake", "alder-lake"),
    Family(INTEL, 6, (0xB7, 0xBA, 0xBF), "Raptor Lake", "alder-lake"),
    Family(INTEL, 6, (0xD7,), "Bartlett Lake", "alder-lake", vmscape=False),
    Family(INTEL, 6, (0xBE,), "Alder Lake-N", "alder-lake"),
    Family(INTEL, 6, (0xAA,), "Meteor Lake", "alder-lake"),
    Family(INTEL, 6, (0xAC,), "Meteor Lake", "alder-lake", vmscape=False),
    Family(INTEL, 6, (0xB5, 0xC5, 0xC6), "Arrow Lake", "arrow-lake"),
    Family(INTEL, 6, (0xBD,), "Lunar Lake", "arrow-lake"),
    Family(INTEL, 6, (0xCC, 0xE5), "Panther Lake", "arrow-lake", vmscape=False),
    Family(INTEL, 6, (0xD5,), "Wildcat Lake", "arrow-lake", vmscape=False),
    Family(INTEL, 18, (0x01, 0x03), "Nova Lake", "diamond-rapids", vmscape=False),
    Family(INTEL, 6, (0x5C, 0x5F, 0x7A), "Goldmont", "", vmscape=False),
    Family(INTEL, 6, (0x86, 0x96, 0x9C), "Tremont", "", vmscape=False),
    Family(INTEL, 6, (0xAF,), "Sierra Forest", "sierra-forest"),
    Family(INTEL, 6, (0xB6,), "Grand Ridge", "sierra-forest", vmscape=False),
    Family(INTEL, 6, (0xDD,), "Clearwater Forest", "sierra-forest", vmscape=False),
    Family(INTEL, 6, (0x57, 0x85), "Xeon Phi", "skylake-sp", vmscape=False),
    Family(AMD, 0x15, range(0x02), "Bulldozer", "", vmscape=False),
    Family(AMD, 0x15, (0x02, *range(0x10, 0x20)), "Piledriver", "", vmscape=False),
    Family(AMD, 0x15, range(0x30, 0x50), "Steamroller", "", vmscape=False),
    Family(AMD, 0x15, range(0x60, 0x80), "Excavator", "", vmscape=False),
    Family(AMD, 0x16, range(0x30), "Jaguar", "", vmscape=False),
    Family(AMD, 0x16, range(0x30, 0x40), "Puma", "", vmscape=False),
    Family(AMD, 0x17, (*range(0x30), *range(0x50, 0x60)), "Zen 1", "zen2"),
    Family(AMD, 0x17, range(256), "Zen 2", "zen2"),
    Family(AMD, 0x19, (*range(0x10), *range(0x20, 0x60)), "Zen 3", "zen3"),
    Family(AMD, 0x19, range(256), "Zen 4", "zen4"),
    Family(AMD, 0x1A, (*range(0x50, 0x60), *range(0x80, 0xB0), *range(0xC0, 0xD0)), "Zen 6", "zen5"),
    Family(AMD, 0x1A, range(0xD8, 0xF0), "Zen 6", "zen5"),
    Family(AMD, 0x1A, range(256), "Zen 5", "zen5"),
    Family(HYGON, 0x18, range(256), "Hygon Dhyana", "zen2"),
)
"""The first that fits counts."""


def family(vendor: str, signature: int) -> Family | None:
    """The family of a CPU by leaf 0's vendor and leaf 1's EAX; None if it is not known here."""
    number, model, stepping = decoded(signature)
    for each in FAMILIES:
        if (each.vendor, each.family) == (vendor, number) and model in each.models and stepping in each.steppings:
            return each
    return None


def decoded(signature: int) -> tuple[int, int, int]:
    """Family, model and stepping of leaf 1's EAX (Intel SDM vol. 2, CPUID; Linux, arch/x86/lib/cpu.c)."""
    number = signature >> 8 & 0xF
    model = signature >> 4 & 0xF
    if number == 0xF:
        number += signature >> 20 & 0xFF
    if number >= 6:
        model += (signature >> 16 & 0xF) << 4
    return number, model, signature & 0xF


def encoded(number: int, model: int, stepping: int) -> int:
    """Leaf 1's EAX of a family, model and stepping."""
    low, high = min(number, 0xF), max(number - 0xF, 0)
    return stepping & 0xF | (model & 0xF) << 4 | low << 8 | (model >> 4 & 0xF) << 16 | (high & 0xFF) << 20
