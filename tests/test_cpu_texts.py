"""Registers in texts of no particular tool, and what people have of a CPU that is no dump: named, with what to do."""

import io
import json
import struct

import pytest

from sim.errors import InputError
from sim.kernel import cpu_model_files
from sim.xsave import cpuid, cpuid_bytes, cpuid_nested, cpuid_rows, imported, no_registers
from sim.xsave.profile_data import shipped
from sim.xsave.profiles import of_data, profile

VENDOR = [0x20, 0x756E6547, 0x6C65746E, 0x49656E69]


def rows(name: str) -> list[tuple[int, int, list[int]]]:
    """The registers of a shipped Intel CPU by leaf and sub-leaf, with zeros for the sub-leaves that its file leaves
    out."""
    of_file = {int(leaf, 0): {int(s): row for s, row in subs.items()} for leaf, subs in shipped(name)["cpuid"].items()}
    leaves = {0: {0: VENDOR}} | of_file
    return [(leaf, s, subs.get(s, [0, 0, 0, 0])) for leaf, subs in leaves.items() for s in range(max(subs) + 1)]


TABLES = {
    "CPU-Z": lambda leaf, s, r: f"\t0x{leaf:08X}\t\t" + "\t".join(f"0x{value:08X}" for value in r),
    "with an h": lambda leaf, s, r: f"  {leaf:08X}h  " + "  ".join(f"{value:08X}h" for value in r),
    "HWiNFO": lambda leaf, s, r: f"CPUID 0x{leaf:08X}: " + "-".join(f"0x{value:08X}" for value in r),
    "leaf and sub-leaf": lambda leaf, s, r: f"CPUID {leaf:08X}-{s:08X}: " + "-".join(f"{value:08X}" for value in r),
    "CSV": lambda leaf, s, r: f"{leaf:#x},{s:#x}," + ",".join(f"{value:#010x}" for value in r),
    "columns": lambda leaf, s, r: f"> {leaf:08x} {s:x} | " + " ".join(f"{value:08x}" for value in r),
    "decimal sub-leaf": lambda leaf, s, r: f"{leaf:#x} {s} " + " ".join(f"{value:#x}" for value in r),
    "prose": lambda leaf, s, r: (
        f"leaf {leaf:#x} subleaf {s:#x}: "
        + ", ".join(f"e{name}x={value:#x}" for name, value in zip("abcd", r, strict=True))
    ),
    "the SDM's": lambda leaf, s, r: (
        f"CPUID.(EAX={leaf:02X}H,ECX={s}): "
        + " ".join(f"E{name}X={value:08X}" for name, value in zip("ABCD", r, strict=True))
    ),
}


def as_cells(leaf, s, r):
    return "<tr>" + "".join(f"<td>{value:#010x}</td>" for value in (leaf, s, *r)) + "</tr>"


TABLES["HTML"] = as_cells


def names_and_values(r, form):
    return ", ".join(form.format(name, value) for name, value in zip("abcd", r, strict=True))


