"""What a run shows while it is running: a bar, and sentences."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def _is_notebook() -> bool:
    """Whether this is the kernel of a notebook; that ipykernel is imported, as its tests do, does not make it one."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and bool(kernel.IPKernelApp.initialized())


@contextmanager
def every(seconds: float, what: Callable[[], None]) -> Iterator[None]:
    """Meanwhile calls ``what`` at intervals from another thread; files that cannot be written are ignored."""
    over = Event()

    def call() -> None:
        while not over.wait(seconds):
            with suppress(OSError):
                what()

    thread = Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Progress:
    """A bar of replications on standard error, where that is a terminal, and sentences there.

    Nothing is written where it is not ``shown``, or nobody reads it any more; ``notes`` has the sentences all the same.
    """

    def __init__(self, *, shown: bool) -> None:
        self.notes: list[str] = []
        self._shown = shown and sys.stderr is not None  # which it is where it was closed from the start
        self._bar: tqdm[Any] | None = None
        self._total = self._done = 0
        self._moving = Lock()

    def start(self, total: int, done: int, unit: str = "rep") -> None:
        """Opens the bar."""
        self._total, self._done = total, done
        desc = "replications" if unit == "rep" else f"{unit}s"
        about: dict[str, Any] = {"total": total, "initial": done, "unit": unit, "desc": desc}
        if self._shown and _is_notebook():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there are no widgets: then it is a bar of text
                from tqdm.auto import tqdm as tqdm_auto

                self._bar = tqdm_auto(**about)
            return
        from tqdm import tqdm

        hidden = None if self._shown else True  # None: only where standard error is a terminal
        self._bar = tqdm(**about, disable=hidden, file=sys.stderr, ncols=72)

    @property
    def total(self) -> int:
        """How many replications are wanted, as far as is known."""
        return self._total

    @total.setter
    def total(self, total: int) -> None:
        self._total = total
        if self._bar is not None:
            self._bar.total = total

    def step(self, number: int = 1) -> None:
        """So many more replications are finished."""
        with self._moving:
            self._done += number
            if self._bar is not None:
                self._bar.update(max(0, self._done - self._bar.n))

    def move(self, in_flight: float) -> None:
        """So much of others is done, too; the bar does not go back.  Any thread may say so."""
        with self._moving:
            if self._bar is not None and self._done + in_flight > self._bar.n:
                self._bar.n = min(round(self._done + in_flight, 2), self._total)
                self._bar.refresh()

    def close(self) -> None:
        """The bar stays as it is."""
        if self._bar is not None:
            self._bar.close()

    def say(self, *notes: str) -> None:
        """Sentences that a reader should see."""
        self.notes += notes
        if self._shown:
            for note in notes:
                self._write(f"fpswitch: {note}")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a pipe or a terminal that is gone, a full disk, a closed file
            if self._bar is None or self._bar.disable:
                print(text, file=sys.stderr)
            else:
                self._bar.write(text, file=sys.stderr)
