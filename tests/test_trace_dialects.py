"""Traces as people post them: merged, wrapped, of other clocks, tools and kernels."""

import html
import io
import quopri
import re
import textwrap
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_texts import CASES, FORMATS, PLAIN, as_trace_cmd, checked, read, run, short, without_lines

from sim.trace.reading import dialects
from sim.trace.reading.reader import Reader

# The cases.


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("host-only", 3),
        ("trace-cmd-host-and-guest", 3),
        ("trace-clock-tsc", 4),
        ("perf-prof", 4),
        ("perf-deltatime", 4),
        ("trace-no-xsaves", 4),
        ("old-kernel-header", 5),
    ],
)
def test_a_lawful_trace_is_explained_however_it_was_printed(capsys, name, events):
    status, check = checked(capsys, name)
    assert (status, check["events"], check["unexplained"], check["agreement"]) == (0, events, [], 1.0)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("trace-cmd-host-and-guest", "the lines of trace.dat are followed; lines left out: 4 of trace-vm1.dat"),
        ("trace-clock-tsc", "times are cycles (trace_clock x86-tsc)"),
        ("trace-no-xsaves", "this machine uses neither XSAVES nor XSAVEC (standard format, xcomp_bv 0)"),
        ("old-kernel-header", "Linux 5.13 is older than v6.6, the oldest kernel of the model"),
    ],
)
def test_what_was_done_to_a_trace_is_noted(capsys, name, note):
    _, out, _ = run(capsys, "replay", CASES / f"{name}.txt", "--check")
    assert f"note: {note}" in out.replace("a merged report: ", "")


def test_a_merged_report_is_followed_as_its_host_alone(capsys):
    merged, host = (checked(capsys, name)[1] for name in ("trace-cmd-host-and-guest", "host-only"))
    assert len(merged.pop("notes")) == len(host.pop("notes")) + 1
    assert merged == host


def test_lines_that_a_mail_wrapped_are_read_and_what_the_trace_lacks_is_what_is_missed(capsys):
    status, out, err = run(capsys, "replay", CASES / "trace-wrapped-by-mail.txt", "--check")
    assert (status, out) == (2, "")
    assert "has no sched:sched_switch events" in err
    assert "x86_fpu_regs" not in err.partition("\n")[0]
    found, reader = read((CASES / "trace-wrapped-by-mail.txt").read_bytes())
    assert [step.line for step in found] == [1, 3, 5]
    assert reader.report.foreign == 0


def test_the_fields_of_an_older_kernel_are_recognised(capsys):
    status, out, err = run(capsys, "replay", CASES / "trace-initialized-field.txt", "--check")
    assert (status, out) == (2, "")
    assert "x86_fpu events in the format of Linux v4.14 to v5.1 (initialized:); only those with load:" in err


@pytest.mark.parametrize("line", [0, 1, 2])
def test_events_without_readable_fields_are_not_events(capsys, tmp_path, line):
    texts = (CASES / "host-only.txt").read_text().splitlines(keepends=True)
    broken = tmp_path / "broken.txt"
    broken.write_text("".join(re.sub("(x86/fpu: 0x[0-9a-f]{5})[^\n]*", r"\1", each) for each in texts[line:]))
    status, out, err = run(capsys, "replay", broken, "--check")
    assert (status, out) == (2, "")
    assert "x86_fpu_regs_activated" in err
    assert "without the fields that the kernel prints (wrapped, or cut off?), the first: 'x86/fpu: 0xffff8" in err
    assert "mask" not in err


@pytest.mark.parametrize(("number", "says"), [(1, "On 1 line x86_fpu"), (2, "On 2 lines x86_fpu")])
def test_lines_without_fields_are_counted_in_english(capsys, tmp_path, number, says):
    broken = tmp_path / "broken.txt"
    lines = re.findall("[^\n]* x86_fpu_regs_activated: x86/fpu: 0x[0-9a-f]{5}", (CASES / "host-only.txt").read_text())
    broken.write_text("\n".join(lines[:number]) + "\n")
    _, _, err = run(capsys, "replay", broken, "--check")
    assert says in err


def test_without_boot_lines_the_standard_format_is_followed_by_what_was_in_use(capsys, tmp_path):
    trace = tmp_path / "trace.txt"
    trace.write_text("".join(re.findall("(?m)^[^#].*\n", (CASES / "trace-no-xsaves.txt").read_text())))
    status, out, _ = run(capsys, "replay", trace, "--check")
    assert status == 0
    assert "fpstates 0x3" in out


