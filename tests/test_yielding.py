"""Yielding in run queues: buddies, forfeited requests, the credit of lag and yield_to(), against the source."""

from types import SimpleNamespace

import pytest

from sim.host.directed_yield import ESRCH, yield_to
from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_groups import GroupedRunQueue, TaskGroup
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.round_robin import RoundRobinRunQueue
from sim.host.runqueue import Entity

# yield_to_task_fair() and yield_task_fair().


def queue(kind, vruntimes, slice_=1000):
    """A queue whose first entity runs, with the vruntimes given."""
    rq = kind(slice_, 100)
    entities = [Entity() for _ in vruntimes]
    for entity in entities:
        rq.enqueue(0, entity, initial=True)
    assert rq.pick_next(0) is entities[0]
    for entity, vruntime in zip(entities, vruntimes, strict=True):
        if entity is not rq.current:
            rq._remove(entity)
        entity.vruntime, entity.deadline = vruntime, vruntime + slice_ * entity.inv_weight
        entity.slice = slice_
        if entity is not rq.current:
            rq._insert(entity)
    return rq, entities


KINDS = [EevdfRunQueue, EevdfRunQueueV73]
UNIT = 1 << 32


@pytest.mark.parametrize("kind", KINDS)
def test_a_buddy_that_is_eligible_runs_next_and_one_that_is_not_does_not(kind):
    for lag, runs in ((-5, True), (2000, False)):
        rq, (current, other, buddy) = queue(kind, [0, 1 * UNIT, lag * UNIT])
        current.vprot = current.vruntime
        assert rq.nominate(0, buddy, credit=False)
        rq.forfeit(0, force=False)
        assert (rq.pick_next(0) is buddy) == runs
        del other


@pytest.mark.parametrize("kind", KINDS)
def test_a_buddy_that_has_run_is_none_any_more(kind):
    rq, (current, other, buddy) = queue(kind, [0, -1 * UNIT, -1 * UNIT])
    assert rq.nominate(0, buddy, credit=False)
    current.vprot = current.vruntime
    assert rq.pick_next(0) is buddy
    buddy.vprot = buddy.vruntime
    buddy.deadline = other.deadline + 1
    assert rq.pick_next(0) is other


@pytest.mark.parametrize("kind", KINDS)
def test_who_yields_forfeits_its_request_if_it_is_eligible(kind):
    rq, (current, _) = queue(kind, [0, 5 * UNIT])
    deadline = current.deadline
    rq.forfeit(0, force=False)
    assert (current.vruntime, current.deadline) == (deadline, deadline + 1000 * current.inv_weight)
    rq, (current, _) = queue(kind, [5 * UNIT, 0])
    rq.forfeit(0, force=False)
    assert current.vruntime == 5 * UNIT


@pytest.mark.parametrize("kind", KINDS)
def test_who_yields_beside_a_sleeper_that_is_still_queued_is_not_alone(kind):
    """rq->nr_running counts delayed sleepers (dequeue_entities() returns before sub_nr_running())."""
    for others, forfeits in (([5 * UNIT], True), ([], False)):
        rq, (current, *delayed) = queue(kind, [0, *others])
        for each in delayed:
            each.sched_delayed = True
            rq.nr_running -= 1
        deadline = current.deadline
        rq.forfeit(0, force=False)
        assert (current.vruntime == deadline) is forfeits


def test_who_yields_alone_in_its_group_forfeits_its_request_if_others_are_queued_on_the_cpu():
    for others in (1, 0):
        group = TaskGroup(1024)
        rq = GroupedRunQueue(EevdfRunQueue(1000, 100), {group: EevdfRunQueue(1000, 100)})
        current = Entity()
        current.group = group
        rq.enqueue(0, current)
        assert rq.pick_next(0) is current
        for _ in range(others):
            rq.enqueue(0, Entity())
        deadline = current.deadline
        rq.forfeit(0, force=False)
        assert (current.vruntime == deadline) is bool(others)


@pytest.mark.parametrize("kind", KINDS)
def test_who_yields_is_no_buddy_any_more(kind):
    """clear_buddies(): the other keeps the CPU that it has got, also once the first is eligible again."""
    rq, (first, other) = queue(kind, [0, 5 * UNIT])
    assert rq.nominate(0, first, credit=False)
    rq.forfeit(0, force=True)
    first.vruntime = first.vprot = 5 * UNIT
    assert first.vruntime == other.vruntime == rq.avg_vruntime()
    assert other.deadline < first.deadline
    assert rq.pick_next(0) is other


