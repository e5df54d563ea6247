"""What EEVDF of Linux v7.3 does otherwise."""

from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_queue import MS, SLICE, TICK, mean, queued

from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.runqueue import Entity
from sim.host.weights import weight_of

# What v7.3 does otherwise.


@pytest.mark.parametrize(("rules", "preempts"), [(EevdfRunQueue, True), (EevdfRunQueueV73, False)])
def test_a_new_task_with_the_same_slice_preempts_in_v6_18_alone(rules: type[EevdfRunQueue], preempts: bool) -> None:
    """The protection of who has waited behind it is over, and half a request is an earlier deadline."""
    running, child = Entity(), Entity()
    queue = rules(SLICE, TICK)
    queue.enqueue(0, running)
    queue.pick_next(0)
    running.vprot = 0
    now = SLICE // 4
    queue.enqueue(now, child, initial=True)
    assert queue.wakeup_preempts(now, child, fork=True) is preempts


def test_in_v7_3_an_eligible_shorter_slice_preempts_and_is_picked_though_another_has_the_earlier_deadline() -> None:
    """v6.18 would let the one with the earlier deadline run first."""
    for rules, first in ((EevdfRunQueue, "waiting"), (EevdfRunQueueV73, "late")):
        people = {"running": Entity(custom_slice=30 * MS), "waiting": Entity(custom_slice=4 * MS)}
        people["late"] = Entity(custom_slice=8 * MS)
        queue = rules(SLICE, TICK)
        queue.enqueue(0, people["running"])
        queue.pick_next(0)
        queue.enqueue(MS, people["waiting"])
        queue.enqueue(2 * MS, people["late"])
        assert people["waiting"].deadline < people["late"].deadline
        asked = queue.wakeup_preempts(2 * MS, people["late"])
        assert asked is (first == "late")
        assert queue.pick_next(2 * MS) is people[first] or not asked


@given(st.integers(1, 30 * MS), st.integers(1, 29 * MS), st.integers(-5, 5))
def test_in_v7_3_beside_a_shorter_slice_the_protection_ends_just_where_current_is_no_longer_eligible(
    ahead: int, shorter: int, nice: int
) -> None:
    queue = EevdfRunQueueV73(SLICE, TICK)
    running, other = Entity(weight_of(nice), 30 * MS), Entity(custom_slice=shorter)
    queue.enqueue(0, other)
    queue.pick_next(0)
    queue.enqueue(0, running)
    other.vruntime += ahead * other.inv_weight  # so that the other one is picked
    assert queue.pick_next(0) is running
    assert running.vprot <= running.deadline
    if running.vprot < running.deadline:
        for vruntime, eligible in ((running.vprot - 1, True), (running.vprot, False)):
            running.vruntime = vruntime
            assert (running.vruntime <= mean(queue)) is eligible


def test_in_v7_3_who_is_preempted_has_no_protection_left() -> None:
    for rules, protected in ((EevdfRunQueue, True), (EevdfRunQueueV73, False)):
        queue = rules(SLICE, TICK)
        running, late = Entity(), Entity(weight_of(-10))
        queue.enqueue(0, running)
        queue.pick_next(0)
        late.vlag = 2 * SLICE * late.inv_weight  # so much is owed to it that current is not eligible
        queue.enqueue(MS, late)
        assert queue.wakeup_preempts(MS, late)
        assert (running.vruntime < running.vprot) is protected


def test_in_v7_3_any_wake_up_that_does_not_preempt_limits_the_protection_to_a_slice_from_now() -> None:
    """Also where slices are the same, and from V if current is ahead of it."""
    for rules, limited in ((EevdfRunQueue, False), (EevdfRunQueueV73, True)):
        queue = rules(SLICE, TICK)
        running, late = Entity(), Entity()
        queue.enqueue(0, running)
        queue.pick_next(0)
        running.vprot = running.deadline = 100 * SLICE * running.inv_weight
        queue.enqueue(MS, late)
        late.deadline = 200 * SLICE * late.inv_weight
        assert not queue.wakeup_preempts(MS, late)
        assert (running.vprot == running.vruntime + SLICE * running.inv_weight) is limited


@pytest.mark.parametrize(("then", "first"), [(8 * MS - 1, "second"), (8 * MS, "second"), (8 * MS + 1, "first")])
def test_in_v7_3_of_two_that_preempt_the_one_with_the_shorter_slice_is_picked_or_the_later(
    then: int, first: str
) -> None:
    """set_short_buddy()."""
    queue = EevdfRunQueueV73(SLICE, TICK)
    woken = {"first": Entity(custom_slice=8 * MS), "second": Entity(custom_slice=then)}
    queue.enqueue(0, Entity(custom_slice=30 * MS))
    queue.pick_next(0)
    for entity in woken.values():
        queue.enqueue(MS, entity)
        assert queue.wakeup_preempts(MS, entity)
    assert queue.pick_next(MS) is woken[first]


def test_in_v7_3_who_was_to_be_picked_for_its_shorter_slice_and_moves_away_is_not_picked() -> None:
    """clear_buddies()."""
    queue = EevdfRunQueueV73(SLICE, TICK)
    running, late = Entity(), Entity(custom_slice=MS)
    queue.enqueue(0, running)
    queue.pick_next(0)
    queue.enqueue(MS, Entity())
    queue.enqueue(MS, late)
    assert queue.wakeup_preempts(MS, late)
    queue.dequeue(MS, late, sleep=False)
    assert not late.on_rq
    assert queue.pick_next(MS) in queued(queue)


@pytest.mark.parametrize(("rules", "slices"), [(EevdfRunQueue, 2 * SLICE), (EevdfRunQueueV73, 30 * MS + TICK)])
def test_lag_is_clamped_to_two_slices_and_in_v7_3_to_the_longest_slice_and_a_tick(
    rules: type[EevdfRunQueue], slices: int
) -> None:
    queue = rules(SLICE, TICK)
    other, sleeper = Entity(custom_slice=30 * MS), Entity()
    queue.enqueue(0, other)
    queue.pick_next(0)
    queue.enqueue(0, sleeper)
    queue.dequeue(400 * SLICE, sleeper, sleep=False)
    assert sleeper.vlag == slices * sleeper.inv_weight


def test_in_v7_3_negative_lag_does_not_grow_while_a_sleeper_is_still_queued() -> None:
    """Who comes and goes moves V back meanwhile, which v6.18 would charge to the sleeper."""
    for rules, grows in ((EevdfRunQueue, True), (EevdfRunQueueV73, False)):
        queue = rules(SLICE, TICK)
        sleeper, other, late = Entity(), Entity(), Entity(weight_of(-10))
        queue.enqueue(0, sleeper)
        queue.pick_next(0)
        queue.enqueue(0, other)
        queue.dequeue(MS, sleeper, sleep=True)
        assert sleeper.sched_delayed
        queue.pick_next(MS)
        owed = min(0, floor(mean(queue)) - sleeper.vruntime)
        late.vlag = 2 * SLICE * late.inv_weight
        queue.enqueue(MS, late)
        queue.enqueue(MS, sleeper)
        assert (floor(mean(queue)) - sleeper.vruntime < owed - sleeper.inv_weight) is grows
