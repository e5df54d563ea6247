"""Registers in nested structures, tables with a header and binary dumps, as programs write them."""

import io
import json
import struct
import time

import pytest
from cpu_dumps import leaves, run, same_cpu

from sim.errors import InputError
from sim.xsave import cpuid, cpuid_nested, cpuid_rows, imported
from sim.xsave.cpuid_decoded import LOW
from sim.xsave.profiles import of_data, profile


def h8(value):
    return f"0x{value:08x}"


def bare(value):
    return f"{value:x}"


def rows(name):
    return [(leaf, sub, row) for leaf, subs in leaves(name).items() for sub, row in sorted(subs.items())]


def members(row, form=int):
    return {f"e{n}x": form(value) for n, value in zip("abcd", row, strict=True)}


def nested(name, leaf_key, sub_key, value):
    tree = {}
    for leaf, sub, row in rows(name):
        tree.setdefault(leaf_key(leaf), {})[sub_key(sub)] = value(row)
    return tree


def listed(form):
    return lambda name: json.dumps([form(*row) for row in rows(name)], indent=2)


def by_key(leaf_key, sub_key, value):
    return lambda name: json.dumps({"cpuid": nested(name, leaf_key, sub_key, value)}, indent=1)


def lines(form):
    return lambda name: "".join(form(leaf, sub, *row) for leaf, sub, row in rows(name))


def sub_leaves(name, of_one):
    subs = {}
    for leaf, sub, row in rows(name):
        subs.setdefault(leaf, []).append(of_one(sub, row))
    return subs.items()


def as_yaml(leaf, sub, a, b, c, d):
    head = "" if sub else f"0x{leaf:08x}:\n"
    return f"{head}  {sub}:\n    eax: {h8(a)}\n    ebx: {h8(b)}\n    ecx: {h8(c)}\n    edx: {h8(d)}\n"


