"""Sleeping, waking, moving and preempting on a run queue; round robin."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from run_queue import MS, SLICE, TICK, Host, eevdf, lag, live, mean, people, steps, ticks

from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_groups import GroupedRunQueue, TaskGroup
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.round_robin import RoundRobinRunQueue
from sim.host.runqueue import Entity, RunQueue
from sim.host.weights import NICE_0_LOAD, WMULT_SHIFT, weight_of

# Sleeping, waking, moving.


def test_a_sleeper_banks_no_more_lag_than_the_clamp() -> None:
    """Nobody looks while it is kept waiting for two hundred slices; it leaves with two of its own."""
    for weight in (15, 1024, 88761):
        queue = eevdf()
        other, sleeper = Entity(), Entity(weight)
        queue.enqueue(0, other)
        queue.pick_next(0)
        queue.enqueue(0, sleeper)
        now = 200 * SLICE
        assert queue.pick_next(now) is sleeper
        assert mean(queue) - sleeper.vruntime > 2 * SLICE * sleeper.inv_weight
        queue.dequeue(now, sleeper, sleep=True)
        assert sleeper.vlag == 2 * SLICE * sleeper.inv_weight


@settings(max_examples=60, deadline=None)
@given(people, steps)
def test_lag_that_is_carried_is_within_the_clamp_and_a_sleep_earns_none(
    people: list[tuple[int, int]], steps: list[tuple[str, int, int]]
) -> None:
    queue = eevdf()
    entities = [Entity(weight_of(nice), custom) for nice, custom in people]

    def see() -> None:
        for entity in entities:
            assert abs(entity.vlag) <= max(2 * entity.slice, TICK) * entity.inv_weight

    host = Host(queue, see)
    live(host, entities, steps)
    asleep = {id(e): e.vlag for e in entities if not e.on_rq}
    host.run(20 * TICK)
    assert asleep == {id(e): e.vlag for e in entities if id(e) in asleep}


def busy(count: int, ticks: int) -> tuple[Host, EevdfRunQueue, list[Entity]]:
    queue = eevdf()
    host = Host(queue)
    entities = [Entity(weight_of(-2 * i)) for i in range(count)]
    for entity in entities:
        host.wake(entity)
    host.run(ticks * TICK)
    return host, queue, entities


def test_who_blocks_with_negative_lag_stays_queued_until_picked_and_then_is_owed_nothing() -> None:
    host, queue, _ = busy(3, 0)
    host.run(TICK // 2)
    sleeper = queue.current
    assert sleeper is not None
    host.block()
    assert sleeper.on_rq
    assert sleeper.sched_delayed
    assert queue.nr_running == 2
    assert sleeper not in queue.waiting()
    host.run(20 * TICK)
    assert not sleeper.on_rq
    assert not sleeper.sched_delayed
    assert sleeper.vlag <= 0


def test_who_is_woken_while_delayed_keeps_its_negative_lag() -> None:
    host, queue, _ = busy(3, 0)
    host.run(TICK // 2)
    sleeper = queue.current
    assert sleeper is not None
    host.block()
    host.run(1000)
    before = sleeper.vruntime, sleeper.deadline
    host.wake(sleeper)
    assert (sleeper.vruntime, sleeper.deadline) == before
    assert queue.nr_running == 3


@pytest.mark.parametrize("rules", [EevdfRunQueue, EevdfRunQueueV73])
def test_who_is_woken_before_it_has_left_its_cpu_preempts_nobody_and_goes_on(rules: type[EevdfRunQueue]) -> None:
    queue = rules(SLICE, TICK)
    running, other = Entity(), Entity()
    queue.enqueue(0, running)
    queue.pick_next(0)
    queue.enqueue(0, other)
    running.vprot = running.deadline = 100 * SLICE * running.inv_weight
    queue.dequeue(MS, running, sleep=True)
    assert running.sched_delayed
    assert queue.current is running
    before = running.vruntime, running.deadline, running.vprot
    queue.enqueue(MS, running)
    assert not queue.wakeup_preempts(MS, running)
    assert (running.vruntime, running.deadline, running.vprot) == before
    assert (queue.nr_running, running.sched_delayed, queue.waiting()) == (2, False, [other])


@pytest.mark.parametrize(("rules", "lag"), [(EevdfRunQueue, -2), (EevdfRunQueueV73, 2)])
def test_who_is_woken_before_it_has_left_its_cpu_is_placed_anew_if_its_lag_is_not_what_it_was(
    rules: type[EevdfRunQueue], lag: int
) -> None:
    """requeue_delayed_entity(): v6.18 takes away positive lag, v7.3 negative lag that has grown meanwhile."""
    queue = rules(SLICE, TICK)
    running, other, late = Entity(), Entity(), Entity(weight_of(-10))
    queue.enqueue(0, running)
    queue.pick_next(0)
    queue.enqueue(0, other)
    queue.dequeue(MS, running, sleep=True)
    owed = min(0, queue.avg_vruntime() - running.vruntime)
    assert owed < 0
    late.vlag = lag * SLICE * late.inv_weight
    queue.enqueue(MS, late)
    average, load = queue.avg_vruntime(), 2 * running.weight + late.weight
    assert (average > running.vruntime) is (lag < 0)
    queue.enqueue(MS, running)
    kept = 0 if lag < 0 else owed * (load + running.weight) // load
    assert running.vruntime == average - kept
    assert (queue.current, queue.nr_running, running.sched_delayed) == (running, 3, False)
    assert queue.waiting() == [other, late]


def test_who_exits_leaves_at_once() -> None:
    host, queue, _ = busy(3, 0)
    host.run(TICK // 2)
    gone = queue.current
    assert gone is not None
    host.block(special=True)
    assert not gone.on_rq
    assert queue.nr_running == 2


def test_a_cpu_with_one_entity_goes_idle_when_it_blocks() -> None:
    host, queue, entities = busy(1, 7)
    assert queue.preempt_time() is None
    host.block()
    assert queue.current is None
    assert not entities[0].on_rq
    assert queue.nr_running == 0


@pytest.mark.parametrize("ticks", range(7))
def test_a_move_to_another_queue_preserves_lag_and_relative_deadline(ticks: int) -> None:
    _, here, _ = busy(4, 5 + ticks)
    host, there, _ = busy(3, 11)
    for moved in here.waiting():
        before = lag(here, moved), moved.deadline - moved.vruntime
        here.dequeue(100 * TICK, moved, sleep=False)
        owed = moved.vlag * moved.weight / (1 << WMULT_SHIFT)
        there.enqueue(host.now, moved)
        assert lag(there, moved) == pytest.approx(owed, abs=1)
        assert moved.deadline - moved.vruntime == before[1]


def test_a_new_entity_gets_half_a_request() -> None:
    host, _, _ = busy(2, 3)
    new, woken = Entity(), Entity()
    host.wake(new, initial=True)
    host.wake(woken)
    assert new.deadline - new.vruntime == SLICE * new.inv_weight // 2
    assert woken.deadline - woken.vruntime == SLICE * woken.inv_weight


# Preemption.


def test_a_wake_up_with_the_same_slice_does_not_preempt_within_the_protection() -> None:
    queue = eevdf()
    host = Host(queue)
    host.wake(Entity())
    host.wake(Entity())
    host.run(TICK // 2)
    queue.pick_next(host.now)
    current = queue.current
    assert current is not None
    current.vruntime -= 10 * MS * current.inv_weight  # eligible whatever comes
    woken = Entity()
    queue.enqueue(host.now, woken)
    assert not queue.wakeup_preempts(host.now, woken)


@pytest.mark.parametrize(("request_of_current", "preempts"), [(30 * MS, True), (MS, False)])
def test_a_wake_up_with_a_shorter_slice_and_an_earlier_deadline_preempts(
    request_of_current: int, preempts: bool
) -> None:
    queue = eevdf()
    host = Host(queue)
    host.wake(Entity(NICE_0_LOAD, request_of_current))
    woken = Entity(NICE_0_LOAD, 2 * MS)
    queue.enqueue(0, woken)
    assert queue.wakeup_preempts(0, woken) is preempts


def test_a_shorter_slice_that_is_not_eligible_shortens_the_protection_of_current() -> None:
    """Linux commit 3a0baa8e6c57."""
    queue = eevdf()
    host = Host(queue)
    current = Entity(NICE_0_LOAD, 30 * MS)
    host.wake(current)
    woken = Entity(NICE_0_LOAD, MS)
    woken.vlag = -MS * woken.inv_weight
    queue.enqueue(0, woken)
    assert not queue.wakeup_preempts(0, woken)
    assert queue.preempt_time() == MS


def test_the_protection_is_the_shortest_slice_of_the_queue() -> None:
    """Linux commit 052c3d87c82e: two at 30 ms and one at 1 ms alternate by the millisecond."""
    queue = eevdf()
    host = Host(queue)
    for custom in (30 * MS, 30 * MS, 3 * MS):
        queue.enqueue(0, Entity(NICE_0_LOAD, custom))
    host.queue.pick_next(0)
    for _ in range(50):
        when = queue.preempt_time()
        assert when is not None
        assert when - host.now <= 3 * MS
        host.now = when
        ticks(queue, when)
        queue.pick_next(when)


def test_once_a_reschedule_is_due_it_is_due_at_once_and_until_the_pick() -> None:
    queue = eevdf()
    for _ in range(2):
        queue.enqueue(0, Entity())
    current = queue.pick_next(0)
    queue.update_current(SLICE)
    assert queue.preempt_time() == SLICE
    assert ticks(queue, SLICE)
    woken = Entity()
    queue.enqueue(SLICE + 5, woken)
    assert queue.wakeup_preempts(SLICE + 5, woken)
    assert queue.pick_next(SLICE + 5) is not current
    assert not ticks(queue, SLICE + 5)


@pytest.mark.parametrize("nice", [-20, 0, 7, 19])
@pytest.mark.parametrize("kind", [EevdfRunQueue, EevdfRunQueueV73])
def test_the_request_of_who_runs_alone_is_renewed_at_the_time_that_is_said_and_no_cycle_earlier(
    kind: type[EevdfRunQueue], nice: int
) -> None:
    """update_deadline()."""
    queue, current = kind(SLICE, TICK), Entity(weight_of(nice))
    queue.enqueue(0, current, initial=True)
    queue.pick_next(0)
    for now in (0, SLICE // 3):
        queue.update_current(now)
        when, deadline = queue.renewal_time(), current.deadline
        assert when is not None
    queue.update_current(when - 1)
    assert current.deadline == deadline
    queue.update_current(when)
    assert current.deadline == current.vruntime + SLICE * current.inv_weight > deadline


@pytest.mark.parametrize("nice", [-20, 0, 7, 19])
@pytest.mark.parametrize("kind", [EevdfRunQueue, EevdfRunQueueV73])
def test_what_is_left_of_a_request_is_left_to_the_cycle_while_somebody_waits(
    kind: type[EevdfRunQueue], nice: int
) -> None:
    """hrtick_start_fair()."""
    queue, current = kind(SLICE, TICK), Entity(weight_of(nice))
    queue.enqueue(0, current, initial=True)
    queue.pick_next(0)
    assert queue.time_to_deadline() is None
    queue.enqueue(0, Entity(), initial=True)
    left, deadline = queue.time_to_deadline(), current.deadline
    assert left is not None
    queue.update_current(left - 1)
    assert (queue.time_to_deadline(), current.deadline) == (1, deadline)
    queue.update_current(left)
    assert current.deadline > deadline


# All of them.


@pytest.mark.parametrize("kind", [eevdf, lambda: EevdfRunQueueV73(SLICE, TICK), lambda: RoundRobinRunQueue(SLICE)])
def test_a_new_queue_has_nobody_and_asks_for_nothing(kind: Callable[[], RunQueue]) -> None:
    queue = kind()
    assert (queue.current, queue.nr_running, list(queue.waiting())) == (None, 0, [])
    assert not queue.need_resched
    assert queue.preempt_time() is queue.time_to_deadline() is queue.renewal_time() is None
    queue.enqueue(0, Entity(), initial=True)
    assert not queue.need_resched


# Round robin.


@pytest.mark.parametrize("count", [1, 2, 5])
def test_round_robin_runs_in_the_order_of_arrival_a_quantum_each(count: int) -> None:
    queue = RoundRobinRunQueue(SLICE)
    entities = [Entity() for _ in range(count)]
    for entity in entities:
        queue.enqueue(0, entity)
    now, order = 0, []
    for _ in range(3 * count):
        current = queue.pick_next(now)
        assert current is not None
        order.append(entities.index(current))
        when = queue.preempt_time()
        if count == 1:
            assert when is None
            now += SLICE
        else:
            assert when == now + SLICE
            assert not ticks(queue, when - 1)
            assert ticks(queue, when)
            now = when
    assert order == list(range(count)) * 3
    assert queue.nr_running == count


def test_round_robin_never_preempts_at_a_wake_up() -> None:
    queue = RoundRobinRunQueue(SLICE)
    first, second = Entity(), Entity()
    queue.enqueue(0, first)
    assert queue.wakeup_preempts(0, first)
    queue.pick_next(0)
    queue.enqueue(10, second)
    assert not queue.wakeup_preempts(10, second)
    queue.dequeue(20, first, sleep=True)
    assert queue.pick_next(20) is second
    assert queue.waiting() == []
    assert (first.sum_exec_runtime, first.on_rq) == (20, False)


def test_what_is_left_of_a_quantum_is_asked_for_only_while_somebody_waits() -> None:
    queue = RoundRobinRunQueue(SLICE)
    assert queue.time_to_deadline() is None
    queue.enqueue(0, Entity())
    queue.pick_next(0)
    assert queue.time_to_deadline() is None
    queue.enqueue(10, Entity())
    for now, left in ((10, SLICE - 10), (SLICE // 2, SLICE - SLICE // 2), (SLICE, 0), (SLICE + 5, 0)):
        queue.update_current(now)
        assert queue.time_to_deadline() == left


@pytest.mark.parametrize("rules", [EevdfRunQueue, EevdfRunQueueV73])
def test_a_pick_clears_the_flag_that_a_group_or_the_root_has_set_and_threads_are_counted_once(
    rules: type[EevdfRunQueue],
) -> None:
    """__schedule(): clear_tsk_need_resched(), one flag for all levels; rq->nr_running."""
    group = TaskGroup(NICE_0_LOAD)
    rq = GroupedRunQueue(rules(SLICE, TICK), {group: rules(SLICE, TICK)})
    entities = [Entity() for _ in range(3)]
    for number, entity in enumerate(entities):
        entity.group = group if number else None
        rq.enqueue(0, entity)
        assert rq.nr_running == number + 1
    for now in (0, 30 * SLICE, 60 * SLICE, 90 * SLICE):
        rq.update_current(now)
        assert rq.need_resched is (now > 0)
        picked = rq.pick_next(now)
        assert not rq.need_resched
    assert picked is not None
    rq.dequeue(90 * SLICE, picked, sleep=False)
    assert rq.nr_running == 2
