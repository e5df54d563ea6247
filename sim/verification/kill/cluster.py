"""What happens to a Dask cluster, with real processes: each run ends, or is continued, with the same bytes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sim.results import load, parts
from sim.results.columns import SCHEMAS
from sim.verification.kill.victim import killed

SEED: Final = 1
CUT: Final = "network of a worker cut"
REPLICATIONS: Final = 60
"""Some ten seconds of work, so that something can happen in the middle."""
TIMEOUT_S: Final = 180
"""The longest that a run may take to its end."""
STALLED_S: Final = 60
"""The longest in which nothing that is waited for moves, on a machine that is shared."""
TTL_S: Final = 5
NAMESPACE: Final = "fpswitch-kill"
HOST_SIDE, WORKER_SIDE = "10.213.7.1", "10.213.7.2"
SETTINGS: Final = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{TTL_S}s",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
    "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical",
}


@dataclass(slots=True)
class Event:
    """Something that happened to a cluster, how the run ended, and what was wrong with the result."""

    name: str
    how: str = ""
    problems: list[str] = field(default_factory=list)


def events(place: Path, names: Collection[str] | None = None) -> Iterator[Event]:
    """Lets each of :data:`EVENTS`, or those in ``names``, happen once, below the empty directory ``place``."""
    killed(SEED, str(place / "alone"), "1", REPLICATIONS)
    truth = _bytes(place / "alone")
    for name, happens in EVENTS.items():
        if names is not None and name not in names:
            continue
        event = Event(name)
        if name == CUT and not can_cut():
            event.how = "left out: needs root and ip(8)"
            yield event
            continue
        began = time.monotonic()
        out = place / name.replace(" ", "-")
        try:
            event.how = happens(out)
            load(out)
            event.problems = [f"{table} has other bytes" for table, each in _bytes(out).items() if each != truth[table]]
        except Exception as error:  # whatever it is, go on to the next event
            event.problems = [f"{type(error).__name__}: {error}"]
        event.how += f", {time.monotonic() - began:.0f} s"
        yield event


def _bytes(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.parquet").read_bytes() for name in SCHEMAS}


def can_cut() -> bool:
    """Whether the network of a worker can be cut here."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextmanager
