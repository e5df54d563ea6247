"""Shipped CPUs, and their registers as tools print them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sim.cli import main
from sim.xsave import cpuid, imported
from sim.xsave.profile_data import shipped
from sim.xsave.profiles import names, of_data, profile

DATA = Path(__file__).parent / "data"
RAW = DATA / "cases" / "cpuid-raw.txt"
DUMPED = [name for name in names() if not profile(name).synthetic and not profile(name).notes]
VENDORS = {"intel": (0x756E6547, 0x6C65746E, 0x49656E69), "amd": (0x68747541, 0x444D4163, 0x69746E65)}


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def run_json(capsys, *arguments):
    status, out, err = run(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def leaves(name: str) -> dict[int, dict[int, list[int]]]:
    """The registers of a shipped CPU, with the leaf 0 that its file leaves out."""
    found = {int(leaf, 0): {int(s): row for s, row in subs.items()} for leaf, subs in shipped(name)["cpuid"].items()}
    b, c, d = VENDORS[shipped(name)["vendor"]]
    return {0: {0: [0x20, b, c, d]}} | found


def same_cpu(one, other) -> bool:
    """Whether two profiles say the same of the hardware, whatever they are called and wherever they come from."""
    plain = {"name": "", "title": "", "source": "", "notes": (), "freedoms": one.freedoms}
    return replace(one, **plain) == replace(other, **plain)


# Every way in which registers are printed.


def as_cpuid(leaf, sub, a, b, c, d):
    return f"   0x{leaf:08x} 0x{sub:02x}: eax=0x{a:08x} ebx=0x{b:08x} ecx=0x{c:08x} edx=0x{d:08x}"


def as_instlat(leaf, sub, a, b, c, d):
    return f"CPUID {leaf:08X}: {a:08X}-{b:08X}-{c:08X}-{d:08X} [SL {sub:02X}]"


def as_virtualbox(leaf, sub, a, b, c, d):
    guest = f"Gst: {leaf:08x}/{sub:04x}  00000000 00000000 00000000 00000000"
    return f"00:00:01.123456 {guest}\n00:00:01.123456 Hst:                {a:08x} {b:08x} {c:08x} {d:08x}"


def hexadecimal(values, before="0x"):
    return [f"{before}{value:08x}" for value in values]


def names_and_values(registers, form):
    return " ".join(form.format(name, value) for name, value in zip("abcd", registers, strict=True))


PRINTED = {
    "cpuid -r": as_cpuid,
    "cpuid": lambda leaf, s, *r: f"CPUID {leaf:08x}:{s:02x} = " + " ".join(hexadecimal(r, "")) + " | ....@...........",
    "Intel SDE": lambda leaf, s, *r: f"        {leaf:08x} {s:08x} => " + " ".join(hexadecimal(r, "")),
    "hwloc": lambda leaf, s, *r: f"5 {leaf:x} 0 {s:x} 0 => " + " ".join(f"{value:x}" for value in r),
    "libvirt": lambda leaf, s, *r: (
        f"  <cpuid eax_in='0x{leaf:08x}' ecx_in='0x{s:02x}' " + names_and_values(r, "e{}x='{:#010x}'") + "/>"
    ),
    "the event kvm_cpuid": lambda leaf, s, *r: (
        f" CPU 0/KVM-4321  [005] d....   77.123456: kvm_cpuid: func {leaf:x} idx {s:x} "
        + names_and_values(r, "r{}x {:x}")
        + ", cpuid entry found"
    ),
    "UEFI's Cpuid": lambda leaf, s, *r: (
        f"CPUID_SOME_LEAF (Leaf {leaf:08X}, Sub-Leaf {s:08X})\n  " + names_and_values(r, "E{}X:{:08X} ").upper()
    ),
    "InstLatx64": as_instlat,
    "VirtualBox": as_virtualbox,
    "xen-cpuid": lambda leaf, s, *r: f"  {leaf:08x}:{s or 0xFFFFFFFF:08x} -> " + ":".join(hexadecimal(r, "")),
    "VMware": lambda leaf, s, *r: f"vmx| hostCPUID level {leaf:08x}, {s:x}: " + " ".join(hexadecimal(r)),
    "cpucontrol": lambda leaf, s, *r: f"cpuid level 0x{leaf:x}, level_type 0x{s:x}: " + " ".join(hexadecimal(r)),
    "C source": lambda leaf, s, *r: f"{{{{0x{leaf:08X}, 0x{s:02X}}}, Leaf{{" + ", ".join(hexadecimal(r)) + "}},",
    "kcpuid": lambda leaf, s, *r: (
        (f"0x{leaf:08x}: subleafs:\n" if not s else "")
        + f" {s:2}: "
        + ", ".join(f"{n}={v}" for n, v in zip(("EAX", "EBX", "ECX", "EDX"), hexadecimal(r), strict=True))
    ),
}


def dump_text(name: str, how: str) -> str:
    rows = ((leaf, sub, *row) for leaf, subs in leaves(name).items() for sub, row in sorted(subs.items()))
    return "".join(PRINTED[how](*row) + "\n" for row in rows)


def imported_text(text):
    found = cpuid.parse(text.splitlines(keepends=True), "the dump")
    return of_data("x", imported.document(found, "the dump")), found.printed_by


def of_registers(registers):
    text = "".join(as_cpuid(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    return of_data("x", imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump"))


def without(registers, leaf, sub):
    return {number: {s: r for s, r in subs.items() if (number, s) != (leaf, sub)} for number, subs in registers.items()}
