"""Where machine code is kept: by what it was made from, in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

VARIABLE: Final = "NUMBA_CACHE_DIR"
"""numba's own: whoever sets it has chosen."""
LOCK: Final = "lock"
COMPLETE: Final = "complete"
CONSTANTS: Final = ("accounts.py", "directed_yield.py", "halt_polling.py")
"""Modules of sim.host from which constants are in machine code."""


@cache
def directory() -> Path | None:
    """A directory of its own for this source, numba, numpy, Python and CPU; None if it cannot be written."""
    given = os.environ.get(VARIABLE)
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fpswitch"
    path = base / f"engine-{_key()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError:
        writable = False
    return path if writable else None


def is_complete() -> bool:
    """Whether all machine code is there already."""
    kept = directory()
    return kept is not None and (kept / COMPLETE).exists()


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
def making() -> Iterator[None]:
    """One process at a time makes machine code; whoever waits finds it there.

    Where files cannot be locked all make it, which costs their time only, since numba replaces whole files.
    """
    kept = directory()
    if kept is None or is_complete():
        yield
        return
    with ExitStack() as stack:
        with suppress(OSError):
            flock(stack.enter_context(open(kept / LOCK, "w")), LOCK_EX)
        yield


def complete() -> None:
    """All machine code has been made, and kept."""
    kept = directory()
    if kept is not None:
        with suppress(OSError):
            (kept / COMPLETE).touch()


def clear() -> None:
    """Nothing is kept any more."""
    kept = directory()
    if kept is not None:
        for path in (kept / COMPLETE, *kept.rglob("*.nb[ci]")):
            path.unlink(missing_ok=True)


def _key() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in (*sorted(here.glob("*.py")), *(here.parent / "host" / name for name in CONSTANTS)):
        digest.update(path.read_bytes())
    loop = Path(__file__).with_name("loop.py")  # numba goes by its place and time, too
    place = (str(loop), str(loop.stat().st_mtime_ns))
    about = (*place, sys.version, version("numba"), version("llvmlite"), version("numpy"), platform.machine(), _cpu())
    digest.update("\0".join(about).encode())
    return digest.hexdigest()[:16]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
