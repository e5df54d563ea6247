"""EEVDF as Linux v7.3 has it: what differs from :mod:`sim.host.eevdf`, without groups.

Source: kernel/sched/fair.c, Linux v7.3, whose function names are used; what each rule changes is in docs/scheduler.md.
"""

from __future__ import annotations

from sim.host.eevdf import EevdfRunQueue
from sim.host.runqueue import Entity
from sim.host.weights import inverse


class EevdfRunQueueV73(EevdfRunQueue):
    """struct cfs_rq with the slice rules of v7.3, which makes a woken entity with a shorter slice the buddy, too."""

    __slots__ = ()

    def enqueue(self, now: int, entity: Entity, *, initial: bool = False) -> None:
        """enqueue_task_fair(): accounts for current before a delayed entity is put back, too."""
        self.update_current(now)
        super().enqueue(now, entity, initial=initial)

    def dequeue(self, now: int, entity: Entity, *, sleep: bool, special: bool = False) -> None:
        """__dequeue_task(): the lag of one that is delayed is noted when it blocks, and grows no more negative."""
        super().dequeue(now, entity, sleep=sleep, special=special)
        if entity.sched_delayed:
            self._update_lag(entity, self.avg_vruntime(), delayed=False)

    def set_next_buddy(self, entity: Entity) -> None:
        """Nothing: a flat queue has no entities of groups."""

    def wakeup_preempts(self, now: int, entity: Entity, *, fork: bool = False) -> bool:
        """wakeup_preempt_fair().

        One with a shorter slice preempts as soon as it is eligible, and is picked then (set_short_buddy()); a new task
        with the same slice never does (WF_FORK).  A preempted entity loses its protection; where nobody is, it ends at
        the latest after the shortest slice in the queue (update_protect_slice()).
        """
        current = self.current
        if current is None:
            return True
        if entity is current:
            return self.need_resched
        self.update_current(now)
        short = entity.slice < current.slice
        if (short or not fork) and (
            self._pick_not_delayed(now, protect=not short) is entity or (short and self._is_eligible(entity))
        ):
            current.vprot = min(current.vprot, current.vruntime)
            if short and not (self.buddy is not None and self.buddy.slice < entity.slice):
                self.buddy = entity
            self.need_resched = True
        else:
            start = min(current.vruntime, self.avg_vruntime())
            current.vprot = min(current.vprot, start + self._min_slice(current.slice) * current.inv_weight)
        return self.need_resched

    def _pick_not_delayed(self, now: int, protect: bool) -> Entity | None:
        """pick_next_entity(), as often as it takes: delayed entities that come up are dequeued."""
        entity = self._pick_eevdf(protect)
        while entity is not None and entity.sched_delayed:
            self.dequeue_delayed(now, entity)
            entity = self._pick_eevdf(protect)
        return entity

    def pick_next_entity(self) -> Entity | None:
        """pick_next_entity()."""
        return self._pick_eevdf(protect=True)

    def reweight(self, now: int, entity: Entity, weight: int) -> None:
        """reweight_eevdf(): V stays; lag, and what is left of the request and of a protection, are scaled around it.

        A protection that is over stays where it was, so that it may come back.
        """
        if weight == entity.weight:
            return
        average, old = 0, entity.weight
        if entity.on_rq:
            self.update_current(now)
            average = self.avg_vruntime()
            self._update_lag(entity, average, delayed=False)
            entity.deadline = average + (entity.deadline - average) * old // weight
            if entity is self.current and entity.vruntime < entity.vprot:
                entity.vprot = average + (entity.vprot - average) * old // weight
        in_list = entity.on_rq and entity is not self.current
        if in_list:
            self._remove(entity)
        entity.vlag = entity.vlag * old // weight
        entity.weight, entity.inv_weight = weight, inverse(weight)
        if entity.on_rq:
            entity.vruntime = average - entity.vlag
        if in_list:
            self._insert(entity)

    def _pick_eevdf(self, protect: bool) -> Entity | None:
        """pick_eevdf(): the buddy first, if it is eligible (PICK_BUDDY)."""
        if protect and self.buddy is not None and self._queue and self._is_eligible(self.buddy):
            return self.buddy
        return super()._pick_eevdf(protect)

    def _is_eligible(self, entity: Entity) -> bool:
        return entity.vruntime <= self.avg_vruntime()

    def _protect(self, entity: Entity) -> None:
        """set_protect_slice(): if there is a shorter slice, only until the entity is no longer eligible."""
        entity.vprot = entity.deadline
        if self._min_slice(entity.slice) < entity.slice:
            entity.vprot = min(entity.vprot, self._ineligible_vruntime())

    def _ineligible_vruntime(self) -> int:
        """ineligible_vruntime(): the least vruntime at which an entity outside the list is behind V."""
        return self._weighted // self._load + 1

    def _requeue_delayed(self, entity: Entity) -> None:
        """requeue_delayed_entity(): placed anew if its lag is not what it was."""
        average = self.avg_vruntime()
        self._update_lag(entity, average)
        if average - entity.vlag != entity.vruntime:
            self._place_again(entity)
        entity.sched_delayed = False
        self.nr_running += 1

    def _update_lag(self, entity: Entity, average: int, *, delayed: bool | None = None) -> None:
        """update_entity_lag(): clamped to the longest slice in the queue and a tick."""
        before = entity.vlag
        longest = max(each.slice for each in (entity, self.current, *self._queue) if each is not None)
        limit = (longest + self._tick) * entity.inv_weight
        entity.vlag = max(-limit, min(average - entity.vruntime, limit))
        if entity.sched_delayed if delayed is None else delayed:
            entity.vlag = min(max(entity.vlag, before), 0)
