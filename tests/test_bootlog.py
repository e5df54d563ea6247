"""Boot logs of real kernels against our layout, and what happens with logs that are wrong."""

import gzip
import io
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from boot_logs import text_of
from command import run_json
from hypothesis import given
from hypothesis import strategies as st

from sim.cli import main
from sim.errors import InputError
from sim.kernel import bootlog, bootlog_reading
from sim.kernel.bootlog import absent, check
from sim.kernel.bootlog_reading import parse, read
from sim.xsave.components import ALL, EXTENDED, bits
from sim.xsave.profiles import GENERIC, names, profile

LOGS = Path(__file__).parent / "data" / "bootlogs"

AVX512 = {2: 576, 5: 832, 6: 896, 7: 1408}
CET_S = AVX512 | {9: 2432, 11: 2440, 12: 2456}

# Typed from the logs by hand: mask, size, format, offsets.
PUBLISHED = {
    "core-i7-11390h": (0x1AE7, 2480, "compacted", CET_S),
    "core-ultra-7-265k": (0x1A07, 880, "compacted", {2: 576, 9: 832, 11: 840, 12: 856}),
    "intel-standard-format": (0x2E7, 2696, "standard", {2: 576, 5: 1088, 6: 1152, 7: 1664, 9: 2688}),
    "linux-4.2": (0x7, 832, "standard", {2: 576}),
    "ryzen-9-7945hx": (0x1AE7, 2480, "compacted", CET_S),
    "ryzen-ai-7-pro-350": (0x1AE7, 2480, "compacted", CET_S),
    "sapphire-rapids-pasid": (0x606E7, 10752, "compacted", AVX512 | {9: 2432, 10: 2440, 17: 2496, 18: 2560}),
    "xeon-8480c": (0x602E7, 10752, "compacted", AVX512 | {9: 2432, 17: 2496, 18: 2560}),
    "xeon-8573c-no-pku": (0x600E7, 10688, "compacted", AVX512 | {17: 2432, 18: 2496}),
    "zen4-vm-6.18": (0x18E7, 2472, "compacted", AVX512 | {11: 2432, 12: 2448}),
}


def parse_text(text: str):
    return parse(text.splitlines(keepends=True), "the log")


