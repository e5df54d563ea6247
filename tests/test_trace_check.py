"""Checking recorded traces: they agree with the kernel model, wherever they are cut, and what does not is found."""

import gzip
import json
import random
import re
from collections import Counter

import pytest
from command import run, run_json
from corruption import CLASSES, TRACES, Trace, break_places, counted, text

from sim.trace.following.follow import Follower
from sim.trace.following.rules import RULES
from sim.trace.reading.events import EVENTS

by_trace = pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name.split(".")[0])

AGREEMENT = 0.999
INFERRED = 0.005


@by_trace
def test_recorded_traces_agree_with_the_kernel_model(path, capsys):
    check = run_json(capsys, "replay", str(path), "--check")
    recorded = text(path).count(" x86_fpu:x86_fpu_")
    assert check["events"] == recorded > 600
    assert check["agreement"] == (check["explained"] + check["inferred"]) / check["events"] >= AGREEMENT
    kinds = check["by_kind"]
    assert sum(kinds["explained"].values()) == check["explained"]
    assert sum(kinds["inferred"].values()) == check["inferred"]
    behind_kernel_fpu = sum(n for kind, n in kinds["inferred"].items() if kind != "signal")
    assert behind_kernel_fpu <= INFERRED * check["events"]


@by_trace
def test_signals_are_two_activations_per_delivery(path, capsys):
    """But for a handler that was entered before the recording, or is left after it."""
    check = run_json(capsys, "replay", str(path), "--check")
    assert check["by_kind"]["inferred"]["signal"] % 2 == 0


def follow(config, events, partial=False, gaps=()):
    follower = Follower(config, partial=partial)
    for i, step in enumerate(events):
        if i in gaps:
            follower.gap()
        follower.follow(step)
    follower.finish()
    verdict = follower.verdict
    unexplained = verdict.events - verdict.explained.total() - verdict.inferred.total()
    assert 0 <= unexplained <= verdict.found
    return verdict


@pytest.mark.parametrize("number", [8, pytest.param(25, marks=pytest.mark.slow)])
@by_trace
def test_a_trace_may_begin_and_end_anywhere(path, number):
    trace, rng = Trace.read(path), random.Random(path.name)
    for _ in range(number):
        start = rng.randrange(len(trace.steps))
        verdict = follow(trace.config, trace.steps[start : start + rng.randrange(1, 3000)])
        assert not verdict.found, verdict.contradictions


@by_trace
def test_a_trace_may_lack_a_cpu(path):
    trace = Trace.read(path)
    for cpu in (0, 1):
        verdict = follow(trace.config, [step for step in trace.steps if step.cpu == cpu], partial=True)
        assert not verdict.found, verdict.contradictions


@by_trace
def test_lost_events_that_the_tool_reports_are_no_contradiction(path):
    trace, rng = Trace.read(path), random.Random(path.name)
    for _ in range(5):
        start = rng.randrange(len(trace.steps))
        events = trace.steps[:start] + trace.steps[start + rng.randrange(1, 3000) :]
        verdict = follow(trace.config, events[max(0, start - 3000) : start + 3000], gaps=(min(start, 3000),))
        assert not verdict.found, verdict.contradictions


def test_renamed_tasks_and_reused_pids_change_nothing(capsys):
    """Pids are those of the trace, but each task that was forked gets the pid of one that is gone."""
    trace = Trace.read(TRACES[0])
    expected = follow(trace.config, trace.steps)
    alive, free, new = {}, [], {}
    events = []

    def pid(old):
        return new.get(old, old)

    for step in trace.steps:
        values = list(step.values)
        name = EVENTS[step.event]
        if name == "sched_process_fork":
            if free:
                new[values[2]] = free.pop(0)
            alive[values[2]] = True
        positions = {
            "sched_switch": (0, 4),
            "sched_process_fork": (0, 2),
            "sched_process_exec": (0, 1),
            "sched_process_exit": (0,),
        }
        old = list(values)
        for position in positions.get(name, ()):
            values[position] = pid(values[position])
        values = [value if not isinstance(value, str) or name.startswith("kvm") else "renamed" for value in values]
        events.append(
            step._replace(tid=pid(step.tid) if step.tid > 0 else step.tid, comm="renamed", values=tuple(values))
        )
        if name == "sched_switch" and old[2] == ord("Z") and old[0] in alive:
            free.append(pid(old[0]))
    assert len(new) > 5
    verdict = follow(trace.config, events)
    assert (verdict.found, verdict.explained, verdict.inferred) == (0, expected.explained, expected.inferred)


def test_two_traces_in_one_file_are_two_recordings(tmp_path, capsys):
    both = tmp_path / "both.txt"
    both.write_bytes(
        gzip.decompress(TRACES[1].read_bytes())
        + gzip.decompress(TRACES[0].read_bytes())
        + gzip.decompress(TRACES[3].read_bytes())
    )
    document = run_json(capsys, "replay", str(both), "--strategies", "free-ssp")
    assert document["check"]["unexplained"] == []
    assert document["trace"]["recordings"] >= 3
    assert document["check"]["events"] == 12144 + 640 + 14293


