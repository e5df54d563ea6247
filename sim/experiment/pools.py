"""Pools: processes of this machine, any :class:`concurrent.futures.Executor`, or a cluster."""

import os
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future

from sim.errors import InputError
from sim.experiment.cluster import Cluster
from sim.experiment.pool import Gone, Outcome, Pool, Say, deaths_by_dask, quietly
from sim.experiment.processes import Processes
from sim.experiment.workers import Task, work


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
    may.

    Raises :class:`InputError` for something else.
    """

    dashboard = ""

    def __init__(self, executor: Executor, jobs: int) -> None:
        if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
            raise InputError(f"executor {executor!r} (allowed: an object with submit(), as in concurrent.futures)")
        self._executor, self._jobs = executor, jobs
        self._begun: set[Future[Outcome]] = set()

    def workers(self) -> int:
        said = getattr(self._executor, "_max_workers", None)  # which no interface promises
        return said if isinstance(said, int) and said > 0 else self._jobs

    def submit(self, task: Task) -> "Future[Outcome]":
        try:
            future = self._executor.submit(work, task)
        except Exception as error:  # broken, or shut down, or whatever others say of that
            raise Gone(f"the executor takes no tasks ({str(error) or type(error).__name__})") from error
        if not isinstance(future, Future):  # as of a Dask client, which is none; its get_executor() is one
            raise Gone(f"submit() of the executor gives {type(future).__name__}, which is no concurrent.futures.Future")
        self._begun.add(future)
        future.add_done_callback(self._begun.discard)
        return future

    def in_flight(self) -> float:
        return 0.0

    def deaths(self, error: BaseException) -> int:
        if isinstance(error, BrokenExecutor | CancelledError | OSError):  # a replication raises none of these
            raise Gone(f"the executor is broken ({str(error) or type(error).__name__})") from error
        return deaths_by_dask(error)

    def refuse(self, why: str) -> None:
        raise Gone(why)

    def close(self, *, at_once: bool) -> None:
        with quietly(at_once=at_once):
            for future in list(self._begun):
                future.cancel()
