"""Random numbers for the loop: the streams of sim.host, drawn in blocks that it reads by address."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.engine import layout as at
from sim.engine.table import zeros
from sim.host.streams import Draws, Instants

Integers = NDArray[np.int64]

LEAST_BLOCK, LARGEST_BLOCK = 256, 4096
"""The fewest and the most numbers that are drawn when the loop asks for more: asking takes longer than drawing them."""
MANY, ROOM = 2048, 520
"""From MANY streams on, each has room for ROOM numbers in one array, for which the system can use large pages.  On
small ones almost every block misses the TLB.  It is an odd number of cache lines (sim.engine.layout.whole_lines)."""


def address(array: Integers) -> int:
    """The address of an array's first number; the loop expects the others to follow it."""
    assert array.flags.c_contiguous
    where: int = array.__array_interface__["data"][0]
    return where


class Streams:
    """The streams of the host by number.  Their blocks are kept alive here; the loop reads them by address."""

    def __init__(self) -> None:
        self.sources: list[Draws | Instants] = []
        self.blocks: list[Integers] = []
        self._sizes: list[int] = []
        self._places: Integers | None = None
        self._first = 0

    def add(self, source: Draws | Instants | None) -> int:
        """Adds a stream from which nobody else draws; returns what the loop draws from, or -1 for None."""
        if source is None:
            return -1
        if isinstance(source, Draws) and source.constant is not None:
            return at.CONSTANT + source.constant
        self.sources.append(source)
        self.blocks.append(source.ahead().astype(np.int64))
        self._sizes.append(LEAST_BLOCK)
        return len(self.sources) - 1

    def table(self) -> Integers:
        """The loop's row for each stream, once all have been added."""
        table = zeros(max(len(self.sources), 1), at.D_COLUMNS)
        for i, block in enumerate(self.blocks):
            self._put(table[i], block)
        if len(self.sources) >= MANY:
            self._places = np.empty((len(self.sources), ROOM), np.int64)
            self._first = address(self._places)
        return table

    @staticmethod
    def _put(row: Integers, block: Integers) -> None:
        row[at.D_NEXT], row[at.D_END] = address(block), address(block) + block.nbytes

    def refill(self, table: Integers, stream: int, n: int) -> None:
        """Draws more of a stream until its block has the ``n``-th number after those in its row."""
        source, row = self.sources[stream], table[stream]
        left = (int(row[at.D_END]) - int(row[at.D_NEXT])) // row.itemsize
        block = self.blocks[stream]
        block = block[len(block) - left :]
        if self._places is not None and n < ROOM:
            place = self.blocks[stream] = self._places[stream]
            place[:left], place[left:] = block, source.block(ROOM - left)
            row[at.D_NEXT] = self._first + stream * place.nbytes
            row[at.D_END] = row[at.D_NEXT] + place.nbytes
            return
        while len(block) <= n:
            more = source.block(self._sizes[stream]).astype(np.int64, copy=False)
            block = np.concatenate([block, more]) if len(block) else more
            self._sizes[stream] = min(2 * self._sizes[stream], LARGEST_BLOCK)
        self.blocks[stream] = block
        self._put(row, block)