def mutilated(events, rng):
    """Whatever may happen to a file: events lost, doubled, moved, of another trace, with other fields."""
    events = list(events)
    for _ in range(rng.randrange(1, 60)):
        i, j = rng.randrange(len(events)), rng.randrange(len(events))
        match rng.randrange(6):
            case 0 if len(events) > 5:
                del events[i]
            case 1:
                events.insert(i, events[j])
            case 2:
                events[i], events[j] = events[j], events[i]
            case 3:
                events[i] = events[i]._replace(cpu=rng.randrange(3))
            case 4:
                events[i] = events[i]._replace(tid=rng.choice([-1, 0, events[j].tid, 99999]))
            case _:
                if len(events[i].values) == len(events[j].values):
                    events[i] = events[i]._replace(event=events[j].event, values=events[j].values)
    return events


@by_trace
def test_any_sequence_of_events_is_survived(path):
    trace, rng = Trace.read(path), random.Random(path.name)
    for _ in range(60):
        start = rng.randrange(len(trace.steps) - 50)
        follow(trace.config, mutilated(trace.steps[start : start + 300], rng), partial=rng.random() < 0.2)


LEGAL = {
    "it slept again before it returned to user mode",
    "the last save of this fpstate left no event",
    "a task without events of its own may be outside the recording",
    "the thread's first event",
    "the CPU's first event",
}
"""What else may have happened at a broken place, so that no check can tell (docs/reference/trace-rules.md)."""

PLACES = 200


@pytest.mark.slow
@by_trace
def test_corruptions_are_noticed_or_the_trace_is_still_a_legal_one(path):
    trace = Trace.read(path)
    for name in CLASSES:
        outcome, unnoticed = break_places(trace, name, PLACES, seed=1)
        total = outcome.total()
        if not total:
            assert name == "delete a kvm_fpu"
            continue
        assert total == PLACES
        noticed = outcome["contradicted"] + outcome["inferred"]
        legal = sum(outcome[why] for why in LEGAL)
        assert noticed + legal == total - outcome["unnoticed"]
        assert noticed >= 0.95 * (total - legal), (name, outcome, unnoticed[:3])


@by_trace
def test_a_contradiction_is_reported_at_the_thread_s_next_save_at_the_latest(path):
    """A restore is deleted: the line of the contradiction is not behind the next save of that thread."""
    trace, rng = Trace.read(path), random.Random(path.name)
    restores = [i for i, step in enumerate(trace.steps) if EVENTS[step.event] == "x86_fpu_regs_activated"]
    proved = 0
    for i in rng.sample(restores, 60):
        step = trace.steps[i]
        saves = (e for e in trace.steps[i + 1 :] if EVENTS[e.event] == "x86_fpu_regs_deactivated" and e.tid == step.tid)
        save = next(saves, None)
        follower = trace.follower_at(i)
        for after in trace.steps[i + 1 : i + 2000]:
            follower.follow(after)
            if follower.verdict.found:
                found = follower.verdict.contradictions[0]
                assert found.rule in RULES
                assert save is None or found.line <= save.line
                proved += 1
                break
    assert proved > 30


def test_a_check_that_does_not_hold_is_exit_status_1_and_names_line_rule_and_source(tmp_path, capsys):
    broken = tmp_path / "broken.txt"
    lines = r"(?m)^.*x86_fpu_regs_activated.*load: 1.*\n"
    broken.write_text(re.sub(lines, "", text(TRACES[1]), count=1500))
    status, out, _ = run(capsys, "replay", str(broken), "--check")
    assert status == 1
    assert "rule restored-before" in out
    assert "fpregs_restore_userregs()" in out
    assert re.search(
        r"line \d+, x86_fpu:x86_fpu_regs_deactivated: .* was saved, but its registers were not restored", out
    )


@pytest.mark.parametrize(
    ("pattern", "missing"),
    [
        (r" sched:sched_switch: ", "sched:sched_switch"),
        (r" x86_fpu:", "x86_fpu:x86_fpu_regs_activated"),
        (r" kvm:kvm_fpu: ", "kvm:kvm_fpu"),
        (r"x86_fpu_regs_activated: ", "x86_fpu:x86_fpu_regs_activated"),
        (r"x86_fpu_regs_deactivated: ", "x86_fpu:x86_fpu_regs_deactivated"),
    ],
)
def test_a_trace_without_the_events_is_one_error_that_says_how_to_record_them(pattern, missing, tmp_path, capsys):
    trace = next(path for path in TRACES if "halt-wakeup" in path.name)
    path = tmp_path / "t.txt"
    path.write_text("".join(line for line in text(trace).splitlines(True) if not re.search(pattern, line)))
    status, out, err = run(capsys, "replay", str(path), "--check")
    assert (status, out) == (2, "")
    assert err.startswith(f"fpswitch: {path} has no {missing}")
    assert "perf record -a" in err


