"""What stands still, or dies at a bad moment, holds up no run: another one does it, or there is one message."""

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import fake_host
import pytest
import worlds
from command import run as run_command

from sim.errors import InputError
from sim.experiment.cluster import Cluster
from sim.experiment.pool import Gone
from sim.experiment.workers import Task
from sim.verification.kill import cluster as processes

pytest.importorskip("distributed")

SMALL = worlds.small(replications=40)
WAIT_S = 60
"""The longest that something may take on a machine that is shared."""


def test_what_takes_connections_and_says_nothing_as_a_stopped_scheduler_does_is_one_message(run_in, monkeypatch):
    monkeypatch.setattr("sim.experiment.cluster.CONNECT_S", 0.5)
    monkeypatch.setattr("sim.experiment.cluster.ANSWER_S", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(InputError, match=r"nobody answers \(no word for 1 s"),
    ):
        run_in("r", cluster=f"tcp://127.0.0.1:{silent.getsockname()[1]}")


def looks(found):
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found.workers()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_scheduler_that_does_not_come_back_is_one_message(monkeypatch):
    monkeypatch.setattr("sim.experiment.cluster.CONNECT_S", 5)
    with ExitStack() as stack:
        address, scheduler = processes._scheduler(stack)
        said = []
        found = Cluster(address, said.append)
        stack.callback(found.close, at_once=True)
        scheduler.kill()
        with pytest.raises(Gone, match=rf"the scheduler at {address} is gone \(no connection for 5 s\)"):
            looks(found)


@pytest.mark.slow
def test_status_says_that_a_run_waits_for_a_worker(tmp_path, capsys):
    with ExitStack() as stack:
        address, _ = processes._scheduler(stack)
        processes._driver(stack, tmp_path / "r", address)
        deadline, said = time.monotonic() + WAIT_S, ""
        while "workers" not in said and time.monotonic() < deadline:
            time.sleep(0.2)
            said = run_command(capsys, "status", str(tmp_path / "r"))[1]
        assert "  workers    none: it waits for one\n" in said


class Deadly:
    """An answer that kills who sends it."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def deadly(task):
    """Has an answer the first time, and then kills its worker at once."""
    with suppress(FileExistsError):
        Path(os.environ["ANSWERED"]).touch(exist_ok=False)
        return Deadly()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def local():
    found = Cluster("local:1", print)
    yield found
    found.close(at_once=True)


@pytest.mark.slow
def test_a_worker_that_dies_between_its_last_word_and_its_answer_leaves_no_task_without_an_end(
    tmp_path, monkeypatch, request
):
    monkeypatch.setenv("ANSWERED", str(tmp_path / "answered"))
    monkeypatch.setattr("sim.experiment.cluster.work", deadly)
    local = request.getfixturevalue("local")
    assert local.deaths(local.submit(Task((), {}, {}, {})).exception(WAIT_S)) == 1


@pytest.mark.slow
def test_for_the_workers_that_it_has_started_a_scheduler_has_no_worker_ttl(local):
    """After a driver was stopped it has heard of none meanwhile."""
    assert local._cluster.scheduler.worker_ttl is None


def stops(case, timed_by, strategies, replication):
    """The first one that comes so far stops."""
    if replication >= 20:
        with suppress(FileExistsError), open(os.environ["STOPPED"], "x") as file:
            print(os.getpid(), file=file, flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.05)
    return fake_host.simulate(case, timed_by, strategies, replication)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["processes", "cluster"])
def test_another_worker_does_what_one_that_hangs_has(where, run_in, tables, tmp_path, monkeypatch):
    stopped = tmp_path / "stopped"
    monkeypatch.setenv("STOPPED", str(stopped))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr("sim.experiment.dispatch.LATE_S", 1.0)
    monkeypatch.setattr("sim.experiment.dispatch.LATE", 1)
    killed = threading.Timer(WAIT_S, lambda: os.kill(int(stopped.read_text()), signal.SIGKILL))
    with ExitStack() as stack:
        how = {"jobs": 2}
        if where == "cluster":
            monkeypatch.setitem(processes.SETTINGS, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "300s")
            address, _ = processes._scheduler(stack)
            for _ in range(2):
                processes._worker(stack, address)
            how = {"cluster": address}
        killed.start()
        stack.callback(killed.cancel)
        found = run_in("r", simulate=stops, **how)
        assert killed.is_alive(), "the run waited for the worker"
    assert stopped.exists()
    assert [note for note in found.notes if "has not answered for" in note and "another one does it, too" in note]
    run_in("alone", jobs=1)
    assert tables("r") == tables("alone")
