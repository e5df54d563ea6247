"""Reading traces: every format, every oddity, and the fast way yields what the slow way yields."""

import gzip
import io
import random
import time
from pathlib import Path

import pytest
from corruption import TRACES
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.trace.reading import lines
from sim.trace.reading.chunks import steps
from sim.trace.reading.events import CODE, EVENTS
from sim.trace.reading.reader import Reader

FORMATS = Path(__file__).parent / "data" / "traces" / "formats"
PERF, FTRACE, TRACE_CMD = ((FORMATS / f"{name}.txt").read_bytes() for name in ("perf", "ftrace", "trace-cmd"))
"""Made from the kernel's and the tools' format strings, with what is odd about each."""


def read(data, block=1 << 20):
    reader = Reader(io.BytesIO(data), "a trace", block)
    return [step for chunk in reader.chunks() for step in steps(chunk, reader.names)], reader


def slowly(data):
    """What one line after another says."""
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        event = lines.parse(line)
        if isinstance(event, lines.Event):
            values = tuple(name(v) if isinstance(v, bytes) else v for v in event.values)
            found.append((number, event.time_ns, event.cpu, event.tid, name(event.comm), event.event, values))
    return found


def name(text):
    """A thread's name: blanks at its ends cannot be told from those of a column."""
    return text.strip(b" ").decode("utf-8", "replace")


@pytest.mark.parametrize("data", [PERF, FTRACE, TRACE_CMD], ids=["perf", "ftrace", "trace-cmd"])
def test_three_formats_are_read(data):
    found, reader = read(data)
    assert [tuple(step) for step in found] == slowly(data)
    assert reader.report.foreign == 0
    names = [EVENTS[step.event] for step in found]
    if data is PERF:
        assert names == [
            "kvm_exit",
            "sched_switch",
            "x86_fpu_regs_deactivated",
            "x86_fpu_regs_activated",
            "x86_fpu_regs_deactivated",
        ]
        assert found[0].comm == "CPU 0/KVM"
        assert found[0].values == ("EXTERNAL_INTERRUPT",)
        assert found[1].values == (2345, 120, ord("R"), "stress", 900, -1)
        assert found[2].values == (0xFF11000123456780, 1, 0x21AE3, 0x8000000000021EE7)
        assert (found[4].tid, found[4].comm) == (-1, ":-1")
    elif data is FTRACE:
        assert names == ["sched_switch", "x86_fpu_regs_activated", "sched_wakeup"]
        assert reader.report.lost_events == 17
        assert found[2].values == (12, 120, 1)
    else:
        assert names == ["kvm_exit", "kvm_fpu", "sched_switch"]
        assert reader.report.lost_events == 204600


PLUGIN = b"""\
cpus=2
          CPU 0/KVM-2345  [003]  1021.500017: sched_switch:         CPU 0/KVM:2345 [120] R ==> a:b:900 [-1]
          stress-900   [003]  1021.500020: sched_wakeup:         kworker/1:0:12 [120]<CANT FIND FIELD success> CPU:001
             stress-900   [003]  1021.500021: sched_wakeup:         kworker/1:0:12 [120] CPU:001
             stress-900   [003]  1021.500022: sched_wakeup_new:     sh:13 [120] success=1 CPU:000
"""
"""trace-cmd report without -R, as libtraceevent's plugins/plugin_sched_switch.c prints it."""


def test_the_plugins_of_libtraceevent_are_read():
    found, reader = read(PLUGIN)
    assert [(EVENTS[step.event], step.values) for step in found] == [
        ("sched_switch", (2345, 120, ord("R"), "a:b", 900, -1)),
        ("sched_wakeup", (12, 120, 1)),
        ("sched_wakeup", (12, 120, 1)),
        ("sched_wakeup_new", (13, 120, 0)),
    ]
    assert reader.report.foreign == 0


