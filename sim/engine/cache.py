"""Where machine code is kept: by what it was made from, in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

VARIABLE: Final = "NUMBA_CACHE_DIR"
"""numba's own: whoever sets it has chosen."""


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


def _key() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
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
