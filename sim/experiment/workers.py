"""Where replications run: in this process, or in a pool of processes that end with it.

A replication is a pure function of its arguments, so that neither the number of jobs nor the order in which they end
can be seen in the results.
"""

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import chain
from multiprocessing.connection import wait
from typing import Any

from sim.errors import InputError, RunError
from sim.results.record import Record
from sim.scenario.cases import Case

Simulate = Callable[[Case, str, Sequence[str], int], list[Record]]
"""Runs one replication of a case, timed by one strategy and walked by others (:func:`sim.host.simulation.simulate`)."""

Work = tuple[str, str, tuple[str, ...], int]
"""Arguments of :data:`Simulate`, with the name of the case."""


def records(
    cases: Sequence[Case], works: Iterable[Sequence[Work]], jobs: int, simulate: Simulate | None
) -> Iterator[list[Record]]:
    """The records of each of ``works``, in any order; those of the next come when all before have been given."""
    if jobs <= 1:
        model = simulate or _model()
        by_name = {case.name: case for case in cases}
        for case, timed_by, strategies, replication in chain.from_iterable(works):
            yield _replicate(model, by_name[case], timed_by, strategies, replication)
        return
    earlier = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(cases, simulate)
    )
    try:
        for some in works:
            with _without_main(), _without_interrupts():
                futures: list[Future[list[Record]]] = [executor.submit(_replicate_work, work) for work in some]
            for future in as_completed(futures):
                yield future.result()
    except BaseException:
        # Nobody waits for what is running: a replication may take minutes.
        executor.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - earlier:
            process.terminate()
        raise
    executor.shutdown()


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _model() -> Simulate:
    from sim.host.simulation import simulate

    model: Simulate = simulate
    return model


def _replicate(model: Simulate, case: Case, timed_by: str, strategies: Sequence[str], replication: int) -> list[Record]:
    try:
        return model(case, timed_by, strategies, replication)
    except InputError:
        raise
    except Exception as error:
        where = f"case {case.name}, timed by {timed_by}, replication {replication}"
        raise RunError(f"{where}: {type(error).__name__}: {error}") from error


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


_worker: dict[str, Any] = {}
"""What a worker process was started with."""


def _start_worker(cases: Sequence[Case], simulate: Simulate | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _worker["cases"] = {case.name: case for case in cases}
    _worker["model"] = simulate or _model()


def _end_with(sentinel: int) -> None:
    """A worker does not outlive a parent that was killed."""
    wait([sentinel])
    os._exit(1)


def _replicate_work(work: Work) -> list[Record]:
    case, timed_by, strategies, replication = work
    return _replicate(_worker["model"], _worker["cases"][case], timed_by, strategies, replication)
