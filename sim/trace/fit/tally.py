"""What is counted of a trace, over time: so that a figure has an interval from blocks of the trace.

The same counts, by the same code, are made of a recorded host's trace and of the trace of a simulated one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.costs.price import Prices
from sim.kernel.operations import GUEST_ENTRY, RESTORE_SKIPPED, USER_RETURN, XRSTOR, XRSTORS
from sim.trace.fit.lives import Watcher
from sim.trace.following.known import Step
from sim.trace.following.replica import Replica

SWITCHES: Final = "context switches"
ROUND_TRIPS: Final = "KVM_RUN round trips"
LOADS: Final = "vCPU load/put pairs"
ENTRIES: Final = "VM entries"
WAKEUPS: Final = "wake-ups"
MIGRATIONS: Final = "migrations"
IDLE: Final = "idle"
RESTORED: Final = "restored"
SKIPPED: Final = "skipped"
COST: Final = "cost of "
COUNTED: Final = (SWITCHES, ROUND_TRIPS, LOADS, ENTRIES, WAKEUPS, MIGRATIONS)

FIRST_GRID_NS: Final = 1_000_000
MOST: Final = 512
"""The most points of the grid; beyond that every second one is dropped."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Running counts at ascending times: ``counts[i]`` by name of :data:`COUNTED` and the others, up to ``ns[i]``.

    ``idle`` is in ns of all ``cpus``; ``cost of`` a strategy in TSC cycles.
    """

    ns: NDArray[np.int64]
    names: tuple[str, ...]
    counts: NDArray[np.float64]
    cpus: int

    @property
    def seconds(self) -> float:
        """From the first time to the last."""
        return float(self.ns[-1] - self.ns[0]) * 1e-9

    @property
    def strategies(self) -> tuple[str, ...]:
        """Those that have a cost."""
        return tuple(name.removeprefix(COST) for name in self.names if name.startswith(COST))

    def total(self, name: str) -> float:
        """How much was counted in all."""
        column = self.counts[:, self.names.index(name)]
        return float(column[-1] - column[0])

    def blocks(self, name: str, number: int) -> NDArray[np.float64]:
        """How much was counted in each of ``number`` blocks of equal length."""
        at = np.linspace(self.ns[0], self.ns[-1], number + 1)
        return np.diff(np.interp(at, self.ns, self.counts[:, self.names.index(name)]))

    def between(self, begin_ns: int, end_ns: int) -> "Counted":
        """The part from one time to another."""
        inside = (self.ns > begin_ns) & (self.ns < end_ns)
        ns = np.concatenate(([begin_ns], self.ns[inside], [end_ns])).astype(np.int64)
        columns = [np.interp(ns, self.ns, column) for column in self.counts.T]
        return Counted(ns, self.names, np.stack(columns, axis=1), self.cpus)


class Tally:
    """Counts while a trace is followed; the caller leads ``watcher`` and the replicas along it.

    ``recorded`` is the replica whose restores are counted; the operations of those in ``priced`` are priced.
    """

    def __init__(self, watcher: Watcher, recorded: Replica, priced: Mapping[str, Replica], prices: Prices) -> None:
        self._watcher = watcher
        self._recorded = recorded
        self._priced = dict(priced)
        self._prices = prices
        self._ns: list[int] = []
        self._rows: list[list[float]] = []
        self._grid_ns = FIRST_GRID_NS
        self._next_ns = -1

    def see(self, step: Step) -> None:
        """The next event, before the watcher sees it."""
        if step.time_ns < self._next_ns:
            return
        if self._next_ns < 0:
            self._next_ns = step.time_ns
        self._note(self._next_ns)
        self._next_ns += max(1, (step.time_ns - self._next_ns) // self._grid_ns) * self._grid_ns + self._grid_ns
        if len(self._ns) > MOST:
            del self._ns[1::2], self._rows[1::2]
            self._grid_ns *= 2

    def finish(self, cpus: int) -> Counted:
        """The trace has ended."""
        self._note(self._watcher.seen.last_ns)
        names = (*COUNTED, IDLE, RESTORED, SKIPPED, *(COST + name for name in self._priced))
        rows = np.array(self._rows, dtype=np.float64)
        return Counted(np.array(self._ns, dtype=np.int64), names, rows, cpus)

    def _note(self, ns: int) -> None:
        if self._ns and ns <= self._ns[-1]:
            return
        seen = self._watcher.seen
        restored, skipped = restores(self._recorded)
        row = [seen.switches, seen.round_trips, seen.loads, seen.entries, seen.wakeups, seen.migrations]
        row += [self._watcher.idle_until(ns), restored, skipped]
        row += [
            sum(count * self._prices[key] for key, count in replica.counts().items())
            for replica in self._priced.values()
        ]
        self._ns.append(ns)
        self._rows.append(list(map(float, row)))


def restores(replica: Replica) -> tuple[int, int]:
    """How many restores at return to user mode and at guest entry ran, and how many were skipped."""
    restored = skipped = 0
    for key, count in replica.counts().items():
        _, phase, operation, *_ = key
        if phase in (USER_RETURN, GUEST_ENTRY):
            if operation in (XRSTORS, XRSTOR):
                restored += count
            elif operation == RESTORE_SKIPPED:
                skipped += count
    return restored, skipped
