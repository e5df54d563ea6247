"""Records that are packed are the same records, and tables made a few at a time are the same tables."""

import fake_host
import pytest
import worlds

from sim import experiment
from sim.results import parts, tables
from sim.results.shelf import Shelf
from sim.results.tables import SCHEMAS, frames, records

SMALL = worlds.small(replications=9)


@pytest.fixture
def results(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    return experiment.run(tmp_path / "small.toml", jobs=1, simulate=fake_host.simulate)


def test_a_packed_record_is_the_same_and_takes_a_tenth(results):
    keys = parts.keys(results.manifest, 9)
    held = {keys[record.part]: record for record in records(results.tables)}
    shelf = Shelf(held)
    assert dict(shelf) == held
    assert shelf.end < 4000 * len(held)


@pytest.mark.parametrize("number", [1, 5, 18, 100])
def test_tables_do_not_depend_on_how_many_records_are_rows_at_a_time(results, monkeypatch, number):
    monkeypatch.setattr(tables, "AT_A_TIME", number)
    again = frames(records(results.tables), results.cases)
    for name, schema in SCHEMAS.items():
        there = getattr(results, name)[schema.names]
        assert again[name].equals(there)
        assert (again[name].dtypes == there.dtypes).all()
