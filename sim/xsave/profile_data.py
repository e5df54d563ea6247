"""The data files of CPU profiles: those that are shipped, and the user's own, which are checked."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from sim import bounded
from sim.errors import InputError, unknown
from sim.kinds import Kind, wanted
from sim.xsave.freedoms import Freedoms

EAX, EBX, ECX, EDX = range(4)

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

NOTHING: Final = (0, 0, 0, 0)
"""Registers of a sub-leaf that a CPU lacks."""

VENDORS: Final = ("intel", "amd")
BUGS: Final = ("VMSCAPE", "L1TF")
MITIGATIONS: Final = (
    "IBRS_ENHANCED", "KERNEL_IBRS", "RSB_VMEXIT", "RSB_VMEXIT_LITE", "CLEAR_BHB_VMEXIT", "CLEAR_CPU_BUF_VM",
    "CLEAR_CPU_BUF_VM by RFDS", "CLEAR_CPU_BUF_VM by TSA", "UNRET", "BHI_DIS_S",
)  # fmt: skip
"""X86_FEATURE_* that arch/x86/kernel/cpu/bugs.c sets for a CPU and that VM entry and exit test, or that make
IA32_SPEC_CTRL of the host other than 0 (IBRS_ENHANCED on Intel, KERNEL_IBRS); BHI_DIS_S is a bit of it."""
CACHES: Final = {"intel": "4", "amd": "0x8000001d"}
"""The leaf that describes the caches, by vendor."""

_TEXTS: Final = ("title", "vendor", "source")
_KEYS: Final = (*_TEXTS, "tsc_hz", "bugs", "mitigations", "notes", "synthetic", "cpuid", "freedoms")


@cache
def names() -> tuple[str, ...]:
    """The CPUs that are shipped."""
    data = files("sim.xsave") / "cpus"
    return tuple(sorted(file.name.removesuffix(".toml") for file in data.iterdir() if file.name.endswith(".toml")))


@cache
def shipped(name: str) -> Mapping[str, Any]:
    """The data of a shipped CPU."""
    return tomllib.loads((files("sim.xsave") / "cpus" / f"{name}.toml").read_text(encoding="utf-8"))


def read(path: Path) -> Mapping[str, Any]:
    """The user's own profile, complete; :class:`InputError` says where it is wrong, what was found, what is allowed."""
    with wanted(path, Kind.PROFILE):
        return _read(path)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = bounded.toml(bounded.content(path, bounded.MOST_TOML))
    except (OSError, ValueError) as error:  # not there, not UTF-8, not TOML
        raise InputError(f"CPU profile {path}: {error}") from error
    for problem in _problems(data):
        raise InputError(f"CPU profile {path}: {problem}")
    leaves = {
        spelt(int(leaf, 0)): {str(int(sub, 0)): row for sub, row in subs.items()}
        for leaf, subs in data["cpuid"].items()
    }
    complete = {"bugs": [], "mitigations": [], "freedoms": {}, **data, "cpuid": leaves}
    for problem in _contradictions(complete):
        raise InputError(f"CPU profile {path}: {problem}")
    return complete


def tsc_hz(ratio: Sequence[int], base: Sequence[int]) -> float:
    """TSC cycles per second by leaves 15H and 16H: the crystal clock times its ratio, or else the base frequency.

    The latter where CPUID does not say the clock.  Intel SDM vol. 2, CPUID, leaves 15H and 16H, as Linux reads them
    (arch/x86/kernel/tsc.c, native_calibrate_tsc()).
    """
    return ratio[ECX] * ratio[EBX] / ratio[EAX] if ratio[ECX] else base[EAX] * 1e6


def spelt(leaf: int) -> str:
    """As the shipped files write a leaf."""
    return str(leaf) if leaf < 0x80000000 else f"{leaf:#x}"


