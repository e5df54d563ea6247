"""Workloads of rt-app as threads of a host."""

import gzip
import json

import command
import pytest

from sim.errors import InputError
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.trace.fit.of_rt_app import tasks

EXAMPLE = """{
    /* a periodic task, beside one in two phases; as rt-app's own examples are written */
    "tasks" : {
        "periodic" : { "instance" : 3, "cpus" : [1, 2], "priority" : 5, "run" : 2000,
                       "timer" : { "ref" : "unique", "period" : 16000 } },
        "phased" : { "loop" : -1, "phases" : {
            "light" : { "loop" : 30, "run" : 1000, "sleep" : 9000 },
            "heavy" : { "loop" : 10, "run0" : 3000, "sleep" : 1000, "run1" : 2000, "timer0" : { "period" : 10000 }, },
        } },
        "fifo" : { "policy" : "SCHED_FIFO", "runtime" : 500, "suspend" : "fifo" },
        "started by fork" : { "instance" : 0, "run" : 100 },
    },
    "global" : { "duration" : 2, "default_policy" : "SCHED_OTHER" }
}"""


def new(capsys, folder, text, *options):
    (folder / "workload.json").write_text(text)
    return command.run(capsys, "new", str(folder / "mine.toml"), "--rt-app", str(folder / "workload.json"), *options)


def test_tasks_become_threads_with_their_bursts_and_sleeps(tmp_path, capsys):
    status, out, _ = new(capsys, tmp_path, EXAMPLE, "--json")
    assert status == 0
    scenario = read(tmp_path / "mine.toml")
    assert list(scenario.threads) == ["periodic", "phased", "fifo"]
    periodic, phased, fifo = scenario.threads.values()
    assert (periodic.count, periodic.nice, periodic.affinity) == (3, 5, (1, 2))
    # The period is from timer to timer, so what the run took is not slept.
    assert (periodic.compute.mean, periodic.sleep.mean) == pytest.approx((2e-3, 14e-3))
    # 30 x (1 ms, 9 ms), and 10 x (3 ms, 1 ms; 2 ms, 4 ms), the timer's first period from the beginning on.
    assert sorted(set(phased.compute.values)) == pytest.approx([1e-3, 2e-3, 3e-3])
    assert phased.compute.mean == pytest.approx((30 * 1 + 10 * (3 + 2)) / 50 * 1e-3)
    assert phased.sleep.values.count(0.009) == 30
    assert (fifo.nice, fifo.sleep) == (-20, None)
    notes = json.loads(out)["notes"]
    assert len(notes) == 2
    assert any("SCHED_FIFO counts as nice -20" in note for note in notes)
    assert any("suspend waits for or wakes other tasks, which is left out" in note for note in notes)
    assert len(cases(scenario)) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_workload_that_windows_wrote_is_the_workload(encoding, tmp_path):
    for name, how in (("plain.json", "utf-8"), ("other.json", encoding)):
        (tmp_path / name).write_text(EXAMPLE, encoding=how)
    assert tasks(str(tmp_path / "other.json")) == tasks(str(tmp_path / "plain.json"))


def test_cpu_time_of_a_round_is_that_of_its_events(tmp_path, capsys):
    events = {"run": 100, "run1": 200, "sleep": 50, "sleep1": 60, "runtime": 300}
    assert new(capsys, tmp_path, json.dumps({"tasks": {"a": events}}))[0] == 0
    (task,) = read(tmp_path / "mine.toml").threads.values()
    assert sorted(task.compute.values) == pytest.approx([300e-6, 300e-6]) or task.compute.mean == pytest.approx(300e-6)
    assert task.sleep.mean == pytest.approx((110e-6 + 0) / 2)


WORKGEN = """{
    "tasks" : {
        "decoder" : {
            "suspend",
            "run" : 275, // twice, and both count
            "resume" : "suspend",
            "run" : 4725,
            "timer" : { "ref" : "tick", "period" : 6000 },
            "run" : 1000,
            "yield"
        },
        "tick" : { "resume" : "decoder", "timer" : { "ref" : "tick", "period" : 6000 } },
        "decoder" : { "policy" : "SCHED_IDLE", "run" : 7, "sleep" : 3 }
    }
}"""


