"""Points of a design share the workers, fail alone, are used again, and never mix what two versions gave."""

import _thread
import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fake_host
import pytest
import worlds
from design_runs import FOUR, cpus, document, only_at, run_four, tables, wrong

from sim import experiment
from sim.cli import main
from sim.errors import InputError, RunError
from sim.experiment import design_status, running
from sim.experiment.points import point_name
from sim.results import load

SMALL = worlds.small(replications=2)


@pytest.fixture
def run(scenario, tmp_path):
    return run_four(scenario, tmp_path)


def lacking():
    raise InputError("this host lacks something")


def dies():
    os._exit(9)


# Points that share the workers.


def test_points_of_one_replication_are_run_side_by_side(run):
    """Each waits until all four are being run."""
    together = threading.Barrier(4, timeout=20)

    def waits(*work):
        together.wait()
        return fake_host.simulate(*work)

    with ThreadPoolExecutor(4) as executor:
        points = run(executor=executor, simulate=waits, overrides={"run.replications": 1})
    assert points["point"].nunique() == 4


def test_the_bytes_do_not_depend_on_which_point_ends_first(run, tmp_path):
    def late(*work):
        time.sleep(random.random() / 20)
        return fake_host.simulate(*work)

    sixteen = ("sobol:16", ("host.cpus=2..17",))
    run("one", sixteen)
    with ThreadPoolExecutor(5) as executor:
        run("many", sixteen, executor=executor, simulate=late)
    assert len(tables(tmp_path / "one")) == 16 * 4 * 2 + 1
    assert tables(tmp_path / "many") == tables(tmp_path / "one")


def test_no_more_points_are_open_at_a_time_than_files_can_be(run, monkeypatch):
    from sim.experiment import dispatch, points

    monkeypatch.setattr(dispatch, "MOST_LANES", 3)
    are_open, most = set(), []

    class Counted(points.Running):
        def __init__(self, *about):
            super().__init__(*about)
            are_open.add(self)
            most.append(len(are_open))

        def close(self):
            super().close()
            are_open.discard(self)

    monkeypatch.setattr(points, "Running", Counted)
    with ThreadPoolExecutor(8) as executor:
        run(design=("sobol:16", FOUR[1]), executor=executor)
    assert (max(most), len(most), are_open) == (3, 16, set())


def test_status_shows_how_far_points_are_that_share_the_workers(run, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "EVERY_S", 0.0)
    seen, deadline = [], time.monotonic() + 60

    def looks(case, timed_by, strategies, replication):
        while replication == 8 and not seen and time.monotonic() < deadline:
            found = design_status.document(tmp_path / "d", lambda *_: {}, [])
            if any(each["total"] and each["finished"] > 0 for each in found["running"]):
                seen.append(found)
        return fake_host.simulate(case, timed_by, strategies, replication)

    with ThreadPoolExecutor(2) as executor:
        run(executor=executor, simulate=looks, overrides={"run.replications": 12})
    found = seen[0]
    assert {each["total"] for each in found["running"] if each["total"]} == {24}
    assert all(each["finished"] < 24 for each in found["running"] if each["total"])
    assert (found["workers"], found["in_flight"] > 0) == (2, True)


def test_an_interrupt_loses_what_is_in_flight_and_ends_all_points_that_are_open(run, tmp_path):
    run("whole")
    done = []

    def interrupts(*work):
        if len(done) == 3:
            _thread.interrupt_main()
            time.sleep(0.2)
        done.append(work)
        return fake_host.simulate(*work)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell ignore it
    try:
        with (
            ThreadPoolExecutor(1) as executor,
            pytest.raises(experiment.Interrupted, match=r"after \d of 4 points; .*d kee"),
        ):
            run(executor=executor, simulate=interrupts)
    finally:
        signal.signal(signal.SIGINT, before)
    assert document(tmp_path / "d")["status"] == "interrupted"
    ends = {
        path.parent.name: json.loads(path.read_text())["status"] for path in tmp_path.glob("d/points/*/manifest.json")
    }
    assert set(ends.values()) <= {"complete", "interrupted"}
    counted = fake_host.Counted()
    run(simulate=counted)
    assert len(counted.works) <= 4 * 2 - 3 + 2
    assert tables(tmp_path / "d") == tables(tmp_path / "whole")


# Points that fail.


@pytest.mark.parametrize("how", ["here", "with others"])
@pytest.mark.parametrize(("what", "error"), [(wrong, RunError), (lacking, InputError)])
def test_a_point_that_fails_is_named_and_the_others_run_and_it_alone_is_tried_again(run, tmp_path, how, what, error):
    run("whole")
    with ThreadPoolExecutor(2) as executor:
        where = {"executor": executor} if how == "with others" else {}
        with pytest.raises(
            error, match=rf"1 of 4 points failed.*the other 3: point 2 of 4 \(host.cpus {cpus()[1]}\): "
        ):
            run(simulate=only_at(1, what), **where)
    found = document(tmp_path / "d")
    assert (found["status"], [each["point"] for each in found["failed"]]) == ("failed", [2])
    for number in (0, 2, 3):
        assert load(tmp_path / "d" / "points" / point_name(number)).manifest["status"] == "complete"
    counted = fake_host.Counted()
    points = run(simulate=counted)
    assert len(counted.works) == 2
    assert sorted(set(points["point"])) == [1, 2, 3, 4]
    assert (document(tmp_path / "d")["status"], document(tmp_path / "d")["failed"]) == ("complete", [])
    assert tables(tmp_path / "d") == tables(tmp_path / "whole")


@pytest.mark.slow
def test_a_replication_that_kills_its_workers_costs_its_point_alone(run, tmp_path):
    with pytest.raises(RunError, match=r"1 of 4 points failed.*point 3 of 4.*a worker process died 3 times"):
        run(jobs=2, simulate=Dies())
    assert [each["point"] for each in document(tmp_path / "d")["failed"]] == [3]
    assert sorted(path.name for path in (tmp_path / "d" / "finished").iterdir()) == [
        "000001.json", "000002.json", "000004.json",
    ]  # fmt: skip


class Dies:
    """What takes its process with it at the third point; workers get it as a pickle."""

    def __call__(self, *work):
        return only_at(2, dies)(*work)


@pytest.mark.parametrize(("what", "status"), [(wrong, 1), (lacking, 2)])
def test_the_exit_status_of_a_point_that_fails_is_that_of_its_error(
    scenario, tmp_path, monkeypatch, capsys, what, status
):
    original = experiment.run_design
    faked = {"simulate": only_at(0, what), "jobs": 1}
    monkeypatch.setattr(experiment, "run_design", lambda *a, **k: original(*a, **k | faked))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(scenario), "--design", FOUR[0], "--range", *FOUR[1], "--out", str(tmp_path / "d")])
    assert ended.value.code == status
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("fpswitch: 1 of 4 points failed")]


def test_an_input_that_is_wrong_inside_of_a_range_is_found_before_anything_runs(run, tmp_path, monkeypatch):
    """At the point that is neither the first nor has an end of the range."""
    from sim.scenario import reading

    inner = next(n for n in range(1, 4) if cpus()[n] not in (min(cpus()), max(cpus())))
    original = reading.cases

    def checked(scenario):
        if scenario.host.cpus == cpus()[inner]:
            raise InputError("so many CPUs cannot be")
        return original(scenario)

    monkeypatch.setattr(reading, "cases", checked)
    with pytest.raises(InputError, match=rf"^point {inner + 1} of 4 .*so many CPUs cannot be"):
        run()
    assert not (tmp_path / "d").exists()


# Points that are there.