def _problems(data: Mapping[str, Any]) -> Iterator[str]:
    """What is not as a profile is written, in the order of a reader."""
    for key in data:
        if key not in _KEYS:
            yield str(unknown("key", key, _KEYS))
    for key in (*_TEXTS, "cpuid"):
        if key not in data:
            yield f"{key}: the key is missing"
    for key in _TEXTS:
        if not isinstance(data[key], str):
            yield f"{key}: found {data[key]!r}; allowed: a text"
    if data["vendor"] not in VENDORS:
        yield f"vendor: found {data['vendor']!r}; allowed: {' or '.join(VENDORS)}"
    for key, allowed in (("bugs", BUGS), ("mitigations", MITIGATIONS), ("notes", None)):
        found = data.get(key, [])
        if not isinstance(found, list) or not all(
            isinstance(each, str) and each in (allowed or (each,)) for each in found
        ):
            yield f"{key}: found {found!r}; allowed: a list of {', '.join(allowed) if allowed else 'texts'}"
    if "tsc_hz" in data and not (type(tsc := data["tsc_hz"]) in (int, float) and 1e6 <= tsc <= 1e12):
        yield f"tsc_hz: found {tsc!r}; allowed: cycles per second, from 1e6 to 1e12"
    if "synthetic" in data and not isinstance(data["synthetic"], bool):
        yield f"synthetic: found {data['synthetic']!r}; allowed: true or false"
    if not isinstance(data["cpuid"], dict):
        yield f"cpuid: found {data['cpuid']!r}; allowed: tables of registers by leaf"
    seen: dict[tuple[int, int], str] = {}
    for leaf, subs in data["cpuid"].items():
        where = f"cpuid.{leaf}"
        if not _is_number(leaf) or not isinstance(subs, dict):
            yield f"{where}: allowed: the number of a leaf, and a row of registers by sub-leaf"
        for sub, row in subs.items():
            if not _is_number(sub) or not _is_row(row):
                yield f"{where}: {sub} = {row!r}; allowed: a sub-leaf's number = [EAX, EBX, ECX, EDX], of 32 bits each"
            here = f"{where}.{sub}"
            if (other := seen.setdefault((int(leaf, 0), int(sub, 0)), here)) != here:
                yield f"{here}: is {other}, too; allowed: each sub-leaf once"
    known = [field.name for field in fields(Freedoms)]
    freedoms = data.get("freedoms", {})
    if not isinstance(freedoms, dict):
        yield f"freedoms: found {freedoms!r}; allowed: a table"
    for key, value in freedoms.items():
        if key not in known:
            yield f"freedoms: {unknown('key', key, known)}"
        wanted = type(getattr(Freedoms(), key))
        if type(value) is not wanted or not 0 <= value < 1 << 64:
            yield f"freedoms.{key}: found {value!r}; allowed: {'true or false' if wanted is bool else 'a 64-bit mask'}"


def _is_number(text: str) -> bool:
    try:
        return 0 <= int(text, 0) < 1 << 32
    except ValueError:
        return False


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 4 and all(type(each) is int and 0 <= each < 1 << 32 for each in row)


def _contradictions(data: Mapping[str, Any]) -> Iterator[str]:
    """Leaves that are needed and missing."""
    if "0" not in data["cpuid"].get("13", {}):
        yield "cpuid.13: sub-leaf 0 is missing, which says what XCR0 may have"
    ratio, base = (data["cpuid"].get(leaf, {}).get("0", NOTHING) for leaf in ("21", "22"))
    if "tsc_hz" not in data and not (ratio[EAX] and ratio[ECX]) and not base[EAX]:
        yield "tsc_hz: missing; allowed: cycles per second, or leaves 21 and 22 that say it"
    caches = CACHES[data["vendor"]]
    for sub, which in (("0", "L1 data"), ("2", "L2")):
        if sub not in data["cpuid"].get(caches, {}):
            yield f"cpuid.{caches}: sub-leaf {sub}, the {which} cache, is missing"
    ends = [
        (row[EBX], row[EBX] + row[EAX], sub) for sub, row in data["cpuid"]["13"].items() if _is_in_standard(row, sub)
    ]
    for (_, end, below), (offset, _, sub) in pairwise(sorted(ends)):
        if offset < end:
            yield f"cpuid.13.{sub}: begins at {offset}; allowed: {end} or more, where sub-leaf {below} ends"


def _is_in_standard(row: Sequence[int], sub: str) -> bool:
    """Whether a sub-leaf of 0DH says where a component is in the standard format."""
    return int(sub) > 1 and not row[ECX] & 1
