"""Boot logs of which something is missing: the ends of lines, or all lines that are compared."""

import re

import pytest
from boot_logs import PRINTED, TEXTS, parse_text, refused, text_of
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.kernel import bootlog_cut, no_bootlog
from sim.kernel.bootlog import absent, check
from sim.kernel.bootlog_reading import parse_all
from sim.xsave.components import SUPERVISOR

PREFIXES = ("", "[    0.000000] ", "> [    0.000000] ", "Jan  1 12:00:00 host kernel: [    0.000000] ")
CET_USER = "x86/fpu: xstate_offset[11]:  832, xstate_sizes[11]:   16\n"
EDGES = ("", ">", "…", "...", "$")


def cut(text: str, width: int, prefix: str, edge: str) -> str:
    lines = (prefix + line for line in text.splitlines())
    return "".join((line if len(line) <= width else line[: width - len(edge)] + edge) + "\n" for line in lines)


@given(st.sampled_from(PRINTED), st.sampled_from(PREFIXES), st.sampled_from(EDGES), st.data())
def test_a_log_cut_off_at_an_edge_agrees_as_far_as_it_goes(text, prefix, edge, data):
    """Nothing that a cut log says differs from what the whole one does, wherever the edge is behind the mask."""
    (last,) = (prefix + line for line in text.splitlines() if "Enabled" in line)
    width = data.draw(st.integers(last.index(", context") + 1 + len(edge), len(last) - 1))
    whole = parse_text(text)
    try:
        log = parse_text(cut(text, width, prefix, edge))
    except InputError as error:
        assert f"cut off before the format ({whole.mask:#x}), and what is left fits both formats" in str(error)  # noqa: PT017
        assert not whole.mask & SUPERVISOR
        return
    assert (log.mask, log.format) == (whole.mask, whole.format)
    assert log.size in (0, whole.size)
    assert log.offsets.items() <= whole.offsets.items()
    assert check(log) == check(whole)
    assert log.cut or width >= len(last) - len("' format.")


def test_offsets_that_both_formats_have_do_not_tell_the_format():
    with pytest.raises(InputError, match="the offsets that it has fit both formats"):
        parse_text("x86/fpu: xstate_offset[2]:  576, xstate_sizes[2]:  256\n")


def test_a_log_of_offsets_alone_is_one_of_x87_and_sse_too():
    # fpu__init_system_xstate(), arch/x86/kernel/fpu/xstate.c: XFEATURE_MASK_FPSSE has to be there
    log = parse_text("x86/fpu: xstate_offset[2]:  576, xstate_sizes[2]:  256\n" + CET_USER)
    assert (log.mask, log.supporting) == (0x807, 0)


def test_an_enabled_line_that_is_there_twice_is_of_the_boot_before_it_and_so_is_what_is_cut_off():
    first, last = (text_of(name) for name in ("xeon-8480c", "ryzen-9-7945hx"))
    (line,) = (line for line in last.splitlines(keepends=True) if "Enabled" in line)
    boots = parse_all((first + last + "x86/fpu: xstate_offset[12]: 24\n" + line).splitlines(keepends=True), "the log")
    assert [(boot.mask, boot.cut) for boot in boots] == [(0x602E7, False), (0x1AE7, True)]


def test_a_cut_log_says_that_it_is_cut():
    (text,) = (each for each in PRINTED if "0x602e7" in each)
    log = parse_text(cut(text, 80, "[    0.000000] ", ""))
    assert absent(log)[0] == "lines are cut off at the edge: what is behind it is not compared"


@pytest.mark.parametrize("digits", ["8", "84", "840"])
def test_a_number_at_the_edge_may_lack_digits_and_is_not_believed(digits):
    offset = "x86/fpu: xstate_offset[9]:  832, xstate_sizes[9]:    8\n"
    log = parse_text(f"{offset}x86/fpu: Enabled xstate features 0x207, context size is {digits}\n")
    assert (log.mask, log.size, log.format) == (0x207, 0, "compacted")


@pytest.mark.parametrize("edge", [">", "…"])
def test_a_line_that_a_pager_cut_off_within_its_mask_is_told_from_a_garbled_one(edge):
    line = next(line for line in TEXTS[0].splitlines() if "Enabled" in line)
    with pytest.raises(InputError, match="a pager cut off at the edge"):
        parse_text(line.partition("0x")[0] + "0x2" + edge + "\n")


