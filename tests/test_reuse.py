"""Finished replications are used again, and none is dropped without a word."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import fake_host
import pytest
import worlds
from command import run as run_command
from packing import frames_of, records

from sim import experiment
from sim.errors import InputError, RunError
from sim.experiment import workers
from sim.kernel import strategies
from sim.results import files, load, parts
from sim.results import manifest as manifests
from sim.results.tables import SCHEMAS

pytestmark = pytest.mark.usefixtures("few_draws")

SMALL = worlds.small(["free-ssp", "manual-load", "xstate-guest"], ["sapphire-rapids", "zen4"], 2)
WALKED = 2 * 3 * 2
"""Cases x strategies x replications of it."""

SHIPPED_STRATEGIES = Path(strategies.__file__).parent / "data" / "strategies"


class Counted:
    """Stands in for the simulated host, and knows what it was asked for."""

    def __init__(self):
        self.works = []

    def __call__(self, case, timed_by, names, replication):
        self.works.append((case.name, timed_by, tuple(names), replication))
        return fake_host.simulate(case, timed_by, names, replication)

    @property
    def walked(self):
        return [name for _, _, names, _ in self.works for name in names]


@pytest.fixture
def run(scenario, tmp_path):
    """Runs in the directory ``r``; gives the results and what was simulated for them."""

    def run(path=scenario, out="r", **options):
        counted = Counted()
        results = experiment.run(path, **{"jobs": 1, "simulate": counted, "out": tmp_path / out} | options)
        return results, counted

    return run


@pytest.fixture
def tables(tmp_path):
    return lambda name: {each: (tmp_path / name / f"{each}.parquet").read_bytes() for each in SCHEMAS}


def test_records_survive_being_tables(run):
    results, _ = run()
    before = {name: getattr(results, name)[SCHEMAS[name].names] for name in SCHEMAS}
    again = frames_of(records(before)[::-1], results.cases)
    assert all(again[name].equals(before[name]) for name in SCHEMAS)


def test_the_same_again_simulates_nothing_and_changes_nothing(run, tmp_path, tables):
    run()
    before = {path: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    results, counted = run()
    assert counted.works == []
    assert {path: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before
    assert results.notes == ("12 of 12 replications were finished already, and are used again",)
    assert results.ledger.equals(load(tmp_path / "r").ledger)


def test_more_replications_simulate_those_that_are_missing(run, tables):
    run()
    _, counted = run(replications=5)
    assert {replication for *_, replication in counted.works} == {2, 3, 4}
    assert len(counted.walked) == 2 * 3 * 3
    run(out="fresh", replications=5)
    assert tables("r") == tables("fresh")


def test_more_strategies_walk_the_same_schedules_and_what_was_finished_stays(run, tables):
    run(strategies=["free-ssp", "manual-load"])
    _, counted = run(strategies=["xstate-guest", "xstate-all", "free-ssp", "manual-load"])
    assert sorted(counted.walked) == sorted(["xstate-guest", "xstate-all"] * 4)
    assert {timed_by for _, timed_by, *_ in counted.works} == {"free-ssp"}
    run(out="fresh", strategies=["free-ssp", "manual-load", "xstate-guest", "xstate-all"])
    assert tables("r") == tables("fresh")


def test_another_reference_simulates_nothing_and_is_that_of_the_directory(run, tmp_path, tables):
    run()
    before = tables("r")
    results, counted = run(reference="manual-load")
    assert (counted.works, tables("r")) == ([], before)
    assert results.cases[0]["reference"] == load(tmp_path / "r").cases[0]["reference"] == "manual-load"
    _, counted = run(reference="manual-run")  # which nobody has run
    assert set(counted.walked) == {"manual-run"}


@pytest.mark.parametrize(
    ("fewer", "message"),
    [
        ({"strategies": ["manual-load"]}, "strategies xstate-guest"),
        ({"replications": 1}, "2 replications"),
        ({"overrides": {"run.cases": ["zen4 v6.18"]}}, "cases sapphire-rapids v6.18"),
        ({"overrides": {"host.cpu": ["zen4"]}}, "cases sapphire-rapids v6.18"),
    ],
    ids=["strategies", "replications", "cases", "cpus"],
)
def test_less_than_there_is_is_shown_and_all_of_it_stays(run, tmp_path, tables, fewer, message):
    run()
    before = tables("r")
    results, counted = run(**fewer)
    assert counted.works == []
    assert any(f"{tmp_path / 'r'} also keeps what was not asked for: {message}" in note for note in results.notes)
    assert len(results.ledger) < len(load(tmp_path / "r").ledger)
    assert tables("r") == before
    in_memory = experiment.run(tmp_path / "small.toml", jobs=1, simulate=fake_host.simulate, **fewer)
    assert in_memory.ledger.equals(results.ledger)


def test_the_command_says_what_is_kept_and_not_shown_and_figures_are_of_all(scenario, tmp_path, capsys, monkeypatch):
    original, drawn = experiment.run, []
    faked = {"simulate": fake_host.simulate, "jobs": 1}
    monkeypatch.setattr(experiment, "run", lambda *a, **k: original(*a, **k | faked))
    monkeypatch.setattr(
        "sim.report.comparison.Comparison.write_figures",
        lambda self, folder: drawn.append(self.results.cases[0]["strategies"]),
    )
    out = ("--out", str(tmp_path / "r"))
    assert run_command(capsys, "run", str(scenario), *out)[0] == 0
    status, text, err = run_command(capsys, "run", str(scenario), *out, "--strategies", "manual-load", "--full")
    assert status == 0
    assert "xstate-guest" not in text
    assert "also keeps what was not asked for: strategies xstate-guest" in err
    assert drawn == [["free-ssp", "manual-load", "xstate-guest"]] * 2


def test_what_does_not_fit_into_one_table_is_kept_beside_it_and_comes_back(run, tmp_path, tables):
    run()
    first = tables("r")
    results, counted = run(strategies=["manual-load"], replications=4)
    assert len(counted.walked) == 2 * 2 * 2
    assert load(tmp_path / "r").cases[0]["strategies"] == ["free-ssp", "manual-load"]
    assert any("also keeps what was not asked for: strategies xstate-guest" in note for note in results.notes)
    _, counted = run()
    assert (counted.works, tables("r")) == ([], first)
    _, counted = run(replications=4)
    assert set(counted.walked) == {"xstate-guest"}
    run(out="fresh", replications=4)
    assert tables("r") == tables("fresh")
    assert not (tmp_path / "r" / "parts").exists()


def test_all_and_one_of_ones_own_are_together_in_the_directory(run, scenario, tmp_path):
    mine = tmp_path / "mine.toml"
    text = (SHIPPED_STRATEGIES / "manual-load.toml").read_text(encoding="utf-8")
    mine.write_text(text.replace('"manual-load"', '"mine"', 1), encoding="utf-8")
    one_cpu = {"host.cpu": ["sapphire-rapids"]}
    run(strategies="all", overrides=one_cpu)
    everything = load(tmp_path / "r").cases[0]["strategies"]
    _, counted = run(strategies=[str(mine)], overrides=one_cpu)
    assert set(counted.walked) == {"mine"}
    assert load(tmp_path / "r").cases[0]["strategies"] == [*everything, "mine"]
    mine.unlink()
    _, counted = run(tmp_path / "r" / "manifest.json", replications=3)
    assert {replication for *_, replication in counted.works} == {2}


def test_an_own_strategy_that_was_edited_is_simulated_again_and_nothing_else(run, scenario, tmp_path):
    mine = tmp_path / "mine.toml"
    text = (SHIPPED_STRATEGIES / "manual-load.toml").read_text(encoding="utf-8")
    mine.write_text(text.replace('"manual-load"', '"mine"', 1), encoding="utf-8")
    names = ["free-ssp", "xstate-guest", str(mine)]
    run(strategies=names)
    mine.write_text(mine.read_text(encoding="utf-8").replace("zero = 1", "zero = 2"), encoding="utf-8")
    _, counted = run(strategies=names)
    assert set(counted.walked) == {"mine"}
    assert len(counted.walked) == 4
    mine.write_text(mine.read_text(encoding="utf-8").replace("zero = 2", "zero = 1"), encoding="utf-8")
    _, counted = run(strategies=names)
    assert counted.works == []  # what the first contents gave was kept


def test_another_case_is_simulated_alone(run, tables):
    run(overrides={"host.cpu": ["zen4"]})
    _, counted = run()
    assert {case for case, *_ in counted.works} == {"sapphire-rapids v6.18"}
    run(out="fresh")
    assert tables("r") == tables("fresh")


def test_words_of_the_scenario_change_no_world(run, scenario, tmp_path):
    run()
    scenario.write_text(SMALL.replace("Small", "Of another title"))
    _, counted = run()
    assert counted.works == []
    assert load(tmp_path / "r").manifest["resolved"]["title"] == "Of another title"


@pytest.mark.parametrize(
    ("change", "other"),
    [
        (("vcpus = 2", "vcpus = 3"), "the scenario (guests.g.vcpus)"),
        (("20 ms", "21 ms"), "the scenario (run.measure)"),
        (("[host]", "seed = 2\n[host]"), "the seed (1, here 2)"),
        (("2 GHz", "2.1 GHz"), "the scenario (host.tsc)"),
    ],
)
def test_another_world_is_simulated_and_said_to_take_the_place_of_what_was_there(
    run, scenario, tmp_path, change, other
):
    run()
    scenario.write_text(SMALL.replace(*change))
    results, counted = run()
    assert len(counted.walked) == WALKED
    (note,) = results.notes
    assert (
        f"the contents of {tmp_path / 'r'} are kept in {tmp_path / 'r'}.previous until this run is complete, and then"
        in note
    )
    assert "scenario small, seed 1, 2 replications" in note
    assert f"; none of it can be used again: other than here are {other}; to keep them longer, move " in note
    assert not (tmp_path / "r.previous").exists()


def test_after_an_upgrade_it_is_said_that_only_the_program_is_another(run, monkeypatch):
    run()
    monkeypatch.setattr(manifests, "source_sha256", lambda: "f" * 64)
    monkeypatch.setattr(manifests, "_version", lambda package: "9.9" if package == "numpy" else "1.0")
    results, counted = run()
    assert len(counted.walked) == WALKED
    (note,) = results.notes
    source = r"the source of fpswitch \([0-9a-f]{12}, here f{12}\)"
    numpy, simpy = r"numpy \([0-9.]+, here 9\.9\)", r"simpy \([0-9.]+, here 1\.0\)"
    assert re.search(f"; none of it can be used again: other than here are {source}, {numpy}, {simpy}; to keep", note)


def test_other_costs_and_other_contents_of_a_file_are_said(run, tmp_path):
    for name in ("samples", "costs"):
        changed = {}
        for value in (1, 2):
            if name == "samples":
                (tmp_path / "s.csv").write_text(f"d\n{value * 100}\n{value * 200}\n")
                samples = {"empirical": str(tmp_path / "s.csv"), "column": "d", "unit": "us"}
                changed = {"guests.g.demand": samples, "guests.g.sleep": "1 ms"}
            else:
                changed = {"host.cpu": ["zen4"], "host.costs": {"zen4": "zen4" if value == 1 else "zen5"}}
            results, _ = run(out=name, overrides=changed)
        (note,) = results.notes
        assert {"samples": "files that the scenario names", "costs": "the costs"}[name] in note


def test_an_earlier_result_that_was_moved_away_while_another_world_ran_stays(run, tmp_path, tables):
    run()
    before = tables("r")

    def moved(*work):
        if (tmp_path / "r.previous").exists():
            (tmp_path / "r.previous").rename(tmp_path / "kept")
        return fake_host.simulate(*work)

    results, _ = run(seed=2, simulate=moved)
    assert results.manifest["seed"] == 2
    assert tables("kept") == before
    load(tmp_path / "kept")


def test_what_a_complete_result_replaced_is_not_taken_up_again_where_a_kill_kept_it_from_being_deleted(
    run, tmp_path, tables, monkeypatch
):
    run()
    monkeypatch.setattr(files, "remove", interrupted)
    with pytest.raises(experiment.Interrupted):
        run(seed=2)
    monkeypatch.undo()
    assert load(tmp_path / "r").manifest["seed"] == 2
    assert load(tmp_path / "r.previous").manifest["seed"] == 1
    _, counted = run()
    assert len(counted.walked) == WALKED
    run(out="fresh")
    assert tables("r") == tables("fresh")
    assert not (tmp_path / "r.previous").exists()


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_one(tmp_path, monkeypatch):
    for name in ("r[1]", "r1"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(files.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.remove(tmp_path / "r[1]")
    monkeypatch.undo()
    (tmp_path / "r[1]").mkdir()
    files.remove(tmp_path / "r[1]")
    assert [each.name for each in tmp_path.iterdir()] == ["r1"]


def breaks_at(replication):
    def simulate(*work):
        if work[-1] == replication:
            raise RuntimeError("broken")
        return fake_host.simulate(*work)

    return simulate


def test_an_extension_that_fails_loses_nothing_and_is_continued(run, tmp_path, tables):
    run()
    before = tables("r")
    with pytest.raises(RunError, match=r"replication 4: RuntimeError: broken"):
        run(replications=6, simulate=breaks_at(4))
    with pytest.raises(InputError, match="status 'failed'"):
        load(tmp_path / "r")
    assert tables("r.previous") == before
    there = load(tmp_path / "r", incomplete_ok=True).ledger[["case", "strategy", "replication"]].drop_duplicates()
    assert len(there) > WALKED
    _, counted = run(replications=6)
    left = {case: {r for name, _, _, r in counted.works if name == case} for case, *_ in counted.works}
    assert left == {"sapphire-rapids v6.18": {4, 5}, "zen4 v6.18": {2, 3, 4, 5}}
    run(out="fresh", replications=6)
    assert tables("r") == tables("fresh")
    assert not (tmp_path / "r.previous").exists()


def test_the_earlier_scenario_goes_on_after_another_one_failed_over_it(run, scenario, tmp_path, tables):
    run()
    before = tables("r")
    with pytest.raises(RunError):
        run(seed=2, simulate=breaks_at(1))
    results, counted = run()
    assert (counted.works, tables("r")) == ([], before)
    assert any(
        f"the contents of {tmp_path / 'r'} are deleted: scenario small, seed 2" in note for note in results.notes
    )


def test_how_many_replications_the_rule_needs_does_not_depend_on_what_is_there(run, scenario, tmp_path):
    rule = {"run.precision": "15 %", "run.min_replications": 3, "run.max_replications": 40}
    in_memory = experiment.run(scenario, overrides=rule, jobs=1, simulate=fake_host.simulate)
    needed = in_memory.manifest["replications"]
    assert 3 <= needed < 40
    run(replications=40)
    results, counted = run(overrides=rule)
    assert counted.works == []
    assert results.manifest["replications"] == needed
    assert results.ledger.equals(in_memory.ledger)
    assert load(tmp_path / "r").manifest["replications"] == 40
    assert any("40 replications" in note for note in results.notes)


def test_a_schedule_of_its_own_is_simulated_alone_and_kept_when_it_is_not_asked_for(run, tmp_path, tables):
    run()
    _, counted = run(overrides={"run.feedback": True})
    assert {(timed_by, names) for _, timed_by, names, _ in counted.works} == {
        (name, (name,)) for name in ("manual-load", "xstate-guest")
    }
    both = tables("r")
    results, counted = run()
    assert (counted.works, tables("r")) == ([], both)
    assert any("also keeps what was not asked for: other schedules" in note for note in results.notes)


def test_a_part_that_was_damaged_is_simulated_again_and_named(run, tmp_path, tables, monkeypatch):
    monkeypatch.setattr(workers, "GROUP_S", 0)
    with pytest.raises(RunError):
        run(replications=6, simulate=breaks_at(4))
    short, other, moved, *_ = sorted((tmp_path / "r" / "parts").iterdir())
    short.write_bytes(short.read_bytes()[:-10])
    other.write_bytes(other.read_bytes().replace(b"zen4", b"zen5").replace(b"sapphire", b"sapphirE"))
    moved.rename(moved.with_name(f"{'0' * 32}.arrow"))
    with pytest.raises(InputError, match="another sha256 than its name"):
        load(tmp_path / "r", incomplete_ok=True)
    results, counted = run(replications=6)
    assert len(counted.works) == 2 * 6 - 4 + 3
    for path in (short, other, moved.with_name(f"{'0' * 32}.arrow")):
        assert any(note.startswith(f"{path}: ") and "simulated again" in note for note in results.notes)
    run(out="fresh", replications=6)
    assert tables("r") == tables("fresh")


def test_what_is_no_runs_stays_among_the_parts(run, tmp_path, tables):
    with pytest.raises(RunError):
        run(replications=4, simulate=breaks_at(2))
    folder = tmp_path / "r" / "parts"
    (folder / f"{'1' * 32}.arrow").mkdir()
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    (folder / f".{'2' * 32}.arrow.x1y2z3").write_bytes(b"what a kill left")
    run(replications=4)
    assert {path.name for path in folder.iterdir()} == {f"{'1' * 32}.arrow", "mine", "notes.txt"}
    assert (folder / "mine" / "notes.txt").read_text() == "mine"
    run(out="fresh", replications=4)
    assert tables("r") == tables("fresh")


def test_what_0_2_0_kept_one_by_one_without_hashes_is_not_used_but_simulated_again(run, tmp_path, tables, capsys):
    with pytest.raises(RunError):
        run(replications=6, simulate=breaks_at(4))
    folder = tmp_path / "r" / "parts"
    for number, group in enumerate(folder.glob("*.arrow")):
        group.rename(folder / f"{'0' * 32}-{number}.json")
    number = len(list(folder.iterdir()))
    status, out, _ = run_command(capsys, "status", str(tmp_path / "r"))
    assert (status, "done       0 of 36 " in out) == (1, True)
    said = f"{folder}: {number} files of fpswitch 0.2.0, which have no hash"
    with pytest.raises(InputError, match=said):
        load(tmp_path / "r", incomplete_ok=True)
    results, counted = run(replications=6)
    assert [note for note in results.notes if note.startswith(said)]
    assert len(counted.walked) == 36
    run(out="fresh", replications=6)
    assert tables("r") == tables("fresh")
    assert not folder.exists()


def test_tables_that_were_damaged_are_named_and_left(run, tmp_path):
    run()
    path = tmp_path / "r" / "ledger.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"ledger\.parquet: is not what the run wrote"):
        run(replications=3)
    assert path.read_bytes() == before


def test_a_directory_that_was_copied_goes_on_where_it_is(run, scenario, tmp_path, tables):
    run()
    shutil.move(tmp_path / "r", tmp_path / "moved")
    scenario.unlink()
    _, counted = run(tmp_path / "moved" / "manifest.json", out="moved", replications=3)
    assert {replication for *_, replication in counted.works} == {2}


def test_each_part_has_a_key_of_its_own(run):
    results, _ = run(overrides={"run.feedback": True})
    keys = parts.keys(results.manifest, 2)
    numbers = range(results.manifest["replications"])
    assert list(keys) == [(*series, n) for series in parts.series(results.manifest) for n in numbers]
    assert len(set(keys.values())) == len(keys) == 2 * 5 * 2


def by_engine(engine):
    return lambda *work: [replace(record, engine=engine) for record in fake_host.simulate(*work)]


def test_the_manifest_names_the_engines_of_what_is_there_and_not_of_what_it_replaced(run, scenario, tmp_path):
    def engines():
        return {engine for each in load(tmp_path / "r").manifest["engines"].values() for engine in each}

    run(simulate=by_engine("compiled"))
    run(seed=2, simulate=by_engine("simpy"))
    assert engines() == {"simpy"}

    def broken(*work):
        raise RuntimeError("broken")

    with pytest.raises(RunError):
        run(seed=3, simulate=broken)
    run(seed=2, replications=3, simulate=by_engine("compiled"))  # taken up again from r.previous
    assert engines() == {"simpy", "compiled"}
