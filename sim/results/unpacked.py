"""How many rows an Arrow IPC file has, and how large it is when its buffers are unpacked: what the file itself says, of
which nothing is unpacked.

Source: the Arrow columnar format, "Serialization and Interprocess Communication"; format/File.fbs, Message.fbs.
"""

import struct
from collections.abc import Iterator
from typing import Final

MAGIC: Final = b"ARROW1"
CONTINUATION: Final = 0xFFFFFFFF
FOOTER_DICTIONARIES: Final = 2
FOOTER_BATCHES: Final = 3
MESSAGE_HEADER: Final = 2
BATCH_LENGTH: Final = 0
BATCH_BUFFERS: Final = 2
BATCH_COMPRESSION: Final = 3
"""Numbers of fields in the tables Footer, Message and RecordBatch."""
BLOCK: Final = struct.Struct("<qi4xq")
"""Block: where a message is, how long its metadata, how long its body."""
BUFFER: Final = struct.Struct("<qq")
LENGTH: Final = struct.Struct("<q")


def size(content: bytes) -> tuple[int, int]:
    """Rows of all record batches, and bytes of all their buffers, unpacked.

    Raises ValueError or :class:`struct.error` for any other file, or one with dictionaries.
    """
    end = len(content) - len(MAGIC) - 4
    if end < 0 or not content.endswith(MAGIC):
        raise ValueError("not an Arrow file")
    footer = content[end - _number("<i", content, end) : end]
    root = _number("<I", footer, 0)
    if any(_vector(footer, root, FOOTER_DICTIONARIES, BLOCK)):
        raise ValueError("dictionaries")
    sizes = [_size_of(content, *block) for block in _vector(footer, root, FOOTER_BATCHES, BLOCK)]
    return sum(rows for rows, _ in sizes), sum(unpacked for _, unpacked in sizes)


def _size_of(content: bytes, at: int, metadata: int, body: int) -> tuple[int, int]:
    """The rows and bytes of one batch; a buffer that is packed begins with its length, -1 for one that is not after
    all.
    """
    prefix = 8 if _number("<I", content, at) == CONTINUATION else 4
    message = content[at + prefix : at + metadata]
    batch = _place(message, _number("<I", message, 0), MESSAGE_HEADER)
    if batch is None:
        raise ValueError("a batch without a header")
    batch += _number("<I", message, batch)
    length = _place(message, batch, BATCH_LENGTH)  # left out where it is 0
    rows = 0 if length is None else _number("<q", message, length)
    if rows < 0:
        raise ValueError("a negative number of rows")
    if _place(message, batch, BATCH_COMPRESSION) is None:
        return rows, body
    total = 0
    for offset, size_of_buffer in _vector(message, batch, BATCH_BUFFERS, BUFFER):
        said = LENGTH.unpack_from(content, at + metadata + offset)[0] if size_of_buffer else 0
        if said < -1:
            raise ValueError("a buffer of a negative length")
        total += said if said >= 0 else size_of_buffer
    return rows, total


def _place(table_in: bytes, table: int, field: int) -> int | None:
    """Where a field of a table is; None if it is left out."""
    vtable = table - _number("<i", table_in, table)
    if 4 + 2 * field >= _number("<H", table_in, vtable):
        return None
    offset = _number("<H", table_in, vtable + 4 + 2 * field)
    return table + offset if offset else None


def _vector(table_in: bytes, table: int, field: int, item: struct.Struct) -> Iterator[tuple[int, ...]]:
    """The structs of a field that is a vector of them."""
    place = _place(table_in, table, field)
    if place is None:
        return
    begin = place + _number("<I", table_in, place)
    for i in range(_number("<I", table_in, begin)):
        yield item.unpack_from(table_in, begin + 4 + item.size * i)


def _number(form: str, content: bytes, at: int) -> int:
    if at < 0:
        raise ValueError("a place before the beginning")
    number: int = struct.unpack_from(form, content, at)[0]
    return number
