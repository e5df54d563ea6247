"""A result directory is enough to repeat its run: it has by content whatever the scenario named."""

import hashlib
import json
import shutil
from pathlib import Path

import fake_host
import pytest
from command import run as run_command

from sim import experiment
from sim.costs import document as cost_documents
from sim.costs import table as cost_tables
from sim.errors import InputError
from sim.kernel import strategies
from sim.results import load
from sim.results import manifest as manifests
from sim.results.settings import settings_of
from sim.results.tables import SCHEMAS
from sim.xsave import profiles

CPUS = Path(profiles.__file__).parent / "cpus"
SHIPPED_STRATEGIES = Path(strategies.__file__).parent / "data" / "strategies"

OWN = """
title = "Own"
[run]
measure = "20 ms"
warmup = "5 ms"
replications = 2
strategies = ["free-ssp", "mine/load.toml", "mine/manual-load.toml"]
[host]
cpus = 2
cpu = ["zen4", "sapphire-rapids", "mine/cpu.toml"]
tsc = "2 GHz"
[host.costs]
zen4 = "mine/zen4.toml"
"mine/cpu.toml" = "zen5"
[kernel]
carried = "mine/state.toml"
[guests.g]
vcpus = 2
shadow_stacks = "rewritten"
task_switch = "1 ms"
demand = { empirical = "mine/gaps.csv", column = "t", unit = "us" }
sleep = { empirical = "more/gaps.csv", column = "t", unit = "us" }
"""
STATE = """
name = "cet-s-mine"
title = "CET_S, by another name"
msrs = { PL0_SSP = 0x6a4, PL1_SSP = 0x6a5, PL2_SSP = 0x6a6 }
size_bytes = 24
per_task_msr = false
source = "a test"
xfeature = 12
cpu_feature = "SHSTK"
"""


COSTS = """
title = "Zen 4 whose VM entries take 777 cycles"
date = "2026-11"
derived_from = "zen4"
[[rows]]
operation = "VM entry"
term = "base"
value = 777
low = 700
high = 800
grade = "assumed"
source = "a test"
conditions = "range chosen because a test needs one"
"""


def tables(directory):
    return {name: (directory / f"{name}.parquet").read_bytes() for name in SCHEMAS}


@pytest.fixture
def own(tmp_path):
    """A scenario whose strategies, carried state, samples and costs are files beside it."""
    folder = tmp_path / "own"
    (folder / "mine").mkdir(parents=True)
    (folder / "more").mkdir()
    shipped = (SHIPPED_STRATEGIES / "manual-load.toml").read_text(encoding="utf-8")
    (folder / "mine" / "manual-load.toml").write_text(shipped, encoding="utf-8")
    (folder / "mine" / "load.toml").write_text(shipped.replace('"manual-load"', '"by hand"', 1), encoding="utf-8")
    shutil.copy(CPUS / "zen5.toml", folder / "mine" / "cpu.toml")
    (folder / "mine" / "state.toml").write_text(STATE, encoding="utf-8")
    (folder / "mine" / "gaps.csv").write_text("t\n900\n1100\n", encoding="utf-8")
    (folder / "more" / "gaps.csv").write_text("t\n300\n700\n", encoding="utf-8")
    (folder / "mine" / "zen4.toml").write_text(COSTS, encoding="utf-8")
    (folder / "own.toml").write_text(OWN, encoding="utf-8")
    return folder / "own.toml"


def test_a_run_is_repeated_to_the_same_bytes_where_its_files_are_gone(own, tmp_path, capsys, monkeypatch):
    experiment.run(own, jobs=1, out=tmp_path / "own" / "r")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "own" / "r", elsewhere / "copied")
    shutil.rmtree(tmp_path / "own")
    monkeypatch.chdir(elsewhere)
    status, out, err = run_command(capsys, "run", "copied/manifest.json", "--no-figures", "--jobs", "2")
    assert (status, err) == (0, "fpswitch: the results go to results/own\n")
    assert "by hand" in out
    assert tables(elsewhere / "results" / "own") == tables(elsewhere / "copied")
    first, again = (json.loads((elsewhere / each / "manifest.json").read_text()) for each in ("copied", "results/own"))
    for key in ("scenario", "fingerprint", "scenario_sha256", "resolved", "cases", "inputs", "versions"):
        assert again[key] == first[key], key
    assert (elsewhere / "copied" / "costs.json").read_bytes() == (elsewhere / "results/own/costs.json").read_bytes()


