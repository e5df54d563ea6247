"""Bytes and arrays in a temporary file without a name, which are read again when they are asked for."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IN_MEMORY: Final = 1 << 18
"""Up to this many bytes there is no file."""

_PUTTING = Lock()
# A thread that is in the middle of put() is not there in a forked process, which would wait for it for ever.
os.register_at_fork(before=_PUTTING.acquire, after_in_parent=_PUTTING.release, after_in_child=_PUTTING.release)


class Spool:
    """What is put there stays until :meth:`close`, or until nobody knows the spool any more.

    Threads and forked processes may share one: places are read and written without a position, and a process that adds
    to the file of another makes one of its own.  A copy has its own, too.

    Raises OSError with the name of the folder of temporary files if that is full.
    """

    def __init__(self, content: bytes = b"") -> None:
        self._memory, self._end = bytearray(), 0
        self._file: FileIO | None = None
        self._owner = os.getpid()
        if content:
            self.put(content)

    def __reduce__(self) -> tuple[Any, ...]:
        return Spool, (self.read(0, self._end),)

    def put(self, content: bytes) -> int:
        """Adds bytes; they begin at this place."""
        with _PUTTING, _named():
            begin, end = self._end, self._end + len(content)
            if self._file is None and end <= IN_MEMORY:
                self._memory += content
            else:
                _write(self._own_file(), content, begin)
            self._end = end
        return begin

    def _own_file(self) -> FileIO:
        """The file, in which all is that was put there; no other process writes to it."""
        if self._file is None or self._owner != os.getpid():
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            _write(file, self.read(0, self._end), 0)
            # The file first: a thread that reads then knows the memory as it was, or the file.
            self._file, self._owner = file, os.getpid()
            self._memory = bytearray()
        return self._file

    def read(self, begin: int, size: int) -> bytes:
        """The bytes at a place."""
        memory, file = self._memory, self._file
        if file is None:
            return bytes(memory[begin : begin + size])
        found: list[bytes] = []
        with _named():
            while size:
                some = os.pread(file.fileno(), size, begin)
                if not some:
                    raise OSError(None, "a temporary file was cut off")
                found.append(some)
                begin, size = begin + len(some), size - len(some)
        return b"".join(found)

    def array(self, values: NDArray[Any]) -> "Kept":
        """Adds an array; what this returns reads it again."""
        return Kept(self, self.put(values.tobytes()), values.nbytes, values.dtype, values.shape)

    def close(self) -> None:
        """Gives the file up."""
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Kept:
    """An array in a spool: calling this reads it, and what that gives cannot be written to."""

    spool: Spool
    begin: int
    size: int
    kind: np.dtype[Any]
    shape: tuple[int, ...]

    def __call__(self) -> NDArray[Any]:
        return np.frombuffer(self.spool.read(self.begin, self.size), self.kind).reshape(self.shape)


def _write(file: FileIO, content: bytes, begin: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file.fileno(), rest, begin)
        rest, begin = rest[written:], begin + written


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a file without a name has none to say
        what = f"{error.strerror or error} (TMPDIR says where temporary files go)"
        raise OSError(error.errno, what, _folder()) from error


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "TMPDIR"