OBJECTS = {
    "Rust": lambda leaf, s, r: (
        f"kvm_cpuid_entry2 {{ function: {leaf}, index: {s}, flags: 1, {names_and_values(r, 'e{}x: {}')}, "
        "padding: [0, 0, 0] }"
    ),
    "Rust, pretty": lambda leaf, s, r: (
        f"CpuIdEntry {{\n    function: {leaf},\n    index: {s},\n    flags: 1,\n    "
        + names_and_values(r, "e{}x: {}").replace(", ", ",\n    ")
        + ",\n},"
    ),
    "gdb": lambda leaf, s, r: (
        f"$1 = {{function = {leaf:#x}, index = {s:#x}, flags = 0x1, {names_and_values(r, 'e{}x = {:#x}')}, "
        "padding = {0x0, 0x0, 0x0}}"
    ),
    "JSON": lambda leaf, s, r: json.dumps(
        {"leaf": hex(leaf), "subleaf": hex(s)} | {f"e{n}x": hex(v) for n, v in zip("abcd", r, strict=True)}
    ),
    "JSON, sorted": lambda leaf, s, r: json.dumps(
        {f"e{n}x": v for n, v in zip("abcd", r, strict=True)} | {"function": leaf, "index": s}
    ),
    "decimal, with leading zeros": lambda leaf, s, r: (
        f"{{ leaf: {leaf:010}, subleaf: {s:02}, {names_and_values(r, 'e{}x: {:010}')} }}"
    ),
    "a leaf with letters, registers decimal with zeros": lambda leaf, s, r: (
        f"{{ leaf: {leaf:x}, subleaf: {s:02}, {names_and_values(r, 'e{}x: {:010}')} }}"
    ),
    "C, upper case": lambda leaf, s, r: (
        f"{{ .Leaf = 0x{leaf:X}U, .Index = 0X{s:X}, {names_and_values(r, '.E{}X = 0x{:08X}ul')} }},"
    ),
    "C": lambda leaf, s, r: f"{{.function = {leaf:#x}, .index = {s:#x}, {names_and_values(r, '.e{}x = {:#x}')}}},",
}


@pytest.mark.parametrize("name", ["sapphire-rapids", "alder-lake"])
@pytest.mark.parametrize("how", [*TABLES, *OBJECTS])
def test_registers_are_read_whatever_stands_between_them(how, name):
    form = TABLES.get(how) or OBJECTS[how]
    lines = [form(*row) + "\n" for row in rows(name)]
    found = cpuid.parse(lines, "the text")
    assert found.printed_by == ("a table" if how in TABLES else "a program")
    one, other = of_data("x", imported.document(found, "the text")), profile(name)
    assert (one.xcr0_supported, one.xss_supported) == (other.xcr0_supported, other.xss_supported)
    assert (one.sizes, one.offsets, one.aligned) == (other.sizes, other.offsets, other.aligned)
    assert one.features == other.features


@pytest.mark.parametrize("how", [*TABLES, *OBJECTS])
def test_registers_are_read_in_capitals_and_in_small_letters(how):
    form = TABLES.get(how) or OBJECTS[how]
    text = "".join(form(*row) + "\n" for row in rows("sapphire-rapids"))
    found = [cpuid.parse(each.splitlines(keepends=True), "the text") for each in (text, text.upper(), text.lower())]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("row", "width", "read"),
    [
        ("0xD 0x0 0x00000007 0x00000340 0x00000340 0x00000000", 200, True),
        ("0xD 0x0 0x00000007 0x00000340 0x00000340 0x00000000", 201, False),
        ("0xD 0x7 0x0 0x0 0x0", 20, True),
        ("0xD 0x7 0x0 0x0 0x0", 19, False),
    ],
)
def test_a_line_of_less_than_20_or_more_than_200_characters_is_no_row_of_a_table(row, width, read):
    assert bool(list(cpuid_rows.rows(f"{row:{width}}\n"))) == read


@pytest.mark.parametrize("number", [0, 2, 3, 4, 5])
def test_a_row_whose_leaf_or_a_register_has_neither_eight_digits_nor_0x_or_an_h_is_none(number):
    row = ["0xd", "1", "00000007", "00000340", "00000a88", "00000000"]
    assert list(cpuid_rows.rows(" ".join(row))) == [(0xD, 1, (7, 0x340, 0xA88, 0))]
    row[number] = row[number].removeprefix("0x")[-7:]
    assert not list(cpuid_rows.rows(" ".join(row)))


@pytest.mark.parametrize("number", [2, 3, 4, 5])
@pytest.mark.parametrize(("leaf", "read"), [
    ("0x0000000d", False), ("0X0000000D", False), ("0000000Dh", False), ("0x000000d", True), ("0x8000001d", True),
])  # fmt: skip
def test_a_register_has_as_many_digits_as_a_leaf_that_is_padded_to_eight(leaf, read, number):
    row = [leaf, "1", "0x00000007", "0x00000340", "0x00000a88", "0x00000000"]
    row[number] = row[number][:-1]
    assert bool(list(cpuid_rows.rows(" ".join(row)))) == read


