"""One command on one input in this process, with limits, and what it did wrong.

The process does nothing else: its memory is limited, it may write only below its directory, and an audit hook
(PEP 578) notices files that are opened for writing elsewhere, commands and pickles.
"""

import contextlib
import io
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from sim.errors import MOST_SAID

HANG_S: Final = 20
"""Of CPU time, since other processes may take the CPUs."""
WAITS_S: Final = 600
"""Of time, for a command that takes no CPU time because it waits."""
MEMORY: Final = 1 << 30
"""Bytes of address space beyond what the process had when it had read the files that are damaged."""
FORBIDDEN: Final = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")
CHANGING: Final = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
PREFIX: Final = "fpswitch: "
PLACES: Final = (
    "input.", "/r", "fitted.toml", "strategy ", "perf kvm stat ", "guests.storm.cpu_model ", ", by CPUID: ",
)  # fmt: skip
"""A message says where: it contains the file, or what in two files does not fit together."""
NOTE: Final = "is of fpswitch 0.1.0, without hashes"
"""The note on such a result, which may come before the message."""
STATUSES: Final = (0, 1, 2)


Main = Callable[[list[str]], Any]


class Hang(BaseException):
    """The command took too long; not an Exception, so that no handler catches it."""


@dataclass(slots=True)
class Watch:
    """Notes what the process does outside its directory; on while an input is read."""

    place: Path
    is_on: bool = False
    seen: str = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on or self.seen:
            return
        if event in FORBIDDEN or (event in CHANGING and not self._is_inside(arguments[0])):
            self.seen = f"{event} {arguments[0]!r}"
        elif event == "open" and self._writes(arguments[2]) and not self._is_inside(arguments[0]):
            self.seen = f"opens {arguments[0]!r} for writing"

    @staticmethod
    def _writes(flags: Any) -> bool:
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def _is_inside(self, path: Any) -> bool:
        if isinstance(path, int) or os.fspath(path) in ("/dev/null", b"/dev/null"):
            return True
        return Path(os.path.abspath(os.fsdecode(path))).is_relative_to(self.place)


def limit_memory() -> None:
    """Sets the limit of this process's address space, of which libraries that are imported later would take most."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def watched(place: Path) -> Watch:
    """Watches this process, whose directory becomes ``place``."""
    os.chdir(place)
    os.environ["TMPDIR"] = str(place)
    watch = Watch(place)
    sys.addaudithook(watch)
    for hang in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(hang, _hangs)
    sys.dont_write_bytecode = True
    return watch


def _hangs(number: int, frame: FrameType | None) -> None:
    raise Hang


def judged(main: Main, command: tuple[str, ...], watch: Watch) -> tuple[str, str]:
    """What a command of the command line ``main`` did wrong (or an empty string), and its message."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = None
    watch.seen, watch.is_on = "", True
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    signal.setitimer(signal.ITIMER_REAL, WAITS_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(list(command))
    except SystemExit as stop:
        status = stop.code or 0
    except Hang:
        return f"hangs: over {HANG_S} s of CPU time, or {WAITS_S} s", ""
    except BaseException as error:
        return f"{type(error).__name__} at {_where(error)}", ""
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        watch.is_on = False
    if watch.seen:
        return watch.seen, err.getvalue()
    return next(_wrong(status, out.getvalue(), err.getvalue()), ""), err.getvalue()


def _where(error: BaseException) -> str:
    """The innermost line of this package in the traceback."""
    *_, last = (each for each in traceback.extract_tb(error.__traceback__) if "/sim/" in each.filename)
    return f"{Path(last.filename).name}:{last.lineno}"


def _wrong(status: Any, out: str, err: str) -> Iterator[str]:
    if status not in STATUSES:
        yield f"exit status {status!r}"
    for text, name in ((out, "standard output"), (err, "standard error")):
        if strange := {c for c in text if not c.isprintable() and c not in "\n\t"}:
            yield f"control characters on {name}: {min(strange)!r}"
    if any(len(line) > MOST_SAID + len(PREFIX) for line in err.splitlines()):
        yield "a message of more than 1,000 characters"
    if status == 2:
        if out:
            yield "exit status 2, and something on standard output"
        messages = [line for line in err.splitlines() if line.startswith(PREFIX) and NOTE not in line]
        if not err.startswith((PREFIX, "Usage: ")) or len(messages) != 1:
            yield f"no message, or several: {err[:60]!r}"
        if not any(place in err for place in PLACES):
            yield "a message without the place"
