"""Finished records, packed in groups, in a temporary file that has no name: a run may have a million of them."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sim.results.groups import Group
from sim.results.keys import Keys, Series
from sim.results.record import Finished
from sim.results.spool import Spool

ABSENT: Final = -1


class _Places:
    """Where the records of a series are, by replication: in which group, in which of its batches, in which row."""

    def __init__(self, series: Series) -> None:
        self.series = series
        self._places = np.full((3, 1), ABSENT, dtype=np.int32)

    def put(self, replications: Sequence[int], group: int, batch: int) -> list[int]:
        """Notes where a batch has what is not there yet, and gives the rows of that."""
        numbers, first = np.unique(np.array(replications, dtype=np.int64), return_index=True)
        if len(numbers) and (least := int(numbers[-1]) + 1) > (there := self._places.shape[1]):
            more = max(least, there * 5 // 4) - there
            self._places = np.pad(self._places, ((0, 0), (0, more)), constant_values=ABSENT)
        is_new = self._places[0, numbers] == ABSENT
        rows = first[is_new]
        self._places[:, numbers[is_new]] = [np.full(len(rows), group), np.full(len(rows), batch), rows]
        return sorted(rows.tolist())

    def of(self, replications: int) -> NDArray[np.int32]:
        """Groups, batches and rows of the first replications, as far as any is there."""
        return self._places[:, :replications]

    @property
    def groups(self) -> NDArray[np.int32]:
        """In which group each replication is."""
        found: NDArray[np.int32] = self._places[0]
        return found


class Shelf:
    """Records by key; what is in memory of each are 12 bytes, and groups are unpacked one by one when asked for."""

    def __init__(self) -> None:
        self._spool = Spool()
        self._places: dict[str, _Places] = {}
        self._begins = array("q", [0])
        self._last: tuple[int, Group] | None = None

    def add(self, group: Group) -> list[Finished]:
        """Puts the records of a group there; those that were not."""
        number, found = self.end, []
        self._begins.append(self._spool.put(group.content) + len(group.content))
        for of_group, summary in enumerate(group.summaries()):
            places = self._places.setdefault(summary.same, _Places(summary.series))
            some = list(summary.finished())
            found += [some[row] for row in places.put(summary.replications, number, of_group)]
        return found

    def _group(self, number: int) -> Group:
        if self._last is None or self._last[0] != number:
            begin, end = self._begins[number : number + 2]
            self._last = number, Group(self._spool.read(begin, end - begin))
        return self._last[1]

    def _groups(self, same: str, replications: int) -> NDArray[np.int32]:
        """In which group each of the first replications of a series is."""
        found = self._places[same].groups[:replications] if same in self._places else np.zeros(0, np.int32)
        return np.pad(found, (0, replications - len(found)), constant_values=ABSENT)

    def has(self, same: str, replications: int) -> NDArray[np.bool_]:
        """Which of the first replications of a series are there."""
        found: NDArray[np.bool_] = self._groups(same, replications) != ABSENT
        return found

    def number(self, keys: Keys, begin: int = 0, before: int | None = None) -> int:
        """How many parts are there from replication ``begin`` on; ``before``: were there when that was :attr:`end`."""
        end = self.end if before is None else before
        some = (self._groups(same, keys.replications)[begin:] for same in keys.series.values())
        return sum(int(np.count_nonzero((groups != ABSENT) & (groups < end))) for groups in some)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, tuple):
            return False
        same, n = key
        groups = self._places[same].groups if same in self._places else ()
        return n < len(groups) and bool(groups[n] != ABSENT)

    @property
    def end(self) -> int:
        """What tells earlier records from those that come after this: the number of groups."""
        return len(self._begins) - 1

    def tables(self, same: str, replications: int) -> Iterator[dict[str, pa.Table]]:
        """The rows of what is there of a series in each table, by replication, a few records at a time."""
        places = self._places.get(same)
        all_there = zip(*places.of(replications).tolist(), strict=True) if places else ()
        for (group, batch), some in groupby(all_there, key=itemgetter(0, 1)):
            if group == ABSENT:
                continue
            content, rows = self._group(group).batch(batch), [row for *_, row in some]
            for begin, end in _runs(rows):
                yield content.tables(begin, end)

    def beside(self, keys: Keys) -> Iterator[tuple[Series, int]]:
        """The series that have parts with none of the keys, and the last replication of these."""
        for same, places in self._places.items():
            if len(others := self._others(same, keys)):
                yield places.series, int(others[-1])

    def _others(self, same: str, keys: Keys) -> NDArray[np.intp]:
        """The replications of a series that are there, and have none of the keys."""
        there = np.flatnonzero(self._places[same].groups != ABSENT)
        return there[there >= keys.replications] if keys.have((same, 0)) else there

    def groups_beside(self, keys: Keys) -> Iterator[Group]:
        """The groups in which something has none of the keys."""
        numbers: set[int] = set()
        for same, places in self._places.items():
            numbers.update(places.groups[self._others(same, keys)].tolist())
        return map(self._group, sorted(numbers))

    def close(self) -> None:
        """Gives the file up."""
        self._spool.close()


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows as ranges."""
    for _, run in groupby(enumerate(rows), key=lambda each: each[1] - each[0]):
        of_run = [row for _, row in run]
        yield of_run[0], of_run[-1] + 1
