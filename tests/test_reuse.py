"""Finished replications are used again, and none is dropped without a word."""

import shutil
from pathlib import Path

import fake_host
import pytest
import worlds
from command import run as run_command
from packing import frames_of, records

from sim import experiment
from sim.kernel import strategies
from sim.results import load, parts
from sim.results.tables import SCHEMAS

pytestmark = pytest.mark.usefixtures("few_draws")

SMALL = worlds.small(["free-ssp", "manual-load", "xstate-guest"], ["sapphire-rapids", "zen4"], 2)

SHIPPED_STRATEGIES = Path(strategies.__file__).parent / "data" / "strategies"


def test_records_survive_being_tables(rerun):
    results, _ = rerun()
    before = {name: getattr(results, name)[SCHEMAS[name].names] for name in SCHEMAS}
    again = frames_of(records(before)[::-1], results.cases)
    assert all(again[name].equals(before[name]) for name in SCHEMAS)


def test_the_same_again_simulates_nothing_and_changes_nothing(rerun, tmp_path, tables):
    rerun()
    before = {path: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    results, counted = rerun()
    assert counted.works == []
    assert {path: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before
    assert results.notes == ("12 of 12 replications were finished already, and are used again",)
    assert results.ledger.equals(load(tmp_path / "r").ledger)


def test_more_replications_simulate_those_that_are_missing(rerun, tables):
    rerun()
    _, counted = rerun(replications=5)
    assert {replication for *_, replication in counted.works} == {2, 3, 4}
    assert len(counted.walked) == 2 * 3 * 3
    rerun(out="fresh", replications=5)
    assert tables("r") == tables("fresh")


def test_more_strategies_walk_the_same_schedules_and_what_was_finished_stays(rerun, tables):
    rerun(strategies=["free-ssp", "manual-load"])
    _, counted = rerun(strategies=["xstate-guest", "xstate-all", "free-ssp", "manual-load"])
    assert sorted(counted.walked) == sorted(["xstate-guest", "xstate-all"] * 4)
    assert {timed_by for _, timed_by, *_ in counted.works} == {"free-ssp"}
    rerun(out="fresh", strategies=["free-ssp", "manual-load", "xstate-guest", "xstate-all"])
    assert tables("r") == tables("fresh")


def test_another_reference_simulates_nothing_and_is_that_of_the_directory(rerun, tmp_path, tables):
    rerun()
    before = tables("r")
    results, counted = rerun(reference="manual-load")
    assert (counted.works, tables("r")) == ([], before)
    assert results.cases[0]["reference"] == load(tmp_path / "r").cases[0]["reference"] == "manual-load"
    _, counted = rerun(reference="manual-run")  # which nobody has run
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
def test_less_than_there_is_is_shown_and_all_of_it_stays(rerun, tmp_path, tables, fewer, message):
    rerun()
    before = tables("r")
    results, counted = rerun(**fewer)
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


def test_what_does_not_fit_into_one_table_is_kept_beside_it_and_comes_back(rerun, tmp_path, tables):
    rerun()
    first = tables("r")
    results, counted = rerun(strategies=["manual-load"], replications=4)
    assert len(counted.walked) == 2 * 2 * 2
    assert load(tmp_path / "r").cases[0]["strategies"] == ["free-ssp", "manual-load"]
    assert any("also keeps what was not asked for: strategies xstate-guest" in note for note in results.notes)
    _, counted = rerun()
    assert (counted.works, tables("r")) == ([], first)
    _, counted = rerun(replications=4)
    assert set(counted.walked) == {"xstate-guest"}
    rerun(out="fresh", replications=4)
    assert tables("r") == tables("fresh")
    assert not (tmp_path / "r" / "parts").exists()


def test_all_and_one_of_ones_own_are_together_in_the_directory(rerun, scenario, tmp_path):
    mine = tmp_path / "mine.toml"
    text = (SHIPPED_STRATEGIES / "manual-load.toml").read_text(encoding="utf-8")
    mine.write_text(text.replace('"manual-load"', '"mine"', 1), encoding="utf-8")
    one_cpu = {"host.cpu": ["sapphire-rapids"]}
    rerun(strategies="all", overrides=one_cpu)
    everything = load(tmp_path / "r").cases[0]["strategies"]
    _, counted = rerun(strategies=[str(mine)], overrides=one_cpu)
    assert set(counted.walked) == {"mine"}
    assert load(tmp_path / "r").cases[0]["strategies"] == [*everything, "mine"]
    mine.unlink()
    _, counted = rerun(tmp_path / "r" / "manifest.json", replications=3)
    assert {replication for *_, replication in counted.works} == {2}


def test_an_own_strategy_that_was_edited_is_simulated_again_and_nothing_else(rerun, scenario, tmp_path):
    mine = tmp_path / "mine.toml"
    text = (SHIPPED_STRATEGIES / "manual-load.toml").read_text(encoding="utf-8")
    mine.write_text(text.replace('"manual-load"', '"mine"', 1), encoding="utf-8")
    names = ["free-ssp", "xstate-guest", str(mine)]
    rerun(strategies=names)
    mine.write_text(mine.read_text(encoding="utf-8").replace("zero = 1", "zero = 2"), encoding="utf-8")
    _, counted = rerun(strategies=names)
    assert set(counted.walked) == {"mine"}
    assert len(counted.walked) == 4
    mine.write_text(mine.read_text(encoding="utf-8").replace("zero = 2", "zero = 1"), encoding="utf-8")
    _, counted = rerun(strategies=names)
    assert counted.works == []  # what the first contents gave was kept


def test_another_case_is_simulated_alone(rerun, tables):
    rerun(overrides={"host.cpu": ["zen4"]})
    _, counted = rerun()
    assert {case for case, *_ in counted.works} == {"sapphire-rapids v6.18"}
    rerun(out="fresh")
    assert tables("r") == tables("fresh")


def test_words_of_the_scenario_change_no_world(rerun, scenario, tmp_path):
    rerun()
    scenario.write_text(SMALL.replace("Small", "Of another title"))
    _, counted = rerun()
    assert counted.works == []
    assert load(tmp_path / "r").manifest["resolved"]["title"] == "Of another title"


def test_how_many_replications_the_rule_needs_does_not_depend_on_what_is_there(rerun, scenario, tmp_path):
    rule = {"run.precision": "15 %", "run.min_replications": 3, "run.max_replications": 40}
    in_memory = experiment.run(scenario, overrides=rule, jobs=1, simulate=fake_host.simulate)
    needed = in_memory.manifest["replications"]
    assert 3 <= needed < 40
    rerun(replications=40)
    results, counted = rerun(overrides=rule)
    assert counted.works == []
    assert results.manifest["replications"] == needed
    assert results.ledger.equals(in_memory.ledger)
    assert load(tmp_path / "r").manifest["replications"] == 40
    assert any("40 replications" in note for note in results.notes)


def test_a_schedule_of_its_own_is_simulated_alone_and_kept_when_it_is_not_asked_for(rerun, tmp_path, tables):
    rerun()
    _, counted = rerun(overrides={"run.feedback": True})
    assert {(timed_by, names) for _, timed_by, names, _ in counted.works} == {
        (name, (name,)) for name in ("manual-load", "xstate-guest")
    }
    both = tables("r")
    results, counted = rerun()
    assert (counted.works, tables("r")) == ([], both)
    assert any("also keeps what was not asked for: other schedules" in note for note in results.notes)


def test_a_directory_that_was_copied_goes_on_where_it_is(rerun, scenario, tmp_path, tables):
    rerun()
    shutil.move(tmp_path / "r", tmp_path / "moved")
    scenario.unlink()
    _, counted = rerun(tmp_path / "moved" / "manifest.json", out="moved", replications=3)
    assert {replication for *_, replication in counted.works} == {2}


def test_each_part_has_a_key_of_its_own(rerun):
    results, _ = rerun(overrides={"run.feedback": True})
    keys = parts.keys(results.manifest, 2)
    numbers = range(results.manifest["replications"])
    assert list(keys) == [(*series, n) for series in parts.series(results.manifest) for n in numbers]
    assert len(set(keys.values())) == len(keys) == 2 * 5 * 2