def _process(*arguments: str, prefix: tuple[str, ...] = ()) -> Iterator["subprocess.Popen[bytes]"]:
    """A process and all that it starts, until the end of the block."""
    process = subprocess.Popen(
        [*prefix, sys.executable, *arguments],
        env={**os.environ, **SETTINGS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _scheduler(
    stack: ExitStack, host: str = "127.0.0.1", port: int | None = None
) -> "tuple[str, subprocess.Popen[bytes]]":
    port = port or _free_port()
    process = stack.enter_context(
        _process("-m", "distributed.cli.dask_scheduler", "--host", host, "--port", str(port), "--no-dashboard")
    )
    _until(lambda: _answers(host, port), "the scheduler")
    return f"tcp://{host}:{port}", process


def _answers(host: str, port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex((host, port)) == 0


def _worker(
    stack: ExitStack, address: str, *options: str, nanny: str = "--no-nanny", prefix: tuple[str, ...] = ()
) -> "subprocess.Popen[bytes]":
    """A worker with one thread, without a nanny, so that it is not restarted."""
    command = ("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", nanny, "--no-dashboard")
    return stack.enter_context(_process(*command, *options, prefix=prefix))


def _driver(stack: ExitStack, out: Path, address: str) -> "subprocess.Popen[bytes]":
    module = "sim.verification.kill.victim"
    return stack.enter_context(_process("-m", module, str(SEED), str(out), address, str(REPLICATIONS)))


def _until(
    holds: Callable[[], bool], what: str, timeout_s: float = STALLED_S, moves: Callable[[], int] = lambda: 0
) -> None:
    """Waits until something holds; TimeoutError if it does not, and nothing moves, for ``timeout_s``."""
    seen, deadline = moves(), time.monotonic() + timeout_s
    while not holds():
        if (now := moves()) != seen:
            seen, deadline = now, time.monotonic() + timeout_s
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come")
        time.sleep(0.05)


def _parts(out: Path) -> int:
    return len(set(parts.keys_kept(out)))


def _in_the_middle(out: Path) -> None:
    _until(lambda: _parts(out) >= REPLICATIONS // 2, "the middle", moves=lambda: _parts(out))


def _ended(driver: "subprocess.Popen[bytes]") -> str:
    status = driver.wait(TIMEOUT_S)
    if status:
        raise RuntimeError(f"the driver ended with status {status}")
    return "the run ended well"


def _continued(out: Path) -> str:
    before = _parts(out)
    killed(SEED, str(out), "1", REPLICATIONS)
    return f"continued from {before} parts"


def _worker_killed(out: Path) -> str:
    with ExitStack() as stack:
        address, _ = _scheduler(stack)
        doomed, _ = _worker(stack, address), _worker(stack, address)
        driver = _driver(stack, out, address)
        _in_the_middle(out)
        doomed.kill()
        return _ended(driver)


def _all_workers_killed_and_another_joins(out: Path) -> str:
    with ExitStack() as stack:
        address, _ = _scheduler(stack)
        doomed = [_worker(stack, address) for _ in range(2)]
        driver = _driver(stack, out, address)
        _in_the_middle(out)
        for worker in doomed:
            worker.kill()
        time.sleep(2)
        _worker(stack, address)
        return _ended(driver)


@contextmanager
def _with_one_worker(
    out: Path, nanny: str = "--no-nanny"
) -> "Iterator[tuple[ExitStack, str, subprocess.Popen[bytes], subprocess.Popen[bytes]]]":
    """A run in its middle: the stack that ends its processes, the scheduler's address, the scheduler and the driver."""
    with ExitStack() as stack:
        address, scheduler = _scheduler(stack)
        _worker(stack, address, nanny=nanny)
        driver = _driver(stack, out, address)
        _in_the_middle(out)
        yield stack, address, scheduler, driver


def _scheduler_killed(out: Path) -> str:
    with _with_one_worker(out) as (_, _, scheduler, driver):
        scheduler.kill()
        if (status := driver.wait(60)) != 1:
            raise RuntimeError(f"the driver ended with status {status}")
    return _continued(out)


def _scheduler_killed_and_another_starts(out: Path) -> str:
    with _with_one_worker(out) as (stack, address, scheduler, driver):
        scheduler.kill()
        time.sleep(1)
        _scheduler(stack, port=int(address.rpartition(":")[2]))
        _worker(stack, address)
        return _ended(driver)


def _scheduler_stopped(out: Path) -> str:
    """Until it takes all workers for dead, whose nannies start others."""
    with _with_one_worker(out, nanny="--nanny") as (_, _, scheduler, driver):
        scheduler.send_signal(signal.SIGSTOP)
        time.sleep(2 * TTL_S)
        scheduler.send_signal(signal.SIGCONT)
        return _ended(driver)


def _driver_killed(out: Path) -> str:
    with _with_one_worker(out) as (stack, address, _, driver):
        driver.kill()
        driver.wait()
        before = _parts(out)
        _ended(_driver(stack, out, address))
    return f"continued on the same cluster from {before} parts"


def _driver_of_a_local_cluster_killed(out: Path) -> str:
    with ExitStack() as stack:
        driver = _driver(stack, out, "local:2")
        _in_the_middle(out)
        driver.kill()
        driver.wait()
        _until(lambda: not _group_is_there(driver.pid), "the end of its workers", 30)
    return f"its workers ended; {_continued(out)}"


def _group_is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _network_of_a_worker_cut(out: Path) -> str:
    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    with ExitStack() as stack:
        ip("netns", "add", NAMESPACE)
        stack.callback(subprocess.run, ["ip", "netns", "delete", NAMESPACE], check=False, capture_output=True)
        ip("link", "add", "fpskill0", "type", "veth", "peer", "name", "fpskill1", "netns", NAMESPACE)
        ip("addr", "add", f"{HOST_SIDE}/30", "dev", "fpskill0")
        ip("link", "set", "fpskill0", "up")
        for words in (("addr", "add", f"{WORKER_SIDE}/30", "dev", "fpskill1"), ("link", "set", "fpskill1", "up")):
            ip("-n", NAMESPACE, *words)
        ip("-n", NAMESPACE, "link", "set", "lo", "up")
        address, _ = _scheduler(stack, HOST_SIDE)
        _worker(stack, address, "--host", WORKER_SIDE, prefix=("ip", "netns", "exec", NAMESPACE))
        _worker(stack, address, "--host", HOST_SIDE)
        driver = _driver(stack, out, address)
        _in_the_middle(out)
        ip("link", "set", "fpskill0", "down")  # the address stays, for the other worker and the driver
        return _ended(driver)


def _slow_worker(out: Path) -> str:
    with ExitStack() as stack:
        address, _ = _scheduler(stack)
        slow, _ = _worker(stack, address), _worker(stack, address)
        stop = threading.Event()

        def hold() -> None:
            while not stop.is_set():
                slow.send_signal(signal.SIGSTOP)
                stop.wait(0.9)
                slow.send_signal(signal.SIGCONT)
                stop.wait(0.1)

        holder = threading.Thread(target=hold)
        holder.start()
        stack.callback(holder.join)
        stack.callback(stop.set)
        return _ended(_driver(stack, out, address))


def _late_worker(out: Path) -> str:
    with ExitStack() as stack:
        address, _ = _scheduler(stack)
        driver = _driver(stack, out, address)
        time.sleep(3)
        _worker(stack, address)
        _in_the_middle(out)
        _worker(stack, address)
        return _ended(driver)


EVENTS: Final[dict[str, Callable[[Path], str]]] = {
    "worker killed": _worker_killed,
    "all workers killed, another joins": _all_workers_killed_and_another_joins,
    "scheduler killed": _scheduler_killed,
    "scheduler killed, another starts": _scheduler_killed_and_another_starts,
    "scheduler stopped": _scheduler_stopped,
    "driver killed": _driver_killed,
    "driver of a local cluster killed": _driver_of_a_local_cluster_killed,
    CUT: _network_of_a_worker_cut,
    "slow worker": _slow_worker,
    "no worker at first, and a late one": _late_worker,
}
