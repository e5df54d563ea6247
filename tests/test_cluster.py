"""A Dask cluster gives the same bytes; what cannot take part is told in a sentence."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest
import worlds
from command import run as run_command

from sim.errors import InputError, RunError
from sim.experiment import workers
from sim.experiment.cluster import Cluster

SMALL = worlds.small(cpu=["zen4", "sapphire-rapids"])


@pytest.mark.parametrize(
    "address", ["", "local:0", "local:2000", "local:-1", "local", "head:8786", "tcp://head", "http://a:1"]
)
def test_another_address_is_refused_and_nothing_is_written(scenario, tmp_path, capsys, address):
    status, _, err = run_command(capsys, "run", str(scenario), "--cluster", address, "--out", str(tmp_path / "r"))
    assert (status, err.count("\n")) == (2, 1)
    assert "allowed: tcp://HOST:PORT" in err
    assert not (tmp_path / "r").exists()


def test_jobs_and_a_cluster_are_too_much(scenario, capsys):
    status, _, err = run_command(capsys, "run", str(scenario), "--cluster", "local:2", "--jobs", "2")
    assert (status, "--cluster beside --jobs" in err) == (2, True)


def test_without_dask_the_message_says_how_to_install_it(run_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"needs Dask: pip install 'fpswitch\[cluster\]'"):
        run_in("r", cluster="local:1")


@pytest.fixture(scope="module")
def dask():
    """A scheduler with two workers."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


def test_nobody_at_an_address_is_one_message(dask, run_in, tmp_path, monkeypatch):
    monkeypatch.setattr("sim.experiment.cluster.CONNECT_S", 0.5)
    with pytest.raises(InputError, match=r"cluster tcp://127.0.0.1:1: nobody answers"):
        run_in("r", cluster="tcp://127.0.0.1:1")
    assert not (tmp_path / "r").exists()


def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(dask, run_in, tables):
    run_in("alone", jobs=1)
    killer = threading.Timer(0.3, lambda: os.kill(next(iter(dask.workers.values())).pid, signal.SIGKILL))
    killer.start()
    run_in("r", cluster=dask.scheduler_address)
    killer.join()
    assert tables("r") == tables("alone")


@pytest.fixture
def found(dask):
    found = Cluster(dask.scheduler_address, print)
    yield found
    found.close(at_once=True)


def holds(condition):
    """Whether something comes to hold in time."""
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def answer(found, future):
    """What has come of a task, while the driver looks for workers as it does all the time."""
    assert holds(lambda: found.workers() < 0 or future.done())
    return future.result()


NOTHING = workers.Task((), {}, {}, {})


def test_a_connection_that_breaks_while_an_answer_is_fetched_is_not_the_end(found, monkeypatch):
    from distributed.comm import CommClosedError

    gather, calls = found._client.gather, []

    async def breaks():
        raise CommClosedError("in <TCP (closed) ConnectionPool.gather>: Stream is closed")

    def breaks_once(*given, **named):
        calls.append(given)
        return breaks() if len(calls) == 1 else gather(*given, **named)

    monkeypatch.setattr(found._client, "gather", breaks_once)
    assert isinstance(answer(found, found.submit(NOTHING)), workers.Done)
    assert len(calls) == 2


def unwritable(task):
    raise PermissionError(13, "Permission denied")


def test_what_a_task_itself_raises_is_not_taken_for_a_broken_connection(found, monkeypatch):
    monkeypatch.setattr("sim.experiment.cluster.work", unwritable)
    with pytest.raises(PermissionError):
        answer(found, found.submit(NOTHING))


def test_what_goes_out_again_is_for_workers_that_are_there_then(found):
    """As after another scheduler has started, whose workers have other addresses."""

    async def breaks():
        found._client.scheduler_comm.comm.abort()
        await asyncio.sleep(0.5)

    found._only = frozenset({"tcp://127.0.0.1:1"})
    future = found.submit(NOTHING)
    found._client.sync(breaks)
    assert isinstance(answer(found, future), workers.Done)


def waits(path):
    while not os.path.exists(path):
        time.sleep(0.05)


def test_what_nobody_wants_any_more_is_taken_from_the_scheduler(dask, found, tmp_path, monkeypatch):
    monkeypatch.setattr("sim.experiment.cluster.work", waits)
    futures = [found.submit(str(tmp_path / "go")) for _ in range(6)]
    try:
        assert holds(lambda: len(dask.scheduler.tasks) == len(futures))
        assert all(future.cancel() for future in futures)
        assert holds(lambda: not dask.scheduler.tasks)
    finally:
        (tmp_path / "go").touch()


def test_the_executor_of_a_client_does_too(dask, run_in, tables):
    from distributed import Client

    run_in("alone", jobs=1)
    with Client(dask, set_as_default=False) as client:
        run_in("r", executor=client.get_executor(), jobs=2)
    assert tables("r") == tables("alone")


