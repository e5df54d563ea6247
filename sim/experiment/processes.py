"""Worker processes of this machine, as a pool for replications."""

import multiprocessing
import time
from collections.abc import MutableSequence
from concurrent.futures import Future
from functools import partial

from sim.experiment.pool import Gone, Outcome, quietly
from sim.experiment.workers import Task, in_flight, work
from sim.processes import Died, NotStarted, Workers
from sim.results.progress import EVERY_S


class Processes:
    """``jobs`` processes that end with this one; one that dies is started again."""

    dashboard = ""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._far: MutableSequence[float] = multiprocessing.get_context("spawn").RawArray("d", jobs)
        self._workers: Workers[Task, Outcome] = Workers(jobs, work, partial(_tell, self._far))

    def workers(self) -> int:
        return self._jobs

    def submit(self, task: Task) -> "Future[Outcome]":
        try:
            return self._workers.submit(task)
        except NotStarted as error:
            raise Gone(str(error)) from error

    def in_flight(self) -> float:
        return float(sum(self._far))

    def deaths(self, error: BaseException) -> int:
        if not isinstance(error, Died):
            return 0
        self._far[error.number] = 0
        try:
            self._workers.start_again(error.number)
        except NotStarted as failed:
            raise Gone(str(failed)) from failed
        return 1

    def refuse(self, why: str) -> None:
        raise Gone(f"{why}: it has changed since this run began")

    def close(self, *, at_once: bool) -> None:
        with quietly(at_once=at_once):
            self._workers.close(at_once=at_once)


def _tell(far: MutableSequence[float], number: int) -> None:
    """Says how far this worker is."""
    while True:
        far[number] = in_flight()
        time.sleep(EVERY_S / 2)
