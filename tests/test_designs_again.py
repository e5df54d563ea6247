"""A second command in the directory of a design uses what is finished, loses nothing, and never mixes versions."""

from pathlib import Path

import fake_host
import pandas as pd
import pytest
import worlds
from command import run as run_command
from design_runs import FOUR, only_at, run_four, tables, there, wrong

from sim import experiment, kernel
from sim.errors import InputError, RunError
from sim.experiment.design import Design
from sim.results import files
from sim.results import manifest as manifests
from sim.results.lock import Lock
from sim.results.stored import Stored

SMALL = worlds.small(replications=2)


@pytest.fixture
def run(scenario, tmp_path):
    return run_four(scenario, tmp_path)


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
        ({"run.precision": "2 %"}, r"replications \(2, here by precision\)"),
    ],
)
def test_points_of_other_inputs_are_refused_and_what_differs_is_named(run, tmp_path, scenario, given, message):
    run()
    before = there(tmp_path / "d")
    with pytest.raises(InputError, match=f"other than here are .*{message}"):
        run(overrides=given)
    assert there(tmp_path / "d") == before


@pytest.mark.parametrize("later", [{}, {"run.strategies": ["free-ssp"]}])
def test_points_of_a_strategy_whose_file_was_edited_are_refused(run, tmp_path, later):
    """Also if that was done while it was not asked for."""
    mine, own = tmp_path / "mine.toml", tmp_path / "own.toml"
    mine.write_bytes((Path(kernel.__file__).parent / "data" / "strategies" / "manual-load.toml").read_bytes())
    own.write_text(SMALL.replace('"manual-load"', '"./mine.toml"'))
    run(scenario=own)
    run(scenario=own, overrides=later)
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


def rows(directory):
    return pd.read_parquet(directory / "points.parquet")


def test_a_design_answers_for_fewer_replications_or_strategies_and_loses_none(run, tmp_path):
    run()
    more = {"run.replications": 4}
    run(overrides=more)
    before, dataset = rows(tmp_path / "d"), tables(tmp_path / "d" / "dataset")
    counted = fake_host.Counted()
    run(simulate=counted, overrides={"run.replications": 3, "run.strategies": ["free-ssp"]})
    assert tables(tmp_path / "d" / "dataset") == dataset
    assert set(rows(tmp_path / "d")["replications"]) == {3}
    assert set(rows(tmp_path / "d")["strategy"]) == {"free-ssp"}
    run(simulate=counted, overrides=more)
    assert counted.works == []
    pd.testing.assert_frame_equal(rows(tmp_path / "d"), before)


def test_a_design_that_was_given_too_many_replications_goes_back_to_what_it_had(run, tmp_path, capsys):
    run()
    before = rows(tmp_path / "d")
    left = iter(range(3))

    def ends(case, timed_by, strategies, replication):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return fake_host.simulate(case, timed_by, strategies, replication)

    with pytest.raises(experiment.Interrupted):
        run(simulate=ends, overrides={"run.replications": 5})
    counted = fake_host.Counted()
    run(simulate=counted)
    assert counted.works == []
    pd.testing.assert_frame_equal(rows(tmp_path / "d"), before)
    assert " complete" in run_command(capsys, "status", tmp_path / "d")[1]


@pytest.mark.parametrize("name", ["points/000001", "points/000001/", "points/000009", "points/000001/../000002"])
@pytest.mark.parametrize("here", ["", "points"])
def test_a_point_of_a_design_is_no_directory_for_another_run_or_design(
    run, scenario, tmp_path, monkeypatch, name, here
):
    run()
    before = there(tmp_path / "d")
    monkeypatch.chdir(tmp_path / "d" / here)
    out = name.removeprefix("points/") if here else tmp_path / "d" / name
    with pytest.raises(InputError, match=r"a point of the design in .*/d, whose tables"):
        experiment.run(scenario, seed=3, out=out, simulate=fake_host.simulate, jobs=1)
    with pytest.raises(InputError, match=r"a point of the design in .*/d, whose tables"):
        experiment.run_design(scenario, Design.parsed(*FOUR), out, simulate=fake_host.simulate, jobs=1)
    assert there(tmp_path / "d") == before


def test_a_cluster_that_cannot_be_used_leaves_a_finished_design_as_it_is(run, tmp_path):
    pytest.importorskip("distributed")
    run()
    before = there(tmp_path / "d")
    with pytest.raises(InputError, match="nobody answers"):
        run(overrides={"run.replications": 3}, cluster="tcp://127.0.0.1:9")
    assert there(tmp_path / "d") == before


def test_what_many_points_say_is_said_ten_times(scenario, tmp_path, capsys):
    twelve = Design.parsed("factorial:6", ("host.cpus=2..7", "guests.g.vcpus=1..2"))
    options = {"simulate": fake_host.simulate, "jobs": 1, "out": tmp_path / "d", "design": twelve, "progress": True}
    experiment.run_design(scenario, **options)
    capsys.readouterr()
    experiment.run_design(scenario, overrides={"run.replications": 1}, **options)
    said = capsys.readouterr().err
    assert said.count("also keeps what was not asked for") in (9, 10)
    assert said.count("more such notes on points are left out") == 1
