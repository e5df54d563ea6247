"""Traces with something before, behind, between or around their lines, as bug trackers, logs and tools leave them."""

import base64
import gzip
import io
import json
import lzma
import os
import re
import threading
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from command import run

from sim.errors import InputError
from sim.trace.following.machine import header
from sim.trace.reading import lines
from sim.trace.reading.chunks import steps
from sim.trace.reading.events import CODE, SIGRETURN
from sim.trace.reading.reader import Reader

SAMPLE = Path(__file__).parent / "data" / "traces" / "signals" / "vcpu-halt-signals.txt.gz"


class Row(NamedTuple):
    """An event's line in parts."""

    comm: str
    tid: int
    cpu: int
    us: int
    subsystem: str
    event: str
    payload: str

    @property
    def time(self):
        return f"{self.us // 10**6:5}.{self.us % 10**6:06}"


def rows():
    for line in gzip.decompress(SAMPLE.read_bytes()).splitlines()[320:620]:
        found = lines.HEADER.match(line)
        assert found is not None
        subsystem = re.search(rb" (\w+):" + found["event"], line)[1]
        us = int(found["seconds"]) * 10**6 + int(found["fraction"])
        texts = (subsystem.decode(), found["event"].decode(), found["payload"].decode())
        yield Row(found["comm"].decode(), int(found["tid"]), int(found["cpu"]), us, *texts)


ROWS = tuple(rows())


def perf(row, behind_cpu="", behind=""):
    name = f"{row.subsystem}:{row.event}"
    return f"{row.comm:>16} {row.tid:7} [{row.cpu:03}] {behind_cpu}{row.time}: {name:>34}: {row.payload}{behind}"


def ftrace(row):
    return f"{row.comm:>16}-{row.tid:<7} [{row.cpu:03}] d..2. {row.time}: {row.event}: {row.payload}"


def trace_cmd(row):
    return f"{row.comm:>16}-{row.tid:<5} [{row.cpu:03}] {row.time}: {row.event + ':':<21} {row.payload}"


def head(row):
    """What stands before the event."""
    return ftrace(row).partition(": ")[0]


def in_lines(each, found=ROWS):
    return "".join(f"{each(row)}\n" for row in found)


def read(text, block=1 << 20):
    reader = Reader(io.BytesIO(text if isinstance(text, bytes) else text.encode()), "a trace", block)
    return [step for chunk in reader.chunks() for step in steps(chunk, reader.names)], reader


def same(found):
    """All of each event but its line, and what stands behind a sigreturn."""
    return [(*tuple(step)[1:-1], () if step.event == SIGRETURN else step.values) for step in found]


EVENTS = same(read(in_lines(perf))[0])
TEXT = in_lines(ftrace)


def test_the_tools_print_the_same_events():
    assert EVENTS == same(read(in_lines(ftrace))[0]) == same(read(in_lines(trace_cmd))[0])
    assert len(EVENTS) > 200
    assert {"kvm_fpu", "sched_switch", "signal_deliver"} <= {
        name for name in CODE if CODE[name] in {e[4] for e in EVENTS}
    }


# Before and behind each line.

AROUND = {
    "a chat": lambda line: f"[10:00:00] {line}",
    "ts": lambda line: f"Nov 28 10:00:00 {line}",
    "ts -s": lambda line: f"00:00:00 {line}",
    "ts %.s": lambda line: f"1764345600.123456 {line}",
    "a laboratory": lambda line: f"10:00:00.123456  {line}",
    "another host": lambda line: f"host1: {line}",
    "a host with a number": lambda line: f"node-01:  {line}",
    "kubectl logs --prefix": lambda line: f"[pod/x/tracer] {line}",
    "docker compose": lambda line: f"tracer-1  | {line}",
    "a CI job": lambda line: f"job\tstep name\t2025-11-28T10:00:00.1234567Z {line}",
    "JSON of docker": lambda line: json.dumps({"log": line + "\n", "time": "2025"}).replace(">", "\\u003e"),
    "ansible": lambda line: f'        "{line}",',
    "CSV": lambda line: f'"{line}"',
    "Python": lambda line: f"{line!r},",
    "bullets": lambda line: f"* {line}",
    "a list": lambda line: f"  12. {line}",
    "a source": lambda line: f"// {line}",
    "bat": lambda line: f"\x1b[38;5;238m  12\x1b[0m \x1b[38;5;238m│\x1b[0m {line}",
    "coloured": lambda line: f"\x1b[32m{line}\x1b[0m",
    "CPU coloured": lambda line: re.sub(r"(\[\d+\])", "\x1b[32m\\1\x1b[0m", line),
    "/dev/kmsg": lambda line: f"6,1234,12345678,-;{line}",
    "dmesg -T": lambda line: f"[Fri Nov 28 10:00:00 2025] {line}",
    "dmesg -x": lambda line: f"kern  :info  : [   12.345678] {line}",
    "a table": lambda line: f'<tr><td class="n">12</td><td>{line.replace(">", "&gt;")}</td></tr>',
    "line breaks": lambda line: f"{line.replace('>', '&gt;')}<br/>",
    "an arrow": lambda line: line.replace("==>", "⇒"),
    "another arrow": lambda line: line.replace("==>", "══>"),
    "the source of a page": lambda line: line.replace(">", "&amp;gt;"),
    "backslashes": lambda line: f"{line} \\",
    "a remark": lambda line: f"{line}    <--- here",
    "no end but CR": lambda line: f"{line}\r",
    "a container's parts": lambda line: (
        f"2025-11-28T10:00:00.1Z stdout P {line[:50]}\n2025-11-28T10:00:00.1Z stdout F {line[50:]}"
    ),
}


