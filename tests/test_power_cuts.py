"""The power is cut between any two calls: nothing that was reported as kept is lost, and the run goes on from there."""

import json
import os
from contextlib import suppress

import fake_host
import pandas as pd
import pytest
import worlds
from disk import Disk

from sim import experiment
from sim.errors import InputError
from sim.experiment import workers
from sim.experiment.design import Design
from sim.results import load, parts
from sim.results.directory import ResultDirectory
from sim.results.replayed import ReplayDirectory
from sim.results.tables import SCHEMAS
from sim.verification.kill import here


def run(scenario, out, seed, **options):
    return experiment.run(scenario, out=out, seed=seed, **{"jobs": 1, "simulate": fake_host.simulate} | options)


def contents(directory):
    return {name: (directory / f"{name}.parquet").read_bytes() for name in SCHEMAS}


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(worlds.small(replications=3))
    return path


@pytest.fixture
def truth(scenario, tmp_path):
    """The tables of both seeds without a cut."""
    found = {}
    for seed in (1, 2):
        run(scenario, tmp_path / f"alone-{seed}", seed)
        found[seed] = contents(tmp_path / f"alone-{seed}")
    return found


def stops_after(number):
    """Simulates so many replications, and is then interrupted."""
    done = []

    def simulate(*work):
        if len(done) == number:
            raise KeyboardInterrupt
        done.append(work)
        return fake_host.simulate(*work)

    return simulate


def from_nothing(scenario, out):
    pass


def over_a_result(scenario, out):
    run(scenario, out, 2)


def over_an_unfinished_run(scenario, out):
    with pytest.raises(experiment.Interrupted):
        run(scenario, out, 2, simulate=stops_after(2))


def going_on(scenario, out):
    with pytest.raises(experiment.Interrupted):
        run(scenario, out, 1, simulate=stops_after(2))


def going_on_over_a_result(scenario, out):
    over_a_result(scenario, out)
    going_on(scenario, out)


BEFORE = [from_nothing, over_a_result, over_an_unfinished_run, going_on, going_on_over_a_result]


def cuts(before, scenario, root, monkeypatch):
    """The cuts of a run of seed 1, each with the keys that were reported as kept by then, and whether it was over."""
    monkeypatch.setattr(workers, "GROUP_S", 0)  # each replication is kept by itself
    out, kept, over = root / "a" / "r", set(), []
    root.mkdir()
    before(scenario, out)
    kept |= here._finished(out, 1)
    keep = ResultDirectory.keep

    def kept_by(self, group):
        keep(self, group)
        kept.update((batch.same, n) for batch in group.batches() for n in batch.replications)

    disk = Disk(root, lambda: (frozenset(kept), bool(over)))
    monkeypatch.setattr(ResultDirectory, "keep", kept_by)
    with disk.watched():
        run(scenario, out, 1)
        over.append(True)
    monkeypatch.undo()
    assert len(kept) == 6
    return disk.cuts


def is_right(scenario, root, cut, truth, before):
    """What lies there has all that was reported as kept, and a run goes on from there to the same bytes."""
    out, (kept, over) = root / "a" / "r", cut.told
    assert kept <= here._finished(out, 1)
    if before == over_an_unfinished_run and not is_complete(out, 1):
        assert len(here._finished(out, 2)) == 4
    if before in (over_a_result, going_on_over_a_result) and not is_complete(out, 1):
        where = out if is_complete(out, 2) else out.with_name("r.previous")
        assert load(where).manifest["seed"] == 2
        assert contents(where) == truth[2]
    assert is_complete(out, 1) or not over
    simulated = []
    run(scenario, out, 1, simulate=lambda *work: simulated.append(work[3]) or fake_host.simulate(*work))
    assert len(simulated) <= 3 - len(kept) // 2
    load(out)
    assert contents(out) == truth[1]


def is_complete(out, seed):
    try:
        return load(out).manifest["seed"] == seed
    except InputError:
        return False


KINDS = 5


def made(cut, place):
    """What the cut may leave: the worst, files of length 0, names out of order, and some of what was not synced."""
    for name, make in (
        ("worst", cut.worst),
        ("empty", cut.empty_files),
        ("last", cut.last_names),
        *((f"some-{n}", cut.some_of_it) for n in (0, 1)),
    ):
        make(place / name, *([int(name[-1])] if name.startswith("some") else []))
        yield place / name


def check(before, scenario, truth, tmp_path, monkeypatch, first, step):
    """``step`` 1 is every cut with all that it may leave; otherwise each has one of these."""
    found = cuts(before, scenario, tmp_path / "disk", monkeypatch)
    assert len(found) > 30
    monkeypatch.setattr(os, "fsync", lambda file: None)  # there are no more cuts
    for number in range(len(found) - 1 - first, -1, -step):
        for kind, root in enumerate(made(found[number], tmp_path / f"cut-{number}")):
            if step > 1 and kind != number % KINDS:
                continue
            try:
                is_right(scenario, root, found[number], truth, before)
            except BaseException as error:
                error.add_note(f"cut {number} of {len(found)}, before {found[number].call}: {root.name}")
                raise


