"""Control groups: the run queues of sim.host.eevdf_groups on arrays, the same functions with the same names.

A CPU's row has what all of its threads have together.  The row after all CPUs' is its root queue, the next ones are the
queues of the groups there; a group's entities have rows after those of all threads.  ``a`` is ``wide(a)`` throughout.
A host without groups, whose virtual times do not fit in 64 bits, has a root queue only.
"""

from __future__ import annotations

from sim.engine import preempting, scheduler
from sim.engine.jit import Memory, compiled
from sim.engine.layout import (
    BUDDY,
    CPUS,
    CURRENT_ENTITY,
    DEADLINE,
    DELAYED,
    ENTITIES,
    GROUP,
    GROUP_LOAD,
    GROUP_WEIGHT,
    GROUPS,
    IDLE_THREAD,
    INV_WEIGHT,
    LISTED,
    LOAD,
    ON_RQ,
    QUEUED,
    REL_DEADLINE,
    RQ_RESCHED,
    RUNNING,
    THREAD,
    V7_3,
    VLAG,
    VPROT,
    VRUNTIME,
    WEIGHT,
)
from sim.engine.virtual_time import avg_vruntime
from sim.host.eevdf_groups import LEAST_SHARES
from sim.host.weights import WMULT_SHIFT

ONE = 1 << WMULT_SHIFT


@compiled
def root(a: Memory, c: int) -> int:
    """The root queue of a CPU."""
    return a.g[CPUS] + c


@compiled
def parent(a: Memory, thread: int, c: int) -> int:
    """The entity of a thread's group on a CPU; -1: it is in none."""
    group = a.t[thread, GROUP]
    return -1 if group < 0 else a.g[ENTITIES] + group * a.g[CPUS] + c


@compiled
def group_queue(a: Memory, entity: int) -> int:
    """The queue that a group's entity stands for."""
    return entity - a.g[ENTITIES] + 2 * a.g[CPUS]


@compiled
def level(a: Memory, c: int) -> int:
    """The queue of the group of which a thread runs; -1: it is in none."""
    current = a.c[root(a, c), CURRENT_ENTITY]
    return group_queue(a, current) if current >= a.g[ENTITIES] else -1


@compiled
def need_resched(a: Memory, c: int) -> bool:
    """Whether the root or the group that runs has asked for the CPU."""
    q = level(a, c)
    return a.c[root(a, c), RQ_RESCHED] != 0 or (q >= 0 and a.c[q, RQ_RESCHED] != 0)


@compiled
def update_current(a: Memory, c: int, now: int) -> None:
    """update_curr() of each level."""
    q = level(a, c)
    scheduler.update_current(a, root(a, c), now)
    if q >= 0:
        scheduler.update_current(a, q, now)


@compiled
def reweight(a: Memory, q: int, now: int, entity: int, weight: int) -> None:
    """reweight_entity(), which finds what runs among those that are queued; v7.3's reweight_eevdf(), around V."""
    t, old, queued = a.t, a.t[entity, WEIGHT], a.t[entity, ON_RQ] != 0
    if weight == old:
        return
    is_current, average = entity == a.c[q, CURRENT_ENTITY], t[entity, VRUNTIME]
    if queued:
        scheduler.update_current(a, q, now)
        average = avg_vruntime(a, q)
        scheduler.update_lag(a, q, entity, average, 0)
        start = average if a.g[V7_3] else t[entity, VRUNTIME]
        t[entity, DEADLINE] = (t[entity, DEADLINE] - start) * old // weight
        if a.g[V7_3]:
            t[entity, DEADLINE] += average
            if is_current and t[entity, VRUNTIME] < t[entity, VPROT]:
                t[entity, VPROT] = average + (t[entity, VPROT] - average) * old // weight
        if not is_current:
            scheduler.remove(a, q, entity)
    t[entity, WEIGHT] = weight
    t[entity, INV_WEIGHT] = ONE // weight
    t[entity, VLAG] = t[entity, VLAG] * old // weight
    if queued:
        if a.g[V7_3]:
            t[entity, VRUNTIME] = average - t[entity, VLAG]
        else:
            t[entity, REL_DEADLINE] = 1
            scheduler.place(a, q, entity, False)
        if not is_current:
            scheduler.insert(a, q, entity)


