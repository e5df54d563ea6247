"""Files of traces: packed, damaged, in the tools' own formats, of other encodings, and none at all."""

import bz2
import gzip
import json
import lzma
import re

import pytest
from corruption import TRACES
from trace_texts import CASES, FORMATS, PLAIN, read, run, short

from sim.trace.following.machine import header

# Packed.


@pytest.mark.parametrize("pack", ["gzip", "xz", "bzip2", "zstd"])
def test_a_packed_trace_is_the_trace(pack):
    import pyarrow

    packers = {
        "gzip": gzip.compress,
        "xz": lzma.compress,
        "bzip2": bz2.compress,
        "zstd": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
    }
    text = short(next(iter(PLAIN)))
    data = packers[pack](text)
    assert read(data)[0] == read(text)[0]
    if pack in ("gzip", "xz"):  # the others pack so little text as one block
        cut, reader = read(data[: len(data) // 2])
        assert reader.report.truncated
        assert len(cut) < len(read(text)[0])


# Damaged.

HEAD = "          stress-900     [003] d....  1021.500021: "


@pytest.mark.parametrize(
    "line",
    [
        "          stress-99999999999999999999 [003] d....  1021.500021: sched_process_exit: comm=a pid=1 prio=120",
        HEAD + "sched_process_exit: comm=a pid=99999999999999999999999999 prio=120",
        HEAD + "sched_process_exit: comm=a pid=" + "9" * 5000 + " prio=120",
        HEAD + "sched_wakeup: comm=a pid=1 prio=18446744073709551615 target_cpu=000",
        "          stress-900     [003] d....  1021.500021: kvm_entry: vcpu " + "1" * 4400 + ", rip 0x1",
        "stress " + "7" * 30 + " [001]   950.082728: sched:sched_wakeup: comm=a pid=1 prio=120 target_cpu=001",
    ],
    ids=range(6),
)
def test_a_number_that_no_kernel_prints_makes_a_line_unread_and_nothing_else(line):
    good = HEAD + "sched_process_exit: comm=a pid=7 prio=120\n"
    found, reader = read((line + "\n" + good).encode())
    assert [step.values for step in found] == [(7,)]
    assert reader.report.foreign == 1


def test_a_thread_that_calls_itself_by_an_escape_sequence_is_shown_escaped(capsys, tmp_path):
    text = (CASES / "host-only.txt").read_text().replace("CPU 0/KVM", "\x1b[31mX\x07")
    trace = tmp_path / "escape.txt"
    trace.write_text(text)
    _, out, err = run(capsys, "replay", trace, "--check")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", out + err)
    found, _ = read(text.encode())
    assert "\\x1b[31mX\\x07" in {step.comm for step in found}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("2.167150", "2.067150"), "the clock of a CPU steps back once, and"),
        (lambda text: re.sub(r"2\.\d{6}", "2.167100", text), "covers 0 s; allowed: more than 0 and at most 3600 s"),
        (lambda text: text.replace("2.16716", "4002.16716"), "covers 4000 s"),
    ],
)
def test_times_of_which_no_fit_can_be_made_are_refused(capsys, tmp_path, change, message):
    trace, out = tmp_path / "trace.txt", tmp_path / "a.toml"
    trace.write_text(change((CASES / "host-only.txt").read_text()))
    status, _, err = run(capsys, "fit", trace, "-o", out, "--no-check")
    assert status == 2
    assert f"{trace}" in err
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["trace.txt"]


def test_a_fit_wants_seconds(capsys, tmp_path):
    status, _, err = run(capsys, "fit", CASES / "trace-clock-tsc.txt", "-o", tmp_path / "a.toml", "--no-check")
    assert status == 2
    assert "# TSC 2400 MHz" in err


# Recordings in the tools' own formats.


