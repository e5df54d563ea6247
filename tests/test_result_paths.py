"""Where a result directory is, whatever it is called."""

from pathlib import Path

import fake_host
import pyarrow
import pytest
import worlds
from command import run as run_command

from sim import experiment
from sim.cli import messages
from sim.errors import InputError
from sim.experiment.design import Design
from sim.results import load
from sim.results.replayed import ReplayDirectory

SMALL = worlds.small(cpu=["zen4"])


def run(scenario, **options):
    return experiment.run(scenario, **{"jobs": 1, "simulate": fake_host.simulate} | options)


@pytest.mark.parametrize("name", ["~/r", "~", "a:b/r", "file:r", "s3://r", "r%20", "r\n"])
def test_a_result_is_where_its_name_says_and_nowhere_else(scenario, tmp_path, monkeypatch, name):
    place, home = tmp_path / "place", tmp_path / "home"
    home.mkdir(), (home / "r").mkdir(), place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(home))
    run(scenario, out=name)
    assert load(place / name).manifest["status"] == "complete"
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_link_to_a_result_stays_where_another_run_replaces_that(scenario, tmp_path):
    run(scenario, out=tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run(scenario, seed=3, out=f"{tmp_path / 'link'}/")
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "real").manifest["seed"] == 3


def test_a_current_directory_that_is_gone_is_one_message(scenario, tmp_path, capsys, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = run_command(capsys, "run", scenario, "--out", tmp_path / "r")
    assert said == (2, "", "fpswitch: the current directory is gone (allowed: one that exists)\n")
    assert not (tmp_path / "r").exists()


def test_a_file_that_a_library_does_not_find_is_told_as_that_where_the_current_directory_is_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop, messages():
        pyarrow.OSFile(str(tmp_path / "gone.parquet"))
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (1, 1)
    assert "gone.parquet" in err
    assert "current directory" not in err


@pytest.mark.parametrize(
    ("out", "message"),
    [("", "a path is empty"), (".", "the current directory"), ("..", "the current directory"), ("below/..", "current")],
)
def test_the_current_directory_and_those_above_are_no_result_directory(scenario, tmp_path, monkeypatch, out, message):
    place = tmp_path / "place"
    (place / "below").mkdir(parents=True)
    monkeypatch.chdir(place)
    with pytest.raises(InputError, match=message):
        run(scenario, out=out)
    assert [p.name for p in place.iterdir()] == ["below"]
    run(scenario, out="below/../below/")
    run(scenario, seed=2, out="below/../below/")
    assert load("below").manifest["seed"] == 2


@pytest.mark.parametrize("below", ["file/r", "file/deep/r"])
def test_a_result_directory_below_a_file_is_one_message(scenario, tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no directory, or below a file"):
        run(scenario, out=tmp_path / below)


def test_a_way_over_what_is_not_there_leads_to_the_same_result(scenario, tmp_path):
    run(scenario, out=tmp_path / "r")
    roundabout = f"{tmp_path}/missing/../r"
    found = run(scenario, seed=3, out=roundabout)
    assert any("are kept in" in note for note in found.notes)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(InputError, match="holds no earlier replay"):
        ReplayDirectory(Path(roundabout))
    with pytest.raises(InputError, match="something other than a design"):
        experiment.run_design(
            scenario, Design.parsed("lhs:2", ["host.cpus=2..9"]), roundabout, simulate=fake_host.simulate, jobs=1
        )
