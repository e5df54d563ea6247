"""CPUID registers, reassembled from texts that print their fields instead: VirtualBox's log, ``cpuid`` without ``-r``,
the CPU templates that Firecracker dumps (a register's bits), and ``sysctl machdep.cpu`` of macOS. A register of which
nothing is printed is left out.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from sim.xsave.components import AVX, FP

Registers = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

Found = dict[int, dict[int, Registers]]
"""Registers by leaf and sub-leaf."""

Row = tuple[int, int, Registers]
"""Leaf, sub-leaf and its registers."""

XSTATE: Final = 0xD
LOW: Final = 0xFFFFFFFF


def numbered(rows: Iterable[tuple[int, int | None, Registers]]) -> Iterator[Row]:
    """The rows with their sub-leaves; one that is not said is the next of its leaf."""
    before: int | None = None
    sub = 0
    for leaf, said, registers in rows:
        sub = said if said is not None else sub + 1 if leaf == before else 0
        before = leaf
        yield leaf, sub, registers


_FEATURES: Final = ("XSAVEOPT", "XSAVEC", "XGETBC1", "XSAVES", "XFD")  # as VirtualBox spells them, from bit 0 of EAX


def decoded(text: str) -> tuple[str, Found]:
    """Who printed the text, and what is found in it; nothing is found if it has no leaf 0DH."""
    for who, form in FORMS.items():
        if found := form(text):
            return who, found
    return "", {}


def _of_virtualbox(text: str) -> Found:
    """Leaf 0DH as VBox.log decodes it (cpumR3CpuIdInfoStdLeaf13Details); the host's, if the log has it."""
    for who in ("host", "guest", ""):
        xcr0 = _number(rf"Valid XCR0 bits,?\s*{who}\s*:", text)
        if xcr0 is None:
            continue
        xss = _number(rf"Valid IA32_XSS bits,?\s*{who}\s*:", text) or 0
        sizes = re.search(rf"max size by XCR0,?\s*{who}\s*:\s*(0x[0-9a-f]+|0)/(0x[0-9a-f]+|0)", text)
        features = re.search(rf"XSAVE features,?\s*{who}\s*:([^\n]*)", text)
        said = features[1].split() if features else []
        eax = sum(1 << bit for bit, feature in enumerate(_FEATURES) if feature in said)
        ebx, ecx = (int(sizes[1], 0), int(sizes[2], 0)) if sizes else (0, 0)
        leaf: dict[int, Registers] = {0: (xcr0 & LOW, ebx, ecx, xcr0 >> 32), 1: (eax, 0, xss & LOW, xss >> 32)}
        for number, offset, size in _states(who, text):
            leaf[number] = (size, offset, int(bool(xss >> number & 1)), 0)
        return {XSTATE: leaf}
    return {}


def _number(label: str, text: str) -> int | None:
    match = re.search(label + r"\s*(0x[0-9a-f]{1,16}|0)\b", text, re.IGNORECASE)
    return None if match is None else int(match[1], 0)


def _states(who: str, text: str) -> Iterator[tuple[int, int, int]]:
    for match in re.finditer(rf"State #(\d+),\s*{who}\s*:\s*off=(0x[0-9a-f]+|0+),\s*cb=(0x[0-9a-f]+)", text):
        yield int(match[1]), int(match[2], 16), int(match[3], 16)


# cpuid without -r (cpuid.c, print_reg()): fields by name, and components as "PKRU features (0xd/9):".

_COMPONENT: Final = re.compile(
    r"features\s+\(0x0?d/(?P<sub>0x[0-9a-f]{1,2}|\d{1,2})\):(?P<fields>(?:(?!features\s+\().)*)", re.S
)
_INSTRUCTIONS: Final = (
    "XSAVEOPT instruction", "XSAVEC instruction", "XGETBV instruction", "XSAVES/XRSTORS instructions",
    "XFD: extended feature disable supported",
)  # fmt: skip
_OF_LEAF_1: Final = (
    ("XSAVE/XSTOR states", 26, FP),
    ("AVX: advanced vector extensions", 28, AVX),
    ("hypervisor guest status", 31, 0),
)
"""Features, their bits of ECX, and the components by which they are there if an excerpt leaves them out."""
_OF_SIGNATURE: Final = {
    r"(?<!extended )family": 8, r"(?<!extended )model": 4, "stepping id": 0,
    "extended family": 20, "extended model": 16,
}  # fmt: skip


def _of_cpuid(text: str) -> Found:
    text = text[: _end_of_first(text)]
    xcr0 = _mask("XCR0", text)
    if xcr0 is None:
        return {}
    xss = _mask("IA32_XSS", text) or 0
    sizes = (_field(f"bytes required by {what}", text) or 0 for what in ("fields in XCR0", "XSAVE/XRSTOR area"))
    leaf: dict[int, Registers] = {0: (xcr0 & LOW, *sizes, xcr0 >> 32)}  # type: ignore[dict-item]  # two of them
    said = [_is_true(label, text) for label in _INSTRUCTIONS]
    if any(each is not None for each in said):
        eax = sum(1 << bit for bit, each in enumerate(said) if each)
        leaf[1] = (eax, _field("SAVE area size in bytes", text) or 0, xss & LOW, xss >> 32)
    for match in _COMPONENT.finditer(text):
        size, offset = (_field(f"save state byte {what}", match["fields"]) for what in ("size", "offset"))
        if size is not None:
            flags = "IA32_XSS (" in match["fields"]
            aligned = bool(_is_true("64-byte alignment in compacted XSAVE", match["fields"]))
            faults = bool(_is_true("XFD faulting supported", match["fields"]))
            leaf[int(match["sub"], 0)] = (size, offset or 0, flags | aligned << 1 | faults << 2, 0)
    return {XSTATE: leaf} | _identity(text, xcr0)


