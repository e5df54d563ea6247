"""Numbers of a stream one by one, from blocks that Python has drawn: the next ones are copied to the stream's row."""

from __future__ import annotations

from sim.engine.jit import Memory, call, compiled, fetch_number, load
from sim.engine.layout import ASK_DRAWS, CALLBACK, CONSTANT, D_COLUMNS, D_END, D_FIRST, D_LEFT, D_NEXT


@compiled
def has_more(a: Memory, stream: int, n: int) -> bool:
    """Whether there is an ``n``-th number after those in the row: unless drawing has failed, as the loop sees soon."""
    return a.d[stream, D_NEXT] + 8 * n < a.d[stream, D_END] or call(a.g[CALLBACK], ASK_DRAWS, stream, n, 0, 0) >= 0


@compiled
def left(a: Memory, stream: int) -> int:
    """How many numbers are in the row, which is filled if there are none; 0 where drawing has failed."""
    n = a.d[stream, D_LEFT]
    if n == 0 and has_more(a, stream, 0):
        block = a.d[stream, D_NEXT]
        n = min(D_COLUMNS - D_FIRST, (a.d[stream, D_END] - block) >> 3)
        for i in range(n):
            a.d[stream, D_COLUMNS - n + i] = load(block, i)
        fetch_number(block, 2 * n - 1)  # what is copied next: all blocks together are larger than a core's own caches
        a.d[stream, D_NEXT] = block + 8 * n
        a.d[stream, D_LEFT] = n
    return n


@compiled
def peek_at(a: Memory, stream: int, n: int) -> int:
    """The ``n``-th number from now on; 0 where drawing has failed."""
    if stream >= CONSTANT:
        return stream - CONSTANT
    here = a.d[stream, D_LEFT]
    if n < here:
        return a.d[stream, D_COLUMNS - here + n]
    return load(a.d[stream, D_NEXT], n - here) if has_more(a, stream, n - here) else 0


@compiled
def draw(a: Memory, stream: int) -> int:
    """The next number; 0 where drawing has failed."""
    if stream >= CONSTANT:
        return stream - CONSTANT
    n = left(a, stream)
    if n == 0:
        return 0
    a.d[stream, D_LEFT] = n - 1
    return a.d[stream, D_COLUMNS - n]


@compiled
def pass_instants(a: Memory, stream: int, time: int) -> tuple[int, int]:
    """Passes all instants up to and including ``time``: how many there were, and the last of them (-1: none)."""
    count, last = 0, -1
    while True:
        n = left(a, stream)
        if n == 0 or a.d[stream, D_COLUMNS - n] > time:
            return count, last
        count += 1
        last = a.d[stream, D_COLUMNS - n]
        a.d[stream, D_LEFT] = n - 1