FORMS = {
    "keys in hexadecimal": by_key(hex, hex, lambda row: members(row, h8)),
    "keys in hexadecimal without 0x, registers too": by_key(bare, bare, lambda row: members(row, bare)),
    "keys in decimal": by_key(str, str, members),
    "sub-leaves in decimal below leaves in hexadecimal": by_key(h8, str, lambda row: [h8(value) for value in row]),
    "keys in capitals": by_key(lambda leaf: f"LEAF_{leaf:#x}", lambda sub: f"SUBLEAF_{sub}", members),
    "keys with an h": by_key(lambda leaf: f"{leaf:X}H", str, list),
    "keys with their names": by_key(lambda leaf: f"leaf_{leaf:#x}", lambda sub: f"subleaf_{sub}", members),
    "leaf and sub-leaf in one key": lambda name: json.dumps(
        {f"{leaf:#x}.{sub}": members(row, h8) for leaf, sub, row in rows(name)}
    ),
    "a leaf before its sub-leaves": lines(lambda leaf, sub, *row: json.dumps([leaf, {str(sub): members(row)}]) + "\n"),
    "four registers in one text": by_key(hex, str, lambda row: " ".join(map(h8, row))),
    "upper case": by_key(h8, str, lambda row: {key.upper(): f"{value:08X}" for key, value in members(row).items()}),
    "values that are objects": by_key(
        str, str, lambda row: {key: {"value": value} for key, value in members(row).items()}
    ),
    "an object of registers": listed(
        lambda leaf, sub, row: {"leaf": h8(leaf), "subleaf": sub, "regs": members(row, h8)}
    ),
    "a list of registers": listed(lambda leaf, sub, row: {"function": leaf, "index": sub, "registers": row}),
    "in_eax and in_ecx": listed(lambda leaf, sub, row: {"in_eax": leaf, "in_ecx": sub} | members(row)),
    "the EAX and ECX of an input": listed(
        lambda leaf, sub, row: {"input": {"eax": h8(leaf), "ecx": h8(sub)}, "output": members(row, h8)}
    ),
    "the leaf and sub-leaf of an input": listed(
        lambda leaf, sub, row: {"input": {"leaf": h8(leaf), "subleaf": sub}, "output": members(row)}
    ),
    "an input as a list": listed(lambda leaf, sub, row: {"in": [leaf, sub], "out": row}),
    "eax, ecx and a result": listed(lambda leaf, sub, row: {"eax": leaf, "ecx": sub, "result": members(row)}),
    "lists of six": listed(lambda leaf, sub, row: [leaf, sub, *row]),
    "numbers before an object": listed(lambda leaf, sub, row: [leaf, sub, members(row)]),
    "sub-leaves as a list": lambda name: json.dumps({
        "leaves": [{"leaf": h8(leaf), "subleaves": subs}
                   for leaf, subs in sub_leaves(name, lambda sub, row: {"subleaf": sub} | members(row, h8))]
    }),
    "JSON, a line each": lines(lambda leaf, sub, *row: json.dumps({"leaf": leaf, "sub_leaf": sub, "regs": row}) + "\n"),
    "after a prompt, and quoted": lambda name: "".join(
        f"> {line}\n" for line in ("$ cat cpu.json\n" + FORMS["keys in hexadecimal"](name)).splitlines()
    ),
    "Python": lambda name: repr({(leaf, sub): tuple(row) for leaf, sub, row in rows(name)}),
    "Rust, set_subleaf": lines(
        lambda leaf, sub, a, b, c, d: (
            f"dump.set_subleaf({leaf:#x}, {sub}, Some(CpuIdResult {{ eax: {a:#x}, ebx: {b:#x}, ecx: {c:#x}, "
            f"edx: {d:#x} }}));\n"
        )
    ),
    "Rust, arms of a match": lines(
        lambda leaf, sub, a, b, c, d: (
            f"({leaf:#x}u32, {sub}u32) => CpuIdResult {{ eax: {a}, ebx: {b}, ecx: {c}, edx: {d} }},\n"
        )
    ),
    "strace -v": lambda name: (
        "ioctl(14, KVM_SET_CPUID2, {nent=9, entries=["
        + ", ".join(
            f"{{function={leaf:#x}, index={sub:#x}, flags=KVM_CPUID_FLAG_SIGNIFCANT_INDEX, eax={a:#x}, ebx={b:#x}, "
            f"ecx={c:#x}, edx={d:#x}}}" for leaf, sub, (a, b, c, d) in rows(name)
        )
        + "]}) = 0\n"
    ),
    "YAML": lines(as_yaml),
    "YAML, a list": lines(
        lambda leaf, sub, *row: (
            f"- leaf: {leaf:#x}\n  subleaf: {sub}\n" + "".join(f"  {key}: {v:#x}\n" for key, v in members(row).items())
        )
    ),
    "YAML, sub-leaves in one item of a list": lambda name: "".join(
        f"{leaf:#x}:\n  - "
        + "    ".join(
            f"{sub}:\n" + "".join(f"      {key}: {value:#x}\n" for key, value in members(row).items())
            for sub, row in subs.items()
        )
        for leaf, subs in leaves(name).items()
    ),
    "YAML, sub-leaves as a list at the indent of its key": lambda name: "cpuid:\n" + "".join(
        f"  {leaf}:\n"
        + "".join(f"  - {{{', '.join(f'{k}: {v:#x}' for k, v in members(row).items())}, index: {sub}}}\n"
                  for sub, row in subs.items())
        for leaf, subs in leaves(name).items()
    ),
    "YAML, a list of named sub-leaves at the indent of its key": lambda name: "".join(
        f"leaf_{leaf:#x}:\n"
        + "".join(f"- subleaf_{sub}:\n" + "".join(f"    {k}: {v:#x}\n" for k, v in members(row).items())
                  for sub, row in subs.items())
        for leaf, subs in leaves(name).items()
    ),
    "sub-leaves as a list beside the registers of the first": lambda name: json.dumps([
        {"leaf": leaf} | members(first) | {"subleaves": [{"subleaf": sub} | members(row) for sub, row in others]}
        for leaf, subs in leaves(name).items() for (_, first), *others in [subs.items()]
    ]),
    "TOML": lines(
        lambda leaf, sub, *row: (
            f"[[cpuid]]\nfunction = {leaf:#x}\nindex = {sub}\n"
            + "".join(f"{key} = {value:#x}\n" for key, value in members(row).items())
        )
    ),
    "PowerShell": lines(
        lambda leaf, sub, *row: (
            f"Leaf    : {h8(leaf)}\nSubLeaf : {sub}\n" + "".join(f"{k:8}: {h8(v)}\n" for k, v in members(row).items())
        )
    ),
}  # fmt: skip