# The same trace, printed otherwise.


@pytest.mark.parametrize("name", PLAIN)
def test_a_guest_s_lines_in_a_merged_report_change_nothing(name):
    rows = as_trace_cmd(short(name))
    host = b"".join(row + b"\n" for row in rows)
    merged = b"".join(
        b"      trace.dat: " + row + b"\n" + (b"  trace-vm1.dat: " + row + b"\n" if k % 3 == 0 else b"")
        for k, row in enumerate(rows)
    )
    if b"kvm_entry" not in host:  # then the first file counts
        assert merged.startswith(b"      trace.dat:")
    found, reader = read(merged)
    assert without_lines(found) == without_lines(read(host)[0])
    assert reader.dialect.left_out.total() == len(rows[::3])
    assert reader.report.foreign == 0


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("mhz", [None, 2596.15, 1000.0])
def test_times_in_cycles_are_those_in_seconds(name, mhz):
    rows = as_trace_cmd(short(name))
    scale = 1.0 if mhz is None else mhz / 1000

    def cycles(match):
        return b"] %d: " % round((int(match[1]) * 10**9 + int(match[2]) * 1000) * scale)

    text = b"".join(re.sub(rb"\] (\d+)\.(\d{6}): ", cycles, row, count=1) + b"\n" for row in rows)
    comment = b"" if mhz is None else b"# kernel 6.18.0 x86_64, 2 cpus, TSC %.3f MHz\n" % mhz
    found, _ = read(comment + text)
    plain, _ = read(b"".join(row + b"\n" for row in rows))
    assert [tuple(step)[2:] for step in found] == [tuple(step)[2:] for step in plain]
    assert all(abs(one.time_ns - other.time_ns) <= 1 for one, other in zip(found, plain, strict=True))


@pytest.mark.parametrize("name", PLAIN)
def test_numbers_of_trace_clock_counter_are_an_order(name):
    rows = as_trace_cmd(short(name))
    numbered = [re.sub(rb"\] [\d.]+: ", b"] %6d: " % k, row, count=1) for k, row in enumerate(rows, 1)]
    found, reader = read(b"".join(row + b"\n" for row in numbered))
    plain, _ = read(b"".join(row + b"\n" for row in rows))
    assert [tuple(step)[2:] for step in found] == [tuple(step)[2:] for step in plain]
    assert reader.dialect.cycles
    mark = b"            bash-1       [000]  950.082728: tracing_mark_write: bar [001] 12: x\n"
    assert not read(mark + b"".join(row + b"\n" for row in rows))[1].dialect.cycles


def test_the_next_lines_of_a_text_of_trace_marker_are_no_foreign_lines():
    rows = as_trace_cmd(short(min(PLAIN)))
    mark = b"            bash-1       [000]  950.082728: tracing_mark_write: phase 2\n"
    text = b"  of 3: on\n\nand so on\n"
    events = b"".join(row + b"\n" for row in rows)
    found, reader = read(events + mark + text)
    assert (len(found), reader.report.foreign) == (len(read(events)[0]), 0)
    assert read(events + text)[1].report.foreign == 2  # without the event that they are a part of
    cut = next(row for row in rows if b"sched_switch: " in row).partition(b"[")[2] + b"\n"
    assert read(events + mark + text + cut)[1].report.foreign == 1  # an event that has lost its beginning


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(PLAIN)), st.integers(70, 100), st.sampled_from(["", "> ", "> > "]))
def test_lines_wrapped_by_a_mail_are_the_lines(name, width, quote):
    rows = [re.sub(rb" +", b" ", row.replace(b"CPU 0/KVM", b"vcpu0")) for row in as_trace_cmd(short(name))[:60]]
    wrapped = "".join(
        f"{quote}{part}\n"
        for row in rows
        for part in textwrap.wrap(row.decode(), width, break_on_hyphens=False, break_long_words=False)
    )
    plain, _ = read(b"".join(row + b"\n" for row in rows))
    found, reader = read(wrapped.encode())
    assert without_lines(found) == without_lines(plain)
    assert reader.report.foreign == 0