@pytest.mark.parametrize("before", BEFORE)
def test_after_a_power_cut_nothing_that_was_kept_is_lost(before, scenario, truth, tmp_path, monkeypatch):
    """At one cut of seven."""
    check(before, scenario, truth, tmp_path, monkeypatch, BEFORE.index(before), 7)


@pytest.mark.slow
@pytest.mark.parametrize("before", BEFORE)
def test_after_a_power_cut_at_any_call_nothing_that_was_kept_is_lost(before, scenario, truth, tmp_path, monkeypatch):
    """A quarter of a minute each."""
    check(before, scenario, truth, tmp_path, monkeypatch, 0, 1)


def test_what_a_killed_run_had_not_synced_is_there_once_a_later_one_says_that_it_is_kept(
    scenario, tmp_path, monkeypatch
):
    """Kept beside the tables of a run that wants less, and by one that is interrupted."""
    monkeypatch.setattr(workers, "GROUP_S", 0)
    for name, options in {"less": {"replications": 1}, "interrupted": {"simulate": stops_after(0)}}.items():
        root = tmp_path / name
        out = root / "a" / "r"
        root.mkdir()
        going_on(scenario, out)
        disk = Disk(root, lambda: None, set((out / "parts").iterdir()))
        with disk.watched(), suppress(experiment.Interrupted):
            run(scenario, out, 1, **options)
        assert (kept := set(parts.keys_kept(out)))
        for place in made(disk.cuts[-1], tmp_path / f"{name}-cut"):
            assert kept <= set(parts.keys_kept(place / "a" / "r")), name


def test_after_a_power_cut_a_replay_is_whole_or_not_complete(tmp_path):
    """An earlier replay is replaced, and is not kept meanwhile."""
    root, ended = tmp_path / "disk", []
    root.mkdir()
    disk = Disk(root, lambda: len(ended))

    def replay(number):
        kept = ReplayDirectory(root / "a" / "r")
        kept.write({"number": number}, pd.DataFrame({"number": [number] * 9}), {"trace": "t"})
        kept.close()
        ended.append(number)

    with disk.watched():
        replay(1)
        replay(2)
    for number, cut in enumerate(disk.cuts):
        for place in made(cut, tmp_path / f"cut-{number}"):
            out = place / "a" / "r"
            manifest = json.loads((out / "manifest.json").read_text()) if (out / "manifest.json").exists() else {}
            if manifest.get("status") == "complete":
                document = json.loads((out / "replay.json").read_text())
                assert pd.read_parquet(out / "ledger.parquet")["number"].tolist() == [document["number"]] * 9
                assert document["number"] >= cut.told
            else:
                assert cut.told != 2
            ReplayDirectory(out).close()  # which refuses what is no replay


def test_after_a_power_cut_a_design_goes_on(scenario, tmp_path, monkeypatch):
    """At one cut of forty, and at the end."""
    root, ended = tmp_path / "disk", []
    root.mkdir()
    design = Design.parsed("lhs:2", ["host.cpus=2..9"])

    def run_in(out):
        return experiment.run_design(scenario, design, out, simulate=fake_host.simulate, jobs=1)

    disk = Disk(root, lambda: bool(ended))
    with disk.watched():
        frame = run_in(root / "a" / "d")
        ended.append(True)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    for number in range(len(disk.cuts) - 1, -1, -40):
        for kind, place in enumerate(made(disk.cuts[number], tmp_path / f"cut-{number}")):
            if kind != number // 40 % KINDS:
                continue
            if disk.cuts[number].told:
                assert pd.read_parquet(place / "a" / "d" / "points.parquet").equals(frame)
                for table in SCHEMAS:
                    assert len(list((place / "a" / "d" / "dataset" / table).glob("point=*/part.parquet"))) == 2
            assert run_in(place / "a" / "d").equals(frame)


def test_what_is_left_where_a_first_run_was_killed_at_once_is_no_result_of_somebody_else(scenario, tmp_path):
    for name, first in (("r", "manifest.json"), ("d", "design.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f".{first}.a1b2c3").write_bytes(b"")
    run(scenario, tmp_path / "r", 1)
    assert load(tmp_path / "r").manifest["seed"] == 1
    design = Design.parsed("lhs:2", ["host.cpus=2..9"])
    assert len(experiment.run_design(scenario, design, tmp_path / "d", simulate=fake_host.simulate, jobs=1)) == 4
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".manifest.json.a1b2c3").write_bytes(b"")
    ReplayDirectory(tmp_path / "t").close()