@pytest.mark.parametrize(
    ("shown", "read"),
    [(("0", "12"), (0, 12)), (("00", "12"), (0, 0x12)), (("0", "b", "12"), (0, 0xB, 0x12)), (("1", "02"), (1, 2))],
)
def test_sub_leaves_are_decimal_unless_a_letter_or_a_leading_zero_shows_the_base(shown, read):
    text = "".join(f"0x0000000d {sub} 00000007 00000340 00000a88 00000000\n" for sub in shown)
    assert tuple(sub for _, sub, _ in cpuid_rows.rows(text)) == read


@pytest.mark.parametrize(
    "between", ["", "AMX:", "0x0000000d 3 00000040 000003c0 00000000", "a line of other things, " * 9]
)
def test_rows_go_on_behind_a_line_that_is_none(between):
    rows = [f"0x0000000d {sub} 00000007 00000340 00000a88 00000000" for sub in (0, 1)]
    assert [sub for _, sub, _ in cpuid_rows.rows(f"\n{between}\n".join(rows))] == [0, 1]


@pytest.mark.parametrize("cell", [3, 6])
def test_a_row_of_a_table_that_is_cut_short_or_has_more_cells_than_the_header_is_left_out(cell):
    rows = ["13,0,7,832,2696,0", "13,1,15,0,0,0,0,0"[: 2 * cell + 3], "13,2,256,576,0,0"]
    found = list(cpuid_rows.with_header("leaf,subleaf,eax,ebx,ecx,edx\n" + "\n".join(rows)))
    assert found == [(13, 0, (7, 832, 2696, 0)), (13, 2, (256, 576, 0, 0))]


def test_a_memory_dump_is_no_table_of_registers():
    dump = "".join(f"{16 * k:08x}: {k:08x} {k + 1:08x} 0badf00d 00000000\n" for k in range(64))
    with pytest.raises(InputError, match="has no CPUID registers; allowed"):
        cpuid.parse(dump.splitlines(keepends=True), "the dump")


def in_words(raw: bytes, size: int, *, little: bool) -> str:
    words = (raw[k : k + size] for k in range(0, 16, size))
    return " ".join(word[:: -1 if little else 1].hex() for word in words)


BYTES = {
    "xxd": lambda at, raw: f"{at:08x}: {in_words(raw, 2, little=False)}  ....@...........",
    "xxd -u": lambda at, raw: f"{at:08X}: {in_words(raw, 2, little=False).upper()}  ....@...........",
    "xxd -g 1": lambda at, raw: f"{at:08x}: {in_words(raw, 1, little=False)}  ....@...........",
    "xxd -e": lambda at, raw: f"{at:08x}: {in_words(raw, 4, little=True)}   ....@...........",
    "hexdump": lambda at, raw: f"{at:07x} {in_words(raw, 2, little=True)}",
    "hexdump -C": lambda at, raw: (
        f"{at:08x}  {raw[:8].hex(' ')}  {raw[8:].hex(' ')}  |....@...........|\n{at + 16:08x}"
    ),
    "od -t x4": lambda at, raw: f"{at:07o} {in_words(raw, 4, little=True)}\n{at + 16:07o}",
    "od -A x -t x1": lambda at, raw: f"{at:06x} {in_words(raw, 1, little=False)}",
    "quoted": lambda at, raw: f"> > {at:08x}: {in_words(raw, 2, little=False)}  ....@...........",
}


