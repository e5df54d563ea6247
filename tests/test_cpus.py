"""CPU profiles that are not shipped: from dumps that people have, from the machine at hand, and in every command."""

import gzip
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.calibrate import cpuid as machine
from sim.cli import main
from sim.errors import InputError
from sim.kernel.config import Settings, boot
from sim.results.settings import settings_of
from sim.scenario.cases import cases
from sim.scenario.reading import read as read_scenario
from sim.xsave import cpuid, cpuid_decoded, imported
from sim.xsave.components import ALL, AVX, AVX512, EXTENDED, FP, MPX, SSE, XTILE, XTILEDATA, bits
from sim.xsave.families import AMD, FAMILIES, INTEL, decoded, family
from sim.xsave.profile_data import shipped
from sim.xsave.profiles import GENERIC, names, of_data, profile
from sim.xsave.sizes import masks_of

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


# The case: a raw dump with few sub-leaves.


def test_a_raw_dump_is_a_cpu(capsys):
    document = run_json(capsys, "layout", "0x2e7", "--cpu", RAW)
    assert (document["size"], document["cpu"]) == (2440, str(RAW))
    document = run_json(capsys, "cpu", "show", RAW)
    assert (document["xcr0"], document["xss"]) == ("0x602e7", "0xdd00")
    places = {each["component"]: (each["size"], each["offset"]) for each in document["components"]}
    assert (places[2], places[9]) == ((256, 576), (8, 0xA80))
    assert set(places) == set(bits[(0x602E7 | 0xDD00) & EXTENDED])
    assert document["standard_size"] == 0x2B00


def test_what_a_dump_lacks_is_taken_from_other_cpus_and_said(capsys):
    notes = run_json(capsys, "cpu", "show", RAW)["notes"]
    assert any("leaf 07H is not in the dump" in note for note in notes)
    (places,) = (note for note in notes if "sub-leaves of leaf 0DH" in note)
    assert "5 (OPMASK)" in places
    assert "9 (PKRU)" not in places
    one = profile(str(RAW))
    assert {"SHSTK", "PKU", "AVX512F", "AMX_TILE", "XFD", "XSAVES"} <= one.features
    assert one.sizes == {i: GENERIC.sizes[i] for i in one.sizes}
    assert (one.aligned, one.xfd_supported) == (XTILE, XTILEDATA)
    assert one.compacted(0x602E7).size == 10752


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


@pytest.mark.parametrize("how", PRINTED)
@pytest.mark.parametrize("name", DUMPED)
def test_a_shipped_cpu_that_is_printed_and_imported_is_that_cpu(name, how):
    found = cpuid.parse(dump_text(name, how).splitlines(keepends=True), "the dump")
    assert found.printed_by == how
    assert same_cpu(of_data("x", imported.document(found, "the dump")), profile(name))


@pytest.mark.parametrize("quote", ["> ", "> > "])
@pytest.mark.parametrize("name", ["zen4", "sapphire-rapids"])
def test_a_dump_that_a_mail_quotes_and_wraps_is_the_dump(name, quote):
    lines = dump_text(name, "cpuid -r").replace(" edx=", "\nedx=").splitlines()
    found = cpuid.parse([quote + line + "\n" for line in lines], "the dump")
    assert same_cpu(of_data("x", imported.document(found, "the dump")), profile(name))


def test_sub_leaves_without_numbers_stand_one_behind_the_other():
    lines = "CPUID 00000004: 1C004121-01C0003F-0000003F-00000000\n" + "".join(
        f"CPUID 0000000D  \t{a:08X}-{b:08X}-{c:08X}-00000000\n"
        for a, b, c in ((7, 0x340, 0x340), (1, 0x340, 0), (0x100, 0x240, 0))
    )
    found = cpuid.parse(lines.splitlines(keepends=True), "the dump")
    assert found.leaves[13] == {0: (7, 0x340, 0x340, 0), 1: (1, 0x340, 0, 0), 2: (0x100, 0x240, 0, 0)}


def test_the_first_cpu_of_a_dump_counts():
    other = dump_text("zen3", "cpuid -r")
    found = cpuid.parse((dump_text("zen4", "cpuid -r") + "CPU 1:\n" + other).splitlines(keepends=True), "the dump")
    assert same_cpu(of_data("x", imported.document(found, "the dump")), profile("zen4"))


