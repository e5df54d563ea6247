"""CPU models that hypervisors give to guests, as the state components that a guest with them may enable.

User components are those of XCR0, and AMX with them is what makes a guest write IA32_XFD; supervisor components are
those of IA32_XSS. A guest always lacks what its kernel's KVM does not offer.

Names and features: what QEMU 11.1.3 and 10.0.2 answer to query-cpu-model-expansion for each of their models (Debian
packages qemu-system-x86 1:11.1.3+ds-1 and 1:10.0.2+ds-2+deb13u1~bpo12+1), whose names are libvirt's, too
(src/cpu_map/x86_*.xml).  Versions and variants (-v5, -noTSX, -IBRS, -IBPB) of one of these do not differ in user
components, if they are not named, but in XSAVES and in CET, which some have from a version on (Zhao Liu, "[PATCH v5
20/22] i386/cpu: Enable cet-ss & cet-ibt for supported CPU models", 11 Dec 2025,
20251211060801.3600039-21-zhao1.liu@intel.com, QEMU commit 5cb89cad7f30).  cet-ss is SHSTK, with which QEMU enumerates
CET_U and CET_S; cet-ibt is IBT, with which it enumerates CET_U (patches 06 and 11 of that series).  No model has
arch-lbr.  Features that have no component (vmx, hv-time, avx512vl, apxf, which no KVM offers) change nothing.  A
feature alone switches it on; "+" goes before "=", and "-" before both.

Custom CPU templates of Firecracker (docs/cpu_templates/cpu-templates.md there) are JSON: bits that a guest's CPUID has
(1), has not (0) or takes from the host (x); they may also be part of a configuration or a fingerprint.  The answer of a
QEMU machine to query-cpu-model-expansion is JSON, too; a domain of libvirt, and its capabilities, are XML.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from sim import bounded
from sim.errors import InputError, unknown
from sim.xsave.components import AVX, AVX512, CET_S, CET_U, FP, LBR, MPX, PKRU, SSE, SUPERVISOR, XTILE

FEATURES: Final = {
    "avx": AVX,
    "mpx": MPX,
    "avx512f": AVX512,
    "pku": PKRU,
    "amx-tile": XTILE,
    "cet-ss": CET_U | CET_S,
    "cet-ibt": CET_U,
    "arch-lbr": LBR,
}
"""Features of CPUID, as QEMU and libvirt call them, and the components that come with them."""


def _together(features: Iterable[str]) -> int:
    """The components of features, as a mask."""
    found = 0
    for feature in features:
        found |= FEATURES[feature]
    return found


_OF_FEATURES: Final = _together(FEATURES)

HOST: Final = "host"
_ALL: Final = FP | SSE | AVX | MPX | AVX512 | PKRU | XTILE | SUPERVISOR
_OLD: Final = FP | SSE
_WITHOUT: Final = {"xsave": _OLD, "xsaves": _ALL & ~SUPERVISOR, "xfd": _ALL & ~XTILE}
"""What remains of a guest without a feature: without XSAVE the components of FXSAVE alone, without XSAVES no IA32_XSS.

Without XFD a Linux leaves AMX off (v5.16 on, ``fpu__init_system_xstate``).
"""
_SERVER: Final = _OLD | AVX | AVX512 | PKRU

_HOST_NAMES: Final = "host max host-passthrough host-model maximum"
_NO_XSAVE: Final = (
    "Nehalem Westmere Penryn Conroe core2duo coreduo n270 kvm64 kvm32 qemu64 qemu32 phenom athlon pentium pentium2 "
    "pentium3 486 Opteron_G1 Opteron_G2 Opteron_G3"
)
"""Models without xsave, so that a guest's CR4.OSXSAVE stays clear."""

_NAMES: Final = (
    (_HOST_NAMES, _ALL),
    (_NO_XSAVE, _OLD),
    ("Denverton-v2 Denverton-v3 Snowridge-v2 Snowridge-v3 Snowridge-v4", _OLD),
    ("Denverton Snowridge", _OLD | MPX),
    ("SandyBridge IvyBridge Haswell Broadwell Skylake-Client EPYC EPYC-Rome Dhyana Opteron_G4 Opteron_G5", _OLD | AVX),
    ("EPYC-Milan SierraForest ClearwaterForest Icelake-Client YongFeng", _OLD | AVX | PKRU),
    ("KnightsMill", _OLD | AVX | AVX512),
    ("Skylake-Server Cascadelake-Server Cooperlake Icelake-Server EPYC-Genoa EPYC-Turin", _SERVER),
    ("SapphireRapids GraniteRapids DiamondRapids", _SERVER | XTILE),
)

