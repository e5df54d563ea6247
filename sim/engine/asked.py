"""What is asked of a kernel model, and what it answers: a flow point in a combination of states, by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sim.kernel.operations import Key

NOWHERE, HERE, ELSEWHERE, UNREAD = range(4)
"""Where a task ran last (fpu->last_cpu), or where its VMCS is current; UNREAD: nothing may look at it.  After a flow
point ELSEWHERE is where it was before.
"""

OTHER, CURRENT, NEXT = range(3)
"""The task that a slot stands for."""

CURRENT_NUMBER, NEXT_NUMBER, CHILD_NUMBER = 1, 2, 3

AREAS: Final = 3
"""How many roles a task's areas have: normal fpstate, guest fpstate, a mechanism's own buffer."""
INIT_AREA: Final = 2
"""As the task of a :class:`Use`: the area is init_fpstate's."""


class Point(NamedTuple):
    """A flow point: a method of the walker, and what it takes after the CPU and the next thread."""

    what: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


UNCHANGED: Final = -1
"""In place of a fragment's number: it is what it was before."""


class Side(NamedTuple):
    """One task that takes part: its fragment, where it was last, and where its VMCS is."""

    fragment: int
    last: int
    vmcs: int


class Asked(NamedTuple):
    """A combination of states: the point, the CPU's shape, whom its slots stand for, and who takes part."""

    point: Point
    shape: int
    slots: tuple[int, ...]
    current: Side
    next: Side | None


class Use(NamedTuple):
    """An operation; ``task`` (0 current, 1 next) and ``role`` name the area whose level decides its price; -1: none."""

    key: Key
    task: int = -1
    role: int = -1


class Answer(NamedTuple):
    """What a flow point does.

    ``slots``: for each slot of the new shape, the old slot that it was, or CURRENT or NEXT below zero (~CURRENT).
    ``tokens``: of current, of next and of the CPU, where each token comes from; None: as they were.  ``uses`` are the
    operations in order, ``called`` those that another CPU is asked to run; the latter's thread kind is None.
    ``renewed``: areas (task, role) that have been replaced by new ones.  ``result`` is what the walker's method
    returned, if that is a truth value.
    """

    shape: int
    slots: tuple[int, ...]
    current: Side
    next: Side | None
    tokens: tuple[tuple[int, ...] | None, tuple[int, ...] | None, tuple[int, ...] | None]
    uses: tuple[Use, ...]
    called: tuple[Key, ...]
    found: tuple[tuple[str, int], ...]
    renewed: tuple[tuple[int, int], ...]
    result: bool
