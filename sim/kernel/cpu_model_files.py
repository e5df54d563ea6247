"""CPU models of guests in files of Firecracker, QEMU and libvirt, as :mod:`sim.kernel.cpu_models` names them.

Custom CPU templates of Firecracker (docs/cpu_templates/cpu-templates.md there) are JSON: bits that a guest's CPUID has
(1), has not (0) or takes from the host (x); all of their parts may be absent.  They may also be part of a configuration
or a fingerprint, and a configuration may name one of Firecracker's own (src/vmm/src/cpu_config/x86_64/
static_cpu_templates), or none, where guests have what KVM offers.  The answer of a QEMU machine to
query-cpu-model-expansion is JSON, too, also behind others in a session; a domain of libvirt, and its capabilities, are
XML.
"""

import json
import re
from typing import Any, Final

from sim import bounded
from sim.errors import InputError
from sim.kernel.cpu_models import FEATURES, HOST, WITHOUT
from sim.xsave.components import AVX, AVX512, CET_S, CET_U, LBR, MPX, PKRU, XTILE

STATIC: Final = ("C3", "T2", "T2A", "T2CL", "T2S")
"""Firecracker's own templates for x86, which remove the same features."""
_OF_STATIC: Final = f"{HOST},-mpx,-avx512f,-pku,-xsaves"
_ALLOWED: Final = (
    "allowed: a CPU template or a configuration of Firecracker for x86, or the answer of QEMU to "
    "query-cpu-model-expansion"
)
_CONFIGURATION: Final = ("machine-config", "cpu-config", "cpu_template")
"""What a configuration has, in whole or of the machine alone, and a template has not."""
_OF_ARM: Final = ("reg_modifiers", "vcpu_features")
_ABSENT: Final = ("msr_modifiers", "kvm_capabilities")
"""Parts of a template for x86 that may be there without cpuid_modifiers."""

_BLANKS: Final = re.compile(r"\s+")
_BITMAP: Final = re.compile(r"0b([01x_]{1,64})")

_BITS: Final = (
    (0x1, 0x0, "ecx", 28, AVX), (0x7, 0x0, "ebx", 14, MPX), (0x7, 0x0, "ebx", 16, AVX512), (0x7, 0x0, "ecx", 3, PKRU),
    (0x7, 0x0, "ecx", 7, CET_S), (0x7, 0x0, "edx", 19, LBR), (0x7, 0x0, "edx", 24, XTILE), (0xD, 0x0, "eax", 2, AVX),
    (0xD, 0x0, "eax", 3, MPX), (0xD, 0x0, "eax", 4, MPX), (0xD, 0x0, "eax", 5, AVX512), (0xD, 0x0, "eax", 6, AVX512),
    (0xD, 0x0, "eax", 7, AVX512), (0xD, 0x0, "eax", 9, PKRU), (0xD, 0x0, "eax", 17, XTILE),
    (0xD, 0x0, "eax", 18, XTILE), (0xD, 0x1, "eax", 4, XTILE),
    (0xD, 0x1, "ecx", 11, CET_U), (0xD, 0x1, "ecx", 12, CET_S), (0xD, 0x1, "ecx", 15, LBR),
)  # fmt: skip
"""Leaf, subleaf, register and bit of CPUID without which a guest does not have components (Intel SDM vol. 2, CPUID)."""
_INSTRUCTIONS: Final = ((0x1, 0x0, "ecx", 26, "xsave"), (0xD, 0x1, "eax", 3, "xsaves"))
"""The same for features that are no components."""


def of_file(path: str) -> str:
    """The model in a file: of libvirt if its name ends with .xml, else of :func:`of_json`."""
    return of_domain(path) if path.endswith(".xml") else of_json(path)


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
        if said.get("name") in (*FEATURES, *WITHOUT):
            changes.append(("-" if said.get("policy") in ("disable", "forbid") else "+") + said["name"])
    return ",".join([name, *changes])


def _element(opening: re.Pattern[str], closing: str, text: str) -> tuple[str, str] | None:
    """Attributes and content of the first such element; None if there is none."""
    found = opening.search(text)
    if found is None:
        return None
    if found[1].endswith("/"):
        return found[1], ""
    return found[1], text[found.end() :].partition(closing)[0]


