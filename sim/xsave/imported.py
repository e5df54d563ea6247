"""A CPU profile from a dump of CPUID registers; what the dump leaves out comes from other CPUs.

Whatever did not come from the dump is a note of the profile.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sim.errors import InputError
from sim.kinds import Kind, wanted
from sim.xsave import cpuid
from sim.xsave.components import ALL, COMPONENTS, EXTENDED, SUPERVISOR, bits
from sim.xsave.cpuid import Dump
from sim.xsave.cpuid_decoded import Registers
from sim.xsave.families import AMD, HYGON, INTEL, Family, decoded, family
from sim.xsave.geometry import GENERIC
from sim.xsave.profile_data import CACHES, EAX, ECX, FEATURES, NOTHING, names, shipped, spelt, tsc_hz

Leaves = dict[int, dict[int, Registers]]

KEPT: Final = (0, 1, 4, 7, 0xD, 0x15, 0x16, 0x8000001D)
"""The leaves of a dump that a profile keeps, beside the brand string."""

_OF_COMPONENT: Final = {
    "XSAVE": 0, "AVX": 2, "MPX": 3, "AVX512F": 5, "INTEL_PT": 8, "PKU": 9, "ENQCMD": 10, "SHSTK": 12, "UINTR": 14,
    "ARCH_LBR": 15, "AMX_TILE": 17, "APX": 19,
}  # fmt: skip
"""The component that implies a feature, if leaf 1 or 7 is not in the dump."""

_FLAGS: Final = {17: 0b010, 18: 0b110}
"""ECX of the sub-leaves of user components: bit 1, aligned to 64 bytes when compacted; bit 2, IA32_XFD."""


def dump(path: Path) -> Dump:
    """The registers in a file."""
    with wanted(path, Kind.REGISTERS):
        try:
            with path.open("rb") as stream:
                return cpuid.read(stream, str(path))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error


def document(found: Dump, source: str) -> dict[str, Any]:
    """A profile as its data file has it; ``source`` is where the dump comes from."""
    notes: list[str] = []
    leaves: Leaves = {leaf: dict(subs) for leaf, subs in found.leaves.items() if leaf in KEPT}
    vendor = _vendor(found, leaves, notes)
    signature = leaves.get(1, {}).get(0, NOTHING)[0]
    known = family(found.vendor, signature) if signature else None
    in_guest = bool(leaves.get(1, {}).get(0, NOTHING)[ECX] >> 31)
    if in_guest:
        notes.append("taken in a virtual machine: what its hypervisor shows of the CPU")
    if 1 not in leaves[0xD]:
        notes.append("leaf 0DH, sub-leaf 1 is not in the dump: no XSAVEOPT, XSAVEC, XSAVES, no supervisor components")
    _add_features(leaves, notes)
    like = (known.like if known else "") or _nearest(leaves, vendor)
    _add_places(leaves, vendor, known.like if known else "", notes)
    _add_caches(leaves, vendor, like, notes)
    tsc_hz = _tsc_hz(leaves, like, notes)
    freedoms = {}
    if vendor == "amd":
        freedoms = dict(shipped(like)["freedoms"])
        notes.append(f"freedoms: those of {like}")
    return {
        "title": _title(found, known, signature, source),
        "vendor": vendor,
        **({} if tsc_hz is None else {"tsc_hz": tsc_hz}),
        "bugs": list(known.bugs) if known is not None and not in_guest else [],
        "mitigations": list(shipped(like)["mitigations"]) if known is not None and known.like and not in_guest else [],
        "source": f"{source}, as {found.printed_by} prints it",
        "notes": notes,
        "cpuid": {
            spelt(leaf): {
                str(sub): list(registers)
                for sub, registers in sorted(leaves[leaf].items())
                if leaf == 0xD or any(registers)
            }
            for leaf in sorted(leaves)
        },
        "freedoms": freedoms,
    }


def _vendor(found: Dump, leaves: Leaves, notes: list[str]) -> str:
    if found.vendor in (AMD, HYGON):
        return "amd"
    if found.vendor == INTEL:
        return "intel"
    # AMD has no hole for MPX in the standard format, and describes caches in a leaf of its own.
    opmask, pkru = (leaves[0xD].get(i, NOTHING) for i in (5, 9))
    by_place = opmask[1] == 0x340 or pkru[1] in (0x340, 0x980)
    vendor = "amd" if by_place or any(0x8000001D in each for each in (leaves, found.leaves)) else "intel"
    if found.vendor:
        notes.append(
            f"vendor {found.vendor!r} is not known here: taken for {vendor.upper() if vendor == 'amd' else 'Intel'}"
        )
    else:
        notes.append(f"leaf 0 is not in the dump: {'AMD' if vendor == 'amd' else 'Intel'} by where its components are")
    return vendor


def _add_features(leaves: Leaves, notes: list[str]) -> None:
    """Bits of leaves 1 and 7 by the components that there are, if the dump lacks those leaves."""
    lacking = [leaf for leaf in (1, 7) if 0 not in leaves.get(leaf, {})]
    if not lacking:
        return
    there = _supported(leaves)
    for feature, component in _OF_COMPONENT.items():
        leaf, sub, register, bit = FEATURES[feature]
        if leaf in lacking and there >> component & 1:
            row = list(leaves.setdefault(leaf, {}).get(sub, NOTHING))
            row[register] |= 1 << bit
            leaves[leaf][sub] = _registers(row)
    for leaf in lacking:
        leaves.setdefault(leaf, {})
        notes.append(f"leaf {leaf:02X}H is not in the dump: features by the components that there are")


def _registers(row: list[int]) -> Registers:
    a, b, c, d = row
    return a, b, c, d


def _supported(leaves: Leaves) -> int:
    """The components that are known here, all of which are in the low halves of XCR0 and IA32_XSS."""
    return (leaves[0xD][0][EAX] | leaves[0xD].get(1, NOTHING)[ECX]) & ALL


def _add_places(leaves: Leaves, vendor: str, like: str, notes: list[str]) -> None:
    """Sub-leaves of components that are supported, and absent or all zero; some dumps lack PKRU's."""
    usual = shipped("zen4")["cpuid"]["13"] if vendor == "amd" else {}
    of_family = shipped(like)["cpuid"]["13"] if like else {}
    added = []
    for i in bits[_supported(leaves) & EXTENDED]:
        if not leaves[0xD].get(i, (0,))[0]:
            added.append(f"{i} ({COMPONENTS[i].name})")
            if row := of_family.get(str(i)):  # Zen 2 has 64 bytes of PKRU, all others 8
                leaves[0xD][i] = _registers(row)
                continue
            offset = usual[str(i)][1] if str(i) in usual else GENERIC.offsets.get(i, 0)
            flags = 1 if 1 << i & SUPERVISOR else _FLAGS.get(i, 0)
            leaves[0xD][i] = (GENERIC.sizes[i], offset, flags, 0)
    if added:
        notes.append(f"sub-leaves of leaf 0DH that are not in the dump, and as on other CPUs here: {', '.join(added)}")