def tool(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("name", "magic"), [("perf", b"PERFILE2"), ("trace-cmd", b"\x17\x08Dtracing6\0")])
def test_a_recording_is_read_by_the_tool_that_made_it(capsys, monkeypatch, tmp_path, name, magic):
    recording, tools = tmp_path / "recording", tmp_path / "bin"
    recording.write_bytes(magic + bytes(100))
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    status, out, err = run(capsys, "replay", recording, "--check")
    assert (status, out) == (2, "")
    assert f"is a recording of {name}, which is not installed here" in err
    assert err.count("\n") == 1

    tool(tools, name, f'echo "$@" > {tmp_path}/said; while read -r line; do echo "$line"; done < {CASES}/host-only.txt')
    monkeypatch.setenv("PATH", f"{tools}")
    status, out, _ = run(capsys, "replay", recording, "--check", "--json")
    assert (status, json.loads(out)["explained"]) == (0, 3)
    assert (tmp_path / "said").read_text().split()[-2:] == ["-i", str(recording)]

    tool(tools, name, 'echo "incompatible file format" >&2; exit 255')
    status, out, err = run(capsys, "replay", recording, "--check")
    assert (status, out) == (2, "")
    assert err.startswith(f"fpswitch: {recording}: {name} ")
    assert err.endswith("cannot print it: incompatible file format\n")


# Other encodings, and what cannot be followed.


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_trace_in_utf_16_is_the_same_trace(encoding):
    data = gzip.decompress(TRACES[0].read_bytes())[:200_000].rpartition(b"\n")[0] + b"\n"
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    found, reader = read(gzip.compress(mark + data.decode().replace("\n", "\r\n").encode(encoding)))
    expected, _ = read(data)
    assert found == expected != []
    assert reader.report.foreign == 0


@pytest.mark.parametrize(
    "line",
    [
        "     0.000 ( 0.004 ms): CPU 0/KVM/17350 ioctl(fd: 28, cmd: KVM_RUN               ) = 0",
        "         ? (         ): qemu-kvm/17350  ... [continued]: ioctl())                 = 0",
        "     0.012 qemu-kvm/17350 kvm:kvm_exit(exit_reason: 12, guest_rip: 0xffffffff81e3c9ae)",
        "     0.020 (         ): w/17350 sched:sched_switch:prev_comm=w prev_pid=17350 prev_prio=120",
    ],
)
@pytest.mark.parametrize("option", ["--check", "--exits"])
def test_what_perf_trace_prints_is_refused_as_such(line, option, tmp_path, capsys):
    (tmp_path / "trace.txt").write_text(f"{line}\n" * 3)
    status, _, error = run(capsys, "replay", tmp_path / "trace.txt", option)
    assert status == 2
    assert "this is what perf trace prints, which names no CPU" in error