def test_the_cpuid_lines_of_a_kernel_are_a_cpu():
    text = "".join(
        f"[    0.46] CPUID[0d, {sub:02x}]: eax={a:08x} ebx={b:08x} ecx={c:08x} edx={d:08x}\n"
        for sub, (a, b, c, d) in leaves("sapphire-rapids")[13].items()
    )
    one = of_data("x", imported.document(cpuid.parse(text.splitlines(keepends=True), "the log"), "the log"))
    real = profile("sapphire-rapids")
    assert (one.xcr0_supported, one.xss_supported, one.sizes, one.offsets, one.aligned, one.xfd_supported) == (
        real.xcr0_supported, real.xss_supported, real.sizes, real.offsets, real.aligned, real.xfd_supported,
    )  # fmt: skip
    assert boot(Settings(strategy="no-cet"), one).masks == boot(Settings(strategy="no-cet"), real).masks
    assert any("leaf 0 is not in the dump: Intel" in note for note in one.notes)


def test_the_decoded_lines_of_virtualbox_are_a_cpu():
    text = (
        "          XSAVE area cur/max size by XCR0, guest: 0x340/0x340\n"
        "          XSAVE area cur/max size by XCR0, host: 0xa80/0xa88\n"
        "                  Valid XCR0 bits, guest: 0x00000000'00000007 ( x87 SSE YMM_Hi128 )\n"
        "                  Valid XCR0 bits, host: 0x00000000000002e7 ( x87 SSE YMM_Hi128 OPMASK )\n"
        "                   XSAVE features, host: XSAVEOPT XSAVEC XGETBC1 XSAVES\n"
        "              Valid IA32_XSS bits, host: 0x0000000000000100 ( PT )\n"
        "  State #2,  host:  off=0x0240, cb=0x0100 IA32_XSS-bit -- YMM_Hi128\n"
        "  State #9,  host:  off=0x0a80, cb=0x0008 IA32_XSS-bit -- PKRU\n"
    )
    one = of_data("x", imported.document(cpuid.parse(text.splitlines(keepends=True), "VBox.log"), "VBox.log"))
    assert (one.xcr0_supported, one.xss_supported, one.standard_size) == (0x2E7, 0x100, 0xA88)
    assert one.sizes[9] == 8
    assert "XSAVES" in one.features


def registers_in(text, leaf):
    return cpuid.parse(text.splitlines(keepends=True), "the text").leaves[leaf]


def test_only_the_states_of_ia32_xss_have_its_bit_in_the_registers_that_virtualbox_decodes():
    """SDM Vol. 2A, CPUID.(0DH,i):ECX[0]: 1 for a component of IA32_XSS, 0 for one of XCR0."""
    text = (
        "          XSAVE area cur/max size by XCR0, host: 0x340/0xa88\n"
        "                  Valid XCR0 bits, host: 0x0000000100000207\n"
        "                   XSAVE features, host: XSAVEOPT XSAVES\n"
        "              Valid IA32_XSS bits, host: 0x0000000200000900\n"
        + "".join(
            f"  State #{i},  host:  off={offset:#06x}, cb={size:#06x} IA32_XSS-bit\n"
            for i, offset, size in ((2, 0x240, 0x100), (8, 0, 0x80), (9, 0xA80, 8), (11, 0, 16))
        )
    )
    assert registers_in(text, 0xD) == {
        0: (0x207, 0x340, 0xA88, 1), 1: (0b1001, 0, 0x900, 2),
        2: (0x100, 0x240, 0, 0), 8: (0x80, 0, 1, 0), 9: (8, 0xA80, 0, 0), 11: (16, 0, 1, 0),
    }  # fmt: skip


@pytest.mark.parametrize(("xcr0", "features"), [(0x1F, 1 << 26 | 1 << 28), (0b11, 1 << 26)])
def test_macos_shows_no_bit_of_leaf_1_but_that_of_xsave_and_with_its_component_that_of_avx(xcr0, features):
    text = (
        "machdep.cpu.vendor: GenuineIntel\nmachdep.cpu.signature: 591593\n"
        f"machdep.cpu.xsave.extended_state: {xcr0} 832 1088 0\nmachdep.cpu.xsave.extended_state1: 15 832 256 0\n"
    )
    assert registers_in(text, 1) == {0: (591593, 0, features, 0)}
    assert registers_in(text, 0xD) == {0: (xcr0, 832, 1088, 0), 1: (15, 832, 256, 0)}