@pytest.mark.parametrize("name", PLAIN)
def test_perf_s_second_time_and_perf_prof_s_date_are_left_out(name):
    text = b"".join(line for line in short(name).splitlines(keepends=True) if not line.startswith(b"#"))
    plain = without_lines(read(text)[0])
    delta = re.sub(rb"(\d\.\d{6}): ", rb"\1 (     0.001): ", text)
    assert without_lines(read(delta)[0]) == plain
    prof = re.sub(rb"(?m)^(.*? +\d+) +(\[\d{3}\])", rb"2022-04-22 17:39:26.535148 \1 d... \2", text)
    assert without_lines(read(prof)[0]) == plain


PERF_HEAD = re.compile(rb"(?m)^( *\S.*?) +(\d+) +\[(\d{3})\] +(\d+)\.(\d{6}): +\w+:")

PREFIXES = {
    "patch": lambda text: re.sub(rb"(?m)^", b"+ ", text),
    "grep -n": lambda text: b"".join(b"%d:%b" % each for each in enumerate(text.splitlines(keepends=True), 1)),
    "cat -n": lambda text: b"".join(b"%6d\t%b" % each for each in enumerate(text.splitlines(keepends=True), 1)),
    "grep in files": lambda text: re.sub(rb"(?m)^(?=.)", b"host/trace.txt:12:", text),
    "a tab": lambda text: re.sub(rb"(?m)^(?=.)", b"\t", text),
    "the kernel's log": lambda text: re.sub(rb"(?m)^(?=.)", b"[   12.345678][    T1] ", text),
    "syslog": lambda text: re.sub(rb"(?m)^(?=.)", b"Nov  8 10:00:00 host perf[123]: ", text),
    "a container's log": lambda text: re.sub(rb"(?m)^(?=.)", b"2025-11-28T10:00:00.123456789Z stdout F ", text),
    "journalctl -o short-iso": lambda text: re.sub(rb"(?m)^(?=.)", b"2025-11-28T10:00:00+0100 host perf[1]: ", text),
}

PASTES = {
    "quoted-printable": quopri.encodestring,
    "its mail": lambda text: b"Content-Transfer-Encoding: quoted-printable\n\n" + quopri.encodestring(text),
    "html": lambda text: b"<pre>\n" + html.escape(text.decode()).encode() + b"</pre>\n",
    "nbsp": lambda text: text.replace(b"  ", "\xa0 ".encode()),
    "latin-1": lambda text: text.replace(b"  ", b"\xa0 "),
    "tabs": lambda text: re.sub(rb" {2,}", b"\t", text),
    "grep": lambda text: re.sub(rb"(sched_switch|x86_fpu_\w+)", b"\x1b[01;31m\x1b[K\\1\x1b[m\x1b[K", text),
    "wrapped at the name": lambda text: re.sub(rb"(\d\.\d{6}): +", rb"\1:\n", text),
    "windows": lambda text: text.replace(b"\n", b"\r\n"),
    "no comm": lambda text: re.sub(rb"(?m)^ *\S.*? +(\d+ \[)", rb"\1", text),
    "systrace's script": lambda text: text.replace(b"\n", b"\\n\\\n"),
    "time of day": lambda text: re.sub(rb"(\] +)(?=\d+\.\d{6}:)", rb"\g<1>2025-11-28 10:00:00.123456 ", text),
    "differences": lambda text: re.sub(rb"(\.\d{6}: +)(?:\w+:)?(?=\w+: )", rb"\g<1>(+12) ", text),
    "code address": lambda text: re.sub(rb"(?m)$", b" ffffffff81a0b0c0 __schedule+0x3f0 ([kernel.kallsyms])", text),
}


@pytest.mark.parametrize("how", PASTES)
@pytest.mark.parametrize("name", PLAIN)
def test_what_was_pasted_is_the_trace(name, how):
    text = b"".join(line for line in short(name).splitlines(keepends=True) if not line.startswith(b"#"))
    names = slice(1, 4) if how == "no comm" else slice(1, None)

    def same(found):
        return [(step.time_ns, step.cpu, step.tid, step.event, step.values) for step in found][names]

    found, reader = read(PASTES[how](text))
    assert same(found) == same(read(text)[0])
    assert not reader.report.unread