def printed(mask, layout, sizes, form="compacted", prefix="x86/fpu: "):
    """What Linux prints for a mask; used where no real log has the case."""
    lines = [f"{prefix}Supporting XSAVE feature 0x{1 << i:03x}: 'some registers'" for i in bits[mask]]
    lines += [
        f"{prefix}xstate_offset[{i}]: {at:4d}, xstate_sizes[{i}]: {sizes[i]:4d}" for i, at in layout.offsets.items()
    ]
    lines += [
        f"{prefix}Enabled xstate features 0x{mask:x}, context size is {layout.size} bytes, using '{form}' format."
    ]
    return "\n".join(lines) + "\n"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["layout", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


# Reading.


def test_every_sample_has_its_numbers_written_down():
    assert {path.stem for path in LOGS.iterdir()} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_log_says_what_a_person_reads_in_it(name):
    log = parse_text(text_of(name))
    assert (log.mask, log.size, log.format, log.offsets) == PUBLISHED[name]
    assert log.supporting == log.mask
    assert log.boots == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_boot_logs_have_our_offsets(name):
    mask, size, form, offsets = PUBLISHED[name]
    ours = GENERIC.compacted(mask) if form == "compacted" else GENERIC.standard(mask)
    assert (ours.offsets, ours.size) == (offsets, size)
    assert check(parse_text(text_of(name))) == []


@pytest.mark.parametrize(
    ("name", "cpu"),
    [
        ("ryzen-9-7945hx", "zen4"),
        ("ryzen-ai-7-pro-350", "zen5"),
        ("zen4-vm-6.18", "zen4"),
        ("xeon-8480c", "sapphire-rapids"),
        ("sapphire-rapids-pasid", "sapphire-rapids"),
        ("xeon-8573c-no-pku", "emerald-rapids"),
        ("intel-standard-format", "ice-lake-sp"),
    ],
)
def test_published_boot_logs_agree_with_the_profile_of_their_cpu(name, cpu):
    assert check(parse_text(text_of(name)), profile(cpu)) == []


@pytest.mark.parametrize(
    "prefix", ["", "[    0.000000] ", "kernel: ", "# ", "> > [  +0.000000] ", "<6>[    0.07] ", "\t"]
)
def test_whatever_stands_before_a_line_is_not_in_the_way(prefix):
    bare = "".join(line.removeprefix("# ") + "\n" for line in text_of("zen4-vm-6.18").splitlines())
    decorated = "".join(prefix + line + "\n" for line in bare.splitlines())
    assert parse_text(decorated) == parse_text(bare)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_line_ends_do_not_matter(ending):
    text = text_of("ryzen-9-7945hx")
    stream = io.BytesIO(text.replace("\n", ending).encode())
    assert read(stream, "the log") == parse_text(text)


def test_a_log_with_several_boots_counts_as_its_last():
    log = parse_text(text_of("xeon-8480c") + "much else\n" * 5 + text_of("ryzen-9-7945hx"))
    assert (log.mask, log.boots) == (0x1AE7, 2)
    assert check(log) == []


def test_a_log_may_be_gzipped():
    text = text_of("xeon-8480c")
    assert read(io.BytesIO(gzip.compress(text.encode())), "the log") == parse_text(text)


@given(st.integers(0, ALL), st.sampled_from([GENERIC, *map(profile, names())]))
def test_any_layout_survives_being_printed_and_read(mask, geometry):
    mask &= geometry.components
    text = printed(mask, geometry.compacted(mask), geometry.sizes)
    log = parse_text(text)
    assert log.mask == mask
    assert log.offsets == geometry.compacted(mask).offsets
    assert log.sizes == {i: geometry.sizes[i] for i in bits[mask & EXTENDED]}
    assert check(log, geometry) == []


# Disagreements.


def disagreements(name: str, old: str, new: str, geometry=GENERIC) -> list[str]:
    text = text_of(name)
    assert text.count(old) == 1
    return check(parse_text(text.replace(old, new)), geometry)


def test_a_moved_component_is_named_with_both_offsets():
    (found,) = disagreements("ryzen-9-7945hx", "xstate_offset[12]: 2456", "xstate_offset[12]: 2464")
    assert found == "12 (CET_KERNEL): the log has offset 2464, our layout has 2456"


def test_a_wrong_total_is_named_with_both_sizes():
    (found,) = disagreements("xeon-8480c", "context size is 10752", "context size is 10744")
    assert found == "context size: the log has 10744, our layout has 10752"


@pytest.mark.parametrize("size", [4, 16])
def test_a_component_of_another_size_moves_those_after_it(size):
    found = disagreements("ryzen-9-7945hx", "xstate_sizes[9]:    8", f"xstate_sizes[9]: {size:4}")
    assert found[0] == f"9 (PKRU): the log has size {size}, generic has 8"
    assert f"11 (CET_USER): the log has offset 2440, our layout has {2432 + size}" in found
    assert f"context size: the log has 2480, our layout has {2472 + size}" in found


def test_an_enabled_component_without_lines_is_absent_and_no_disagreement():
    lines = text_of("ryzen-9-7945hx").splitlines(keepends=True)
    log = parse_text("".join(line for line in lines if "[9]" not in line and "0x200" not in line))
    assert check(log) == []
    assert absent(log) == [
        "the offset of 9 (PKRU) is not in the log",
        'no "Supporting XSAVE feature" line for 9 (PKRU)',
    ]


def test_a_component_that_is_placed_but_not_enabled_is_noticed():
    found = disagreements("ryzen-9-7945hx", "features 0x1ae7", "features 0xae7")
    assert "with an xstate_offset line, but not enabled: 12 (CET_KERNEL)" in found
    assert 'with a "Supporting XSAVE feature" line, but not enabled: 12 (CET_KERNEL)' in found
    assert "context size: the log has 2480, our layout has 2456" in found


def test_a_log_without_supporting_lines_is_no_disagreement():
    lines = text_of("ryzen-9-7945hx").splitlines(keepends=True)
    assert check(parse_text("".join(line for line in lines if "Supporting" not in line))) == []


def test_a_component_that_the_named_cpu_lacks_is_a_disagreement():
    assert "enabled, but zen4 does not have it: 17 (XTILE_CFG), 18 (XTILE_DATA)" in check(
        parse_text(text_of("xeon-8480c")), profile("zen4")
    )


def test_intels_standard_offsets_are_not_amds():
    found = check(parse_text(text_of("intel-standard-format")), profile("zen4"))
    assert "9 (PKRU): the log has offset 2688, our layout has 2432" in found
    assert "context size: the log has 2696, our layout has 2440" in found


def test_overlapping_components_of_the_standard_format_are_noticed():
    found = disagreements("intel-standard-format", "xstate_offset[6]: 1152", "xstate_offset[6]: 1144")
    assert found == [
        "6 (ZMM_Hi256): the log has offset 1144, our layout has 1152",
        "6 (ZMM_Hi256) at 1144 overlaps 5 (OPMASK), which ends at 1152",
    ]


def test_offsets_of_the_standard_format_are_not_copied_from_the_log():
    found = disagreements("intel-standard-format", "xstate_offset[9]: 2688", "xstate_offset[9]: 2752")
    assert found == ["9 (PKRU): the log has offset 2752, our layout has 2688"]


def test_supervisor_components_in_a_standard_format_log_are_a_disagreement():
    found = disagreements("intel-standard-format", "features 0x2e7", "features 0x1ae7")
    assert "the standard format has no place for supervisor components: 11 (CET_USER), 12 (CET_KERNEL)" in found
    text = printed(0x802, GENERIC.compacted(0x802), GENERIC.sizes, "standard")
    assert check(parse_text(text)) == [
        "the standard format has no place for supervisor components: 11 (CET_USER)",
        "context size: the log has 592, our layout has 576",
    ]


def test_a_component_from_the_future_is_not_guessed():
    (found,) = disagreements("linux-4.2", "features 0x7", "features 0x200007")[:1]
    assert found == "components above 19 are not known here: 0x200000"


# Boots.


def enabled_line(name: str) -> str:
    (line,) = (line for line in text_of(name).splitlines(keepends=True) if "Enabled xstate features" in line)
    return line


@pytest.mark.parametrize("place", ["before", "after", "twice after"])
def test_two_identical_enabled_lines_in_one_boot_are_not_two_boots(place):
    text, line = text_of("ryzen-9-7945hx"), enabled_line("ryzen-9-7945hx")
    log = parse_text(line + text if place == "before" else text + line * (2 if "twice" in place else 1))
    assert log == parse_text(text)
    assert log.boots == 1


def test_the_same_boot_again_with_all_its_lines_is_a_second_boot():
    assert parse_text(text_of("ryzen-9-7945hx") * 2).boots == 2


def test_another_enabled_line_is_another_boot():
    log = parse_text(text_of("ryzen-9-7945hx") + enabled_line("xeon-8480c"))
    assert (log.mask, log.boots) == (0x602E7, 2)


@pytest.mark.parametrize("name", [each.stem for each in sorted(LOGS.glob("*.txt")) if each.stem != "linux-4.2"])
def test_a_log_without_its_enabled_line_has_its_mask_and_format_from_the_other_lines(name, tmp_path, capsys):
    whole = text_of(name)
    lines = [line for line in whole.splitlines(keepends=True) if "Enabled xstate features" not in line]
    log, right = parse_text("".join(lines)), parse_text(whole)
    assert (log.mask, log.format, log.offsets) == (right.mask, right.format, right.offsets)
    assert bootlog.check(log) == []
    said = bootlog.absent(log)[0]
    assert said.startswith('no "Enabled xstate features" line: mask and format follow')
    users = "xeon-8480c", "xeon-8573c-no-pku"  # compacted, and no component that the standard format has no place for
    assert ("AMD's standard format looks the same" in said) == (name in users)
    (tmp_path / "log.txt").write_text("".join(lines))
    document = run_json(capsys, "layout", "--boot-log", str(tmp_path / "log.txt"))
    assert (document["mask"], document["size"], document["agrees"]) == (f"{right.mask:#x}", None, True)


# Wrong input.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"nothing of the kind\n", 'no "Enabled xstate features" line'),
        (b"\x7fOBJ\0\0\0", "is not text"),
        (b"\xff\xfe" + "x86/fpu: Enabled".encode("utf-16-le"), 'no "Enabled xstate features" line'),
        (b"\x80\x81\x82", 'no "Enabled xstate features" line'),
        (b"\x1f\x8b\x08\x00broken", "cannot read the log"),
        (gzip.compress(b"x86/fpu", mtime=0)[:-6], "cannot read the log"),
        (gzip.compress(b"\0\0", mtime=0), "is not text"),
        (b"Enabled xstate features 0x7, context size is many bytes", "not as a kernel prints it: 'Enabled xstate"),
        (b"xstate_offset[2]:  576, xstate_sizes[2]:  256\n", 'no "Enabled xstate features" line'),
        (
            b"Enabled xstate features 0x%llx, context size is %d bytes, using '%s' format.",
            'not as a kernel prints it: "Enabled xstate features 0x%',
        ),
    ],
    ids=range(11),
)
def test_a_file_that_is_no_boot_log_is_answered_with_the_lines_expected(content, message):
    with pytest.raises(InputError) as error:
        read(io.BytesIO(content), "the log")
    assert message in str(error.value)
    for line in ("Supporting XSAVE feature", "xstate_offset[2]", "Enabled xstate features 0x1ae7"):
        assert line in str(error.value)