OTHERS = {
    "what bpftrace prints": "Attaching 2 probes...\n\n@exits[12]: 1234\n",
    "a table of perf kvm stat, .*--perf-kvm-stat of fpswitch new": "  VM-EXIT    Samples  Samples%     Time%\n",
    "what kvm_stat prints": "kvm statistics - summary\n\n Event      Total %Total CurAvg/s\n",
    "what perf stat prints": " Performance counter stats for 'system wide':\n\n  1,234   kvm:kvm_exit\n",
    "what perf report prints": "# Overhead  Command\n# ........  .......\n  12.00%  qemu  [k] vmx_vcpu_run\n",
    "what perf sched timehist.*perf sched script": "   time    cpu  task name   wait time\n",
    "what babeltrace prints": "[10:00:00.000000001] (+0.000000012) host sched_switch: { cpu_id = 0 }\n",
    "what perf data convert --to-json writes": '{\n "linux-perf-json-version": 1,\n "samples": []\n}\n',
    "a trace in Chrome's JSON .*traceconv systrace": '{"traceEvents":[{"name":"a","ph":"X","ts":1}]}',
    "the output of ftrace's tracer function_graph": "# tracer: function_graph\n#\n 0)   1.234 us    |  __schedule();\n",
    "a histogram of a trace event": "# event histogram\n#\n{ exit_reason:  12 } hitcount:   1234\n",
    "a trace of QEMU": "123@1700000000.123456:kvm_run_exit cpu_index 0, reason 2\n",
    "what strace prints": "10:00:00.123 ioctl(12, KVM_RUN, 0) = 0\n",
    "what uftrace prints": "# DURATION     TID     FUNCTION\n   1.000 us [ 12345] | main();\n",
    "an empty file": "\n",
    "the file of ftrace without an event": "# tracer: nop\n#\n# entries-in-buffer/entries-written: 0/0   #P:16\n#\n",
    "what a command prints that may not read": "cat: /sys/kernel/tracing/trace: Permission denied\n",
    "a trace of Perfetto as the text": "packet {\n  ftrace_events {\n    cpu: 0\n  }\n}\n",
    "what trace of bcc prints": "TIME     PID     TID     COMM            FUNC             -\n",
    r"what ftrace prints with its option raw, .*\(echo noraw > trace_options": "1234 0 3423898204000 type: 316\n",
    r"what ftrace prints with its option hex, .*\(echo nohex > trace_options": (
        "000004d2 00000000 0000031d303c7760 type: 316\n"
    ),
    r"what ftrace prints with its option nocontext-info, .*\(echo context-info > trace_options": "kvm_fpu: load\n",
    r"what bpftrace prints \(": "Attached 3 probes\n1 2 a\n",
    "what babeltrace prints of": "[2025-11-28 10:00:00.123456789] host sched_switch: { cpu_id = 0 }\n",
    "what babeltrace prints of a trace in CTF": "[1234.123456789] (+?.?????????) kvm_entry: { cpu_id = 0 }\n",
    "what babeltrace prints of a trace": "timestamp = 10:00:00.1, delta = +0.1, name = sched_switch, x = { }\n",
    "what trace-cmd stat prints": "CPU: 0\nentries: 0\noverrun: 0\n",
    "what trace-cmd dump prints": " Tracing meta data in file trace.dat:\n\t[Initial format]\n",
    "what trace-cmd profile prints": "task: qemu-123\n  Event: sched_switch:S (1) Total: 1\n",
    "what sysdig prints": "12 10:00:00.123456789 0 qemu (123) > ioctl fd=12 request=AE80\n",
    "a session of KernelShark": '{"type": "kshark.config.session", "Data": {}}\n',
    "a trace of Xen": "CPU0  1234 (+  123)  VMEXIT      [ exitcode = 0x0000000c ]\n",
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("option", ["--check", "--exits"])
def test_what_is_no_trace_is_named_and_what_prints_one(kind, option, tmp_path, capsys):
    (tmp_path / "trace.txt").write_text(OTHERS[kind])
    status, _, error = run(capsys, "replay", tmp_path / "trace.txt", option)
    assert status == 2
    assert re.search(rf"trace\.txt: this is {kind}", error)


@pytest.mark.parametrize("comm", ["1:worker", "+x", "host/a.txt:2:b"])
def test_a_thread_s_name_like_a_prefix_is_a_name_where_others_are_not_like_it(comm):
    text = (FORMATS / "perf.txt").read_bytes()
    line = f"{comm:>16}    2345 [003]  1021.500012:          kvm:kvm_fpu: unload\n".encode()
    found, _ = read(line + text)
    assert [step.comm for step in found][:2] == [comm, "CPU 0/KVM"]


@pytest.mark.parametrize(
    ("release", "backports"),
    [
        ("5.14.0-427.13.1.el9_4.x86_64", True),
        ("4.18.0-513.5.1.el8.x86_64", True),
        ("5.15.0-300.163.18.el9uek.x86_64", True),
        ("5.14.21-150500.55.49-default", True),
        ("6.8.0-45-generic", False),
        ("6.1.0-26-amd64", False),
        ("6.12.9-200.fc41.x86_64", False),
        ("5.15.167.4-microsoft-standard-WSL2", False),
    ],
)
def test_a_distribution_that_takes_much_of_later_kernels_is_noted(release, backports):
    for line in (f"# os release : {release}", f"# Linux version {release} (mock@build)"):
        assert header([line], "t").has_backports is backports