@pytest.mark.parametrize("how", PREFIXES)
@pytest.mark.parametrize("name", PLAIN)
def test_what_stands_before_each_line_is_no_part_of_a_thread_s_name(name, how):
    text = b"".join(line for line in short(name).splitlines(keepends=True) if not line.startswith(b"#"))
    found, reader = read(PREFIXES[how](text))
    assert found == read(text)[0]
    assert reader.report.foreign == 0


def test_what_a_mail_says_behind_the_last_event_is_no_part_of_it():
    rows = as_trace_cmd(short("host-pipe"))[:40]
    fpu = [row for row in rows if b"x86_fpu" in row]
    text = (
        b"".join(re.sub(rb"(x86/fpu: \S+)", rb"\n\1", row) + b"\n" for row in fpu)
        + b"   5. I also saw\nsomething else.\n"
    )
    found, reader = read(text)
    assert without_lines(found) == without_lines(read(b"".join(row + b"\n" for row in fpu))[0])
    assert reader.report.foreign == 2


def test_kvm_s_events_without_a_task_are_not_said_to_be_absent(capsys, tmp_path):
    text = "[001]  7.100000: kvm:kvm_entry: vcpu 0, rip 0x1\n[001]  7.100009: kvm:kvm_exit: vcpu 0 reason HLT rip 0x1\n"
    trace = tmp_path / "trace.txt"
    trace.write_text(text)
    status, _, err = run(capsys, "replay", trace, "--exits")
    assert (status, "2 lines have an event but not its task, CPU or time" in err) == (2, True)


@pytest.mark.parametrize("name", PLAIN)
def test_lines_keep_their_numbers_where_a_mail_broke_them(name):
    text = b"".join(line for line in short(name).splitlines(keepends=True) if not line.startswith(b"#"))
    encoded = quopri.encodestring(text)
    found, _ = read(encoded)
    rows = encoded.splitlines()
    assert all(b"]" in rows[step.line - 1] for step in found)
    assert all(one.line < other.line for one, other in pairwise(found))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("before", [b"", b"[  123.456789] ", b"[  123.456789][   T17] "])
def test_ftrace_s_latency_format_and_a_dump_on_oops_are_read(name, before):
    text = b"".join(line for line in short(name).splitlines(keepends=True) if not line.startswith(b"#"))

    def latency(match):
        comm, tid, cpu, seconds, micros = match.groups()
        mark = b"+" if int(micros) % 3 else b" "
        return b"%s%8s-%-7d %3d%s %4dus%s: " % (
            before, comm.strip()[:8], int(tid), int(cpu), b"d..2.", int(seconds + micros), mark,
        )  # fmt: skip

    found, reader = read(PERF_HEAD.sub(latency, text))
    plain, _ = read(text)
    assert [tuple(step)[1:4] for step in found] == [tuple(step)[1:4] for step in plain]
    assert [tuple(step)[5:] for step in found] == [tuple(step)[5:] for step in plain]
    assert {step.comm for step in found} == {step.comm[:8] for step in plain}
    assert reader.report.foreign == 0


STATES = {"R": 0, "R+": 256, "S": 1, "D": 2, "T": 4, "t": 8, "X": 16, "Z": 32, "P": 64, "I": 128}


def as_raw(row):
    """A line of trace-cmd report as its option -R prints it."""
    row = re.sub(
        rb"prev_state=(\S+) ==> next", lambda m: b"prev_state=%d next" % STATES[m[1].decode()], row
    )  # fmt: skip
    row = re.sub(
        rb"x86/fpu: (\S+) load: (\d) xfeatures: (\w+) xcomp_bv: (\w+)",
        rb"fpu=\1 load_fpu=\2 xfeatures=0x\3 xcomp_bv=0x\4",
        row,
    )
    row = re.sub(rb"kvm_fpu: (un)?load", lambda m: b"kvm_fpu: load=0x%d" % (not m[1]), row)
    row = re.sub(rb"kvm_entry: vcpu (\d+)", rb"kvm_entry: vcpu_id=0x\1 rip=0x1234 immediate_exit=0", row)
    row = re.sub(rb"reason KVM_EXIT_IO \(2\)", b"reason=0x2 errno=0", row)
    row = re.sub(rb"reason restart \(4\)", b"reason=0x0 errno=-4", row)
    return re.sub(rb"prio=(\d+) target_cpu=0*(\d)", rb"prio=\1 success=1 target_cpu=\2", row)


