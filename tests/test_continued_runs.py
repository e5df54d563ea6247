"""A run that failed is continued with what it had finished, as far as that is undamaged."""

import errno
import os
import shutil
from pathlib import Path

import fake_host
import pytest
import worlds
from command import run as run_command

from sim.errors import InputError, RunError
from sim.experiment import workers
from sim.results import files, load

pytestmark = pytest.mark.usefixtures("few_draws")

SMALL = worlds.small(["free-ssp", "manual-load", "xstate-guest"], ["sapphire-rapids", "zen4"], 2)
STRATEGIES = Path(files.__file__).parents[1] / "kernel" / "data" / "strategies"
WALKED = 2 * 3 * 2
"""Cases x strategies x replications of it."""


def test_an_extension_that_fails_loses_nothing_and_is_continued(rerun, tmp_path, tables):
    rerun()
    before = tables("r")
    with pytest.raises(RunError, match=r"replication 4: RuntimeError: broken"):
        rerun(replications=6, simulate=fake_host.breaks_at(4))
    with pytest.raises(InputError, match="status 'failed'"):
        load(tmp_path / "r")
    assert tables("r.previous") == before
    there = load(tmp_path / "r", incomplete_ok=True).ledger[["case", "strategy", "replication"]].drop_duplicates()
    assert len(there) > WALKED
    _, counted = rerun(replications=6)
    left = {case: {r for name, _, _, r in counted.works if name == case} for case, *_ in counted.works}
    assert left == {"sapphire-rapids v6.18": {4, 5}, "zen4 v6.18": {2, 3, 4, 5}}
    rerun(out="fresh", replications=6)
    assert tables("r") == tables("fresh")
    assert not (tmp_path / "r.previous").exists()


def test_a_part_that_was_damaged_is_simulated_again_and_named(rerun, tmp_path, tables, monkeypatch):
    monkeypatch.setattr(workers, "GROUP_S", 0)
    with pytest.raises(RunError):
        rerun(replications=6, simulate=fake_host.breaks_at(4))
    short, other, moved, *_ = sorted((tmp_path / "r" / "parts").iterdir())
    short.write_bytes(short.read_bytes()[:-10])
    other.write_bytes(other.read_bytes().replace(b"zen4", b"zen5").replace(b"sapphire", b"sapphirE"))
    moved.rename(moved.with_name(f"{'0' * 32}.arrow"))
    with pytest.raises(InputError, match="another sha256 than its name"):
        load(tmp_path / "r", incomplete_ok=True)
    results, counted = rerun(replications=6)
    assert len(counted.works) == 2 * 6 - 4 + 3
    for path in (short, other, moved.with_name(f"{'0' * 32}.arrow")):
        assert any(note.startswith(f"{path}: ") and "simulated again" in note for note in results.notes)
    rerun(out="fresh", replications=6)
    assert tables("r") == tables("fresh")


def test_what_is_no_runs_stays_among_the_parts(rerun, tmp_path, tables):
    with pytest.raises(RunError):
        rerun(replications=4, simulate=fake_host.breaks_at(2))
    folder = tmp_path / "r" / "parts"
    (folder / f"{'1' * 32}.arrow").mkdir()
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    own = {"notes.txt", "mine.arrow", "mine.json", ".mine.arrow.x1y2z3", f"{'3' * 32}.arrow.mine"}
    for name in own:
        (folder / name).write_text("mine")
    (folder / f"{'4' * 32}.arrow").symlink_to(next(each for each in folder.glob("*.arrow") if each.is_file()))
    (folder / "link.arrow").symlink_to(tmp_path / "nowhere")
    (folder / f".{'2' * 32}.arrow.x1y2z3").write_bytes(b"what a kill left")
    rerun(replications=4)
    links = {f"{'4' * 32}.arrow", "link.arrow"}
    assert {path.name for path in folder.iterdir()} == {f"{'1' * 32}.arrow", "mine", *own, *links}
    assert (folder / "mine" / "notes.txt").read_text() == "mine"
    rerun(out="fresh", replications=4)
    assert tables("r") == tables("fresh")


