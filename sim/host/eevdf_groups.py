"""Control groups: a run queue of run queues, as CONFIG_FAIR_GROUP_SCHED has it for groups that have no groups within.

A group competes on each CPU as one entity, with the part of its weight that its threads there are of all its threads
that can run (calc_group_shares(), kernel/sched/fair.c, Linux v6.18; Linux takes a decaying average of that).  Which of
its threads runs is decided among them.  A wake-up preempts where the paths of the two threads part
(find_matching_se()): in their common group, or else between the groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sim.host.eevdf import EevdfRunQueue
from sim.host.runqueue import Entity

LEAST_SHARES: Final = 2
"""MIN_SHARES."""


class TaskGroup:
    """struct task_group: ``weight`` is what its entities weigh on all CPUs together (cpu.weight 100 is 1024)."""

    __slots__ = ("entities", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.entities: list[GroupEntity] = []

    @property
    def load(self) -> int:
        """The weight of all its threads that are queued, on all CPUs."""
        return sum(each.queue.load for each in self.entities)


class GroupEntity(Entity):
    """A group on one CPU: its entity in the queue above, and its own ``queue`` (cfs_rq)."""

    __slots__ = ("of", "queue")

    def __init__(self, of: TaskGroup, queue: EevdfRunQueue) -> None:
        super().__init__(of.weight)
        self.of = of
        self.queue = queue


class GroupedRunQueue:
    """A ``root`` queue, in which threads without a group and the entities of groups are, and one for each group.

    A :class:`~sim.host.runqueue.RunQueue`.
    """

    __slots__ = ("_entities", "_root", "current", "nr_running")

    def __init__(self, root: EevdfRunQueue, groups: dict[TaskGroup, EevdfRunQueue]) -> None:
        self._root = root
        self._entities: dict[TaskGroup, GroupEntity] = {}
        for group, queue in groups.items():
            queue.listings = root.listings
            self._entities[group] = entity = GroupEntity(group, queue)
            group.entities.append(entity)
        self.current: Entity | None = None
        self.nr_running = 0

    def _of(self, entity: Entity) -> GroupEntity | None:
        """The entity of a thread's group on this CPU."""
        return None if entity.group is None else self._entities[entity.group]

    def _levels(self) -> Iterator[EevdfRunQueue]:
        """The queues in which something runs: the root, and the group's."""
        yield self._root
        if isinstance(self._root.current, GroupEntity):
            yield self._root.current.queue

    @property
    def need_resched(self) -> bool:
        """Whether the root or the group that runs has asked for the CPU."""
        return any(queue.need_resched for queue in self._levels())

    def update_current(self, now: int) -> None:
        """update_curr() of each level."""
        for queue in self._levels():
            queue.update_current(now)

    def _weigh(self, now: int, own: GroupEntity) -> None:
        """update_cfs_group(): what the group weighs here; a group without threads here keeps what it had."""
        if load := own.queue.load:
            self._root.reweight(now, own, max(LEAST_SHARES, own.of.weight * load // own.of.load))

    def enqueue(self, now: int, entity: Entity, *, initial: bool = False) -> None:
        """enqueue_task_fair(): what the group weighs is renewed, unless only the thread's delay ends (ENQUEUE_DELAYED).

        A group that is delayed is queued again with the weight that it left with; else it has the new one.
        """
        self.nr_running += 1
        own = self._of(entity)
        if own is None:
            self._root.enqueue(now, entity, initial=initial)
            return
        delayed = entity.sched_delayed
        own.queue.enqueue(now, entity, initial=initial)
        if delayed:
            return
        if own.sched_delayed:
            self._root.enqueue(now, own)
        self._weigh(now, own)
        if not own.on_rq:
            self._root.enqueue(now, own)

    def dequeue(self, now: int, entity: Entity, *, sleep: bool, special: bool = False) -> None:
        """dequeue_task_fair(): the last one of a group takes its entity with it, which may be delayed, too.

        One that sleeps and leaves others behind makes its group the buddy, so that the group goes on if it is eligible.
        One that stays queued as delayed changes nothing above.
        """
        self.nr_running -= 1
        own = self._of(entity)
        if own is None:
            self._root.dequeue(now, entity, sleep=sleep, special=special)
            return
        if entity is own.queue.buddy:
            self._root.clear_buddy(own)
        own.queue.dequeue(now, entity, sleep=sleep, special=special)
        if not entity.on_rq:
            self._left(now, own, sleep=sleep)

    def pick_next(self, now: int) -> Entity | None:
        """pick_next_task_fair(): only the levels at which another one goes on are touched.

        What the group that has run weighs is renewed, as by a tick.
        """
        before = self._root.current
        self.update_current(now)
        if isinstance(before, GroupEntity):
            self._weigh(now, before)
        self.current = entity = self._pick_task(now)
        self._root.need_resched = False
        own = None if entity is None else self._of(entity)
        if isinstance(before, GroupEntity) and before is not own:
            before.queue.put_previous()
        if entity is None:
            return None
        top = own or entity
        if top is not self._root.current:
            self._root.set_next(now, top)
        if own is not None:
            own.queue.need_resched = False
            if entity is not own.queue.current:
                if entity is own.queue.buddy:
                    self._root.clear_buddy(own)
                own.queue.set_next(now, entity)
        return entity

    def _pick_task(self, now: int) -> Entity | None:
        """pick_task_fair(): from the root down, and again from there after each delayed one that leaves."""
        while (entity := self._root.pick_next_entity()) is not None:
            if isinstance(entity, GroupEntity) and not entity.sched_delayed:
                entity = entity.queue.pick_next_entity()
                assert entity is not None, "a group that is queued has threads"
            if not entity.sched_delayed:
                break
            self._dequeue_delayed(now, entity)
        return entity

    def _dequeue_delayed(self, now: int, entity: Entity) -> None:
        """dequeue_entities(DEQUEUE_SLEEP | DEQUEUE_DELAYED)."""
        own = self._of(entity)
        if own is None:
            self._root.dequeue_delayed(now, entity)
            return
        own.queue.dequeue_delayed(now, entity)
        self._left(now, own, sleep=True)

    def _left(self, now: int, own: GroupEntity, *, sleep: bool) -> None:
        """dequeue_entities(), above a thread that has left its group: the last one takes the group's entity along."""
        if not own.queue.load:
            self._root.dequeue(now, own, sleep=True)
            return
        if sleep:
            self._root.set_next_buddy(own)
        self._weigh(now, own)

    def wakeup_preempts(self, now: int, entity: Entity, *, fork: bool = False) -> bool:
        """check_preempt_wakeup_fair(), at the level at which the two meet."""
        if self.current is None:
            return True
        own = self._of(entity)
        if own is not None and own is self._of(self.current):
            load = own.queue.load
            preempts = own.queue.wakeup_preempts(now, entity, fork=fork)
            if own.queue.load != load:  # v7.3: delayed ones that came up have left
                self._weigh(now, own)
            return preempts or self.need_resched
        return self._root.wakeup_preempts(now, own or entity, fork=fork) or self.need_resched

    def preempt_time(self) -> int | None:
        """The first of the levels' times."""
        return _first(queue.preempt_time() for queue in self._levels())

    def time_to_deadline(self) -> int | None:
        """The first of the levels' times."""
        return _first(queue.time_to_deadline() for queue in self._levels())

    def renewal_time(self) -> int | None:
        """The first of the levels' times."""
        return _first(queue.renewal_time() for queue in self._levels())

    @property
    def alone(self) -> bool:
        """single_task_running()."""
        return all(queue.alone for queue in self._levels())

    def nominate(self, now: int, entity: Entity, *, credit: bool) -> bool:
        """set_next_buddy(), at each level."""
        own = self._of(entity)
        if own is None:
            return self._root.nominate(now, entity, credit=credit)
        return own.queue.nominate(now, entity, credit=credit) and self._root.nominate(now, own, credit=credit)

    def forfeit(self, now: int, *, force: bool) -> None:
        """yield_task_fair(), in the group of who runs, be it alone in there."""
        *_, queue = self._levels()
        if not self.alone:
            queue.give_up(now, force=force)

    def waiting(self) -> list[Entity]:
        """The threads that another CPU may pull."""
        found = [entity for entity in self._root.waiting() if not isinstance(entity, GroupEntity)]
        return found + [each for own in self._entities.values() for each in own.queue.waiting()]


def _first(times: Iterator[int | None]) -> int | None:
    return min((time for time in times if time is not None), default=None)