@pytest.mark.parametrize("signature", ["", "machdep.cpu.signature: unknown\n"])
def test_macos_without_a_signature_leaves_leaf_1_out(signature):
    found = cpuid_decoded.decoded(f"{signature}machdep.cpu.xsave.extended_state: 7 832 1088 0\n")
    assert found == ("sysctl", {0xD: {0: (7, 832, 1088, 0)}})


def of_registers(registers):
    text = "".join(as_cpuid(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    return of_data("x", imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump"))


@pytest.mark.parametrize("name", DUMPED)
def test_an_all_zero_sub_leaf_of_a_component_that_is_supported_is_a_missing_one(name):
    registers = leaves(name)
    registers[13][9] = [0, 0, 0, 0]
    one = of_registers(registers)
    assert "9 (PKRU)" in " ".join(one.notes)
    assert same_cpu(one, profile(name))


def imported_text(text):
    found = cpuid.parse(text.splitlines(keepends=True), "the dump")
    return of_data("x", imported.document(found, "the dump")), found.printed_by


def components_of(one):
    return one.xcr0_supported, one.xss_supported, one.sizes, one.offsets, one.aligned, one.xfd_supported


def as_decoded(name, halves, quote=""):
    """What cpuid prints without -r, in its older wording with ``halves`` of the masks."""

    def mask(register, value):
        if not halves:
            return f"      {register} valid bit field mask               = {value:#018x}\n         x87 state  = true\n"
        return "".join(
            f"      {register} {half} 32 bits valid bit field mask = {part:#010x}\n"
            for half, part in (("lower", value & 0xFFFFFFFF), ("upper", value >> 32))
        )

    registers = leaves(name)
    (eax, ebx, ecx, _), (instructions, size, xss, _) = (registers[13][sub] for sub in (0, 1))
    number, model, stepping = decoded(registers[1][0][0])
    flags = ("XSAVEOPT instruction", "XSAVEC instruction", "XGETBV instruction", "XSAVES/XRSTORS instructions")
    flags += ("XFD: extended feature disable supported",)
    lines = (
        "CPU 0:\n"
        f'   vendor_id = "{INTEL if shipped(name)["vendor"] == "intel" else AMD}"\n'
        "   version information (1/eax):\n      processor type  = primary processor (0)\n"
        f"      family          = 0x{min(number, 15):x} ({min(number, 15)})\n"
        f"      model           = 0x{model & 15:x} ({model & 15})\n"
        f"      stepping id     = 0x{stepping:x} ({stepping})\n"
        f"      extended family = 0x{max(number - 15, 0):x} ({max(number - 15, 0)})\n"
        f"      extended model  = 0x{model >> 4:x} ({model >> 4})\n"
        "      XSAVE/XSTOR states                      = true\n"
        "      AVX: advanced vector extensions         = true\n"
        "      hypervisor guest status                 = false\n"
        "   XSAVE features (0xd/0):\n" + mask("XCR0", eax)
        + f"      bytes required by fields in XCR0        = {ebx:#010x} ({ebx})\n"
        f"      bytes required by XSAVE/XRSTOR area     = {ecx:#010x} ({ecx})\n"
        + "".join(
            f"      {flag}    = {'true' if instructions >> bit & 1 else 'false'}\n" for bit, flag in enumerate(flags)
        )
        + f"      SAVE area size in bytes                 = {size:#010x} ({size})\n" + mask("IA32_XSS", xss)
    )  # fmt: skip
    for sub, (of, at, how, _) in registers[13].items():
        if sub > 1:
            where = "IA32_XSS (supervisor state)" if how & 1 else "XCR0 (user state)"
            lines += (
                f"   XYZ features (0xd/{hex(sub) if sub > 9 else sub}):\n"
                f"      XYZ save state byte size                = {of:#010x} ({of})\n"
                f"      XYZ save state byte offset              = {at:#010x} ({at})\n"
                f"      supported in IA32_XSS or XCR0           = {where}\n"
                f"      64-byte alignment in compacted XSAVE    = {'true' if how & 2 else 'false'}\n"
                f"      XFD faulting supported                  = {'true' if how & 4 else 'false'}\n"
            )
    lines += "   Quality of Service Monitoring Resource Type (0xf/0):\n      Maximum range of RMID = 255\n"
    lines += f'   brand = "{"A CPU of that family":<47}"\n'
    return "".join(quote + line + "\n" for line in lines.splitlines())


@pytest.mark.parametrize(("halves", "quote"), [(False, ""), (True, "> "), (True, "///")])
@pytest.mark.parametrize("name", ["zen2", "zen5", "sapphire-rapids", "alder-lake"])
def test_what_cpuid_prints_without_r_is_the_cpu_too(name, halves, quote):
    text = as_decoded(name, halves, quote)
    one, printed_by = imported_text(text + text.replace("CPU 0:", "CPU 1:").replace("size ", "size is not "))
    assert components_of(one) == components_of(profile(name))
    assert one.standard_size == profile(name).standard_size
    assert (one.vendor, one.signature, printed_by) == (profile(name).vendor, profile(name).signature, "cpuid")
    assert one.title.startswith("A CPU of that family (")
    assert one.features >= {"XSAVE", "XSAVES", "XSAVEC", "AVX", "PKU"}


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("name", ["zen2", "zen5", "sapphire-rapids", "alder-lake"])
def test_what_cpuid_prints_without_r_has_the_registers_of_leaf_0xd_that_it_prints_with_r(name, halves):
    text, registers = as_decoded(name, halves), leaves(name)
    _, found = cpuid_decoded.decoded(text)
    printed = {sub: row for sub, row in registers[13].items() if sub < 2 or row[0]}
    assert found[13] == {sub: tuple(row) for sub, row in printed.items()}
    assert found[1] == {0: (registers[1][0][0], 0, 1 << 26 | 1 << 28, 0)}  # XSAVE and AVX
    guest = re.sub(r"(hypervisor guest status +=) false", r"\1 true", text)
    assert cpuid_decoded.decoded(guest)[1][1][0][2] == found[1][0][2] | 1 << 31
    more = re.sub(r"(IA32_XSS (?:upper 32 bits )?valid bit field mask +=) 0x0{8}", r"\1 0x00000005", text)
    assert cpuid_decoded.decoded(more)[1][13][1][2:] == (registers[13][1][2], 5)


@pytest.mark.parametrize(
    ("label", "lost"),
    [
        ("vendor_id", {(0, 0)}),
        ("stepping id", {(1, 0)}),
        ("brand", {(0x80000002 + k, 0) for k in range(3)}),
        ("XSAVEOPT|XSAVEC|XGETBV|XSAVES/XRSTORS|XFD:", {(0xD, 1)}),
        ("PKRU save state byte size", {(0xD, 9)}),
    ],
)
def test_a_register_of_which_cpuid_prints_no_field_is_left_out_and_not_taken_for_zero(label, lost):
    whole = as_decoded("sapphire-rapids", halves=False).replace("(0xd/9):\n      XYZ", "(0xd/9):\n      PKRU")
    lines = whole.splitlines(keepends=True)
    _, found = cpuid_decoded.decoded("".join(line for line in lines if not re.match(rf"\s*(?:{label})", line)))
    left, printed = (
        {(leaf, sub): row for leaf, subs in each.items() for sub, row in subs.items()}
        for each in (found, cpuid_decoded.decoded(whole)[1])
    )
    assert left == {which: row for which, row in printed.items() if which not in lost}
    assert lost < printed.keys()


def test_what_firecracker_dumps_is_a_cpu_and_a_template_with_bits_left_to_the_host_is_none():
    modifiers = [
        {
            "leaf": hex(leaf), "subleaf": hex(sub), "flags": 0,
            "modifiers": [{"register": f"e{n}x", "bitmap": f"0b{v:032b}"} for n, v in zip("abcd", row, strict=True)],
        }
        for leaf, subs in leaves("zen4").items() for sub, row in subs.items()
    ]  # fmt: skip
    text = json.dumps({"guest_cpu_config": {"kvm_capabilities": [], "cpuid_modifiers": modifiers}}, indent=2)
    one, printed_by = imported_text(text)
    assert same_cpu(one, profile("zen4"))
    assert printed_by == "Firecracker"
    with pytest.raises(InputError, match="has no CPUID registers"):
        imported_text(text.replace("0b0", "0bx"))


def test_libcpuids_raw_dump_has_sub_leaf_0_alone():
    rows = {"basic_cpuid": 0, "ext_cpuid": 0x80000000}
    text = "".join(
        f"{table}[{leaf - base}]=" + " ".join(hexadecimal(subs[0], "")) + "\n"
        for table, base in rows.items() for leaf, subs in leaves("ice-lake-sp").items()
        if base <= leaf < base + 32 and 0 in subs
    )  # fmt: skip
    text += "".join(
        f"intel_fn4[{sub}]=" + " ".join(hexadecimal(row, "")) + "\n" for sub, row in leaves("ice-lake-sp")[4].items()
    )
    one, printed_by = imported_text(text)
    real = profile("ice-lake-sp")
    assert (one.xcr0_supported, one.sizes[9], one.l2_size) == (real.xcr0_supported, 8, real.l2_size)
    assert printed_by == "libcpuid"
    assert "leaf 0DH, sub-leaf 1 is not in the dump" in " ".join(one.notes)


def test_bochs_and_macos_print_what_they_know_of_leaf_0dh():
    one, printed_by = imported_text("[CPU0] CPUID[0x0000000d]: 000000e7 00000340 00000a80 00000000\n")
    assert (one.xcr0_supported, printed_by) == (0xE7, "Bochs")
    one, printed_by = imported_text(
        "machdep.cpu.brand_string: Some CPU\nmachdep.cpu.vendor: GenuineIntel\nmachdep.cpu.signature: 591593\n"
        "machdep.cpu.xsave.extended_state: 31 832 1088 0\nmachdep.cpu.xsave.extended_state1: 15 832 256 0\n"
    )
    assert (one.xcr0_supported, one.xss_supported, one.standard_size, printed_by) == (0x1F, 0x100, 1088, "sysctl")
    assert (one.title, one.signature) == ("Some CPU (Kaby Lake, family 6H model 9EH stepping 9)", 591593)


def test_another_machine_in_the_same_mail_is_not_mixed_in():
    registers = without(leaves("zen4"), 13, 5)
    first = "".join(as_cpuid(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    one, _ = imported_text(first + "and mine:\n" + dump_text("sapphire-rapids", "cpuid -r"))
    assert "5 (OPMASK)" in " ".join(one.notes)
    assert one.offsets == profile("zen4").offsets


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([(0, 0, 20, 1, 2, 3), (1, 0, 0x506C9, 0, 0, 0)], r"among them \(this CPU has no XSAVE: leaf 01H, ECX bit 26"),
        ([(0, 0, 20, 1, 2, 3), (1, 0, 0, 0, 0, 0), (13, 0, 0, 0, 0, 0)], "no XSAVE: leaf 01H, ECX bit 26 is 0"),
        ([(0, 0, 10, 1, 2, 3), (13, 0, 0x7280203, 0, 0, 0x503)], "no XSAVE: its highest leaf is 0AH"),
        ([(13, 0, 0x7280202, 0, 0, 0x503)], "allows XCR0 0x7280202, without x87 and SSE"),
    ],
)  # fmt: skip
def test_a_cpu_without_xsave_is_refused_as_what_it_is(rows, why):
    with pytest.raises(InputError, match=why):
        imported_text("".join(as_cpuid(*row) + "\n" for row in rows))


def without(registers, leaf, sub):
    return {number: {s: r for s, r in subs.items() if (number, s) != (leaf, sub)} for number, subs in registers.items()}


def test_a_dump_without_sub_leaf_1_is_a_cpu_without_xsaves():
    one = of_registers(without(leaves("zen4"), 13, 1))
    assert "leaf 0DH, sub-leaf 1 is not in the dump" in " ".join(one.notes)
    assert profile("zen4").features - one.features == {"XSAVEOPT", "XSAVEC", "XGETBV1", "XSAVES"}
    assert (one.xcr0_supported, one.xss_supported) == (profile("zen4").xcr0_supported, 0)


@pytest.mark.parametrize(("name", "taken_for"), [("zen4", "AMD"), ("sapphire-rapids", "Intel")])
def test_a_vendor_that_is_not_known_is_told_by_where_the_components_are(name, taken_for):
    registers = leaves(name)
    registers[0][0][1:] = (int.from_bytes(part, "little") for part in (b"Cent", b"auls", b"aurH"))
    one = of_registers(registers)
    assert f"vendor 'CentaurHauls' is not known here: taken for {taken_for}" in one.notes
    assert one.vendor == taken_for.lower()
    assert one.offsets == profile(name).offsets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no CPUID registers; allowed: a CPU profile [(].toml[)], or what cpuid -r, InstLatx64"),
        ("some text\n", "has no CPUID registers"),
        (as_cpuid(0, 0, 1, 2, 3, 4) + "\n", "as cpuid -r prints them, but leaf 0DH, sub-leaf 0 is not among them"),
        (as_instlat(0xD, 1, 1, 2, 3, 4) + "\n", "as InstLatx64 prints them, but leaf 0DH"),
    ],
)
def test_a_text_without_leaf_0dh_is_one_message(text, message):
    with pytest.raises(InputError, match=message):
        cpuid.parse(text.splitlines(keepends=True), "the dump")


def test_a_packed_dump_that_is_cut_off_is_one_message(tmp_path):
    path = tmp_path / "dump.txt.gz"
    path.write_bytes(gzip.compress(RAW.read_bytes())[:-20])
    with pytest.raises(InputError, match=r"cannot read .*dump\.txt\.gz: .*end-of-stream"):
        profile(str(path))


def test_a_dump_that_is_not_there_is_one_message(capsys, tmp_path):
    status, out, err = run(capsys, "cpu", "import", tmp_path / "dump.txt")
    assert (status, out) == (2, "")
    assert "dump.txt: No such file or directory" in err


@given(st.text(max_size=200), st.integers(0, 20))
def test_garbage_in_a_dump_is_wrong_input_at_worst(garbage, place):
    lines = dump_text("zen4", "cpuid -r").splitlines(keepends=True)
    lines.insert(place, garbage)
    with suppress(InputError):
        of_data("x", imported.document(cpuid.parse(lines, "the dump"), "the dump"))


# Families.


@pytest.mark.parametrize(
    ("vendor", "signature", "name"),
    [
        (INTEL, 0x50654, "Skylake-SP"),
        (INTEL, 0x50657, "Cascade Lake"),
        (INTEL, 0x5065B, "Cooper Lake"),
        (INTEL, 0x806F8, "Sapphire Rapids"),
        (INTEL, 0xA06F3, "Sierra Forest"),
        (INTEL, 0x400F10, "Diamond Rapids"),
        (INTEL, 0xC06C3, "Panther Lake"),
        (AMD, 0x830F10, "Zen 2"),
        (AMD, 0x800F11, "Zen 1"),
        (AMD, 0xA20F12, "Zen 3"),
        (AMD, 0xA60F12, "Zen 4"),
        (AMD, 0xB00F21, "Zen 5"),
    ],
)
def test_signatures_have_the_names_of_their_families(vendor, signature, name):
    found = family(vendor, signature)
    assert found is not None
    assert found.name == name


def test_a_signature_is_family_model_and_stepping():
    assert decoded(0x806F8) == (6, 0x8F, 8)
    assert decoded(0xA10F11) == (0x19, 0x11, 1)
    assert decoded(0x400F10) == (19, 1, 0)
    assert family(INTEL, 0x1F0690) is None


def test_a_family_is_like_a_shipped_cpu_of_its_vendor_or_like_none():
    for each in FAMILIES:
        if each.like:
            assert profile(each.like).vendor == ("intel" if each.vendor == INTEL else "amd")


# Profiles as files.


@pytest.mark.parametrize("name", DUMPED)
def test_a_profile_survives_being_written_and_read(capsys, tmp_path, name):
    dump, out = tmp_path / "dump.txt", tmp_path / f"{name}-copy.toml"
    dump.write_text(dump_text(name, "InstLatx64"))
    document = run_json(capsys, "cpu", "import", dump, "-o", out)
    assert document["profile"] == str(out)
    one = profile(str(out))
    assert same_cpu(one, profile(name))
    assert one.label == f"{name}-copy"
    assert one == replace(profile(str(dump)), name=str(out), source=one.source, title=one.title)


def test_an_import_does_not_replace_a_file_unasked(capsys, tmp_path):
    out = tmp_path / "mine.toml"
    out.write_text("mine")
    status, _, err = run(capsys, "cpu", "import", RAW, "-o", out)
    assert (status, out.read_text()) == (2, "mine")
    assert "--force" in err
    assert run(capsys, "cpu", "import", RAW, "-o", out, "--force")[0] == 0
    assert run(capsys, "cpu", "import", RAW, "-o", tmp_path / "mine.txt")[0] == 2
    assert not (tmp_path / "mine.txt").exists()


def test_a_dump_comes_through_a_pipe():
    command = [sys.executable, "-m", "sim.cli", "cpu", "import", "-", "--json"]
    done = subprocess.run(command, input=RAW.read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stdout)["xcr0"] == "0x602e7"


def good_profile() -> str:
    return imported.text(imported.document(imported.dump(RAW), "a dump"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('vendor = "intel"', 'vendor = "Intel"', "vendor: found 'Intel'; allowed: intel or amd"),
        ('vendor = "intel"', "", "vendor: found None"),
        ("bugs = []", 'bugs = ["MELTDOWN"]', "bugs: found .*VMSCAPE"),
        ("bugs = []", 'bug = ["VMSCAPE"]', "unknown key 'bug'; did you mean 'bugs'"),
        ("[freedoms]", "[freedoms]\nxinuse = 1", "freedoms: unknown key 'xinuse'"),
        ("[freedoms]", "[freedoms]\nzmm_write_group = true", "freedoms.zmm_write_group: found True; allowed: a mask"),
        ("0x000602e7,", "0x1000602e7,", "32 bits each"),
        ("0x000602e7,", "", "32 bits each"),
        ("[cpuid.13]", "[cpuid.xsave]", "the number of a leaf"),
        ("[cpuid.13]", "[cpuid.14]", "cpuid.13: sub-leaf 0 is missing"),
        ("[cpuid.4]", "[cpuid.5]", "cpuid.4: sub-leaf 0, the L1 data cache, is missing"),
        ("9  = [0x00000008", "9  = [0x00000000", r"components \[9\] are there, and not how large"),
        ("[cpuid.1]", "[cpuid.1", "CPU profile .*mine.toml: "),
        ("tsc_hz = 2100000000", "tsc_hz = 2.1", "tsc_hz: found 2.1; allowed: cycles per second, from 1e6 to 1e12"),
        ("tsc_hz = 2100000000", "tsc_hz = true", "tsc_hz: found True; allowed: cycles per second"),
        ("tsc_hz = 2100000000", "", "tsc_hz: missing; allowed: cycles per second, or leaves 21 and 22 that say it"),
        ("bugs = []", "bugs = []\nsynthetic = 1", "synthetic: found 1; allowed: true or false"),
    ],
)
def test_a_wrong_profile_is_one_message_with_what_is_allowed(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    text = good_profile()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        profile(str(path))
    assert "mine.toml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("", "cpuid: missing; allowed: tables of registers by leaf"),
        ("cpuid = 13\n", "cpuid: missing; allowed: tables of registers by leaf"),
        ("freedoms = 3\n[cpuid.13]\n0 = [7, 0, 0, 0]\n", "freedoms: found 3; allowed: a table"),
    ],
)
def test_a_profile_whose_tables_are_no_tables_is_one_message(tmp_path, tail, message):
    path = tmp_path / "mine.toml"
    path.write_text(good_profile().partition("# Registers")[0] + tail)
    with pytest.raises(InputError, match=f"mine.toml: {message}$"):
        profile(str(path))


