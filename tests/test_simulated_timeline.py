"""Timelines of simulated runs, read back with Perfetto's decoder, against the record of the same replication."""

import re
from collections import Counter, defaultdict
from itertools import pairwise
from types import SimpleNamespace

import pytest
from command import run, run_json
from corruption import TRACES
from hosts import FEWER, RICH, SHIPPED, changed, from_text, only, simulate, value
from test_host_cpus import FOUR
from test_timeline import decoded

from sim.cli.simulated import choose, records
from sim.host.recording import Recorder
from sim.host.warmup import warmup_seconds
from sim.host.watching import watch, window
from sim.kernel.operations import IPI, KVM_RUN, MITIGATION, TRANSITION, VMCLEAR, VMENTRY, VMEXIT
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.trace.timeline import Ran, VcpuState
from sim.xsave.components import names

MS = 1e-3
EDGE_NS = 30_000
"""By how much the window of a CPU may begin or end later than the nominal one here."""


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "rich.toml"
    path.write_text(RICH, encoding="utf-8")
    return path


def drawn(capsys, tmp_path, scenario, *options):
    """What the command says, and the slices by track."""
    out = tmp_path / "run.pftrace"
    document = run_json(capsys, "timeline", str(scenario), "-o", str(out), *options)
    assert list(tmp_path.iterdir()) == [out]  # and no temporary file
    return document, decoded(out.read_bytes())


def cpu_tracks(slices):
    return {track: slices[track] for track in slices if re.fullmatch(r"CPU \d+", track)}


def operations(slices):
    return [each for track in slices if track.endswith(" operations") for each in slices[track]]


def vcpu_tracks(slices):
    return {track: slices[track] for track in slices if "/vcpu" in track}


def assert_equal(document, slices, case, record):
    """The timeline has what the record of the same window has."""
    tracks = cpu_tracks(slices)
    assert len(tracks) == case.scenario.host.cpus
    assert sum(len(track) - 1 for track in tracks.values()) == value(record, "context_switches")

    counted = Counter()
    for _, _, name, notes in operations(slices):
        counted[name, notes["phase"], notes.get("rfbm"), notes.get("written", notes.get("loaded"))] += 1
    ledger = Counter()
    for op, count, _ in record.ledger:
        mask = f"{op.rfbm:#x}" if op.rfbm else None
        ledger[op.operation, op.phase, mask, names(op.components) if mask else None] += count
    assert counted == ledger

    shown_ns = sum(end - begin for begin, end, _, _ in operations(slices))
    cycles = sum(cycles for *_, cycles in record.ledger)
    assert abs(shown_ns - cycles * 1e9 / case.tsc_hz) <= sum(counted.values())  # each end is rounded to 1 ns

    for track in slices.values():
        assert all(after[0] >= before[1] for before, after in pairwise(track))
    for track in (*tracks.values(), *vcpu_tracks(slices).values()):
        assert all(after[0] == before[1] for before, after in pairwise(track))  # no gap
        assert abs(track[-1][1] - document["end_ns"]) <= EDGE_NS
    assert all(0 <= track[0][0] - document["begin_ns"] <= EDGE_NS for track in tracks.values())
    for track in vcpu_tracks(slices).values():
        assert (track[0][0], track[-1][1]) == (document["begin_ns"], document["end_ns"])


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("strategy", ["xstate-guest", "manual-load", "lazy"])
def test_a_timeline_has_every_switch_and_operation_of_the_run(number, strategy, rich, tmp_path, capsys):
    case = from_text(RICH)[number]
    if strategy == "lazy":
        strategy = next((name for name in case.strategies if "lazy" in name), case.reference)
    options = ("--case", case.name, "--strategy", strategy, "--replication", "2", "--duration", "6 ms")
    document, slices = drawn(capsys, tmp_path, rich, *options)
    assert (document["case"], document["strategy"], document["replication"]) == (case.name, strategy, 2)
    assert document["end_ns"] - document["begin_ns"] == pytest.approx(6e6, abs=1)
    record = simulate(changed(case, measure=6 * MS), strategy, 2)  # with exits in batches
    assert value(record, "context_switches") > 100
    assert_equal(document, slices, case, record)
    shown = {name for _, _, name, _ in operations(slices)}
    assert {VMENTRY, VMEXIT, KVM_RUN, "XSAVES", "XRSTORS"} <= shown


