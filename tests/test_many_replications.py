"""A run in a directory takes as much memory for four hundred replications as for a hundred."""

import os
import tracemalloc
from dataclasses import replace

import fake_host
import pytest
import worlds

from sim import experiment
from sim.experiment import workers
from sim.results import files, load, writing
from sim.results.tables import SCHEMAS

FEW, MANY = 100, 400
OF_A_PART = 60
"""Bytes of a part (a strategy in a replication) that are allowed to stay; a packed record has a thousand."""
STRATEGIES = ["free-ssp", "manual-load"]

FIRST = {}


def peak(scenario, out, replications):
    """Bytes that a run had at most, beyond what it began with."""
    tracemalloc.start()
    try:
        results = experiment.run(
            scenario,
            strategies=STRATEGIES,
            replications=replications,
            jobs=1,
            simulate=simulate,
            out=out,
        )
        assert results.manifest["replications"] == replications
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def simulate(case, timed_by, strategies, replication):
    """Records at once: a few rows of those of replication 0, by another number."""
    return [
        replace(record, replication=replication, ledger=record.ledger[:3])
        for record in FIRST.get(timed_by) or first(case, timed_by, strategies)
    ]


def first(case, timed_by, strategies):
    FIRST[timed_by] = fake_host.simulate(case, timed_by, strategies, 0)
    return FIRST[timed_by]


@pytest.fixture
def scenario(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # which takes most of the time here
    monkeypatch.setattr(writing, "ROWS_OF_A_GROUP", 1000)
    monkeypatch.setattr(workers, "GROUP_S", 0.02)
    path = tmp_path / "small.toml"
    path.write_text(worlds.small(replications=1))
    return path


@pytest.mark.slow
def test_the_drivers_memory_does_not_grow_with_the_number_of_replications(scenario, tmp_path):
    peak(scenario, tmp_path / "first", 20)  # imports
    few, many = (peak(scenario, tmp_path / f"of-{n}", n) for n in (FEW, MANY))
    assert many - few < OF_A_PART * (MANY - FEW) * len(STRATEGIES)


def test_tables_that_are_written_in_groups_of_rows_are_those_in_memory(scenario, tmp_path):
    options = {"replications": 40, "jobs": 1, "simulate": fake_host.simulate}
    written = experiment.run(scenario, out=tmp_path / "r", **options)
    made = experiment.run(scenario, **options)
    for name in SCHEMAS:
        assert written.tables[name].equals(made.tables[name])
        assert load(tmp_path / "r").tables[name].equals(made.tables[name])


def test_tables_of_a_run_stay_what_they_were_when_a_later_run_replaces_them(scenario, tmp_path):
    options = {"jobs": 1, "simulate": fake_host.simulate, "out": tmp_path / "r"}
    one = experiment.run(scenario, replications=3, **options)
    two = experiment.run(scenario, replications=3, seed=2, **options)
    assert not one.metrics.equals(two.metrics)
    assert one.metrics.equals(experiment.run(scenario, replications=3, **options).metrics)


def test_what_is_finished_within_a_second_is_one_file(scenario, tmp_path, monkeypatch):
    written, original = [], files.write_kept
    monkeypatch.setattr(workers, "GROUP_S", 1.0)
    monkeypatch.setattr(files, "write_kept", lambda path, content: written.append(path) or original(path, content))
    peak(scenario, tmp_path / "r", MANY)
    assert 0 < len([path for path in written if path.suffix == ".arrow"]) < MANY / 10