MODELS: Final = {name: mask for names, mask in _NAMES for name in names.split()}
"""The components of a model by its name; without its version a name is version 1."""

CET_SINCE: Final = {
    "SapphireRapids": 5, "GraniteRapids": 4, "DiamondRapids": 1, "SierraForest": 4, "ClearwaterForest": 2,
}  # fmt: skip
"""The first version of a model with cet-ss and cet-ibt."""

XSAVES_SINCE: Final = {
    "Denverton": 3, "Snowridge": 3, "Skylake-Client": 4, "Skylake-Server": 5, "Cascadelake-Server": 5, "Cooperlake": 2,
    "Icelake-Server": 5, "SapphireRapids": 1, "GraniteRapids": 1, "DiamondRapids": 1, "SierraForest": 1,
    "ClearwaterForest": 1, "EPYC": 3, "EPYC-Rome": 1, "EPYC-Milan": 1, "EPYC-Genoa": 1, "EPYC-Turin": 1, "Dhyana": 2,
}  # fmt: skip
"""The first version of a model with xsaves, without which KVM on VMX does not switch IA32_XSS; the others have none."""
XSAVES_UNTIL: Final = {"EPYC-Rome": 3}
"""The last version with it: Zen 2's XSAVES may fail to save XMM registers (AMD erratum 1386)."""

_VERSION: Final = re.compile(r"-v([1-9]\d{0,2})$")
_VARIANT: Final = re.compile(r"(?:-v[1-9]\d{0,2}|-noTSX|-IBRS|-IBPB)+$")
_CHANGE: Final = re.compile(r"([+-]?)([a-z0-9_-]+?)(?:=(on|off))?")
_WITHOUT_COMPONENT: Final = re.compile(
    r"avx(?:2|10(?:-(?:128|256|512|version))?|512\S+|-vnni\S*|-ifma|-ne-convert)"
    r"|amx-(?:bf16|int8|fp16|complex|fp8|tf32|avx512|movrs)|xsave(?:c|opt)"
)
_LIKE_THOSE: Final = ("avx", "amx", "mpx", "pku", "xsave")
_SETTING: Final = re.compile(r"[+-]?([a-z][a-z0-9_.-]{1,40})(?:=\S*)?")
""":data:`FEATURES` change components; of other features whose names begin alike, these are known not to; no other
feature does."""
_BITMAP: Final = re.compile(r"0b([01x_]{1,64})")

_BITS: Final = (
    (0x1, 0x0, "ecx", 28, AVX), (0x7, 0x0, "ebx", 14, MPX), (0x7, 0x0, "ebx", 16, AVX512), (0x7, 0x0, "ecx", 3, PKRU),
    (0x7, 0x0, "ecx", 7, CET_S), (0x7, 0x0, "edx", 19, LBR), (0x7, 0x0, "edx", 24, XTILE), (0xD, 0x0, "eax", 2, AVX),
    (0xD, 0x0, "eax", 3, MPX), (0xD, 0x0, "eax", 4, MPX), (0xD, 0x0, "eax", 5, AVX512), (0xD, 0x0, "eax", 6, AVX512),
    (0xD, 0x0, "eax", 7, AVX512), (0xD, 0x0, "eax", 9, PKRU), (0xD, 0x0, "eax", 17, XTILE),
    (0xD, 0x0, "eax", 18, XTILE), (0xD, 0x1, "eax", 3, SUPERVISOR), (0xD, 0x1, "eax", 4, XTILE),
    (0xD, 0x1, "ecx", 11, CET_U), (0xD, 0x1, "ecx", 12, CET_S), (0xD, 0x1, "ecx", 15, LBR),
)  # fmt: skip
"""Leaf, subleaf, register and bit of CPUID without which a guest does not have components (Intel SDM vol. 2, CPUID)."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What a model offers a guest: components as a mask, and whether its CPUID has XSAVE and XSAVES."""

    components: int
    xsave: bool
    xsaves: bool