def test_the_guest_begins_and_ends_with_the_operations_around_its_transitions(rich, tmp_path, capsys):
    _, slices = drawn(capsys, tmp_path, rich, "--duration", "3 ms")
    guests = [each for track in vcpu_tracks(slices).values() for each in track if each[2] == "guest"]
    begins, ends = {each[0] for each in guests}, {each[1] for each in guests}
    seen = Counter()
    for track in slices:
        ran = slices[track] if track.endswith(" operations") else []
        for i, (_, _, name, _) in enumerate(ran):
            if name in (VMENTRY, VMEXIT):
                seen[name] += 1
                # kvm_entry, XCR0 and IA32_XSS, mitigations, VM entry; VM exit and the same, kvm_exit
                seen[name, "found"] += bool(
                    begins & {each[0] for each in ran[max(i - 3, 0) : i + 1]}
                    if name == VMENTRY
                    else ends & {each[1] for each in ran[i : i + 6]}
                )
    edge = len(cpu_tracks(slices))  # slices that the window cuts
    for name in (VMENTRY, VMEXIT):
        assert seen[name] > 100
        assert seen[name] - seen[name, "found"] <= edge


def test_what_the_host_tells_is_in_order_on_each_track(rich):
    until = Counter()
    for record in records(choose(str(rich), (), None, None, 0, "3 ms")):
        track = (type(record), record.vcpu if isinstance(record, VcpuState) else record.cpu)
        assert record.time_ns >= until[track]
        until[track] = record.time_ns + (record.duration_ns if isinstance(record, Ran) else 0)


class States:
    """A watcher that keeps the states of each vCPU thread."""

    def __init__(self):
        self.of = defaultdict(list)

    def vcpu(self, time, thread, state):
        self.of[thread].append((time, state))

    def runs(self, *told):
        pass

    ran = runs


def states(case, begin, measure):
    """What is told of each vCPU thread in a window, and the window."""
    case, told = changed(case, warmup=begin, measure=measure), States()
    for _ in watch(case, "xstate-guest", 0, told):
        pass
    return told.of, *window(case)


def test_windows_one_after_another_tell_of_each_vcpu_what_one_window_tells_of_it():
    case, us = from_text(RICH)[0], 1e-6
    whole, *_ = states(case, 0.0, 500 * us)
    for i in range(10):
        part, begin, end = states(case, i * 50 * us, 50 * us)
        assert part.keys() == whole.keys()
        for thread, found in part.items():
            before = [state for time, state in whole[thread] if time <= begin]
            assert found == [
                (begin, before[-1]),
                *[(time, state) for time, state in whole[thread] if begin < time < end],
            ]


def test_a_change_in_the_cycle_in_which_the_window_ends_is_not_told():
    case = from_text(RICH)[0]
    whole, *_ = states(case, 0.0, 300e-6)
    last, _ = max(change for found in whole.values() for change in found)
    told, _, end = states(case, 0.0, last / case.tsc_hz)
    assert end == last
    assert told == {thread: [change for change in found if change[0] < last] for thread, found in whole.items()}


def test_a_vcpu_whose_exits_kvm_handles_is_preempted_in_kvm_and_comes_back_to_it():
    told, *_ = states(from_text(RICH)[0], 10 * MS, 8 * MS)
    found = [state for thread in told for _, state in told[thread] if thread.startswith("busy/")]
    assert found.count("preempted") > 10
    assert "VMM" not in found


def test_events_of_the_first_thread_whose_number_is_0_are_in_order_on_whatever_cpus():
    """It wakes on another CPU before the switch away from it has taken its time."""
    few = FOUR.replace("cpus = 4", "cpus = 2\nhz = 1000").replace("50 ms", "20 ms")
    text = few + '[threads.t]\ncount = 3\ncompute = { exponential = "20 us" }\nsleep = { exponential = "10 us" }\n'
    found = [
        (each.ns, each.cpu)
        for each in Recorder(only(text), "xstate-guest", 0).events()
        if 0 in (each.thread, each.fields.get("next"))
    ]
    assert len({cpu for _, cpu in found}) == 2
    assert found == sorted(found, key=lambda each: each[0])


