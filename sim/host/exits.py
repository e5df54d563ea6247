"""A vCPU's exits, drawn ahead in guest CPU time, and how many of them a span of wall time holds.

The exits of all kinds form one sequence.  Its n-th exit has ``guest[n]``, the guest time at which it comes, and
``wall[n]``, when it is over on a clock that runs while the guest runs and while KVM handles exits without effect; both
are running sums, so that one search finds how many exits a span holds.

An exit with an effect (another vCPU is woken, user space is called, the FPU is used by an interrupt, or nobody knows
yet what it costs) takes no time on that clock: it ends the span.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from sim.host.streams import Cycles, Draws
from sim.host.waiting import Wakes
from sim.kernel.operations import Keys

INF: Final = 1 << 62
EXTERNAL_INTERRUPT: Final = "external-interrupt"
FIRST_BLOCK: Final = 128
LARGEST_BLOCK: Final = 8192
"""About how many exits are drawn ahead: twice as many each time, so that an idle guest's take little memory."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ExitCost:
    """What leaving and entering the guest again takes, once the kernel model has shown it: ``keys`` in ``cycles``.

    ``entry`` is the part of the cycles in which interrupts are off.  With ``fastpath`` they are off also while the exit
    is handled.
    """

    keys: Keys
    cycles: int
    entry: int
    fastpath: bool = False


@dataclass(slots=True)
class ExitKind:
    """One kind of exit of one vCPU.

    ``gaps``, ``times`` and ``uses_fpu`` draw n at once: the guest time between two, the time of KVM's handler beside
    operations, and whether an interrupt in it runs kernel_fpu_begin().  ``userspace`` ones leave KVM_RUN for ``vmm``
    cycles; ``target`` says which other vCPU one wakes or kicks, ``wakes`` which threads.  ``effect``: an exit of
    this kind is never one of many.  ``cost`` is None until the kernel model has run one.  ``requests``: its fastpath
    makes a KVM request, and so does not enter the guest again.
    """

    name: str
    reason: str
    gaps: Callable[[int], Cycles]
    times: Callable[[int], Cycles]
    uses_fpu: Callable[[int], Flags]
    effect: bool
    userspace: bool
    target: Literal["next", "random"] | None
    vmm: Draws | None
    wakes: Sequence[Wakes] = ()
    requests: bool = False
    cost: ExitCost | None = None
    drawn_guest: Cycles = field(default_factory=lambda: np.empty(0, np.int64))
    drawn_time: Cycles = field(default_factory=lambda: np.empty(0, np.int64))
    drawn_fpu: Flags = field(default_factory=lambda: np.empty(0, np.bool_))
    last: int = 0
    block: int = 16


def _column(first: int, rest: NDArray[Any]) -> Sequence[int]:
    """``first`` and then the rest.  A view gives Python's own numbers, several times as fast as the array would."""
    column = np.empty(len(rest) + 1, rest.dtype)
    column[0] = first
    column[1:] = rest
    return column.data