@compiled
def weigh(a: Memory, c: int, now: int, entity: int) -> None:
    """update_cfs_group(): what a group weighs on a CPU; one without threads there keeps what it had."""
    q = group_queue(a, entity)
    load = a.c[q, LOAD]
    if load:
        group = q // a.g[CPUS] - 2
        shares = a.groups[group, GROUP_WEIGHT] * load // a.groups[group, GROUP_LOAD]
        reweight(a, root(a, c), now, entity, max(LEAST_SHARES, shares))


@compiled
def enqueue(a: Memory, c: int, now: int, thread: int, initial: bool) -> None:
    """enqueue_task_fair(): what the group weighs is renewed, unless only the thread's delay ends (ENQUEUE_DELAYED)."""
    a.c[c, RUNNING] += 1
    entity = parent(a, thread, c)
    if entity < 0:
        scheduler.enqueue(a, root(a, c), now, thread, initial)
        return
    delayed = a.t[thread, DELAYED]
    scheduler.enqueue(a, group_queue(a, entity), now, thread, initial)
    if delayed:
        return
    if a.t[entity, DELAYED]:
        scheduler.enqueue(a, root(a, c), now, entity, False)
    weigh(a, c, now, entity)
    if not a.t[entity, ON_RQ]:
        scheduler.enqueue(a, root(a, c), now, entity, False)


@compiled
def dequeue(a: Memory, c: int, now: int, thread: int, sleep: bool) -> None:
    """dequeue_task_fair(): the last one of a group takes its entity along; one that is delayed does nothing above."""
    a.c[c, RUNNING] -= 1
    entity = parent(a, thread, c)
    if entity < 0:
        scheduler.dequeue(a, root(a, c), now, thread, sleep)
        return
    q = group_queue(a, entity)
    if a.c[q, BUDDY] == thread:
        scheduler.clear_buddy(a, root(a, c), entity)
    scheduler.dequeue(a, q, now, thread, sleep)
    if not a.t[thread, ON_RQ]:
        left(a, c, now, entity, sleep)


@compiled
def left(a: Memory, c: int, now: int, entity: int, sleep: bool) -> None:
    """dequeue_entities(), above a thread that has left its group: the last one takes the group's entity along."""
    if not a.c[group_queue(a, entity), LOAD]:
        scheduler.dequeue(a, root(a, c), now, entity, True)
        return
    if sleep:
        scheduler.set_next_buddy(a, root(a, c), entity)
    weigh(a, c, now, entity)


@compiled
def dequeue_delayed(a: Memory, c: int, now: int, entity: int) -> None:
    """dequeue_entities(DEQUEUE_SLEEP | DEQUEUE_DELAYED)."""
    group = parent(a, entity, c) if entity < a.g[ENTITIES] else -1
    scheduler.dequeue_delayed(a, root(a, c) if group < 0 else group_queue(a, group), now, entity)
    if group >= 0:
        left(a, c, now, group, True)


@compiled
def put_previous(a: Memory, q: int) -> None:
    """put_prev_entity() of what runs in a group, since another group goes on."""
    if a.c[q, CURRENT_ENTITY] >= 0:
        scheduler.insert(a, q, a.c[q, CURRENT_ENTITY])
        a.c[q, CURRENT_ENTITY] = -1
    a.c[q, RQ_RESCHED] = 0


@compiled
def pick_task(a: Memory, c: int, now: int) -> int:
    """pick_task_fair(): from the root down, and again from there after each delayed one that leaves; -1: none."""
    while True:
        entity = scheduler.pick_next_entity(a, root(a, c), True)
        if entity >= a.g[ENTITIES] and not a.t[entity, DELAYED]:
            entity = scheduler.pick_next_entity(a, group_queue(a, entity), True)
        if entity < 0 or not a.t[entity, DELAYED]:
            return entity
        dequeue_delayed(a, c, now, entity)


