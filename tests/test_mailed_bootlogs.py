"""Boot logs as people send them: what mail programs, web pages, terminals and excerpts make of them."""

import email.message
import html
import json
import quopri
import textwrap

import pytest
from boot_logs import PRINTED, TEXTS, case, parse_text, read_bytes, refused, run_json
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.kernel import bootlog_reading
from sim.kernel.bootlog import BootLog, NoBoot, absent, check
from sim.kernel.bootlog_reading import chosen, parse_all
from sim.mailed import undone, without_prefix
from sim.xsave.profiles import profile

# What was posted, and what a person reads in it.


@pytest.mark.parametrize(
    ("name", "mask", "form", "size", "offsets"),
    [
        ("wrapped-in-quote", 0x7, "standard", 832, {"2": 576}),
        ("quoted-printable", 0x1F, "compacted", 960, {"2": 576, "3": 832, "4": 896}),
        ("nbsp", 0x7, "compacted", 832, {"2": 576}),
    ],
)
def test_a_log_that_went_through_a_mail_or_a_web_page_agrees(capsys, name, mask, form, size, offsets):
    status, document = run_json(capsys, "--boot-log", case(name))
    assert (status, document["agrees"], document["boots"]) == (0, True, 1)
    assert (document["mask"], document["format"], document["size"]) == (hex(mask), form, size)
    assert document["offsets"] == offsets
    assert document["not_in_log"] == []


def test_the_wording_before_linux_4_2_is_read_and_zero_sizes_are_absent_components(capsys):
    status, document = run_json(capsys, "--boot-log", case("xsave-enabled-el7"), "--cpu", "zen3")
    assert (status, document["agrees"]) == (0, True)
    assert (document["mask"], document["format"], document["size"]) == ("0x207", "standard", 0x988)
    assert document["offsets"] == {"2": 576, "9": 2432}
    assert document["sizes"] == {"2": 256, "9": 8}


def test_a_standard_log_with_amd_s_places_agrees_and_names_the_cpus_that_have_them(capsys):
    status, document = run_json(capsys, "--boot-log", case("xsave-enabled-el7"))
    assert (status, document["agrees"], document["cpu"]) == (0, True, None)
    assert [each["agrees"] for each in document["all_boots"]] == [True]
    assert document["computed"] == {"size": 2440, "offsets": {"2": 576, "9": 2432}}
    assert {"zen3", "zen4", "zen5"} <= set(document["cpus_that_agree"])
    assert not any(profile(each).vendor == "intel" for each in document["cpus_that_agree"])
    status, document = run_json(capsys, "--boot-log", case("xsave-enabled-el7"), "--cpu", "sapphire-rapids")
    assert (status, document["agrees"]) == (1, False)


@pytest.mark.parametrize(
    ("line", "mask", "size", "form"),
    [
        ("xsave: enabled xstate_bv 0x7, cntxt size 0x340", 0x7, 832, "standard"),
        ("xsave/xrstor: enabled xstate_bv 0x3, cntxt size 0x240", 0x3, 576, "standard"),
        ("xsave: enabled xstate_bv 0x1f, cntxt size 0x3c0 using compacted form", 0x1F, 960, "compacted"),
        ("xsave: enabled xstate_bv 0x7,\ncntxt size 0x340 using standard\nform", 0x7, 832, "standard"),
    ],
)
def test_each_of_the_older_wordings_is_read(line, mask, size, form):
    log = parse_text(f"Feb 14 18:12:27 debian kernel: [    0.000000] {line}\n")
    assert (log.mask, log.size, log.format) == (mask, size, form)
    assert check(log) == []


def test_a_kernel_without_xsave_says_so_and_so_do_we(capsys):
    assert "this kernel does not use XSAVE (x87 FPU will use FXSAVE)" in refused(capsys, "--boot-log", case("fxsave"))


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("[    0.0] x86/fpu: x87 FPU will use FSAVE\n", "x87 FPU will use FSAVE"),
        ("[    0.0] x86/fpu: Legacy x87 FPU detected.\n", "Legacy x87 FPU detected"),
        ("x86/fpu: No FPU detected\n", "No FPU detected"),
        ("> x86/fpu: Both APX/MPX present in the CPU's xstate features: 0x8001f.\n", "Both APX/MPX present"),
        ("x86/fpu: init_fpstate buffer too small (2 < 3), disabling XSAVE\n", "disabling XSAVE"),
        ("Kernel command line: ro quiet noxsave\nx86/fpu: x87 FPU will use FXSAVE\n", "kernel parameter noxsave; x87"),
        (
            "[ 0.1] XSAVE consistency problem: size 832 != kernel_size 0\n"
            "[ 0.1] WARNING: CPU: 0 PID: 0 at arch/x86/kernel/fpu/xstate.c:638 paranoid_xstate_size_valid+0x101/0x140\n"
            "[ 0.1] CPUID[0d, 00]: eax=00000007 ebx=00000340 ecx=00000340 edx=00000000\n"
            "[ 0.1] CPUID[0d, 01]: eax=00000000 ebx=00000000 ecx=00000000 edx=00000000\n",
            "size 832 != kernel_size 0; CPUID leaf 0DH, sub-leaf 1 has EAX = 0: no XSAVEC, no XSAVES",
        ),
        ("> x86/fpu: x87 FPU will\n> use FXSAVE\n", "x87 FPU will use FXSAVE"),
        ("XSAVE consistency problem, dumping leaves\n", "XSAVE consistency problem"),
    ],
)
def test_what_explains_that_the_lines_are_missing_is_repeated(log, why):
    with pytest.raises(InputError) as error:
        parse_text(log)
    assert "this kernel does not use XSAVE (" in str(error.value)
    assert why in str(error.value)