NO_LOG = {
    "": "is empty; expected lines",
    "dmesg: read kernel buffer failed: Operation not permitted\n": "sudo dmesg prints it",
    "(XEN) Xen version 4.17\n(XEN) xstate: size: 0xa88 and states: 0x2e7\n": "fpswitch layout 0x2e7 --standard",
    "(XEN) xstate_init: using cntxt_size: 0x340 and states: 0x7\n": "fpswitch layout 0x7 --standard",
    "FreeBSD 14.0-RELEASE\n  XSAVE Features=0xf<XSAVEOPT>\n": "is a boot log of FreeBSD; only Linux",
    "[    0.000000] Microsoft 4.4.0-19041.1237-Microsoft 4.4.35\n": "the log of WSL 1, in which no Linux runs",
    "WyAgICAwLjAwMDAwMF0gTGludXggdmVyc2lvbiA2LjEuNzk=\n": "base64 -d unpacks it",
    "[    0.000000] Booting Linux on physical CPU 0x0\n": "another architecture; only x86 has these lines",
    "vendor_id\t: GenuineIntel\nflags\t\t: fpu xsave\n": "as /proc/cpuinfo and lscpu do; dmesg | grep x86/fpu",
    "   0x0000000d 0x00: eax=0x00000007 ebx=0x00000340 ecx=0x00000340 edx=0x0\n": "fpswitch cpu import FILE",
    "   bash-1 [000] d..2.  1.000000: sched_switch: prev_comm=bash\n": "is a trace: fpswitch replay FILE",
    "[    0.000000] Linux version 6.8.0\n[    0.1] a\n": "a quiet boot leaves them out on the console",
    "[ 4711.000000] usb 1-1: new device\n[ 4712.000000] eth0: up\n": "a log of a kernel without its boot",
    "something else\n": 'no "Enabled xstate features" line; expected lines',
}


@pytest.mark.parametrize("text", NO_LOG)
def test_what_has_no_line_to_compare_is_named_with_what_prints_them(capsys, tmp_path, text):
    path = tmp_path / "log"
    path.write_text(text)
    assert NO_LOG[text] in refused(capsys, "--boot-log", path)


@pytest.mark.parametrize(("lines", "told"), [(1, True), (4095, True), (4096, False)])
def test_the_first_256_ki_characters_tell_what_a_text_is(lines, told):
    text = ["x" * 63 + "\n"] * lines + ["dmesg: read kernel buffer failed: Operation not permitted\n"]
    with pytest.raises(InputError) as error:
        parse_all(text, "the log")
    assert ("sudo dmesg" in str(error.value)) == told


@pytest.mark.parametrize("text", [text for text in NO_LOG if text and text != "something else\n"])
def test_what_has_no_line_to_compare_is_told_wherever_it_begins(text):
    assert no_bootlog.told("a note\n" + text) == no_bootlog.told(text) != ""


@pytest.mark.parametrize(
    "way",
    [
        lambda text: text.replace("ff", "ﬀ").replace("fi", "ﬁ"),  # copied from a PDF file
        lambda text: text.replace("xstate_", "xstate"),  # italics of Markdown
        lambda text: text.replace("xstate_offset", "xstate<em>offset").replace("xstate_sizes", "xstate</em>sizes"),
        lambda text: "{\\rtf1\\ansi\n" + text.replace("'", "\\'92").replace("\n", "\\\n") + "}",
        lambda text: text.replace("'", "‹"),
        lambda text: text.replace("'", ""),
        lambda text: text.replace("'", "'\\''"),  # quoted for a shell
        lambda text: text.replace("'", "\\\\u0027"),  # JSON within a string of JSON
    ],
)
def test_signs_that_editors_and_shells_put_in_place_of_others_change_nothing(way):
    for text in PRINTED:
        assert parse_text(way(text)) == parse_text(text)


def test_contradictory_offsets_are_named_where_the_format_is_cut_off_too():
    text = (
        "x86/fpu: xstate_offset[2]:  576, xstate_sizes[2]:  256\n"
        "x86/fpu: xstate_offset[2]:  600, xstate_sizes[2]:  256\n"
        "x86/fpu: Enabled xstate features 0x7, context size is 832 bytes, using>\n"
    )
    with pytest.raises(InputError, match=r"contradictory xstate_offset\[2\] lines"):
        parse_text(text)


def test_offsets_that_no_format_has_without_an_enabled_line_are_refused():
    lines = [line for line in text_of("xeon-8480c").splitlines(keepends=True) if "Enabled xstate" not in line]
    with pytest.raises(InputError, match="the offsets that it has fit neither format"):
        parse_text("".join(lines).replace("xstate_offset[5]:  832", "xstate_offset[5]:  900"))


