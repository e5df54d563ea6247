"""What does tasks: a pool, and how it says that it can do no more."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from sim.errors import RunError
from sim.experiment.workers import Done, Refused, Task


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

    def in_flight(self) -> float:
        """How many parts workers have done that the driver has not taken yet; 0 if that is not known."""

    def deaths(self, error: BaseException) -> int:
        """How many workers died of a task that failed so; 0 if it failed for another reason."""

    def refuse(self, why: str) -> None:
        """A worker has refused a task; raises :class:`Gone` if there is none that would do it."""

    def close(self, *, at_once: bool) -> None:
        """Ends what it began; nobody waits for tasks that are left, ``at_once`` for anything.

        Raises nothing (:func:`quietly`), but an interrupt if not ``at_once``.
        """


def quietly(*, at_once: bool) -> "suppress":
    """What goes wrong while a pool ends is no news: there is a result, or, ``at_once``, an error that says more."""
    return suppress(BaseException if at_once else Exception)


def deaths_by_dask(error: BaseException) -> int:
    """Of how many workers Dask says that they died with a task."""
    return int(getattr(error, "allowed_failures", 0)) + 1 if type(error).__name__ == "KilledWorker" else 0