@pytest.mark.parametrize(
    "line", ["xstate_offset[2]:  576, xstate_sizes[3]:  256", "xstate_offset[9]: 2440, xstate_sizes[9]:    8"]
)
def test_garbled_or_contradictory_lines_are_refused(line):
    text = text_of("ryzen-9-7945hx")
    for log in (text, "".join(each for each in text.splitlines(keepends=True) if "Enabled xstate" not in each)):
        with pytest.raises(InputError, match="the log has garbled or contradictory xstate_offset"):
            parse_text(line + "\n" + log)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("is 2480 bytes", "is 2480"),
        ("'compacted' format", "'compressed' format"),
        ("'compacted' format", "compacted-format"),
        ("is 2480 bytes", "is -2480 bytes"),
        ("0x1ae7,", "1ae7,"),
        ("0x1ae7,", "0x11112222333344445,"),
        ("xstate_offset[12]: 2456", "xstate_offset[12]: -2456"),
        ("xstate_offset[12]: 2456", "xstate_offset[12]: 4294967290"),
        ("xstate_sizes[12]:   24", "xstate_sizes[12]:  -24"),
        ("xstate_offset[12]: 2456", "xstate_offset[99]: 2456"),
        ("feature 0x1000:", "feature CET:"),
        ("is 2480 bytes", "is ２４８０ bytes"),
        ("xstate_offset[12]: 2456", "xstate_offset[12]: ٢٤٥٦"),
        ("xstate_offset[12]: 2456", "xstate_offset[١٢]: 2456"),
    ],
)
def test_a_line_that_is_not_as_printed_is_reported_with_the_line(old, new):
    text = text_of("ryzen-9-7945hx")
    assert text.count(old) == 1
    (wrong,) = (line for line in text.replace(old, new).splitlines() if new in line)
    with pytest.raises(InputError) as error:
        parse_text(text.replace(old, new))
    assert f"not as a kernel prints it: {wrong!r}" in str(error.value)


