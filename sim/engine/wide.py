"""Whole numbers of 128 bits, for virtual times that do not fit in 64.

A group of which few threads are on a CPU may have a weight of 2 there, and a cycle is then 2^41 units of virtual time.
Such a number is in two columns of a thread's row.  Without numba it is one of Python's.
"""

from __future__ import annotations

from typing import Any, Final

from sim.engine.layout import HIGH

LOW: Final = (1 << 64) - 1

Virtual = int
"""A virtual time among the arguments of a compiled function: 64 bits, or with :class:`WideMemory` 128."""


def low_word(number: int) -> int:
    """The lower half of a number, as a 64-bit number with a sign."""
    low = number & LOW
    return low - (1 << 64) if low >> 63 else low


class _Numbers:
    """An array whose items are Python's numbers, which do not overflow."""

    __slots__ = ("_array",)

    def __init__(self, array: Any) -> None:
        self._array = array

    def __getitem__(self, index: Any) -> int:
        return int(self._array[index])

    def __setitem__(self, index: Any, value: int) -> None:
        self._array[index] = value


class _WideNumbers(_Numbers):
    """The rows of threads, with virtual times in two columns."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> int:
        row, column = index
        low, high = int(self._array[row, column]), HIGH.get(column, column)
        return low if high == column else (int(self._array[row, high]) << 64) + (low & LOW)

    def __setitem__(self, index: Any, value: int) -> None:
        row, column = index
        high = HIGH.get(column, column)
        if high == column:
            self._array[row, column] = value
        else:
            self._array[row, column], self._array[row, high] = low_word(value), value >> 64


class WideMemory:
    """What ``wide(a)`` is in plain Python: the arrays of ``a`` that a run queue has."""

    def __init__(self, a: Any) -> None:
        self.g, self.c, self.queue, self.groups = map(_Numbers, (a.g, a.c, a.queue, a.groups))
        self.t = _WideNumbers(a.t)
        self.allowed = a.allowed