def test_keys_that_are_there_again_and_without_a_value_are_those_of_workgen(tmp_path, capsys):
    status, out, _ = new(capsys, tmp_path, WORKGEN, "--json")
    assert status == 0
    threads = read(tmp_path / "mine.toml").threads
    assert list(threads) == ["decoder", "decoder_2"]
    assert sorted(threads["decoder"].compute.values) == pytest.approx([1e-3, 5e-3])
    assert sorted(threads["decoder"].sleep.values) == pytest.approx([0, 1e-3])
    assert (threads["decoder_2"].nice, threads["decoder_2"].compute.mean) == (19, pytest.approx(7e-6))
    notes = json.loads(out)["notes"]
    assert "tick: takes no CPU time, and is left out" in notes
    assert "decoder_2: SCHED_IDLE counts as nice 19" in notes


CHAIN = """{ "tasks" : {
    "tick" : { "phases" : { "first" : { "resume" : "out", "timer" : { "ref" : "tick", "period" : 6000 } },
                            "rest" : { "loop" : 4, "timer" : { "ref" : "tick", "period" : 6000 } } } },
    "out" : { "suspend", "run" : 5000, "resume" : "decoder" },
    "decoder" : { "instance" : 2, "suspend", "run" : 1000, "signal" : "queue",
                  "wait" : { "ref" : "queue", "mutex" : "m" } },
    "call" : { "wait" : { "ref" : "queue", "mutex" : "m" }, "run" : 300 },
    "alone" : { "suspend", "run" : 70 } } }"""


def test_a_task_that_waits_runs_as_often_as_others_wake_it(tmp_path, capsys):
    status, out, _ = new(capsys, tmp_path, CHAIN, "--json")
    assert status == 0
    threads = read(tmp_path / "mine.toml").threads
    assert list(threads) == ["out", "decoder", "call", "alone"]
    assert threads["out"].sleep.mean == pytest.approx(25e-3)  # tick's five periods of 6 ms, less its own 5 ms
    assert threads["decoder"].sleep.mean == pytest.approx(59e-3)  # two share what out resumes
    assert threads["call"].sleep.mean == pytest.approx(29.7e-3)
    assert threads["alone"].sleep is None
    assert "out: runs every 30000 us, as often as others wake it" in json.loads(out)["notes"]


def test_a_chain_of_many_tasks_is_followed_once(tmp_path):
    chain = {f"t{k}": {"suspend": "", "run": 1, "resume": f"t{k + 1}"} for k in range(3000)}
    (tmp_path / "w.json").write_text(json.dumps({"tasks": {"t": {"run": 1, "sleep": 999, "resume": "t0"}, **chain}}))
    found = tasks(str(tmp_path / "w.json"))
    assert [task.sleeps for task in found[:90]] == [[999.0]] * 90


@pytest.mark.parametrize(
    ("events", "sleep_us"),
    [
        ('"sleep" : 80, "run" : 20', 80),
        ('"sleep" : 80, "run" : 20, "sleep" : 5', 85),
        ('"timer" : { "ref" : "t", "period" : 100 }, "run" : 20', 80),
        ('"run" : 20, "timer" : { "ref" : "t", "period" : 100 }', 80),
    ],
)
def test_what_a_round_sleeps_before_it_runs_is_slept_behind_it(tmp_path, capsys, events, sleep_us):
    assert new(capsys, tmp_path, f'{{"tasks" : {{ "a" : {{ {events} }} }} }}')[0] == 0
    (thread,) = read(tmp_path / "mine.toml").threads.values()
    assert (thread.compute.mean, thread.sleep.mean) == pytest.approx((20e-6, sleep_us * 1e-6))


