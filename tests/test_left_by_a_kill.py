"""The next command that writes there removes what a killed one left of the files that it was writing, and no more."""

import errno
import shutil
from pathlib import Path

import fake_host
import pytest
import worlds

from sim import experiment
from sim.cli import main
from sim.errors import RunError
from sim.experiment import designs
from sim.experiment.design import Design
from sim.results import files, load

TRACE = Path(__file__).parent / "data" / "traces" / "formats" / "ftrace.txt"
STRATEGIES = Path(files.__file__).parents[1] / "kernel" / "data" / "strategies"
LEFT = (
    ".manifest.json.x1y2z3_4", ".costs.json.abcdefgh", ".progress.json", ".ledger.parquet", ".integrity.parquet",
    "parts/.0123456789abcdef0123456789abcdef.arrow.a_b_c_d_", "progress.json",
)  # fmt: skip
FOREIGN = (".ledger.parquet.bak", ".ledger.parquet.old12345.gz", ".notes", ".manifest.json.", "parts/notes.txt")


@pytest.fixture
def scenario(tmp_path):
    (tmp_path / "small.toml").write_text(worlds.small(replications=2))
    return tmp_path / "small.toml"


def put(directory, names):
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("left")


def there(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


BESIDE = (".r.deleted.a1b2c3d4", ".r.previous.deleted.abcdefgh")


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("ended", "replications"), [(True, 1), (True, 2), (False, 2), (False, 3)])
def test_a_run_removes_what_a_kill_left_in_its_directory_and_beside_it(scenario, tmp_path, ended, replications):
    out, run = tmp_path / "r", {"jobs": 1, "simulate": fake_host.simulate}
    experiment.run(scenario, out=tmp_path / "whole", **run)
    if ended:
        experiment.run(scenario, out=out, **run)
    else:
        with pytest.raises(RunError, match="No space left"):
            experiment.run(scenario, out=out, jobs=1, simulate=full_disk)
    put(out, LEFT[: 5 if ended else None])
    put(out, FOREIGN)
    for name in (*BESIDE, ".r.deleted.my_own"):
        (tmp_path / name / "r").mkdir(parents=True)
    experiment.run(scenario, out=out, replications=replications, **run)
    assert there(out) - there(tmp_path / "whole") == set(FOREIGN)
    assert load(out).manifest["replications"] == max(2, replications)
    assert [(tmp_path / name).exists() for name in (*BESIDE, ".r.deleted.my_own")] == [False, False, True]


def test_a_file_that_the_scenario_names_stays_though_it_is_called_as_what_a_kill_leaves_of_another(tmp_path):
    names = ("mine.toml", ".mine.toml", ".mine.toml.abcdefgh/x.toml", "x.toml")
    shipped = (STRATEGIES / "manual-load.toml").read_text()
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(shipped.replace('name = "manual-load"', f'name = "own-{number}"'))
    strategies = ("free-ssp", *(str(tmp_path / name) for name in names))
    (tmp_path / "small.toml").write_text(worlds.small(strategies, replications=1))
    for _ in range(2):
        experiment.run(tmp_path / "small.toml", out=tmp_path / "r", jobs=1, simulate=fake_host.simulate)
        assert {"inputs/mine.toml", "inputs/.mine.toml"} <= there(tmp_path / "r")
        load(tmp_path / "r")


def test_what_another_directory_is_deleting_stays(tmp_path):
    ours = ".r.deleted.abcdefgh"
    others = (".r.deleted.old.deleted.abcdefgh", ".r.deleted.deleted.abcdefgh", ".q.deleted.abcdefgh")
    for name in (ours, *others):
        (tmp_path / name / "r").mkdir(parents=True)
    (tmp_path / ".r.deleted.12345678").symlink_to(tmp_path / others[0])
    (tmp_path / ".r.deleted.abcd1234").write_text("a file")
    (tmp_path / "r").mkdir()
    files.remove(tmp_path / "r")
    assert {path.name for path in tmp_path.iterdir()} == {*others, ".r.deleted.12345678", ".r.deleted.abcd1234"}
    assert (tmp_path / others[0] / "r").is_dir()


def test_a_design_removes_what_a_kill_left_in_its_directory(scenario, tmp_path):
    design = Design.parsed("lhs:2", ["guests.g.vcpus=1..4"])
    run = {"jobs": 1, "simulate": fake_host.simulate}
    designs.run_design(scenario, design, tmp_path / "d", **run)
    whole = there(tmp_path / "d")
    put(tmp_path / "d", [".design.json.abcdefgh", ".points.parquet", ".points.parquet.mine"])
    shutil.rmtree(tmp_path / "d" / "dataset" / "ledger")
    designs.run_design(scenario, design, tmp_path / "d", **run)
    assert there(tmp_path / "d") - whole == {".points.parquet.mine"}


def test_a_replay_removes_what_a_kill_left_in_its_directory(tmp_path):
    def replay():
        with pytest.raises(SystemExit, match="0"):
            main(["replay", str(TRACE), "--out", str(tmp_path / "r")])

    replay()
    whole = there(tmp_path / "r")
    put(tmp_path / "r", [".ledger.parquet", ".replay.json.a1a1a1a1", ".manifest.json.a1a1a1a1", ".notes"])
    replay()
    assert there(tmp_path / "r") - whole == {".notes"}


def test_a_name_with_signs_of_a_pattern_is_taken_as_it_is(tmp_path):
    put(tmp_path, [".a[1].json.abcdefgh", ".a1.json.abcdefgh"])
    files.remove_left(tmp_path / "a[1].json")
    assert there(tmp_path) == {".a1.json.abcdefgh"}
