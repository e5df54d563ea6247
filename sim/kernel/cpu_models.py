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
arch-lbr.  x86-64-v2 to -v4 are Proxmox's: qemu64 with more features, among them avx, avx512f and xsave (its
qemu-server, PVE/QemuServer/CPUConfig.pm, $builtin_models), and its ``flags=`` are a list with semicolons.

A feature alone switches it on; "+" goes before "=", and "-" before both.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sim.errors import InputError, unknown
from sim.kernel.cpu_features import has_no_component
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
WITHOUT: Final = {"xsave": _OLD, "xsaves": _ALL & ~SUPERVISOR, "xfd": _ALL & ~XTILE}
"""What remains of a guest without a feature: without XSAVE the components of FXSAVE alone, without XSAVES no IA32_XSS.

Without XFD a Linux leaves AMX off (v5.16 on, ``fpu__init_system_xstate``).
"""
_SERVER: Final = _OLD | AVX | AVX512 | PKRU

_HOST_NAMES: Final = "host max host-passthrough host-model maximum"
_NO_XSAVE: Final = (
    "Nehalem Westmere Penryn Conroe core2duo coreduo n270 kvm64 kvm32 qemu64 qemu32 phenom athlon pentium pentium2 "
    "x86-64-v2 x86-64-v2-AES pentium3 486 Opteron_G1 Opteron_G2 Opteron_G3"
)
"""Models without xsave, so that a guest's CR4.OSXSAVE stays clear."""

_NAMES: Final = (
    (_HOST_NAMES, _ALL),
    (_NO_XSAVE, _OLD),
    ("Denverton-v2 Denverton-v3 Snowridge-v2 Snowridge-v3 Snowridge-v4", _OLD),
    ("Denverton Snowridge", _OLD | MPX),
    ("SandyBridge IvyBridge Haswell Broadwell Skylake-Client EPYC EPYC-Rome Dhyana Opteron_G4 Opteron_G5", _OLD | AVX),
    ("x86-64-v3", _OLD | AVX),
    ("EPYC-Milan SierraForest ClearwaterForest Icelake-Client YongFeng", _OLD | AVX | PKRU),
    ("KnightsMill x86-64-v4", _OLD | AVX | AVX512),
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
_CHANGE: Final = re.compile(r"([+-]?)([a-z0-9][a-z0-9_.-]{0,40})(?:=(.*))?")
_ON: Final = ("on", "yes", "true", "y")
_OFF: Final = ("off", "no", "false", "n")
"""What QEMU takes for a boolean (qapi/qapi-util.c, qapi_bool_parse())."""


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
    """What a model offers, such as ``"Skylake-Server-v5"`` or ``"EPYC-Milan,-pku,+avx512f"``, also behind QEMU's -cpu.

    Raises :class:`~sim.errors.InputError` for a name or a feature that is not known.
    """
    called, *parts = (part.strip() for part in model.removeprefix("-cpu ").split(","))
    changes = [each for part in parts for each in part.removeprefix("flags=").split(";")]
    base = called if called in MODELS else _VARIANT.sub("", called)
    if base.startswith("custom-"):
        raise InputError(
            f"CPU model {called!r} is a name of Proxmox (allowed: the reported-model and the flags that "
            "/etc/pve/virtual-guest/cpu-models.conf has for it)"
        )
    if base not in MODELS:
        raise unknown("CPU model", called, MODELS)
    found = MODELS[base]
    has = {"xfd", *(feature for feature, mask in FEATURES.items() if not mask & ~found)}
    number, stem = _VERSION.search(called), _VARIANT.sub("", called)
    version = int(number[1]) if number else 1
    if stem in CET_SINCE and version >= CET_SINCE[stem]:
        has |= {"cet-ss", "cet-ibt"}
    if base not in _NO_XSAVE.split():
        has.add("xsave")
    has_xsaves = stem in XSAVES_SINCE and XSAVES_SINCE[stem] <= version <= XSAVES_UNTIL.get(stem, version)
    if base in _HOST_NAMES.split() or has_xsaves:
        has.add("xsaves")
    plus: set[str] = set()
    minus: set[str] = set()
    for change in changes:
        match = _CHANGE.fullmatch(change)
        feature = match[2].replace("_", "-") if match else ""
        if match is None or feature not in (*FEATURES, *WITHOUT):
            if has_no_component(feature):
                continue
            raise unknown("feature of a CPU model", change.lstrip("+-").partition("=")[0], (*FEATURES, *WITHOUT))
        sign, name, value = match.groups()
        if value is not None and (sign or value not in (*_ON, *_OFF)):
            raise InputError(f"CPU model: found {change!r} (allowed: +{name}, -{name}, {name}=on or =off)")
        if sign:
            (plus if sign == "+" else minus).add(feature)
        else:
            has = has - {feature} if value in _OFF else has | {feature}
    has = (has | plus) - minus  # after what "=" says, in this order: x86_cpu_expand_features()
    found = found & ~_OF_FEATURES | _together(has - WITHOUT.keys())
    if found & AVX512 and not found & AVX:
        raise InputError(f"CPU model {model!r}: avx512f without avx (allowed: both, or neither)")
    for feature in WITHOUT.keys() - has:
        found &= WITHOUT[feature]
    return Offered(found, "xsave" in has, {"xsave", "xsaves"} <= has)
