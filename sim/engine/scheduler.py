"""The run queues of sim.host.eevdf and sim.host.round_robin on arrays: the same functions, with the same names.

``q`` is the row of a queue: that of its CPU, or if queues are grouped one of those that follow.
"""

from __future__ import annotations

from sim.engine.jit import Memory, compiled, cycles, is_wide
from sim.engine.layout import (
    BASE_SLICE,
    BUDDY,
    CPUS,
    CURRENT_ENTITY,
    CUSTOM_SLICE,
    DEADLINE,
    DELAYED,
    ENDED,
    EXEC_START,
    FAIL_QUEUE,
    FAIL_VRUNTIME,
    FAILED,
    GROUP_LOAD,
    INV_WEIGHT,
    LISTED,
    LISTINGS,
    LOAD,
    MASK,
    MOST_QUEUED,
    ON_RQ,
    QUEUED,
    REL_DEADLINE,
    ROUND_ROBIN,
    RQ_RESCHED,
    RUNNING,
    SEVERAL_CPUS,
    SLICE,
    SLICE_END,
    TICK,
    V7_3,
    VLAG,
    VPROT,
    VRUNTIME,
    WEIGHT,
)
from sim.engine.virtual_time import FAR, avg_vruntime, rebase
from sim.engine.wide import Virtual


@compiled
def update_current(a: Memory, q: int, now: int) -> None:
    """update_curr() and update_deadline(), or their counterpart for round robin."""
    current = a.c[q, CURRENT_ENTITY]
    if current < 0:
        return
    t = a.t
    if a.g[ROUND_ROBIN]:
        t[current, EXEC_START] = now
        if now >= a.c[q, SLICE_END] and a.c[q, QUEUED]:
            a.c[q, RQ_RESCHED] = 1
        return
    delta = cycles(now - t[current, EXEC_START])
    if delta <= 0:
        return
    t[current, EXEC_START] = now
    inv = t[current, INV_WEIGHT]
    if not is_wide(a) and delta > FAR // inv:
        if a.c[q, QUEUED]:
            a.g[FAILED] = FAIL_VRUNTIME
        # Alone for so long that the request is over, whatever it was; nobody is there to compare with.
        t[current, SLICE] = t[current, CUSTOM_SLICE] if t[current, CUSTOM_SLICE] else a.g[BASE_SLICE]
        t[current, VRUNTIME] = 0
        t[current, VPROT] = -1
        t[current, DEADLINE] = t[current, SLICE] * inv
        return
    vruntime = t[current, VRUNTIME] + delta * inv
    t[current, VRUNTIME] = vruntime
    due = True
    if vruntime >= t[current, DEADLINE]:
        t[current, SLICE] = t[current, CUSTOM_SLICE] if t[current, CUSTOM_SLICE] else a.g[BASE_SLICE]
        t[current, DEADLINE] = vruntime + t[current, SLICE] * inv
    elif vruntime < t[current, VPROT]:
        due = False
    if due and a.c[q, QUEUED]:
        a.c[q, RQ_RESCHED] = 1
        clear_buddy(a, q, current)
    if not -FAR <= vruntime <= FAR:
        rebase(a, q, vruntime)


@compiled
def clear_buddy(a: Memory, q: int, entity: int) -> None:
    """clear_buddies(): it is not to run next any more."""
    if a.c[q, BUDDY] == entity:
        a.c[q, BUDDY] = -1


@compiled
def set_next_buddy(a: Memory, q: int, entity: int) -> None:
    """dequeue_entities(): a thread of a group sleeps, of which others are queued; v7.3's flat queue has no groups."""
    if not a.g[V7_3]:
        a.c[q, BUDDY] = entity


@compiled
def insert(a: Memory, q: int, entity: int) -> None:
    """Adds an entity at the end of the list."""
    n = a.c[q, QUEUED]
    if n >= a.g[MOST_QUEUED]:
        a.g[FAILED] = FAIL_QUEUE
        return
    a.queue[q, n] = entity
    a.c[q, QUEUED] = n + 1


@compiled
def remove(a: Memory, q: int, entity: int) -> None:
    """Takes an entity out of the list, whose order stays."""
    n = a.c[q, QUEUED]
    i = 0
    while i < n and a.queue[q, i] != entity:
        i += 1
    for j in range(i, n - 1):
        a.queue[q, j] = a.queue[q, j + 1]
    a.c[q, QUEUED] = n - 1


@compiled
def update_lag(a: Memory, q: int, entity: int, average: Virtual, delayed: int) -> None:
    """update_entity_lag(); in v7.3 clamped to the longest slice, and of a delayed one it grows no more negative."""
    t, before = a.t, a.t[entity, VLAG]
    if a.g[V7_3]:
        longest, current = t[entity, SLICE], a.c[q, CURRENT_ENTITY]
        if current >= 0:
            longest = max(longest, t[current, SLICE])
        for i in range(a.c[q, QUEUED]):
            longest = max(longest, t[a.queue[q, i], SLICE])
        limit = (longest + a.g[TICK]) * t[entity, INV_WEIGHT]
    else:
        limit = max(2 * t[entity, SLICE], a.g[TICK]) * t[entity, INV_WEIGHT]
    lag = max(-limit, min(average - t[entity, VRUNTIME], limit))
    if a.g[V7_3] and delayed:
        lag = min(max(lag, before), 0)
    t[entity, VLAG] = lag