class ExitStream:
    """The exits of one vCPU from its first instruction on.

    ``next`` is the number of the next exit in the columns, whose entry 0 is the last one before them; ``batch`` False
    makes every exit end a span.  There are no columns before the guest begins.
    """

    def __init__(self, kinds: list[ExitKind], batch: bool) -> None:
        self.kinds = kinds
        self.batch = batch
        self.next = 1
        self._block = FIRST_BLOCK

    # Drawing ahead.

    def begin(self) -> None:
        """Draws the first exits."""
        self._lay_out(0, 0, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_), np.empty(0, np.int64))
        self._fill()

    def _fill(self) -> None:
        """Keeps what lies ahead and draws more; positions on the wall clock stay what they are up to ``next``."""
        first = self.next
        base_guest, base_wall = self.guest[first - 1], self.wall[first - 1]
        if self.kinds:
            horizon = self._draw()
            parts = [np.searchsorted(kind.drawn_guest, horizon, "right") for kind in self.kinds]
            guest = np.concatenate([kind.drawn_guest[:n] for kind, n in zip(self.kinds, parts, strict=True)])
            times = np.concatenate([kind.drawn_time[:n] for kind, n in zip(self.kinds, parts, strict=True)])
            fpu = np.concatenate([kind.drawn_fpu[:n] for kind, n in zip(self.kinds, parts, strict=True)])
            number = np.repeat(np.arange(len(self.kinds)), parts)
            order = np.argsort(guest, kind="stable")
            for kind, n in zip(self.kinds, parts, strict=True):
                kind.drawn_guest, kind.drawn_time, kind.drawn_fpu = (
                    kind.drawn_guest[n:],
                    kind.drawn_time[n:],
                    kind.drawn_fpu[n:],
                )
            guest, times, fpu, number = guest[order], times[order], fpu[order], number[order]
        else:
            guest = times = np.full(1, INF, np.int64)
            fpu, number = np.zeros(1, np.bool_), np.full(1, -1)
        self._lay_out(
            base_guest,
            base_wall,
            np.concatenate([np.asarray(self.guest[first:]), guest]),
            np.concatenate([np.asarray(self._time[first:]), times]),
            np.concatenate([np.asarray(self._fpu[first:]), fpu]),
            np.concatenate([np.asarray(self._kind[first:]), number]),
        )

    def _draw(self) -> int:
        """Draws until each kind has an exit beyond the horizon, which is returned; it grows with the fastest kind."""
        for kind in self.kinds:
            if not len(kind.drawn_guest):
                self._draw_kind(kind)
        fastest = max(self.kinds, key=lambda kind: len(kind.drawn_guest) / (kind.last - int(kind.drawn_guest[0]) + 1))
        while len(fastest.drawn_guest) < self._block:
            self._draw_kind(fastest)
        self._block = min(2 * self._block, LARGEST_BLOCK)
        return min(kind.last for kind in self.kinds)

    @staticmethod
    def _draw_kind(kind: ExitKind) -> None:
        n = kind.block
        kind.block = min(2 * n, LARGEST_BLOCK)
        guest = kind.last + np.cumsum(kind.gaps(n))
        kind.last = int(guest[-1])
        kind.drawn_guest = np.concatenate([kind.drawn_guest, guest])
        kind.drawn_time = np.concatenate([kind.drawn_time, kind.times(n)])
        kind.drawn_fpu = np.concatenate([kind.drawn_fpu, kind.uses_fpu(n)])

    def learn(self) -> None:
        """A kind's cost has become known: what lies ahead is laid out anew."""
        n = self.next
        ahead = (np.asarray(column[n:]) for column in (self.guest, self._time, self._fpu, self._kind))
        self._lay_out(self.guest[n - 1], self.wall[n - 1], *ahead)

    def _lay_out(
        self, base_guest: int, base_wall: int, guest: Cycles, times: Cycles, fpu: Flags, number: Cycles
    ) -> None:
        alone = np.array([kind.effect or kind.cost is None or not self.batch for kind in self.kinds] + [True])
        cycles = np.array([kind.cost.cycles if kind.cost else 0 for kind in self.kinds] + [0], np.int64)
        effect = alone[number] | fpu
        quiet = ~effect
        handled = times * quiet
        wall = handled + cycles[number] * quiet
        np.cumsum(wall, out=wall)
        wall += guest
        wall += base_wall - base_guest
        self.next = 1
        self.guest = _column(base_guest, guest)
        self.wall = _column(base_wall, wall)
        self._kind = _column(-1, number)
        self._time = _column(0, times)
        self._fpu = _column(False, fpu)
        self._handled = _column(0, np.cumsum(handled))
        self._counts = [_column(0, np.cumsum((number == i) & quiet)) for i in range(len(self.kinds))]
        self._effects = (np.flatnonzero(effect) + 1).data

    # Asking.

    def stop(self) -> int:
        """The number of the next exit that ends a span, or one past the last that is drawn."""
        i = bisect_left(self._effects, self.next)
        return self._effects[i] if i < len(self._effects) else len(self.wall)

    def passed(self, wall: int, stop: int) -> int:
        """The number of the last exit before ``stop`` that is over at ``wall``."""
        return bisect_right(self.wall, wall, self.next, stop) - 1

    def begins(self, n: int) -> int:
        """When exit ``n`` leaves the guest, on the wall clock."""
        return self.wall[n - 1] + self.guest[n] - self.guest[n - 1]

    def open_until(self, n: int) -> int:
        """The last cycle of exit ``n``, on the wall clock, at which an interrupt is served before the entry."""
        cost = self.kind(n).cost
        assert cost is not None
        return self.begins(n) - 1 if cost.fastpath else self.wall[n] - cost.entry

    def kind(self, n: int) -> ExitKind:
        """The kind of exit ``n``."""
        return self.kinds[self._kind[n]]

    def time(self, n: int) -> int:
        """Cycles of KVM's handler of exit ``n``, beside operations."""
        return self._time[n]

    def uses_fpu(self, n: int) -> bool:
        """Whether an interrupt during exit ``n`` runs kernel_fpu_begin()."""
        return bool(self._fpu[n])

    def handled(self, first: int, last: int) -> int:
        """Cycles of KVM's handlers of the exits after ``first`` up to ``last``."""
        return self._handled[last] - self._handled[first]

    def counts(self, first: int, last: int) -> Iterator[tuple[ExitKind, int]]:
        """How many of each kind there are among the exits after ``first`` up to ``last``."""
        for kind, counts in zip(self.kinds, self._counts, strict=True):
            if n := counts[last] - counts[first]:
                yield kind, n

    def guest_at(self, wall: int, n: int) -> int:
        """The guest time at ``wall``, where exit ``n`` is the last one over and the guest runs."""
        return self.guest[n] + wall - self.wall[n]

    def wall_at(self, guest: int, stop: int) -> int | None:
        """When the guest has run for ``guest`` cycles, before an exit that comes then; None if not before ``stop``."""
        n = bisect_left(self.guest, guest, self.next, stop) - 1
        if n == stop - 1 and (stop == len(self.wall) or guest > self.guest[stop]):
            return None
        return self.wall[n] + guest - self.guest[n]

    def skip(self, n: int) -> None:
        """Exits up to and including ``n`` are over."""
        self.next = n + 1

    def refill(self) -> None:
        """Draws more if there is no exit left that could end a span."""
        if self.next >= len(self.wall):
            self._fill()
