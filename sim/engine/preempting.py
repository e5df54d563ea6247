"""When the running thread has to make way for another, by the run queue (sim.host.eevdf, eevdf_v7_3, round_robin)."""

from __future__ import annotations

from sim.engine.interrupts import tick_after
from sim.engine.jit import Memory, compiled
from sim.engine.layout import (
    BUDDY,
    CURRENT_ENTITY,
    DEADLINE,
    EXEC_START,
    INF,
    INV_WEIGHT,
    QUEUED,
    ROUND_ROBIN,
    RQ_RESCHED,
    SLICE,
    SLICE_END,
    V7_3,
    VPROT,
    VRUNTIME,
)
from sim.engine.scheduler import avg_vruntime, min_slice, pick_eevdf, pick_not_delayed, update_current


@compiled
def wakeup_preempt(a: Memory, c: int, now: int, entity: int, fork: bool) -> None:
    """wakeup_preempt_fair() of v7.3."""
    t, current = a.t, a.c[c, CURRENT_ENTITY]
    short = t[entity, SLICE] < t[current, SLICE]
    if (short or not fork) and (
        pick_not_delayed(a, c, now, not short) == entity or (short and t[entity, VRUNTIME] <= avg_vruntime(a, c))
    ):
        t[current, VPROT] = min(t[current, VPROT], t[current, VRUNTIME])
        if short and not (a.c[c, BUDDY] >= 0 and t[a.c[c, BUDDY], SLICE] < t[entity, SLICE]):
            a.c[c, BUDDY] = entity
        a.c[c, RQ_RESCHED] = 1
    else:
        start = min(t[current, VRUNTIME], avg_vruntime(a, c))
        t[current, VPROT] = min(t[current, VPROT], start + min_slice(a, c, t[current, SLICE]) * t[current, INV_WEIGHT])


@compiled
def wakeup_preempts(a: Memory, c: int, now: int, entity: int, fork: bool) -> bool:
    """check_preempt_wakeup_fair(); of an idle CPU, always."""
    t, current = a.t, a.c[c, CURRENT_ENTITY]
    if current < 0:
        return True
    if a.g[ROUND_ROBIN] or entity == current or (a.c[c, RQ_RESCHED] and not a.g[V7_3]):
        return a.c[c, RQ_RESCHED] != 0
    update_current(a, c, now)
    if a.g[V7_3]:
        wakeup_preempt(a, c, now, entity, fork)
        return a.c[c, RQ_RESCHED] != 0
    short = t[entity, SLICE] < t[current, SLICE]
    if pick_eevdf(a, c, not short) == entity:
        if short:
            t[current, VPROT] = min(t[current, VPROT], t[current, VRUNTIME])
        a.c[c, RQ_RESCHED] = 1
    elif short:
        shortest = min_slice(a, c, t[current, SLICE])
        t[current, VPROT] = min(t[current, VPROT], t[current, VRUNTIME] + shortest * t[current, INV_WEIGHT])
    return a.c[c, RQ_RESCHED] != 0


@compiled
def preempt_time(a: Memory, c: int) -> int:
    """When update_curr() would first find the request or the protection used up; INF: never."""
    t, current = a.t, a.c[c, CURRENT_ENTITY]
    if current < 0:
        return INF
    if a.g[ROUND_ROBIN]:
        return max(a.c[c, SLICE_END], t[current, EXEC_START]) if a.c[c, QUEUED] else INF
    if a.c[c, RQ_RESCHED]:
        return t[current, EXEC_START]
    if a.c[c, QUEUED] == 0:
        return INF
    left = min(t[current, VPROT], t[current, DEADLINE]) - t[current, VRUNTIME]
    return t[current, EXEC_START] + max(1, -(-left // t[current, INV_WEIGHT]))


@compiled
def time_to_deadline(a: Memory, c: int) -> int:
    """What is left of the running thread's request, or quantum; -1 if nobody waits."""
    t, current = a.t, a.c[c, CURRENT_ENTITY]
    if current < 0 or a.c[c, QUEUED] == 0:
        return -1
    if a.g[ROUND_ROBIN]:
        return max(0, a.c[c, SLICE_END] - t[current, EXEC_START])
    return max(0, -((t[current, VRUNTIME] - t[current, DEADLINE]) // t[current, INV_WEIGHT]))


@compiled
def catch_up_ticks(a: Memory, c: int, now: int) -> None:
    """Does what ticks do to the request of a thread that ran alone: they renew it when it is used up."""
    t, current = a.t, a.c[c, CURRENT_ENTITY]
    if current < 0 or a.c[c, QUEUED] or a.g[ROUND_ROBIN]:
        return
    while True:
        left = t[current, DEADLINE] - t[current, VRUNTIME]
        tick = tick_after(a, c, t[current, EXEC_START] + max(1, -(-left // t[current, INV_WEIGHT])))
        if tick > now:
            return
        update_current(a, c, tick)