# This machine.


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="CPUID is x86's")
def test_the_machine_at_hand_is_what_the_kernel_says_of_it(capsys):
    document = run_json(capsys, "cpu", "detect")
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    assert ("AVX512F" in document["features"]) == ("avx512f" in flags)
    assert ("PKU" in document["features"]) == ("pku" in flags)
    assert ("XSAVES" in document["features"]) == ("xsaves" in flags)


def test_without_a_compiler_the_driver_is_read_and_without_both_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    with pytest.raises(InputError, match=r"native code: .*no C compiler found.* driver be read .*cpu import"):
        machine.registers_text()
    registers = leaves("zen4") | {0x80000000: {0: [0x8000001D, 0, 0, 0]}}
    monkeypatch.setattr(machine, "_registers", lambda file, leaf, sub: registers.get(leaf, {}).get(sub, (0, 0, 0, 0)))
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "cpuid").write_bytes(b"")
    lines, how = machine.registers_text()
    assert how.endswith("/*/cpuid")
    found = cpuid.parse(lines.splitlines(keepends=True), "this machine")
    assert same_cpu(of_data("x", imported.document(found, "x")), profile("zen4"))


def test_another_architecture_has_no_cpuid(monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    with pytest.raises(InputError, match="this is aarch64, which has no CPUID"):
        machine.registers_text()


# Everywhere.


@pytest.fixture
def mine(tmp_path):
    """Zen 4, as a file of the user's."""
    path, dump = tmp_path / "mine.toml", tmp_path / "dump.txt"
    dump.write_text(dump_text("zen4", "cpuid -r"))
    path.write_text(imported.text(imported.document(imported.dump(dump), "a dump")))
    return path


@pytest.mark.parametrize("command", [["flow", "preempt"], ["strategies"], ["patches"], ["layout", "0x1ae7"]])
def test_a_file_is_a_cpu_in_every_command_that_takes_one(capsys, mine, command):
    own, shipped_one = (json.dumps(run_json(capsys, *command, "--cpu", cpu)) for cpu in (mine, "zen4"))
    assert str(mine) in own
    assert own.replace(str(mine), "zen4") == shipped_one


TRACE = DATA / "traces" / "host-pipe.txt.gz"


def test_a_replay_on_a_file_says_whose_prices_they_are(capsys, mine):
    arguments = ["replay", TRACE, "--strategies", "free-ssp,xstate-guest"]
    status, _, err = run(capsys, *arguments, "--cpu", mine)
    assert status == 2
    assert "mine.toml has no cost table of its own; allowed: --costs" in err
    priced = run_json(capsys, *arguments, "--cpu", mine, "--costs", "zen4")
    assert priced["machine"]["cost_table"] == "zen4"
    assert priced["strategies"] == run_json(capsys, *arguments, "--cpu", "zen4")["strategies"]
    _, out, _ = run(capsys, *arguments, "--cpu", mine, "--costs", "zen4")
    assert f"on {mine}, at the prices of zen4" in " ".join(out.split())
    assert "give --cpu" in run(capsys, *arguments, "--costs", "zen4")[2]


SCENARIO = """
title = "one"
[run]
measure = "5 ms"
warmup = "1 ms"
replications = 1
strategies = ["free-ssp", "xstate-guest"]
[host]
cpus = 1
cpu = ["mine.toml"]
tsc = "2.4 GHz"
costs = { "mine.toml" = "zen4" }
[guests.vm]
"""


def test_a_scenario_names_a_cpu_by_a_file_beside_it(mine, tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(SCENARIO)
    (case,) = cases(read_scenario(path))
    assert (case.name, case.cpu, case.costs) == ("mine v6.18", "mine", "zen4")
    path.write_text(SCENARIO.replace('costs = { "mine.toml" = "zen4" }', ""))
    with pytest.raises(InputError, match=r"host.costs: .*mine.toml has no cost table of its own; allowed: \{"):
        read_scenario(path)


def test_a_run_on_a_file_is_that_on_the_cpu_it_describes_and_keeps_what_the_file_said(mine, tmp_path):
    import sim

    path = tmp_path / "one.toml"
    path.write_text(SCENARIO)
    ours = sim.run(path, jobs=1)
    path.write_text(SCENARIO.replace("mine.toml", "zen4"))
    theirs = sim.run(path, jobs=1)
    columns = ["strategy", "operation", "rfbm", "count", "cycles"]
    assert ours.ledger[columns].equals(theirs.ledger[columns])
    (own,), (shipped_one,) = ours.manifest["cases"], theirs.manifest["cases"]
    assert shipped_one["settings"]["free-ssp"]["cpu"] == "zen4"
    assert own["settings"]["free-ssp"]["cpu"]["xcr0_supported"] == profile("zen4").xcr0_supported
    json.dumps(ours.manifest)
    mine.unlink()
    assert boot(settings_of(own, "xstate-guest")).masks == boot(settings_of(shipped_one, "xstate-guest")).masks


# From a size to masks.


def test_the_size_that_puzzled_people_is_that_of_a_mask_without_alignment(capsys):
    document = run_json(capsys, "layout", "--size", 10704)
    found = {(each["mask"], each["format"]) for each in document["masks"] if each["linux"]}
    assert ("0x606e7", "compacted without alignment") in found
    assert GENERIC.compacted(0x606E7).size == 10752
    assert ("0x606e7", "compacted") in {
        (each["mask"], each["format"]) for each in run_json(capsys, "layout", "--size", 10752)["masks"]
    }


def test_a_size_that_no_mask_has_is_answered_so(capsys):
    assert run_json(capsys, "layout", "--size", 577)["masks"] == []
    status, out, _ = run(capsys, "layout", "--size", 577)
    assert (status, "no masks" in out) == (0, True)
    assert "leave out MASK" in run(capsys, "layout", "0x7", "--size", 577)[2]


@given(st.sampled_from([GENERIC, *map(profile, names())]), st.data())
@settings(deadline=None)
def test_every_mask_is_among_those_of_its_size(geometry, data):
    there = geometry.components
    mask = data.draw(st.integers(0, ALL)) & there & ~(AVX512 | MPX | XTILE) | FP | SSE
    for group in (AVX512 | AVX, XTILE):
        if group & there == group and data.draw(st.booleans()):
            mask |= group
    found = masks_of(geometry.compacted(mask).size, geometry)
    assert mask in {each.mask for each in found if each.format == "compacted"}
    for each in found:
        if each.format == "compacted":
            assert geometry.compacted(each.mask).size == geometry.compacted(mask).size