def test_what_0_2_0_kept_one_by_one_without_hashes_is_not_used_but_simulated_again(rerun, tmp_path, tables, capsys):
    with pytest.raises(RunError):
        rerun(replications=6, simulate=fake_host.breaks_at(4))
    folder = tmp_path / "r" / "parts"
    for number, group in enumerate(folder.glob("*.arrow")):
        group.rename(folder / f"{'0' * 32}-{number}.json")
    number = len(list(folder.iterdir()))
    status, out, _ = run_command(capsys, "status", str(tmp_path / "r"))
    assert (status, "done       0 of 36 " in out) == (1, True)
    said = f"{folder}: {number} files of fpswitch 0.2.0, which have no hash"
    with pytest.raises(InputError, match=said):
        load(tmp_path / "r", incomplete_ok=True)
    results, counted = rerun(replications=6)
    assert [note for note in results.notes if note.startswith(said)]
    assert len(counted.walked) == 36
    rerun(out="fresh", replications=6)
    assert tables("r") == tables("fresh")
    assert not folder.exists()


WRITTEN_AGAIN = " was not what the run wrote, and was written again"


@pytest.mark.parametrize("content", [b"{}", b"", None])
@pytest.mark.parametrize("options", [{}, {"replications": 3}])
def test_cost_tables_that_were_damaged_are_written_again_and_one_note_says_so(
    rerun, tmp_path, tables, content, options
):
    rerun()
    path = tmp_path / "r" / "costs.json"
    before = path.read_bytes()
    os.link(path, tmp_path / "other")  # as of another point of a design
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    results, counted = rerun(**options)
    assert [note for note in results.notes if "costs.json" in note] == [f"costs.json{WRITTEN_AGAIN}"]
    assert len(counted.walked) == (WALKED // 2 if options else 0)
    assert path.read_bytes() == before
    assert (tmp_path / "other").read_bytes() == (before if content is None else content)
    rerun(out="fresh", **options)
    assert tables("r") == tables("fresh")
    load(tmp_path / "r")
    results, _ = rerun(**options)
    assert not [note for note in results.notes if "costs.json" in note]


def test_an_input_that_was_damaged_is_written_again_with_its_folder(rerun, scenario, tmp_path):
    (tmp_path / "mine.toml").write_text((STRATEGIES / "manual-load.toml").read_text().replace("manual-load", "mine"))
    scenario.write_text(scenario.read_text().replace('"xstate-guest"', '"./mine.toml"'))
    rerun()
    shutil.rmtree(tmp_path / "r" / "inputs")
    results, counted = rerun()
    assert [note for note in results.notes if "mine" in note] == [f"inputs/mine.toml{WRITTEN_AGAIN}"]
    assert not counted.works
    load(tmp_path / "r")


def test_cost_tables_that_were_damaged_and_that_the_command_has_not_are_named_and_left(rerun, scenario, tmp_path):
    rerun()
    (tmp_path / "r" / "costs.json").write_bytes(b"{}")
    scenario.write_text(scenario.read_text().replace(', "zen4"', ""))
    with pytest.raises(InputError, match=r"costs\.json: is not what the run wrote"):
        rerun()
    assert (tmp_path / "r" / "costs.json").read_bytes() == b"{}"


def test_a_damaged_file_that_cannot_be_written_again_is_one_message(rerun, tmp_path, monkeypatch):
    rerun()
    (tmp_path / "r" / "costs.json").write_bytes(b"{}")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_kept", full)
    says = r"costs\.json: is not what the run wrote, and cannot be written again \(No space left on device\)"
    with pytest.raises(InputError, match=says):
        rerun()


def test_tables_that_were_damaged_are_named_and_left(rerun, tmp_path):
    rerun()
    path = tmp_path / "r" / "ledger.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"ledger\.parquet: is not what the run wrote"):
        rerun(replications=3)
    assert path.read_bytes() == before