@pytest.mark.parametrize("one_of", [48, pytest.param(16, marks=pytest.mark.slow)])
def test_one_flipped_bit_is_a_contradiction_and_not_a_trace_without_kvm_fpu(tmp_path, capsys, one_of):
    lines = text(next(path for path in TRACES if "host-builds" in path.name)).splitlines(True)
    shown = [i for i, line in enumerate(lines) if "xcomp_bv: 80000000000008e7" in line]
    path, statuses = tmp_path / "t.txt", Counter()
    for i in shown[::one_of]:
        broken = lines[i].replace("08e7", "18e7")
        path.write_text("".join([*lines[:i], broken, *lines[i + 1 :]]))
        status, out, _ = run(capsys, "replay", str(path), "--check", "--json")
        statuses[status, bool(json.loads(out)["unexplained"])] += 1
    assert statuses[1, True] >= 0.95 * statuses.total()
    assert statuses[2, True] == statuses[2, False] == 0


@pytest.mark.parametrize(
    ("lines", "says"),
    [(".*", "its events lack their task, CPU or time"), (".*x86_fpu_regs.*", "576 of its 1536 lines are not events")],
    ids=["all", "those of x86_fpu"],
)
def test_lines_without_a_cpu_are_said_where_events_seem_to_be_missing(tmp_path, capsys, lines, says):
    path = tmp_path / "t.txt"
    path.write_text(re.sub(rf"(?m)^({lines})$", lambda line: re.sub(r" \[\d{3}\]", "", line[1]), text(TRACES[0])))
    status, _, err = run(capsys, "replay", str(path), "--check")
    assert status == 2
    assert says in err
    assert "perf script -F comm,tid,cpu,time,event,trace" in err


def test_without_boot_lines_the_masks_are_those_seen(tmp_path, capsys):
    trace = next(path for path in TRACES if "halt-wakeup" in path.name)
    path = tmp_path / "t.txt"
    path.write_text("".join(line for line in text(trace).splitlines(True) if not line.startswith("#")))
    document = run_json(capsys, "replay", str(path), "--strategies", "xstate-guest")
    assert (document["machine"]["normal"], document["machine"]["guest"]) == ("0x8e7", "0x18e7")
    assert document["check"]["unexplained"] == []


def test_masks_that_contradict_the_boot_lines_are_said_once(tmp_path, capsys):
    path = tmp_path / "t.txt"
    path.write_text(text(TRACES[1]).replace("80000000000008e7", "8000000000000ae7"))
    status, out, _ = run(capsys, "replay", str(path), "--check")
    assert status == 1
    assert out.count("the boot lines enable 0x18e7") == 1


def test_the_snapshots_that_the_corruptions_start_from_change_nothing():
    trace = Trace.read(TRACES[3])
    follower = trace.follower_at(5000)
    for i in range(5000, 6000):
        follower.follow(trace.steps[i])
        assert counted(follower) == trace.counted[i]


HEADERS = {
    "# kernel 5.13.0 x86_64, 64 cpus": ("v6.6", "Linux 5.13 is older than v6.6"),
    "# os release : 6.14.8": ("v6.12", "Linux 6.14 lies between v6.12 and v6.17; v6.12 is nearest"),
    "# kernel 6.16.1": ("v6.17", "Linux 6.16 lies between v6.12 and v6.17; v6.17 is nearest"),
    "# os release : 7.1.5": ("v7.3", "Linux 7.1 lies between v6.19 and v7.3; v7.3 is nearest"),
    "# kernel 7.4.0": ("v7.3", "Linux 7.4 is newer than v7.3"),
}
SHORT = """ w-17350 [035] 59275.833500: sched_switch: prev_comm=swapper/35 prev_pid=0 prev_prio=120 prev_state=R ==> \
next_comm=w next_pid=17350 next_prio=120
 w-17350 [035] 59275.833511: x86_fpu_regs_activated: x86/fpu: 0xffff93d7595e2dc0 load: 0 xfeatures: 202 \
xcomp_bv: 8000000000000207
"""


@pytest.mark.parametrize("line", HEADERS)
def test_a_recorded_kernel_that_is_none_of_the_models_is_followed_as_the_nearest_with_a_note(line, tmp_path, capsys):
    trace = tmp_path / "trace.txt"
    trace.write_text(f"{line}\n{SHORT}")
    kernel, says = HEADERS[line]
    check = run_json(capsys, "replay", str(trace), "--check")
    assert any(note.startswith(says) and note.endswith(f"followed as {kernel}") for note in check["notes"])
    assert run_json(capsys, "replay", str(trace))["machine"]["kernel"] == kernel


@pytest.mark.parametrize("line", ["# kernel 6.12.8", "# os release : 7.3.4", "# kernel 6.17.0"])
def test_a_recorded_kernel_of_the_model_has_no_such_note(line, tmp_path, capsys):
    trace = tmp_path / "trace.txt"
    trace.write_text(f"{line}\n{SHORT}")
    assert not any("Linux" in note for note in run_json(capsys, "replay", str(trace), "--check")["notes"])