@pytest.mark.parametrize("phased", [False, True])
def test_the_grammar_before_events_is_a_burst_in_each_period(tmp_path, capsys, phased):
    events = {"exec": 1000, "period": 10000, "deadline": 10000, "lock_order": ["m0"], "resources": {"m0": {}}}
    task = {"phases": {"p": {**events, "loop": 2}}} if phased else events
    assert new(capsys, tmp_path, json.dumps({"tasks": {"a": task}}))[0] == 0
    (thread,) = read(tmp_path / "mine.toml").threads.values()
    assert (thread.compute.mean, thread.sleep.mean) == pytest.approx((1e-3, 9e-3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"tasks": {"a": {"exec": 5, "run": 5}}}', "tasks.a.run: found beside exec"),
        ('{"tasks": {"a": {"exec": 5, "period": -1}}}', "tasks.a.timer.period: found -1"),
        ("{", "is not JSON"),
        ("/* " * 300_000, "is not JSON"),  # no comment ends: once through the text, not once for each
        ("[]", "has no 'tasks'"),
        ('{"tasks": {}}', "has no 'tasks'"),
        ('{"tasks": {"a": 5}}', "tasks.a: found 5"),
        ('{"tasks": {"a": {"sleep": 5}}}', "no event that takes CPU time"),
        ('{"tasks": {"a": {"run": -5}}}', "tasks.a.run: found -5"),
        ('{"tasks": {"a": {"run": "5"}}}', "tasks.a.run: found '5'"),
        ('{"tasks": {"a": {"run": NaN}}}', "tasks.a.run: found nan"),
        ('{"tasks": {"a": {"walk": 5}}}', "tasks.a.walk: an event that rt-app does not have"),
        ('{"tasks": {"a": {"run": 5, "timer": 7}}}', "allowed: an object with a period"),
        ('{"tasks": {"a": {"run": 5, "instance": 1.5}}}', "tasks.a.instance: found 1.5"),
        ('{"tasks": {"a": {"run": 5, "instance": 0}}}', "every task has instance 0"),
        ('{"tasks": {"a": {"run": 5, "cpus": 3}}}', "tasks.a.cpus: found 3"),
        ('{"tasks": {"a": {"run": 5, "priority": 40}}}', "tasks.a.priority: found 40"),
        ('{"tasks": {"a": {"phases": {"p": 3}}}}', "tasks.a.phases.p: found 3"),
    ],
)
def test_what_is_no_workload_is_refused_and_nothing_is_written(text, message, tmp_path, capsys):
    status, _, err = new(capsys, tmp_path, text)
    assert (status, message in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["workload.json"]


def test_a_packed_workload_is_said_to_be_packed(tmp_path):
    (tmp_path / "w.json").write_bytes(gzip.compress(EXAMPLE.encode()))
    with pytest.raises(InputError, match=r"w\.json is not JSON: packed by gzip"):
        tasks(str(tmp_path / "w.json"))


def test_a_scenario_that_is_there_is_kept(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("precious")
    status, _, err = new(capsys, tmp_path, EXAMPLE)
    assert (status, "exists" in err) == (2, True)
    assert (tmp_path / "mine.toml").read_text() == "precious"


def read_tasks(tmp_path, of_tasks):
    (tmp_path / "w.json").write_text(json.dumps({"tasks": of_tasks}))
    return {task.name: task for task in tasks(str(tmp_path / "w.json"))}


def test_what_begins_like_an_event_is_one(tmp_path):
    """As in rt-app, which compares as many characters as the event has (obj_is_event())."""
    events = {"run-first": 10, "sleepy": 5, "runtime2": 7, "timer_a": {"ref": "a", "period": 50}, "memrun": {}}
    (task,) = read_tasks(tmp_path, {"a": events}).values()
    assert (task.bursts, task.sleeps) == ([10, 7], [5, 28])
    assert task.notes == ["memrun is left out"]


def test_a_semaphore_wakes_the_task_that_waits_for_it(tmp_path):
    found = read_tasks(tmp_path, {"a": {"sem_wait": "s", "run": 10}, "b": {"run": 5, "sleep": 95, "sem_post": "s"}})
    assert found["a"].sleeps == [90]
    assert "runs every 100 us, as often as others wake it" in found["a"].notes


def test_what_a_scenario_does_not_have_of_a_task_is_noted(tmp_path):
    burst = {"run": 10, "sleep": 5}
    found = read_tasks(
        tmp_path,
        {
            "plain": {"loop": -1, "delay": 0, "cpus": [1], "priority": 3, **burst},
            "ends": {"loop": 3, "delay": 5000, "taskgroup": "/tg1", **burst},
            "moves": {"phases": {"p": {"loop": 2, "cpus": [0], **burst}, "q": {"cpus": [1], "priority": 3, **burst}}},
        },
    )
    assert found["plain"].notes == []
    assert found["ends"].notes == [
        "ends after loop = 3; here it goes on",
        "begins after a delay of 5000 us, which is left out",
        "taskgroup is left out",
    ]
    assert found["moves"].notes == ["cpus of its phases is left out", "priority of its phases is left out"]
