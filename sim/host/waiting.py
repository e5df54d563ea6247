"""Wait queues, on which threads and halted vCPUs sleep until a thread wakes them.

A queue is that of kernel/sched/wait.c, Linux v6.18: who is about to sleep joins it first (prepare_to_wait()), so that a
wake-up between that and the sleep is not lost but ends the wait; a wake-up that finds nobody does nothing; and of those
who wait exclusively the one is woken that has waited longest.  Signals go to single threads instead: to any of them.
"""

from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sim.host.streams import Draws

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu


class Waiter(Protocol):
    """Who can wait."""

    def ends_wait(self, cpu: "HostCpu") -> bool:
        """Somebody on ``cpu`` has taken it from the queue; True: it sleeps, and :meth:`wake_up` has to follow."""

    def wake_up(self, cpu: "HostCpu") -> None:
        """try_to_wake_up() on ``cpu``."""


PLACE_BITS: Final = 32
"""Of a random place."""


class WaitQueue:
    """Those of one entry that wait, the first to come first.

    ``places`` draws numbers below 2**PLACE_BITS, by which any of them is woken; None: the first is.
    """

    __slots__ = ("_waiters", "places")

    def __init__(self, places: Draws | None = None) -> None:
        self._waiters: deque[Waiter] = deque()
        self.places = places

    def join(self, waiter: Waiter) -> None:
        """prepare_to_wait_exclusive()."""
        self._waiters.append(waiter)

    def leave(self, waiter: Waiter) -> bool:
        """finish_wait() of a waiter whose wait ends by itself; False if a waker has already taken it from the queue."""
        if waiter not in self._waiters:
            return False
        self._waiters.remove(waiter)
        return True

    def take(self) -> Waiter | None:
        """The one that is woken next, if anybody waits."""
        waiters = self._waiters
        if not waiters:
            return None
        place = 0 if self.places is None else self.places.next() * len(waiters) >> PLACE_BITS
        waiter = waiters[place]
        del waiters[place]
        return waiter


class Waits(NamedTuple):
    """Of a thread or vCPU: on which queue it waits, whether the next sleep does, and when in cycles it ends at last.

    ``at_most`` None: never by itself.
    """

    queue: WaitQueue
    waits: Draws
    at_most: int | None


class Wakes(NamedTuple):
    """What a thread wakes at the end of a burst: this many of a queue, and one more if ``more`` draws so."""

    queue: WaitQueue
    whole: int
    more: Draws


def wake(cpu: "HostCpu", wakes: Sequence[Wakes]) -> Generator[Any, None, bool]:
    """The thread that runs on ``cpu`` wakes others, as a process; True if it has woken any."""
    woken = False
    for queue, whole, more in wakes:
        for _ in range(whole + bool(more.next())):
            waiter = queue.take()
            if waiter is None:
                break
            if waiter.ends_wait(cpu):
                woken = True
                cpu.spend("wakeup", cpu.host.wakeup_cycles())
                yield from cpu.sync()
                waiter.wake_up(cpu)
    return woken