def imported_from(data: bytes):
    found = cpuid.read(io.BytesIO(data), "the dump")
    return of_data("x", imported.document(found, "the dump")), found.printed_by


@pytest.mark.parametrize("name", ["zen4", "sapphire-rapids"])
@pytest.mark.parametrize("form", FORMS)
def test_registers_in_nested_structures_are_read(form, name):
    one, printed_by = imported_from(FORMS[form](name).encode())
    assert printed_by == "a program"
    assert same_cpu(one, profile(name))


@pytest.mark.parametrize("form", FORMS)
def test_nested_structures_are_read_in_capitals_too(form):
    text = FORMS[form]("zen4")
    assert list(cpuid_nested.rows(text.upper())) == list(cpuid_nested.rows(text))


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_each_register_may_be_on_a_line_of_its_own(case):
    form = lines(
        lambda leaf, sub, *row: (
            f"CPUID {leaf:08x} {sub:02x}\n" + "".join(f"  {case(k)} = {v:#010x}\n" for k, v in members(row).items())
        )
    )
    assert same_cpu(imported_from(form("zen4").encode())[0], profile("zen4"))


TABLES = {
    "decimal": lambda leaf, sub, *row: ",".join(map(str, (leaf, sub, *row))),
    "hexadecimal": lambda leaf, sub, *row: ",".join(map(h8, (leaf, sub, *row))),
    "with the CPU": lambda leaf, sub, *row: "0;" + ";".join(f'"{value:08x}"' for value in (leaf, sub, *row)),
}


@pytest.mark.parametrize("form", TABLES)
def test_a_table_with_a_header_is_read(form):
    head = ("cpu;" if form == "with the CPU" else "") + "Leaf;Sub-leaf;EAX;EBX;ECX;EDX"
    text = (head if ";" in TABLES[form](0, 0) else head.replace(";", ",")) + "\n"
    one, _ = imported_from((text + lines(lambda *row: TABLES[form](*row) + "\n")("sapphire-rapids")).encode())
    assert same_cpu(one, profile("sapphire-rapids"))


WITHOUT_SUB_LEAVES = [
    (0, 0, (LOW, 1, 2, 3)), (0x8000001D, 0, (7, 832, 832, 0)), (0x8000001D, 1, (15, 0, 0, 0)),
    (0x8000001D, 2, (256, 576, 0, 0)), (13, 0, (7, 832, 832, 0)),
]  # fmt: skip


def test_in_a_table_without_sub_leaves_each_row_is_the_next_of_its_leaf():
    for form in (str, h8):
        text = "".join(",".join(map(form, (leaf, *row))) + "\n" for leaf, _, row in WITHOUT_SUB_LEAVES)
        assert list(cpuid_rows.with_header("leaf,eax,ebx,ecx,edx\n" + text)) == WITHOUT_SUB_LEAVES
    assert list(cpuid_rows.rows(text)) == WITHOUT_SUB_LEAVES


