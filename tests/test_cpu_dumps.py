"""CPUs that are not shipped, from the registers that people have of them: dumps, mails, kernel logs, hypervisors."""

import gzip
import json
from contextlib import suppress

import pytest
from cpu_dumps import (
    DUMPED,
    PRINTED,
    RAW,
    VENDORS,
    as_cpuid,
    as_instlat,
    dump_text,
    hexadecimal,
    imported_text,
    leaves,
    of_registers,
    run,
    run_json,
    same_cpu,
    without,
)
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.kernel.config import Settings, boot
from sim.xsave import cpuid, cpuid_decoded, imported
from sim.xsave.components import ALL, EXTENDED, SUPERVISOR, XTILE, XTILEDATA, bits
from sim.xsave.profiles import GENERIC, of_data, profile

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


@pytest.mark.parametrize("how", PRINTED)
@pytest.mark.parametrize("name", DUMPED)
def test_a_shipped_cpu_that_is_printed_and_imported_is_that_cpu(name, how):
    found = cpuid.parse(dump_text(name, how).splitlines(keepends=True), "the dump")
    assert found.printed_by == how
    assert same_cpu(of_data("x", imported.document(found, "the dump")), profile(name))


@pytest.mark.parametrize("how", sorted(PRINTED.keys() - {"libvirt"}))  # XML is in small letters
def test_a_dump_in_capitals_is_the_same(how):
    text = dump_text("zen4", how)
    plain, other = (cpuid.parse(each.splitlines(keepends=True), "the dump") for each in (text, text.upper()))
    assert plain == other


@pytest.mark.parametrize("name", DUMPED)
def test_a_dump_keeps_its_rows_and_what_it_says_of_the_clock_but_no_leaf_that_no_profile_has(name):
    rows = dump_text(name, "InstLatx64") + "".join(
        as_instlat(leaf, sub, 1, 2, 3, 4) + "\n" for leaf, sub in ((2, 0), (5, 0), (0x17, 0), (0x80000001, 0))
    )
    for leaf in leaves(name).keys() - {13}:  # zeros say nothing, unlike those of leaf 0DH
        rows += as_instlat(leaf, 9, 0, 0, 0, 0) + "\n"
    found = imported.document(cpuid.parse(rows.splitlines(keepends=True), "the dump"), "the dump")
    assert {int(leaf, 0): subs for leaf, subs in found["cpuid"].items()} == {
        leaf: {str(sub): list(row) for sub, row in subs.items()} for leaf, subs in leaves(name).items()
    }
    ratio, base = (leaves(name).get(leaf, {}).get(0, [0, 0, 0, 0]) for leaf in (0x15, 0x16))
    told = found["vendor"] == "intel" and bool((ratio[0] and ratio[2]) or base[0])
    assert told == ("tsc_hz" not in found) == ("frequency" not in " ".join(found["notes"]))


@pytest.mark.parametrize(("row", "told"), [
    ((0x15, 2, 176, 25_000_000), True), ((0x15, 2, 176, 0), False), ((0x15, 0, 176, 25_000_000), False),
    ((0x16, 2200, 0, 0), True), ((0x16, 0, 2200, 2200), False),
])  # fmt: skip
def test_an_intel_dump_tells_the_clock_by_leaf_15h_or_16h(row, told):
    leaf, *registers = row
    without = {number: subs for number, subs in leaves("sapphire-rapids").items() if number not in (0x15, 0x16)}
    one = of_registers(without | {leaf: {0: [*registers, 0]}})
    assert ("the TSC's frequency is not in the dump" in " ".join(one.notes)) == (not told)
    assert one.tsc_hz == (2.2e9 if told else profile("sapphire-rapids").tsc_hz)


@pytest.mark.parametrize("name", [name for name in DUMPED if name != "zen2"])  # which has a PKRU of its own
def test_components_that_neither_a_dump_nor_its_family_places_are_as_those_of_the_vendors_cpus(name):
    registers = leaves(name)
    text = "".join(as_instlat(leaf, sub, *registers[leaf][sub]) + "\n" for leaf, sub in ((0, 0), (13, 0), (13, 1)))
    found = imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump")
    places = {int(sub): row for sub, row in found["cpuid"]["13"].items() if int(sub) > 1}
    assert places == {sub: row for sub, row in registers[13].items() if sub > 1}


def test_components_that_are_placed_without_a_dump_have_the_bits_of_the_sdm():
    """SDM Vol. 2A, CPUID.(0DH,i):ECX: bit 0, IA32_XSS; bit 1, aligned to 64 bytes when compacted; bit 2, XFD."""
    user = ALL & ~SUPERVISOR
    rows = ((0, 0, 0xD, *VENDORS["intel"]), (13, 0, user, 576, 576, 0), (13, 1, 15, 0, SUPERVISOR, 0))
    text = "".join(as_instlat(*row) + "\n" for row in rows)
    found = imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump")
    flags = {int(sub): row[2] for sub, row in found["cpuid"]["13"].items() if int(sub) > 1}
    assert flags == {i: {17: 0b010, 18: 0b110}.get(i, int(1 << i & SUPERVISOR != 0)) for i in range(2, 20)}