def components(model: str) -> int:
    """The components of a model, as :func:`offered` has them."""
    return offered(model).components


def offered(model: str) -> Offered:
    """What a model offers, such as ``"Skylake-Server-v5"`` or ``"EPYC-Milan,-pku,+avx512f"``.

    Raises :class:`~sim.errors.InputError` for a name or a feature that is not known.
    """
    name, *changes = (part.strip() for part in model.split(","))
    base = name if name in MODELS else _VARIANT.sub("", name)
    if base not in MODELS:
        raise unknown("CPU model", name, MODELS)
    found = MODELS[base]
    has = {"xfd", *(feature for feature, mask in FEATURES.items() if not mask & ~found)}
    number, stem = _VERSION.search(name), _VARIANT.sub("", name)
    version = int(number[1]) if number else 1
    if version >= CET_SINCE.get(stem, version + 1):
        has |= {"cet-ss", "cet-ibt"}
    if base not in _NO_XSAVE.split():
        has.add("xsave")
    if base in _HOST_NAMES.split() or XSAVES_SINCE.get(stem, 999) <= version <= XSAVES_UNTIL.get(stem, version):
        has.add("xsaves")
    plus: set[str] = set()
    minus: set[str] = set()
    for change in changes:
        if _changes_nothing(change):
            continue
        match = _CHANGE.fullmatch(change)
        feature = match[2].replace("_", "-") if match else ""
        if match is None or feature not in (*FEATURES, *_WITHOUT):
            raise unknown("feature of a CPU model", change.lstrip("+-").partition("=")[0], FEATURES)
        if match[1] and match[3]:
            raise InputError(f"CPU model: found {change!r} (allowed: +{match[2]}, -{match[2]}, {match[2]}=on or =off)")
        if match[1]:
            (plus if match[1] == "+" else minus).add(feature)
        else:
            has = has - {feature} if match[3] == "off" else has | {feature}
    has = (has | plus) - minus  # after what "=" says, in this order: x86_cpu_expand_features()
    found = found & ~_OF_FEATURES | _together(has - _WITHOUT.keys())
    if found & AVX512 and not found & AVX:
        raise InputError(f"CPU model {model!r}: avx512f without avx (allowed: both, or neither)")
    for feature in _WITHOUT.keys() - has:
        found &= _WITHOUT[feature]
    return Offered(found, "xsave" in has, {"xsave", "xsaves"} <= has)


def _changes_nothing(change: str) -> bool:
    """Whether this is a feature or a setting of QEMU's -cpu on which no component depends."""
    match = _SETTING.fullmatch(change)
    if match is None:
        return False
    name = match[1].replace("_", "-")
    if name in FEATURES or name in _WITHOUT:
        return False
    if name.startswith(_LIKE_THOSE):
        return _WITHOUT_COMPONENT.fullmatch(name) is not None
    return not get_close_matches(name, FEATURES, cutoff=0.8)


def of_file(path: str) -> str:
    """The model in a file: of libvirt if its name ends with .xml, else of :func:`of_template`."""
    return of_domain(path) if path.endswith(".xml") else of_template(path)


_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_CPU: Final = re.compile(r"<cpu\b([^>]{0,300})>")
_HOST_MODEL: Final = re.compile(r"<mode\s+name=['\"]host-model['\"]([^>]{0,100})>")
_MODE: Final = re.compile(r"\bmode\s*=\s*['\"]([a-z-]{1,30})['\"]")
_MODEL: Final = re.compile(r"<model\b[^>]{0,100}>\s*([A-Za-z0-9_.-]{1,60})\s*</model>")
_FEATURE: Final = re.compile(r"<feature\b([^>]{1,200})>")
_ATTRIBUTE: Final = re.compile(r"\b(name|policy)\s*=\s*['\"]([\w.-]{1,60})['\"]")


