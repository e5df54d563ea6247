"""Replications run wherever they are sent, and the tables are the same bytes."""

import json
import os
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import fake_host
import pytest
import worlds
from command import run as run_command

from sim.errors import InputError, RunError
from sim.experiment import pools, workers
from sim.experiment.dispatch import Dispatcher, Lane, _Waiting
from sim.experiment.pools import Given
from sim.processes import TRIES
from sim.results import groups, load, parts
from sim.results.groups import Gathered

SMALL = worlds.small(cpu=["zen4", "sapphire-rapids"])


@pytest.fixture
def alone(run_in, tables):
    run_in("alone", jobs=1)
    return tables("alone")


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_any_executor_gives_the_same_bytes_and_stays_open(run_in, tables, alone, kind):
    spawned = {"mp_context": get_context("spawn")}
    with ThreadPoolExecutor(3) if kind == "threads" else ProcessPoolExecutor(2, **spawned) as executor:
        run_in(kind, executor=executor)
        assert executor.submit(abs, -1).result() == 1
    assert tables(kind) == alone


def test_an_executor_that_is_shut_down_is_one_message_and_the_run_continues_elsewhere(run_in, tables, alone):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RunError, match="the executor takes no tasks"):
        run_in("r", executor=executor)
    run_in("r", jobs=1)
    assert tables("r") == alone


class Odd:
    """An executor whose submit() raises what it is given, or returns it."""

    def __init__(self, outcome):
        self._outcome = outcome

    def submit(self, function, *arguments):
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def failed(error):
    future = Future()
    future.set_exception(error)
    return future


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (OSError(111, "Connection refused"), "the executor takes no tasks (.*Connection refused"),
        (failed(OSError(32, "Broken pipe")), "the executor is broken (.*Broken pipe"),
        (7, "gives int, which is no concurrent.futures.Future"),
    ],
)
def test_what_an_executor_says_is_not_taken_for_a_fault_of_the_directory(run_in, outcome, message):
    with pytest.raises(RunError, match=message.replace("(", "[(]")):
        run_in("r", executor=Odd(outcome))


@pytest.mark.parametrize("number", [-2, 0, "many", None])
def test_what_an_executor_says_of_its_workers_is_taken_if_it_can_be(run_in, tables, alone, number):
    odd = Odd(None)
    with ThreadPoolExecutor(1) as executor:
        odd._max_workers, odd.submit = number, executor.submit
        run_in("odd", executor=odd, jobs=1)
    assert tables("odd") == alone


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, 4, "loky"])
def test_what_is_no_executor_is_refused_before_anything_is_written(run_in, tmp_path, executor):
    with pytest.raises(InputError, match="allowed: an object with submit"):
        run_in("r", executor=executor)
    assert not (tmp_path / "r").exists()


def test_an_executor_and_a_cluster_are_too_much(run_in):
    with pytest.raises(InputError, match="one of them"):
        run_in("r", executor=ThreadPoolExecutor(1), cluster="local:1")


@pytest.mark.parametrize("name", ["source_sha256", "numpy", "pyarrow", "simpy"])
def test_a_worker_with_another_version_is_refused_in_one_sentence(run_in, tmp_path, monkeypatch, name):
    original = workers.versions
    seen = []

    def other():
        seen.append(name)
        return {**original(), name: "0" * 40} if len(seen) > 1 else original()  # the driver asks first

    with ThreadPoolExecutor(1) as executor:
        monkeypatch.setattr(workers, "versions", other)
        with pytest.raises(RunError) as caught:
            run_in("r", executor=executor)
    assert f"is refused: it has {name} 000000000000 (here " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r" / "ledger.parquet").exists()


# Groups.


NOTHING = Gathered().packed()


class Timed:
    """A pool of one worker in which every work takes so long, by its own account."""

    def __init__(self, seconds):
        self.seconds, self.groups = seconds, []

    def workers(self):
        return 1

    def submit(self, task):
        from concurrent.futures import Future

        self.groups.append(task.works)
        future = Future()
        future.set_result(workers.Done(NOTHING, (self.seconds,) * len(task.works)))
        return future