@pytest.mark.parametrize(
    "header",
    [
        "perf 4711 [001] 12.500000: kvm:kvm_fpu: ",
        "VM:0 VCPU:1 perf 4711 [001] 12.500000: kvm:kvm_fpu: ",
        "            perf    4711/4711    [001]    12.500000000:          1      kvm:kvm_fpu: ",
        "            perf    4711 [001]    12.500000:          1                kvm:kvm_fpu:u: ",
        "            perf-4711    (   4711) [001] d..2.    12.500000: kvm_fpu: ",
        "            perf-4711    (-------) [001] d..2     12.500000: kvm_fpu: ",
        "    perf-4711    1d..2.    12.500000: kvm_fpu:               ",
        "    perf-4711    1...1     12.500000: kvm_fpu:               ",
    ],
)
def test_headers_may_have_other_fields(header):
    """perf script -F +pid,+period, --ns, modifiers, guests; ftrace with record-tgid; trace-cmd report -l."""
    found, reader = read((header + "load\n").encode())
    assert [(step.time_ns, step.cpu, step.tid, step.values) for step in found] == [(12_500_000_000, 1, 4711, ("load",))]
    assert reader.report.foreign == 0


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.name.split(".")[0])
def test_the_fast_way_reads_what_the_slow_way_reads_whatever_the_blocks(trace):
    data = gzip.decompress(trace.read_bytes())
    expected = slowly(data)
    assert len(expected) > 1000
    for block in (1 << 16, 1 << 20):
        found, reader = read(data, block)
        assert [tuple(step) for step in found] == expected
    assert reader.report.foreign == 0


def test_nearly_every_line_is_read_the_fast_way(monkeypatch):
    slow = []
    monkeypatch.setattr("sim.trace.reading.reader.lines.parse", lambda line: slow.append(line))
    for trace in TRACES:
        read(gzip.decompress(trace.read_bytes()))
    assert [line for line in slow if not line.startswith(b"#")] == []
    assert slow


SAMPLE = gzip.decompress(TRACES[3].read_bytes()).splitlines()[20:3000]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_broken_lines_are_read_alike_on_both_ways(seed, edits):
    rng = random.Random(seed)
    chosen = [bytearray(line) for line in rng.sample(SAMPLE, 20)]
    for _ in range(edits):
        line = rng.choice(chosen)
        at = rng.randrange(len(line) + 1)
        match rng.randrange(4):
            case 0:
                del line[at : at + rng.randrange(1, 5)]
            case 1:
                line[at:at] = bytes(rng.choice(b" =:[]-0189afzAZ./\xc3\xff") for _ in range(rng.randrange(1, 4)))
            case 2 if at < len(line):
                line[at] = rng.choice(b" =:[]-0189afzAZ./")
            case _:
                del line[at:]
    data = b"\n".join(bytes(line) for line in chosen) + b"\n"
    found, reader = read(data)
    assume(reader.dialect.is_plain)  # an edit may make it look like another, which the slow way does not know
    assert [tuple(step) for step in found] == slowly(data)
    assert reader.report.foreign + reader.report.others.total() + len(found) <= 20


