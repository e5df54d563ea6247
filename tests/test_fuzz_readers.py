"""The readers of `fpswitch verify fuzz` that are files of a run in progress: each really reads what is damaged."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from command import run

from sim.cli import fuzzed
from sim.verification.fuzz.readers import READERS

DATA = Path(__file__).parent / "data"


def put(reader, content, place):
    return READERS[reader].put(content, place)


@pytest.mark.parametrize(
    ("reader", "status", "says"),
    [
        (
            "design.json",
            1,
            "r: a design of a, failed\n  done       0 of 8 points (0%)\n  failed     point 3; point 4\n",
        ),
        ("progress.json", 0, "  done       3 of 12"),
    ],
)
def test_the_file_that_is_damaged_is_read_by_status(reader, status, says, tmp_path, capsys):
    (seed,) = READERS[reader].seeds(tmp_path, DATA)
    found, out, err = run(capsys, *put(reader, seed, tmp_path))
    assert (found, says in out, err) == (status, True, "")
    found, out, err = run(capsys, *put(reader, seed[:-1], tmp_path))
    assert f"{reader}: cannot be read" in err


def test_the_table_of_all_points_is_read_by_status(tmp_path, capsys):
    """It alone says that a design whose points are finished is complete."""
    (seed,) = READERS["points.parquet"].seeds(tmp_path, DATA)
    for content, status in ((seed, "complete"), (seed[:-1], "failed")):
        _, out, err = run(capsys, *put("points.parquet", content, tmp_path))
        assert (f"r: a design of a, {status}\n  done       2 of 2 points (100%)" in out, err) == (True, "")


DAMAGED = """
import sys
from pathlib import Path
from sim.experiment.design_status import _has_table
path = Path(sys.argv[1])
seed = path.read_bytes()
begin = len(seed) - 8 - int.from_bytes(seed[-8:-4], "little")
for n in range(begin, len(seed) - 8):
    path.write_bytes(seed[:n] + bytes(1) + seed[n + 1 :])
    _has_table(path.parent, 2)
print("ended")
"""


def test_no_damage_to_what_the_table_of_all_points_says_of_itself_ends_the_process(tmp_path):
    """With each byte of its footer 0; statistics of a column that are damaged so do."""
    (seed,) = READERS["points.parquet"].seeds(tmp_path, DATA)
    put("points.parquet", seed, tmp_path)
    done = subprocess.run([sys.executable, "-c", DAMAGED, tmp_path / "r" / "points.parquet"], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ended\n", b"")


def test_progress_is_that_of_a_process_that_runs(tmp_path, capsys):
    (seed,) = READERS["progress.json"].seeds(tmp_path, DATA)
    _, out, _ = run(capsys, *put("progress.json", seed, tmp_path))
    assert f", running, process {os.getpid()} on " in out


def test_groups_are_read_whatever_their_content_under_the_name_that_they_would_have(tmp_path, capsys, monkeypatch):
    packed, plain = READERS["replications"].seeds(tmp_path, DATA)
    for content, said in ((packed, ""), (plain[:-1], "not replications that can be read"), (plain, "")):
        command = put("replications", content, tmp_path)
        assert command == ("kept", str(tmp_path / "r"))
        assert len(list((tmp_path / "r" / "parts").iterdir())) == 1
        with pytest.raises(SystemExit) as stop:
            fuzzed.kept(list(command))
        err = capsys.readouterr().err
        assert (stop.value.code, said in err, bool(err)) == (0, True, bool(said))


def test_all_rows_of_a_group_are_taken_out_of_it(tmp_path, monkeypatch):
    from sim.results.shelf import Shelf

    _, seed = READERS["replications"].seeds(tmp_path, DATA)
    taken, original = [], Shelf.tables
    monkeypatch.setattr(Shelf, "tables", lambda *which: taken.append(which[1]) or original(*which))
    with pytest.raises(SystemExit):
        fuzzed.kept(list(put("replications", seed, tmp_path)))
    assert sorted(taken) == ["free-ssp", "manual-load"]


@pytest.mark.parametrize("status", ["complete", "running"])
def test_status_of_a_result_of_0_1_0_counts_what_can_still_be_read(tmp_path, capsys, status):
    """Whose parts have no keys."""
    with tarfile.open(DATA / "results-0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / "results-0.1.0"
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"status": "complete"', f'"status": "{status}"'))
    found, out, err = run(capsys, "status", path)
    assert (found, err) == (int(status != "complete"), "")
    total = len(pd.read_parquet(path / "metrics.parquet")[["case", "strategy", "replication"]].drop_duplicates())
    assert f"done       {total if status == 'complete' else 0} of {total} (" in out