def sent(pool, *lanes):
    """What comes back of each."""
    return Dispatcher(pool, print, list).groups(iter(lanes))


@pytest.mark.parametrize(("seconds", "least"), [(0.001, 900), (0.05, 20), (0.4, 3), (3, 1)])
def test_replications_go_out_in_groups_of_a_second_or_more_and_each_once(scenario, seconds, least):
    from sim.scenario.cases import cases
    from sim.scenario.reading import read

    pool = Timed(seconds)
    of_scenario = cases(read(scenario))
    works = [(case.name, "free-ssp", ("free-ssp",), n) for case in of_scenario for n in range(2500)]
    keys = {(case.name, "free-ssp", "free-ssp"): "0" * 32 for case in of_scenario}
    found = list(sent(pool, Lane(of_scenario, keys, iter([works]), list)))
    assert len(found) == len(pool.groups)
    assert sorted(work for group in pool.groups for work in group) == sorted(works)
    assert max(map(len, pool.groups)) >= least
    whole = [len(group) for group in pool.groups[4:] if len(group) > 1]
    assert all(n * seconds < 2 for n in whole)
    assert max(len(group) for group in pool.groups[-5:]) <= max(1, least // 2 if least > 3 else least)


class Forgetful(Timed):
    """Keeps no groups."""

    def submit(self, task):
        self.groups.clear()
        return super().submit(task)


def test_what_the_driver_keeps_does_not_grow_with_the_answers_that_have_come(scenario):
    from sim.scenario.cases import cases
    from sim.scenario.reading import read

    case = cases(read(scenario))[0]
    works = [(case.name, "free-ssp", ("free-ssp",), n) for n in range(20_000)]
    lane = Lane([case], {(case.name, "free-ssp", "free-ssp"): "0" * 32}, iter([works]), list)
    blocks = {n: sys.getallocatedblocks() for n, _ in enumerate(sent(Forgetful(3), lane)) if n in {1000, 19_000}}
    assert blocks[19_000] - blocks[1000] < 1000


def test_what_comes_back_undone_goes_out_before_all_others_in_its_order():
    waiting = _Waiting(range(6))
    waiting.put_back(())
    taken = [waiting.take() for _ in range(4)]
    waiting.put_back(taken[2:])
    waiting.put_back(taken[:1])
    assert (len(waiting), [waiting.take() for _ in range(6)], len(waiting)) == (5, [0, 2, 3, 4, 5, None], 0)


def late(case, timed_by, strategies, replication):
    """From replication 40 on takes a hundred times as long."""
    time.sleep(0.2 if replication >= 40 else 0.002)
    return fake_host.simulate(case, timed_by, strategies, replication)


def test_a_group_that_takes_far_longer_than_was_thought_comes_back_in_parts(run_in, monkeypatch, tables):
    monkeypatch.setattr(workers, "LONGEST_S", 0.5)
    undone, slow, original = [], [], workers.work

    def noted(task):
        done = original(task)
        n = len(done.seconds)
        undone.append(len(task.works) - n)
        slow.append(sum(replication >= 40 for *_, replication in task.works[:n]))
        return done

    monkeypatch.setattr(pools, "work", noted)
    options = {"overrides": {"run.replications": 60}}
    with ThreadPoolExecutor(1) as executor:
        run_in("parts", executor=executor, simulate=late, **options)
    run_in("whole", jobs=1, **options)
    assert tables("parts") == tables("whole")
    assert max(undone) > 0
    assert max(slow) <= 3  # of 0.2 s or more each


@pytest.mark.parametrize("jobs", [1, 2])
def test_however_little_replications_take_no_more_records_come_together_than_are_read_again(
    scenario, monkeypatch, jobs
):
    from sim.experiment import dispatch
    from sim.scenario.cases import cases
    from sim.scenario.reading import read

    for module in (workers, dispatch):
        monkeypatch.setattr(module, "MOST_OF_GROUP", 10)
    case = cases(read(scenario))[0]
    keys = {(case.name, "free-ssp", name): name for name in ("free-ssp", "manual-load")}
    works = [(case.name, "free-ssp", ("free-ssp", "manual-load"), n) for n in range(40)]
    if jobs == 1:
        found = list(workers.here(works, [case], keys, fake_host.simulate))
        numbers = [sum(len(batch.replications) for batch in group.batches()) for group in found]
    else:
        list(sent(pool := Timed(0.0001), Lane([case], keys, iter([works]), list)))
        numbers = [2 * len(group) for group in pool.groups]
    assert (sum(numbers), max(numbers)) == (80, 10)
    assert 10 * workers.MOST_OF_GROUP <= groups.MOST_RECORDS


# Workers that die.


def kills(case, timed_by, strategies, replication):
    """Takes its process with it in replication 3 of a case."""
    if (case.name, replication) == ("zen4 v6.18", 3):
        os._exit(9)
    return fake_host.simulate(case, timed_by, strategies, replication)


@pytest.mark.slow
def test_a_replication_that_kills_its_workers_is_tried_three_times_and_named_and_the_rest_finish(
    run_in, tmp_path, tables, alone, capsys
):
    with pytest.raises(RunError) as caught:
        run_in("r", jobs=2, simulate=kills)
    assert f"a worker process died {TRIES} times in case zen4 v6.18, timed by free-ssp, replication 3" in str(
        caught.value
    )
    assert "after 22 of 24 replications" in str(caught.value)
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    failed = {"case": "zen4 v6.18", "timed_by": "free-ssp", "strategies": ["free-ssp", "manual-load"], "replication": 3}
    assert (manifest["status"], manifest["failed"]) == ("failed", [failed])
    assert run_command(capsys, "status", str(tmp_path / "r"))[1].count("the same command continues") == 1
    assert len(set(parts.keys_kept(tmp_path / "r"))) == 22
    again = run_in("r", jobs=1)
    assert any(note.startswith("22 of 24 replications were finished already") for note in again.notes)
    assert tables("r") == alone
    assert "failed" not in load(tmp_path / "r").manifest


def once(case, timed_by, strategies, replication):
    """Takes its process with it the first time that this is asked of anybody."""
    mark = Path(os.environ["MARK"])
    if replication == 2 and not mark.exists():
        mark.touch()
        os._exit(9)
    return fake_host.simulate(case, timed_by, strategies, replication)


def test_a_worker_that_is_killed_once_is_no_failure(run_in, tmp_path, monkeypatch, tables, alone):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    run_in("r", jobs=2, simulate=once)
    assert tables("r") == alone


def test_a_replication_is_not_tried_again_where_the_model_is_wrong(run_in, tmp_path):
    calls = []

    def wrong(*work):
        calls.append(work[-1])
        raise ZeroDivisionError("no")

    with ThreadPoolExecutor(1) as executor, pytest.raises(RunError, match="replication 0: ZeroDivisionError: no"):
        run_in("r", executor=executor, simulate=wrong)
    assert calls.count(0) == 1


def test_few_tasks_are_with_an_executor_at_a_time(scenario):
    from sim.scenario.cases import cases
    from sim.scenario.reading import read

    of_scenario = cases(read(scenario))
    works = [(of_scenario[0].name, "free-ssp", ("free-ssp",), n) for n in range(40)]

    def slow(*work):
        time.sleep(0.005)
        return []

    with ThreadPoolExecutor(2) as executor:
        keys = {(of_scenario[0].name, "free-ssp", "free-ssp"): "0" * 32}
        dispatcher = Dispatcher(Given(executor, 1), print, list)
        lane = Lane(of_scenario, keys, iter([works]), list, slow)
        most = max(len(dispatcher._flying) for _ in dispatcher.groups(iter([lane])))
    assert most <= 4