@pytest.mark.parametrize("how", AROUND)
def test_what_stands_around_each_line_is_no_part_of_it(how):
    end = "" if how == "no end but CR" else "\n"
    found, reader = read("".join(AROUND[how](line) + end for line in TEXT.splitlines()))
    assert same(found) == EVENTS
    assert reader.report.foreign == 0


@pytest.mark.parametrize("columns", [80, 100, 132])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_that_a_terminal_broke_are_the_lines(columns, end):
    broken = (line[k : k + columns] + end for line in TEXT.splitlines() for k in range(0, len(line), columns))
    found, reader = read("".join(broken))
    assert same(found) == EVENTS
    assert (reader.dialect.width, reader.report.foreign) == (columns, 0)


def test_one_line_at_the_edge_is_not_broken():
    longest = max(map(len, TEXT.splitlines()))
    found, reader = read(re.sub(rf"(?m)^(.{{{longest}}})$", r"\1\nand a remark", TEXT))
    assert (same(found), reader.dialect.width) == (EVENTS, 0)


# Machines, and ftrace's instances.


def test_instances_of_one_machine_are_one_trace():
    named = in_lines(lambda row: f"{'kvm: ' if row.subsystem == 'kvm' else '':>6}{trace_cmd(row)}")
    assert same(read(named)[0]) == EVENTS
    several = in_lines(lambda row: f"{'kvm' if row.subsystem == 'kvm' else 'rest':>5}: {trace_cmd(row)}")
    assert same(read(several)[0]) == EVENTS


@pytest.mark.parametrize(
    ("host", "guest"), [("host", "vm1"), ("node1", "node2"), ("/my run/trace.dat", "/my run/vm.dat")]
)
def test_of_several_machines_with_switches_that_with_kvm_s_events_is_followed(host, guest):
    in_guest = (row._replace(comm="worker", cpu=0) for row in ROWS if row.subsystem == "sched")
    every = sorted([(row.us, host, row) for row in ROWS] + [(row.us, guest, row) for row in in_guest])
    found, reader = read("".join(f"{name:>9}: {trace_cmd(row)}\n" for _, name, row in every))
    assert sorted(same(found)) == sorted(EVENTS)
    assert reader.dialect.host.decode() == host
    assert reader.dialect.left_out[guest] > 50


# What tools print between lines, and beside what is read.

