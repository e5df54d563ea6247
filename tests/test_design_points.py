"""Points of a design share the workers, fail alone, are used again, and never mix what two versions gave."""

import _thread
import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_host
import pytest
import worlds

from sim import experiment, kernel
from sim.cli import main
from sim.errors import InputError, RunError
from sim.experiment import described
from sim.experiment.design import Design
from sim.experiment.points import point_name
from sim.results import files, load
from sim.results import manifest as manifests
from sim.results.lock import Lock
from sim.results.stored import Stored

SMALL = worlds.small(replications=2)
FOUR = ("sobol:4", ("host.cpus=2..9",))


@pytest.fixture
def run(scenario, tmp_path):
    def run(out="d", design=FOUR, scenario=scenario, **options):
        options = {"simulate": fake_host.simulate} | ({} if "executor" in options else {"jobs": 1}) | options
        return experiment.run_design(scenario, Design.parsed(*design), tmp_path / out, **options)

    return run


def cpus(design=FOUR):
    """The number of CPUs at each point."""
    return [point["host.cpus"] for point in Design.parsed(*design).points()]


def only_at(number, what):
    """Simulates, and does this at one point of four."""

    def simulate(case, timed_by, strategies, replication):
        if case.scenario.host.cpus == cpus()[number]:
            what()
        return fake_host.simulate(case, timed_by, strategies, replication)

    return simulate


def wrong():
    raise ZeroDivisionError("no")


def lacking():
    raise InputError("this host lacks something")


def dies():
    os._exit(9)


def there(place):
    """The contents of all files below a directory."""
    return {path.relative_to(place): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def tables(place):
    """Those of all tables."""
    return {name: content for name, content in there(place).items() if name.suffix == ".parquet"}


def document(out):
    return json.loads((out / described.NAME).read_text())


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


def test_points_of_another_version_are_refused_and_nothing_is_touched(run, tmp_path, monkeypatch):
    run()
    before = there(tmp_path / "d")
    monkeypatch.setattr(manifests, "source_sha256", lambda: "0" * 64)
    with pytest.raises(
        InputError, match=r"other than here are the source of fpswitch \(\w{12}, here 0{12}\); points of"
    ):
        run()
    assert there(tmp_path / "d") == before


def test_a_design_that_is_half_finished_is_not_continued_by_another_version(run, tmp_path, monkeypatch):
    with pytest.raises(RunError):
        run(simulate=only_at(2, wrong))
    monkeypatch.setattr(manifests, "source_sha256", lambda: "0" * 64)
    with pytest.raises(InputError, match="the source of fpswitch"):
        run()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run.seed": 2}, r"the seed \(1, here 2\)"),
        ({"guests.g.vcpus": 3}, r"the scenario \(guests.g.vcpus\)"),
        ({"run.reference": "manual-load"}, "run.reference"),
        ({"run.replications": 1}, r"replications \(2, here 1\)"),
        ({"run.precision": "2 %"}, r"replications \(2, here by precision\)"),
        ({"run.strategies": ["free-ssp"]}, r"the strategies \(without manual-load\)"),
    ],
)
def test_points_of_other_inputs_are_refused_and_what_differs_is_named(run, tmp_path, scenario, given, message):
    run()
    before = there(tmp_path / "d")
    with pytest.raises(InputError, match=f"other than here are .*{message}"):
        run(overrides=given)
    assert there(tmp_path / "d") == before


def test_points_of_a_strategy_whose_file_was_edited_are_refused(run, tmp_path):
    mine, own = tmp_path / "mine.toml", tmp_path / "own.toml"
    mine.write_bytes((Path(kernel.__file__).parent / "data" / "strategies" / "manual-load.toml").read_bytes())
    own.write_text(SMALL.replace('"manual-load"', '"./mine.toml"'))
    run(scenario=own)
    before = there(tmp_path / "d")
    mine.write_text(mine.read_text().replace("guard = true", "guard = false"))
    with pytest.raises(InputError, match=r"other than here are the strategy manual-load \(mine.toml\); points"):
        run(scenario=own)
    assert there(tmp_path / "d") == before


def test_more_replications_and_strategies_are_run_and_nothing_else(run, tmp_path):
    run("whole", overrides={"run.replications": 3, "run.strategies": ["free-ssp", "manual-load", "xstate-guest"]})
    run()
    counted = fake_host.Counted()
    run(simulate=counted, overrides={"run.replications": 3})
    assert [n for *_, n in counted.works] == [2] * 4
    counted = fake_host.Counted()
    run(
        simulate=counted,
        overrides={"run.replications": 3, "run.strategies": ["free-ssp", "manual-load", "xstate-guest"]},
    )
    assert counted.walked == ["xstate-guest"] * 12
    assert tables(tmp_path / "d") == tables(tmp_path / "whole")


def test_nothing_of_finished_points_is_read_again(run, tmp_path, monkeypatch):
    first = run()
    before = there(tmp_path / "d")

    def fails(*_):
        raise AssertionError("a table is read")

    monkeypatch.setattr(Stored, "__init__", fails)
    again = run(simulate=fails)
    assert again.equals(first)
    after = there(tmp_path / "d")
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.parametrize("name", ["points/000002", "finished/000002.json", "dataset/ledger", "points.parquet"])
def test_what_of_a_finished_design_is_gone_is_made_again(run, tmp_path, name):
    run()
    before = tables(tmp_path / "d")
    if (tmp_path / "d" / name).is_dir():
        files.remove(tmp_path / "d" / name)
    else:
        (tmp_path / "d" / name).unlink()
    counted = fake_host.Counted()
    run(simulate=counted)
    assert len(counted.works) == (2 if name == "points/000002" else 0)
    assert tables(tmp_path / "d") == before


@pytest.mark.parametrize("content", [b"", bytes(9), b"[]", b"5", b'{"of": 1}', b'{"sha256": []}', b"[" * 10**5])
def test_a_damaged_note_of_a_finished_point_is_none(run, tmp_path, content):
    first = run()
    (tmp_path / "d" / "finished" / "000002.json").write_bytes(content)
    assert run().equals(first)


def test_rows_of_a_finished_point_that_somebody_changed_are_made_again(run, tmp_path):
    first = run()
    path = tmp_path / "d" / "finished" / "000002.json"
    path.write_text(path.read_text().replace('"replications": 2', '"replications": 9'))
    assert run().equals(first)


def test_a_point_whose_table_was_cut_off_is_named_and_the_others_stay(run, tmp_path):
    run()
    ledger = tmp_path / "d" / "points" / "000002" / "ledger.parquet"
    content = ledger.read_bytes()
    ledger.unlink()  # the dataset has another name of the same file
    ledger.write_bytes(content[:-20])
    with pytest.raises(InputError, match=r"1 of 4 points failed.*point 2 of 4.*ledger.parquet"):
        run()


def test_a_design_that_is_reached_by_a_link_is_locked_too(run, tmp_path):
    run()
    (tmp_path / "link").symlink_to("d")
    with Lock(tmp_path / "d"), pytest.raises(InputError, match="has a run in progress there"):
        run("link")
    run("link")
    assert (tmp_path / "link").is_symlink()
