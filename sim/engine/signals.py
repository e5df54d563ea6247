"""Ctrl-C while the compiled loop runs."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class PutOff:
    """Inside this context SIGINT waits until :meth:`pass_on`, which calls the handler that was installed before.

    Python runs a handler at the first instruction that it executes.  If the loop has just called back, that is before
    the callback can catch anything; ctypes would then print the KeyboardInterrupt and go on with a wrong number.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._came: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._before = signal.signal(signal.SIGINT, self._comes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self.pass_on()

    def _comes(self, number: int, frame: FrameType | None) -> None:
        self._came = number, frame

    def pass_on(self) -> None:
        """Handles the SIGINT that has come meanwhile, if any."""
        came, self._came = self._came, None
        if came is not None:
            self._before(*came)
