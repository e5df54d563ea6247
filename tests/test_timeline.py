"""Timelines are read back with Perfetto's own decoder."""

import re
from collections import Counter

import pytest
from command import run, run_json
from corruption import TRACES, text
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from sim.kernel.operations import Operation
from sim.trace.timeline import Ran, Runs, VcpuState, write

SWITCH = re.compile(
    r"\[(\d+)\] +(\d+)\.(\d+): +sched:sched_switch: .* ==> next_comm=(.*) next_pid=(\d+) next_prio=", re.ASCII
)


def decoded(data):
    """Slices by track name: (begin, end, name, notes), as a decoder finds them."""
    trace = Trace()
    trace.ParseFromString(data)
    names = {p.track_descriptor.uuid: p.track_descriptor.name for p in trace.packet if p.HasField("track_descriptor")}
    slices, stacks = {}, {}
    for packet in trace.packet:
        if not packet.HasField("track_event"):
            continue
        event, track = packet.track_event, names[packet.track_event.track_uuid]
        stack = stacks.setdefault(track, [])
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            stack.append((packet.timestamp, event.name, {a.name: a.string_value for a in event.debug_annotations}))
        else:
            begin, name, notes = stack.pop()
            assert not stack, "slices of a track follow one another"
            assert packet.timestamp >= begin
            slices.setdefault(track, []).append((begin, packet.timestamp, name, notes))
    assert not any(stacks.values())
    return slices


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.name.split(".")[0])
def test_every_context_switch_of_a_trace_is_in_its_timeline(trace, tmp_path, capsys):
    out = tmp_path / "run.pftrace"
    assert run(capsys, "timeline", str(trace), "-o", str(out))[0] == 0
    slices = decoded(out.read_bytes())
    begins = Counter(
        (track, begin, name)
        for track in slices
        if re.fullmatch(r"CPU \d+", track)
        for begin, _, name, _ in slices[track]
    )
    switches = SWITCH.findall(text(trace))
    assert len(switches) > 400
    missing = [
        each
        for each in switches
        if not begins[
            (
                f"CPU {int(each[0])}",
                int(each[1]) * 10**9 + int(each[2]) * 1000,
                f"{each[3]}-{each[4]}" if each[4] != "0" else "idle",
            )
        ]
    ]
    assert missing == []


def test_a_timeline_shows_vcpu_states_and_masks(tmp_path, capsys):
    out = tmp_path / "run.pftrace"
    trace = next(path for path in TRACES if "halt-wakeup" in path.name)
    document = run_json(capsys, "timeline", str(trace), "--cpu", "zen4", "-o", str(out))
    assert document["output"] == str(out)
    slices = decoded(out.read_bytes())
    vcpus = [track for track in slices if track.startswith("vcpu")]
    assert len(vcpus) == 3
    assert {name for track in vcpus for _, _, name, _ in slices[track]} == {
        "guest",
        "exit",
        "VMM",
        "blocked",
        "preempted",
    }
    saves = [
        notes
        for track in slices
        if track.endswith("operations")
        for _, _, name, notes in slices[track]
        if name == "XSAVES"
    ]
    assert {notes["rfbm"] for notes in saves} == {"0xae7", "0x1ae7"}  # bit 12 lives in guest fpstates only
    assert all("written" in notes and "phase" in notes for notes in saves)


def test_plain_records_make_a_timeline_whoever_makes_them(tmp_path):
    records = [
        Runs(0, 0, "A-1"),
        VcpuState(0, "V", "guest"),
        Runs(100, 0, "idle"),
        Ran(100, 0, Operation("user", "switch", "XSAVES", 0xE7, 0x3, 0xE4), 30),
        Ran(100, 0, Operation("user", "switch", "RDPKRU"), 10),
        VcpuState(150, "V", "blocked"),
        Runs(400, 0, "A-1"),
    ]
    path = tmp_path / "x"
    with path.open("wb") as out:
        assert write(iter(records), out) == len(records)
    slices = decoded(path.read_bytes())
    assert [(b, e, n) for b, e, n, _ in slices["CPU 0"]] == [(0, 100, "A-1"), (100, 400, "idle"), (400, 400, "A-1")]
    assert [(b, e, n) for b, e, n, _ in slices["V"]] == [(0, 150, "guest"), (150, 400, "blocked")]
    assert [(b, e, n) for b, e, n, _ in slices["CPU 0 operations"]] == [(100, 130, "XSAVES"), (130, 140, "RDPKRU")]
    assert slices["CPU 0 operations"][0][3] == {
        "phase": "switch", "rfbm": "0xe7", "written": "FP SSE", "initial": "YMM OPMASK ZMM_Hi256 Hi16_ZMM",
    }  # fmt: skip
