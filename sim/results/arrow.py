"""Arrow arrays of plain values and back, without pandas, which pa.array() and to_numpy() import: a third of a second of
CPU time in each process that packs or unpacks.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numbers(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Numbers in a row of memory, which are those of the array; ``kind`` is the type that they have."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def texts(values: Sequence[str]) -> pa.StringArray:
    """Texts."""
    encoded = [value.encode() for value in values]
    offsets = np.array([0, *accumulate(map(len, encoded))], np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def repeated(text: str, number: int) -> pa.StringArray:
    """A text so many times."""
    return pa.repeat(_one(text), number)


@lru_cache(maxsize=64)
def _one(text: str) -> pa.StringScalar:
    return texts([text])[0]


def values(array: pa.Array) -> NDArray[Any]:
    """The numbers of an array that has no empty values; they cannot be written to."""
    found: NDArray[Any] = np.from_dlpack(array)
    return found
