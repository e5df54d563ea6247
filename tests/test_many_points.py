"""What a design does once and not for each point, and that each point stays a result directory by itself."""

import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_host
import pytest
import worlds

from sim import experiment, kernel
from sim.errors import InputError
from sim.experiment import described, workers
from sim.experiment.dataset import Dataset
from sim.experiment.design import Design
from sim.results import files, load
from sim.scenario.reading import Source

RANGES = ("host.cpus=2..65",)


@pytest.fixture
def run(scenario, tmp_path):
    def run(n, out="d", scenario=scenario, **options):
        options = {"simulate": fake_host.simulate} | ({} if "executor" in options else {"jobs": 1}) | options
        return experiment.run_design(scenario, Design.parsed(f"lhs:{n}", RANGES), tmp_path / out, **options)

    return run


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(worlds.small(replications=3))
    return path


def points(out):
    return sorted((out / "points").glob("[0-9]*"))


def tables(place):
    return {path.relative_to(place): path.read_bytes() for path in sorted(place.rglob("*.parquet"))}


# Files that are the same at all points.


def test_the_cost_tables_of_all_points_are_one_file_and_each_point_can_be_copied_alone(run, tmp_path):
    run(3)
    first, *others = points(tmp_path / "d")
    assert all((each / "costs.json").samefile(first / "costs.json") for each in others)
    shutil.copytree(others[0], tmp_path / "copy")
    whole = load(others[0])
    shutil.rmtree(tmp_path / "d")
    assert load(tmp_path / "copy").ledger.equals(whole.ledger)


def test_without_links_each_point_has_the_same_bytes(run, tmp_path, monkeypatch):
    run(2, "linked")

    def fails(*_, **__):
        raise OSError("no links")

    monkeypatch.setattr(os, "link", fails)
    run(2, "copied")
    of_linked, of_copied = (points(tmp_path / name) for name in ("linked", "copied"))
    assert not (of_copied[0] / "costs.json").samefile(of_copied[1] / "costs.json")
    for a, b in zip(of_linked, of_copied, strict=True):
        assert (a / "costs.json").read_bytes() == (b / "costs.json").read_bytes()
    assert tables(tmp_path / "linked") == tables(tmp_path / "copied")


@pytest.mark.parametrize("options", [{}, {"overrides": {"run.replications": 4}}])
def test_cost_tables_of_all_points_that_somebody_changed_are_written_again_by_the_same_command(
    run, tmp_path, capsys, options
):
    run(3)
    with (points(tmp_path / "d")[0] / "costs.json").open("a") as file:
        file.write(" ")
    for point in points(tmp_path / "d"):
        with pytest.raises(InputError, match=r"costs.json: is not what the run wrote"):
            load(point)
    run(3, progress=True, **options)
    assert capsys.readouterr().err.count("costs.json was not what the run wrote, and was written again") == 1
    for point in points(tmp_path / "d"):
        load(point)


def test_a_file_that_somebody_changed_is_not_that_of_the_next_point(run, tmp_path):
    done = []

    def edits(*work):
        done.append(work)
        if len(done) == 4:  # the second of three points
            (points(tmp_path / "d")[0] / "costs.json").write_text("{}")
        return fake_host.simulate(*work)

    run(3, simulate=edits)
    with pytest.raises(InputError, match=r"costs.json"):
        load(points(tmp_path / "d")[0])
    load(points(tmp_path / "d")[2])


# What is read once.


def test_a_scenario_that_is_edited_meanwhile_does_not_change_the_points_that_follow(run, scenario, tmp_path):
    def edits(*work):
        scenario.write_text(worlds.small(replications=3).replace("vcpus = 2", "vcpus = 3"))
        return fake_host.simulate(*work)

    run(3, simulate=edits)
    assert [load(each).cases[0]["vcpus"] for each in points(tmp_path / "d")] == [2, 2, 2]


def test_a_strategy_file_that_is_edited_meanwhile_fails_the_points_that_follow(run, tmp_path):
    mine, own = tmp_path / "mine.toml", tmp_path / "own.toml"
    mine.write_bytes((Path(kernel.__file__).parent / "data" / "strategies" / "manual-load.toml").read_bytes())
    own.write_text(worlds.small(replications=1).replace('"manual-load"', '"./mine.toml"'))

    def edits(*work):
        mine.write_text(mine.read_text().replace("guard = true", "guard = false"))
        return fake_host.simulate(*work)

    with pytest.raises(InputError, match=r"2 of 3 points failed.*point 2 of 3.*files .*changed since the design began"):
        run(3, scenario=own, simulate=edits)
    assert [each.name for each in points(tmp_path / "d")] == ["000001"]


def test_a_cost_table_is_packed_once_and_unpacked_once_for_all_points(scenario):
    source = Source.of(scenario)
    cases = [source.read({"host.cpus": cpus}, {})[1][0] for cpus in (2, 3)]
    first, second = (workers.packed([case])[case.name] for case in cases)
    assert first[1] is second[1]
    assert len(first[0]) * 10 < len(first[1])
    sent = [workers._case((bytes(bytearray(case)), bytes(bytearray(table)))) for case, table in (first, second)]
    assert sent == cases
    assert sent[0].table is sent[1].table


# What is done once.


def test_a_point_of_little_work_is_one_message_once_it_is_known_how_little(run):
    sizes = []

    class Counted(ThreadPoolExecutor):
        def submit(self, what, task):
            sizes.append(len(task.works))
            return super().submit(what, task)

    with Counted(2) as executor:
        run(20, executor=executor)
    assert sum(sizes) == 60
    assert Counter(sizes)[3] >= 15


def test_the_folder_of_all_points_is_listed_as_often_for_many_points_as_for_few(run, tmp_path, monkeypatch):
    listed = Counter()
    original, iterdir = os.listdir, Path.iterdir

    def counted(list_one):
        def call(path="."):
            listed[Path(path)] += 1
            return list_one(path)

        return call

    monkeypatch.setattr(os, "listdir", counted(original))
    monkeypatch.setattr(Path, "iterdir", counted(iterdir))
    for n in (2, 20):
        run(n, str(n))
    assert listed[tmp_path / "2" / "points"] == listed[tmp_path / "20" / "points"] > 0


def test_what_a_kill_left_beside_a_point_goes_when_the_point_is_run(run, tmp_path):
    run(2)
    files.remove(tmp_path / "d" / "points" / "000002")
    for name in (".000002.deleted.abcdefgh", ".000002.previous.deleted.a1b2c3d4"):
        (tmp_path / "d" / "points" / name / "000002").mkdir(parents=True)
    (tmp_path / "d" / "points" / ".000002.lock").write_text("")
    run(2)
    assert [path.name for path in points(tmp_path / "d")] == ["000001", "000002"]


@pytest.mark.parametrize(("status", "number"), [("running", 2 * 4 + 4 + 2), ("complete", 0)])
def test_links_of_a_killed_command_are_synced_by_the_next_one(run, tmp_path, monkeypatch, status, number):
    run(2)
    path = tmp_path / "d" / described.NAME
    path.write_text(path.read_text().replace('"status": "complete"', f'"status": "{status}"'))
    synced, original, sync = [], files.sync, Dataset.sync

    def watched(self):
        monkeypatch.setattr(files, "sync", lambda path: synced.append(path) or original(path))
        sync(self)
        monkeypatch.setattr(files, "sync", original)

    monkeypatch.setattr(Dataset, "sync", watched)
    run(2)
    assert len(synced) == number
