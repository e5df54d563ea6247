"""Whatever happens while a pool ends: a finished run stays one, and what ended another is what is told."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import worlds

from sim import processes
from sim.errors import Interrupted, RunError
from sim.results import parts

SMALL = worlds.small(replications=40)
DRIVER = """
import signal, sys, time
import fake_host
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from sim import experiment
from sim.cli import messages

def slow(case, timed_by, strategies, replication):
    time.sleep(0.3)
    return fake_host.simulate(case, timed_by, strategies, replication)

def executor(method):
    return ProcessPoolExecutor(2, mp_context=get_context(method))

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell ignore it
    from driver import slow  # of a module that workers can import
    with messages():
        experiment.run(sys.argv[1], out=sys.argv[2], simulate=slow, **eval(sys.argv[3]))
"""
POOLS = {
    "none": "{'jobs': 1}",
    "processes": "{'jobs': 2}",
    "fork": "{'executor': executor('fork')}",
    "spawn": "{'executor': executor('spawn')}",
    "cluster": "{'cluster': 'local:2'}",
}


def ctrl_c(process):
    """What a terminal does: every process of the group in the foreground gets it."""
    os.killpg(process.pid, signal.SIGINT)


def one(process):
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("pool", "interrupt"),
    [
        ("none", ctrl_c),
        ("processes", ctrl_c),
        ("fork", ctrl_c),
        pytest.param("spawn", ctrl_c, marks=pytest.mark.slow),
        pytest.param("cluster", ctrl_c, marks=pytest.mark.slow),
        pytest.param("cluster", one, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_is_an_interrupt_with_any_pool(pool, interrupt, scenario, tmp_path):
    if pool == "cluster":
        pytest.importorskip("distributed")
    (tmp_path / "driver.py").write_text(DRIVER)
    out = tmp_path / "r"
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", scenario, out, POOLS[pool]],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not set(parts.keys_kept(out)):
            assert driver.poll() is None, driver.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        interrupt(driver)
        said = driver.communicate(timeout=120)[1].splitlines()
    finally:
        driver.kill()
    assert (driver.returncode, json.loads((out / "manifest.json").read_text())["status"]) == (130, "interrupted")
    assert said[-1].startswith("fpswitch: interrupted after ")
    if pool not in ("fork", "spawn"):  # whose processes are the caller's
        assert len(said) == 1


class Stubborn(ThreadPoolExecutor):
    """An executor whose futures cannot be cancelled."""

    def submit(self, *given):
        future = super().submit(*given)
        future.cancel = raises_timeout
        return future


def raises_timeout():
    raise TimeoutError


def fails(monkeypatch, kind, error):
    """Ends what it is to end, and then raises."""
    original = kind.close

    def close(self, **given):
        original(self, **given)
        raise error

    monkeypatch.setattr(kind, "close", close)


@pytest.fixture(params=["executor", *(pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "cluster"))])
def where(request, monkeypatch):
    """A pool that cannot be closed without an error."""
    if request.param == "processes":
        fails(monkeypatch, processes.Workers, TimeoutError())
        yield {"jobs": 2}
    elif request.param == "executor":
        with Stubborn(1) as executor:
            yield {"executor": executor}
    else:
        distributed = pytest.importorskip("distributed")
        fails(monkeypatch, distributed.Client, TimeoutError("timed out after 1 s."))
        fails(monkeypatch, distributed.LocalCluster, TimeoutError())
        yield {"cluster": "local:1"}


def test_a_pool_that_cannot_be_closed_neither_fails_a_finished_run_nor_hides_what_ended_another(
    where, run_in, tables, monkeypatch
):
    run_in("alone", jobs=1)
    run_in("r", **where)
    assert tables("r") == tables("alone")
    with pytest.raises(RunError, match="ZeroDivisionError"):
        run_in("wrong", simulate=wrong, **where)
    monkeypatch.setattr("sim.experiment.running.Running.take", interrupted)
    with pytest.raises(Interrupted):
        run_in("interrupted", **where)


def wrong(*work):
    raise ZeroDivisionError


def interrupted(*given):
    raise KeyboardInterrupt
