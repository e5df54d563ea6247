"""CPUID registers from the texts in which people have them: dumps of tools, of hypervisors and of the kernel itself.

Only the first CPU of a dump is read.  What is found is what CPUID reported; what it means is decoded in
:mod:`sim.xsave.profiles`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Final

from sim import mailed, packed
from sim.errors import InputError
from sim.xsave import cpuid_bytes, cpuid_nested, cpuid_rows, no_registers
from sim.xsave.cpuid_decoded import XSTATE as _XSTATE
from sim.xsave.cpuid_decoded import Registers, decoded

Leaves = Mapping[int, Mapping[int, Registers]]
"""Registers by leaf and sub-leaf."""

_SEPARATOR = r"[\s,:;>|-]+"  # wrapped and quoted lines, too
_VALUES = _SEPARATOR.join(rf"(?:e{name}x\s*[=:]\s*)?(?:0x)?(?P<{name}>[0-9a-f]{{8}})\b" for name in "abcd")
_SHORT = r"\s+".join(rf"(?P<{name}>[0-9a-f]{{1,8}})\b" for name in "abcd")
_OF_XML = r"\s+".join(rf"e{name}x=['\"](?P<{name}>0x[0-9a-f]{{1,8}})['\"]" for name in "abcd")
_OF_KVM = r"\s+".join(rf"r{name}x\s+(?P<{name}>[0-9a-f]{{1,8}})" for name in "abcd")
_LEAF, _SUB = r"(?P<leaf>[0-9a-f]{8})", r"(?P<sub>[0-9a-f]{1,8})"

_TABLES: Final = {
    "basic_cpuid": 0, "ext_cpuid": 0x80000000, "intel_fn4": 4, "intel_fn11": 11, "amd_fn8000001dh": 0x8000001D,
}  # fmt: skip
"""The leaf of row 0 in libcpuid's raw dumps (rawdump in libcpuid/cpuid_main.c)."""

_OF_MANY_LEAVES: Final = ("basic_cpuid", "ext_cpuid")
"""Tools whose rows are leaves; those of the others are sub-leaves."""

FORMS: Final = tuple(
    (what, re.compile(pattern, re.ASCII | re.IGNORECASE))
    for what, pattern in (
        ("cpuid -r", rf"0x{_LEAF}\s+0x{_SUB}\s*:\s*{_VALUES}"),
        ("InstLatx64", rf"CPUID\s+{_LEAF}\s*:?\s*{_VALUES}(?:[^\n\[]{{0,200}}\[SL\s+{_SUB}\])?"),
        ("the kernel", rf"CPUID\[(?P<leaf>[0-9a-f]{{2,8}}),\s*{_SUB}\]\s*:\s*{_VALUES}"),
        ("VirtualBox", rf"\b(?P<who>Gst|Hst)\s*:\s+(?:{_LEAF}/{_SUB}\s+)?{_VALUES}"),
        ("xen-cpuid", rf"{_LEAF}:(?P<sub>[0-9a-f]{{8}})\s*->\s*{_VALUES}"),
        (
            "cpuid",
            rf"CPUID\s+{_LEAF}(?:\s*:\s*{_SUB}|,\s*index\s+(?P<index>[0-9a-f]{{1,8}})|,\s*results)\s*=\s*{_VALUES}",
        ),
        ("Intel SDE", rf"\b{_LEAF}\s+(?:(?P<sub>[0-9a-f]{{8}})|\*+)\s*=>\s*{_VALUES}"),
        ("libcpuid", rf"\b(?P<table>{'|'.join(_TABLES)})\[(?P<row>\d{{1,3}})\]\s*=\s*{_VALUES}"),
        ("hwloc", rf"\b[0-9a-f]{{1,2}}\s+(?P<leaf>[0-9a-f]{{1,8}})\s+0\s+{_SUB}\s+0\s+=>\s+{_SHORT}"),
        (
            "libvirt",
            rf"<cpuid\s+eax_in=['\"]0x(?P<leaf>[0-9a-f]{{1,8}})['\"](?:\s+ecx_in=['\"]0x{_SUB}['\"])?\s+{_OF_XML}",
        ),
        ("the event kvm_cpuid", rf"kvm_cpuid:\s+func\s+(?P<leaf>[0-9a-f]{{1,8}})(?:\s+idx\s+{_SUB})?\s+{_OF_KVM}"),
        ("Bochs", rf"CPUID\[0x{_LEAF}\]\s*:\s*{_VALUES}"),
        ("UEFI's Cpuid", rf"\(Leaf\s+{_LEAF}(?:,\s*Sub-Leaf\s+{_SUB})?\)\s*{_VALUES}"),
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
            rf"\{{\s*0x(?P<leaf>[0-9a-f]{{1,8}}),\s*(?:0x)?{_SUB}\s*\}}\s*,\s*(?:\w+\s*)?\{{\s*{_VALUES}",
        ),
    )
)
"""Who prints registers, and how; :func:`_matches` knows the groups."""