def test_rows_that_number_their_entries_and_have_flags_are_read():
    text = lines(
        lambda leaf, sub, *row: (
            f"cpuid[3]: function=0x{leaf:08x} index=0x{sub:08x} flags=0x00000001 "
            + " ".join(f"{key}={h8(value)}" for key, value in members(row).items())
            + "\n"
        )
    )("zen4")
    one, _ = imported_from(text.encode())
    assert same_cpu(one, profile("zen4"))


def test_a_sub_leaf_that_is_not_said_is_the_next_of_its_leaf():
    tree = {}
    for leaf, _, row in WITHOUT_SUB_LEAVES:
        tree.setdefault(hex(leaf), []).append(row)
    assert list(cpuid_nested.rows(json.dumps(tree))) == WITHOUT_SUB_LEAVES


@pytest.mark.parametrize(
    "text",
    [
        '{"0": {"13": {"0": [7, 832, 832, 0]}}}',  # of CPU 0
        '{"0a": {"13": {"0": [7, 832, 832, 0]}}}',  # of CPU 10, whose base is its own
        '{"0dh": {"0h": ["7h", "340h", "340h", "0h"]}}',
        '{"13": {"0": {"eax": 7, "ebx": 832, "ecx": 832, "edx": 0',  # cut off
        "{leaf=13 values=7 832 832 0 flags=1}",
        "cpu:\n\n  # and its leaves\n  13:\n    0: 7 832 832 0\n",
    ],
)
def test_registers_are_read_below_a_cpus_number_with_an_h_without_commas_cut_off_and_behind_comments(text):
    assert list(cpuid_nested.rows(text)) == [(13, 0, (7, 832, 832, 0))]


def test_two_leaves_in_one_object_are_two():
    text = "".join(f"leaf: 13\nsub: {sub}\neax: {eax}\nebx: 832\necx: 832\nedx: 0\n" for sub, eax in ((0, 7), (1, 15)))
    assert list(cpuid_nested.rows(text)) == [(13, 0, (7, 832, 832, 0)), (13, 1, (15, 832, 832, 0))]


@pytest.mark.parametrize("text", [
    '{"13": {"0": [7, 64, 832, 0]}}',  # no area is that small
    '{"13": {"0": [7, 832, 832, 0], "1": [15, 832, 0, 0], "5": [64, 1088, 0, 0]}}',  # a component that there is not
    '{"13": {"0": [7, 832, 832]}}',
    "(" * 50 + "13, 0, (7, 832, 832, 0)" + ")" * 50,
    '{"points": [[13, 0], [7, 832]], "names": ["d", "13"]}',
])  # fmt: skip
def test_numbers_that_are_no_cpus_are_not_taken_for_registers(text):
    assert not list(cpuid_nested.rows(text))


@pytest.mark.parametrize("name", ["zen4", "sapphire-rapids"])
def test_a_table_in_odd_brackets_keeps_all_its_rows(name):
    text = "cpuid = [\n" + lines(
        lambda leaf, sub, *row: f"leaf={h8(leaf)}, sub-leaf: {sub:#x}] {' | '.join(f'{v:08x}' for v in row)}]\n"
    )(name)
    one, printed_by = imported_from(text.encode())
    assert (same_cpu(one, profile(name)), printed_by) == (True, "a table")


@pytest.mark.parametrize("text", [
    "0xd" + " " * 80_000,
    "0xd" + "\n" * 2_500,
    "0xd" + "\n>" * 1_500,
    "0xd " + "{" * 40_000,
    "CPUID 00000001: 00000007-00000340-00000340-00000000 " * 8000,
], ids=["blanks", "lines", "quoted lines", "brackets", "rows without an end"])  # fmt: skip
def test_a_text_that_only_looks_like_registers_takes_time_as_it_is_long(text):
    began = time.process_time()
    with pytest.raises(InputError):
        imported_from(text.encode())
    assert time.process_time() - began < 1.5


