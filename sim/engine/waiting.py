"""Who wakes whom (sim.host.waiting)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.halting import deliver
from sim.engine.host import wake
from sim.engine.jit import Memory, compiled
from sim.engine.layout import (
    ARMED,
    BLOCKED,
    HAS_WOKEN,
    KIND,
    TARGET,
    VCPU,
    WAITING_REQUESTS,
    WAKES_LEFT,
    WAKES_NOW,
    WAKES_STOP,
    WAKEUP,
    WAKEUPS,
    WK_MORE,
    WK_QUEUE,
    WK_WHOLE,
)
from sim.engine.process import synced
from sim.engine.rescheduling import spend
from sim.engine.wait_queues import take


@compiled
def ends_wait(a: Memory, t: int) -> bool:
    """A thread has been taken from its queue; True if it sleeps, and has to be woken up."""
    if a.t[t, KIND] == VCPU:
        a.t[t, ARMED] = 0
        a.t[t, WAITING_REQUESTS] += 1
        return deliver(a, t)
    return a.t[t, BLOCKED] != 0


@compiled
def finds_sleeper(a: Memory, c: int) -> bool:
    """Finds the next thread that has to be woken up, if there is one."""
    while a.c[c, WAKES_NOW] < a.c[c, WAKES_STOP]:
        row = a.c[c, WAKES_NOW]
        if a.c[c, WAKES_LEFT] < 0:
            a.c[c, WAKES_LEFT] = a.wakes[row, WK_WHOLE] + draw(a, a.wakes[row, WK_MORE])
        while a.c[c, WAKES_LEFT]:
            a.c[c, WAKES_LEFT] -= 1
            waiter = take(a, a.wakes[row, WK_QUEUE])
            if waiter < 0:
                break
            if ends_wait(a, waiter):
                a.c[c, TARGET] = waiter
                return True
        a.c[c, WAKES_NOW] = row + 1
        a.c[c, WAKES_LEFT] = -1
    return False


@compiled
def set_wakes(a: Memory, c: int, first: int, end: int) -> None:
    """Sets whom :func:`wakes_others` wakes: those in rows ``first`` to ``end`` of ``wakes``."""
    a.c[c, WAKES_NOW] = first
    a.c[c, WAKES_STOP] = end
    a.c[c, WAKES_LEFT] = -1
    a.c[c, HAS_WOKEN] = 0


@compiled
def wakes_others(a: Memory, c: int, place: int, goes_on: int) -> bool:
    """wake(): False if the process has to wait, and go on at ``goes_on``."""
    if place == goes_on:
        wake_up(a, c)
    while finds_sleeper(a, c):
        a.c[c, HAS_WOKEN] = 1
        spend(a, c, WAKEUP, draw(a, a.g[WAKEUPS]))
        if not synced(a, c, goes_on):
            return False
        wake_up(a, c)
    return True


@compiled
def wake_up(a: Memory, c: int) -> None:
    """try_to_wake_up() of the one that has been found, unless another CPU was faster."""
    if a.t[a.c[c, TARGET], BLOCKED]:
        wake(a, a.c[c, TARGET], c, False)
