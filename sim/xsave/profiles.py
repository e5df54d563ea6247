"""CPUs as CPUID describes them: which state components there are, how large, and where.

One data file per CPU in ``sim/xsave/cpus`` holds the registers of a CPUID dump as they were printed; what they mean is
decoded here (Intel SDM vol. 1, section 13.2 "Enumeration of CPU Support for XSAVE Instructions and XSAVE-Supported
Features"; vol. 2, CPUID, leaves 04H, 07H, 0DH, 15H and 16H).  Linux reads the same leaves
(arch/x86/kernel/fpu/xstate.c, setup_xstate_cache).
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from sim.errors import InputError, unknown
from sim.xsave.area import Layout, compacted_layout, standard_layout
from sim.xsave.components import ALL, APX, COMPACTED, EXTENDED, MPX, SUPERVISOR, XTILE, bits
from sim.xsave.components import names as component_names
from sim.xsave.unit import Freedoms

EAX, EBX, ECX, EDX = range(4)

LEGACY_SIZES: Final = {0: 160, 1: 256}
"""x87 and SSE lie in the legacy region, which CPUID does not describe (SDM vol. 1, section 13.4.1).

SSE here is XMM0-15; MXCSR and MXCSR_MASK are 8 bytes more, at offset 24 amid the x87 state.
"""

FEATURES: Final[Mapping[str, tuple[int, int, int, int]]] = {
    "XSAVE": (0x1, 0, ECX, 26),
    "AVX": (0x1, 0, ECX, 28),
    "MPX": (0x7, 0, EBX, 14),
    "AVX512F": (0x7, 0, EBX, 16),
    "INTEL_PT": (0x7, 0, EBX, 25),
    "PKU": (0x7, 0, ECX, 3),
    "SHSTK": (0x7, 0, ECX, 7),
    "ENQCMD": (0x7, 0, ECX, 29),
    "UINTR": (0x7, 0, EDX, 5),
    "ARCH_LBR": (0x7, 0, EDX, 19),
    "IBT": (0x7, 0, EDX, 20),
    "AMX_TILE": (0x7, 0, EDX, 24),
    "FRED": (0x7, 1, EAX, 17),
    "LKGS": (0x7, 1, EAX, 18),
    "WRMSRNS": (0x7, 1, EAX, 19),
    "MSRLIST": (0x7, 1, EAX, 27),
    "CET_SSS": (0x7, 1, EDX, 18),
    "APX": (0x7, 1, EDX, 21),
    "XSAVEOPT": (0xD, 1, EAX, 0),
    "XSAVEC": (0xD, 1, EAX, 1),
    "XGETBV1": (0xD, 1, EAX, 2),
    "XSAVES": (0xD, 1, EAX, 3),
    "XFD": (0xD, 1, EAX, 4),
}
"""Leaf, sub-leaf, register and bit by X86_FEATURE_* name (arch/x86/include/asm/cpufeatures.h, v7.1); UINTR, MSRLIST and
CET_SSS, for which v7.1 has no name there, by that of the SDM.

OSXSAVE and OSPKE are missing on purpose: they mirror CR4, which Linux sets by itself if XSAVE and PKU are there.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Sizes and places of state components, from which a layout follows.

    ``sizes`` and ``offsets`` are in bytes by component; ``offsets`` are those of the standard format.  ``aligned`` is
    the mask of components that start on a 64-byte boundary in the compacted format.
    """

    name: str
    sizes: Mapping[int, int] = field(hash=False)
    offsets: Mapping[int, int] = field(hash=False)
    aligned: int

    @property
    def components(self) -> int:
        """The mask of all components that there are."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuProfile(Geometry):
    """What CPUID says about one CPU, and what its XSAVE hardware does where the architecture leaves it a choice."""

    title: str
    vendor: Literal["intel", "amd"]
    source: str
    synthetic: bool
    """No CPU is known to report this."""
    xcr0_supported: int
    """The bits that XCR0 may have."""
    xss_supported: int
    """The bits that IA32_XSS may have."""
    xfd_supported: int
    """The bits that IA32_XFD may have."""
    standard_size: int
    """What CPUID reports for all of ``xcr0_supported`` in the standard format."""
    bugs: tuple[str, ...]
    """X86_BUG_* that Linux sees in it and the model asks for."""
    features: frozenset[str]
    """Those of :data:`FEATURES` that CPUID reports."""
    l1d_size: int
    """Bytes of a core's L1 data cache."""
    l2_size: int
    """Bytes of a core's L2 cache."""
    tsc_hz: float
    """TSC cycles per second."""
    freedoms: Freedoms

    @property
    def cet_sss(self) -> bool:
        """An OS that keeps page faults off its shadow stacks may use supervisor ones: none becomes prematurely busy.

        SDM vol. 2, CPUID, leaf 07H, sub-leaf 1, EDX[18].
        """
        return "CET_SSS" in self.features


