"""Wait queues, as links between the rows of threads (sim.host.waiting.WaitQueue)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.events import push
from sim.engine.jit import Memory, compiled
from sim.engine.layout import (
    AT_MOST,
    NEXT_WAITER,
    NOW,
    ON_QUEUE,
    PREV_WAITER,
    Q_FIRST,
    Q_LAST,
    Q_PLACES,
    TIMEOUT,
    TIMER,
    WAIT_QUEUE,
    WAIT_TIMEOUT,
    WAITS_DRAWS,
)
from sim.host.waiting import PLACE_BITS


@compiled
def waits(a: Memory, t: int) -> bool:
    """Whether the next sleep waits for somebody."""
    return a.t[t, WAIT_QUEUE] >= 0 and draw(a, a.t[t, WAITS_DRAWS]) != 0


@compiled
def join(a: Memory, t: int) -> None:
    """prepare_to_wait_exclusive(); the time limit of an earlier wait does not end this one."""
    queue = a.t[t, WAIT_QUEUE]
    last = a.waiters[queue, Q_LAST]
    a.t[t, ON_QUEUE] = 1
    a.t[t, WAIT_TIMEOUT] = -1
    a.t[t, PREV_WAITER] = last
    a.t[t, NEXT_WAITER] = -1
    if last >= 0:
        a.t[last, NEXT_WAITER] = t
    else:
        a.waiters[queue, Q_FIRST] = t
    a.waiters[queue, Q_LAST] = t


@compiled
def leave_wait(a: Memory, t: int) -> None:
    """finish_wait() of one that is on its queue."""
    queue, before, after = a.t[t, WAIT_QUEUE], a.t[t, PREV_WAITER], a.t[t, NEXT_WAITER]
    a.t[t, ON_QUEUE] = 0
    if before >= 0:
        a.t[before, NEXT_WAITER] = after
    else:
        a.waiters[queue, Q_FIRST] = after
    if after >= 0:
        a.t[after, PREV_WAITER] = before
    else:
        a.waiters[queue, Q_LAST] = before


@compiled
def take(a: Memory, queue: int) -> int:
    """Takes off the thread that is woken next; -1: none waits."""
    t = a.waiters[queue, Q_FIRST]
    if t < 0:
        return t
    if a.waiters[queue, Q_PLACES] >= 0:
        n = 0
        while t >= 0:
            n += 1
            t = a.t[t, NEXT_WAITER]
        t = a.waiters[queue, Q_FIRST]
        for _ in range(draw(a, a.waiters[queue, Q_PLACES]) * n >> PLACE_BITS):
            t = a.t[t, NEXT_WAITER]
    leave_wait(a, t)
    return t


@compiled
def limit_wait(a: Memory, t: int) -> None:
    """Sets when the wait ends by itself, if it has a time limit."""
    if a.t[t, AT_MOST] >= 0:
        a.t[t, WAIT_TIMEOUT] = push(a, a.g[NOW] + a.t[t, AT_MOST], TIMER, TIMEOUT, t)


@compiled
def times_out(a: Memory, t: int, timeout: int) -> bool:
    """Ends the wait that began with this time limit; False if it is over already."""
    if a.t[t, WAIT_TIMEOUT] != timeout or not a.t[t, ON_QUEUE]:
        return False
    leave_wait(a, t)
    return True