@compiled
def pick_next(a: Memory, c: int, now: int) -> int:
    """pick_next_task_fair(); what the group that has run weighs is renewed, as by a tick."""
    top, entities = root(a, c), a.g[ENTITIES]
    before = a.c[top, CURRENT_ENTITY]
    update_current(a, c, now)
    if before >= entities:
        weigh(a, c, now, before)
    thread = pick_task(a, c, now)
    a.c[top, RQ_RESCHED] = 0
    group = parent(a, thread, c) if thread >= 0 else -1
    if before >= entities and before != group:
        put_previous(a, group_queue(a, before))
    upper = group if group >= 0 else thread
    if upper >= 0 and upper != a.c[top, CURRENT_ENTITY]:
        scheduler.set_next(a, top, now, upper)
    if group >= 0:
        q = group_queue(a, group)
        a.c[q, RQ_RESCHED] = 0
        if thread != a.c[q, CURRENT_ENTITY]:
            if thread == a.c[q, BUDDY]:
                scheduler.clear_buddy(a, top, group)
            scheduler.set_next(a, q, now, thread)
    return thread


@compiled
def wakeup_preempts(a: Memory, c: int, now: int, thread: int, fork: bool) -> bool:
    """check_preempt_wakeup_fair(), at the level at which the two meet (find_matching_se()); of an idle CPU, always."""
    current, entity = a.c[c, THREAD], parent(a, thread, c)
    if current == a.c[c, IDLE_THREAD]:
        return True
    if entity >= 0 and entity == parent(a, current, c):
        q = group_queue(a, entity)
        load = a.c[q, LOAD]
        preempts = preempting.wakeup_preempts(a, q, now, thread, fork)
        if a.c[q, LOAD] != load:  # v7.3: delayed ones that came up have left
            weigh(a, c, now, entity)
    else:
        preempts = preempting.wakeup_preempts(a, root(a, c), now, entity if entity >= 0 else thread, fork)
    return preempts or need_resched(a, c)


@compiled
def preempt_time(a: Memory, c: int) -> int:
    """The first of the levels' times."""
    q, time = level(a, c), preempting.preempt_time(a, root(a, c))
    return min(time, preempting.preempt_time(a, q)) if q >= 0 else time


@compiled
def time_to_deadline(a: Memory, c: int) -> int:
    """The first of the levels' times; -1: nobody waits at either."""
    q, time = level(a, c), preempting.time_to_deadline(a, root(a, c))
    if q < 0:
        return time
    own = preempting.time_to_deadline(a, q)
    return max(time, own) if time < 0 or own < 0 else min(time, own)


@compiled
def renewal_time(a: Memory, c: int) -> int:
    """The first of the levels' times."""
    q, time = level(a, c), preempting.renewal_time(a, root(a, c))
    return min(time, preempting.renewal_time(a, q)) if q >= 0 else time


@compiled
def alone(a: Memory, c: int) -> bool:
    """single_task_running()."""
    q = level(a, c)
    return a.c[root(a, c), QUEUED] == 0 and (q < 0 or a.c[q, QUEUED] == 0)


@compiled
def nominate(a: Memory, c: int, thread: int) -> bool:
    """set_next_buddy(), at each level."""
    entity = parent(a, thread, c)
    if entity < 0:
        return preempting.nominate(a, root(a, c), thread)
    return preempting.nominate(a, group_queue(a, entity), thread) and preempting.nominate(a, root(a, c), entity)


@compiled
def forfeit(a: Memory, c: int) -> None:
    """yield_task_fair(), in the group of what runs."""
    q = level(a, c)
    preempting.forfeit(a, q if q >= 0 else root(a, c))


@compiled
def waiting(a: Memory, c: int, there: int) -> int:
    """The thread that CPU ``there`` may pull, -1: any other, and that was listed first; -1: none."""
    found, q = -1, root(a, c)
    for _ in range(a.g[GROUPS] + 1):
        thread = scheduler.waiting(a, q, there)
        if thread >= 0 and (found < 0 or a.t[thread, LISTED] < a.t[found, LISTED]):
            found = thread
        q += a.g[CPUS]
    return found