def test_zeros_of_leaf_0dh_are_kept_and_say_that_there_is_no_xsaveopt():
    registers = leaves("zen4")
    registers[13][1] = [0, 0, 0, 0]
    text = "".join(as_instlat(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    found = imported.document(cpuid.parse(text.splitlines(keepends=True), "the dump"), "the dump")
    assert found["cpuid"]["13"]["1"] == [0, 0, 0, 0]
    assert not {"XSAVEOPT", "XSAVEC", "XSAVES"} & of_data("x", found).features


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
    lines += "CPUID 00000002: 00FEFF01-000000F0-00000000-00000000\n"
    found = cpuid.parse(lines.splitlines(keepends=True), "the dump")
    assert found.printed_by == "InstLatx64"
    assert found.leaves[2] == {0: (0xFEFF01, 0xF0, 0, 0)}
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


def test_sizes_that_virtualbox_s_log_does_not_have_are_0_in_the_registers():
    assert registers_in("Valid XCR0 bits, host: 0x0000000000000007\n", 0xD)[0] == (7, 0, 0, 0)


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


@pytest.mark.parametrize("name", DUMPED)
def test_an_all_zero_sub_leaf_of_a_component_that_is_supported_is_a_missing_one(name):
    registers = leaves(name)
    registers[13][9] = [0, 0, 0, 0]
    one = of_registers(registers)
    assert "9 (PKRU)" in " ".join(one.notes)
    assert same_cpu(one, profile(name))


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
    of_no_leaf = json.dumps({"cpuid_modifiers": [{"modifiers": modifiers[-1]["modifiers"]}]})
    assert 0 not in cpuid_decoded.decoded(of_no_leaf + json.dumps({"cpuid_modifiers": modifiers[1:]}))[1]
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
    assert cpuid.parse(text.upper().splitlines(keepends=True), "the dump") == cpuid.parse(
        text.splitlines(keepends=True), "the dump"
    )
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


@pytest.mark.parametrize(("name", "other"), [("zen4", "sapphire-rapids"), ("sapphire-rapids", "zen4")])
def test_another_machine_in_the_same_mail_is_not_mixed_in(name, other):
    registers = without(leaves(name), 13, 5)
    first = "".join(as_cpuid(leaf, sub, *row) + "\n" for leaf, subs in registers.items() for sub, row in subs.items())
    one, _ = imported_text(first + "and mine:\n" + dump_text(other, "cpuid -r"))
    assert "5 (OPMASK)" in " ".join(one.notes)
    assert one.offsets == profile(name).offsets


@pytest.mark.parametrize("by", [-8, 8])
@pytest.mark.parametrize(
    ("leaf", "place", "same"),
    [(0, 0, True), (0, 1, False), (0, 2, False), (0, 3, False), (13, 0, False), (13, 1, True), (13, 2, False)],
)
def test_another_machine_of_the_same_kind_has_another_vendor_xcr0_or_size_of_all_components(leaf, place, same, by):
    """EBX of leaf 0DH may change, with XCR0."""
    second = leaves("zen4")
    changed = list(second[leaf][0])
    changed[place] += by
    text = "".join(
        as_cpuid(number, sub, *(changed if each is second and (number, sub) == (leaf, 0) else row)) + "\n"
        for each in (without(second, 13, 5), second)
        for number, subs in each.items()
        for sub, row in subs.items()
    )
    one, _ = imported_text(text)
    assert ("5 (OPMASK)" in " ".join(one.notes)) is not same


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([(0, 0, 20, 1, 2, 3), (1, 0, 0x506C9, 0, 0, 0)], r"among them \(this CPU has no XSAVE: leaf 01H, ECX bit 26"),
        ([(0, 0, 20, 1, 2, 3), (1, 0, 0, 0, 0xFBFFFFFF, 0), (13, 0, 0, 0, 0, 0)], "no XSAVE: leaf 01H, ECX bit 26 is"),
        ([(0, 0, 10, *VENDORS["intel"]), (13, 0, 0x7280203, 0, 0, 0x503)], "no XSAVE: its highest leaf is 0AH"),
        ([(13, 0, 0x7280202, 0, 0, 0x503)], "allows XCR0 0x7280202, without x87 and SSE"),
    ],
)  # fmt: skip
def test_a_cpu_without_xsave_is_refused_as_what_it_is(rows, why):
    with pytest.raises(InputError, match=why):
        imported_text("".join(as_cpuid(*row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the dump is empty; allowed: a CPU profile [(].toml[)], or what cpuid -r, InstLatx64"),
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


@pytest.mark.parametrize("name", ["a-dump", "a-cpu.toml"])
def test_a_directory_is_no_cpu_and_said_to_be_one(name, capsys, tmp_path):
    (tmp_path / name).mkdir()
    status, out, err = run(capsys, "layout", "0x7", "--cpu", tmp_path / name)
    assert (status, out) == (2, "")
    assert "Is a directory" in err


@given(st.text(max_size=200), st.integers(0, 20))
def test_garbage_in_a_dump_is_wrong_input_at_worst(garbage, place):
    lines = dump_text("zen4", "cpuid -r").splitlines(keepends=True)
    lines.insert(place, garbage)
    with suppress(InputError):
        of_data("x", imported.document(cpuid.parse(lines, "the dump"), "the dump"))