def test_a_vmclear_is_drawn_on_the_cpu_on_which_it_runs(tmp_path, capsys):
    path = next(path for path in SHIPPED if path.stem == "idle-fleet")
    _, slices = drawn(capsys, tmp_path, path, "--duration", "4 ms")
    times = {
        name: [(track, begin) for track in slices for begin, _, each, _ in slices[track] if each == name]
        for name in (IPI, VMCLEAR)
    }
    assert len(times[VMCLEAR]) > 5
    for track, begin in times[VMCLEAR]:
        assert any(other != track and abs(begin - asked) < 20_000 for other, asked in times[IPI])


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_a_vcpu_does_agrees_with_who_runs_and_with_the_accounts(path, tmp_path, capsys):
    fewer = FEWER.get(path.stem, {})
    sets = [word for key, value in fewer.items() for word in ("--set", f"{key}={value}")]
    document, slices = drawn(capsys, tmp_path, path, "--duration", "4 ms", *sets)
    case = cases(read(path, fewer))[0]
    record = simulate(changed(case, warmup=warmup_seconds(case), measure=4 * MS), document["strategy"], 0)
    assert_equal(document, slices, case, record)
    on_cpu, states = Counter(), defaultdict(Counter)
    for track in cpu_tracks(slices).values():
        for begin, end, name, _ in track:
            on_cpu[name] += end - begin
    for vcpu, track in vcpu_tracks(slices).items():
        for begin, end, state, _ in track:
            states[vcpu][state] += end - begin
    for vcpu, times in states.items():
        assert set(times) <= {"guest", "exit", "VMM", "blocked", "woken", "preempted"}
        assert times["guest"] + times["exit"] + times["VMM"] == pytest.approx(on_cpu[vcpu], abs=2 * EDGE_NS)
    if not case.scenario.threads:  # what is counted is of vCPU threads alone; 2 for the edges of the windows
        changes = Counter(each[2] for track in vcpu_tracks(slices).values() for each in track[1:])
        assert abs(changes["preempted"] - value(record, "preemptions")) <= 2
        assert abs(changes["woken"] - value(record, "wakeups")) <= 2
    transitions = sum(cycles for op, _, cycles in record.ledger if op.phase in (TRANSITION, MITIGATION))
    guest_ns = (value(record, "guest_cycles") + transitions) * 1e9 / case.tsc_hz
    shown_ns = sum(times["guest"] for times in states.values())
    # The rest is what strategies do between the tracepoint and the transition, and the edges of the windows.
    assert shown_ns == pytest.approx(guest_ns, rel=0.03, abs=len(states) * EDGE_NS)


def test_the_default_is_the_first_case_and_xstate_guest_or_else_the_reference(rich, tmp_path, capsys):
    document, _ = drawn(capsys, tmp_path, rich, "--duration", "100 us")
    assert (document["case"], document["strategy"]) == (from_text(RICH)[0].name, "xstate-guest")
    text = RICH.replace("[run]", '[run]\nstrategies = ["free-ssp", "no-cet"]')
    other = tmp_path.parent / "without.toml"
    other.write_text(text, encoding="utf-8")
    (tmp_path / "run.pftrace").unlink()
    assert drawn(capsys, tmp_path, other, "--duration", "100 us")[0]["strategy"] == "free-ssp"


WRONG = {
    ("--case", "zen5"): "--case: unknown case 'zen5'",
    ("--set", "host.cpus=0"): "--set host.cpus: found 0; allowed: 1 to 65536",
    ("--replication", "-1"): "--replication: found -1; allowed: 0",
    ("--duration", "20"): "--duration: found '20'; allowed: a time like '2 ms'",
    ("--duration", "0 ms"): "--duration: found '0 ms'; allowed: a time above 0",
    ("--strategy", "xstate-gest"): "--strategy: unknown strategy 'xstate-gest'; did you mean 'xstate-guest'?",
    ("--cpu", "zen4"): "--cpu: a scenario has that itself",
    ("--kernel", "v6.6"): "--kernel: a scenario has that itself",
}


@pytest.mark.parametrize("options", WRONG, ids=" ".join)
def test_a_wrong_option_is_one_message_and_leaves_no_file(options, rich, tmp_path, capsys):
    status, out, err = run(capsys, "timeline", str(rich), "-o", str(tmp_path / "x"), *options)
    assert (status, out) == (2, "")
    assert err.startswith(f"fpswitch: {WRONG[options]}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--set", "--case", "--replication", "--duration"])
def test_an_option_of_scenarios_is_refused_with_a_trace(option, tmp_path, capsys):
    status, _, err = run(capsys, "timeline", str(TRACES[0]), "-o", str(tmp_path / "x"), option, "1")
    assert (status, err) == (
        2,
        f"fpswitch: {option}: that is for scenarios, whose names end in .toml; allowed with a trace: "
        "--strategy, --cpu, --costs, --kernel, --guest\n",
    )


