"""How often the rows of a strategy's table were passed, as rows of a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from sim.costs.price import Prices
from sim.engine import layout as at
from sim.kernel.operations import Key, Operation, operation
from sim.results.record import Columns

if TYPE_CHECKING:
    from sim.engine.table import Table

Integers = NDArray[np.int64]

LEVELS: Final = ("L1", "L2", "memory")
MOST_ALIKE: Final = 100
"""Of how many sets of operations it is remembered what they are."""


class Counted:
    """The operations of replications with one cost table; what they have in common is made once."""

    def __init__(self, table: Table, prices: Prices) -> None:
        self._table, self._prices = table, prices
        self._rows = 0
        self._uses: tuple[Integers, Integers] = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._alike: dict[tuple[int, bytes], tuple[tuple[Operation, ...], Integers, Integers]] = {}

    def ledger(self, beside: Mapping[Key, int]) -> Columns:
        """The operations of the measurement, in order; ``beside`` ran beside those of the rows.

        Raises :class:`OverflowError` where one's cycles take more than 64 bits.
        """
        others = [(self._table.keys.of(key), times) for key, times in beside.items()]
        totals = self._totals()
        for number, times in others:
            totals[number] += times
        ran = np.flatnonzero(totals)
        operations, order, prices = self._priced(ran)
        counts = totals[ran[order]]
        cycles = counts * prices
        if (cycles // counts != prices).any():
            raise OverflowError("cycles of an operation take more than 64 bits")
        return Columns(operations, counts, cycles)

    def _totals(self) -> Integers:
        """By the number of the operation; after those without a level each of the others at each level."""
        table = self._table
        if self._rows != table.count:
            rows = np.repeat(np.arange(table.count), [len(keys) for keys in table.uses])
            self._uses = rows, np.fromiter(chain.from_iterable(table.uses), np.int64, len(rows))
            self._rows = table.count
        rows, keys = self._uses
        at_levels = table.level_counts[: len(table.level_keys.values), at.LEVEL_COUNT0 : at.LEVEL_COUNT0 + 3]
        totals = np.append(np.zeros(len(table.keys.values), np.int64), at_levels)
        np.add.at(totals, keys, table.rows[rows, at.R_COUNT])
        return totals

    def _priced(self, ran: Integers) -> tuple[tuple[Operation, ...], Integers, Integers]:
        """The operations with these numbers in order, where each of them is in ``ran``, and their prices."""
        without_level = self._table.keys.values
        which = len(without_level), ran.tobytes()
        if which not in self._alike:
            if len(self._alike) == MOST_ALIKE:
                self._alike.clear()
            at_levels = [(*key, level) for key in self._table.level_keys.values for level in LEVELS]
            keys = [*without_level, *at_levels]
            rows = sorted((operation(keys[n]), i, self._prices[keys[n]]) for i, n in enumerate(ran.tolist()))
            self._alike[which] = (
                tuple([of for of, _, _ in rows]),
                np.array([i for _, i, _ in rows], np.int64),
                np.array([price for _, _, price in rows], np.int64),
            )
        return self._alike[which]
