"""Families, CPU profiles as files, and the machine at hand."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cpu_dumps import DUMPED, RAW, dump_text, leaves, run, run_json, same_cpu

from sim.calibrate import cpuid as machine
from sim.errors import InputError
from sim.xsave import cpuid, imported, profile_data
from sim.xsave.families import AMD, FAMILIES, INTEL, decoded, family
from sim.xsave.profiles import of_data, profile

# Families.


@pytest.mark.parametrize(
    ("vendor", "signature", "name"),
    [
        (INTEL, 0x50654, "Skylake-SP"),
        (INTEL, 0x50657, "Cascade Lake"),
        (INTEL, 0x5065B, "Cooper Lake"),
        (INTEL, 0x50655, "Cascade Lake"),  # its first stepping and that of Cooper Lake, from memory
        (INTEL, 0x5065A, "Cooper Lake"),
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


def test_a_users_profile_that_has_changed_is_read_again(tmp_path):
    path, text = tmp_path / "mine.toml", good_profile()
    for bugs in ([], ["VMSCAPE"]):
        path.write_text(text.replace("bugs = []", f"bugs = {json.dumps(bugs)}"))
        assert list(profile(str(path)).bugs) == bugs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('vendor = "intel"', 'vendor = "Intel"', "vendor: found 'Intel'; allowed: intel or amd"),
        ('vendor = "intel"', "", "vendor: the key is missing"),
        ('vendor = "intel"', "vendor = 1", "vendor: found 1; allowed: a text"),
        ("bugs = []", 'bugs = ["MELTDOWN"]', "bugs: found .*VMSCAPE"),
        ("bugs = []", 'bug = ["VMSCAPE"]', "unknown key 'bug'; did you mean 'bugs'"),
        ("[freedoms]", "[freedoms]\nxinuse = 1", "freedoms: unknown key 'xinuse'"),
        (
            "[freedoms]",
            "[freedoms]\nzmm_write_group = true",
            "freedoms.zmm_write_group: found True; allowed: a 64-bit mask",
        ),
        ("0x000602e7,", "0x1000602e7,", "32 bits each"),
        ("0x000602e7,", "", "32 bits each"),
        ("0x000602e7,", "0x000602e7, 0,", "32 bits each"),
        ("[cpuid.13]", "[cpuid.xsave]", "the number of a leaf"),
        ("[cpuid.13]", "[cpuid.14]", "cpuid.13: sub-leaf 0 is missing"),
        ("[cpuid.4]", "[cpuid.5]", "cpuid.4: sub-leaf 0, the L1 data cache, is missing"),
        ("9  = [0x00000008", "9  = [0x00000000", r"components \[9\] are there, and not how large"),
        ("[cpuid.1]", "[cpuid.1", "CPU profile .*mine.toml: "),
        ("tsc_hz = 2100000000", "tsc_hz = 2.1", "tsc_hz: found 2.1; allowed: cycles per second, from 1e6 to 1e12"),
        ("tsc_hz = 2100000000", "tsc_hz = true", "tsc_hz: found True; allowed: cycles per second"),
        ("tsc_hz = 2100000000", "", "tsc_hz: missing; allowed: cycles per second, or leaves 21 and 22 that say it"),
        (
            "[freedoms]",
            "[cpuid.0xd]\n0 = [0, 0, 0, 0]\n[freedoms]",
            "cpuid.0xd.0: is cpuid.13.0, too; allowed: each sub-leaf once",
        ),
        (
            "[cpuid.13]",
            "[cpuid.0xd]\n0 = [0, 0, 0, 0]\n[cpuid.13]",
            "cpuid.13.0: is cpuid.0xd.0, too; allowed: each sub-leaf once",
        ),
        (
            "5  = [0x00000040, 0x00000440",
            "5  = [0x00000040, 0x0000033f",
            "cpuid.13.5: begins at 831; allowed: 832 or more, where sub-leaf 2 ends",
        ),
        # Ends at 480H, where the bits of its offset and its size make 3C0H.
        (
            "5  = [0x00000040, 0x00000440",
            "3 = [0xc0, 0x3c0, 0, 0]\n5  = [0x00000040, 0x00000440",
            "cpuid.13.5: begins at 1088; allowed: 1152 or more, where sub-leaf 3 ends",
        ),
        (
            "9  = [0x00000008, 0x00000a80",
            "9  = [0x00000008, 0x00000480",
            "cpuid.13.6: begins at .*; allowed: .* or more",
        ),
        ("[freedoms]", "[freedoms]\nzmm_write_group = -1", "zmm_write_group: found -1; allowed: a 64-bit mask"),
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
    ("old", "new", "first", "last"),
    [
        ("tsc_hz = 2100000000", "tsc_hz = {}", 10**6, 10**12),
        ("[freedoms]", "[freedoms]\nzmm_write_group = {}", 0, (1 << 64) - 1),
        ("[cpuid.1]", "[cpuid.{}]\n0 = [0, 0, 0, 0]\n[cpuid.1]", 2, (1 << 32) - 1),
        ("[cpuid.1]\n", "[cpuid.1]\n{} = [0, 0, 0, 0]\n", 1, (1 << 32) - 1),
        *(("[cpuid.1]\n", f"[cpuid.2]\n0 = [{'0, ' * place}{{}}{', 0' * (3 - place)}]\n[cpuid.1]\n", 0, (1 << 32) - 1)
          for place in range(4)),
    ],
)  # fmt: skip
def test_numbers_of_a_profile_are_allowed_from_the_first_to_the_last_that_its_message_says(
    tmp_path, old, new, first, last
):
    path, text = tmp_path / "mine.toml", good_profile()
    assert text.count(old) == 1
    for number in (first, last):
        path.write_text(text.replace(old, new.format(number)))
        profile_data.read(path)
    for number in (min(first, 0) - 1, last + 1):
        path.write_text(text.replace(old, new.format(number)))
        with pytest.raises(InputError, match="allowed: "):
            profile_data.read(path)


@pytest.mark.parametrize("ratio", [(2, 168, 0, 0), (0, 168, 25_000_000, 0)])
def test_a_profile_says_the_clock_if_leaves_21_and_22_do_not(tmp_path, ratio):
    """Intel SDM vol. 2, CPUID, leaf 15H: neither a ratio of 0 nor a crystal clock of 0 is enumerated."""
    path, text = tmp_path / "mine.toml", good_profile().replace("tsc_hz = 2100000000\n", "")
    leaves_of = "[cpuid.21]\n0 = {}\n[cpuid.22]\n0 = [{}, 2100, 2100, 0]\n[cpuid.1]"
    path.write_text(text.replace("[cpuid.1]", leaves_of.format(list(ratio), 0)))
    with pytest.raises(
        InputError, match="tsc_hz: missing; allowed: cycles per second, or leaves 21 and 22 that say it"
    ):
        profile_data.read(path)
    path.write_text(text.replace("[cpuid.1]", leaves_of.format(list(ratio), 2100)))
    profile_data.read(path)


@pytest.mark.parametrize(("shown", "written"), [
    ("0xd", "13"), ("0x7fffffff", "2147483647"), ("2147483648", "0x80000000"), ("0x8000001D", "0x8000001d"),
])  # fmt: skip
def test_a_leaf_may_be_written_in_any_base_and_is_known_by_one(tmp_path, shown, written):
    text = good_profile().replace("[cpuid.13]", "[cpuid.0x0d]")
    path = tmp_path / "mine.toml"
    path.write_text(
        text if shown == "0xd" else text.replace("[cpuid.1]", f"[cpuid.{shown}]\n0 = [1, 2, 3, 4]\n[cpuid.1]")
    )
    assert written in profile_data.read(path)["cpuid"]


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("", "cpuid: the key is missing"),
        ("cpuid = 13\n", "cpuid: found 13; allowed: tables of registers by leaf"),
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
