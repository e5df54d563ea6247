"""Where machine code is kept: by what it was made from, in the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from sim.results.files import sha256, sync, write

VARIABLE: Final = "NUMBA_CACHE_DIR"
"""numba's own variable: if it is set, it decides."""
LOCK: Final = "lock"
COMPLETE: Final = "complete"
"""The mark: name, size and SHA-256 of each file."""
FILES: Final = "*.nb[ci]"
"""What numba keeps: indices and code."""
KEPT: Final = 8
"""Directories of other versions that stay, those that were used last."""
YOUNG_S: Final = 3600
"""A directory that was used within this many seconds stays in any case: another process may be about to read it."""
CONSTANTS: Final = ("accounts.py", "directed_yield.py", "halt_polling.py")
"""Modules of sim.host from which constants are in machine code."""


@cache
def directory() -> Path | None:
    """A directory of its own for this source, numba, numpy, Python and CPU; None if it cannot be written."""
    given = os.environ.get(VARIABLE)
    try:
        base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpswitch"
        path = base / f"engine-{_key()}"
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except (OSError, RuntimeError):  # the latter for a user without a home
        return None
    return path if writable else None


def is_complete() -> bool:
    """Whether all machine code is there already, and as it was made; from now on it has just been used."""
    kept = directory()
    found = _fault() == ""
    if found and kept is not None:
        with suppress(OSError):
            os.utime(kept / COMPLETE)
    return found


def damaged() -> str:
    """The first file that is not as it was made; empty if there is none, or not all have been made."""
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
    """One process at a time makes machine code, and gets True; whoever waits finds it there.

    numba would run damaged code, and does not sync its files; so what is not known to be whole is deleted first.
    Where files cannot be locked all make it, which costs their time only, since numba replaces whole files.
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
    """All machine code has been made, and kept: on the disk, when this returns."""
    kept = directory()
    if kept is not None:
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
    """Deletes what other versions have kept beside ``used``, but for what was used last.

    What another process makes, has used within the hour, or deletes, is left to it; one that looks for what has just
    gone makes it again.
    """
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
    """When a process found it complete, or made it; 0 for what has gone."""
    try:
        return (path / COMPLETE).stat().st_mtime
    except OSError:
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def clear() -> None:
    """Nothing is kept any more."""
    kept = directory()
    if kept is not None:
        for path in (kept / COMPLETE, *kept.rglob(FILES)):
            path.unlink(missing_ok=True)


def _fault() -> str | None:
    """The first file that is not as it was made; empty if all are, None if not all have been made. Files that are not
    in the list, such as numba may write later, are not a fault.
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


def _key() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in (*sorted(here.glob("*.py")), *(here.parent / "host" / name for name in CONSTANTS)):
        digest.update(path.read_bytes())
    loop = Path(__file__).with_name("loop.py")  # numba goes by its place and time, too
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
