"""Where an fpstate's buffer is when an instruction uses it: in L1, in L2, or in memory.

The rule: a CPU keeps a running sum of the bytes that ran through its caches, which grows by each thread's ``touches``
(bytes of lines that were not touched shortly before, per second) while the thread runs.  What has grown since the
buffer was last used on this CPU decides: less than the L1 data cache holds, L1; less than L2 holds, L2; else memory.  A
buffer that another CPU used last counts as memory: its lines are in that CPU's caches, or further away.  There is no
level for a shared last-level cache, because no cost table has a row for it; "memory" is the upper bound there, and
``buffer_level = "L1"`` and ``"memory"`` are the two ends.

The sum is kept in bytes x TSC Hz, an integer, so that it does not depend on how a time was split.
"""

from collections.abc import Sequence
from typing import Final

from sim.kernel.state import Cpu
from sim.xsave.area import Area

L1: Final = "L1"
L2: Final = "L2"
MEMORY: Final = "memory"


class Always:
    """The rule that every buffer is at ``level``."""

    def __init__(self, level: str) -> None:
        self._level = level

    def __call__(self, cpu: Cpu, area: Area) -> str:
        return self._level

    def forget(self, area: Area) -> None:
        """The buffer has been freed."""


class Touched:
    """The rule of this module, for CPUs with caches of ``l1`` and ``l2`` bytes; ``touched`` has the sum of each CPU."""

    def __init__(self, l1: float, l2: float, tsc_hz: float, touched: Sequence[int]) -> None:
        self._l1 = round(l1 * tsc_hz)
        self._l2 = round(l2 * tsc_hz)
        self._touched = touched
        self._used: dict[int, tuple[int, int]] = {}

    def __call__(self, cpu: Cpu, area: Area) -> str:
        """The level of ``area`` on ``cpu``, where it is then used."""
        touched = self._touched[cpu.id]
        where, before = self._used.get(area.address, (-1, 0))
        self._used[area.address] = (cpu.id, touched)
        if where != cpu.id:
            return MEMORY
        since = touched - before
        return L1 if since < self._l1 else L2 if since < self._l2 else MEMORY

    def forget(self, area: Area) -> None:
        """The buffer has been freed."""
        self._used.pop(area.address, None)
