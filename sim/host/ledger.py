"""A ledger that knows prices, because on a simulated host operations take time."""

from collections.abc import Iterable

from sim.costs.price import Prices
from sim.kernel.operations import Key, Keys, Ledger


class PricedLedger(Ledger):
    """Counts the operations of one CPU and says what those since the last question cost.

    ``charged`` of those that are pending have been asked for.
    """

    __slots__ = ("_price", "charged")

    def __init__(self, prices: Prices) -> None:
        super().__init__()
        self._price = prices.__getitem__
        self.charged = 0

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

    def price(self, keys: Iterable[Key]) -> int:
        """TSC cycles of these operations."""
        return sum(map(self._price, keys))

    def fold(self) -> None:
        """Counts what is pending, all of which has been charged."""
        assert self.charged == len(self.pending), "operations that nobody charged"
        super().fold()
        self.charged = 0