def test_a_reason_is_said_once_and_a_cpu_that_has_xsaves_is_none():
    log = (
        "[ 0.1] XSAVE consistency problem: size 832 != kernel_size 0\n"
        "[ 0.1] CPUID[0d, 01]: eax=0000001f ebx=00000340 ecx=00000000 edx=00000000\n"
    )
    with pytest.raises(InputError) as error:
        parse_text(log * 2)
    assert "does not use XSAVE (XSAVE consistency problem: size 832 != kernel_size 0)" in str(error.value)


def test_a_warning_of_a_kernel_that_uses_xsave_all_the_same_is_kept_beside_its_lines():
    warning = "XSAVE consistency problem: size 880 != kernel_size 840"
    log = parse_text(f"[    0.4] {warning}\n" + TEXTS[0])
    assert log.warnings == (warning,)
    assert check(log) == []


@pytest.mark.parametrize("last", [True, False])
def test_a_boot_without_xsave_is_one_of_several(last):
    other = "Linux version 6.1.0\nx86/fpu: x87 FPU will use FXSAVE\nsignal: max sigframe size: 1440\n"
    text = TEXTS[0] + other if last else other + TEXTS[0]
    boots = parse_all(text.splitlines(keepends=True), "the log")
    assert [type(each) for each in boots] == ([BootLog, NoBoot] if last else [NoBoot, BootLog])
    number = 2 if last else 1
    with pytest.raises(InputError, match=f"boot {number} of 2 .boot {3 - number} can be read.: this kernel does not"):
        chosen(boots, "the log", number)
    assert chosen(boots, "the log", 3 - number).mask == parse_text(TEXTS[0]).mask


def test_an_excerpt_agrees_as_far_as_it_goes(capsys):
    status, document = run_json(capsys, "--boot-log", case("excerpt-without-offsets"))
    assert (status, document["agrees"], document["disagreements"]) == (0, True, [])
    assert (document["mask"], document["size"]) == ("0x207", 840)
    assert document["not_in_log"] == ["the offsets of 2 (YMM), 9 (PKRU) are not in the log"]


@given(st.sampled_from(PRINTED), st.data())
def test_no_line_whose_absence_is_a_disagreement_but_the_enabled_one(text, data):
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if "Enabled" in line or data.draw(st.booleans())]
    log = parse_text("".join(kept))
    assert check(log) == []
    placed = {line for line in lines if "xstate_offset" in line}
    said = {line for line in lines if "Supporting" in line} if log.supporting else set()
    assert len(absent(log)) == bool(placed - set(kept)) + bool(said - set(kept))


def test_the_boots_of_host_and_guest_can_both_be_asked_for(capsys):
    status, last = run_json(capsys, "--boot-log", case("host-and-guest"))
    assert (status, last["agrees"], last["mask"], last["size"], last["boot"]) == (0, True, "0x602e7", 10752, 2)
    status, first = run_json(capsys, "--boot-log", case("host-and-guest"), "--boot", 1)
    assert (status, first["agrees"], first["mask"], first["size"], first["boot"]) == (0, True, "0x606e7", 10752, 1)
    assert first["not_in_log"] == []
    assert last["boots"] == first["boots"] == 2
    assert last["all_boots"] == first["all_boots"]
    assert [(each["boot"], each["mask"], each["agrees"]) for each in last["all_boots"]] == [
        (1, "0x606e7", True),
        (2, "0x602e7", True),
    ]
    assert "has no boot 3; it has 2" in refused(capsys, "--boot-log", case("host-and-guest"), "--boot", 3)
    assert "has no boot 0" in refused(capsys, "--boot-log", case("host-and-guest"), "--boot", 0)
    assert "--boot-log FILE" in refused(capsys, "0x7", "--boot", 1)


