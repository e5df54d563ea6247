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
MANY, ROOM = 4096, 512
"""From MANY streams on, each has room for ROOM numbers in one array, for which the system can use large pages.  On
small ones almost every draw misses the TLB."""


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
        self._constants: dict[int, Integers] = {}
        self._places: Integers | None = None

    def add(self, source: Draws | Instants | None) -> int:
        """Adds a stream from which nobody else draws; returns its number, or -1 for None."""
        if source is None:
            return -1
        self.sources.append(source)
        self.blocks.append(source.ahead().astype(np.int64))
        self._sizes.append(LEAST_BLOCK)
        return len(self.sources) - 1

    def table(self) -> Integers:
        """The loop's row for each stream (address, position, length), once all have been added."""
        table = zeros(max(len(self.sources), 1), at.D_COLUMNS)
        for i, block in enumerate(self.blocks):
            table[i, :3] = address(block), 0, len(block)
        if len(self.sources) >= MANY:
            self._places = np.empty((len(self.sources), ROOM), np.int64)
        return table

    def refill(self, table: Integers, stream: int, n: int) -> None:
        """Draws more of a stream until its block has the ``n``-th number from now."""
        source, row = self.sources[stream], table[stream]
        if isinstance(source, Draws) and source.constant is not None:
            block = self._constant(source.constant, n)
        else:
            block = self.blocks[stream][int(row[at.D_POS]) :]
            place = None if self._places is None or n >= ROOM else self._places[stream]
            while len(block) <= n:
                more = source.block(self._sizes[stream] if place is None else ROOM - len(block))
                more = more.astype(np.int64, copy=False)
                block = np.concatenate([block, more]) if len(block) else more
                self._sizes[stream] = min(2 * self._sizes[stream], LARGEST_BLOCK)
            if place is not None:
                place[: len(block)] = block
                block = place[: len(block)]
        self.blocks[stream] = block
        row[:3] = address(block), 0, len(block)

    def _constant(self, value: int, n: int) -> Integers:
        """A block that repeats one number; all streams with this constant share it."""
        block = self._constants.get(value)
        if block is None or len(block) <= n:
            block = self._constants[value] = np.full(max(LARGEST_BLOCK, n + 1), value)
        return block