@cache
def names() -> tuple[str, ...]:
    """The names that :func:`profile` knows."""
    data = files("sim.xsave") / "cpus"
    return tuple(sorted(file.name.removesuffix(".toml") for file in data.iterdir() if file.name.endswith(".toml")))


@cache
def profile(name: str) -> CpuProfile:
    """The CPU of that name."""
    if name not in names():
        raise unknown("CPU", name, names())
    text = (files("sim.xsave") / "cpus" / f"{name}.toml").read_text(encoding="utf-8")
    return _decode(name, tomllib.loads(text))


def _decode(name: str, data: Mapping[str, Any]) -> CpuProfile:
    cpuid: Mapping[str, Mapping[str, Sequence[int]]] = data["cpuid"]

    def leaf(number: int, sub: int) -> Sequence[int]:
        return cpuid[str(number)].get(str(sub), (0, 0, 0, 0))  # a sub-leaf that a CPU lacks reads as zero

    caches = cpuid["4" if data["vendor"] == "intel" else "0x8000001d"]

    xcr0 = leaf(0xD, 0)[EAX] | leaf(0xD, 0)[EDX] << 32
    xss = leaf(0xD, 1)[ECX] | leaf(0xD, 1)[EDX] << 32
    places = {i: leaf(0xD, i) for i in bits[(xcr0 | xss) & EXTENDED & ALL]}
    return CpuProfile(
        name=name,
        title=data["title"],
        vendor=data["vendor"],
        source=data["source"],
        bugs=tuple(data["bugs"]),
        synthetic=data.get("synthetic", False),
        xcr0_supported=xcr0,
        xss_supported=xss,
        sizes=LEGACY_SIZES | {i: place[EAX] for i, place in places.items()},
        offsets={i: places[i][EBX] for i in bits[xcr0 & EXTENDED & ALL]},
        aligned=sum(1 << i for i, place in places.items() if place[ECX] & 1 << 1),
        xfd_supported=sum(1 << i for i, place in places.items() if place[ECX] & 1 << 2),
        standard_size=leaf(0xD, 0)[ECX],
        features=frozenset(
            feature
            for feature, (number, sub, register, bit) in FEATURES.items()
            if leaf(number, sub)[register] >> bit & 1
        ),
        l1d_size=_cache_size(caches["0"]),
        l2_size=_cache_size(caches["2"]),
        tsc_hz=data["tsc_hz"] if data["vendor"] == "amd" else _tsc_hz(leaf(0x15, 0), leaf(0x16, 0)),
        freedoms=Freedoms(**data["freedoms"]),
    )


def _tsc_hz(ratio: Sequence[int], base: Sequence[int]) -> float:
    """The crystal clock times the TSC's ratio to it; where CPUID does not say the clock, the base frequency.

    Intel SDM vol. 2, CPUID, leaves 15H and 16H, as Linux reads them (arch/x86/kernel/tsc.c, native_calibrate_tsc()).
    """
    return ratio[ECX] * ratio[EBX] / ratio[EAX] if ratio[ECX] else base[EAX] * 1e6


def _cache_size(registers: Sequence[int]) -> int:
    """Bytes of a cache: ways x partitions x line size x sets, each enumerated less 1.

    Intel SDM vol. 2, CPUID, leaf 04H; AMD APM vol. 3, appendix E, function 8000_001Dh, which has the same fields.
    """
    ebx, sets = registers[EBX], registers[ECX] + 1
    return ((ebx >> 22) + 1) * ((ebx >> 12 & 0x3FF) + 1) * ((ebx & 0xFFF) + 1) * sets