def test_no_path_of_the_machine_is_in_a_table_or_needed_in_the_manifest(own, tmp_path):
    results = experiment.run(own, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    for name in SCHEMAS:
        texts = getattr(results, name).select_dtypes(exclude="number")
        assert not texts.stack().astype(str).str.contains("/home|/tmp|own/", regex=True).any()
    assert results.cases[0]["strategies"] == ["free-ssp", "by hand", "manual-load (manual-load.toml)"]
    manifest = {key: value for key, value in results.manifest.items() if key not in ("scenario_file", "command")}
    assert str(tmp_path) not in json.dumps(manifest)


def test_the_manifest_has_each_input_by_its_hash_and_its_name(own, tmp_path):
    experiment.run(own, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    found = {(each["kind"], each["name"]): each for each in manifest["inputs"]}
    assert set(found) == {
        ("strategy", "by hand"),
        ("strategy", "manual-load (manual-load.toml)"),
        ("carried state", "cet-s-mine"),
        ("samples", "gaps.csv"),
        ("CPU", "cpu"),
    }
    assert len(manifest["inputs"]) == 6  # two files are called gaps.csv
    for each in manifest["inputs"]:
        assert hashlib.sha256((tmp_path / "r" / each["path"]).read_bytes()).hexdigest() == each["sha256"]
        assert manifest["files"][each["path"]] == each["sha256"]
    assert set(manifest["files"]) >= {"costs.json", *(f"{name}.parquet" for name in SCHEMAS)}
    assert set(json.loads((tmp_path / "r" / "costs.json").read_text())) == {
        "zen4 (zen4.toml)",
        "sapphire-rapids",
        "zen5",
    }
    assert {"machine", "os", "cpu"} <= manifest["platform"].keys()
    assert manifest["commit"] is None or len(manifest["commit"]) >= 12


def test_a_loaded_result_knows_its_own_strategy_when_the_file_is_gone(own, tmp_path):
    experiment.run(own, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    shutil.rmtree(tmp_path / "own")
    case = load(tmp_path / "r").cases[0]
    assert settings_of(case, "by hand").strategy.load_at
    assert settings_of(case, "by hand").carried.name == "cet-s-mine"


def test_where_a_scenario_and_its_files_lie_is_not_in_the_fingerprint(own, tmp_path):
    def fingerprint(path):
        return experiment.run(path, jobs=1, simulate=fake_host.simulate).manifest["fingerprint"]

    before = fingerprint(own)
    shutil.move(tmp_path / "own", tmp_path / "moved")
    moved = tmp_path / "moved"
    assert fingerprint(moved / "own.toml") == before
    for changed in ("state.toml", "gaps.csv", "zen4.toml"):
        path = moved / "mine" / changed
        text = path.read_text()
        path.write_text(text.replace('title = "', 'title = "Other: ', 1).replace("900", "901", 1))
        assert fingerprint(moved / "own.toml") != before, changed
        path.write_text(text)
    text = (moved / "own.toml").read_text()
    (moved / "own.toml").write_text(
        text.replace("Own", "Another title").replace('"free-ssp", ', '"free-ssp", "no-cet", ')
    )
    assert fingerprint(moved / "own.toml") == before


def test_a_repeated_run_is_of_the_costs_that_the_run_had_and_not_of_those_that_are_shipped(own, tmp_path, monkeypatch):
    experiment.run(own, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    monkeypatch.setattr(cost_tables, "_folder", lambda: tmp_path / "no cost tables any more")
    cost_tables._loaded.cache_clear()
    again = experiment.run(
        tmp_path / "r" / "manifest.json", jobs=1, simulate=fake_host.simulate, out=tmp_path / "again"
    )
    assert tables(tmp_path / "again") == tables(tmp_path / "r")
    assert again.costs == json.loads((tmp_path / "r" / "costs.json").read_text())
    cost_tables._loaded.cache_clear()


@pytest.mark.parametrize("name", cost_tables.names())
def test_a_cost_table_survives_being_a_document(name):
    table = cost_tables.load(name)
    document = json.loads(json.dumps(cost_documents.document(table)))
    assert cost_documents.from_document(document, name) == table


def test_a_repeated_run_never_goes_where_the_first_one_is(own, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = experiment.run

    def faked(*arguments, **options):
        return original(*arguments, **options | {"simulate": fake_host.simulate, "jobs": 1})

    monkeypatch.setattr(experiment, "run", faked)
    assert run_command(capsys, "run", str(own), "--no-figures")[0] == 0
    before = (tmp_path / "results" / "own" / "manifest.json").read_bytes()
    status, _, err = run_command(capsys, "run", "results/own/manifest.json", "--no-figures")
    assert status == 0, err
    assert (tmp_path / "results" / "own" / "manifest.json").read_bytes() == before
    assert tables(tmp_path / "results" / "own-again") == tables(tmp_path / "results" / "own")
    assert "results/own-again" in err


def test_an_input_that_was_changed_since_is_named(own, tmp_path):
    experiment.run(own, jobs=1, simulate=fake_host.simulate, out=tmp_path / "r")
    with (tmp_path / "r" / "inputs" / "gaps.csv").open("a") as file:
        file.write("1\n")
    with pytest.raises(InputError, match=r"inputs/gaps\.csv: is not what the run wrote"):
        experiment.run(tmp_path / "r" / "manifest.json", jobs=1, simulate=fake_host.simulate)


def test_two_strategies_of_one_name_are_one_message(own):
    (own.parent / "mine" / "load.toml").write_text(
        (own.parent / "mine" / "load.toml").read_text().replace("title = ", "title = 'x' #", 1)
    )
    other = own.parent / "more" / "load.toml"
    other.write_text((own.parent / "mine" / "load.toml").read_text().replace("'x'", "'y'"))
    with pytest.raises(InputError, match="two strategies called 'by hand'"):
        experiment.run(own, strategies=[str(own.parent / "mine" / "load.toml"), str(other)], jobs=1)


def test_a_copy_of_a_strategy_is_refused_beside_it_and_may_be_the_reference(own, tmp_path):
    mine, copy = own.parent / "mine" / "load.toml", tmp_path / "copy.toml"
    copy.write_text(mine.read_text())
    options = {"jobs": 1, "simulate": fake_host.simulate}
    with pytest.raises(InputError, match=r"two strategies called 'by hand', in .*load\.toml and .*copy\.toml; allowed"):
        experiment.run(own, strategies=["xstate-guest", str(mine), str(copy)], **options)
    results = experiment.run(own, reference=str(copy), out=tmp_path / "r", **options)
    assert [each["name"] for each in results.manifest["inputs"]].count("by hand") == 1
    assert results.manifest["resolved"]["run"]["reference"] in results.manifest["resolved"]["run"]["strategies"]
    again = experiment.run(tmp_path / "r" / "manifest.json", **options)
    assert again.ledger.equals(results.ledger)


def test_a_file_that_changes_while_a_process_lives_is_read_again(own):
    def caught(text):
        (own.parent / "mine" / "load.toml").write_text(text)
        results = experiment.run(own, jobs=1, simulate=fake_host.simulate)
        return settings_of(results.cases[0], "by hand").strategy.title

    text = (own.parent / "mine" / "load.toml").read_text()
    first = caught(text)
    assert caught(text.replace("title = ", "title = 'changed' #", 1)) == "changed" != first


def test_an_own_strategy_as_reference_is_known_by_file_and_by_name(own):
    by_file = experiment.run(own, reference=str(own.parent / "mine" / "load.toml"), jobs=1, simulate=fake_host.simulate)
    by_name = experiment.run(own, reference="by hand", jobs=1, simulate=fake_host.simulate)
    assert by_file.cases[0]["reference"] == by_name.cases[0]["reference"] == "by hand"


def test_the_commit_is_that_of_a_checkout_and_nothing_elsewhere(tmp_path, monkeypatch):
    manifests.commit.cache_clear()
    monkeypatch.setattr(manifests, "__file__", str(tmp_path / "site-packages" / "sim" / "results" / "manifest.py"))
    assert manifests.commit() is None
    manifests.commit.cache_clear()
