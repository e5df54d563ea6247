"""Whether a row is there twice, found while rows come, without keeping them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

KEY_BITS: Final = 24
"""The different rows that a record can have are numbered with this many bits."""
MOST_KEPT: Final = 1 << 16
"""Rows of one record of which it is remembered that they were there."""

Codes = NDArray[np.int64]


class Repeated:
    """Looks for a second row of a record; ``parts`` is how many records there can be.

    A run writes the rows of a record one after the other: what has to be remembered is which records there were, and
    the rows of the last one.  ``row`` is the first row that was there before, as far as that is known; ``is_known`` is
    false once a record has come in two places, or has more than :data:`MOST_KEPT` rows.
    """

    def __init__(self, parts: int) -> None:
        self.row: int | None = None
        self.is_known = True
        self._were_there = np.zeros(parts, dtype=bool)
        self._last, self._of_last = -1, np.zeros(0, dtype=np.int64)
        self._begin = 0

    def take(self, part: Codes, number: Codes) -> None:
        """The next rows: the record of each, and the number of what there is once in a record."""
        begin = self._begin
        self._begin += len(part)
        if self.row is not None or not self.is_known or not len(part):
            return
        first = part[np.append(True, part[1:] != part[:-1])]
        new = first[1:] if first[0] == self._last else first
        if self._were_there[new].any() or len(np.unique(new)) < len(new):
            self.is_known = False
            return
        self._were_there[new] = True
        earlier = self._of_last if first[0] == self._last else self._of_last[:0]
        rows = np.concatenate([earlier, part << KEY_BITS | number])
        if (row := second(rows)) is not None:
            self.row = begin + row - len(earlier)
        self._last = int(part[-1])
        self._of_last = rows[rows >> KEY_BITS == self._last]
        self.is_known = len(self._of_last) <= MOST_KEPT


def second(rows: Codes) -> int | None:
    """The first row that was there before; None if there is none."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    again = order[1:][ordered[1:] == ordered[:-1]]
    return int(again.min()) if len(again) else None