@pytest.mark.parametrize("name", ["sapphire-rapids", "zen4", "alder-lake"])
@pytest.mark.parametrize("how", BYTES)
def test_the_bytes_of_the_driver_of_cpuid_are_its_registers(how, name):
    found = [(s << 32 | leaf, struct.pack("<4I", *r)) for leaf, s, r in rows(name)]
    text = "".join(BYTES[how](*each) + "\n" for each in found)
    dump = cpuid.parse(text.splitlines(keepends=True), "the dump")
    assert dump.printed_by == "a dump of /dev/cpu/N/cpuid"
    assert dump.leaves[0xD] == {s: tuple(r) for leaf, s, r in rows(name) if leaf == 0xD}
    one, other = of_data("x", imported.document(dump, "the dump")), profile(name)
    assert (one.sizes, one.offsets, one.aligned, one.features) == (
        other.sizes, other.offsets, other.aligned, other.features,
    )  # fmt: skip


@pytest.mark.parametrize("begin", [0, 0x80000000])
def test_each_line_of_a_run_is_the_next_leaf(begin):
    leaves = {begin + k: (k + 1, 2 * k, 3 * k, 0) for k in range(14)}
    leaves |= {5 + begin: (0, 0, 0, 0), 6 + begin: (0, 0, 0, 0), 7 + begin: (0, 0, 0, 0), 0xD: (7, 0x340, 0x340, 0)}
    text = []
    for leaf, registers in leaves.items():
        at = begin + 16 * (leaf - begin) if leaf >= begin else leaf
        if leaf != begin + 7:
            text.append("*" if leaf == begin + 6 else BYTES["xxd"](at, struct.pack("<4I", *registers)))
    found = {leaf: registers for leaf, _, registers in cpuid_bytes.rows("\n".join(text))}
    del leaves[begin + 6], leaves[begin + 7]
    assert found == leaves


def test_a_run_that_begins_at_any_leaf_goes_on_behind_lines_that_are_left_out():
    leaves = {leaf: (leaf, 0, 0, 0) for leaf in (5, 8, 9, 10, 11, 12)} | {0xD: (7, 0x340, 0x340, 0)}
    lines = [BYTES["xxd"](5 + 16 * (leaf - 5), struct.pack("<4I", *row)) for leaf, row in leaves.items()]
    text = "\n".join((lines[0], "*", *lines[1:]))  # xxd -s 5
    assert {leaf: registers for leaf, _, registers in cpuid_bytes.rows(text)} == leaves


def test_a_position_that_no_line_of_the_run_has_begins_another_run():
    runs = {0: (13, 1, 2, 3), 0xD: (7, 0x340, 0x340, 0)}  # od -N 48, whose leaves 1 and 2 are left out, then od -j 13
    text = "\n*\n".join(BYTES["xxd"](at, struct.pack("<4I", *row)) for at, row in runs.items())
    assert {leaf: registers for leaf, _, registers in cpuid_bytes.rows(text)} == runs


def test_a_register_a_line_is_read():
    text = "".join(
        f"CPUID leaf {leaf:#x} subleaf {s}:\n"
        + "".join(f"  e{n}x = {value:#010x}\n" for n, value in zip("abcd", registers, strict=True))
        for leaf, s, registers in rows("zen4")
    )
    found = cpuid.parse(text.splitlines(keepends=True), "the text")
    assert found.leaves[0xD] == {s: tuple(r) for leaf, s, r in rows("zen4") if leaf == 0xD}


