"""CPUs as CPUID describes them: which state components there are, how large, and where.

One data file per CPU in ``sim/xsave/cpus``, or the user's own, holds the registers of a CPUID dump as they were
printed; what they mean is decoded here (Intel SDM vol. 1, section 13.2 "Enumeration of CPU Support for XSAVE
Instructions and XSAVE-Supported Features"; vol. 2, CPUID, leaves 04H, 07H, 0DH, 15H and 16H).  Linux reads the same
leaves (arch/x86/kernel/fpu/xstate.c, setup_xstate_cache).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from sim.errors import InputError, unknown
from sim.xsave import imported, profile_data
from sim.xsave.components import ALL, EXTENDED, bits
from sim.xsave.freedoms import Freedoms
from sim.xsave.geometry import GENERIC as GENERIC
from sim.xsave.geometry import LEGACY_SIZES
from sim.xsave.geometry import Geometry as Geometry
from sim.xsave.profile_data import EAX, EBX, ECX, EDX, NOTHING, shipped
from sim.xsave.profile_data import FEATURES as FEATURES
from sim.xsave.profile_data import names as names

_TEXTS = ("title", "source")
"""In which the name of a file may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuProfile(Geometry):
    """What CPUID says about one CPU, and what its XSAVE hardware does where the architecture leaves it a choice.

    ``name`` is what :func:`profile` takes: a shipped name, or the path of a file.
    """

    title: str
    vendor: Literal["intel", "amd"]
    source: str
    signature: int
    """Leaf 1's EAX: family, model and stepping (:func:`sim.xsave.families.decoded`); 0 if it is not known."""
    notes: tuple[str, ...]
    """What did not come from CPUID, a sentence each."""
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
    mitigations: tuple[str, ...]
    """X86_FEATURE_* that Linux sets for it and that VM entry and exit test."""
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
    def label(self) -> str:
        """The name, of a file without its folder and ending."""
        return Path(self.name).name.removesuffix(".toml").removesuffix(".txt")

    def without_path(self) -> "CpuProfile":
        """The same, called by its label: where its file lies is no part of what it is."""
        file = Path(self.name).name
        return replace(self, name=self.label, **{key: getattr(self, key).replace(self.name, file) for key in _TEXTS})


def profile(name: str | CpuProfile) -> CpuProfile:
    """The CPU of that name, or of the file ``name``: a profile (.toml), or a dump of its CPUID registers.

    A profile itself stays what it is.  Raises :class:`InputError` for what is neither, for a file that is not a
    profile, and for registers that contradict themselves.
    """
    return name if isinstance(name, CpuProfile) else _read(name, _stamp(name))


def _stamp(name: str) -> tuple[int, ...] | None:
    """What tells whether a file of the user's has changed; None for what is shipped, and for no file."""
    if name in names() or not _is_there(Path(name)):
        return None
    found = Path(name).stat()
    return (found.st_mtime_ns, found.st_size) if Path(name).is_file() else ()  # a pipe can be read once


@lru_cache(maxsize=64)
def _read(name: str, stamp: tuple[int, ...] | None) -> CpuProfile:
    if name in names():
        return of_data(name, shipped(name))
    path = Path(name)
    if not _is_there(path):
        raise InputError(f"{unknown('CPU', name, names())}, and there is no such file")
    data = profile_data.read(path) if path.suffix == ".toml" else imported.document(imported.dump(path), name)
    return of_data(name, data)


def is_known(name: str) -> bool:
    """Whether :func:`profile` has a CPU of that name, or a file."""
    return name in names() or _is_there(Path(name))


def _is_there(path: Path) -> bool:
    try:
        return bool(path.name) and path.exists()  # the path of an empty name is "."
    except (OSError, ValueError):  # too long a name, a null character
        return False


def of_data(name: str, data: Mapping[str, Any]) -> CpuProfile:
    """The CPU that a profile's data describe (:mod:`sim.xsave.profile_data`)."""
    cpuid: Mapping[str, Mapping[str, Sequence[int]]] = data["cpuid"]

    def leaf(number: int, sub: int) -> Sequence[int]:
        return cpuid.get(str(number), {}).get(str(sub), NOTHING)  # a sub-leaf that a CPU lacks reads as zero

    caches = cpuid["4" if data["vendor"] == "intel" else "0x8000001d"]
    xcr0 = leaf(0xD, 0)[EAX] | leaf(0xD, 0)[EDX] << 32
    xss = leaf(0xD, 1)[ECX] | leaf(0xD, 1)[EDX] << 32
    places = {i: leaf(0xD, i) for i in bits[(xcr0 | xss) & EXTENDED & ALL]}
    if missing := [i for i, place in places.items() if not place[EAX]]:
        raise InputError(f"{name}: leaf 0DH says that components {missing} are there, and not how large")
    return CpuProfile(
        name=name,
        title=data["title"],
        vendor=data["vendor"],
        source=data["source"],
        signature=leaf(1, 0)[EAX],
        bugs=tuple(data["bugs"]),
        mitigations=tuple(data["mitigations"]),
        notes=tuple(data.get("notes", ())),
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
        tsc_hz=data.get("tsc_hz") or profile_data.tsc_hz(leaf(0x15, 0), leaf(0x16, 0)),
        freedoms=Freedoms(**data["freedoms"]),
    )


def _cache_size(registers: Sequence[int]) -> int:
    """Bytes of a cache: ways x partitions x line size x sets, each enumerated less 1.

    Intel SDM vol. 2, CPUID, leaf 04H; AMD APM vol. 3, appendix E, function 8000_001Dh, which has the same fields.
    """
    ebx, sets = registers[EBX], registers[ECX] + 1
    return ((ebx >> 22) + 1) * ((ebx >> 12 & 0x3FF) + 1) * ((ebx & 0xFFF) + 1) * sets
