"""Processes of this machine, each with a pipe of its own, so that the death of one is seen and harms no other.

A :class:`concurrent.futures.ProcessPoolExecutor` has one pipe for all answers.  A worker that is killed while it writes
there leaves half a message, for whose end the driver waits forever; one that is killed while others are being started
may leave these to nobody.
"""

import multiprocessing
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from os import _exit
from queue import LifoQueue
from typing import Any, Final

from sim.errors import InputError, RunError
from sim.experiment.pool import Gone, Outcome
from sim.experiment.workers import Task, in_flight, work
from sim.results.progress import EVERY_S

_STARTING: Final = threading.Lock()
"""Of two threads that hide ``__main__`` at the same time, one would leave it hidden."""


class Died(RunError):
    """A worker that has died of a task, or of anything else while it had one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"worker {number} has died")
        self.number = number


class Processes:
    """``jobs`` processes that end with this one; one that dies is started again.

    A thread for each waits for its answers.  Processes are started by the thread that submits tasks.
    """

    dashboard = ""

    def __init__(self, jobs: int) -> None:
        if multiprocessing.current_process().daemon:
            raise InputError(
                f"jobs = {jobs}: a process of multiprocessing.Pool has no processes itself (allowed: jobs=1)"
            )
        self._jobs = jobs
        self._context = multiprocessing.get_context("spawn")
        self._far = self._context.RawArray("d", jobs)
        self._threads = ThreadPoolExecutor(jobs, "fpswitch-worker")
        self._all: dict[int, _Worker] = {}
        self._idle: LifoQueue[_Worker] = LifoQueue()

    def workers(self) -> int:
        return self._jobs

    def submit(self, task: Task) -> "Future[Outcome]":
        if len(self._all) < self._jobs:
            self._start(len(self._all))
        return self._threads.submit(self._do, task)

    def in_flight(self) -> float:
        return float(sum(self._far))

    def deaths(self, error: BaseException) -> int:
        if not isinstance(error, Died):
            return 0
        self._start(error.number)
        return 1

    def refuse(self, why: str) -> None:
        raise Gone(f"{why}: it has changed since this run began")

    def close(self, *, at_once: bool) -> None:
        if at_once:
            for worker in self._all.values():
                worker.process.kill()  # SIGTERM would wait in one that is stopped
                self._idle.put(worker)  # nobody waits for one that has died
        self._threads.shutdown(wait=True, cancel_futures=at_once)
        for worker in self._all.values():
            worker.end()

    def _start(self, number: int) -> None:
        try:
            ours, theirs = self._context.Pipe()
            self._far[number] = 0
            process = self._context.Process(target=_serve, args=(theirs, self._far, number), daemon=True)
            with theirs, _without_main(), _without_interrupts():
                process.start()
                self._all[number] = _Worker(number, process, ours)
                self._idle.put(self._all[number])
        except OSError as error:
            why = f"worker {number + 1} of {self._jobs} cannot be started ({error.strerror or error})"
            raise Gone(f"{why}: take fewer jobs, or raise the limit (ulimit -n, ulimit -u)") from error

    def _do(self, task: Task) -> Outcome:
        worker = self._idle.get()
        try:
            answer = worker.ask(task)
        finally:
            if not worker.has_ended:
                self._idle.put(worker)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class _Worker:
    """A process, and this end of its pipe."""

    def __init__(self, number: int, process: Any, connection: "Connection[Any, Any]") -> None:
        self._number, self.process, self._connection = number, process, connection
        self.has_ended = False

    def ask(self, task: Task) -> Outcome | BaseException:
        """What it answers, or what it raised; :class:`Died` where it has ended, be it in the middle of an answer."""
        try:
            self._connection.send(task)
            answer: Outcome | BaseException = self._connection.recv()
        except (EOFError, OSError) as error:
            self.process.kill()  # it is of no use without its pipe
            self.end()
            raise Died(self._number) from error
        return answer

    def end(self) -> None:
        """Lets it end, which it does when nobody can send it tasks any more."""
        self.has_ended = True
        self._connection.close()
        self.process.join()


def _serve(connection: "Connection[Any, Any]", far: Any, number: int) -> None:
    """Does the tasks of a parent, which interrupts and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_tell, args=(far, number), daemon=True).start()
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            answer: Outcome | BaseException = work(task)
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error)))
            answer = error
        try:
            connection.send(answer)
        except OSError:  # nobody is there any more
            return
        except Exception as error:
            connection.send(RunError(f"{type(answer).__name__}: {answer} (cannot be sent as it is: {error})"))


def _tell(far: Any, number: int) -> None:
    """Says how far this worker is."""
    while True:
        far[number] = in_flight()
        time.sleep(EVERY_S / 2)


def _end_with(sentinel: Any) -> None:
    """A worker does not outlive a parent that was killed."""
    wait([sentinel])
    _exit(1)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides ``__main__`` from the processes that are started meanwhile.

    They need nothing of it, and would run a script again that calls :func:`run` without a guard.
    """
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile get no Ctrl-C before they can ignore it; it waits for this process.

    They inherit the mask.  Here it is not enough: any other thread takes the signal, and the main thread handles it.
    """
    held: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    if handler is not None:
        signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)
