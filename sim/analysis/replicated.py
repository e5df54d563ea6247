"""Values by replication in a file: of ten thousand replications a comparison has millions.

A frame has texts in most of its columns, and what is made of it on the way takes several times as much memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.results.spool import Spool

TOGETHER: Final = 50_000
"""Values of which a frame is made at a time."""

VALUE: Final = np.dtype([("code", np.int32), ("replication", np.int32), ("value", np.float64)])

Key = tuple[Any, ...]


class Replicated:
    """Frames one after the other: columns ``keys``, "replication" and "value", in the order of the first frame.

    ``apart`` is the one of the keys by which values may be looked at separately: all that have the same there are in
    one of :meth:`frames`.  The values of a single frame stay in memory, those of several go to a file.
    """

    def __init__(self, frames: Iterable[pd.DataFrame], keys: Sequence[str], apart: str) -> None:
        self._keys, self._apart = list(keys), keys.index(apart)
        self._columns: list[str] = []
        self._known: dict[Key, int] = {}
        self._rank: list[int] = []
        self._places: dict[Any, int] = {}
        self._only: NDArray[Any] | None = None
        self._spool, self._pieces = Spool(), list[_Piece]()
        found = np.zeros(0, dtype=np.int64)
        for number, frame in enumerate(frames):
            self._columns = self._columns or list(frame.columns)
            values = self._values(frame)
            found = np.pad(found, (0, len(self._known) - len(found)))
            found += np.bincount(values["code"], minlength=len(self._known))
            if self._only is not None:
                self._put(self._only)
            self._only = values if number == 0 else None
            if number:
                self._put(values)
        self._number = found.tolist()
        self._wanted = np.ones(len(self._known), dtype=bool)

    def _values(self, frame: pd.DataFrame) -> NDArray[Any]:
        """The values of a frame, in its order; its keys are known then."""
        code = frame.groupby(self._keys, sort=False).ngroup().to_numpy()
        numbers = []
        for key in frame[self._keys].drop_duplicates().itertuples(index=False, name=None):
            numbers.append(self._known.setdefault(key, len(self._known)))
            if len(self._rank) < len(self._known):
                self._rank.append(self._places.setdefault(key[self._apart], len(self._places)))
        found = np.empty(len(frame), dtype=VALUE)
        found["code"] = np.array(numbers, dtype=np.int32)[code]
        found["replication"], found["value"] = frame["replication"].to_numpy(), frame["value"].to_numpy()
        return found

    def _put(self, values: NDArray[Any]) -> None:
        """Puts values into the file, those of a place together, and otherwise in their order."""
        rank = np.array(self._rank, dtype=np.int32)[values["code"]]
        order = np.argsort(rank, kind="stable")
        bounds = np.searchsorted(rank[order], np.arange(len(self._places) + 1))
        self._pieces.append(_Piece(self._spool.put(values[order].tobytes()), bounds.astype(np.int32)))

    def numbers(self) -> dict[Key, int]:
        """How many values each key has."""
        return {key: self._number[i] for key, i in self._known.items() if self._wanted[i]}

    def where(self, wanted: Callable[[Mapping[str, Any]], bool]) -> Replicated:
        """Those whose keys, by column, are wanted."""
        found = copy(self)
        asked = [wanted(dict(zip(self._keys, key, strict=True))) for key in self._known]
        found._wanted = self._wanted & np.array(asked, dtype=bool)
        return found

    def frame(self) -> pd.DataFrame:
        """All of them."""
        frames = list(self.frames())
        return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)

    def frames(self) -> Iterator[pd.DataFrame]:
        """Frames of some at a time, at least one; what came in one frame comes in one, and in its order."""
        if not self._pieces:
            some = np.empty(0, dtype=VALUE) if self._only is None else self._only
            yield self._frame(some[self._wanted[some["code"]]])
            return
        size, number = 0, np.zeros(len(self._places), dtype=np.int64)
        for key, n in self.numbers().items():
            number[self._places[key[self._apart]]] += n
        chosen: list[int] = []
        for place in np.flatnonzero(number).tolist():
            if chosen and size + number[place] > TOGETHER:
                yield self._frame(self._read(chosen))
                chosen, size = [], 0
            chosen.append(place)
            size += int(number[place])
        yield self._frame(self._read(chosen))

    def _read(self, places: Sequence[int]) -> NDArray[Any]:
        """The values of some places that are wanted, by place and key, and those of a key in their order."""
        found = [np.empty(0, dtype=VALUE)]
        for piece in self._pieces:
            for place in places:
                begin, end = (int(each) for each in piece.bounds[place : place + 2]) if place < piece.end else (0, 0)
                content = self._spool.read(piece.begin + begin * VALUE.itemsize, (end - begin) * VALUE.itemsize)
                some = np.frombuffer(content, dtype=VALUE)
                found.append(some[self._wanted[some["code"]]])
        values = np.concatenate(found)
        rank = np.array(self._rank, dtype=np.int32)[values["code"]]
        ordered: NDArray[Any] = values[np.lexsort((values["code"], rank))]  # of equals the first stays the first
        return ordered

    def _frame(self, values: NDArray[Any]) -> pd.DataFrame:
        texts = np.array(list(self._known), dtype=object).reshape(len(self._known), len(self._keys))
        found = {name: texts[:, i][values["code"]] for i, name in enumerate(self._keys)}
        found |= {"replication": values["replication"].astype(np.int64), "value": values["value"].copy()}
        return pd.DataFrame({name: found[name] for name in self._columns}, copy=False)


class _Piece(NamedTuple):
    """Where the values of a frame begin in the file, and which of them are of which place."""

    begin: int
    bounds: NDArray[np.int32]

    @property
    def end(self) -> int:
        """How many places it can have values of."""
        return len(self.bounds) - 1