def test_an_offset_that_no_area_has_is_a_disagreement():
    (found, *_) = disagreements("ryzen-9-7945hx", "xstate_offset[12]: 2456", "xstate_offset[12]: 99999999")
    assert found == "12 (CET_KERNEL): the log has offset 99999999, our layout has 2456"


def test_a_garbled_line_counts_in_the_last_boot_only():
    wrong, right = text_of("ryzen-9-7945hx").replace("2456", "-2456"), text_of("ryzen-9-7945hx")
    assert parse_text(wrong + right).boots == 2
    with pytest.raises(InputError, match="not as a kernel prints it"):
        parse_text(right + wrong)
    with pytest.raises(InputError, match="not as a kernel prints it"):
        parse_text(right + "Enabled xstate features 0x1ae7, contents")


@given(st.text(alphabet="x0123456789abcdef[]:,'\n E", max_size=80), st.integers(0, 40))
def test_garbage_among_the_lines_is_wrong_input_at_worst(garbage, place):
    lines = text_of("ryzen-9-7945hx").splitlines(keepends=True)
    lines.insert(place, "xstate_offset[2]: " + garbage)
    with suppress(InputError):
        check(parse_text("".join(lines)))


# The command.


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_command_agrees_with_a_real_log(capsys, name):
    status, out, _ = run(capsys, "--boot-log", LOGS / f"{name}.txt", "--json")
    document = json.loads(out)
    mask, size, form, offsets = PUBLISHED[name]
    assert status == 0
    assert document["agrees"] is True
    assert document["disagreements"] == []
    assert (document["mask"], document["size"], document["format"]) == (hex(mask), size, form)
    assert document["offsets"] == {str(i): offset for i, offset in offsets.items()}
    assert document["computed"] == {"size": size, "offsets": document["offsets"]}


