"""When what runs has to make way for another of its queue, or yields (sim.host.eevdf, eevdf_v7_3, round_robin)."""

from __future__ import annotations

from sim.engine.jit import Memory, compiled, cycles, is_wide
from sim.engine.layout import (
    BUDDY,
    CURRENT_ENTITY,
    DEADLINE,
    DELAYED,
    EXEC_START,
    FORCED_AT,
    FORCED_EVERY,
    INF,
    INV_WEIGHT,
    LAG_CREDIT,
    NOW,
    QUEUED,
    ROUND_ROBIN,
    RQ_RESCHED,
    SLICE,
    SLICE_END,
    TICK,
    V7_3,
    VPROT,
    VRUNTIME,
    WEIGHT,
)
from sim.engine.scheduler import insert, min_slice, pick_eevdf, pick_not_delayed, remove, update_current
from sim.engine.virtual_time import avg_vruntime


@compiled
def wakeup_preempt(a: Memory, q: int, now: int, entity: int, fork: bool) -> None:
    """wakeup_preempt_fair() of v7.3."""
    t, current = a.t, a.c[q, CURRENT_ENTITY]
    short = t[entity, SLICE] < t[current, SLICE]
    if (short or not fork) and (
        pick_not_delayed(a, q, now, not short) == entity or (short and t[entity, VRUNTIME] <= avg_vruntime(a, q))
    ):
        t[current, VPROT] = min(t[current, VPROT], t[current, VRUNTIME])
        if short and not (a.c[q, BUDDY] >= 0 and t[a.c[q, BUDDY], SLICE] < t[entity, SLICE]):
            a.c[q, BUDDY] = entity
        a.c[q, RQ_RESCHED] = 1
    else:
        start = min(t[current, VRUNTIME], avg_vruntime(a, q))
        t[current, VPROT] = min(t[current, VPROT], start + min_slice(a, q, t[current, SLICE]) * t[current, INV_WEIGHT])


@compiled
def wakeup_preempts(a: Memory, q: int, now: int, entity: int, fork: bool) -> bool:
    """check_preempt_wakeup_fair(); of an idle CPU, always."""
    t, current = a.t, a.c[q, CURRENT_ENTITY]
    if current < 0:
        return True
    if a.g[ROUND_ROBIN] or entity == current or (a.c[q, RQ_RESCHED] and not a.g[V7_3]):
        return a.c[q, RQ_RESCHED] != 0
    update_current(a, q, now)
    if a.g[V7_3]:
        wakeup_preempt(a, q, now, entity, fork)
        return a.c[q, RQ_RESCHED] != 0
    short = t[entity, SLICE] < t[current, SLICE]
    if pick_eevdf(a, q, not short) == entity:
        if short:
            t[current, VPROT] = min(t[current, VPROT], t[current, VRUNTIME])
        a.c[q, RQ_RESCHED] = 1
    elif short:
        shortest = min_slice(a, q, t[current, SLICE])
        t[current, VPROT] = min(t[current, VPROT], t[current, VRUNTIME] + shortest * t[current, INV_WEIGHT])
    return a.c[q, RQ_RESCHED] != 0


@compiled
def preempt_time(a: Memory, q: int) -> int:
    """When update_curr() would first find the request or the protection used up; INF: never."""
    t, current = a.t, a.c[q, CURRENT_ENTITY]
    if current < 0:
        return INF
    if a.g[ROUND_ROBIN]:
        return max(a.c[q, SLICE_END], t[current, EXEC_START]) if a.c[q, QUEUED] else INF
    if a.c[q, RQ_RESCHED]:
        return t[current, EXEC_START]
    if a.c[q, QUEUED] == 0:
        return INF
    left = min(t[current, VPROT], t[current, DEADLINE]) - t[current, VRUNTIME]
    return t[current, EXEC_START] + cycles(max(1, -(-left // t[current, INV_WEIGHT])))


@compiled
def time_to_deadline(a: Memory, q: int) -> int:
    """What is left of the running thread's request, or quantum; -1 if nobody waits."""
    t, current = a.t, a.c[q, CURRENT_ENTITY]
    if current < 0 or a.c[q, QUEUED] == 0:
        return -1
    if a.g[ROUND_ROBIN]:
        return max(0, a.c[q, SLICE_END] - t[current, EXEC_START])
    return cycles(max(0, -((t[current, VRUNTIME] - t[current, DEADLINE]) // t[current, INV_WEIGHT])))


@compiled
def renewal_time(a: Memory, q: int) -> int:
    """When the request of an entity that is alone in its queue is used up; INF: nothing renews it."""
    t, current = a.t, a.c[q, CURRENT_ENTITY]
    if current < 0 or a.c[q, QUEUED] or a.g[ROUND_ROBIN]:
        return INF
    left = t[current, DEADLINE] - t[current, VRUNTIME]
    return t[current, EXEC_START] + cycles(max(1, -(-left // t[current, INV_WEIGHT])))


@compiled
def nominate(a: Memory, q: int, entity: int) -> bool:
    """yield_to_task_fair(): sets the buddy, which is made eligible first if the target gets a credit of lag."""
    if a.g[ROUND_ROBIN] or a.t[entity, DELAYED]:
        return False
    a.c[q, BUDDY] = entity
    if a.g[LAG_CREDIT] and entity != a.c[q, CURRENT_ENTITY]:  # as the group of both may be
        t, queued = a.t, a.c[q, QUEUED]
        update_current(a, q, a.g[NOW])
        weight, inv = t[entity, WEIGHT], t[entity, INV_WEIGHT]
        margin = max(2 * t[entity, SLICE], a.g[TICK]) * inv  # the upper bound
        eighth = t[entity, SLICE] * inv // 8
        rest = t[entity, SLICE] * inv - 8 * eighth
        if is_wide(a) or queued <= margin // max(
            eighth, 1
        ):  # else the sum exceeds the bound, and may not fit in 64 bits
            margin = min(margin, queued * eighth + queued * rest // 8)
        remove(a, q, entity)
        others = t[a.c[q, CURRENT_ENTITY], WEIGHT] if a.c[q, CURRENT_ENTITY] >= 0 else 0
        for i in range(a.c[q, QUEUED]):
            others += t[a.queue[q, i], WEIGHT]
        inflated = 0
        if others:
            quotient = margin // others
            inflated = margin + quotient * weight + (margin - quotient * others) * weight // others
        moved = max(0, t[entity, VRUNTIME] - (avg_vruntime(a, q) - inflated))
        t[entity, VRUNTIME] -= moved
        t[entity, DEADLINE] -= moved
        insert(a, q, entity)
    return True


@compiled
def forfeit(a: Memory, q: int) -> None:
    """yield_task_fair(); with a credit of lag, the thread that yields loses its protection, once in FORCED_EVERY.

    There is no buddy to clear: a thread that runs is not one.  Round robin nominates nobody, so that nobody yields.
    """
    t, current, now = a.t, a.c[q, CURRENT_ENTITY], a.g[NOW]
    update_current(a, q, now)
    if t[current, VRUNTIME] <= avg_vruntime(a, q):
        t[current, VRUNTIME] = t[current, DEADLINE]
        t[current, DEADLINE] += t[current, SLICE] * t[current, INV_WEIGHT]
    if a.g[LAG_CREDIT] and (a.c[q, FORCED_AT] < 0 or now - a.c[q, FORCED_AT] >= a.g[FORCED_EVERY]):
        a.c[q, FORCED_AT] = now
        t[current, VPROT] = min(t[current, VPROT], t[current, VRUNTIME])
