"""How far the replication that runs in this process is in simulated time, for another thread that reads it now and
then. The simulation registers once where to read, so that neither the simulated host nor its speed depends on the
reader.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_looks: Final[list[Callable[[], float]]] = []


@contextmanager
def shown(now: Callable[[], int], end: int) -> Iterator[None]:
    """A replication runs meanwhile, which is at ``now()`` of ``end`` TSC cycles."""

    def look() -> float:
        return min(1.0, now() / end)

    _looks.append(look)
    try:
        yield
    finally:
        _looks.remove(look)


def fraction() -> float:
    """How much of the replication has been simulated, from 0 to 1; 0 if none runs."""
    found = _looks[-1:]
    return found[0]() if found else 0.0