@given(st.sampled_from(PRINTED))
def test_lines_behind_the_only_enabled_line_are_of_its_boot_and_behind_the_last_of_two_of_none(text):
    lines = text.splitlines(keepends=True)
    (last,) = (line for line in lines if "Enabled" in line)
    others = [line for line in lines if line != last]
    one = parse_text("".join([last, *others]))
    assert (one.mask, one.offsets) == (parse_text(text).mask, parse_text(text).offsets)
    earlier = text_of("xeon-8480c" if one.mask != parse_text(text_of("xeon-8480c")).mask else "ryzen-9-7945hx")
    assert parse_text("".join([earlier, last, *others])).offsets == {}


@pytest.mark.parametrize(("breaks", "whole"), [(5, True), (6, True), (7, False)])
def test_an_enabled_line_that_a_terminal_broke_within_words_is_joined_in_six_places(breaks, whole):
    first, *rest = ["0x60", "2e7, con", "text size is 110", "08 byt", "es, using 'comp", "acted' for", "mat."]
    broken = (
        "x86/fpu: Enabled xstate features \n" + "\n".join([first, *rest[: breaks - 1]]) + "".join(rest[breaks - 1 :])
    )
    assert broken.count("\n") == breaks
    if whole:
        assert (parse_text(broken).mask, parse_text(broken).size) == (0x602E7, 11008)
    else:
        with pytest.raises(InputError):
            parse_text(broken)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0x2e7, context size is 2696 bytes, using 'com", (0x2E7, 2696, "compacted")),
        ("0x2e7, context size is 2696 bytes, using 's>", (0x2E7, 2696, "standard")),
        ("0x2e7, context size is 2696 bytes, using '", (0x2E7, 2696, "")),
        ("0x2e7, context size is 2696 b", (0x2E7, 2696, "")),
        ("0x2e7, context size is 2696", (0x2E7, 0, "")),  # or the first digits of 26960
        ("0x2e7, cont", (0x2E7, 0, "")),
        ("0x2e7, contact", None),
        ("0x2e", None),
    ],
)
def test_what_is_left_of_an_enabled_line_is_told_as_far_as_it_goes(line, told):
    """pr_info() in fpu__init_system_xstate(), arch/x86/kernel/fpu/xstate.c."""
    found = bootlog_cut.told(f"Enabled xstate features {line}")
    assert (found and found.enabled) == told


@pytest.mark.parametrize(
    ("offset", "size", "padded", "lacks"),
    [
        # "%4d", since Linux v4.4
        ("  576", "  256", True, False),
        ("  576", "   64", True, False),
        ("  576", "  25", True, True),
        ("  576", " 2", True, True),
        (" 12800", " 10000", True, False),
        (" 576", " 25", True, False),  # a blank too few: it may be that the size has lost one, too
        ("  576", "  25", False, False),  # of a web page, which makes one blank of several
        # "%04x", before it
        (" 0240", " 0100", False, False),
        (" 0240", " 1000", False, False),
        (" 0240", " 010", False, True),
        (" 0240", " 01", False, True),
        (" 0240", " 0", False, False),  # may be a decimal number
        (" 0240", " 0", True, True),
    ],
)
def test_a_size_in_fewer_columns_than_the_kernel_prints_lacks_digits(offset, size, padded, lacks):
    assert bootlog_cut.lacks_digits(f"xstate_offset[2]:{offset}, xstate_sizes[2]:{size}", padded) == lacks


def test_a_line_before_an_enabled_line_that_stands_twice_is_of_the_last_boot():
    first, last = (text_of(name) for name in ("xeon-8480c", "ryzen-9-7945hx"))
    (line,) = (line for line in last.splitlines(keepends=True) if "Enabled" in line)
    log = first + last + "x86/fpu: xstate_offset[12]: -2456, xstate_sizes[12]:   24\n" + line
    one, other = parse_all(log.splitlines(keepends=True), "the log")
    assert one.mask == 0x602E7
    assert "not as a kernel prints it" in other.why


@pytest.mark.parametrize("length", [159, 160, 161, 300])
def test_an_error_repeats_160_characters_of_a_garbled_line_at_most(length):
    line = "x86/fpu: xstate_offset[2]: -576, xstate_sizes[2]: 256 ".ljust(length, "y")
    shown = line if length <= 160 else line[:157] + "..."
    with pytest.raises(InputError, match=re.escape(f"not as a kernel prints it: {shown!r}")):
        parse_text(line + "\n")
