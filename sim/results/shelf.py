"""Records in memory, packed: a run may have a hundred thousand of them."""

import pickle
import zlib
from collections.abc import Iterator, Mapping

from sim.results.record import Record


class Shelf(Mapping[str, Record]):
    """Records by key, of which each takes about a kilobyte; they are unpacked one by one when they are asked for."""

    def __init__(self, records: Mapping[str, Record] | None = None) -> None:
        self._packed: dict[str, bytes] = {}
        for key, record in (records or {}).items():
            self[key] = record

    def __setitem__(self, key: str, record: Record) -> None:
        self._packed[key] = zlib.compress(pickle.dumps(record), 1)

    def __getitem__(self, key: str) -> Record:
        record: Record = pickle.loads(zlib.decompress(self._packed[key]))
        return record

    def __contains__(self, key: object) -> bool:
        return key in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)
