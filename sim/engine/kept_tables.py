"""Tables beside the machine code on the disk: what has been asked of a kernel model once need not be asked again.

A file is of one kernel with one strategy, found by a hash of all that decides an answer: the sources and data of
sim.kernel and sim.xsave, those of this package, and the configuration.  It begins with how many rows it has and the
SHA-256 of the rest; a damaged file is not read.  The rest is one or more pieces: each has what was asked
since the one before, so a process packs everything once.  A piece is a pickle, as numba's own files are: whoever can
write to the user's cache directory runs code as the user.  Files are replaced whole, and those that have not been used
for longest are deleted when there are too many.  Others may use the directory, too (NUMBA_CACHE_DIR), so only files
with this module's suffix are ever deleted.

A process whose sources have changed since it imported them neither keeps nor finds anything: the hash would be of the
new ones.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from sim.engine import cache as machine_code
from sim.kernel.config import Config

FOLDER: Final = "tables"
SUFFIX: Final = ".table"
MOST_BYTES: Final = 64 << 20
"""What all files together may take: a strategy of a shipped scenario takes 50 to 200 kB."""
FORMAT: Final = b"fpswitch-table"
LEVEL: Final = 1
"""zlib's level: rows are mostly zeroes."""


def directory() -> Path | None:
    """Where tables are kept; None if nothing can be written there."""
    kept = machine_code.directory()
    if kept is None:
        return None
    path = kept.parent / FOLDER
    try:
        path.mkdir(exist_ok=True)
    except OSError:
        return None
    return path


def name_of(config: Config, *, integrity: bool) -> str | None:
    """The name of the file of a kernel model; None if the code in memory is not that of the sources."""
    if _sources() is None:
        return None
    return hashlib.sha256(repr((_sources(), _plain(config), integrity)).encode()).hexdigest()[:32]


def read(name: str | None) -> list[dict[str, Any]]:
    """What has been kept under this name, piece by piece; nothing if there is none.  A damaged file is deleted."""
    folder = directory()
    if folder is None or name is None:
        return []
    path = folder / f"{name}{SUFFIX}"
    try:
        head, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest() == _read_head(head)[1]:
            os.utime(path)
            return list(_unpacked(content))
    except OSError:
        return []
    except ValueError:
        pass
    with suppress(OSError):
        path.unlink()
    return []


def packed(values: dict[str, Any]) -> bytes:
    """A piece of a table as it is on the disk; another one may follow it."""
    return zlib.compress(pickle.dumps(values, pickle.HIGHEST_PROTOCOL), LEVEL)


def _unpacked(content: bytes) -> Iterator[dict[str, Any]]:
    while content:
        piece = zlib.decompressobj()
        yield pickle.loads(piece.decompress(content))
        content = piece.unused_data


def write(name: str | None, rows: int, content: bytes) -> None:
    """Keeps a table, which is one or more pieces, unless another process has kept one with as many rows.

    Errors of the file system are ignored.
    """
    folder = directory()
    if folder is None or name is None:
        return
    with suppress(OSError):
        path = folder / f"{name}{SUFFIX}"
        with suppress(FileNotFoundError, ValueError), path.open("rb") as file:
            if _read_head(file.readline().rstrip())[0] >= rows:
                return
        head = b"%s %d %s\n" % (FORMAT, rows, hashlib.sha256(content).hexdigest().encode())
        _replace(path, head + content)
        _prune(folder)


def _read_head(head: bytes) -> tuple[int, str]:
    what, rows, digest = head.split(b" ")
    if what != FORMAT:
        raise ValueError(head)
    return int(rows), digest.decode()


def _replace(path: Path, content: bytes) -> None:
    """Not synced to the disk: after a power failure the file may be damaged, which costs time only."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _prune(folder: Path) -> None:
    """Deletes the files that have not been used for longest, and what a killed process left half-written."""
    files = sorted(((path.stat(), path) for path in folder.glob(f"*{SUFFIX}")), key=lambda each: -each[0].st_mtime_ns)
    total = 0
    for of, path in files:
        total += of.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)


@cache
def _sources() -> str | None:
    """The hash of all files that decide an answer; None if one has changed since the first was imported."""
    digest = hashlib.sha256(f"{sys.version} {np.__version__}".encode())  # unpickling needs the same numpy
    here = Path(__file__).parent
    for folder in (here, here.parent / "kernel", here.parent / "xsave"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = path.read_bytes()
                if machine_code.sources_changed([path]):
                    return None
                digest.update(f"{path.relative_to(here.parent)} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A value whose repr is the same in each process: fields by name, and sets in order."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, [(each.name, _plain(getattr(value, each.name))) for each in fields(value)]
    if isinstance(value, Mapping):
        return [(_plain(key), _plain(each)) for key, each in value.items()]
    if isinstance(value, (frozenset, set)):
        return sorted(repr(_plain(each)) for each in value)
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a configuration with a {type(value).__name__}")
