"""A worker that hangs when it is asked what it has holds up nobody."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_host
import pytest
import worlds

from sim.results import parts

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

SMALL = worlds.small(replications=40)
STOPS = """
import os, signal
from pathlib import Path
from sim.experiment import workers

def versions():
    Path({mark!r}).touch()
    os.kill(os.getpid(), signal.SIGSTOP)

workers.versions = versions
"""
"""What makes of a worker one that stops, as by SIGSTOP, before it answers the driver."""
MANY = 40
"""Parts, of two in a replication, that the others do meanwhile."""
WAIT_S = 60
"""The longest that something may take on a machine that is shared."""


def until(holds):
    deadline = time.monotonic() + WAIT_S
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


class Cluster:
    """A scheduler, with workers that answer and others that hang, and that stay until they are killed."""

    def __init__(self, place, there):
        self._place, self.hung = place, []
        self._there = there
        self.mark = place / "stopped"
        (place / "stops.py").write_text(STOPS.format(mark=str(self.mark)))

    @property
    def address(self):
        return self._there.scheduler_address

    def add_worker(self):
        self._there.scale(1)

    def add_hung(self):
        """A worker as dask-worker starts it, without a nanny."""
        command = ("-m", "distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        self.hung.append(
            subprocess.Popen(
                [sys.executable, *command, "--preload", self._place / "stops.py"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def kill_hung(self):
        for process in self.hung:
            process.kill()

    def number(self):
        return len(self._there.scheduler.workers)


@pytest.fixture
def cluster(tmp_path):
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None, silence_logs=50) as there:
        found = Cluster(tmp_path, there)
        yield found
        found.kill_hung()
        for process in found.hung:
            process.wait()


def waits(case, timed_by, strategies, replication):
    """From the fourth replication on there is a worker that hangs, and time to say so."""
    while replication > 3 and not Path(os.environ["STOPPED"]).exists():
        time.sleep(0.05)
    time.sleep(0.2)
    return fake_host.simulate(case, timed_by, strategies, replication)


@pytest.fixture
def run_beside(cluster, run_in, tmp_path, monkeypatch):
    """Runs in ``r``; what is to happen meanwhile does so in another thread, and then the hung workers are killed."""
    monkeypatch.setenv("STOPPED", str(cluster.mark))
    monkeypatch.setattr("sim.experiment.cluster.ANSWER_S", 1.0)

    def run(meanwhile=lambda: None):
        kept = []

        def watch():
            meanwhile()
            until(cluster.mark.exists)
            before = len(set(parts.keys_kept(tmp_path / "r")))
            until(lambda: len(set(parts.keys_kept(tmp_path / "r"))) >= before + MANY)
            kept.append(len(set(parts.keys_kept(tmp_path / "r"))) - before)
            cluster.kill_hung()  # without which a frozen driver would wait for minutes

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            found = run_in("r", cluster=cluster.address, simulate=waits)
        finally:
            watcher.join()
        return found, kept[0]

    return run


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_worker_that_hangs_as_it_registers_holds_up_nobody(when, cluster, run_beside, run_in, tables, tmp_path):
    cluster.add_worker()
    if when == "before":
        cluster.add_hung()
        assert until(lambda: cluster.number() == 2)
        found, kept = run_beside()
    else:
        found, kept = run_beside(lambda: until(lambda: set(parts.keys_kept(tmp_path / "r"))) and cluster.add_hung())
    assert kept >= MANY
    assert [note for note in found.notes if "has not answered for 1 s; it gets nothing to do" in note]
    assert not [note for note in found.notes if "refused" in note]
    run_in("alone", jobs=1)
    assert tables("r") == tables("alone")


def test_where_all_workers_hang_the_driver_says_so_and_goes_on_with_one_that_joins(cluster, run_beside, run_in, tables):
    cluster.add_hung()
    assert until(lambda: cluster.number() == 1)
    found, kept = run_beside(lambda: until(cluster.mark.exists) and cluster.add_worker())
    assert kept >= MANY
    assert [note for note in found.notes if "has no worker yet; this waits for one" in note]
    run_in("alone", jobs=1)
    assert tables("r") == tables("alone")
