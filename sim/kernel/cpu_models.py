"""CPU models that hypervisors give to guests, as the state components that a guest with them may enable in XCR0.

Names and features: ``builtin_x86_defs`` of QEMU's target/i386/cpu.c (commit 0048035a870312f2fd0f3dd28115398d26e419bb),
whose names are libvirt's, too; src/cpu_map/x86_*.xml of libvirt (commits 61be05a00fd3, cd93f7ddab57, bfe53e9145cd,
ee95c9d7d131, 3afbb1644c4f) for Haswell, Broadwell, SierraForest and EPYC.  Versions and variants (-v5, -noTSX, -IBRS,
-IBPB) of one of these do not differ in the components.  CET is not in them: it is chosen by ``kernel.guest_cet``.

Custom CPU templates of Firecracker (docs/cpu_templates/cpu-templates.md there) are JSON: bits that a guest's CPUID has
(1), has not (0) or takes from the host (x).
"""

import json
import re
from typing import Any, Final

from sim import bounded
from sim.errors import InputError, unknown
from sim.xsave.components import AVX, AVX512, FP, MPX, PKRU, SSE, XTILE

FEATURES: Final = {"avx": AVX, "mpx": MPX, "avx512f": AVX512, "pku": PKRU, "amx-tile": XTILE}
"""Features of CPUID, as QEMU and libvirt call them, and the components that are there with them."""

HOST: Final = "host"
_ALL: Final = FP | SSE | AVX | MPX | AVX512 | PKRU | XTILE
_OLD: Final = FP | SSE
_SERVER: Final = _OLD | AVX | AVX512 | PKRU

MODELS: Final = {
    HOST: _ALL,
    "host-passthrough": _ALL,
    **dict.fromkeys(("Nehalem", "Westmere"), _OLD),
    **dict.fromkeys(
        ("SandyBridge", "IvyBridge", "Haswell", "Broadwell", "Skylake-Client", "EPYC", "EPYC-Rome"), _OLD | AVX
    ),
    **dict.fromkeys(("EPYC-Milan", "SierraForest"), _OLD | AVX | PKRU),
    **dict.fromkeys(
        ("Skylake-Server", "Cascadelake-Server", "Cooperlake", "Icelake-Server", "EPYC-Genoa", "EPYC-Turin"), _SERVER
    ),
    **dict.fromkeys(("SapphireRapids", "GraniteRapids"), _SERVER | XTILE),
}

_VARIANT: Final = re.compile(r"(?:-v\d{1,3}|-noTSX|-IBRS|-IBPB)+$")
_CHANGE: Final = re.compile(r"([+-]?)([a-z0-9_-]+?)(?:=(on|off))?")
_BITMAP: Final = re.compile(r"0b([01x_]{1,64})")

_BITS: Final = (
    (0x1, 0x0, "ecx", 28, AVX), (0x7, 0x0, "ebx", 14, MPX), (0x7, 0x0, "ebx", 16, AVX512), (0x7, 0x0, "ecx", 3, PKRU),
    (0x7, 0x0, "edx", 24, XTILE), (0xD, 0x0, "eax", 2, AVX), (0xD, 0x0, "eax", 3, MPX), (0xD, 0x0, "eax", 4, MPX),
    (0xD, 0x0, "eax", 5, AVX512), (0xD, 0x0, "eax", 6, AVX512), (0xD, 0x0, "eax", 7, AVX512),
    (0xD, 0x0, "eax", 9, PKRU), (0xD, 0x0, "eax", 17, XTILE), (0xD, 0x0, "eax", 18, XTILE),
)  # fmt: skip
"""Leaf, subleaf, register and bit of CPUID without which a guest does not have components (Intel SDM vol. 2, CPUID)."""


def components(model: str) -> int:
    """The components of a model, such as ``"Skylake-Server-v5"`` or ``"EPYC-Milan,-pku,+avx512f"``, as a mask.

    Raises :class:`~sim.errors.InputError` for a name or a feature that is not known.
    """
    name, *changes = (part.strip() for part in model.split(","))
    base = name if name in MODELS else _VARIANT.sub("", name)
    if base not in MODELS:
        raise unknown("CPU model", name, MODELS)
    found = MODELS[base]
    for change in changes:
        match = _CHANGE.fullmatch(change)
        if match is None or match[2] not in FEATURES:
            raise unknown("feature of a CPU model", change.lstrip("+-").partition("=")[0], FEATURES)
        if bool(match[1]) == bool(match[3]):
            raise InputError(f"CPU model: found {change!r} (allowed: +{match[2]}, -{match[2]}, {match[2]}=on or =off)")
        mask = FEATURES[match[2]]
        found = found | mask if "+" in match[1] or match[3] == "on" else found & ~mask
    if found & AVX512 and not found & AVX:
        raise InputError(f"CPU model {model!r}: avx512f without avx (allowed: both, or neither)")
    return found


def of_template(path: str) -> str:
    """The model that a custom CPU template of Firecracker makes of the host's, such as ``"host,-mpx,-pku"``.

    Raises :class:`~sim.errors.InputError` for a file that is none.
    """
    try:
        document = json.loads(bounded.content(path).decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error} (allowed: a CPU template of Firecracker)") from error
    modifiers = document.get("cpuid_modifiers") if isinstance(document, dict) else None
    if not isinstance(modifiers, list):
        raise InputError(f"{path} has no list 'cpuid_modifiers' (allowed: a CPU template of Firecracker for x86)")
    gone = 0
    for modifier in modifiers:
        try:
            leaf, subleaf = int(modifier["leaf"], 0), int(modifier["subleaf"], 0)
            registers = {each["register"]: _cleared(each["bitmap"]) for each in modifier["modifiers"]}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: a cpuid_modifier that is none: {_shown(modifier)} (allowed: leaf, subleaf and modifiers with "
                "register and bitmap, such as '0bxx01')"
            ) from error
        for where, sub, register, bit, mask in _BITS:
            if (leaf, subleaf) == (where, sub) and registers.get(register, 0) >> bit & 1:
                gone |= mask
    return ",".join([HOST, *(f"-{name}" for name, mask in FEATURES.items() if gone & mask)])


def _cleared(bitmap: str) -> int:
    """The bits that a bitmap clears."""
    match = _BITMAP.fullmatch(bitmap)
    if match is None:
        raise ValueError(bitmap)
    digits = match[1].replace("_", "")
    return sum(1 << place for place, digit in enumerate(reversed(digits)) if digit == "0")


def _shown(modifier: Any) -> str:
    return f"{modifier!r:.80}"
