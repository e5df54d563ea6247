"""CPUID registers from the text in which people have them: dumps of tools, of hypervisors and of the kernel itself.

Only the first CPU of a dump is read.  What is found is what CPUID reported; what it means is decoded in
:mod:`sim.xsave.profiles`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Final

from sim import mailed, packed
from sim.errors import InputError

Registers = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

Leaves = Mapping[int, Mapping[int, Registers]]
"""Registers by leaf and sub-leaf."""

_SEPARATOR = r"[\s,:;>|-]+"  # wrapped and quoted lines, too
_VALUES = _SEPARATOR.join(rf"(?:e{name}x\s*=\s*)?(?:0x)?(?P<{name}>[0-9a-f]{{8}})\b" for name in "abcd")
_LEAF, _SUB = r"(?P<leaf>[0-9a-f]{8})", r"(?P<sub>[0-9a-f]{1,8})"

FORMS: Final = tuple(
    (what, re.compile(pattern, re.ASCII | re.IGNORECASE))
    for what, pattern in (
        ("cpuid -r", rf"0x{_LEAF}\s+0x{_SUB}\s*:\s*{_VALUES}"),
        ("InstLatx64", rf"CPUID\s+{_LEAF}\s*:?\s*{_VALUES}(?:[^\n\[]*\[SL\s+{_SUB}\])?"),
        ("the kernel", rf"CPUID\[(?P<leaf>[0-9a-f]{{2,8}}),\s*{_SUB}\]\s*:\s*{_VALUES}"),
        ("VirtualBox", rf"\b(?P<who>Gst|Hst)\s*:\s+(?:{_LEAF}/{_SUB}\s+)?{_VALUES}"),
        ("xen-cpuid", rf"{_LEAF}:(?P<sub>[0-9a-f]{{8}})\s*->\s*{_VALUES}"),
        ("VMware", rf"\b(?:host|guest)?CPUID\s+level\s+{_LEAF},\s*{_SUB}\s*:\s*{_VALUES}"),
        (
            "cpucontrol",
            rf"cpuid\s+level\s+0x(?P<leaf>[0-9a-f]{{1,8}})(?:,\s*level_type\s+0x{_SUB})?\s*:\s*{_VALUES}",
        ),
        ("x86info", rf"eax\s+in:\s+0x{_LEAF},\s*{_VALUES}"),
        (
            "kcpuid",
            rf"0x{_LEAF}:\s+(?:subleafs:|(?=EAX){_VALUES})|\b(?P<number>\d{{1,3}}):\s+(?=EAX)"
            + _VALUES.replace("?P<", "?P<sub_"),
        ),
        (
            "C source",
            rf"\{{+\s*0x(?P<leaf>[0-9a-f]{{1,8}}),\s*(?:0x)?{_SUB}\s*\}}\s*,\s*(?:\w+\s*)?\{{\s*{_VALUES}",
        ),
    )
)
"""Who prints registers, and how; :func:`_found` knows the groups."""

ALLOWED: Final = (
    "what cpuid -r, InstLatx64, kcpuid -r, xen-cpuid, cpucontrol or x86info print, the CPUID lines of a kernel's log, "
    "of vmware.log or of VBox.log"
)

_XSTATE: Final = 0xD

MOST: Final = 16 << 20
"""Bytes of a dump, or of the log that has it, that are read."""


@dataclass(frozen=True, slots=True)
class Dump:
    """One CPU's registers, and who printed them."""

    leaves: Leaves
    printed_by: str

    def registers(self, leaf: int, sub: int = 0) -> Registers | None:
        """Those of a sub-leaf, or None if it is not in the dump."""
        return self.leaves.get(leaf, {}).get(sub)

    @property
    def vendor(self) -> str:
        """The vendor's 12 characters in leaf 0; empty if the dump has no leaf 0."""
        found = self.registers(0)
        return "" if found is None else _characters(found[1], found[3], found[2])

    @property
    def brand(self) -> str:
        """The brand string; empty if the dump has not all of it."""
        parts = [self.registers(0x80000002 + k) for k in range(3)]
        text = "".join(_characters(*part) for part in parts if part is not None)
        return " ".join(text.split()) if all(parts) else ""


