"""The schedule of a simulated host: its flow points, which every strategy walks.

The host runs once, timed by one strategy, whose walker passes each flow point at once.  The walkers of the others pass
the same points later, in blocks: what they do takes no time.
"""

from collections.abc import Sequence
from itertools import count
from typing import Final

from sim.kernel.guests import GuestChoice
from sim.kernel.state import Task, Vcpu
from sim.kernel.walker import FlowPoint, Walker

BLOCK: Final = 1 << 14
"""How many points are kept before the others walk them."""


class Schedule:
    """The flow points of one replication: ``timing`` is the walker whose operations take the host's time.

    ``points`` are those that ``others`` have not walked yet; None if there are no others.
    """

    __slots__ = ("_numbers", "others", "points", "timing")

    def __init__(self, timing: Walker, others: Sequence[Walker] = ()) -> None:
        self.timing = timing
        self.others = tuple(others)
        self.points: list[FlowPoint] | None = [] if others else None
        self._numbers = count()

    @property
    def walkers(self) -> tuple[Walker, ...]:
        """All of them, the one that times the host first."""
        return (self.timing, *self.others)

    def number(self) -> int:
        """The number of one more thread."""
        return next(self._numbers)

    def new_task(self, number: int, name: str, kind: str) -> Task:
        """A thread that is on no CPU, before anything runs."""
        for walker in self.others:
            walker.new_task(number, name, kind)
        return self.timing.new_task(number, name, kind)

    def new_vcpu(self, number: int, name: str, choice: GuestChoice) -> Vcpu:
        """The same of a vCPU thread."""
        for walker in self.others:
            walker.new_vcpu(number, name, choice)
        return self.timing.new_vcpu(number, name, choice)

    def walk(self) -> None:
        """The other strategies walk the points that they have not walked yet."""
        if self.points:
            for walker in self.others:
                walker.walk(self.points)
            self.points.clear()
