"""Files on the disk: written whole or not at all, and there when this says so."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import IO, Final

_RANDOM: Final = re.compile(r"\.[a-z0-9_]{8}")
"""What :mod:`tempfile` puts behind a name."""

_PROCESS: Final = re.compile(r"/proc/\d+(/task/\d+)?/fd")
_MOST_LINKS: Final = 40
"""As many as Linux follows."""


def resolved(path: str | os.PathLike[str]) -> Path:
    """A path as it was written; or where it leads, if there are links or ".." on its way: one file has one path."""
    real, written = os.path.realpath(path), Path(path)
    return written if real == os.path.abspath(path) and os.pardir not in written.parts else Path(real)


def write(path: Path, content: bytes) -> None:
    """Writes a file that a user names, as :func:`whole` does.

    Raises OSError with the name of the file.
    """
    with naming(path), whole(path) as file:
        file.write(content)


def write_kept(path: Path, content: bytes) -> None:
    """Writes a file of a directory of ours: a reader finds the old contents or the new ones, and nothing in between.

    A link there is itself replaced, for in a copy made of links it leads to the file of the original.  Raises OSError
    with the name of the file.
    """
    with naming(path), _replaced(path) as file:
        file.write(content)


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream to a file that a user names: there as a whole at the end, or not at all.

    If the path is a symlink, the file to which it leads is replaced.  A device, a pipe and what this process has open,
    such as /dev/stdout or /dev/fd/3, cannot be replaced: they are written to.  Raises OSError.
    """
    place, descriptor = _place(path)
    if descriptor is not None:
        opened: AbstractContextManager[IO[bytes]] = os.fdopen(os.dup(descriptor), "wb")
    elif _is_special(place):
        opened = place.open("wb")
    else:
        opened = _replaced(place)
    with opened as file:
        yield file


def is_stream(path: Path) -> bool:
    """Whether :func:`whole` writes to it without replacing anything; raises OSError as that does."""
    place, descriptor = _place(path)
    return descriptor is not None or _is_special(place)


def try_directory(path: Path) -> None:
    """Raises OSError if :func:`whole` could not make a file."""
    if not is_stream(path):
        place, _ = _place(path)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}."):
            pass


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error names the temporary file, or none where the disk is full."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _place(path: Path) -> tuple[Path, int | None]:
    """Where the links of a path lead, and which descriptor of this process that is, if it is one.

    The links are read one by one, because what the kernel shows for a descriptor is the file that it has open.
    """
    ours = re.compile(rf"{re.escape(os.path.realpath('/proc/self'))}(/task/\d+)?/fd")
    for _ in range(_MOST_LINKS):
        path = Path(os.path.realpath(path.parent), path.name)
        if path.name.isdecimal() and ours.fullmatch(str(path.parent)):
            return path, int(path.name)
        if not path.is_symlink() or _PROCESS.fullmatch(str(path.parent)):
            return path, None
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _is_special(path: Path) -> bool:
    """Whether it is there and is neither a regular file nor a directory; what another process has open is, too."""
    return bool(_PROCESS.fullmatch(str(path.parent))) or (path.exists() and not path.is_file() and not path.is_dir())


def _umask() -> int:
    mask = os.umask(0o077)  # there is no other way to read it; another thread's files would be private meanwhile
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Returns when a file's contents, or the names in a directory, are on the disk; OSError with its name."""
    with naming(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_directory(path: Path) -> bool:
    """Makes a directory and those above it, if they are not there; when this returns the names of new ones are on the
    disk.  Says whether it was not there.
    """
    new = list(takewhile(lambda each: not each.is_dir(), (path, *path.parents)))
    if new:
        path.mkdir(parents=True, exist_ok=True)
    for each in new:
        sync(each.parent)  # of others, such as /home, it need not be possible
    return bool(new)


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
