"""Values by replication in few bytes each: of ten thousand replications a comparison has millions.

A frame has texts in most of its columns, and what is made of it on the way takes several times as much memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TOGETHER: Final = 50_000
"""Values of which a frame is made at a time."""

Key = tuple[Any, ...]


class Replicated:
    """Frames one after the other: columns ``keys``, "replication" and "value", in the order of the first frame.

    ``apart`` is the one of the keys by which values may be looked at separately: all that have the same there are in
    one of :meth:`frames`.
    """

    def __init__(self, frames: Iterable[pd.DataFrame], keys: Sequence[str], apart: str) -> None:
        self._keys, self._apart = list(keys), keys.index(apart)
        self._columns: list[str] = []
        self._known: dict[Key, int] = {}
        self._pieces: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]] = []
        for frame in frames:
            self._columns = self._columns or list(frame.columns)
            code = frame.groupby(self._keys, sort=False).ngroup().to_numpy()
            some = frame[self._keys].drop_duplicates().itertuples(index=False, name=None)
            numbers = np.array([self._known.setdefault(key, len(self._known)) for key in some], dtype=np.int32)
            replication, value = (frame[column].to_numpy() for column in ("replication", "value"))
            self._pieces.append((numbers[code], replication.astype(np.int32), value.astype(np.float64)))
        self._wanted = np.ones(len(self._known), dtype=bool)

    def numbers(self) -> dict[Key, int]:
        """How many values each key has."""
        found = sum(
            (np.bincount(code, minlength=len(self._known)) for code, *_ in self._pieces), start=np.zeros(1, int)
        )
        return {key: int(n) for (key, i), n in zip(self._known.items(), found, strict=True) if self._wanted[i]}

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
        if len(self._pieces) == 1:
            yield self._frame(self._wanted)
            return
        places: dict[Any, int] = {}
        rank = np.array([places.setdefault(key[self._apart], len(places)) for key in self._known], dtype=np.int32)
        size, number = 0, np.zeros(len(places), dtype=np.int64)
        for key, n in self.numbers().items():
            number[places[key[self._apart]]] += n
        chosen: list[int] = []
        for place in np.flatnonzero(number).tolist():
            if chosen and size + number[place] > TOGETHER:
                yield self._frame(self._wanted & np.isin(rank, chosen), rank)
                chosen, size = [], 0
            chosen.append(place)
            size += int(number[place])
        yield self._frame(self._wanted & np.isin(rank, chosen), rank)

    def _frame(self, wanted: NDArray[np.bool_], rank: NDArray[np.int32] | None = None) -> pd.DataFrame:
        """Those that are wanted, in their order, or by the rank of their key."""
        some = [[column[wanted[piece[0]]] for column in piece] for piece in self._pieces]
        code, replication, value = (np.concatenate(columns) for columns in zip(*some, strict=True))
        if rank is not None:
            order = np.lexsort((code, rank[code]))  # of equals the first stays the first
            code, replication, value = code[order], replication[order], value[order]
        texts = np.array(list(self._known), dtype=object).reshape(len(self._known), len(self._keys))
        found = {name: texts[:, i][code] for i, name in enumerate(self._keys)}
        found |= {"replication": replication.astype(np.int64), "value": value}
        return pd.DataFrame({name: found[name] for name in self._columns}, copy=False)
