"""Pools: processes of this machine, any :class:`concurrent.futures.Executor`, or a cluster."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from sim.experiment.cluster import Cluster
from sim.experiment.pool import Gone, Outcome, Pool, Say, deaths_by_dask
from sim.experiment.workers import Task, in_flight, work
from sim.results.progress import EVERY_S


def pool_of(executor: Executor | None, cluster: str | None, jobs: int, say: Say) -> Pool:
    """The pool that was asked for, and otherwise ``jobs`` processes of this machine.

    Raises :class:`~sim.errors.InputError` for a cluster that cannot be used.
    """
    if cluster is not None:
        return Cluster(cluster, say)
    return Given(executor, jobs) if executor is not None else Processes(jobs)


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Given:
    """An executor of the caller, who shuts it down; at most ``jobs`` tasks run at a time if it does not say how many
    may."""

    dashboard = ""

    def __init__(self, executor: Executor, jobs: int) -> None:
        self._executor, self._jobs = executor, jobs
        self._begun: set[Future[Outcome]] = set()

    def workers(self) -> int:
        return int(getattr(self._executor, "_max_workers", None) or self._jobs)

    def submit(self, task: Task) -> "Future[Outcome]":
        try:
            future = self._executor.submit(work, task)
        except RuntimeError as error:  # broken, or shut down
            raise Gone(f"the executor takes no tasks ({error})") from error
        self._begun.add(future)
        future.add_done_callback(self._begun.discard)
        return future

    def in_flight(self) -> float:
        return 0.0

    def deaths(self, error: BaseException) -> int:
        if isinstance(error, BrokenExecutor | CancelledError):
            raise Gone(f"the executor is broken ({str(error) or type(error).__name__})") from error
        return deaths_by_dask(error)

    def refuse(self, why: str) -> None:
        raise Gone(why)

    def close(self, *, at_once: bool) -> None:
        for future in list(self._begun):
            future.cancel()


class Processes:
    """Processes that end with this one; when one of them dies, all are started again."""

    dashboard = ""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._earlier = set(multiprocessing.active_children())
        self._executor: ProcessPoolExecutor | None = None
        self._far: Any = ()

    def workers(self) -> int:
        return self._jobs

    def submit(self, task: Task) -> "Future[Outcome]":
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._far = context.RawArray("d", self._jobs)
            self._executor = ProcessPoolExecutor(self._jobs, context, _start_worker, (self._far, context.Value("i", 0)))
        with _without_main(), _without_interrupts():
            try:
                return self._executor.submit(work, task)
            except BrokenExecutor as error:  # nobody has waited yet for a task that was there when it broke
                failed: Future[Outcome] = Future()
                failed.set_exception(error)
                return failed

    def in_flight(self) -> float:
        return float(sum(self._far))

    def deaths(self, error: BaseException) -> int:
        if not isinstance(error, BrokenExecutor):
            return 0
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor, self._far = None, ()
        return 1

    def refuse(self, why: str) -> None:
        raise Gone(f"{why}: it has changed since this run began")

    def close(self, *, at_once: bool) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=not at_once, cancel_futures=at_once)
        if at_once:
            for process in set(multiprocessing.active_children()) - self._earlier:
                process.terminate()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides ``__main__`` from the processes that are started meanwhile.

    They need nothing of it, and would run a script again that calls :func:`run` without a guard.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile get no Ctrl-C before they can ignore it; it waits for this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(far: Any, started: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    with started.get_lock():
        number = started.value
        started.value += 1
    threading.Thread(target=_tell, args=(far, number), daemon=True).start()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _tell(far: Any, number: int) -> None:
    """Says how far this worker is."""
    while True:
        far[number] = in_flight()
        time.sleep(EVERY_S / 2)


def _end_with(sentinel: Any) -> None:
    """A worker does not outlive a parent that was killed."""
    wait([sentinel])
    os._exit(1)
