"""What many test files need: their host as a file, runs of it in directories, and quick draws of costs."""

import gc
import os

# Before numpy is imported: BLAS threads wait in loops, and the tests are spread over the CPUs already.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import fake_host
import pytest

from sim import experiment
from sim.analysis import answers
from sim.engine import kept_tables
from sim.results.tables import SCHEMAS


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules and collected tests stay to the end: walking them again and again would be an eighth of the CPU time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _no_kept_tables(monkeypatch):
    """Tests that break the kernel model keep nothing of what it says then, and find nothing of other tests."""
    monkeypatch.setattr(kept_tables, "directory", lambda: None)


@pytest.fixture
def scenario(request, tmp_path):
    """The module's ``SMALL`` as a file."""
    path = tmp_path / "small.toml"
    path.write_text(request.module.SMALL)
    return path


@pytest.fixture
def run_in(scenario, tmp_path):
    """Runs ``scenario`` with the host made up, in a directory of this name."""

    def run(out, **options):
        return experiment.run(scenario, **{"simulate": fake_host.simulate, "out": tmp_path / out} | options)

    return run


@pytest.fixture
def tables(tmp_path):
    """The bytes of each table of a directory of this name."""
    return lambda out: {name: (tmp_path / out / f"{name}.parquet").read_bytes() for name in SCHEMAS}


@pytest.fixture(scope="module")
def directory(request, tmp_path_factory):
    """The module's ``HOST``, run in a directory."""
    folder = tmp_path_factory.mktemp(request.module.__name__)
    (folder / "host.toml").write_text(request.module.HOST)
    experiment.run(folder / "host.toml", jobs=1, simulate=fake_host.simulate, out=folder / "r")
    return folder / "r"


@pytest.fixture
def few_draws(monkeypatch):
    """Ten thousand take most of a second for each cost table."""
    monkeypatch.setattr(answers, "DRAWS", 1000)