def test_libvirts_registers_need_no_leading_zeros():
    text = lines(
        lambda leaf, sub, *row: (
            f'<cpuid eax_in="{leaf:#x}" ecx_in="{sub:#x}" '
            + " ".join(f'{key}="{value:#x}"' for key, value in members(row).items())
            + "/>\n"
        )
    )("zen4")
    one, printed_by = imported_from(text.encode())
    assert (same_cpu(one, profile("zen4")), printed_by) == (True, "libvirt")


def test_entries_of_kvm_in_binary_are_read():
    entries = b"".join(struct.pack("<10I", leaf, sub, 1, *row, 0, 0, 0) for leaf, sub, row in rows("zen4"))
    one, printed_by = imported_from(struct.pack("<2I", len(rows("zen4")), 0) + entries)
    assert (same_cpu(one, profile("zen4")), printed_by) == (True, "KVM")


def test_what_dd_copies_of_the_driver_of_cpuid_has_sub_leaf_0_of_each_leaf():
    found = leaves("zen4")
    data = b"".join(struct.pack("<4I", *found.get(leaf, {}).get(0, (0, 0, 0, 0))) for leaf in range(0xE))
    one, printed_by = imported_from(data)
    assert (one.xcr0_supported, one.standard_size, printed_by) == (0x207 | 0xE0, 0x988, "/dev/cpu/N/cpuid")
    assert "leaf 0DH, sub-leaf 1 is not in the dump" in " ".join(one.notes)


@pytest.mark.parametrize("data", [
    b"".join(struct.pack("<4I", *row) for row in leaves("zen4")[13].values()),
    struct.pack("<2I", 4, 0) + bytes(160),
    struct.pack("<12I", 1, 0, 13, 0, 1, 7, 832, 832, 0, 0, 0, 0)[:-4],  # cut off
    struct.pack("<12I", 1, 0, 13, 1, 1, 7, 832, 832, 0, 0, 0, 0),  # sub-leaf 1 alone
    struct.pack("<12I", 1, 0, 7, 0, 1, 7, 832, 832, 0, 0, 0, 0),  # no leaf 0DH
    struct.pack("<4I", 7, 832, 832, 0),
    b"\1\0\2",
    bytes(16 * 13) + struct.pack("<4I", 7, 832, 832, 0),  # without a vendor in leaf 0
])  # fmt: skip
def test_bytes_whose_layout_cannot_be_told_are_refused_with_what_to_do(data):
    with pytest.raises(
        InputError, match=r"not text, and neither what dd .* nor a kvm_cpuid2: .*cpuid -1 -r prints them"
    ):
        imported_from(data)


WITHOUT = {
    "a list of CPU flags": '{"arch": "x86", "uarch": "INTEL_SPR", "flags": ["avx", "xsave"]}\n',
    "what strace prints without -v": "ioctl(5, KVM_GET_SUPPORTED_CPUID, {nent=30, entries=[{function=0}, ...]})\n",
    "a VM's configuration of VMware, whose cpuid lines are masks": 'cpuid.d.eax = "----:----:----:0111"\n',
    "a CPU template of Firecracker, which leaves bits to the host": '{"cpuid_modifiers": [{"leaf": "0xd"}]}\n',
    "what QEMU answers about a CPU's feature words": '[{"cpuid-input-eax": 13, "cpuid-register": "EAX"}]\n',
    "a list of CpuIdResult of Rust, which does not say of which leaves they are": "CpuIdResult { eax: 1, ebx: 2 }\n",
}


@pytest.mark.parametrize("what", WITHOUT)
def test_what_programs_write_without_registers_is_named(tmp_path, capsys, what):
    (tmp_path / "cpu.txt").write_text(WITHOUT[what])
    status, out, err = run(capsys, "cpu", "import", tmp_path / "cpu.txt")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"it is {what}, without sizes and places of components" in err
    assert "run cpuid -1 -r" in err