PRINTED = {
    "perf -F +misc": lambda row: perf(row, "KH    "),
    "perf -F +cgroup": lambda row: perf(row, behind=" /user.slice/user-1000.slice"),
    "perf -F +sym": lambda row: perf(row, behind=" __schedule+0x3f0 ([kernel.kallsyms])"),
    "perf -F +insn": lambda row: perf(row, behind=" insn: 0f 1f 00"),
    "perf -F +flags": lambda row: perf(row, behind="   jmp                  "),
    "perf -F +data_src": lambda row: perf(row, behind="                0 |OP N/A|LVL N/A|SNP N/A|TLB N/A|LCK N/A"),
    "perf -F +iregs": lambda row: perf(row, behind=" ABI:2    AX:0x0    BX:0x1 "),
    "perf -F +brstack": lambda row: perf(row, behind="  0xffffffff81a0b0c0/0xffffffff81a0b0d0/P/-/-/0 "),
    "perf -F +code_page_size": lambda row: perf(row, behind=" 4K"),
    "perf -F +metric": lambda row: f"{perf(row)}\n{perf(row).partition(': ')[0]}: \tmetric:    0.89  insn per cycle",
    "KernelShark": lambda row: (
        f"7\t{row.cpu}\t{row.time.strip()}\t{row.comm}\t{row.tid}\td..2\tx/{row.event}\t{row.payload}"
    ),
    "ftrace's option verbose": lambda row: (
        f"{row.comm:>16} {row.tid:7} {row.cpu:3} 1 00000002 0000000c [{row.us:08x}] 12.345ms (+0.002ms): "
        f"{row.event}: {row.payload}"
    ),
    "perf record -g": lambda row: (
        f"{perf(row).strip()}\n\tffffffff81a0b0c0 __schedule+0x3f0 ([kernel.kallsyms])\n"
        "\t    7f1234 [unknown] (/usr/lib/libc.so.6)\n"
    ),
    "perf --show-task-events": lambda row: f"{perf(row)}\n{head(row)}: PERF_RECORD_COMM exec: perf:1/1",
    "stack traces": lambda row: f"{ftrace(row)}\n{head(row)}: <stack trace>\n => __schedule\n => 0x7f",
    "functions": lambda row: f"{ftrace(row)}\n{head(row)}: __schedule <-schedule",
    "system calls": lambda row: f"{ftrace(row)}\n{head(row)}: sys_read(fd: 3, buf: 7f00, count: 8)",
    "raw fields": lambda row: trace_cmd(row).replace(f"{row.event}:", f"{row.event}: [FAILED TO PARSE]")
    if row.event == "signal_deliver"
    else trace_cmd(row),
}  # fmt: skip


@pytest.mark.parametrize("how", PRINTED)
def test_what_tools_print_beside_events_is_neither_an_event_nor_amiss(how):
    found, reader = read(in_lines(PRINTED[how]))
    assert same(found) == EVENTS
    assert reader.report.foreign == 0


def test_a_system_call_of_ftrace_is_that_of_perf():
    text = re.sub(r"sys_enter_rt_sigreturn: *", "sys_rt_sigreturn()", TEXT)
    text += head(ROWS[-1]) + ": sys_rt_sigreturn -> 0x0\n"
    assert text.count("sys_rt_sigreturn()") > 5
    found, reader = read(text)
    assert same(found) == EVENTS
    assert reader.report.others["sys_exit_rt_sigreturn"] == 1


def test_the_graph_tracer_s_events_are_read_where_it_prints_time_and_task():
    def in_graph(row):
        thread = f"{row.comm[:7]}-{row.tid}"
        return f" {row.time.strip()} |   {row.cpu})  {thread}  |               |  /* {row.event}: {row.payload} */"

    text = f"# tracer: function_graph\n#\n{in_lines(in_graph)}"
    assert [each[:3] + each[4:] for each in same(read(text)[0])] == [each[:3] + each[4:] for each in EVENTS]


def test_differences_of_times_are_added_up():
    times = [row.us for row in ROWS]
    gaps = [0, *(after - before for before, after in pairwise(times))]
    for size in (1 << 20, 4096):
        found, reader = read(in_lines(perf, [row._replace(us=us) for row, us in zip(ROWS, gaps, strict=True)]), size)
        assert [each[1:] for each in same(found)] == [each[1:] for each in EVENTS]
        assert [step.time_ns for step in found] == [each[0] - 1000 * times[0] for each in EVENTS]
        assert reader.dialect.differences


def test_times_since_the_first_event_are_no_differences():
    found, reader = read(in_lines(perf, [row._replace(us=row.us - ROWS[0].us) for row in ROWS]))
    assert [step.time_ns for step in found] == [each[0] - 1000 * ROWS[0].us for each in EVENTS]
    assert reader.dialect.is_plain


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("exit_reason=0xc guest_rip=0xffffffff81 isa=0x1 info1=0x0", "HLT"),
        ("exit_reason=120 guest_rip=0xffffffff81 isa=2 info1=0", "hlt"),
        ("[FAILED TO PARSE] exit_reason=48 guest_rip=0xffffffff81 isa=1 info1=4", "EPT_VIOLATION"),
        ("exit_reason=0x21 guest_rip=0xffffffff81 isa=0x1 info1=0x0", "0x21"),
    ],
)
def test_a_raw_exit_has_the_name_of_its_reason(raw, reason):
    found, _ = read(f"       CPU 0/KVM-2345  [003]  1021.500013: kvm_exit:             {raw}\n")
    assert [step.values for step in found] == [(reason,)]


