"""What the loop needs beside Python's own, in plain Python, for where there is no compiler (sim.engine.jit)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sim.engine.wide import WideMemory

if TYPE_CHECKING:
    from sim.engine.jit import Memory

Function = TypeVar("Function", bound=Callable[..., Any])

Callback: Final = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 5)
"""What the loop can call: takes five integers, returns one."""


def compile_entry(function: Any, arguments: int) -> bool:
    """Nothing: there is no compiler."""
    return False


def compiled(function: Function) -> Function:
    """The function itself."""
    return function


entry = compiled


def memory(arrays: Memory) -> Memory:
    """The arrays themselves."""
    return arrays


def wide(a: Any) -> Any:
    """The same arrays, with virtual times of 128 bits."""
    return WideMemory(a)


def is_wide(a: Any) -> bool:
    """Whether virtual times have 128 bits."""
    return isinstance(a, WideMemory)


cycles = int


def call(address: int, kind: int, a: int, b: int, c: int, d: int) -> int:
    """Calls the :data:`Callback` at an address."""
    return int(Callback(int(address))(int(kind), int(a), int(b), int(c), int(d)))


def comes_before(time: int, key: int, other_time: int, other_key: int) -> bool:
    """Whether an event comes before another one."""
    return bool((time, key) < (other_time, other_key))


def fetch(section: Any, i: Any) -> None:
    """Nothing: Python is slower than memory."""


def fetch_number(address: int, i: int) -> None:
    """Nothing: Python is slower than memory."""


def trailing_zeros(word: int) -> int:
    """The number of the lowest bit that is set in a word that is not 0."""
    return (int(word) & -int(word)).bit_length() - 1


def load(address: int, i: int) -> int:
    """The ``i``-th 64-bit number of the array at an address."""
    return ctypes.c_int64.from_address(int(address) + 8 * int(i)).value


def load_byte(address: int, i: int) -> int:
    """The ``i``-th byte of the array at an address."""
    return ctypes.c_uint8.from_address(int(address) + int(i)).value


def store(address: int, i: int, value: int) -> None:
    """Sets the ``i``-th 64-bit number of the array at an address."""
    ctypes.c_int64.from_address(int(address) + 8 * int(i)).value = int(value)
