"""The layout of XSAVE areas, and the command that prints it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cli import main
from sim.xsave.components import ALL, COMPACTED, EXTENDED, SUPERVISOR, XTILE, bits
from sim.xsave.profiles import GENERIC, names, profile
from sim.xsave.sizes import masks_of

LOGS = Path(__file__).parent / "data" / "bootlogs"
GEOMETRIES = [GENERIC, *map(profile, names())]


def run(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        main(["layout", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def run_json(capsys, *arguments):
    status, out, _ = run(capsys, *arguments, "--json")
    assert status == 0
    return json.loads(out)


# The layouts themselves.


@st.composite
def geometry_and_mask(draw):
    geometry = draw(st.sampled_from(GEOMETRIES))
    return geometry, draw(st.integers(0, ALL)) & geometry.components


@given(geometry_and_mask())
def test_components_follow_each_other_without_overlap(case):
    geometry, mask = case
    layout = geometry.compacted(mask)
    assert list(layout.offsets) == list(bits[mask & EXTENDED])
    end = 576
    for i, offset in layout.offsets.items():
        gap = offset - end
        assert gap == (-end % 64 if geometry.aligned >> i & 1 else 0)
        end = offset + geometry.sizes[i]
    assert layout.size == end


@given(geometry_and_mask())
def test_aligned_components_start_a_cache_line(case):
    geometry, mask = case
    offsets = geometry.compacted(mask).offsets
    assert all(offsets[i] % 64 == 0 for i in bits[mask & geometry.aligned])


@given(geometry_and_mask(), st.integers(0, ALL))
def test_more_components_never_make_an_area_smaller(case, part):
    geometry, mask = case
    fewer, all_ = geometry.compacted(mask & part), geometry.compacted(mask)
    assert fewer.size <= all_.size
    assert all(fewer.offsets[i] <= all_.offsets[i] for i in fewer.offsets)


@given(st.sampled_from([profile(name) for name in names()]), st.integers(0, ALL))
def test_the_standard_format_keeps_every_component_in_its_place(cpu, mask):
    mask &= cpu.xcr0_supported
    layout, whole = cpu.standard(mask), cpu.standard(cpu.xcr0_supported)
    assert layout.offsets == {i: whole.offsets[i] for i in bits[mask & EXTENDED]}
    ends = [576, *(offset + cpu.sizes[i] for i, offset in layout.offsets.items())]
    assert layout.size == max(ends)
    assert all(end <= offset for end, offset in zip(sorted(ends), sorted(layout.offsets.values()), strict=False))


@pytest.mark.parametrize("mask", [0, 1, 3])
def test_an_area_without_extended_components_ends_with_its_header(mask):
    assert GENERIC.compacted(mask).size == GENERIC.standard(mask).size == 576


def test_without_a_cpu_the_standard_format_is_that_of_intels():
    places = {}
    for cpu in map(profile, names()):
        if cpu.vendor == "intel":
            for i, offset in cpu.offsets.items():
                places.setdefault(i, set()).add(offset)
    of_all = {i: offset for i, (offset, *others) in places.items() if not others}
    assert {**GENERIC.offsets} == of_all | {9: 2688}  # which lies lower on those without AVX-512


def test_a_component_is_as_large_without_a_cpu_as_on_those_that_have_it():
    """HDC, which none of them has: InstLatx64/InstLatx64, GenuineIntel00706E5_IceLakeY_CPUID.txt, sub-leaf 0DH."""
    sizes = {13: {8}}
    for name in names():
        if name != "zen2":  # whose PKRU state is larger
            for i, size in profile(name).sizes.items():
                sizes.setdefault(i, set()).add(size)
    assert {i: {size} for i, size in GENERIC.sizes.items()} == sizes


@pytest.mark.parametrize("name", ["skylake-sp", "zen4", "sapphire-rapids", "diamond-rapids"])
def test_every_mask_of_a_size_is_found_and_no_other(name):
    """AVX-512 comes whole and with AVX, MPX and AMX whole, APX without MPX: Intel SDM vol. 1, section 13.3."""
    cpu, every, found = profile(name), [0x3], {}
    for i in bits[cpu.components & EXTENDED]:
        every += [mask | 1 << i for mask in every]
    for mask in every:
        whole = all(mask & group in (0, group) for group in (0x18, 0xE0, 0x60000))
        if whole and not (mask & 0xE0 and not mask & 0x4) and not (mask & 0x80000 and mask & 0x18):
            found.setdefault(cpu.compacted(mask).size, set()).add(mask)
    for size in (min(found), max(found), *list(found)[::7]):
        masks = [each.mask for each in masks_of(size, cpu) if each.format == "compacted"]
        assert len(masks) == len(set(masks))
        assert set(masks) == found[size]


def test_tile_data_follows_tile_config_on_the_next_cache_line():
    layout = GENERIC.compacted(0x61EE7)
    assert (layout.offsets[17], layout.offsets[18], layout.size) == (2496, 2560, 10752)


# The command.


def test_the_layout_of_the_first_cet_s_boot_logs(capsys):
    document = run_json(capsys, "0x1ae7")
    assert document["size"] == 2480
    assert document["offsets"] == {"2": 576, "5": 832, "6": 896, "7": 1408, "9": 2432, "11": 2440, "12": 2456}
    assert document["sizes"] == {"2": 256, "5": 64, "6": 512, "7": 1024, "9": 8, "11": 16, "12": 24}
    assert (document["mask"], document["format"], document["aligned"]) == ("0x1ae7", "compacted", [])
    assert (document["cache_lines"], document["guest_allocation"]) == (39, 4096)


def test_decimal_masks_are_masks_too(capsys):
    assert run_json(capsys, 0x1AE7) == run_json(capsys, "0x1ae7")


@pytest.mark.parametrize("name", [name for name in names() if name != "zen2"])  # whose PKRU state is larger
def test_naming_a_cpu_does_not_move_what_it_has(capsys, name):
    mask = profile(name).components
    named, generic = run_json(capsys, hex(mask), "--cpu", name), run_json(capsys, hex(mask))
    assert named.pop("cpu") == name
    assert generic.pop("cpu") is None
    assert named == generic


def test_amx_takes_three_pages_of_a_guest(capsys):
    document = run_json(capsys, "0x61ee7", "--cpu", "sapphire-rapids")
    assert (document["size"], document["cache_lines"], document["guest_allocation"]) == (10752, 168, 12288)
    assert document["aligned"] == bits_of(XTILE)


def bits_of(mask):
    return list(bits[mask])


def test_amd_and_intel_place_avx512_differently_in_the_standard_format(capsys):
    amd = run_json(capsys, "0x2e7", "--standard", "--cpu", "zen4")
    intel = run_json(capsys, "0x2e7", "--standard", "--cpu", "ice-lake-sp")
    assert amd["offsets"] == {"2": 576, "5": 832, "6": 896, "7": 1408, "9": 2432}
    assert intel["offsets"] == {"2": 576, "5": 1088, "6": 1152, "7": 1664, "9": 2688}
    assert (amd["size"], intel["size"]) == (2440, 2696)
    assert run_json(capsys, "0x2e7", "--standard")["offsets"] == intel["offsets"]


def test_apx_takes_the_place_of_mpx(capsys):
    assert run_json(capsys, "0x80007", "--standard")["offsets"] == {"2": 576, "19": 960}
    assert run(capsys, "0x8001f", "--standard")[0] == 2


def test_the_table_names_every_component_and_the_total(capsys):
    status, out, _ = run(capsys, "0x21ee7", "--cpu", "sapphire-rapids")
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:1].isdigit()}
    assert rows["0"][:3] == ["FP", "0", "160"]
    assert rows["1"][:3] == ["SSE", "160", "256"]
    assert rows["12"] == ["CET_KERNEL", "2464", "24", "-"]
    assert rows["17"] == ["XTILE_CFG", "2496", "64", "64"]
    assert "2560 bytes" in out
    assert "4096 bytes" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which components"),
        (("0x100000",), "components 0 to 19"),
        ((hex(COMPACTED | 0x1AE7),), "bit 63 of an XCOMP_BV"),
        (("--", "-1"), "components 0 to 19"),
        (("1ae7",), "not a number"),
        (("",), "not a number"),
        (("0x1_ae7",), "not a number"),
        (("+5",), "not a number"),
        ((" 5",), "not a number"),
        (("٥",), "not a number"),
        (("0x１",), "not a number"),
        (("0b11",), "not a number"),
        (("9" * 5000,), "not a number"),
        (("0x1ae7", "--standard"), "supervisor"),
        ((hex(SUPERVISOR), "--standard", "--cpu", "zen4"), "supervisor"),
        (("0x20007", "--cpu", "zen4"), "zen4 has no state component XTILE_CFG"),
        (("0x80007", "--standard", "--cpu", "zen4"), "zen4 has no state component APX"),
        (("0x7", "--cpu", "zen6"), "unknown CPU 'zen6'"),
        (("0x7", "--cpu", ""), "unknown CPU ''"),
        (("0x7", "--boot-log", "some.txt"), "leave out MASK"),
        (("--standard", "--boot-log", "some.txt"), "leave out MASK and --standard"),
        (("--cpu", "zen4"), "which components"),
    ],
)
def test_wrong_input_is_one_message_and_status_2(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_the_help_has_an_example_of_each_form(capsys):
    _, out, _ = run(capsys, "--help")
    for form in ("layout 0x1ae7", "--cpu sapphire-rapids --json", "--standard --cpu zen4", "--boot-log dmesg.txt"):
        assert form in out


@pytest.mark.parametrize("arguments", [["0x7"], ["--boot-log", LOGS / "zen4-vm-6.18.txt"]])
def test_the_help_names_every_json_key(capsys, arguments):
    document = run_json(capsys, *arguments)
    _, out, _ = run(capsys, "--help")
    assert [key for key in document if f'"{key}"' not in out] == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["layout", "0x7"], ["layout", "0x7", "--json"], ["--help"]])
def test_output_that_cannot_be_written_is_one_line_and_status_1(arguments, unbuffered):
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}  # empty is as without it
    command = [sys.executable, "-m", "sim.cli", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == 1
    assert done.stderr.decode() == "fpswitch: cannot write the output: No space left on device\n"


def test_a_broken_pipe_stays_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "sim.cli", "layout", "0x7"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
