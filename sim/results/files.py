"""Files on the disk: written whole or not at all, and there when this says so."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

_RANDOM: Final = re.compile(r"\.[a-z0-9_]{8}")
"""What :mod:`tempfile` puts behind a name."""


def write(path: Path, content: bytes) -> None:
    """Writes a file so that a reader finds the old contents or the new ones, and nothing in between.

    Raises OSError with the name of the file.
    """
    try:
        _write(path, content)
    except OSError as error:  # which names the temporary file, or none where the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_where_asked(path: Path, content: bytes) -> None:
    """The same of a file that a user names: a device or a pipe, such as /dev/null, is written to and not replaced."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
    else:
        write(path, content)


def _write(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Returns when a file's contents, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Makes a directory and those above it, if they are not there; when this returns the names of new ones are on the
    disk.
    """
    new = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in new:
        sync(each.parent)  # of others, such as /home, it need not be possible


def has_contents(directory: Path, first: str) -> bool:
    """Whether a directory has more than what a kill can leave of the writing of the file that comes first in it."""
    return any(not each.name.startswith(f".{first}.") for each in directory.iterdir())


def sha256(path: Path) -> str:
    """The hash of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_left(path: Path, but: Container[Path] = ()) -> None:
    """Removes what a kill left of the writing of a file, ``but`` not these files; anything else stays."""
    with suppress(OSError):  # its directory is not there, or read-only: nothing depends on it
        for each in list(path.parent.iterdir()):
            begins, random = each.name[: len(path.name) + 1], each.name[len(path.name) + 1 :]
            if begins == f".{path.name}" and (not random or _RANDOM.fullmatch(random)) and each not in but:
                each.unlink()


def remove(directory: Path) -> None:
    """Deletes a directory, which loses its name before anything in it is deleted. Also deletes what a kill left of an
    earlier deletion.
    """
    remove_deleted(directory)
    parent = directory.parent.resolve()
    doomed = Path(tempfile.mkdtemp(dir=parent, prefix=_deleted(directory)))
    directory.rename(doomed / directory.name)
    sync(parent)
    shutil.rmtree(doomed)


def remove_deleted(directory: Path) -> None:
    """Deletes what a kill left of an earlier deletion of this directory."""
    begins = _deleted(directory)[:-1]
    for left in list(directory.parent.resolve().iterdir()):
        ours = left.name.startswith(begins) and _RANDOM.fullmatch(left.name[len(begins) :])
        if ours and left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)


def _deleted(directory: Path) -> str:
    return f".{directory.name}.deleted."
