"""What many test files need: their host as a file, runs of it in directories, and quick draws of costs."""

import gc
import os
import sys

# Before numpy is imported: BLAS threads wait in loops, and the tests are spread over the CPUs already.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import compared
import drawn
import fake_host
import hypothesis
import pytest
import screens
import wrong_scenarios

import sim
from sim import experiment
from sim.analysis import answers
from sim.calibrate import programs
from sim.engine import kept_tables
from sim.results.tables import SCHEMAS

# A busy machine and coverage take longer than the 200 ms that an example may take by default.
hypothesis.settings.register_profile("fpswitch", deadline=None)
hypothesis.settings.load_profile("fpswitch")


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


def pytest_collection_modifyitems(items):
    """Slow tests come first, so that at the end no process has one to do while the others have nothing."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_runtest_setup(item):
    """Under ``make coverage`` a test executes all that it uses, also what an earlier one has left in a cache."""
    if item.config.getoption("cov_context", None):
        modules = [module for name, module in sys.modules.items() if name.startswith("sim.")]
        for each in {each for module in modules for each in vars(module).values() if hasattr(each, "cache_clear")}:
            each.cache_clear()


@pytest.fixture(autouse=True)
def _no_kept_tables(monkeypatch):
    """Tests that break the kernel model keep nothing of what it says then, and find nothing of other tests."""
    monkeypatch.setattr(kept_tables, "directory", lambda: None)


@pytest.fixture
def new_tables(monkeypatch):
    """Nobody has asked the kernel models anything, and nobody goes on with what this test leaves."""
    monkeypatch.setattr("sim.engine.table._tables", {})


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
def rerun(scenario, tmp_path):
    """Runs ``scenario`` in the directory ``r``; gives the results and what was simulated for them."""

    def run(path=scenario, out="r", **options):
        counted = fake_host.Counted()
        results = experiment.run(path, **{"jobs": 1, "simulate": counted, "out": tmp_path / out} | options)
        return results, counted

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


@pytest.fixture
def ran(tmp_path):
    """Runs the host of :mod:`screens`, which is made up, with these changes."""

    def run(simulate=fake_host.simulate, out=None, **changes):
        path = tmp_path / "host.toml"
        path.write_text(screens.HOST)
        return experiment.run(path, overrides=changes, jobs=1, simulate=simulate, out=out)

    return run


@pytest.fixture(scope="session")
def made():
    """The programs that measure, compiled once for all test files."""
    with programs.compiled() as compiled:
        yield compiled


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The scenario of :mod:`compared` as a file."""
    path = tmp_path_factory.mktemp("scenario") / "small.toml"
    path.write_text(compared.SCENARIO)
    return path


@pytest.fixture(scope="session")
def results(small, tmp_path_factory):
    """The scenario of :mod:`compared`, run with the host made up."""
    return experiment.run(small, jobs=1, simulate=fake_host.simulate, out=tmp_path_factory.mktemp("r") / "results")


@pytest.fixture(scope="session")
def comparison(results):
    """Of the results above."""
    return sim.compare(results)


@pytest.fixture(scope="session", params=drawn.SCENARIOS)
def drawn_comparison(request, tmp_path_factory):
    """The name of a scenario of :mod:`drawn`, and its results compared."""
    text = drawn.SCENARIOS[request.param]
    return request.param, drawn.compared(tmp_path_factory, text, fake_host.altered(drawn.swept))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with the files that :mod:`wrong_scenarios` names."""
    for name, content in wrong_scenarios.FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path