def test_an_earlier_boot_that_cannot_be_read_is_in_the_list_and_not_in_the_way(capsys, tmp_path):
    log = tmp_path / "dmesg"
    log.write_text(
        TEXTS[0].replace("using '", "using -") + TEXTS[0].replace("xstate_offset[2]:  576", "xstate_offset[2]: x")
    )
    assert "not as a kernel prints it" in refused(capsys, "--boot-log", log)
    log.write_text(TEXTS[0].replace("xstate_offset[2]:  576", "xstate_offset[2]: x") + TEXTS[0])
    status, document = run_json(capsys, "--boot-log", log)
    assert (status, document["boots"]) == (0, 2)
    assert "not as a kernel prints it" in document["all_boots"][0]["why_not"]


@pytest.mark.parametrize("text", PRINTED)
def test_the_journals_json_is_a_message_a_line(text):
    assert read_bytes(
        "".join(json.dumps({"MESSAGE": line}) + "\n" for line in text.splitlines()).encode()
    ) == parse_text(text)


def old_boot(time: str, version: bool) -> str:
    before = f"{time} host kernel: [    0.000000] "
    begins = before + "Linux version 3.2.0-29-generic\n" if version else ""
    return begins + before + "xsave/xrstor: enabled xstate_bv 0x7, cntxt size 0x340\n"


@pytest.mark.parametrize(
    ("log", "boots"),
    [
        (old_boot("May  9 09:04:47", True) + old_boot("May  9 09:04:47", True), 2),
        (old_boot("May  9 09:04:47", False) + old_boot("May  9 10:00:00", False), 2),
        (old_boot("May  9 09:04:47", False) + "-- Reboot --\n" + old_boot("May  9 10:00:00", False), 2),
        (old_boot("May  9 09:04:47", True) + "> " + old_boot("May  9 09:04:47", False), 1),
        ("In short: enabled xstate_bv 0x7, cntxt size 0x340\n" + old_boot("May  9 09:04:47", True), 1),
    ],
    ids=["versions", "times", "journalctl", "quoted", "told and shown"],
)
def test_one_line_a_boot_is_a_boot_where_its_time_or_the_log_says_so(log, boots):
    assert parse_text(log).boots == boots


@pytest.mark.parametrize("zeros", [1, 300, 5000])
@pytest.mark.parametrize("place", [0, 700])
def test_zeros_that_a_power_failure_left_in_a_log_are_not_in_the_way(zeros, place):
    content = PRINTED[0].encode()
    place = content.index(b"\n", place) + 1 if place else 0
    assert read_bytes(content[:place] + b"\0" * zeros + content[place:]) == parse_text(PRINTED[0])


# The same log, whatever happened to it.

PREFIXES = [
    "",
    "> ",
    "> > > ",
    ">>> ",
    "| ",
    "# ",
    "Jan 12 03:04:05 host kernel: ",
    "[    0.000000] ",
    "<6>[    0.07] ",
]


def wrapped(text: str, width: int, prefix: str, again: str) -> str:
    """Each line wrapped at ``width``, with ``prefix`` before its first part and ``again`` before the others."""
    return "".join(
        part + "\n"
        for line in text.splitlines()
        for part in textwrap.wrap(
            line, width, initial_indent=prefix, subsequent_indent=again, break_on_hyphens=False, break_long_words=False
        )
    )


@given(st.sampled_from(PRINTED), st.integers(30, 100), st.sampled_from(PREFIXES), st.sampled_from(["", "> ", "> > "]))
def test_wrapping_with_the_prefix_repeated_changes_nothing(text, width, prefix, quoted):
    mailed = wrapped(text, width + len(prefix), quoted + prefix, quoted + prefix)
    assert parse_text(mailed) == parse_text(text)


@given(st.sampled_from(PRINTED), st.integers(40, 100), st.sampled_from(["> ", "> > ", ""]))
def test_wrapping_with_quote_marks_alone_repeated_changes_nothing(text, width, quoted):
    mailed = wrapped(text, width, quoted + "[    0.000000] ", quoted)
    assert parse_text(mailed) == parse_text(text)


@given(st.sampled_from(PRINTED), st.integers(80, 100), st.sampled_from(PREFIXES))
def test_a_terminal_that_breaks_lines_within_words_changes_nothing(text, width, prefix):
    lines = [prefix + line for line in text.splitlines()]
    broken = [line[at : at + width] for line in lines for at in range(0, len(line), width)]
    assert parse_text("".join(line + "\n" for line in broken)) == parse_text(text)


