"""Where machine code is kept: in the user's cache directory, under a hash of everything that it is made from."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from sim.release import IMPORTED_AT
from sim.results.files import sha256, sync, write

VARIABLE: Final = "NUMBA_CACHE_DIR"
"""numba's own variable: if it is set, machine code is kept there."""
LOCK: Final = "lock"
COMPLETE: Final = "complete"
"""The file that says that all is there: name, size and SHA-256 of each file."""
FILES: Final = "*.nb[ci]"
"""What numba writes: indices and code."""
KEPT: Final = 8
"""How many directories of other versions stay: those that were used last."""
YOUNG_S: Final = 3600
"""A directory that was used within this many seconds always stays: another process may be about to read it."""
CONSTANTS: Final = (
    "accounts.py", "directed_yield.py", "eevdf_groups.py", "halt_polling.py", "waiting.py", "weights.py",
)  # fmt: skip
"""Modules of sim.host whose constants are compiled in."""


@cache
def directory() -> Path | None:
    """The directory for this source, numba, numpy, Python and CPU; None if it cannot be written.

    None, too, if the source has changed since this process imported it: the name would be that of the new one.
    """
    given = os.environ.get(VARIABLE)
    try:
        if is_outdated():
            return None
        base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpswitch"
        path = base / f"engine-{_key()}"
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except (OSError, RuntimeError):  # the latter for a user without a home
        return None
    return path if writable else None


def is_complete() -> bool:
    """Whether all machine code is there and undamaged; if it is, it counts as used now."""
    kept = directory()
    found = _fault() == ""
    if found and kept is not None:
        with suppress(OSError):
            os.utime(kept / COMPLETE)
    return found


def damaged() -> str:
    """The first file that is damaged; empty if there is none, or if not everything has been compiled yet."""
    return _fault() or ""


def is_being_made() -> bool:
    """Whether another process is making it."""
    kept = directory()
    if kept is None:
        return False
    try:
        with open(kept / LOCK, "w") as file:
            flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # where nothing can be locked
        return False
    return False


@contextmanager
def making() -> Iterator[bool]:
    """Lets one process at a time compile: it gets True, and those that waited get False and find the code there.

    numba would run damaged code, and does not sync its files; so whatever is not known to be whole is deleted first.
    Where files cannot be locked, every process compiles; that only takes time, since numba replaces whole files.
    """
    kept = directory()
    if kept is None or is_complete():
        yield False
        return
    with ExitStack() as stack:
        with suppress(OSError):
            flock(stack.enter_context(open(kept / LOCK, "w")), LOCK_EX)
        missing = not is_complete()
        if missing:
            clear()
        yield missing
        if missing:
            prune(kept)


def complete() -> None:
    """Notes that everything has been compiled, unless the source has changed.  Then all is on the disk."""
    kept = directory()
    if kept is not None and not is_outdated():
        with suppress(OSError):
            files = sorted(kept.rglob(FILES))
            for path in (*files, *{path.parent for path in files}):
                sync(path)
            listed = [
                {"name": str(path.relative_to(kept)), "size": path.stat().st_size, "sha256": sha256(path)}
                for path in files
            ]
            write(kept / COMPLETE, json.dumps(listed, indent=1).encode())
            sync(kept)


def prune(used: Path) -> None:
    """Deletes what other versions have kept beside ``used``, except for what was used last.

    What another process is making, deleting, or has used within the hour is left alone.  A process that misses what
    has just been deleted compiles it again.
    """
    with suppress(OSError), ExitStack() as stack:
        place = os.open(used.parent, os.O_RDONLY)
        stack.callback(os.close, place)
        flock(place, LOCK_EX | LOCK_NB)  # one at a time: a lock's file makes its directory look used
        _prune(used)


def _prune(used: Path) -> None:
    others = [(_last_use(path), path) for path in used.parent.glob("engine-*") if path != used]
    for last, path in sorted(others, reverse=True)[KEPT:]:
        if time.time() - last < YOUNG_S:
            continue
        with suppress(OSError), open(path / LOCK, "w") as file:
            flock(file, LOCK_EX | LOCK_NB)
            path.rename(doomed := path.with_name(f".{path.name}.{os.getpid()}"))
            shutil.rmtree(doomed)
    for left in used.parent.glob(".engine-*.*"):
        shutil.rmtree(left, ignore_errors=True)


def _last_use(path: Path) -> float:
    """When a process last found a directory complete, or made it; 0 if it is gone."""
    try:
        return (path / COMPLETE).stat().st_mtime
    except OSError:
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def clear() -> None:
    """Deletes all machine code of this version."""
    kept = directory()
    if kept is not None:
        for path in (kept / COMPLETE, *kept.rglob(FILES)):
            path.unlink(missing_ok=True)


def _fault() -> str | None:
    """The first file that is damaged; empty if none is, None if not everything has been compiled yet.

    Files that are not in the list, such as numba may write later, are not a fault.
    """
    kept = directory()
    if kept is None:
        return None
    try:
        listed = json.loads((kept / COMPLETE).read_bytes())
        return next((each["name"] for each in listed if not _is_as_made(kept / each["name"], each)), "")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        return COMPLETE


def _is_as_made(path: Path, listed: dict[str, Any]) -> bool:
    try:
        return path.stat().st_size == listed["size"] and sha256(path) == listed["sha256"]
    except OSError:
        return False


def sources_changed(paths: Iterable[Path]) -> bool:
    """Whether one of these files is not, or may not be, what this process imported.

    It goes by ctime: a file that replaces another one may have an older mtime.
    """
    return any(path.stat().st_ctime > IMPORTED_AT for path in paths)


def is_outdated() -> bool:
    """Whether machine code that this process makes may not be that of the source."""
    return sources_changed(_sources())


def _sources() -> list[Path]:
    """The modules from which machine code is made."""
    here = Path(__file__).parent
    return [*sorted(here.glob("*.py")), *(here.parent / "host" / name for name in CONSTANTS)]


def _key() -> str:
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.read_bytes())
    loop = Path(__file__).with_name("loop.py")  # numba itself goes by its path and time
    place = (str(loop), str(loop.stat().st_mtime_ns))
    target = (os.environ.get("NUMBA_CPU_NAME", ""), os.environ.get("NUMBA_CPU_FEATURES", ""))
    about = (
        *place,
        *target,
        sys.version,
        version("numba"),
        version("llvmlite"),
        version("numpy"),
        platform.machine(),
        _cpu(),
    )
    digest.update("\0".join(about).encode())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
