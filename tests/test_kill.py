"""The campaign that kills runs finds what is lost."""

import json

import pytest

from sim.results import parts
from sim.verification.kill import here
from sim.verification.kill.victim import killed


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    place = tmp_path_factory.mktemp("kill")
    killed(1, str(place / "r"), "1", 2)
    return place / "r"


def test_it_knows_what_is_finished_and_whose_it_is(result):
    manifest = json.loads((result / "manifest.json").read_text())
    assert here._finished(result, 1) == set(parts.keys(manifest, 2).values())
    assert here._finished(result, 2) == set()
    assert here._is_complete(result, 1)
    assert not here._is_complete(result, 2)


def test_it_finds_other_bytes_and_damaged_results(result):
    truth = here._bytes(result)
    assert list(here._other(result, truth, "it")) == []
    assert list(here._other(result, {**truth, "ledger": b""}, "it")) == ["it: ledger.parquet has other bytes"]
    (result / "metrics.parquet").write_bytes(truth["metrics"][:-1])
    assert "metrics.parquet: is not what the run wrote" in "".join(here._other(result, truth, "it"))


def test_it_finds_what_is_lost_of_either_run():
    kept = {1: {("a", 0), ("a", 1)}, 2: {("b", 0)}}
    assert list(here._lost(kept, kept, "it", (1, 2))) == []
    there = {1: {("a", 1)}, 2: set()}
    lost = ["it: 1 parts of seed 1 are lost", "it: 1 parts of seed 2 are lost"]
    assert list(here._lost(kept, there, "it", (1, 2))) == lost
    assert list(here._lost(kept, there, "it", (1,))) == lost[:1]
