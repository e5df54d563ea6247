"""A run that failed is continued with what it had finished, as far as that is undamaged."""

import fake_host
import pytest
import worlds
from command import run as run_command

from sim.errors import InputError, RunError
from sim.experiment import workers
from sim.results import load

pytestmark = pytest.mark.usefixtures("few_draws")

SMALL = worlds.small(["free-ssp", "manual-load", "xstate-guest"], ["sapphire-rapids", "zen4"], 2)
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


def test_tables_that_were_damaged_are_named_and_left(rerun, tmp_path):
    rerun()
    path = tmp_path / "r" / "ledger.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"ledger\.parquet: is not what the run wrote"):
        rerun(replications=3)
    assert path.read_bytes() == before
