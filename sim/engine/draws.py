"""Numbers of a stream one by one, from blocks that Python has drawn."""

from __future__ import annotations

from sim.engine.jit import Memory, call, compiled, fetch_number, load
from sim.engine.layout import ASK_DRAWS, CALLBACK, D_ADDRESS, D_LEN, D_POS

LINE = 8
"""Numbers of a cache line.  The next one of each stream is fetched early: all blocks together are larger than a core's
own caches, and streams take turns."""


@compiled
def has_next(a: Memory, stream: int, n: int) -> bool:
    """Whether there is an ``n``-th number from now on: unless drawing has failed, which the loop sees before long."""
    return a.d[stream, D_POS] + n < a.d[stream, D_LEN] or call(a.g[CALLBACK], ASK_DRAWS, stream, n, 0, 0) >= 0


@compiled
def peek_at(a: Memory, stream: int, n: int) -> int:
    """The ``n``-th number from now on; 0 where drawing has failed."""
    return load(a.d[stream, D_ADDRESS], a.d[stream, D_POS] + n) if has_next(a, stream, n) else 0


@compiled
def draw(a: Memory, stream: int) -> int:
    """The next number."""
    value = peek_at(a, stream, 0)
    fetch_number(a.d[stream, D_ADDRESS], a.d[stream, D_POS] + LINE)
    a.d[stream, D_POS] += 1
    return value


@compiled
def pass_instants(a: Memory, stream: int, time: int) -> tuple[int, int]:
    """Passes all instants up to and including ``time``: how many there were, and the last of them (-1: none)."""
    count, last = 0, -1
    while has_next(a, stream, 0):
        at = load(a.d[stream, D_ADDRESS], a.d[stream, D_POS])
        if at > time:
            break
        count += 1
        last = at
        a.d[stream, D_POS] += 1
    return count, last