# Inside another file.

JSON_OF_CATAPULT = {
    "behind Chrome's": {"traceEvents": [{"ph": "X", "ts": 1}], "systemTraceEvents": TEXT, "otherData": {}},
    "alone": {"systemTraceEvents": f"# tracer: nop\n#\n{TEXT}"},
}


@pytest.mark.parametrize("how", JSON_OF_CATAPULT)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_text_of_ftrace_in_json_is_the_text(how, ascii_only):
    document = json.dumps(JSON_OF_CATAPULT[how], ensure_ascii=ascii_only, indent=1)
    for data in (document.encode(), gzip.compress(document.encode())):
        assert same(read(data)[0]) == EVENTS


@pytest.mark.parametrize("cut", range(3, 40, 3))
def test_json_that_is_cut_off_has_the_events_before(cut):
    found, reader = read(json.dumps(JSON_OF_CATAPULT["alone"])[:-cut])
    assert same(found) == EVENTS[: len(found)]
    assert len(found) >= len(EVENTS) - 1
    assert reader.report.truncated


MAILS = {
    "a body": lambda code: f"Subject: [PATCH]\nContent-Transfer-Encoding: base64\nX: y\n\n{code}",
    "a part": lambda code: f"From x\n\n--a\nContent-Transfer-Encoding: base64\n\n{code}\n\n",
    "alone": lambda code: code,
    "of Windows": lambda code: code.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize("how", MAILS)
def test_a_trace_in_base64_is_the_trace(how, pack):
    """Also of a packed one, as in an attachment."""
    found, _ = read(MAILS[how](base64.encodebytes(pack(TEXT.encode())).decode()))
    assert same(found) == EVENTS


def test_base64_on_one_line_is_the_trace():
    for raw in (TEXT.encode(), gzip.compress(TEXT.encode())):
        assert same(read(base64.b64encode(raw))[0]) == EVENTS


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_trace_in_a_string_of_json_is_the_trace(ascii_only):
    text = TEXT.replace("kvmload", "kvm\u00e9")
    for document in ({"trace": text}, {"host": "a", "trace": text}, [text]):
        found, _ = read(json.dumps(document, ensure_ascii=ascii_only))
        assert same(found) == same(read(text)[0])


@pytest.mark.parametrize("both", [True, False])
def test_the_cpu_that_perf_prints_without_brackets_is_the_cpu(both):
    """perf script --Latency: names have eight characters there."""
    text = "".join(
        f"{row.comm[:8]:>8} {f'{row.tid:7}/{row.tid:<7}' if both else f'{row.tid:7}'} {row.cpu:3} {row.time}: "
        f"{f'{row.subsystem}:{row.event}':>34}: {row.payload}\n"
        for row in ROWS
    )
    found, reader = read(text)
    assert [(step.time_ns, step.cpu, step.tid, step.event) for step in found] == [
        (step.time_ns, step.cpu, step.tid, step.event) for step in read(TEXT)[0]
    ]
    assert reader.report.foreign == 0
    alone, _ = read("".join(f"{row.comm:>16} {row.tid:7} {row.time}: {row.event}: {row.payload}\n" for row in ROWS))
    assert alone == []  # without a CPU


def test_an_address_behind_the_fields_is_no_part_of_them():
    """perf script -F +addr; -F +insnlen."""
    for behind in (" ilen: 0", "                0 ", "  ffff888102e2bac0 ", "  0x0"):
        assert same(read("".join(perf(row, behind=behind) + "\n" for row in ROWS))[0]) == EVENTS


def test_times_that_run_backwards_are_refused():
    with pytest.raises(InputError, match="times run backwards, the newest first; tac FILE turns them round"):
        read("".join(reversed(TEXT.splitlines(keepends=True))))


def test_cpus_one_after_the_other_are_refused():
    by_cpu = sorted(ROWS, key=lambda row: row.cpu)
    text = "".join(ftrace(row) + "\n" for row in by_cpu)
    with pytest.raises(InputError, match="the events of CPU 1 begin before the last ones of other CPUs"):
        read(text)
    assert by_cpu[0].cpu < by_cpu[-1].cpu


def test_a_byte_order_mark_is_no_part_of_a_name():
    assert same(read(b"\xef\xbb\xbf" + TEXT.encode())[0]) == EVENTS


# What is no trace.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "kvm__kvm_entry           0 03423.898196000    15202 vcpu1                vcpu_id=0\n",
            "what a script prints",
        ),
        ("PID      TID      KVM_EXIT_REASON                     COUNT\n1 1 HLT 3\n", "what kvmexit prints"),
        (
            " 0)               |  /* sched_switch: prev_comm=a */\n",
            "ftrace's tracer function_graph prints without time",
        ),
        (
            "# RTLA timerlat histogram\n# Time unit is microseconds (us)\nIndex   IRQ-000   Thr-000\n",
            "what rtla prints",
        ),
        ("                          Timer Latency\n  0 00:00:05   |   IRQ Timer Latency (us)\n", "what rtla prints"),
        ("[ perf record: Woken up 1 times to write data ]\n", "what perf record says"),
        ('{"traceEvents":[{"name":"a","ph":"X","ts":1}]}', "a trace in Chrome's JSON"),
    ],
)
def test_what_cannot_be_followed_is_named(text, kind, tmp_path, capsys):
    (tmp_path / "trace.txt").write_text(text)
    status, _, error = run(capsys, "replay", str(tmp_path / "trace.txt"), "--check")
    assert (status, kind in error) == (2, True)


