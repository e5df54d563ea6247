"""A CPU's run queue as the host sees it (sim.host.runqueue): one queue, or one of queues if there are groups."""

from __future__ import annotations

from sim.engine import eevdf_groups, preempting, scheduler
from sim.engine.interrupts import tick_after
from sim.engine.jit import Memory, compiled, wide
from sim.engine.layout import GROUPED, INF, QUEUED, RQ_RESCHED


@compiled
def need_resched(a: Memory, c: int) -> bool:
    """Whether the queue has asked for the CPU."""
    return eevdf_groups.need_resched(wide(a), c) if a.g[GROUPED] else a.c[c, RQ_RESCHED] != 0


@compiled
def update_current(a: Memory, c: int, now: int) -> None:
    """Accounts for what runs."""
    if a.g[GROUPED]:
        eevdf_groups.update_current(wide(a), c, now)
    else:
        scheduler.update_current(a, c, now)


@compiled
def enqueue(a: Memory, c: int, now: int, thread: int, initial: bool) -> None:
    """Makes a thread runnable on the CPU."""
    if a.g[GROUPED]:
        eevdf_groups.enqueue(wide(a), c, now, thread, initial)
    else:
        scheduler.enqueue(a, c, now, thread, initial)


@compiled
def dequeue(a: Memory, c: int, now: int, thread: int, sleep: bool) -> None:
    """Takes a thread off, which blocks or moves."""
    if a.g[GROUPED]:
        eevdf_groups.dequeue(wide(a), c, now, thread, sleep)
    else:
        scheduler.dequeue(a, c, now, thread, sleep)


@compiled
def pick_next(a: Memory, c: int, now: int) -> int:
    """What runs from now on; -1: none."""
    return eevdf_groups.pick_next(wide(a), c, now) if a.g[GROUPED] else scheduler.pick_next(a, c, now)


@compiled
def wakeup_preempts(a: Memory, c: int, now: int, thread: int, fork: bool) -> bool:
    """Whether what runs has to be rescheduled now that a thread has been enqueued."""
    if a.g[GROUPED]:
        return eevdf_groups.wakeup_preempts(wide(a), c, now, thread, fork)
    return preempting.wakeup_preempts(a, c, now, thread, fork)


@compiled
def preempt_time(a: Memory, c: int) -> int:
    """When a tick would ask for the CPU at the earliest; INF: never."""
    return eevdf_groups.preempt_time(wide(a), c) if a.g[GROUPED] else preempting.preempt_time(a, c)


@compiled
def time_to_deadline(a: Memory, c: int) -> int:
    """What is left of the running thread's request, or quantum; -1 if nobody waits."""
    return eevdf_groups.time_to_deadline(wide(a), c) if a.g[GROUPED] else preempting.time_to_deadline(a, c)


@compiled
def catch_up_ticks(a: Memory, c: int, now: int) -> None:
    """Does what ticks do to the request of a thread that ran alone: they renew it when it is used up."""
    while True:
        time = eevdf_groups.renewal_time(wide(a), c) if a.g[GROUPED] else preempting.renewal_time(a, c)
        if time == INF:
            return
        tick = tick_after(a, c, time)
        if tick > now:
            return
        update_current(a, c, tick)


@compiled
def alone(a: Memory, c: int) -> bool:
    """single_task_running(): nothing but what runs is queued."""
    return eevdf_groups.alone(wide(a), c) if a.g[GROUPED] else a.c[c, QUEUED] == 0


@compiled
def nominate(a: Memory, c: int, thread: int) -> bool:
    """yield_to_task(): a thread that waits there is to run next."""
    return eevdf_groups.nominate(wide(a), c, thread) if a.g[GROUPED] else preempting.nominate(a, c, thread)


@compiled
def forfeit(a: Memory, c: int) -> None:
    """yield_task(): what runs gives up what is left of its request, unless nothing else is queued."""
    if alone(a, c):
        return
    if a.g[GROUPED]:
        eevdf_groups.forfeit(wide(a), c)
    else:
        preempting.forfeit(a, c)


@compiled
def waiting(a: Memory, c: int, there: int) -> int:
    """The thread that CPU ``there`` may pull first, -1: any other; -1: none."""
    return eevdf_groups.waiting(wide(a), c, there) if a.g[GROUPED] else scheduler.waiting(a, c, there)
