"""The virtual times of a run queue: 64 bits wide, or 128 with the arrays of ``wide(a)``.

Only differences within a queue matter, so a queue is moved back to 0 before they grow too large; sums that may not fit
are divided term by term, which gives the same whole numbers.
"""

from __future__ import annotations

from sim.engine.jit import Memory, compiled, is_wide
from sim.engine.layout import (
    CURRENT_ENTITY,
    DEADLINE,
    FAIL_VRUNTIME,
    FAILED,
    QUEUED,
    SAME_WEIGHT,
    VPROT,
    VRUNTIME,
    WEIGHT,
)
from sim.engine.wide import Virtual

FAR, MANY = 1 << 60, 64


@compiled
def avg_vruntime(a: Memory, q: int) -> int:
    """V, the weighted mean of vruntime, rounded down; 0 in an empty queue."""
    t, n, current = a.t, a.c[q, QUEUED], a.c[q, CURRENT_ENTITY]
    if n == 0:
        return t[current, VRUNTIME] if current >= 0 else 0
    origin = t[a.queue[q, 0], VRUNTIME]
    if a.g[SAME_WEIGHT]:
        total, farthest, entities = 0, 0, n
        for i in range(1, n):
            ahead = t[a.queue[q, i], VRUNTIME] - origin
            total += ahead
            farthest = max(farthest, max(ahead, -ahead))
        if current >= 0:
            ahead = t[current, VRUNTIME] - origin
            total += ahead
            farthest = max(farthest, max(ahead, -ahead))
            entities += 1
        # Else the sum may have overflowed, and is divided term by term.
        if is_wide(a) or (entities <= MANY and farthest <= FAR // MANY) or farthest <= FAR // entities:
            return origin + total // entities
    load = 0
    for i in range(n):
        load += t[a.queue[q, i], WEIGHT]
    if current >= 0:
        load += t[current, WEIGHT]
    whole = rest = 0
    for i in range(n + 1):
        entity = a.queue[q, i] if i < n else current
        if entity >= 0:
            weight, ahead = t[entity, WEIGHT], t[entity, VRUNTIME] - origin
            quotient = ahead // load
            whole += weight * quotient
            rest += weight * (ahead - quotient * load)
    return origin + whole + rest // load


@compiled
def rebase(a: Memory, q: int, by: Virtual) -> None:
    """Moves all virtual times of a queue back, including those of the running thread, which becomes 0.

    Those who wait may be far behind it if nothing could preempt it for long, and then 64 bits may not be enough.
    """
    n = a.c[q, QUEUED]
    for i in range(n + 1):
        entity = a.queue[q, i] if i < n else a.c[q, CURRENT_ENTITY]
        a.t[entity, VRUNTIME] -= by
        a.t[entity, DEADLINE] -= by
        a.t[entity, VPROT] -= by
        if not is_wide(a) and not -FAR <= a.t[entity, VRUNTIME] <= FAR:
            a.g[FAILED] = FAIL_VRUNTIME
