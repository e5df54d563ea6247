"""A table that cannot be written is named, however small it is, and its file does not stay open."""

import os

import fake_host
import pyarrow.parquet as pq
import pytest
import worlds

from sim import experiment
from sim.errors import RunError
from sim.results import writing
from sim.results.tables import SCHEMAS

SMALL = worlds.small(replications=1)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_for_which_the_disk_has_no_room_is_named(scenario, tmp_path, name):
    path = tmp_path / "r" / f".{name}.parquet"

    def simulate(*work):
        if not path.is_symlink():
            path.symlink_to("/dev/full")
        return fake_host.simulate(*work)

    with pytest.raises(RunError) as caught:
        experiment.run(scenario, jobs=1, simulate=simulate, out=tmp_path / "r")
    assert str(caught.value).startswith(f"{path}: cannot be written (No space left on device)")


def test_a_table_that_cannot_be_begun_leaves_no_open_file(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pq, "ParquetWriter", fails)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MemoryError) as caught:
        writing.write([], {name: tmp_path / name for name in SCHEMAS})
    assert caught.tb  # whose frames still have the file
    assert len(os.listdir("/proc/self/fd")) == before