@given(st.sampled_from(TEXTS), st.integers(0, 30))
def test_quoted_printable_with_soft_line_ends_anywhere_changes_nothing(text, shift):
    padded = "".join("x" * shift + " " + line + "\n" for line in text.splitlines())
    assert parse_text(quopri.encodestring(padded.encode()).decode()) == parse_text(text)


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_raw_mail_in_any_transfer_encoding_is_the_text_that_was_sent(text, encoding):
    mail = email.message.EmailMessage()
    mail["Subject"] = "boot log"
    mail.set_content("Hi,\n\n" + text.replace("'", "’") + "\nBye\n", cte=encoding)
    assert read_bytes(mail.as_bytes()) == parse_text(text)
    assert read_bytes(b"From mboxrd Thu Jan  1 00:00:00 1970\n" + mail.as_bytes() * 2).boots == 2


def test_codes_that_could_be_numbers_are_undone_only_where_a_header_says_that_there_are_codes():
    line = "CPUID[0d, 00]: eax=20000000 ebx=3d000000\n"
    assert list(undone([line])) == [line]
    header = ["Content-Transfer-Encoding: quoted-printable\n", "\n", "a=20b=3Dc\n", "--part\n", "eax=20000000\n"]
    assert list(undone(header))[2:] == ["a b=c\n", "--part\n", "eax=20000000\n"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "page",
    [
        lambda text: "<pre>" + html.escape(text) + "</pre>",
        lambda text: "<div>" + html.escape(text).replace("\n", "<br>") + "</div>",
        lambda text: html.escape("> " + text.replace("\n", "\n> ")).replace(" ", "&nbsp;"),
        lambda text: html.escape(html.escape(text)),
        lambda text: "".join(f'<p><span class="k">{html.escape(line)}</span></p>' for line in text.splitlines()),
    ],
    ids=["pre", "br", "nbsp", "twice", "paragraphs"],
)
def test_html_is_the_text_that_it_shows(text, page):
    assert parse_text(page(text)) == parse_text(text)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "look",
    [
        lambda text: text.replace(" ", "\xa0").encode(),
        lambda text: text.replace(" ", "\u202f\u200b").encode(),
        lambda text: text.replace("'", "’").encode("cp1252"),
        lambda text: text.replace(" ", "\xa0").encode("latin-1"),
        lambda text: text.replace("'", "’").encode().decode("cp1252").encode(),
        lambda text: ("\ufeff" + text).encode("utf-16-le"),
        lambda text: text.replace("'", '"').encode(),
        lambda text: text.replace("x86/fpu", "\x1b[33mx86/fpu\x1b[0m").replace("0x", "\x1b[1m0x").encode(),
        lambda text: text.replace("xstate", "[01;31m[Kxstate[m[K").encode(),
        lambda text: text.replace("xstate", "^[[01;31mxstate^[[0m").encode(),
        lambda text: text.replace("_", "\\_").replace("[", "\\[").replace("'", "\\'").encode(),
        lambda text: json.dumps({"body": text}).replace("/", "\\/").replace("'", "\\u0027").encode(),
        lambda text: text.replace("Enabled xstate features", "**Enabled xstate features**").encode(),
        lambda text: text.replace("xstate_sizes", "[b]xstate_sizes[/b]").replace("bytes", "[color=red]bytes").encode(),
    ],
    ids=[
        *("nbsp", "narrow", "cp1252", "latin1", "mojibake", "utf16", "double", "colours", "grep", "caret", "markdown"),
        *("json", "bold", "bbcode"),
    ],
)
def test_characters_that_look_alike_are_alike(text, look):
    assert read_bytes(look(text)) == parse_text(text)


@pytest.mark.parametrize(
    ("before", "line", "rest"),
    [
        ("> [    0.000000] x86/fpu: ", "> registers'\n", "registers'\n"),
        ("> > ", "> registers'\n", "registers'\n"),
        ("> x86/fpu: ", "> xstate_sizes[2]:  256\n", "xstate_sizes[2]:  256\n"),
        ("x86/fpu: ", "xstate_sizes[2]:  256\n", "xstate_sizes[2]:  256\n"),
        ("[    9.999999] kernel: ", "[   10.000000] kernel: bytes\n", "bytes\n"),
        ("Jan  1 00:00:09 a kernel: x86/fpu: ", "Jan  1 00:00:10 a kernel: bytes\n", "bytes\n"),
        ("", "bytes\n", "bytes\n"),
    ],
)
def test_the_end_of_a_wrapped_line_loses_what_begins_both_parts(before, line, rest):
    assert without_prefix(line, before) == rest


def test_the_end_of_the_first_line_is_kept_where_it_was_wrapped():
    lines = ["> x86/fpu: XSAVE\n", "> disabled\n"]
    assert list(bootlog_reading._candidates(lines)) == ["> x86/fpu: XSAVE\n", "disabled\n"]