@compiled
def place(a: Memory, q: int, entity: int, initial: bool) -> None:
    """place_entity()."""
    t = a.t
    t[entity, SLICE] = t[entity, CUSTOM_SLICE] if t[entity, CUSTOM_SLICE] else a.g[BASE_SLICE]
    lag = t[entity, VLAG]
    if lag != 0:
        load = t[a.c[q, CURRENT_ENTITY], WEIGHT] if a.c[q, CURRENT_ENTITY] >= 0 else 0
        for i in range(a.c[q, QUEUED]):
            load += t[a.queue[q, i], WEIGHT]
        if load:
            weight, quotient = t[entity, WEIGHT], lag // load
            lag += quotient * weight + (lag - quotient * load) * weight // load
        else:
            lag = 0
    vruntime = avg_vruntime(a, q) - lag
    t[entity, VRUNTIME] = vruntime
    if t[entity, REL_DEADLINE]:
        t[entity, DEADLINE] += vruntime
        t[entity, REL_DEADLINE] = 0
        return
    vslice = t[entity, SLICE] * t[entity, INV_WEIGHT]
    t[entity, DEADLINE] = vruntime + (vslice // 2 if initial else vslice)


@compiled
def requeue_delayed(a: Memory, q: int, entity: int) -> None:
    """requeue_delayed_entity(); here a thread that blocks leaves its CPU at once, so it is in the list when woken."""
    t, average = a.t, avg_vruntime(a, q)
    update_lag(a, q, entity, average, 1)
    if average - t[entity, VLAG] != t[entity, VRUNTIME] if a.g[V7_3] else t[entity, VLAG] > 0:
        remove(a, q, entity)
        if not a.g[V7_3]:
            t[entity, VLAG] = 0
        place(a, q, entity, False)
        insert(a, q, entity)
    t[entity, DELAYED] = 0
    a.c[q, RUNNING] += 1


@compiled
def list_first(a: Memory, entity: int) -> None:
    """An entity comes to the front of its CPU's cfs_tasks."""
    a.g[LISTINGS] += 1
    a.t[entity, LISTED] = a.g[LISTINGS]


@compiled
def enqueue(a: Memory, q: int, now: int, entity: int, initial: bool) -> None:
    """enqueue_task_fair(), or to the tail of a round-robin queue."""
    t = a.t
    if a.g[V7_3]:
        update_current(a, q, now)
    if t[entity, DELAYED]:
        requeue_delayed(a, q, entity)
        return
    update_current(a, q, now)
    if not a.g[ROUND_ROBIN]:
        place(a, q, entity, initial)
        list_first(a, entity)
    insert(a, q, entity)
    a.c[q, RUNNING] += 1
    if is_wide(a):
        note_on_rq(a, q, entity, 1)


@compiled
def note_on_rq(a: Memory, q: int, entity: int, on: int) -> None:
    """An entity is queued, or is not any more; keeps the loads of groups."""
    a.t[entity, ON_RQ] = on
    group = q // a.g[CPUS] - 2
    if group >= 0:
        weight = a.t[entity, WEIGHT] * (2 * on - 1)
        a.c[q, LOAD] += weight
        a.groups[group, GROUP_LOAD] += weight


@compiled
def leave_queue(a: Memory, q: int, entity: int) -> None:
    """Takes an entity off the queue: no longer current, or out of the list."""
    if entity == a.c[q, CURRENT_ENTITY]:
        a.c[q, CURRENT_ENTITY] = -1
    else:
        remove(a, q, entity)
    if is_wide(a):
        note_on_rq(a, q, entity, 0)


@compiled
def dequeue_delayed(a: Memory, q: int, now: int, entity: int) -> None:
    """A delayed entity leaves at last, with no lag in credit."""
    update_current(a, q, now)
    update_lag(a, q, entity, avg_vruntime(a, q), 1)
    a.t[entity, VLAG] = min(a.t[entity, VLAG], 0)
    leave_queue(a, q, entity)
    a.t[entity, DELAYED] = 0


@compiled
def dequeue(a: Memory, q: int, now: int, entity: int, sleep: bool) -> None:
    """dequeue_entity(): one that blocks with negative lag stays queued as delayed, except if it exits."""
    t = a.t
    clear_buddy(a, q, entity)
    update_current(a, q, now)
    a.c[q, RUNNING] -= 1
    if not a.g[ROUND_ROBIN]:
        average = avg_vruntime(a, q)
        if sleep and t[entity, VRUNTIME] > average and not t[entity, ENDED]:
            t[entity, DELAYED] = 1
            if a.g[V7_3]:
                update_lag(a, q, entity, avg_vruntime(a, q), 0)
            return
        update_lag(a, q, entity, average, 0)
        if not sleep:
            t[entity, DEADLINE] -= t[entity, VRUNTIME]
            t[entity, REL_DEADLINE] = 1
    leave_queue(a, q, entity)


@compiled
def pick_eevdf(a: Memory, q: int, protect: bool) -> int:
    """__pick_eevdf()."""
    t, current, n = a.t, a.c[q, CURRENT_ENTITY], a.c[q, QUEUED]
    if n == 0:
        return current
    average = avg_vruntime(a, q)
    if current >= 0:
        if t[current, VRUNTIME] > average:
            current = -1
        elif protect and t[current, VRUNTIME] < t[current, VPROT]:
            return current
    best = -1
    for i in range(n):
        entity = a.queue[q, i]
        if t[entity, VRUNTIME] <= average and (best < 0 or t[entity, DEADLINE] < t[best, DEADLINE]):
            best = entity
    if best < 0 or (current >= 0 and t[current, DEADLINE] < t[best, DEADLINE]):
        return current
    return best


@compiled
def waiting(a: Memory, q: int, there: int) -> int:
    """The entity that CPU ``there`` may pull, -1: any other, and that was listed first; -1: none.  Not a group's."""
    found = -1
    for i in range(a.c[q, QUEUED]):
        entity = a.queue[q, i]
        if a.t[entity, DELAYED] or (found >= 0 and a.t[entity, LISTED] >= a.t[found, LISTED]):
            continue
        if a.t[entity, SEVERAL_CPUS] if there < 0 else a.allowed[a.t[entity, MASK], there >> 5] >> (there & 31) & 1:
            found = entity
    return found


@compiled
def min_slice(a: Memory, q: int, shortest: int) -> int:
    """cfs_rq_min_slice()."""
    for i in range(a.c[q, QUEUED]):
        shortest = min(shortest, a.t[a.queue[q, i], SLICE])
    return shortest


@compiled
def pick_next_entity(a: Memory, q: int, protect: bool) -> int:
    """pick_next_entity(): an eligible buddy first (PICK_BUDDY)."""
    buddy = a.c[q, BUDDY]
    if protect and buddy >= 0 and a.c[q, QUEUED] and a.t[buddy, VRUNTIME] <= avg_vruntime(a, q):
        return buddy
    return pick_eevdf(a, q, protect)


@compiled
def pick_not_delayed(a: Memory, q: int, now: int, protect: bool) -> int:
    """The same until it finds one that is not delayed: delayed ones that come up are dequeued."""
    entity = pick_next_entity(a, q, protect)
    while entity >= 0 and a.t[entity, DELAYED]:
        dequeue_delayed(a, q, now, entity)
        entity = pick_next_entity(a, q, protect)
    return entity


@compiled
def set_protect_slice(a: Memory, q: int, entity: int) -> None:
    """Of the entity that has been picked."""
    t = a.t
    shortest = min_slice(a, q, t[entity, SLICE])
    if not a.g[V7_3]:
        t[entity, VPROT] = min(t[entity, DEADLINE], t[entity, VRUNTIME] + shortest * t[entity, INV_WEIGHT])
        return
    t[entity, VPROT] = t[entity, DEADLINE]
    if shortest < t[entity, SLICE]:  # ineligible_vruntime(): behind V of those who wait
        current, a.c[q, CURRENT_ENTITY] = a.c[q, CURRENT_ENTITY], -1
        t[entity, VPROT] = min(t[entity, VPROT], avg_vruntime(a, q) + 1)
        a.c[q, CURRENT_ENTITY] = current


@compiled
def set_next(a: Memory, q: int, now: int, entity: int) -> None:
    """put_prev_entity() and set_next_entity()."""
    clear_buddy(a, q, entity)
    if a.c[q, CURRENT_ENTITY] >= 0:
        insert(a, q, a.c[q, CURRENT_ENTITY])
    remove(a, q, entity)
    set_protect_slice(a, q, entity)
    list_first(a, entity)
    a.t[entity, EXEC_START] = now
    a.c[q, CURRENT_ENTITY] = entity


@compiled
def pick_next(a: Memory, q: int, now: int) -> int:
    """pick_next_task_fair(), or the head of a round-robin queue; -1: none."""
    update_current(a, q, now)
    t, previous = a.t, a.c[q, CURRENT_ENTITY]
    if a.g[ROUND_ROBIN]:
        if previous >= 0:
            if not a.c[q, RQ_RESCHED]:
                return previous
            insert(a, q, previous)
        a.c[q, RQ_RESCHED] = 0
        if a.c[q, QUEUED] == 0:
            a.c[q, CURRENT_ENTITY] = -1
            return -1
        entity = a.queue[q, 0]
        remove(a, q, entity)
        a.c[q, CURRENT_ENTITY] = entity
        t[entity, EXEC_START] = now
        a.c[q, SLICE_END] = now + a.g[BASE_SLICE]
        return entity
    entity = pick_not_delayed(a, q, now, True)
    a.c[q, RQ_RESCHED] = 0
    if entity >= 0 and entity != a.c[q, CURRENT_ENTITY]:
        set_next(a, q, now, entity)
    return entity