@pytest.mark.parametrize("name", PLAIN)
def test_raw_fields_of_trace_cmd_are_the_fields(name):
    rows = [row for row in as_trace_cmd(short(name)) if b"kvm_exit:" not in row]
    plain, _ = read(b"".join(row + b"\n" for row in rows))
    found, reader = read(b"".join(as_raw(row) + b"\n" for row in rows))
    assert without_lines(found) == without_lines(plain)
    assert reader.report.foreign == 0


def test_a_raw_state_is_the_letter_that_sched_switch_prints():
    line = b"a-1 [000] 1.000001: sched_switch: prev_comm=a prev_pid=1 prev_prio=120 prev_state=%d next_comm=b "
    found, _ = read(b"".join((line + b"next_pid=2 next_prio=120\n") % bits for bits in range(1 << 9)))
    letters = {1: "S", 2: "D", 4: "T", 8: "t", 16: "X", 32: "Z", 64: "P", 128: "I"}
    assert [chr(step.values[2]) for step in found] == [letters.get(bits & 255 & -bits, "R") for bits in range(1 << 9)]


def test_an_older_wakeup_and_a_latency_at_the_end_are_read():
    text = (
        "version = 6\ncpus=4\nCPU 2 is empty\n"
        "<idle>-0 [001] d.h2. 1.000001: sched_wakeup: comm=a pid=1 prio=120 success=1 target_cpu=003\n"
        "a-1 [003] d..2. 1.000003: sched_switch: <idle>:0 [120] R ==> a:1 [120] Latency: 2.000 usecs\n"
    )
    found, reader = read(text.encode())
    assert [step.values for step in found] == [(1, 120, 3), (0, 120, ord("R"), "a", 1, 120)]
    assert reader.report.foreign == 0


@pytest.mark.parametrize("lost", [rb"\1\3", rb"\1\2 \4"])
def test_a_trace_of_which_most_lines_lack_task_or_cpu_is_refused(capsys, tmp_path, lost):
    rows = short("host-pipe").splitlines(keepends=True)
    fields = rb"(?m)^( *\S.*?) +(\d+) +(\[\d{3}\] +)(\d+\.\d{6}: )"
    broken = tmp_path / "broken.txt"
    broken.write_bytes(
        b"".join(rows[:60]) + re.sub(fields, lost + (rb" \4" if lost == rb"\1\3" else b""), b"".join(rows[60:]))
    )
    status, out, err = run(capsys, "replay", broken, "--check")
    assert (status, out) == (2, "")
    assert "lack its task, CPU or time" in err


@pytest.mark.parametrize("kept", [rb"\1 \2 \4", rb"\1 \2 \3", rb"\4"], ids=["no CPU", "no time", "no task"])
def test_a_trace_without_a_column_is_refused_in_one_sentence_with_the_option_that_prints_it(capsys, tmp_path, kept):
    text = re.sub(rb"(?m)^( *\S.*?) +(\d+) +(\[\d{3}\] +)(\d+\.\d{6}: )", kept, short("host-pipe"))
    (tmp_path / "trace.txt").write_bytes(b"".join(re.findall(rb"(?m)^[^#].*\n", text)))
    status, out, err = run(capsys, "replay", tmp_path / "trace.txt", "--check")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "its events lack their task, CPU or time" in err
    assert "perf script -F comm,tid,cpu,time,event,trace" in err


@pytest.mark.parametrize("data", [*PLAIN.values(), *(path.read_bytes() for path in FORMATS.iterdir())])
def test_what_the_tools_print_themselves_is_no_dialect(data):
    told = dialects.told(data[: data.rfind(b"\n") + 1])
    assert told is None or told.is_plain


def test_a_dialect_is_the_same_whatever_the_blocks():
    rows = as_trace_cmd(short(next(iter(PLAIN))))
    merged = b"".join(b"      trace.dat: " + row + b"\n  trace-vm1.dat: " + row + b"\n" for row in rows)
    whole, _ = read(merged)
    for block in (1 << 12, 1 << 14):
        assert read(merged, block)[0] == whole


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("load", ["load", "initialized"])
def test_a_table_is_there_if_it_has_a_row(name, load):
    text = short(name).replace(b"load: ", load.encode() + b": ")
    (chunk,) = Reader(io.BytesIO(text), "a trace").chunks()
    assert ("x86_fpu" in chunk.tables) == (load == "load")
    assert all(len(rows) for rows, _ in chunk.tables.values())
