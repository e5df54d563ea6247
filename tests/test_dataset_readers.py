"""The dataset of a design is what polars and DuckDB read, where they are installed: they are no dependencies."""

import fake_host
import pandas as pd
import pytest
import worlds

from sim import experiment
from sim.experiment.design import Design
from sim.results.tables import SCHEMAS

POINTS = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A directory with a dataset, and the same tables by pandas."""
    place = tmp_path_factory.mktemp("design")
    (place / "small.toml").write_text(worlds.small(replications=2))
    design = Design.parsed(f"sobol:{POINTS}", ["host.cpus=2..9"])
    experiment.run_design(place / "small.toml", design, place / "d", jobs=1, simulate=fake_host.simulate)
    return place / "d" / "dataset"


def by_pandas(dataset, name):
    """A table of all points, with the number of the point as others read it."""
    found = pd.read_parquet(dataset / name)
    assert set(found["point"].astype(str).str.lstrip("0")) <= {str(n + 1) for n in range(POINTS)}
    return found.assign(point=found["point"].astype(int))


def same(found, expected):
    """Whether two frames have the same rows, in any order."""
    columns = list(expected.columns)
    one, two = (each[columns].sort_values(columns, ignore_index=True) for each in (found, expected))
    pd.testing.assert_frame_equal(one, two, check_dtype=False)


@pytest.mark.parametrize("name", SCHEMAS)
def test_polars_reads_the_dataset(dataset, name):
    polars = pytest.importorskip("polars")
    found = polars.scan_parquet(f"{dataset}/{name}/**/*.parquet", hive_partitioning=True).collect()
    same(pd.DataFrame(found.to_dict(as_series=False)).astype({"point": int}), by_pandas(dataset, name))


@pytest.mark.parametrize("name", SCHEMAS)
def test_duckdb_reads_the_dataset(dataset, name):
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"select * from read_parquet('{dataset}/{name}/**/*.parquet', hive_partitioning = true)").df()
    same(found.astype({"point": int}), by_pandas(dataset, name))


def test_a_sum_by_point_is_the_same_without_loading_all(dataset):
    duckdb = pytest.importorskip("duckdb")
    ledger = f"read_parquet('{dataset}/ledger/**/*.parquet', hive_partitioning = true)"
    found = duckdb.sql(f"select point, sum(cycles) as cycles from {ledger} group by point order by point").fetchall()
    expected = by_pandas(dataset, "ledger").groupby("point")["cycles"].sum()
    assert [(int(point), int(cycles)) for point, cycles in found] == [(n, int(each)) for n, each in expected.items()]