@pytest.mark.parametrize("kind", KINDS)
def test_lag_credit_makes_the_target_eligible_whatever_it_has_used(kind):
    rq, (current, _, buddy) = queue(kind, [0, 1 * UNIT, 500 * UNIT])
    total = rq._weighted - buddy.weight * buddy.vruntime
    assert rq.nominate(0, buddy, credit=True)
    assert buddy.vruntime < rq.avg_vruntime()
    assert rq._weighted == total + buddy.weight * buddy.vruntime
    rq.forfeit(0, force=True)
    assert rq.pick_next(0) is buddy
    assert current in rq.waiting()


@pytest.mark.parametrize("kind", KINDS)
def test_lag_credit_leaves_a_target_that_has_more_lag_where_it_is(kind):
    rq, (_, _, buddy) = queue(kind, [9000 * UNIT, 9000 * UNIT, 1 * UNIT])
    deadline = buddy.deadline
    assert rq.nominate(0, buddy, credit=True)
    assert (buddy.vruntime, buddy.deadline) == (1 * UNIT, deadline)


@pytest.mark.parametrize("kind", KINDS)
def test_a_yield_takes_the_protection_once_a_period_wherever_the_period_begins(kind):
    """A cycle after 255 is far from it in bits, and no farther in time."""
    rq, (current, _) = queue(kind, [5 * UNIT, 0])
    rq.forced_every = 100
    for now, taken in ((255, True), (256, False), (354, False), (355, True), (454, False), (512, True)):
        rq.update_current(now)
        current.vprot = protected = current.vruntime + UNIT
        rq.forfeit(now, force=True)
        assert current.vprot == (current.vruntime if taken else protected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sleeper_that_is_still_queued_is_nobody_to_yield_to(kind):
    rq, (_, other) = queue(kind, [0, 1 * UNIT])
    other.sched_delayed = True
    assert not rq.nominate(0, other, credit=False)


# yield_to() (kernel/sched/syscalls.c, v7.3.4).


class Cpu(SimpleNamespace):
    def __init__(self, threads):
        rq, asked = EevdfRunQueueV73(1000, 100), []
        for thread in threads:
            rq.enqueue(0, thread, initial=True)
            thread.cpu, thread.blocked = self, False
        super().__init__(
            rq=rq, thread=rq.pick_next(0), need_resched=False, env=SimpleNamespace(now=0), asked=asked,
            ask_resched=lambda: asked.append(True),
        )  # fmt: skip


class Runnable(Entity):
    """A thread, as far as yield_to() sees it."""


def two_cpus(here, there):
    return Cpu([Runnable() for _ in range(here)]), Cpu([Runnable() for _ in range(there)])


def waiting_on(cpu):
    return next(each for each in cpu.rq.waiting())


def test_there_is_no_point_in_yielding_where_both_are_alone():
    cpu, its = two_cpus(1, 1)
    assert yield_to(cpu, its.thread, credit=False) == ESRCH
    assert not cpu.need_resched


def test_beside_a_sleeper_that_is_still_queued_yielding_is_not_pointless():
    cpu, its = two_cpus(2, 1)
    waiting_on(cpu).sched_delayed = True
    cpu.rq.nr_running -= 1
    assert yield_to(cpu, its.thread, credit=False) == 0


def test_nobody_yields_to_one_that_runs_or_sleeps():
    cpu, its = two_cpus(2, 2)
    sleeper = waiting_on(its)
    sleeper.blocked = True
    assert yield_to(cpu, its.thread, credit=False) == yield_to(cpu, sleeper, credit=False) == 0
    assert [cpu.need_resched, its.need_resched] == [False, False]


@pytest.mark.parametrize("credit", [False, True])
def test_under_round_robin_nobody_yields(credit):
    cpu, its = two_cpus(2, 2)
    first, second = Entity(), Runnable()
    rq = its.rq = RoundRobinRunQueue(1000)
    for entity in (first, second):
        rq.enqueue(0, entity)
    rq.pick_next(0)
    second.cpu, second.blocked = its, False
    assert yield_to(cpu, second, credit=credit) == 0
    assert [cpu.need_resched, its.need_resched, its.asked] == [False, False, []]
    assert rq.waiting() == [second]


def test_who_yields_to_another_cpu_has_it_reschedule_by_an_ipi_and_one_on_its_own_does_not():
    cpu, its = two_cpus(2, 2)
    assert yield_to(cpu, waiting_on(its), credit=False) == 1
    assert (cpu.need_resched, cpu.asked, its.asked) == (True, [], [True])
    cpu, _ = two_cpus(2, 1)
    assert yield_to(cpu, waiting_on(cpu), credit=False) == 1
    assert (cpu.need_resched, cpu.asked) == (True, [])
