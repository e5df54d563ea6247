"""Interrupts that come to a CPU in wall time: devices, drawn ahead, and the scheduler's tick."""

import heapq

from sim.host.exits import INF
from sim.host.streams import Draws, Instants


class DeviceSource:
    """One kind of device interrupt on one CPU: when, how long, and which components kernel_fpu_begin() gives it."""

    __slots__ = ("components", "cycles", "instants", "uses_fpu")

    def __init__(self, instants: Instants, cycles: Draws, uses_fpu: Draws, components: int) -> None:
        self.instants = instants
        self.cycles = cycles
        self.uses_fpu = uses_fpu
        self.components = components


class Devices:
    """The device interrupts of one CPU in order; number 0 is the next that has not been served."""

    __slots__ = ("_heap", "_ready", "_sources")

    def __init__(self, sources: list[DeviceSource]) -> None:
        self._sources = sources
        self._heap = [(source.instants.next, i) for i, source in enumerate(sources)]
        heapq.heapify(self._heap)
        self._ready: list[tuple[int, int, int | None]] = []

    def _get(self, n: int) -> tuple[int, int, int | None]:
        while len(self._ready) <= n:
            time, i = self._heap[0]
            source = self._sources[i]
            source.instants.upto(time)
            heapq.heapreplace(self._heap, (source.instants.next, i))
            components = source.components if source.uses_fpu.next() else None
            self._ready.append((time, source.cycles.next(), components))
        return self._ready[n]

    def time(self, n: int) -> int:
        """When number ``n`` comes; far beyond every simulation if there are none."""
        return self._get(n)[0] if self._sources else INF

    def cycles(self, n: int) -> int:
        """How long number ``n`` is served."""
        return self._get(n)[1]

    def components(self, n: int) -> int | None:
        """What the code of number ``n`` writes after kernel_fpu_begin(); None: it does not call it."""
        return self._get(n)[2]

    def serve(self, n: int) -> None:
        """The first ``n`` have been served."""
        del self._ready[:n]


class TickTimes:
    """How long each tick of one CPU is served, drawn ahead."""

    __slots__ = ("_draws", "_ready")

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._ready: list[int] = []

    def cycles(self, n: int) -> int:
        """Cycles of the ``n``-th tick that has not been served."""
        if self._draws.constant is not None:
            return self._draws.constant
        while len(self._ready) <= n:
            self._ready.append(self._draws.next())
        return self._ready[n]

    def serve(self, n: int) -> None:
        """The first ``n`` have been served."""
        del self._ready[:n]
