"""Where tasks run: processes of this machine, or whatever a :class:`concurrent.futures.Executor` stands for."""

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, Protocol

from sim.errors import RunError
from sim.experiment.workers import Done, Refused, Task, work


class Gone(RunError):
    """A pool that can do nothing more, through no fault of a replication."""


Outcome = Done | Refused
Say = Callable[[str], None]


class Pool(Protocol):
    """Something that does tasks."""

    dashboard: str
    """The address of a page about it; empty without one."""

    def workers(self) -> int:
        """How many tasks can run at a time, at present."""

    def submit(self, task: Task) -> "Future[Outcome]":
        """Begins a task, or puts it in line."""

    def deaths(self, error: BaseException) -> int:
        """How many workers died of a task that failed so; 0 if it failed for another reason."""

    def refuse(self, why: str) -> None:
        """A worker has refused a task; raises :class:`Gone` if there is none that would do it."""

    def close(self, *, at_once: bool) -> None:
        """Ends what it began; ``at_once`` without waiting for tasks, which may take minutes."""


def pool_of(executor: Executor | None, cluster: str | None, jobs: int, say: Say) -> Pool:
    """The pool that was asked for, and otherwise ``jobs`` processes of this machine.

    Raises :class:`~sim.errors.InputError` for a cluster that cannot be used.
    """
    if cluster is not None:
        from sim.experiment.cluster import Cluster

        return Cluster(cluster, say)
    return Given(executor, jobs) if executor is not None else Processes(jobs)


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Given:
    """An executor of the caller's, who ends it; at most ``jobs`` tasks run at a time where it does not say how many."""

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

    def deaths(self, error: BaseException) -> int:
        if isinstance(error, BrokenExecutor | CancelledError):
            raise Gone(f"the executor is broken ({str(error) or type(error).__name__})") from error
        return deaths_by_dask(error)

    def refuse(self, why: str) -> None:
        raise Gone(why)

    def close(self, *, at_once: bool) -> None:
        for future in list(self._begun):
            future.cancel()


def deaths_by_dask(error: BaseException) -> int:
    """Of how many workers Dask says that they died with a task."""
    return int(getattr(error, "allowed_failures", 0)) + 1 if type(error).__name__ == "KilledWorker" else 0


class Processes:
    """Processes that end with this one; when one of them dies, all are started again."""

    dashboard = ""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._earlier = set(multiprocessing.active_children())
        self._executor: ProcessPoolExecutor | None = None

    def workers(self) -> int:
        return self._jobs

    def submit(self, task: Task) -> "Future[Outcome]":
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._jobs, mp_context=context, initializer=_start_worker)
        with _without_main(), _without_interrupts():
            try:
                return self._executor.submit(work, task)
            except BrokenExecutor as error:  # nobody has waited yet for a task that was there when it broke
                failed: Future[Outcome] = Future()
                failed.set_exception(error)
                return failed

    def deaths(self, error: BaseException) -> int:
        if not isinstance(error, BrokenExecutor):
            return 0
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None
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


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: Any) -> None:
    """A worker does not outlive a parent that was killed."""
    wait([sentinel])
    os._exit(1)
