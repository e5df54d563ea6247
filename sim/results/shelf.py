"""Finished records, packed, in a temporary file that has no name: a run may have a hundred thousand of them."""

import pickle
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from typing import Final

from sim.results.keys import KEY, split
from sim.results.record import Record

IN_MEMORY: Final = 1 << 18
"""Bytes up to which there is no file."""
ABSENT: Final = -1


class Shelf(Mapping[str, Record]):
    """Records by key; what is in memory of each are 16 bytes, and they are unpacked one by one when asked for."""

    def __init__(self, records: Mapping[str, Record] | None = None) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._places: dict[str, tuple[array[int], array[int]]] = {}
        self._end, self._number = 0, 0
        for key, record in (records or {}).items():
            self[key] = record

    def __setitem__(self, key: str, record: Record) -> None:
        packed = zlib.compress(pickle.dumps(record), 1)
        same, n = split(key)
        begins, lengths = self._places.setdefault(same, (array("q"), array("q")))
        if n >= len(begins):
            more = array("q", [ABSENT]) * (n + 1 - len(begins))
            begins.extend(more)
            lengths.extend(more)
        self._number += begins[n] == ABSENT
        self._file.seek(self._end)
        self._file.write(packed)
        begins[n], lengths[n] = self._end, len(packed)
        self._end += len(packed)

    def _place(self, key: str) -> tuple[int, int]:
        same, n = split(key)
        begins, lengths = self._places.get(same, ((), ()))
        return (begins[n], lengths[n]) if n < len(begins) else (ABSENT, ABSENT)

    def __getitem__(self, key: str) -> Record:
        begin, length = self._place(key)
        if begin == ABSENT:
            raise KeyError(key)
        self._file.seek(begin)
        record: Record = pickle.loads(zlib.decompress(self._file.read(length)))
        return record

    @property
    def end(self) -> int:
        """What tells earlier records from those that come after this."""
        return self._end

    def is_before(self, key: str, end: int) -> bool:
        """Whether it was there when :attr:`end` was that."""
        return ABSENT < self._place(key)[0] < end

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(KEY.fullmatch(key)) and self._place(key)[0] != ABSENT

    def __iter__(self) -> Iterator[str]:
        for same, (begins, _) in self._places.items():
            for n, begin in enumerate(begins):
                if begin != ABSENT:
                    yield f"{same}-{n}"

    def __len__(self) -> int:
        return self._number

    def close(self) -> None:
        """Gives the file up."""
        self._file.close()
