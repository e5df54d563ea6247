"""Numbers of a stream one by one, from blocks that Python has drawn."""

from __future__ import annotations

from sim.engine.jit import Memory, call, compiled, load
from sim.engine.layout import ASK_DRAWS, CALLBACK, D_ADDRESS, D_COPIES, D_COPY0, D_LEN, D_POS


@compiled
def has_next(a: Memory, stream: int, n: int) -> bool:
    """Whether there is an ``n``-th number from now on: unless drawing has failed, which the loop sees before long."""
    return a.d[stream, D_POS] + n < a.d[stream, D_LEN] or call(a.g[CALLBACK], ASK_DRAWS, stream, n, 0, 0) >= 0


@compiled
def peek_at(a: Memory, stream: int, n: int) -> int:
    """The ``n``-th number from now on."""
    if not has_next(a, stream, n):
        return a.d[stream, D_COPY0]
    return load(a.d[stream, D_ADDRESS], a.d[stream, D_POS] + n)


@compiled
def _copy(a: Memory, stream: int) -> int:
    """The next number, which has been drawn."""
    return a.d[stream, D_COPY0 + (a.d[stream, D_POS] & D_COPIES - 1)]


@compiled
def peek(a: Memory, stream: int) -> int:
    """The next number, which stays the next."""
    has_next(a, stream, 0)
    return _copy(a, stream)


@compiled
def take(a: Memory, stream: int) -> None:
    """Goes on to the number after the next."""
    n = a.d[stream, D_POS] + 1
    a.d[stream, D_POS] = n
    if n & D_COPIES - 1 == 0:
        for i in range(min(D_COPIES, a.d[stream, D_LEN] - n)):
            a.d[stream, D_COPY0 + i] = load(a.d[stream, D_ADDRESS], n + i)


@compiled
def draw(a: Memory, stream: int) -> int:
    """The next number."""
    value = peek(a, stream)
    take(a, stream)
    return value


@compiled
def pass_instants(a: Memory, stream: int, time: int) -> tuple[int, int]:
    """Passes all instants up to and including ``time``: how many there were, and the last of them (-1: none)."""
    count, last = 0, -1
    while has_next(a, stream, 0):
        at = _copy(a, stream)
        if at > time:
            break
        count += 1
        last = at
        take(a, stream)
    return count, last