@pytest.mark.parametrize("part", [b" ", b"1 ", b"-1 ", b"1/", b"( ", b"-", b"9", b"a-1 (-) "])
def test_a_line_of_any_length_takes_time_in_proportion(part):
    begun = time.process_time()
    assert not isinstance(lines.parse(b"1" + part * (300_000 // len(part)) + b"\n"), lines.Event)
    assert time.process_time() - begun < 2  # CPU time; a run of blanks took minutes


def test_names_may_hold_anything():
    for comm in ("a [001] 1.5", "x=y", "-1", "CPU 0/KVM", "a:b: c", "[000]", "next_pid=7", ""):
        data = (
            f"{comm:>16} {4711:5d} [001] {12.5:12.6f}: {'sched:sched_switch':>30}: prev_comm={comm} prev_pid=4711"
            f" prev_prio=120 prev_state=S ==> next_comm={comm} next_pid=12 next_prio=120\n"
        ).encode()
        (step,), _ = read(data)
        assert step.values == (4711, 120, ord("S"), comm, 12, 120)
        assert (step.cpu, step.tid, step.comm, step.time_ns) == (1, 4711, comm.strip(), 12_500_000_000)


def test_what_is_amiss_is_counted_and_survived():
    bad = (
        b"not an event\n\n" + PERF + b"            stress     900 [003]  1021.400000: kvm:kvm_fpu: load\n" + PERF[:100]
    )
    found, reader = read(bad)
    report = reader.report
    assert len(found) == 6
    assert (report.foreign, report.first_foreign, report.truncated) == (1, "not an event", True)
    assert (report.steps_back, report.out_of_order) == (1, 1)
    _, reader = read(b"            perf 23436 [000]   952.596187: PERF_RECORD_LOST lost 39\n" + PERF)
    assert (reader.report.lost_times, reader.report.lost_events) == (1, 39)
    for line, lost in (
        (b"LOST 5 events", 5),
        (b"Processed 9 events and lost 3 chunks!", 3),
        (b"CPU:1 [LOST EVENTS]", 0),
    ):
        _, reader = read(line + b"\n" + PERF)
        assert (reader.report.lost_times, reader.report.lost_events, reader.report.foreign) == (1, lost, 0)
    for line in (b"CPU:1 [LOST %s EVENTS]", b"LOST %s events", b"a 1 [000] 9.5: PERF_RECORD_LOST lost %s"):
        _, reader = read(line % (b"9" * 5000) + b"\n" + PERF)  # more digits than Python takes
        assert reader.report.lost_events == 0
    _, reader = read(PERF + b"            perf 5 [003]   952.596187: irq:irq_handler_entry: irq=1 name=x\n")
    assert reader.report.others == {"irq_handler_entry": 1}


def test_gzip_and_a_stream_that_is_cut_off_are_read():
    packed = gzip.compress(gzip.decompress(TRACES[0].read_bytes()))
    whole, _ = read(packed)
    assert len(whole) == 1519
    for block in (1 << 14, 1 << 20):
        part, reader = read(packed[: len(packed) // 2], block)
        assert reader.report.truncated
        assert len(whole) // 4 < len(part) < len(whole)
    whole_again, reader = read(packed + b"garbage", 1 << 20)
    assert len(whole_again) == len(whole)
    assert reader.report.truncated


def test_two_recordings_are_told_apart_also_within_a_block():
    data = gzip.decompress(TRACES[0].read_bytes())
    for block in (1 << 16, 1 << 22):
        assert read(data + data, block)[1].report.recordings == 2


@pytest.mark.parametrize("data", [b"PERFILE2\0\0\0", b"\x17\x08\x44tracing\0", b"\x1f\x8bnonsense"])
def test_what_is_no_text_is_one_clear_error(data):
    with pytest.raises(InputError, match="a trace"):
        read(data)


def test_columns_are_integers_in_chunks():
    reader = Reader(TRACES[3].open("rb"), "t", 1 << 18)
    chunks = list(reader.chunks())
    assert len(chunks) > 3
    for chunk in chunks:
        rows, columns = chunk.tables["x86_fpu"]
        assert columns["xcomp_bv"].dtype == "uint64"
        assert (chunk.event[rows] < CODE["sched_switch"]).all()
        assert len(chunk.line) == len(chunk.time_ns) == len(chunk.comm)


@pytest.mark.parametrize(
    "frame",
    [
        "\tffffffff81f4d6ba __schedule+0x2ba ([kernel.kallsyms])",
        "\t               0 [unknown] ([unknown])",
        "\tffffffff81f4d6ba __schedule+0x2ba",
        "\tffffffff81f4d6ba __schedule (/usr/lib/debug/vmlinux)\n  core.c:5347",
        "\tffffffff81f4d6ba context_switch\n  sched/core.c:5347 (inlined)",
        "\t    7f0a1c71a9cf __read (/usr/lib/x86_64-linux-gnu/libc.so.6)\n  ??:0",
    ],
)
def test_a_callchain_is_nothing_amiss(frame):
    """tools/perf/util/evsel_fprintf.c, sample__fprintf_callchain()."""
    plain = (FORMATS / "perf.txt").read_text()
    events, reader = read("".join(f"{line}\n{frame}\n\n" for line in plain.splitlines()).encode())
    assert [event[1:] for event in events] == [event[1:] for event in read(plain.encode())[0]]
    assert (reader.report.foreign, reader.report.first_foreign) == (0, "")