def of_domain(path: str) -> str:
    """The model of a domain of libvirt, or the host-model of its capabilities, such as ``"Skylake-Client-IBRS,+pku"``.

    Raises :class:`~sim.errors.InputError` for a file that has none.
    """
    try:
        text = _COMMENT.sub("", bounded.text(bounded.content(path), "replace"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read: {error} (allowed: a domain of libvirt, or its capabilities)"
        ) from error
    attributes, inner = _element(_HOST_MODEL, "</mode>", text) or _element(_CPU, "</cpu>", text) or ("", None)
    if inner is None:
        raise InputError(f"{path} has no <cpu> (allowed: a domain of libvirt, or its capabilities)")
    mode = _MODE.search(attributes)
    model = _MODEL.search(inner)
    if model is None and mode is None:
        raise InputError(f"{path}: <cpu> has neither mode nor <model> (allowed: one of them)")
    name = model[1] if model else mode[1] if mode else HOST
    changes = []
    for match in _FEATURE.finditer(inner):
        said = dict(_ATTRIBUTE.findall(match[1]))
        if said.get("name") in (*FEATURES, *_WITHOUT):
            changes.append(("-" if said.get("policy") in ("disable", "forbid") else "+") + said["name"])
    return ",".join([name, *changes])


def _element(opening: re.Pattern[str], closing: str, text: str) -> tuple[str, str] | None:
    """Attributes and content of the first such element; None if there is none."""
    found = opening.search(text)
    if found is None:
        return None
    if found[1].endswith("/"):
        return found[1], ""
    end = text.find(closing, found.end())
    return found[1], text[found.end() : end if end >= 0 else len(text)]


def of_template(path: str) -> str:
    """The model that a custom CPU template of Firecracker makes of the host's, such as ``"host,-mpx,-pku"``.

    Raises :class:`~sim.errors.InputError` for any other file.
    """
    try:
        document = json.loads(bounded.text(bounded.content(path), "replace"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error} (allowed: a CPU template of Firecracker)") from error
    if (found := _expanded(document)) or (found := _of_static_template(document)):
        return found
    if isinstance(document, dict) and isinstance(document.get("guest_cpu_config"), dict):  # a fingerprint
        document = document["guest_cpu_config"]
    modifiers = document.get("cpuid_modifiers") if isinstance(document, dict) else None
    if not isinstance(modifiers, list):
        raise InputError(f"{path} has no list 'cpuid_modifiers' (allowed: a CPU template of Firecracker for x86)")
    gone = 0
    for modifier in modifiers:
        try:
            leaf, subleaf = int(modifier["leaf"], 0), int(modifier["subleaf"], 0)
            registers = {each["register"].lower(): _cleared(each["bitmap"]) for each in modifier["modifiers"]}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: a cpuid_modifier that is none: {_shown(modifier)} (allowed: leaf, subleaf and modifiers with "
                "register and bitmap, such as '0bxx01')"
            ) from error
        for where, sub, register, bit, mask in _BITS:
            if (leaf, subleaf) == (where, sub) and registers.get(register, 0) >> bit & 1:
                gone |= mask
    return ",".join([HOST, *(f"-{name}" for name, mask in FEATURES.items() if gone & mask)])


def _expanded(document: Any) -> str:
    """The model in QEMU's answer to query-cpu-model-expansion; empty if the document is not one."""
    for key in ("return", "model"):
        document = document.get(key, document) if isinstance(document, dict) else None
    properties = document.get("props") if isinstance(document, dict) else None
    if not isinstance(properties, dict) or not any(isinstance(properties.get(name), bool) for name in FEATURES):
        return ""
    gone = [name for name in FEATURES if properties.get(name) is not True]
    gone += [name for name in _WITHOUT if properties.get(name) is False]
    return ",".join([HOST, *(f"-{name}" for name in gone)])


def _of_static_template(document: Any) -> str:
    """The model of a Firecracker configuration that names one of its own templates, all of which remove the same
    features."""
    machine = document.get("machine-config") if isinstance(document, dict) else None
    named = machine.get("cpu_template") if isinstance(machine, dict) else None
    return f"{HOST},-mpx,-avx512f,-pku" if named in ("C3", "T2", "T2A", "T2CL", "T2S") else ""


def _cleared(bitmap: str) -> int:
    """The bits that a bitmap clears."""
    match = _BITMAP.fullmatch(bitmap)
    if match is None:
        raise ValueError(bitmap)
    digits = match[1].replace("_", "")
    return sum(1 << place for place, digit in enumerate(reversed(digits)) if digit == "0")


def _shown(modifier: Any) -> str:
    return f"{modifier!r:.80}"
