"""What is timed: instruction, area, what was touched, where the area is, and the in-use set."""

from dataclasses import dataclass
from itertools import product
from typing import Final

from sim.calibrate.machine import Machine
from sim.kernel.operations import XGETBV1
from sim.xsave.components import bits

OPERATIONS: Final = ("XSAVE", "XSAVEC", "XSAVEOPT", "XRSTOR", "XRSTOR, standard format", XGETBV1)
"""In the order of enum operation in xsave.c.  XRSTOR reads what XSAVEC wrote, as XRSTORS does what XSAVES wrote."""
LEVELS: Final = ("", "L2", "memory")
WARM_REPETITIONS: Final = 40
COLD_REPETITIONS: Final = 16
"""Repetitions in a sample, as in xsave.c."""
FULL_UP_TO: Final = 64
"""With more in-use sets than that, the less usual variants are timed for a ladder of sets only."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An instruction in its circumstances, whatever is in use.

    ``same``: the area is that of the last XRSTOR; ``touched``: registers were written since.
    """

    operation: str
    same: bool = False
    touched: bool = False
    level: str = ""

    @property
    def usual(self) -> bool:
        """Whether it is the one from which the rows of the table are derived."""
        return not self.same and not self.touched and self.operation in OPERATIONS[:4]

    @property
    def name(self) -> str:
        """The operation as a reference row calls it."""
        details = (self.operation, "same area" if self.same else "", "touched" if self.touched else "")
        return ", ".join(each for each in details if each)

    @property
    def repetitions(self) -> int:
        return COLD_REPETITIONS if self.level else WARM_REPETITIONS


@dataclass(frozen=True, slots=True)
class Timing:
    """One line of the plan."""

    variant: Variant
    in_use: int

    @property
    def line(self) -> str:
        """As xsave.c reads it."""
        v = self.variant
        return f"{OPERATIONS.index(v.operation)} {v.same:d} {v.touched:d} {LEVELS.index(v.level)} {self.in_use:x}"


def ladder(xcr0: int, reachable: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Nothing, each component alone, and components 0 to n together: what tells the components apart.

    Without those that are not ``reachable``, if any are given.
    """
    numbers = bits[xcr0]
    singles = [1 << number for number in numbers]
    prefixes = [sum(singles[:n]) for n in range(2, len(singles) + 1)]
    return tuple(each for each in (0, *singles, *prefixes) if not reachable or each in reachable)


def plan(machine: Machine, quick: bool) -> tuple[Timing, ...]:
    """All that is timed on this machine: every variant with every reachable in-use set.

    When quick, and for the less usual variants where there are more than :data:`FULL_UP_TO` sets, the ladder of sets.
    """
    rungs = ladder(machine.xcr0, machine.sets)
    every = rungs if quick or not machine.sets else machine.sets
    timings = []
    for operation, same, touched, level in product(OPERATIONS[:-1], (False, True), (False, True), LEVELS):
        variant = Variant(operation, same, touched, level)
        sets = every if variant.usual or len(every) <= FULL_UP_TO else rungs
        timings += [Timing(variant, each) for each in sets]
    return (*timings, *(Timing(Variant(XGETBV1), each) for each in rungs))
