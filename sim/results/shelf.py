"""Finished records, packed in groups, in a temporary file that has no name: a run may have a million of them."""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Final

import pyarrow as pa

from sim.results.groups import Group
from sim.results.keys import Key, Keys, Series
from sim.results.record import Finished, Part

IN_MEMORY: Final = 1 << 18
"""Bytes up to which there is no file."""
ABSENT: Final = -1


class _Places:
    """Where the records of a series are, by replication: in which group, in which of its batches, in which row."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self.groups, self.batches, self.rows = array("i"), array("i"), array("i")

    def put(self, n: int, group: int, batch: int, row: int) -> None:
        for places, place in ((self.groups, group), (self.batches, batch), (self.rows, row)):
            if n >= len(places):
                places.extend(array("i", [ABSENT]) * (n + 1 - len(places)))
            places[n] = place

    def group(self, n: int) -> int:
        return self.groups[n] if n < len(self.groups) else ABSENT


class Shelf:
    """Records by key; what is in memory of each are 12 bytes, and groups are unpacked one by one when asked for."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self._places: dict[str, _Places] = {}
        self._begins = array("q", [0])
        self._last: tuple[int, Group] | None = None

    def add(self, group: Group) -> list[Finished]:
        """Puts the records of a group there; those that were not."""
        number, found = self.end, []
        self._file.seek(self._begins[-1])
        self._file.write(group.content)
        self._begins.append(self._begins[-1] + len(group.content))
        for of_group, batch in enumerate(group.batches()):
            places = self._places.setdefault(batch.same, _Places(batch.series))
            for row, finished in enumerate(batch.finished()):
                n = finished.replication
                if places.group(n) == ABSENT:
                    places.put(n, number, of_group, row)
                    found.append(finished)
        return found

    def _group(self, number: int) -> Group:
        if self._last is None or self._last[0] != number:
            begin, end = self._begins[number : number + 2]
            self._file.seek(begin)
            self._last = number, Group(self._file.read(end - begin))
        return self._last[1]

    def _in_group(self, key: Key) -> int:
        same, n = key
        return self._places[same].group(n) if same in self._places else ABSENT

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and self._in_group(key) != ABSENT

    @property
    def end(self) -> int:
        """What tells earlier records from those that come after this: the number of groups."""
        return len(self._begins) - 1

    def is_before(self, key: Key, end: int) -> bool:
        """Whether it was there when :attr:`end` was that."""
        return ABSENT < self._in_group(key) < end

    def tables(self, same: str, replications: int) -> Iterator[dict[str, pa.Table]]:
        """The rows of what is there of a series in each table, by replication, a few records at a time."""
        places = self._places.get(same)
        all_there = islice(zip(places.groups, places.batches, places.rows, strict=True), replications) if places else ()
        for (group, batch), some in groupby(all_there, key=itemgetter(0, 1)):
            if group == ABSENT:
                continue
            content, rows = self._group(group).batch(batch), [row for *_, row in some]
            for begin, end in _runs(rows):
                yield content.tables(begin, end)

    def beside(self, keys: Keys) -> Iterator[Part]:
        """The parts that have none of the keys."""
        for same, places in self._places.items():
            for n, group in enumerate(places.groups):
                if group != ABSENT and not keys.have((same, n)):
                    yield *places.series, n

    def groups_beside(self, keys: Keys) -> Iterator[Group]:
        """The groups in which something has none of the keys."""
        numbers = {
            group
            for same, places in self._places.items()
            for n, group in enumerate(places.groups)
            if group != ABSENT and not keys.have((same, n))
        }
        return map(self._group, sorted(numbers))

    def close(self) -> None:
        """Gives the file up."""
        self._file.close()


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows as ranges."""
    for _, run in groupby(enumerate(rows), key=lambda each: each[1] - each[0]):
        of_run = [row for _, row in run]
        yield of_run[0], of_run[-1] + 1
