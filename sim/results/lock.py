"""A lock on a directory that ends with the process that holds it, however that ends."""

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sim.errors import InputError
from sim.results import files

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
NAMESPACES: Final = ("/proc/self/ns/pid", "/proc/self/ns/time")
RUNNING: Final = "running"
KILLED: Final = "killed"
SILENT: Final = "silent"
STATES: Final = (KILLED, SILENT, RUNNING)
MOST_PID: Final = (1 << 31) - 1
SILENT_S: Final = 600
"""A driver that cannot be seen from here, as one on another host, is taken to run if it wrote something since then."""


class Lock:
    """An exclusive lock (flock) on a file beside ``directory``, which need not be there and may be renamed.

    Raises :class:`InputError`, which says who holds it, if it is taken, or why it cannot be had; it never waits.
    """

    def __init__(self, directory: Path) -> None:
        self._path, self._file, pid = _place(directory), -1, os.getpid()
        holder = {"pid": pid, "began": own(pid), "host": socket.gethostname(), "since": _now()}
        try:
            files.make_directory(self._path.parent)
            self._file = self._locked(directory)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(holder).encode(), 0)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{directory}: {self._path.parent} is no directory, or below a file") from error
        except OSError as error:
            self.release()
            raise InputError(f"{directory}: cannot be locked ({self._path}: {error.strerror})") from error

    def _locked(self, directory: Path) -> int:
        while True:
            file = self._opened(directory)
            try:
                _take(file, directory)
                if os.path.exists(self._path) and os.path.samestat(os.fstat(file), os.stat(self._path)):
                    _held[file] = self
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # whoever had it has just ended, and took the file along

    def _opened(self, directory: Path) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            with suppress(OSError), self._path.open("rb") as of_somebody_else:
                _take(of_somebody_else.fileno(), directory)
            raise

    def release(self) -> None:
        """Ends the lock; the file goes, too, unless the directory has become read-only."""
        if self._file >= 0:
            with suppress(OSError):  # the lock ends with the descriptor
                self._path.unlink(missing_ok=True)
            del _held[self._file]
            os.close(self._file)
            self._file = -1

    def leave(self) -> None:
        """Leaves it to the process that this one was forked from: a lock lasts until all have closed it (flock(2))."""
        os.close(self._file)
        self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_held: Final[dict[int, Lock]] = {}
"""By their descriptors."""


def _take(file: int, directory: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{directory}: {_holder(file)} has a run in progress there (allowed: another directory, or this one when "
            "that run has ended)"
        ) from None


def _leave_all() -> None:
    while _held:
        _held.popitem()[1].leave()


os.register_at_fork(after_in_child=_leave_all)


def here() -> str:
    """Which processes can be seen, and by which clock: the boot, the PID and the time namespace; empty if not known.

    /proc has the processes of the namespace that it was mounted from, and tells when they began by the clock of who
    reads it (random(4): boot_id; pid_namespaces(7); time_namespaces(7); before Linux 5.6 there is one time for all).
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""
        names = [os.readlink(path) for path in NAMESPACES if os.path.lexists(path)]
        return " ".join([BOOT_ID.read_text().strip(), *names])
    except OSError:
        return ""


def began(pid: int) -> str:
    """Where (:func:`here`) and when, in clock ticks, process ``pid`` began; empty if there is none, or it has ended and
    is only waited for, or /proc does not say.

    A number is given to another process when its own has ended; with this it is that of one alone (proc_pid_stat(5):
    state and starttime).
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        where = here()
        return "" if state in (b"Z", b"X") or not where else f"{where} {int(fields[18])}"
    except (OSError, ValueError, IndexError):
        return ""


own: Final = lru_cache(maxsize=1)(began)
"""The same of this process, which does not change."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A process that said something ``at`` this time of day, in seconds; it runs ``since`` then (:func:`began`)."""

    pid: int
    host: str
    since: str
    at: float

    @property
    def state(self) -> str:
        """RUNNING, KILLED, or SILENT: it cannot be seen from here whether it runs, and it has said nothing for long."""
        place = self.since.rpartition(" ")[0]
        if place and place == here():
            return RUNNING if self._is_there() else KILLED
        if self.host == socket.gethostname() and place.split(" ")[0] != here().split(" ")[0] and self.at < _booted():
            return KILLED  # in an earlier boot
        return RUNNING if self.silent_s < SILENT_S else SILENT

    @property
    def silent_s(self) -> float:
        """Seconds since it said something, by the clock of this host."""
        return time.time() - self.at

    def _is_there(self) -> bool:
        is_hidden = False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            is_hidden = not began(self.pid)  # hidepid: /proc does not show processes of other users
        return is_hidden or began(self.pid) == self.since


def holder(directory: Path) -> Driver | None:
    """The process that has, or had until it was killed, a run in progress in a directory.

    The lock itself is not touched, for a run that begins in this moment would find it taken.
    """
    try:
        with _place(directory).open("rb") as file:
            found, at = json.loads(file.read(4096)), os.fstat(file.fileno()).st_mtime
        pid = int(found["pid"])
        return Driver(pid, str(found["host"]), str(found.get("began", "")), at) if 0 < pid <= MOST_PID else None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None  # there is none, or one that says nothing yet, or nothing that can be read


def _booted() -> float:
    """The time of day, in seconds, when this host was started."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


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
