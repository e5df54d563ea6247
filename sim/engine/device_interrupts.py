"""The device interrupts of a CPU in arrays, in the order in which sim.host.interrupts.Devices has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.host.interrupts import Devices, DeviceSource
from sim.host.streams import FIRST_BLOCK, Draws

Integers = NDArray[np.int64]

LARGEST_BLOCK: Final = 1024
"""So many instants of a source are drawn at once at most: a host has some sources on each of a thousand CPUs."""


class _Buffered:
    """Numbers of one stream, in the order of :meth:`Draws.next`."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._ready = draws.ahead().astype(np.int64)

    def take(self, n: int) -> Integers:
        """The next ``n``."""
        ready = self._ready
        if len(ready) < n:
            ready = np.concatenate([ready, self._draws.block(n).astype(np.int64)])
        self._ready = ready[n:]
        return ready[:n]


class _Source:
    """One kind of interrupt: its instants, each once, as far as they have been drawn and not taken."""

    def __init__(self, source: DeviceSource, point: int) -> None:
        self._instants = source.instants
        self._size = FIRST_BLOCK
        self._cycles = _Buffered(source.cycles)
        self._uses_fpu = _Buffered(source.uses_fpu)
        self._point = point
        self._ready = np.unique(source.instants.ahead())
        self.last = int(self._ready[-1])
        """All instants up to this one have been drawn."""

    def draw(self) -> None:
        """Draws some more instants."""
        more = np.unique(self._instants.block(self._size))
        self._size = min(2 * self._size, LARGEST_BLOCK)
        self._ready = np.concatenate([self._ready, more[more > self.last]])
        self.last = int(more[-1])

    def upto(self, time: int) -> Integers:
        """Takes all up to this instant: a row each of when it comes, how long it is served, and the flow point."""
        n = int(np.searchsorted(self._ready, time, side="right"))
        times, self._ready = self._ready[:n], self._ready[n:]
        points = np.where(self._uses_fpu.take(n), self._point, -1)
        return np.stack([times, self._cycles.take(n), points])


class DeviceInterrupts:
    """All device interrupts of a CPU from now on; ``point_of`` numbers the flow point in which components are used."""

    def __init__(self, devices: Devices, point_of: Callable[[int], int]) -> None:
        self._sources = [_Source(each, point_of(each.components)) for each in devices._sources]
        ready = [
            (time, cycles, -1 if components is None else point_of(components))
            for time, cycles, components in devices._ready
        ]
        self._columns = np.array(ready, np.int64).reshape(-1, 3).T.copy()

    def columns(self, served: int, n: int) -> Integers:
        """Times, cycles and flow points (-1: none), ``n`` of them at least, without the first ``served`` of the last
        ones; of two at one instant the source that comes first in the scenario is the first."""
        columns = self._columns[:, served:]
        while columns.shape[1] < n:
            earliest = min(self._sources, key=lambda each: each.last)
            earliest.draw()
            known = min(each.last for each in self._sources)
            found = np.concatenate([each.upto(known) for each in self._sources], axis=1)
            found = np.take(found, np.argsort(found[0], kind="stable"), axis=1)
            columns = np.concatenate([columns, found], axis=1)
        self._columns = columns
        return columns
