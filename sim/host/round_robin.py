"""A run queue without weights: first in, first out, with a quantum; for comparison with queueing theory."""

from __future__ import annotations

from collections import deque

from sim.host.runqueue import Entity


class RoundRobinRunQueue:
    """Entities run in the order of arrival, each for ``base_slice`` TSC cycles, after which it goes to the tail.

    A wake-up never preempts.  A quantum that ends while nothing else is runnable is followed by another only at the
    next pick.
    """

    __slots__ = ("_base_slice", "_queue", "_slice_end", "current", "need_resched", "nr_running")

    def __init__(self, base_slice: int) -> None:
        self._base_slice = base_slice
        self._queue: deque[Entity] = deque()
        self._slice_end = 0
        self.current: Entity | None = None
        self.nr_running = 0
        self.need_resched = False

    def update_current(self, now: int) -> None:
        """Account the wall time since the last accounting to ``current``, and see whether its quantum is over."""
        current = self.current
        if current is None:
            return
        current.sum_exec_runtime += now - current.exec_start
        current.exec_start = now
        if now >= self._slice_end and self._queue:
            self.need_resched = True

    def enqueue(self, now: int, entity: Entity, *, initial: bool = False) -> None:
        """To the tail, however it comes."""
        self.update_current(now)
        entity.on_rq = True
        self._queue.append(entity)
        self.nr_running += 1

    def dequeue(self, now: int, entity: Entity, *, sleep: bool, special: bool = False) -> None:
        """Off at once, for whatever reason."""
        self.update_current(now)
        if entity is self.current:
            self.current = None
        else:
            self._queue.remove(entity)
        entity.on_rq = False
        self.nr_running -= 1

    def pick_next(self, now: int) -> Entity | None:
        """The head; a current whose quantum is over goes to the tail, another stays."""
        self.update_current(now)
        current = self.current
        if current is not None:
            if not self.need_resched:
                return current
            self._queue.append(current)
        self.need_resched = False
        self.current = current = self._queue.popleft() if self._queue else None
        if current is not None:
            current.exec_start = now
            self._slice_end = now + self._base_slice
        return current

    def wakeup_preempts(self, now: int, entity: Entity, *, fork: bool = False) -> bool:
        """Only of an idle CPU, and where the quantum is over anyway."""
        return self.current is None or self.need_resched

    def preempt_time(self) -> int | None:
        """The end of the quantum."""
        current = self.current
        if current is None or not self._queue:
            return None
        return max(self._slice_end, current.exec_start)

    def time_to_deadline(self) -> int | None:
        """What is left of the quantum."""
        current = self.current
        return None if current is None or not self._queue else max(0, self._slice_end - current.exec_start)

    def renewal_time(self) -> int | None:
        """Never: a quantum that ends while nothing else is runnable is not renewed."""
        return None

    @property
    def alone(self) -> bool:
        """Whether nobody waits."""
        return not self._queue

    def nominate(self, now: int, entity: Entity, *, credit: bool) -> bool:
        """Round robin has no such thing."""
        return False

    def forfeit(self, now: int, *, force: bool) -> None:
        """Round robin has no such thing."""

    def waiting(self) -> list[Entity]:
        """All but the running one, the head first."""
        return list(self._queue)