FLAGS = "fpu vme sse2 xsave avx avx2 pku xsaves"
LSCPU = {"field": "CPU family:", "data": "25"}, {"field": "Model:", "data": "17"}, {"field": "Stepping:", "data": "1"}
OTHERS = {
    "/proc/cpuinfo": (
        f"vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nstepping\t: 8\nflags\t\t: {FLAGS}\n",
        "Sapphire Rapids: --cpu sapphire-rapids",
        "run cpuid -1 -r",
    ),
    "what lscpu prints": (
        "CPU op-mode(s):   32-bit, 64-bit\nVendor ID:        AuthenticAMD\n  CPU family:  25\n  Model:  17\n"
        "  Stepping:  1\n",
        "Zen 4: --cpu zen4",
        "run cpuid -1 -r",
    ),
    "what lscpu prints, as JSON": (
        json.dumps({"lscpu": [{"field": "Vendor ID:", "data": "AuthenticAMD", "children": list(LSCPU)}]}, indent=3),
        "Zen 4: --cpu zen4",
        "run cpuid -1 -r",
    ),
    "/proc/cpuinfo of an ARM machine": (
        "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n",
        "",
        "only x86",
    ),
    "what virsh capabilities prints": (
        "<capabilities><host><cpu><arch>x86_64</arch><model>SapphireRapids</model><vendor>Intel</vendor>\n"
        "<signature family='6' model='143' stepping='8'/></cpu></host></capabilities>\n",
        "Sapphire Rapids: --cpu sapphire-rapids",
        "guests.NAME.cpu_model of a scenario takes the file",
    ),
    "what virsh domcapabilities prints": (
        "<domainCapabilities><cpu><mode name='host-model' supported='yes'><model>EPYC-Genoa</model></mode></cpu>"
        "</domainCapabilities>\n",
        "",
        "guests.NAME.cpu_model of a scenario takes the file",
    ),
    "libvirt's CPU map": ("<cpus>\n<model name='EPYC'><feature name='xsave'/></model></cpus>\n", "", "name its model"),
    "what QEMU's -cpu help prints": (
        "Available CPUs:\n  486-v1\n\nRecognized CPUID flags:\n  abm\n",
        "",
        "name its model",
    ),
    "a command line of QEMU": ("qemu-system-x86_64 -cpu EPYC-Genoa,pku=off -m 4096\n", "", "name its model"),
    "what Coreinfo prints": (
        "Coreinfo v3.6 - Dump information on system CPU and memory topology\n"
        "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel\nXSAVE  *  Supports XSAVE/XRSTOR instructions\n",
        "Sapphire Rapids: --cpu sapphire-rapids",
        "AIDA64's CPUID dump",
    ),
    "what Windows says of its CPU": (
        "Processor(s):  1 Installed.\n  [01]: AMD64 Family 25 Model 17 Stepping 1 AuthenticAMD ~2400 Mhz\n",
        "Zen 4: --cpu zen4",
        "AIDA64's CPUID dump",
    ),
    "a boot message of FreeBSD": (
        'CPU: Intel\n  Origin="GenuineIntel"  Id=0x806f8  Family=0x6\n  Features=0xbfebfbff<FPU,VME>\n',
        "Sapphire Rapids: --cpu sapphire-rapids",
        "cpucontrol -i",
    ),
    "what dmidecode prints": ("# dmidecode 3.5\nHandle 0x0004, DMI type 4, 48 bytes\n", "", "run cpuid -1 -r"),
    "what PowerShell or wmic says of a CPU": (
        "\nName                          : Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz\nNumberOfCores : 4\n",
        "",
        "AIDA64's CPUID dump",
    ),
    "what esxcli hardware cpu prints": (
        "Level: 1\n   EAX: 0x000806f8\n   EBX: 0x00200800\n   ECX: 0xfffa3223\n   EDX: 0x1f8bfbff\n",
        "",
        "vmware.log of a VM on that host has the registers",
    ),
    "what xl info prints": (
        "machine : x86_64\nnr_cpus                : 16\nhw_caps  : bfebfbff:77fef3ff\n",
        "",
        "xen-cpuid -p",
    ),
    "the configuration of a VM of Cloud Hypervisor": ('{"cpus": {"boot_vcpus": 4}}\n', "", "run cpuid -1 -r"),
    "the configuration of a VM of Proxmox": ("cores: 4\ncpu: x86-64-v2-AES\nsockets: 1\n", "", "name its model"),
    "a list of CPU models, as virsh cpu-models prints it": (
        "pentium3\nSandyBridge\nHaswell-noTSX\n",
        "",
        "name its model",
    ),
    "what cpuid prints without -r": ('CPU 0:\n   vendor_id = "GenuineIntel"\n', "", "run cpuid -1 -r"),
    "a list of CPU flags": (FLAGS + "\n", "", "run cpuid -1 -r"),
    "what cpuid -r prints, with lines that are cut off": (
        "CPU 0:\n   0x00000001 0x00: eax=0x000806f8 ebx=0x00800800 ecx=0x7\n   0x0000000d 0x00: eax=0x000602e7\n",
        "",
        "run cpuid -1 -r",
    ),
    "what QEMU's info registers prints": ("RAX=0000000000000000 RBX=0000000000000000\n", "", "run cpuid -1 -r"),
    "a trace": ("   bash-1 [000] d..2.  1.000000: sched_switch: prev_comm=bash\n", "", "fpswitch replay FILE"),
    "a scenario": ('title = "a"\n\n[run]\nmeasure = "5 ms"\n', "", "fpswitch cpu import writes"),
    "what WinDbg's !cpuid prints": ("CP  F/M/S  Manufacturer     MHz\n", "", "AIDA64's CPUID dump"),
    "a description of a CPU": ("Name: Intel Core i7-12700K\nMicroarchitecture: Alder Lake\n", "", "run cpuid -1 -r"),
    "a boot log": (
        "x86/fpu: Enabled xstate features 0x7, context size is 832 bytes\n",
        "",
        "fpswitch layout --boot-log",
    ),
}


