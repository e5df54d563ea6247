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


@pytest.mark.parametrize(
    "trace",
    [
        pytest.param(path, id=name, marks=pytest.mark.slow if name == "vcpu-out-exits" else [])
        for path in TRACES
        for name in [path.name.split(".")[0]]
    ],
)
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


@pytest.mark.parametrize(
    ("release", "says"),
    [
        ("6.14.3", "Linux 6.14 lies between v6.12 and v6.17; v6.12 is nearest: "),
        ("7.4.0-rc1", "Linux 7.4 is newer than v7.3, the newest kernel of the model; "),
    ],
)
def test_a_kernel_that_is_none_of_the_models_is_said_with_the_nearest(release, says, tmp_path, capsys):
    recorded, out = tmp_path / "trace.txt", tmp_path / "run.pftrace"
    beginning = "".join(text(next(path for path in TRACES if "halt-wakeup" in path.name)).splitlines(True)[:2000])
    recorded.write_text(beginning.replace("kernel 6.18.44 ", f"kernel {release} ", 1))
    _, said, _ = run(capsys, "timeline", str(recorded), "-o", str(out))
    assert said.startswith(f"note: {says}")
    assert f"{out}: " in said
    recorded.write_text(beginning)
    _, said, _ = run(capsys, "timeline", str(recorded), "-o", str(out), "--force")
    assert said.startswith(f"{out}: ")


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


MERGED = """
      trace.dat:          <idle>-0     [001] 2.167100: sched_switch: prev_comm=swapper/1 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=CPU 0/KVM next_pid=4594 next_prio=120
      trace.dat:       CPU 0/KVM-4594  [001] 2.167110: x86_fpu_regs_activated: x86/fpu: 0xffff888100010000 load: 1 xfeatures: a6 xcomp_bv: 80000000000008e7
      trace.dat:       CPU 0/KVM-4594  [001] 2.167120: x86_fpu_regs_activated: x86/fpu: 0xffff888100010000 load: 0 xfeatures: 0 xcomp_bv: 80000000000018e7
      trace.dat:       CPU 0/KVM-4594  [001] 2.167121: kvm_fpu: load
      trace.dat:       CPU 0/KVM-4594  [001] 2.167125: kvm_entry: vcpu 0, rip 0xffffffff81000000
  trace-vm1.dat:          <idle>-0     [003] 2.167130: sched_switch: prev_comm=swapper/3 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=worker-a next_pid=77 next_prio=120
  trace-vm1.dat:        worker-a-77    [003] 2.167140: sched_switch: prev_comm=worker-a prev_pid=77 prev_prio=120 prev_state=S ==> next_comm=swapper/3 next_pid=0 next_prio=120
      trace.dat:       CPU 0/KVM-4594  [001] 2.167150: kvm_exit: vcpu 0 reason HLT rip 0xffffffff81000010 info1 0x0 info2 0x0 intr_info 0x0 error_code 0x0
      trace.dat:       CPU 0/KVM-4594  [001] 2.167160: sched_switch: prev_comm=CPU 0/KVM prev_pid=4594 prev_prio=120 prev_state=S ==> next_comm=swapper/1 next_pid=0 next_prio=120
      trace.dat:       CPU 0/KVM-4594  [001] 2.167161: x86_fpu_regs_deactivated: x86/fpu: 0xffff888100010000 load: 1 xfeatures: 0 xcomp_bv: 80000000000018e7
""".lstrip("\n")  # noqa: E501


def test_the_guest_s_lines_of_a_merged_report_are_drawn_on_tracks_of_their_own(tmp_path, capsys):
    merged, out = tmp_path / "merged.txt", tmp_path / "run.pftrace"
    merged.write_text(MERGED)
    assert run(capsys, "timeline", str(merged), "-o", str(out))[0] == 0
    without = decoded(out.read_bytes())
    assert not any("trace-vm1.dat" in track for track in without)
    assert run(capsys, "timeline", str(merged), "-o", str(out), "--force", "--guest", "trace-vm1.dat")[0] == 0
    drawn = decoded(out.read_bytes())
    guest = drawn.pop("trace-vm1.dat CPU 3")
    assert [(begin, name) for begin, _, name, _ in guest] == [(2167130000, "worker-a (77)"), (2167140000, "idle")]
    assert drawn["CPU 1"] == without["CPU 1"]
    assert not any("worker-a" in name for slices in drawn.values() for _, _, name, _ in slices)


@pytest.mark.parametrize(
    ("report", "guest", "message"),
    [
        (MERGED, "trace-vm2.dat", "files in it: trace-vm1.dat, trace.dat"),
        (MERGED.replace("      trace.dat:", "").replace("  trace-vm1.dat:", ""), "trace-vm1.dat", "not a merged"),
    ],
)
def test_a_guest_that_is_not_in_the_report_is_refused_and_nothing_written(report, guest, message, tmp_path, capsys):
    (tmp_path / "merged.txt").write_text(report)
    command = ("timeline", str(tmp_path / "merged.txt"), "-o", str(tmp_path / "run.pftrace"), "--guest", guest)
    status, _, err = run(capsys, *command)
    assert (status, message in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["merged.txt"]