def of_json(path: str) -> str:
    """The model in a file of Firecracker or QEMU, such as ``"host,-mpx,-pku"``.

    Raises :class:`~sim.errors.InputError` for any other file.
    """
    try:
        documents = _documents(bounded.text(bounded.content(path), "replace"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error} ({_ALLOWED})") from error
    if found := next(filter(None, map(_expanded, documents)), ""):
        return found
    document = documents[0] if len(documents) == 1 else None
    if not isinstance(document, dict):
        raise InputError(f"{path} has no CPU model ({_ALLOWED})")
    if isinstance(cpus := document.get("cpus"), dict) and "boot_vcpus" in cpus:
        raise InputError(f"{path} is a configuration of Cloud Hypervisor, which names no CPU model ({_ALLOWED})")
    if document.keys().isdisjoint(_CONFIGURATION):
        return _of_template(path, document)
    template, machine = document.get("cpu-config"), document.get("machine-config", document)
    if isinstance(template, str):
        raise InputError(f"{path} names a CPU template, {template!r:.80} (allowed: that file itself)")
    if template is not None:
        return _of_template(path, template)
    return _of_static(path, machine.get("cpu_template") if isinstance(machine, dict) else None)


def _documents(text: str) -> list[Any]:
    """JSON documents, one after the other, as in a session of QEMU's monitor."""
    decoder = json.JSONDecoder()
    found: list[Any] = []
    at = _behind_blanks(text, 0)
    while not found or at < len(text):
        document, end = decoder.raw_decode(text, at)
        found.append(document)
        at = _behind_blanks(text, end)
    return found


def _behind_blanks(text: str, at: int) -> int:
    return at if (match := _BLANKS.match(text, at)) is None else match.end()


def _expanded(document: Any) -> str:
    """The model in QEMU's answer to query-cpu-model-expansion; empty if the document is not one."""
    for key in ("return", "model"):
        document = document.get(key, document) if isinstance(document, dict) else None
    properties = document.get("props") if isinstance(document, dict) else None
    if not isinstance(properties, dict) or not any(isinstance(properties.get(name), bool) for name in FEATURES):
        return ""
    gone = [name for name in FEATURES if properties.get(name) is not True]
    gone += [name for name in WITHOUT if properties.get(name) is False]
    return ",".join([HOST, *(f"-{name}" for name in gone)])


def _of_static(path: str, named: Any) -> str:
    """The model of a Firecracker configuration that names one of its own templates, or none."""
    if named in (None, "None"):
        return HOST
    if named not in STATIC:
        raise InputError(f"{path}: found cpu_template {named!r:.60} (allowed: {', '.join(STATIC)} or None)")
    return _OF_STATIC


def _of_template(path: str, document: Any) -> str:
    """The model of a custom template, which a fingerprint has inside."""
    if isinstance(document, dict) and isinstance(document.get("guest_cpu_config"), dict):
        document = document["guest_cpu_config"]
    parts = document if isinstance(document, dict) else {}
    if any(key in parts for key in _OF_ARM):
        raise InputError(f"{path} is a CPU template for Arm ({_ALLOWED})")
    modifiers = parts.get("cpuid_modifiers", [] if any(isinstance(parts.get(key), list) for key in _ABSENT) else None)
    if not isinstance(modifiers, list):
        raise InputError(f"{path} has no list 'cpuid_modifiers' ({_ALLOWED})")
    gone, without = 0, []
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
        for where, sub, register, bit, name in _INSTRUCTIONS:
            if (leaf, subleaf) == (where, sub) and registers.get(register, 0) >> bit & 1:
                without.append(f"-{name}")
    return ",".join([HOST, *(f"-{name}" for name, mask in FEATURES.items() if gone & mask), *without])


def _cleared(bitmap: str) -> int:
    """The bits that a bitmap clears."""
    match = _BITMAP.fullmatch(bitmap)
    if match is None:
        raise ValueError(bitmap)
    digits = match[1].replace("_", "")
    return sum(1 << place for place, digit in enumerate(reversed(digits)) if digit == "0")


def _shown(modifier: Any) -> str:
    return f"{modifier!r:.80}"