def test_a_signature_in_hexadecimal_names_the_family():
    text = "model name: Intel(R) Xeon(R)\nsignature: 000806F8\n"
    with pytest.raises(InputError, match="for Sapphire Rapids: --cpu sapphire-rapids"):
        cpuid.parse(text.splitlines(keepends=True), "the file")


@pytest.mark.parametrize("kind", OTHERS)
def test_what_has_no_registers_is_named_with_what_to_do_instead(kind):
    text, like, instead = OTHERS[kind]
    with pytest.raises(InputError) as caught:
        cpuid.parse(text.splitlines(keepends=True), "the file")
    message = str(caught.value)
    assert message.startswith(f"the file has no CPUID registers: it is {kind.removesuffix(', as JSON')}, without sizes")
    assert like in message
    assert ("--cpu" in message) == bool(like)
    assert instead in message
    assert "\n" not in message
    for other in (text.upper(), text.lower()):
        assert no_registers.told(other).startswith(f"it is {kind.removesuffix(', as JSON')}, without sizes")


@pytest.mark.parametrize("kind", ["what virsh capabilities prints", "what virsh domcapabilities prints"])
def test_a_file_that_is_said_to_be_a_guests_model_is_one(kind, tmp_path):
    path = tmp_path / "host.xml"
    path.write_text(OTHERS[kind][0])
    assert cpu_model_files.of_domain(str(path)) in ("SapphireRapids", "EPYC-Genoa")


def test_a_picture_and_an_archive_are_named():
    for begins, what in ((b"\x89PNG\r\n\x1a\n", "a picture"), (b"PK\x03\x04\x14\0", "a zip archive [(]unpack it")):
        with pytest.raises(InputError, match=f"the file is {what}"):
            cpuid.read(io.BytesIO(begins + bytes(300)), "the file")


@pytest.mark.parametrize(
    ("most", "what", "look"),
    [
        (1 << 18, "what virsh domcapabilities prints <domainCapabilities>", no_registers.told),
        (1 << 20, '"13": {"0": [7, 832, 832, 0]}', lambda text: list(cpuid_nested.rows(text))),
    ],
)
def test_so_much_of_a_text_is_looked_at_and_no_more(most, what, look):
    assert look(" " * (most - len(what)) + what)
    assert not look(" " * most + what)
