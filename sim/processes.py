"""Processes of this machine, each with a pipe of its own, so that the death of one is seen and harms no other.

A :class:`concurrent.futures.ProcessPoolExecutor` has one pipe for all answers.  A worker that is killed while it writes
there leaves half a message, for whose end the driver waits forever; one that is killed while others are being started
may leave these to nobody.
"""

import multiprocessing
import signal
import sys
import threading
import traceback
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.resource_tracker import ensure_running
from os import _exit
from queue import LifoQueue
from typing import Any, Final, Generic, TypeVar

from sim.errors import InputError, RunError

TRIES: Final = 3
"""How often a piece of work is tried whose workers die."""

MOST_JOBS: Final = 1024

_STARTING: Final = threading.Lock()
"""Of two threads that hide ``__main__`` at the same time, one would leave it hidden."""

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Died(RunError):
    """A worker that has died of a task, or of anything else while it had one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"worker {number} has died")
        self.number = number


class NotStarted(RunError):
    """A worker that cannot be started."""


def check_jobs(jobs: int | None) -> None:
    """Raises :class:`~sim.errors.InputError` for a number of processes that nobody can want; None is one per CPU."""
    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise InputError(f"jobs {jobs} (allowed: 1 to {MOST_JOBS})")


def in_processes(
    work: Callable[[Task], Answer], tasks: Sequence[Task], jobs: int, step: Callable[[], None] = lambda: None
) -> list[Answer]:
    """What ``work`` makes of each task, in their order; ``step`` is called when one is done.

    It is done in ``jobs`` processes, or here by one.  ``work`` is a function of a module, and its answer depends on its
    task alone: when a worker dies (is killed, or has no memory left), its task is done again.  Raises what ``work``
    raises, and :class:`~sim.errors.RunError` for a task of which :data:`TRIES` workers have died.
    """
    found: dict[int, Answer] = {}
    if jobs == 1 or len(tasks) <= 1:
        for number, task in enumerate(tasks):
            found[number] = work(task)
            step()
        return list(found.values())
    workers = Workers(min(jobs, len(tasks)), work)
    waiting, flying, deaths = deque(range(len(tasks))), dict[Future[Answer], int](), Counter[int]()
    try:
        while waiting or flying:
            while waiting and len(flying) < 2 * jobs:
                number = waiting.popleft()
                flying[workers.submit(tasks[number])] = number
            for future in futures.wait(flying, return_when=futures.FIRST_COMPLETED).done:
                number = flying.pop(future)
                try:
                    found[number] = future.result()
                except Died as error:
                    deaths[number] += 1
                    if deaths[number] == TRIES:
                        raise RunError(
                            f"task {number + 1} of {len(tasks)}: {TRIES} worker processes have died of it "
                            "(killed, or out of memory, of which each has more with fewer jobs)"
                        ) from error
                    workers.start_again(error.number)
                    waiting.appendleft(number)
                else:
                    step()
    except BaseException:
        workers.close(at_once=True)
        raise
    workers.close(at_once=False)
    return [found[number] for number in range(len(tasks))]


class Workers(Generic[Task, Answer]):
    """``jobs`` processes that do ``work``, and end with this one.

    A thread for each waits for its answers.  Processes are started by the thread that submits tasks.  ``beside`` is
    called with the number of a worker in another thread of it.
    """

    def __init__(self, jobs: int, work: Callable[[Task], Answer], beside: Callable[[int], None] | None = None) -> None:
        if multiprocessing.current_process().daemon:
            raise InputError(
                f"jobs = {jobs}: a process of multiprocessing.Pool has no processes itself (allowed: jobs=1)"
            )
        self._jobs, self._work, self._beside = jobs, work, beside
        self._context = multiprocessing.get_context("spawn")
        self._threads = ThreadPoolExecutor(jobs, "fpswitch-worker")
        self._all: dict[int, _Worker] = {}
        self._idle: LifoQueue[_Worker] = LifoQueue()

    def submit(self, task: Task) -> "Future[Answer]":
        """Begins a task, or puts it in line; the future raises :class:`Died` where its worker has ended."""
        if len(self._all) < self._jobs:
            self.start_again(len(self._all))
        return self._threads.submit(self._do, task)

    def start_again(self, number: int) -> None:
        """Starts a worker in the place of one that has died; raises :class:`NotStarted`."""
        try:
            ensure_running()  # it takes SIGINT again afterwards, which nobody may while a worker is started
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs, self._work, self._beside, number), daemon=True)
            with theirs, _without_main(), _without_interrupts():
                process.start()
                self._all[number] = _Worker(number, process, ours)
                self._idle.put(self._all[number])
        except OSError as error:
            why = f"worker {number + 1} of {self._jobs} cannot be started ({error.strerror or error})"
            raise NotStarted(f"{why}: take fewer jobs, or raise the limit (ulimit -n, ulimit -u)") from error

    def close(self, *, at_once: bool) -> None:
        """Ends them; ``at_once`` also drops the tasks that are in line.  Nobody wants what is being done any more."""
        for worker in self._all.values():
            if at_once or worker.is_busy:
                worker.process.kill()  # SIGTERM would wait in one that is stopped
                self._idle.put(worker)  # nobody waits for one that has died
        self._threads.shutdown(wait=True, cancel_futures=at_once)
        for worker in self._all.values():
            worker.end()

    def _do(self, task: Task) -> Answer:
        worker = self._idle.get()
        try:
            answer = worker.ask(task)
        finally:
            if not worker.has_ended:
                self._idle.put(worker)
        if isinstance(answer, _Raised):
            raise answer.error
        return answer  # type: ignore[no-any-return]


class _Worker:
    """A process, and this end of its pipe."""

    def __init__(self, number: int, process: Any, connection: "Connection[Any, Any]") -> None:
        self._number, self.process, self._connection = number, process, connection
        self.has_ended = self.is_busy = False

    def ask(self, task: object) -> Any:
        """Its answer, or what it :class:`_Raised`; :class:`Died` where it has ended, be it in the middle of one."""
        self.is_busy = True
        try:
            self._connection.send(task)
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self.process.kill()  # it is of no use without its pipe
            self.end()
            raise Died(self._number) from error
        finally:
            self.is_busy = False

    def end(self) -> None:
        """Lets it end, which it does when nobody can send it tasks any more."""
        self.has_ended = True
        self._connection.close()
        self.process.join()


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a worker sends where its work raised."""

    error: BaseException


def _serve(
    connection: "Connection[Any, Any]",
    work: Callable[[Any], Any],
    beside: Callable[[int], None] | None,
    number: int,
) -> None:
    """Does the tasks of a parent, which interrupts and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    if beside is not None:
        threading.Thread(target=beside, args=(number,), daemon=True).start()
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            answer = work(task)
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error)))
            answer = _Raised(error)
        try:
            connection.send(answer)
        except OSError:  # nobody is there any more
            return
        except Exception as error:
            what = answer.error if isinstance(answer, _Raised) else answer
            said = f"{type(what).__name__}: {what} (cannot be sent as it is: {error})"
            connection.send(_Raised(RunError(said)))


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