ALLOWED: Final = (
    "what cpuid -r, InstLatx64, CPU-Z, kcpuid -r, xen-cpuid, cpucontrol, x86info, libcpuid or hwloc print, the CPUID "
    "lines of a kernel's log, of vmware.log or of VBox.log, a table of leaf, sub-leaf and four registers, what xxd "
    "prints of /dev/cpu/N/cpuid"
)

MOST: Final = 16 << 20
"""The most bytes that are read of a dump, or of the log that has it."""


_OF_NO_TOOL: Final = {
    "a program": cpuid_nested.rows,
    "a table": cpuid_rows.rows,
    "a table with a header": cpuid_rows.with_header,
    "a dump of /dev/cpu/N/cpuid": cpuid_bytes.rows,
}


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
        """The brand string; empty if the dump does not have all of it."""
        parts = [self.registers(0x80000002 + k) for k in range(3)]
        text = "".join(_characters(*part) for part in parts if part is not None)
        return " ".join(text.split()) if all(parts) else ""


def read(stream: IO[bytes], name: str) -> Dump:
    """The registers in a dump, which may be compressed; :class:`InputError` if it has no leaf 0DH that can be read."""
    try:
        found = packed.unpacked(stream, name)
        if what := packed.told(found):
            raise InputError(f"{name} is {what}; allowed: a CPU profile (.toml), or {ALLOWED}")
        if packed.is_binary(found):
            who, rows = cpuid_bytes.of_binary(packed.content(found, name, MOST))
            if who:
                return _with_xsave(Dump(_first_cpu(("", *row) for row in rows), who), name)
            raise InputError(
                f"{name} is not text, and neither what dd bs=16 copies of /dev/cpu/N/cpuid from leaf 0 on nor a "
                f"kvm_cpuid2: it does not say which leaves it has (cpuid -1 -r prints them); "
                f"allowed: a CPU profile (.toml), or {ALLOWED}"
            )
        return parse(mailed.text_lines(packed.lines(found, name, MOST)), name)
    except packed.DAMAGED as error:
        raise InputError(f"cannot read {name}: {error}") from error


def parse(lines: Iterable[str], name: str) -> Dump:
    """The registers in the lines of a dump."""
    raw = list(lines)
    text = "".join(mailed.undone(raw))
    some: Dump | None = None
    for what, pattern in FORMS:
        leaves = _first_cpu(_matches(pattern, text))
        if 0 in leaves.get(_XSTATE, {}):
            return _with_xsave(Dump(leaves, what), name)
        some = some or (Dump(leaves, what) if leaves else None)
    who, put_together = decoded(text)
    if put_together:
        return _with_xsave(Dump(put_together, who), name)
    found = [Dump(_first_cpu(("", *row) for row in form(text)), who) for who, form in _OF_NO_TOOL.items()]
    if with_xstate := [dump for dump in found if dump.registers(_XSTATE)]:
        return _with_xsave(max(with_xstate, key=lambda dump: sum(map(len, dump.leaves.values()))), name)
    if some is not None:
        why = _why_no_xsave(some)
        raise InputError(
            f"{name}: CPUID registers as {some.printed_by} prints them, but leaf 0DH, sub-leaf 0 is not among them"
            + (f" ({why})" if why else "")
        )
    if instead := no_registers.told(text) or no_registers.told("".join(raw)):  # tags of XML are gone in the former
        raise InputError(f"{name} has no CPUID registers: {instead}")
    what = "has no CPUID registers" if "".join(raw).strip() else "is empty"
    raise InputError(f"{name} {what}; allowed: a CPU profile (.toml), or {ALLOWED}")


