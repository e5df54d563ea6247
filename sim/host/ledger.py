"""A ledger that knows prices, because on a simulated host operations take time."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from sim.costs.price import Prices
from sim.kernel.operations import Ledger

Keys = tuple[tuple[Any, ...], ...]


class Repeated:
    """Operations that run again and again, always the same: ``keys``, which take ``cycles``."""

    __slots__ = ("cycles", "keys")

    def __init__(self, keys: Keys, cycles: int) -> None:
        self.keys = keys
        self.cycles = cycles


class PricedLedger(Ledger):
    """Counts the operations of one CPU and says what those since the last question cost.

    ``charged`` of those that are pending have been asked for.
    """

    __slots__ = ("_price", "_repeated", "charged")

    def __init__(self, prices: Prices) -> None:
        super().__init__()
        self._price = prices.__getitem__
        self.charged = 0
        self._repeated: dict[Repeated, int] = {}

    def charge(self) -> int:
        """TSC cycles of the operations recorded since the last call."""
        pending, charged = self.pending, self.charged
        cost = sum(map(self._price, pending[charged:]))
        self.charged = len(pending)
        return cost

    def recorded_since(self, mark: int) -> Keys:
        """The operations recorded since :attr:`mark` had this value, if nothing was folded in between."""
        return tuple(self.pending[mark:])

    @property
    def mark(self) -> int:
        """How many operations are pending."""
        return len(self.pending)

    def take_back(self) -> tuple[Any, ...]:
        """The operation recorded last, which then has not been."""
        return self.pending.pop()

    def price(self, keys: Iterable[tuple[Any, ...]]) -> int:
        """TSC cycles of these operations."""
        return sum(map(self._price, keys))

    def repeat(self, what: Repeated, times: int) -> None:
        """Operations that ran ``times`` more times, and whose cycles the caller accounts for."""
        self._repeated[what] = self._repeated.get(what, 0) + times

    def fold(self) -> None:
        """Counts what is pending, all of which has been charged."""
        assert self.charged == len(self.pending), "operations that nobody charged"
        super().fold()
        self.charged = 0

    @property
    def counts(self) -> Counter[tuple[Any, ...]]:
        self.fold()
        for what, times in self._repeated.items():
            for key in what.keys:
                self._counts[key] += times
        self._repeated.clear()
        return self._counts

    def restart(self) -> None:
        """Forgets what was counted: the measurement begins."""
        self.counts.clear()