def test_a_file_that_is_there_is_kept_unless_forced(rich, tmp_path, capsys):
    out = tmp_path / "run.pftrace"
    out.write_text("mine", encoding="utf-8")
    command = ("timeline", str(rich), "-o", str(out), "--duration", "100 us")
    status, _, err = run(capsys, *command)
    assert (status, err) == (2, f"fpswitch: {out} already exists; --force overwrites it\n")
    assert out.read_text(encoding="utf-8") == "mine"
    assert run(capsys, *command, "--force", "--case", "nothing")[0] == 2
    assert out.read_text(encoding="utf-8") == "mine"
    assert run(capsys, *command, "--force")[0] == 0
    assert cpu_tracks(decoded(out.read_bytes()))


def test_a_directory_that_is_not_there_is_one_message(rich, tmp_path, capsys):
    status, _, err = run(capsys, "timeline", str(rich), "-o", str(tmp_path / "no" / "x"), "--duration", "100 us")
    assert (status, err.count("\n")) == (2, 1)
    assert "No such file or directory" in err


VMM_RUNS = """
title = "a VMM that is called"
[run]
measure = "2 ms"
warmup = "0 ms"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 1
cpu = ["zen4"]
tsc = "2 GHz"
[guests.g]
vmm_fpu = {}
[guests.g.exits.io]
every = "5 kHz"
handled = "userspace"
vmm = "5 us"
"""


@pytest.mark.parametrize("writes", ["[]", '["SSE"]'])
def test_a_vmm_that_writes_no_registers_leaves_no_note_of_it(writes):
    case = only(VMM_RUNS.format(writes))
    noted = Counter(each.event for each in Recorder(case, case.reference, 0).events())
    assert noted["kvm:kvm_userspace_exit"] > 2
    assert bool(noted["user_writes"]) is (writes != "[]")


def test_a_return_to_user_mode_that_loads_registers_is_recorded_as_that_alone():
    case = only(FOUR.replace("50 ms", "1 ms") + '[threads.t]\ncount = 6\ncompute = "20 us"\nsleep = "10 us"\n')
    activated, returns = "x86_fpu:x86_fpu_regs_activated", "return_to_user"
    of_cpu = defaultdict(list)
    for each in Recorder(case, case.reference, 0).events():
        of_cpu[each.cpu].append(each.event)
    pairs = Counter(pair for events in of_cpu.values() for pair in pairwise(events))
    assert {activated, returns} <= {after for _, after in pairs}
    assert pairs[activated, returns] == 0


def test_events_are_at_the_nanosecond_that_their_cycle_is_in():
    recorder = Recorder(only(FOUR + '[threads.t]\ncompute = "1 ms"\n'), "xstate-guest", 0)
    cpu = recorder._host.cpus[0]
    cpu.clock = 20_000_000_000  # of a TSC of 2 GHz
    assert recorder._note(cpu, "late", {}).ns == 10_000_000_000


def test_a_vcpu_is_seen_woken_as_often_as_its_record_says():
    text = '[guests.g]\nvcpus = 8\nposted_interrupts = false\ndemand = { exponential = "50 us" }\nsleep = "100 us"\n'
    case = only(FOUR.replace("cpus = 4", "cpus = 2") + text)
    told, *_ = states(case, 0.0, 2 * MS)
    seen = sum(state == "woken" for found in told.values() for _, state in found)
    record = simulate(changed(case, warmup=0.0, measure=2 * MS), case.reference, 0)
    assert seen > 20
    assert seen == pytest.approx(value(record, "wakeups"), abs=2)  # two CPUs: their windows end later


def test_what_is_recorded_comes_at_the_nearest_nanosecond():
    recorder = Recorder(only(FOUR.replace("2 GHz", "3 GHz") + '[threads.t]\ncompute = "1 ms"\n'), "xstate-guest", 0)
    cpu, halted = recorder._host.cpus[0], SimpleNamespace(number=7)
    for cycles, ns in ((3001, 1000), (3002, 1001), (3004, 1001)):
        cpu.clock = cycles
        assert recorder._note(cpu, "x", {}).ns == ns
        recorder.halt_is_over(halted, cpu, cycles, polled=True)
        assert recorder._out[-1].fields["ns"] == ns
