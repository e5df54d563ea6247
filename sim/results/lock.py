"""A lock on a directory that ends with the process that holds it, however that ends."""

import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sim.errors import InputError
from sim.results import files

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
SILENT_S: Final = 600
"""A driver on another host that has written nothing for so long has ended."""


class Lock:
    """An exclusive lock (flock) on a file beside ``directory``, which need not be there and may be renamed.

    Raises :class:`InputError`, which says who holds it, if it is taken; it never waits.
    """

    def __init__(self, directory: Path) -> None:
        self._path, pid = _place(directory), os.getpid()
        holder = {"pid": pid, "began": began(pid), "host": socket.gethostname(), "since": _now()}
        try:
            files.make_directory(self._path.parent)
            self._file = self._locked(directory)
        except OSError as error:
            raise InputError(f"{directory}: cannot be locked ({error.strerror})") from error
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


def began(pid: int) -> str:
    """Which boot of this host, and when in it, in clock ticks, process ``pid`` began; empty if there is none, or it has
    ended and is only waited for, or /proc does not say.

    A number is given to another process when its own has ended; with this it is that of one alone (proc_pid_stat(5):
    state and starttime; random(4): boot_id).
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return "" if state in (b"Z", b"X") else f"{BOOT_ID.read_text().strip()} {int(fields[18])}"
    except (OSError, ValueError, IndexError):
        return ""


def is_alive(pid: int, since: str, host: str, at: float) -> bool:
    """Whether a process is running that said something ``at`` this time of day, as far as can be seen from here.

    ``since`` is what :func:`began` said of it; empty in what earlier versions wrote, and where there is no /proc.
    """
    if host != socket.gethostname():
        return time.time() - at < SILENT_S
    is_hidden = False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        is_hidden = not began(pid)  # hidepid: /proc does not show processes of other users
    return is_hidden or not since or began(pid) == since


def holder(directory: Path) -> tuple[int, str] | None:
    """The process (its number, its host) that has a run in progress in a directory, as far as can be seen from here.

    The lock itself is not touched, for a run that begins in this moment would find it taken.
    """
    try:
        with _place(directory).open("rb") as file:
            found, at = json.loads(file.read(4096)), os.fstat(file.fileno()).st_mtime
        pid, host = int(found["pid"]), str(found["host"])
        return (pid, host) if is_alive(pid, str(found.get("began", "")), host, at) else None
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or one that says nothing yet
        return None


def _place(directory: Path) -> Path:
    whole = Path(os.path.abspath(directory))
    return whole.with_name(f".{whole.name}.lock")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _holder(file: int) -> str:
    """Who has the lock, in words."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return f"process {found['pid']:d} on {found['host']}, since {found['since']},"
    except (OSError, ValueError, TypeError, KeyError):  # it has the lock, and has not written yet who it is
        return "another process"