def test_a_binary_trace_is_named_with_what_prints_it():
    with pytest.raises(InputError, match=re.escape("perhaps a trace of Perfetto (traceconv systrace FILE prints")):
        read(b"\n\x1a2\x18\n\x04\x08\x06\x10\x00\x00" + bytes(300))


@pytest.mark.parametrize("command", ["replay", "layout"])
def test_a_pipe_is_read_once_and_whole(command, tmp_path, capsys):
    """As a shell makes one of <(zcat trace.gz)."""
    pipe, content = tmp_path / "pipe", TEXT.encode()
    os.mkfifo(pipe)
    if command == "layout":
        content = (Path(__file__).parent / "data" / "cases" / "cpuid-raw.txt").read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    words = ("replay", str(pipe), "--check") if command == "replay" else ("layout", "0x2e7", "--cpu", str(pipe))
    _, out, error = run(capsys, *words)
    writer.join()
    assert error == ""
    assert (f"{len(EVENTS)} events" if command == "replay" else "guest allocation  4096 bytes") in out


# The machine.

BOOT = (
    "Linux version 6.18.3-1-default (build@host) (gcc 15.2.1) #1 SMP PREEMPT_DYNAMIC\n"
    "x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'\n"
    "x86/fpu: xstate_offset[2]:  576, xstate_sizes[2]:  256\n"
    "x86/fpu: Enabled xstate features 0x7, context size is 832 bytes, using 'compacted' format.\n"
)


@pytest.mark.parametrize("before", ["", "# ", "[    0.000000] ", "<6>[    0.000000][    T0] "])
def test_the_log_of_the_kernel_in_front_of_a_trace_tells_of_its_machine(before):
    found, reader = read(re.sub("(?m)^", before, BOOT.rstrip("\n")) + "\n" + TEXT)
    assert (same(found), reader.report.foreign, reader.report.recordings) == (EVENTS, 0, 1)
    head = header(reader.comments, "a trace")
    assert head.kernel == (6, 18)
    assert (head.log.mask, head.log.size) == (7, 832)


@pytest.mark.parametrize(
    ("comment", "kernel"),
    [
        ("# os release : 5.10.0-28-amd64", (5, 10)),
        ("# kernel 6.18.44 x86_64, 2 cpus", (6, 18)),
        ("# Kernel version: v6.6", (6, 6)),
        ("# uname -r: 6.12.5", (6, 12)),
        ("# Linux node7 6.8.0-40-generic #40-Ubuntu SMP PREEMPT_DYNAMIC x86_64 GNU/Linux", (6, 8)),
        ("# uname -a: Linux node7 4.18.0-513.el8.x86_64 #1 SMP", (4, 18)),
        ("# irqsoff latency trace v1.1.5 on 5.15.0-rc3", (5, 15)),
        ("# [    0.000000] Linux version 7.1.0 (build@host)", (7, 1)),
        ("# Linux Mint 21.3", None),
        ("# Red Hat Enterprise Linux 8.9 (Ootpa)", None),
        ("# perf version : 6.8.12", None),
    ],
)
def test_the_kernel_is_told_however_it_is_written(comment, kernel):
    assert header([comment], "a trace").kernel == kernel
