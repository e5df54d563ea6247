"""A lock on a directory that ends with the process that holds it, however that ends."""

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from sim.errors import InputError
from sim.results import files


class Lock:
    """An exclusive lock (flock) on a file beside ``directory``, which need not be there and may be renamed.

    Raises :class:`InputError`, which says who holds it, if it is taken; it never waits.
    """

    def __init__(self, directory: Path) -> None:
        whole = Path(os.path.abspath(directory))
        self._path = whole.with_name(f".{whole.name}.lock")
        try:
            files.make_directory(self._path.parent)
            self._file = self._locked(directory)
        except OSError as error:
            raise InputError(f"{directory}: cannot be locked ({error.strerror})") from error
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(holder).encode(), 0)

    def _locked(self, directory: Path) -> int:
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(self._path) and os.path.samestat(os.fstat(file), os.stat(self._path)):
                    return file
            except BlockingIOError:
                holder = _holder(file)
                os.close(file)
                raise InputError(
                    f"{directory}: {holder} has a run in progress there (allowed: another directory, or this one when "
                    "that run has ended)"
                ) from None
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # whoever had it has just ended, and took the file along

    def release(self) -> None:
        """Ends the lock; the file goes, too."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _holder(file: int) -> str:
    """Who has the lock, in words."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return f"process {found['pid']:d} on {found['host']}, since {found['since']},"
    except (OSError, ValueError, TypeError, KeyError):  # it has the lock, and has not written yet who it is
        return "another process"