def _end_of_first(text: str) -> int:
    """Where the second CPU begins."""
    begins = re.finditer(r"^[^\w\n]*CPU(?: \d+)?:[ \t]*$", text, re.MULTILINE)
    second = next(islice(begins, 1, None), None)
    return len(text) if second is None else second.start()


def _identity(text: str, xcr0: int) -> Found:
    """What else is kept of a dump: vendor, signature, and the brand string."""
    found: Found = {}
    if vendor := re.search(r'vendor_id\s*=\s*"([ -~]{12})"', text):
        b, d, c = (int.from_bytes(vendor[1][k : k + 4].encode(), "little") for k in (0, 4, 8))
        found[0] = {0: (XSTATE, b, c, d)}
    parts = {shift: re.search(label + r"\s*=[^\n]*?\((\d{1,3})\)", text) for label, shift in _OF_SIGNATURE.items()}
    if all(parts.values()):
        signature = sum(int(part[1]) << shift for shift, part in parts.items() if part)
        said = [(_is_true(label, text), bit, xcr0 & component) for label, bit, component in _OF_LEAF_1]
        ecx = sum(bool(implied if each is None else each) << bit for each, bit, implied in said)
        found[1] = {0: (signature & LOW, 0, ecx, 0)}
    if brand := re.search(r'\bbrand\s*=\s*"([ -~]{1,48})"', text):
        raw = brand[1].encode().ljust(48, b"\0")
        words = [int.from_bytes(raw[k : k + 4], "little") for k in range(0, 48, 4)]
        for k in range(3):
            found[0x80000002 + k] = {0: (words[4 * k], words[4 * k + 1], words[4 * k + 2], words[4 * k + 3])}
    return found


def _mask(register: str, text: str) -> int | None:
    whole = _field(rf"{register} valid bit field mask", text)
    if whole is not None:
        return whole
    low, high = (_field(rf"{register} {half} 32 bits valid bit field mask", text) for half in ("lower", "upper"))
    return None if low is None else low | (high or 0) << 32


def _field(label: str, text: str) -> int | None:
    return _number(rf"{label}\s*=", text)


def _is_true(label: str, text: str) -> bool | None:
    match = re.search(rf"{re.escape(label)}\s*=\s*(true|false)", text)
    return None if match is None else match[1] == "true"


_TOKEN: Final = re.compile(r'"(leaf|subleaf|register|bitmap)"\s*:\s*"([^"]{1,80})"')


def _of_firecracker(text: str) -> Found:
    """cpuid_modifiers as cpu-template-helper dumps them: all bits of a register; of a template with x, none."""
    if '"cpuid_modifiers"' not in text:
        return {}
    bits: dict[tuple[int, int], dict[str, int]] = {}
    leaf, sub, register = -1, 0, ""
    for kind, value in _TOKEN.findall(text):
        if kind == "register":
            register = value
        elif kind == "bitmap" and re.fullmatch(r"0b[01_]{32,40}", value):
            bits.setdefault((leaf, sub), {}).setdefault(register, int(value, 2) & LOW)
        elif re.fullmatch(r"0x[0-9a-fA-F]{1,8}|\d{1,10}", value):
            leaf, sub = (int(value, 0), 0) if kind == "leaf" else (leaf, int(value, 0))
    found: Found = {}
    for (number, row), registers in bits.items():
        if registers.keys() >= {"eax", "ebx", "ecx", "edx"}:
            found.setdefault(number, {})[row] = tuple(registers[f"e{name}x"] for name in "abcd")  # type: ignore[assignment]
    return found if 0 in found.get(XSTATE, {}) else {}


def _of_sysctl(text: str) -> Found:
    rows = dict(re.findall(r"machdep\.cpu\.xsave\.extended_state(1?)\s*[:=]\s*((?:\d{1,10} ){3}\d{1,10})", text))
    if "" not in rows:
        return {}
    leaf: dict[int, Registers] = {}
    for sub, row in rows.items():
        a, b, c, d = (int(value) & LOW for value in row.split())
        leaf[int(sub or 0)] = (a, b, c, d)
    said = {name: value.strip() for name, value in re.findall(r"machdep\.cpu\.(\w+)\s*[:=]\s*([^\n]{1,80})", text)}
    signature = said.get("signature", "")
    shown = f'vendor_id = "{said.get("vendor", "")}"\nbrand = "{said.get("brand_string", "")[:48]}"'
    found: Found = {XSTATE: leaf} | _identity(shown, leaf[0][0])
    if re.fullmatch(r"\d{1,10}", signature):
        found[1] = {0: (int(signature) & LOW, 0, 1 << 26 | (leaf[0][0] >> 2 & 1) << 28, 0)}
    return found


FORMS: Final = {
    "VirtualBox": _of_virtualbox,
    "cpuid": _of_cpuid,
    "Firecracker": _of_firecracker,
    "sysctl": _of_sysctl,
}
