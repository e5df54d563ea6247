"""The fair scheduler's run queue: EEVDF, as in Linux v6.18.

Source: kernel/sched/fair.c and features.h, Linux v6.18, whose function names are used.  The features have their
defaults: PLACE_LAG, PLACE_DEADLINE_INITIAL, PLACE_REL_DEADLINE, RUN_TO_PARITY, PREEMPT_SHORT, DELAY_DEQUEUE, DELAY_ZERO
and WAKEUP_PREEMPTION on, NEXT_BUDDY off.  docs/scheduler.md has what differs from Linux, and what is left out.

A queue is a plain list in the order of insertion, because it is short; the sums over it are kept as in Linux.
"""

from __future__ import annotations

from itertools import count

from sim.host.runqueue import Entity
from sim.host.weights import inverse


class EevdfRunQueue:
    """struct cfs_rq at the root, without groups.

    ``base_slice`` is the request of an entity without a custom slice, ``tick`` the period of the tick (TICK_NSEC), both
    in TSC cycles; ``forced_every`` is how often a yield may force its CPU (:mod:`sim.host.directed_yield`).
    ``buddy`` is cfs_rq->next; ``listings`` numbers what comes to the front of cfs_tasks (account_entity_enqueue(),
    __set_next_task_fair()).
    """

    __slots__ = (
        "_base_slice", "_forced_at", "_load", "_queue", "_tick", "_weighted", "buddy", "current", "forced_every",
        "listings", "need_resched", "nr_running",
    )  # fmt: skip

    def __init__(self, base_slice: int, tick: int) -> None:
        self._base_slice = base_slice
        self._tick = tick
        self._queue: list[Entity] = []
        self._load = 0  # sums over _queue, which current is not in: of weight, and of weight * vruntime
        self._weighted = 0
        self.current: Entity | None = None
        self.nr_running = 0
        self.need_resched = False
        self.forced_every = 0
        self._forced_at: int | None = None
        self.listings = count()
        self.buddy: Entity | None = None

    def avg_vruntime(self) -> int:
        """V, the weighted mean of vruntime, rounded down, so that vruntime <= V is entity_eligible().

        0 in an empty queue: nothing depends on where the first entity is placed, so that no min_vruntime is kept.
        """
        load = self._load
        weighted = self._weighted
        current = self.current
        if current is not None:
            load += current.weight
            weighted += current.weight * current.vruntime
        return weighted // load if load else 0

    def update_current(self, now: int) -> None:
        """update_curr() and update_deadline(): renew the request if it is used up.

        Its end and that of the protection both reschedule, since Linux commit 0b9ca2dcabc3 ("sched/fair: Always trigger
        resched at the end of a protected period").
        """
        current = self.current
        if current is None:
            return
        delta_exec = now - current.exec_start
        if delta_exec <= 0:
            return
        current.exec_start = now
        current.sum_exec_runtime += delta_exec
        vruntime = current.vruntime = current.vruntime + delta_exec * current.inv_weight
        if vruntime >= current.deadline:
            current.slice = current.custom_slice or self._base_slice
            current.deadline = vruntime + current.slice * current.inv_weight
        elif vruntime < current.vprot:
            return
        if self._queue:
            self.need_resched = True
            self.clear_buddy(current)

    def clear_buddy(self, entity: Entity) -> None:
        """clear_buddies(): it is not to run next any more."""
        if self.buddy is entity:
            self.buddy = None

    def set_next_buddy(self, entity: Entity) -> None:
        """dequeue_entities(): a thread of this group sleeps, of which others are queued, so that the group goes on."""
        self.buddy = entity

    def enqueue(self, now: int, entity: Entity, *, initial: bool = False) -> None:
        """enqueue_task_fair(): the wake-up of one that is still queued here as delayed ends its delay.

        Placement does not ask whether it is a wake-up.
        """
        if entity.sched_delayed:
            self._requeue_delayed(entity)
            return
        self.update_current(now)
        self._place(entity, initial)
        entity.on_rq = True
        entity.listed = next(self.listings)
        self._insert(entity)
        self.nr_running += 1

    def dequeue(self, now: int, entity: Entity, *, sleep: bool, special: bool = False) -> None:
        """dequeue_entity(): one that blocks with negative lag stays queued as delayed, except in a special state.

        Not for one that is delayed already, which cannot block again and is not pulled: :meth:`dequeue_delayed`.
        ``special`` is DEQUEUE_SPECIAL: the task exits, or is stopped, parked or frozen.  A current that is delayed
        stays current, with its protection, until the pick: if it is eligible by then, it goes at last.
        """
        self.clear_buddy(entity)
        self.update_current(now)
        self.nr_running -= 1
        average = self.avg_vruntime()
        if sleep and not special and entity.vruntime > average:
            entity.sched_delayed = True
            return
        self._update_lag(entity, average)
        if not sleep:
            entity.deadline -= entity.vruntime
            entity.rel_deadline = True
        if entity is self.current:
            self.current = None
        else:
            self._remove(entity)
        entity.on_rq = False

    def dequeue_delayed(self, now: int, entity: Entity) -> None:
        """dequeue_entities(DEQUEUE_SLEEP | DEQUEUE_DELAYED): a delayed entity leaves at last, with no lag in credit."""
        self.update_current(now)
        self._update_lag(entity, self.avg_vruntime())
        entity.vlag = min(entity.vlag, 0)
        if entity is self.current:
            self.current = None
        else:
            self._remove(entity)
        entity.on_rq = False
        entity.sched_delayed = False

    def pick_next(self, now: int) -> Entity | None:
        """pick_next_task_fair(): delayed entities that come up are dequeued, and the previous current is put back.

        A current that is picked again keeps the protection it has.
        """
        self.update_current(now)
        entity = self.pick_next_entity()
        while entity is not None and entity.sched_delayed:
            self.dequeue_delayed(now, entity)
            entity = self.pick_next_entity()
        self.need_resched = False
        if entity is not None and entity is not self.current:
            self.set_next(now, entity)
        return entity

    def pick_next_entity(self) -> Entity | None:
        """pick_next_entity(), which may find a delayed one: an eligible buddy first (PICK_BUDDY)."""
        if self.buddy is not None and self._queue and self.buddy.vruntime <= self.avg_vruntime():
            return self.buddy
        return self._pick_eevdf(protect=True)

    def set_next(self, now: int, entity: Entity) -> None:
        """put_prev_entity() and set_next_entity().

        set_protect_slice() is Linux commit 052c3d87c82e ("sched/fair: Limit run to parity to the min slice of enqueued
        entities").
        """
        self.clear_buddy(entity)
        if self.current is not None:
            self._insert(self.current)
        self._remove(entity)
        self._protect(entity)
        entity.exec_start = now
        entity.listed = next(self.listings)
        self.current = entity

    def put_previous(self) -> None:
        """put_prev_entity() of a group's ``current``, since another group goes on."""
        if self.current is not None:
            self._insert(self.current)
            self.current = None
        self.need_resched = False

    def reweight(self, now: int, entity: Entity, weight: int) -> None:
        """reweight_entity(): lag, and what is left of the request, stay the same in service, unless it is current.

        place_entity() then finds it among those that are queued, at its old vruntime with its new weight: its lag is
        counted from that V, and inflated by more than is lost.  And its protection ends where it did (v6.13 to v6.19).
        ``entity`` is a group's, which leaves a queue only to sleep, and so without a request that it goes on with.
        """
        if weight == entity.weight:
            return
        in_list = entity.on_rq and entity is not self.current
        if entity.on_rq:
            self.update_current(now)
            self._update_lag(entity, self.avg_vruntime())
            entity.deadline = (entity.deadline - entity.vruntime) * entity.weight // weight
            entity.rel_deadline = True
        if in_list:
            self._remove(entity)
        entity.vlag = entity.vlag * entity.weight // weight
        entity.weight, entity.inv_weight = weight, inverse(weight)
        if entity.on_rq:
            self._place(entity, initial=False)
        if in_list:
            self._insert(entity)

    @property
    def load(self) -> int:
        """cfs_rq->load.weight: of all that is queued, or runs."""
        return self._load + (0 if self.current is None else self.current.weight)

    def wakeup_preempts(self, now: int, entity: Entity, *, fork: bool = False) -> bool:
        """check_preempt_wakeup_fair(); of an idle CPU, always.

        Linux commits 9de74a9850b9 ("sched/fair: Remove spurious shorter slice preemption") and 3a0baa8e6c57
        ("sched/fair: Fix entity's lag with run to parity").
        """
        current = self.current
        if current is None:
            return True
        if self.need_resched or entity is current:
            return self.need_resched
        self.update_current(now)
        short = entity.slice < current.slice
        if self._pick_eevdf(protect=not short) is entity:
            if short:
                current.vprot = min(current.vprot, current.vruntime)
            self.need_resched = True
        elif short:
            shortest = self._min_slice(current.slice)
            current.vprot = min(current.vprot, current.vruntime + shortest * current.inv_weight)
        return self.need_resched

    def preempt_time(self) -> int | None:
        """When update_curr() would first find the request or the protection of ``current`` used up.

        Delayed entities count as others: Linux looks at nr_queued.
        """
        current = self.current
        if current is None:
            return None
        if self.need_resched:
            return current.exec_start
        if not self._queue:
            return None
        left = min(current.vprot, current.deadline) - current.vruntime
        return current.exec_start + max(1, -(-left // current.inv_weight))

    def time_to_deadline(self) -> int | None:
        """hrtick_start_fair(): wall time to the virtual deadline of ``current``; delayed entities count as others."""
        current = self.current
        if current is None or not self._queue:
            return None
        return max(0, -((current.vruntime - current.deadline) // current.inv_weight))

    def renewal_time(self) -> int | None:
        """When the request of a ``current`` that is alone in the queue is used up; the next tick renews it."""
        current = self.current
        if current is None or self._queue:
            return None
        return current.exec_start + max(1, -((current.vruntime - current.deadline) // current.inv_weight))

    @property
    def alone(self) -> bool:
        """single_task_running(): nothing but ``current`` is queued, not even a delayed sleeper."""
        return not self._queue

    def nominate(self, now: int, entity: Entity, *, credit: bool) -> bool:
        """yield_to_task_fair(): the buddy.  With ``credit`` it is made eligible first.

        The margin of lag that it gets is assumed, an eighth of its slice for each entity that is queued: the patch says
        that it grows with the depth of the queue, and its formula was not seen.
        """
        if not entity.on_rq or entity.sched_delayed:
            return False
        self.buddy = entity
        if credit and entity is not self.current:  # as the group of both may be
            self.update_current(now)
            limit = max(2 * entity.slice, self._tick) * entity.inv_weight
            margin = min(len(self._queue) * entity.slice * entity.inv_weight // 8, limit)
            self._remove(entity)
            others = self._load + (self.current.weight if self.current is not None else 0)
            inflated = margin * (others + entity.weight) // others if others else 0  # as place_entity() does it
            moved = max(0, entity.vruntime - (self.avg_vruntime() - inflated))
            entity.vruntime -= moved
            entity.deadline -= moved
            self._insert(entity)
        return True

    def forfeit(self, now: int, *, force: bool) -> None:
        """yield_task_fair(), unless nothing else is queued; rq->nr_running counts delayed sleepers, too."""
        if not self.alone:
            self.give_up(now, force=force)

    def give_up(self, now: int, *, force: bool) -> None:
        """The same in any case; ``force``: the yielding entity loses its protection, once in ``forced_every``.

        Linux commit 79104becf42b ("sched/fair: Forfeit vruntime on yield").
        """
        current = self.current
        assert current is not None, "who yields runs"
        self.clear_buddy(current)
        self.update_current(now)
        if current.vruntime <= self.avg_vruntime():
            current.vruntime = current.deadline
            current.deadline += current.slice * current.inv_weight
        if force and (self._forced_at is None or now - self._forced_at >= self.forced_every):
            self._forced_at = now
            current.vprot = min(current.vprot, current.vruntime)

    def waiting(self) -> list[Entity]:
        """What can_migrate_task() lets another CPU pull: neither the running nor the delayed."""
        return [entity for entity in self._queue if not entity.sched_delayed]

    def _place(self, entity: Entity, initial: bool) -> None:
        """place_entity(): at its lag from V, inflated so that its own weight in V does not eat it up."""
        entity.slice = entity.custom_slice or self._base_slice
        lag = entity.vlag
        current = self.current
        if lag:
            load = self._load if current is None else self._load + current.weight
            lag = lag * (load + entity.weight) // load if load else 0
        vruntime = entity.vruntime = self.avg_vruntime() - lag
        if entity.rel_deadline:
            entity.deadline += vruntime
            entity.rel_deadline = False
            return
        vslice = entity.slice * entity.inv_weight
        entity.deadline = vruntime + (vslice // 2 if initial else vslice)

    def _requeue_delayed(self, entity: Entity) -> None:
        """requeue_delayed_entity(): positive lag that it got while it slept is taken away."""
        self._update_lag(entity, self.avg_vruntime())
        if entity.vlag > 0:
            entity.vlag = 0
            self._place_again(entity)
        entity.sched_delayed = False
        self.nr_running += 1

    def _place_again(self, entity: Entity) -> None:
        """The middle of requeue_delayed_entity(): current, which has not left its CPU yet, is not in the list."""
        in_list = entity is not self.current
        if in_list:
            self._remove(entity)
        self._place(entity, initial=False)
        if in_list:
            self._insert(entity)

    def _update_lag(self, entity: Entity, average: int) -> None:
        """update_entity_lag()."""
        limit = max(2 * entity.slice, self._tick) * entity.inv_weight
        entity.vlag = max(-limit, min(average - entity.vruntime, limit))

    def _protect(self, entity: Entity) -> None:
        """set_protect_slice() of the entity that has been picked: for the shortest slice in the queue."""
        shortest = self._min_slice(entity.slice)
        entity.vprot = min(entity.deadline, entity.vruntime + shortest * entity.inv_weight)

    def _pick_eevdf(self, protect: bool) -> Entity | None:
        """__pick_eevdf(): the eligible entity with the earliest deadline, or a current that is still protected."""
        current = self.current
        queue = self._queue
        if not queue:
            return current
        average = self.avg_vruntime()
        if current is not None:
            if current.vruntime > average:
                current = None
            elif protect and current.vruntime < current.vprot:
                return current
        best = None
        for entity in queue:
            if entity.vruntime <= average and (best is None or entity.deadline < best.deadline):
                best = entity
        if best is None or (current is not None and current.deadline < best.deadline):
            return current
        return best

    def _min_slice(self, shortest: int) -> int:
        """cfs_rq_min_slice(), ``shortest`` being the slice of the entity that is not in the list."""
        for entity in self._queue:
            if entity.slice < shortest:
                shortest = entity.slice
        return shortest

    def _insert(self, entity: Entity) -> None:
        """__enqueue_entity()."""
        self._queue.append(entity)
        self._load += entity.weight
        self._weighted += entity.weight * entity.vruntime

    def _remove(self, entity: Entity) -> None:
        """__dequeue_entity()."""
        self._queue.remove(entity)
        self._load -= entity.weight
        self._weighted -= entity.weight * entity.vruntime