def test_a_log_that_disagrees_ends_with_status_1(capsys, tmp_path):
    wrong = tmp_path / "dmesg"
    wrong.write_text(text_of("ryzen-9-7945hx").replace("2456", "2464"))
    status, out, _ = run(capsys, "--boot-log", wrong, "--json")
    document = json.loads(out)
    assert (status, document["agrees"], len(document["disagreements"])) == (1, False, 1)
    assert (document["offsets"]["12"], document["computed"]["offsets"]["12"]) == (2464, 2456)

    status, out, _ = run(capsys, "--boot-log", wrong)
    assert status == 1
    assert "the log has offset 2464, our layout has 2456" in out


def test_the_text_says_that_a_log_agrees(capsys):
    status, out, _ = run(capsys, "--boot-log", LOGS / "zen4-vm-6.18.txt", "--cpu", "zen4")
    assert status == 0
    assert "the log agrees with our layout" in out
    assert "2472 bytes" in out


def standard_log_of_an_amd_cpu() -> str:
    return printed(0x2E7, profile("zen4").standard(0x2E7), GENERIC.sizes, "standard")


def test_without_a_cpu_a_log_agrees_if_its_offsets_are_those_of_a_vendor(capsys, tmp_path):
    path = tmp_path / "dmesg"
    log = standard_log_of_an_amd_cpu()
    path.write_text(log)
    status, out, _ = run(capsys, "--boot-log", path, "--json")
    assert status == 0
    assert json.loads(out)["computed"]["offsets"] == {"2": 576, "5": 832, "6": 896, "7": 1408, "9": 2432}
    assert run(capsys, "--boot-log", path, "--cpu", "zen4")[0] == 0
    assert run(capsys, "--boot-log", path, "--cpu", "sapphire-rapids")[0] == 1

    path.write_text(log.replace("xstate_offset[9]: 2432", "xstate_offset[9]: 2440"))  # of no vendor
    status, out, _ = run(capsys, "--boot-log", path)
    assert status == 1
    assert "Intel's offsets; AMD's differ, see --cpu" in out


@pytest.mark.parametrize("packed", [False, True])
def test_a_log_comes_through_a_pipe(packed):
    content = text_of("xeon-8480c").encode()
    command = [sys.executable, "-m", "sim.cli", "layout", "--boot-log", "-", "--json"]
    done = subprocess.run(command, input=gzip.compress(content) if packed else content, capture_output=True, check=True)
    assert json.loads(done.stdout)["agrees"] is True


@pytest.mark.parametrize("missing", [True, False])
def test_an_unreadable_file_is_wrong_input(capsys, tmp_path, missing):
    path = tmp_path / "gone" if missing else tmp_path
    status, out, err = run(capsys, "--boot-log", path)
    assert (status, out) == (2, "")
    assert f"cannot read {path}" in err


def test_a_file_without_boot_lines_is_wrong_input(capsys, tmp_path):
    path = tmp_path / "dmesg"
    path.write_text("[    0.000000] Linux version 6.18.0\n")
    status, _, err = run(capsys, "--boot-log", path)
    assert status == 2
    assert "has a boot of Linux, but no x86/fpu line of it" in err


def test_a_long_line_is_shown_in_so_many_characters():
    assert len(bootlog_reading._line_at("x" * 500, 7)) == bootlog_reading._SHOWN