def _add_caches(leaves: Leaves, vendor: str, like: str, notes: list[str]) -> None:
    leaf = int(CACHES[vendor], 0)
    there = leaves.get(leaf, {})
    if 0 not in there or 2 not in there:
        rows: Mapping[str, list[int]] = shipped(like)["cpuid"][CACHES[vendor]]
        leaves[leaf] = {int(sub): _registers(row) for sub, row in rows.items()}
        notes.append(f"caches are not in the dump: those of {like}")


def _tsc_hz(leaves: Leaves, like: str, notes: list[str]) -> int | None:
    """The TSC frequency of a similar CPU, if the leaves do not give it; those of AMD's CPUs do not."""
    ratio, base = (leaves.get(leaf, {}).get(0, NOTHING) for leaf in (0x15, 0x16))
    if (ratio[EAX] and ratio[ECX]) or base[EAX]:
        return None
    data = shipped(like)
    rows = (data["cpuid"].get(leaf, {}).get("0", NOTHING) for leaf in ("21", "22"))
    notes.append(f"the TSC's frequency is not in the dump: that of {like}")
    return round(data.get("tsc_hz") or tsc_hz(*rows))


def _nearest(leaves: Leaves, vendor: str) -> str:
    """The shipped CPU of that vendor whose components differ the least."""
    there = _supported(leaves)

    def differing(name: str) -> int:
        own: Leaves = {0xD: {int(sub): tuple(row) for sub, row in shipped(name)["cpuid"]["13"].items()}}
        return (_supported(own) ^ there).bit_count()

    of_vendor = [name for name in names() if shipped(name)["vendor"] == vendor and not shipped(name).get("synthetic")]
    return min(of_vendor, key=differing)


def _title(found: Dump, known: Family | None, signature: int, source: str) -> str:
    """The brand string and the name of the family, as far as they are known."""
    number, model, stepping = decoded(signature)
    described = f"family {number:X}H model {model:X}H stepping {stepping}" if signature else ""
    inner = ", ".join(filter(None, (known.name if known else "", described)))
    maker = {INTEL: "Intel", AMD: "AMD", HYGON: "Hygon"}.get(found.vendor, "")
    name = found.brand or f"{maker} CPU of {Path(source).name}".lstrip()
    return f"{name} ({inner})" if inner else name


def text(data: Mapping[str, Any]) -> str:
    """The profile as TOML, as the shipped ones are written."""
    import tomlkit

    head = tomlkit.document()
    for key in ("title", "vendor", "tsc_hz", "bugs", "mitigations", "source", "notes"):
        if key in data:
            head[key] = data[key]
    parts = [tomlkit.dumps(head).rstrip(), ""]
    parts.append("# Registers as CPUID reports them, [EAX, EBX, ECX, EDX] by sub-leaf.")
    for leaf, subs in data["cpuid"].items():
        parts.append(f"\n[cpuid.{leaf}]")
        for sub, row in subs.items():
            number = int(sub)
            component = COMPONENTS[number].name if leaf == "13" and 2 <= number < len(COMPONENTS) else ""
            shown = ", ".join(f"0x{value:08x}" for value in row)
            parts.append(f"{sub:2} = [{shown}]" + (f"  # {component}" if component else ""))
    parts.append(
        "\n# sim.xsave.freedoms.Freedoms: what the SDM leaves to the processor; the defaults where nothing stands here."
    )
    parts.append("[freedoms]")
    for key, value in data["freedoms"].items():
        parts.append(f"{key} = {str(value).lower() if isinstance(value, bool) else hex(value)}")
    return "\n".join(parts) + "\n"