def spoil():
    """Makes a worker one with another numpy."""
    theirs = {**workers.versions(), "numpy": "1.0"}
    workers.versions = lambda: theirs


def test_a_worker_with_another_numpy_gets_nothing_to_do_and_none_but_such_is_refused(dask, run_in, tables):
    from distributed import Client

    run_in("alone", jobs=1)
    with Client(dask, set_as_default=False) as client:
        deadline = time.monotonic() + 20
        while len(there := list(client.nthreads())) < 2:  # the nanny has started the killed one again
            assert time.monotonic() < deadline
            time.sleep(0.1)
        client.run(spoil, workers=there[:1])
        found = run_in("r", cluster=dask.scheduler_address)
        refused = [note for note in found.notes if "is refused" in note]
        assert [f"the worker {there[0]} is refused: it has numpy 1.0 (here " in note for note in refused] == [True]
        assert tables("r") == tables("alone")
        client.run(spoil, workers=there[1:])
        with pytest.raises((InputError, RunError), match=r"is refused: it has numpy 1\.0 \(here "):
            run_in("other", cluster=dask.scheduler_address)


@pytest.mark.parametrize(
    ("address", "why"), [("tcp://127.0.0.1:1", "encryption required by Dask"), ("tls://127.0.0.1:1", "no certificates")]
)
def test_a_wrong_configuration_is_one_message_and_nothing_waits_for_it_afterwards(monkeypatch, address, why):
    distributed, config = pytest.importorskip("distributed"), pytest.importorskip("dask").config
    closed = []
    monkeypatch.setattr(distributed.Client, "_close", lambda self, **given: closed.append(self))
    with config.set({"distributed.comm.require-encryption": True}), pytest.raises(InputError, match=why) as error:
        Cluster(address, print)
    error.value.__cause__ = None
    del error
    gc.collect()
    assert not closed


def certified(place):
    """A CA of our own, and what it has certified, as docs/cluster.md has them in Dask's configuration."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    new = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for command in (
        (*new, "-x509", "-subj", "/CN=ca", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"),
        (*new, "-subj", "/CN=node", "-keyout", "node.key", "-out", "node.csr"),
        ("openssl", "x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
         "-days", "2", "-out", "node.pem"),
    ):  # fmt: skip
        subprocess.run(command, cwd=place, check=True, capture_output=True)
    found = {"require-encryption": True, "tls.ca-file": str(place / "ca.pem")}
    for who in ("scheduler", "worker", "client"):
        found |= {f"tls.{who}.cert": str(place / "node.pem"), f"tls.{who}.key": str(place / "node.key")}
    return {f"distributed.comm.{key}": value for key, value in found.items()}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return certified(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def others(tmp_path):
    """Certificates of another CA, which has the same name."""
    return certified(tmp_path)


def test_a_second_cluster_on_a_machine_says_nothing_of_dasks_port(run_in):
    pytest.importorskip("distributed")
    with socket.socket() as other, warnings.catch_warnings():
        with contextlib.suppress(OSError):  # somebody has it
            other.bind(("", 8787))
            other.listen()
        warnings.filterwarnings("error", "Port 8787")
        run_in("r", cluster="local:1")


@pytest.mark.slow
def test_a_certificate_of_another_ca_and_what_is_no_tls_are_not_told_as_a_host_that_does_not_answer(
    certificates, others, monkeypatch
):
    distributed, config = pytest.importorskip("distributed"), pytest.importorskip("dask").config
    monkeypatch.setattr("sim.experiment.cluster.CONNECT_S", 10)
    at = {"n_workers": 0, "dashboard_address": None, "silence_logs": 50, "host": "127.0.0.1"}
    with (
        config.set(certificates),
        distributed.LocalCluster(**at, security=distributed.Security(), protocol="tls://") as there,
        config.set(others),
        pytest.raises(InputError, match=r"somebody answers there, with a certificate that the CA .* has not signed"),
    ):
        Cluster(there.scheduler_address, print)
    with distributed.LocalCluster(**at, protocol="tcp://") as plain, config.set(certificates):
        address = plain.scheduler_address.replace("tcp:", "tls:")
        with pytest.raises(InputError, match=r"there, but (TLS fails \(WRONG_VERSION_NUMBER\)|not with TLS)"):
            Cluster(address, print)


@pytest.mark.slow
def test_with_tls_the_bytes_are_the_same_and_without_a_certificate_it_is_refused(certificates, run_in, tables):
    distributed, config = pytest.importorskip("distributed"), pytest.importorskip("dask").config
    run_in("alone", jobs=1)
    with (
        config.set(certificates),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50, security=distributed.Security(),
            protocol="tls://", host="127.0.0.1",
        ) as cluster,
    ):  # fmt: skip
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        run_in("r", cluster=address)
        with config.set(dict.fromkeys(certificates)), pytest.raises(InputError, match="no certificates for it"):
            run_in("none", cluster=address)
    assert tables("r") == tables("alone")