def read(stream: IO[bytes], name: str) -> Dump:
    """The registers in a dump, which may be packed; :class:`InputError` if it has no leaf 0DH that can be read."""
    try:
        found = packed.unpacked(stream, name)
        if packed.is_binary(found):
            raise InputError(f"{name} is not text; allowed: a CPU profile (.toml), or {ALLOWED}")
        return parse(mailed.text_lines(packed.lines(found, name, MOST)), name)
    except packed.DAMAGED as error:
        raise InputError(f"cannot read {name}: {error}") from error


def parse(lines: Iterable[str], name: str) -> Dump:
    """The registers in the lines of a dump."""
    text = "".join(mailed.undone(lines))
    some = ""
    for what, pattern in FORMS:
        leaves = _found(pattern, text)
        if 0 in leaves.get(_XSTATE, {}):
            return Dump(leaves, what)
        some = some or (what if leaves else "")
    if leaves := _decoded_by_virtualbox(text):
        return Dump(leaves, "VirtualBox")
    if some:
        raise InputError(f"{name}: CPUID registers as {some} prints them, but leaf 0DH, sub-leaf 0 is not among them")
    raise InputError(f"{name} has no CPUID registers; allowed: a CPU profile (.toml), or {ALLOWED}")


def _found(pattern: re.Pattern[str], text: str) -> dict[int, dict[int, Registers]]:
    """The registers of the first CPU; of a hypervisor's log those of its host, if it has them."""
    of_whom: dict[str, dict[int, dict[int, Registers]]] = {}
    leaf = sub = -1
    for match in pattern.finditer(text):
        groups = match.groupdict()
        values = tuple((groups["a"] and groups[name]) or groups.get(f"sub_{name}") for name in "abcd")
        if groups.get("leaf"):
            number = int(groups["leaf"], 16)
            # Without its number, one stands behind the other.
            sub = int(groups["sub"], 16) if groups.get("sub") else sub + 1 if number == leaf and values[0] else 0
            leaf = number
        if groups.get("number"):
            sub = int(groups["number"])
        if leaf < 0 or not all(values):
            continue
        sub = 0 if sub == 0xFFFFFFFF else sub  # Xen: a leaf without sub-leaves
        of_one = of_whom.setdefault(groups.get("who") or "", {}).setdefault(leaf, {})
        of_one.setdefault(sub, tuple(int(value or "", 16) for value in values))  # type: ignore[arg-type]  # four
    return of_whom.get("Hst") or next(iter(of_whom.values()), {})


_FEATURES: Final = ("XSAVEOPT", "XSAVEC", "XGETBC1", "XSAVES", "XFD")  # as VirtualBox spells them, from bit 0 of EAX


def _decoded_by_virtualbox(text: str) -> dict[int, dict[int, Registers]]:
    """Leaf 0DH as VBox.log decodes it (cpumR3CpuIdInfoStdLeaf13Details), the host's if that is there."""
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
        low = 0xFFFFFFFF
        leaf: dict[int, Registers] = {0: (xcr0 & low, ebx, ecx, xcr0 >> 32), 1: (eax, 0, xss & low, xss >> 32)}
        for number, offset, size in _states(who, text):
            leaf[number] = (size, offset, int(bool(xss >> number & 1)), 0)
        return {_XSTATE: leaf}
    return {}


def _number(pattern: str, text: str) -> int | None:
    match = re.search(pattern + r"\s*(0x[0-9a-f]+|0)\b", text, re.IGNORECASE)
    return None if match is None else int(match[1], 0)


def _states(who: str, text: str) -> Iterator[tuple[int, int, int]]:
    for match in re.finditer(rf"State #(\d+),\s*{who}\s*:\s*off=(0x[0-9a-f]+|0+),\s*cb=(0x[0-9a-f]+)", text):
        yield int(match[1]), int(match[2], 16), int(match[3], 16)


def _characters(*registers: int) -> str:
    text = b"".join(value.to_bytes(4, "little") for value in registers).split(b"\0")[0].decode("ascii", "replace")
    return "".join(character for character in text if character.isprintable())
