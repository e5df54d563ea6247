"""Bytes and arrays in a temporary file without a name, which are read again when they are asked for."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IN_MEMORY: Final = 1 << 18
"""Up to this many bytes there is no file."""


class Spool:
    """What is put there stays until :meth:`close`, or until nobody knows the spool any more.

    Raises OSError with the name of the folder of temporary files if that is full.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._end = 0

    def put(self, content: bytes) -> int:
        """Adds bytes; they begin at this place."""
        begin = self._end
        with _named():
            self._file.seek(begin)
            self._file.write(content)
        self._end += len(content)
        return begin

    def read(self, begin: int, size: int) -> bytes:
        """The bytes at a place."""
        with _named():
            self._file.seek(begin)
            return self._file.read(size)

    def array(self, values: NDArray[Any]) -> Callable[[], NDArray[Any]]:
        """Adds an array; what this returns reads it again, and it cannot be written to."""
        begin, size, kind, shape = self.put(values.tobytes()), values.nbytes, values.dtype, values.shape
        return lambda: np.frombuffer(self.read(begin, size), kind).reshape(shape)

    def close(self) -> None:
        """Gives the file up."""
        self._file.close()

    def __del__(self) -> None:
        self.close()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a file without a name has none to say
        raise OSError(error.errno, os.strerror(error.errno or 0), tempfile.gettempdir()) from error