def _with_xsave(dump: Dump, name: str) -> Dump:
    """The dump; :class:`InputError` if its CPU cannot have state components."""
    if why := _why_no_xsave(dump):
        raise InputError(f"{name}: {why}")
    return dump


def _why_no_xsave(dump: Dump) -> str:
    basic, features, xstate = (dump.registers(leaf) for leaf in (0, 1, _XSTATE))
    if features is not None and not features[2] >> 26 & 1:
        return "this CPU has no XSAVE: leaf 01H, ECX bit 26 is 0"
    if basic is not None and basic[0] < _XSTATE:
        return f"this CPU has no XSAVE: its highest leaf is {basic[0]:02X}H"
    if xstate is not None and xstate[0] & 3 != 3:
        return f"leaf 0DH, sub-leaf 0 allows XCR0 {xstate[0]:#x}, without x87 and SSE, which no CPU with XSAVE does"
    return ""


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, int, int, Registers]]:
    """Whose registers they are, if the text says it, leaf, sub-leaf and registers of each match."""
    leaf: int | None = None
    sub = 0
    for match in pattern.finditer(text):
        groups = match.groupdict()
        values = tuple((groups["a"] and groups[name]) or groups.get(f"sub_{name}") for name in "abcd")
        is_complete = all(values)
        if table := (groups.get("table") or "").lower():
            first, row = _TABLES[table], int(groups["row"])
            leaf, sub = (first + row, 0) if table in _OF_MANY_LEAVES else (first, row)
        elif groups.get("leaf"):
            number = int(groups["leaf"], 16)
            # Without its number, one stands behind the other.
            said = groups.get("sub") or groups.get("index")
            sub = int(said, 16) if said else sub + 1 if number == leaf and is_complete else 0
            leaf = number
        if groups.get("number"):
            sub = int(groups["number"])
        if leaf is None or not is_complete:
            continue
        sub = 0 if sub == 0xFFFFFFFF else sub  # Xen: a leaf without sub-leaves
        a, b, c, d = (int(value or "", 16) for value in values)
        yield (groups.get("who") or "").lower(), leaf, sub, (a, b, c, d)


def _first_cpu(rows: Iterable[tuple[str, int, int, Registers]]) -> dict[int, dict[int, Registers]]:
    """The registers of the first CPU; of a hypervisor's log those of its host, if it has them."""
    of_whom: dict[str, dict[int, dict[int, Registers]]] = {}
    for who, leaf, sub, registers in rows:
        of_one = of_whom.setdefault(who, {})
        if _is_another(leaf, sub, of_one, registers):
            break
        of_one.setdefault(leaf, {}).setdefault(sub, registers)
    return of_whom.get("hst") or next(iter(of_whom.values()), {})


def _is_another(leaf: int, sub: int, found: Leaves, registers: Registers) -> bool:
    """Whether another machine's dump begins; EBX of leaf 0DH may change, with XCR0."""
    if sub or leaf not in (0, _XSTATE) or _XSTATE not in found or 0 not in found.get(leaf, {}):
        return False
    first = found[leaf][0]
    return (first[0], first[2]) != (registers[0], registers[2]) if leaf else first[1:] != registers[1:]


def _characters(*registers: int) -> str:
    text = b"".join(value.to_bytes(4, "little") for value in registers).split(b"\0")[0].decode("ascii", "replace")
    return "".join(character for character in text if character.isprintable())
