"""The run queues of the simulated host: EEVDF's theorems, v6.18's rules, and a literal second reading of fair.c."""

from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from itertools import pairwise
from math import floor

import pytest
from eevdf_literal import CfsRq, CfsRqV73, Se
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.round_robin import RoundRobinRunQueue
from sim.host.runqueue import Entity, RunQueue
from sim.host.weights import NICE_0_LOAD, SCHED_PRIO_TO_WEIGHT, WMULT_SHIFT, inverse, weight_of

MS = 2_000_000  # TSC cycles, at 2 GHz
TICK = MS
SLICE = 14 * MS // 5

nices = st.integers(-20, 19)
slices = st.sampled_from((0, 0, 0, MS, 3 * MS + 1, 10 * MS, 30 * MS))


def queued(queue: EevdfRunQueue) -> list[Entity]:
    return queue._queue + ([queue.current] if queue.current else [])


def mean(queue: EevdfRunQueue) -> Fraction:
    entities = queued(queue)
    return Fraction(sum(e.weight * e.vruntime for e in entities), sum(e.weight for e in entities))


def lag(queue: EevdfRunQueue, entity: Entity) -> float:
    """w_i (V - v_i): the service it is owed, in cycles."""
    return float(entity.weight * (mean(queue) - entity.vruntime) / (1 << WMULT_SHIFT))


def ticks(queue: RunQueue, now: int) -> bool:
    """task_tick_fair() without HRTICK: whether what runs has to be rescheduled."""
    queue.update_current(now)
    return queue.need_resched


class Host:
    """One CPU with a tick: the least that a host must do with a run queue."""

    def __init__(self, queue: RunQueue, see: Callable[[], None] = lambda: None) -> None:
        self.queue, self.see, self.now = queue, see, 0

    def run(self, cycles: int) -> None:
        end = self.now + cycles
        while (tick := (self.now // TICK + 1) * TICK) <= end:
            self.now = tick
            if ticks(self.queue, tick):
                self.see()
                self.queue.pick_next(tick)
        self.now = end
        self.queue.update_current(end)
        self.see()

    def wake(self, entity: Entity, initial: bool = False) -> None:
        self.queue.enqueue(self.now, entity, wakeup=not initial, initial=initial)
        if self.queue.wakeup_preempts(self.now, entity, fork=initial):
            self.queue.pick_next(self.now)
        self.see()

    def block(self, special: bool = False) -> None:
        assert self.queue.current is not None
        self.queue.dequeue(self.now, self.queue.current, sleep=True, special=special)
        self.queue.pick_next(self.now)


def eevdf() -> EevdfRunQueue:
    return EevdfRunQueue(SLICE, TICK)


steps = st.lists(
    st.tuples(
        st.sampled_from(("run", "run", "wake", "wake", "block", "move", "exit")),
        st.integers(1, 4 * TICK),
        st.integers(0, 7),
    ),
    min_size=15,
    max_size=80,
)
people = st.lists(st.tuples(nices, slices), min_size=2, max_size=8)


def live(host: Host, entities: list[Entity], steps: list[tuple[str, int, int]]) -> None:
    """Runs, sleeps, wake-ups, moves of waiting entities away and back, and exits with a new life, at random."""
    queue = host.queue
    for entity in entities[::2]:
        host.wake(entity)
    for step, cycles, which in steps:
        entity = entities[which % len(entities)]
        if step == "run":
            host.run(cycles)
        elif step == "wake" and (not entity.on_rq or entity.sched_delayed):
            host.wake(entity, initial=cycles % 2 == 0 and not entity.sched_delayed)
        elif step == "move" and (waiting := queue.waiting()):
            moved = waiting[which % len(waiting)]
            queue.dequeue(host.now, moved, sleep=False)
            queue.enqueue(host.now, moved, migrated=True)
        elif step in ("block", "exit") and queue.current:
            host.block(special=step == "exit")
        host.see()


# Weights.


def test_a_nice_level_is_a_quarter_more_weight_and_inverses_are_those_of_the_kernel() -> None:
    for heavier, lighter in pairwise(SCHED_PRIO_TO_WEIGHT[:30]):
        assert heavier / lighter == pytest.approx(1.25, rel=0.04)
    wmult = {-20: 48388, -15: 147320, -10: 449829, -5: 1376151, 0: 4194304, 19: 286331153}
    for nice, kernel in wmult.items():
        assert inverse(weight_of(nice)) / 1024 == pytest.approx(kernel, rel=2e-5)
    assert all(abs(inverse(w) * w / (1 << WMULT_SHIFT) - 1) < 2.1e-8 for w in SCHED_PRIO_TO_WEIGHT)


# The theorems.


def assert_lag_within(queue: EevdfRunQueue, late: int, lates: int) -> None:
    if len(entities := queued(queue)) > 1:
        longest = max(e.slice for e in entities)
        for entity in entities:
            assert -(longest + late) - 1 < lag(queue, entity) < longest + lates + 1


@settings(max_examples=60, deadline=None)
@given(people, st.lists(st.booleans(), min_size=60, max_size=200))
def test_lag_stays_within_a_request_if_reschedules_come_when_due(
    people: list[tuple[int, int]], joins: list[bool]
) -> None:
    """-r_max < lag < max(r_max, q), but for rounding: I. Stoica and H. Abdel-Wahab, "Earliest Eligible Virtual Deadline
    First", 1995, theorem 1.

    Entities join with zero lag, and none leaves.
    """
    queue = eevdf()
    host = Host(queue)
    coming = [Entity(weight_of(nice), custom) for nice, custom in people]
    host.wake(coming.pop())
    for join in joins:
        if (when := queue.preempt_time()) is None:
            when = host.now + SLICE // 3
        if join and coming:
            host.now += (when - host.now) // 2
            host.wake(coming.pop())
        else:
            host.now = when
            ticks(queue, when)
            assert_lag_within(queue, 0, 0)
            queue.pick_next(when)


@settings(max_examples=60, deadline=None)
@given(people, st.lists(st.tuples(st.integers(1, 6 * TICK), st.booleans()), min_size=20, max_size=120))
def test_lag_stays_within_a_request_and_the_ticks_that_requests_run_over(
    people: list[tuple[int, int]], runs: list[tuple[int, bool]]
) -> None:
    queue = eevdf()
    host = Host(queue, lambda: assert_lag_within(queue, TICK, len(queued(queue)) * TICK))
    coming = [Entity(weight_of(nice), custom) for nice, custom in people]
    host.wake(coming.pop())
    for cycles, joins in runs:
        host.run(cycles)
        if joins and coming:
            host.wake(coming.pop())


@pytest.mark.parametrize("nice", [(0, 0, 0, 0), (-5, 0, 5), (-5, 19), (10, 11, 12, -20)])
def test_service_of_the_busy_is_by_weight_within_the_lag(nice: tuple[int, ...]) -> None:
    host = Host(eevdf())
    entities = [Entity(weight_of(n)) for n in nice]
    for entity in entities:
        host.wake(entity)
    host.run(20_000 * TICK)
    total = sum(e.weight for e in entities)
    for entity in entities:
        assert abs(entity.sum_exec_runtime - host.now * entity.weight / total) < SLICE + TICK + host.now * 3e-8


@settings(max_examples=60, deadline=None)
@given(people, steps)
def test_every_cycle_of_a_busy_cpu_is_somebodys_service(
    people: list[tuple[int, int]], steps: list[tuple[str, int, int]]
) -> None:
    for queue in (eevdf(), RoundRobinRunQueue(SLICE)):
        entities = [Entity(weight_of(nice), custom) for nice, custom in people]
        host = Host(queue)
        always = Entity()
        host.wake(always)
        live(host, entities, [step for step in steps if step[0] not in ("block", "exit")])
        assert sum(e.sum_exec_runtime for e in (*entities, always)) == host.now
        assert queue.nr_running == sum(e.on_rq and not e.sched_delayed for e in (*entities, always))


# Brute force.


@settings(max_examples=150, deadline=None)
@given(people, steps)
def test_the_average_is_the_weighted_mean_and_picks_are_eligible_with_the_earliest_deadline(
    people: list[tuple[int, int]], steps: list[tuple[str, int, int]]
) -> None:
    queue = eevdf()
    plain_pick = queue.pick_next

    def see() -> None:
        if queued(queue):
            assert queue.avg_vruntime() == floor(mean(queue))

    class Watched(Host):
        def run(self, cycles: int) -> None:
            super().run(cycles)
            before, protected = queue.current, False
            if before is not None:
                protected = before.vruntime < before.vprot and before.vruntime <= mean(queue)
            if (picked := plain_pick(self.now)) is None:
                assert not queued(queue)
            elif protected:
                assert picked is before
            else:
                eligible = [e for e in queued(queue) if e.vruntime <= mean(queue)]
                assert picked in eligible
                assert picked.deadline == min(e.deadline for e in eligible)

    live(Watched(queue, see), [Entity(weight_of(nice), custom) for nice, custom in people], steps)


@pytest.mark.parametrize("rules", [(EevdfRunQueue, CfsRq), (EevdfRunQueueV73, CfsRqV73)], ids=["v6.18", "v7.3"])
@settings(max_examples=200, deadline=None)
@given(people, steps)
def test_it_decides_as_a_literal_reading_of_fair_c(
    rules: tuple[type[EevdfRunQueue], type[CfsRq]], people: list[tuple[int, int]], steps: list[tuple[str, int, int]]
) -> None:
    queue, cfs_rq = (of(SLICE, TICK) for of in rules)
    entities = [Entity(weight_of(nice), custom) for nice, custom in people]
    ses = [Se(i, weight_of(nice), custom) for i, (nice, custom) in enumerate(people)]
    number = {id(entity): i for i, entity in enumerate(entities)}

    class Twin(RunQueue):
        @property
        def current(self) -> Entity | None:  # type: ignore[override]
            return queue.current

        def update_current(self, now: int) -> None:
            queue.update_current(now)
            cfs_rq.update_curr(now)

        def enqueue(self, now: int, entity: Entity, **how: bool) -> None:
            queue.enqueue(now, entity, **how)
            cfs_rq.enqueue(now, ses[number[id(entity)]], how.get("initial", False))

        def dequeue(self, now: int, entity: Entity, *, sleep: bool, special: bool = False) -> None:
            queue.dequeue(now, entity, sleep=sleep, special=special)
            cfs_rq.dequeue(now, ses[number[id(entity)]], sleep, special)

        def pick_next(self, now: int) -> Entity | None:
            ours, theirs = queue.pick_next(now), cfs_rq.schedule(now)
            assert (ours and number[id(ours)]) == (theirs and theirs.name)
            return ours

        def wakeup_preempts(self, now: int, entity: Entity, *, fork: bool = False) -> bool:
            ours = queue.wakeup_preempts(now, entity, fork=fork)
            assert ours == cfs_rq.check_preempt_wakeup(now, ses[number[id(entity)]], fork)
            return ours

        @property
        def need_resched(self) -> bool:
            assert queue.need_resched == cfs_rq.resched
            return queue.need_resched

        def waiting(self) -> list[Entity]:
            return queue.waiting()

    def see() -> None:
        shift = floor(cfs_rq.average()) - queue.avg_vruntime()
        for ours, theirs in zip(entities, ses, strict=True):
            assert (ours.on_rq, ours.sched_delayed, ours.vlag) == (theirs.on_rq, theirs.sched_delayed, theirs.vlag)
            if ours.on_rq:
                assert (ours.vruntime + shift, ours.deadline + shift) == (theirs.vruntime, theirs.deadline)
            if ours is queue.current:
                assert ours.vprot + shift == theirs.vprot

    live(Host(Twin(), see), entities, steps)


@settings(max_examples=60, deadline=None)
@given(people, steps, st.integers(1, 3 * SLICE), st.booleans())
def test_preempt_time_is_the_first_time_at_which_a_tick_reschedules(
    people: list[tuple[int, int]], steps: list[tuple[str, int, int]], until: int, fair: bool
) -> None:
    queue: RunQueue = eevdf() if fair else RoundRobinRunQueue(SLICE)
    host = Host(queue)

    def see() -> None:
        when = queue.preempt_time()
        times = [host.now, host.now + until] if when is None else [when - 1, when, when + 1, when + until]
        assert min(times) >= host.now - 1
        for now in [time for time in times if time >= host.now]:
            copy = deepcopy(queue)
            stop = host.now + (now - host.now) // 3
            assert ticks(copy, stop) == (when is not None and stop >= when)
            assert ticks(copy, now) == (when is not None and now >= when)

    host.see = see
    live(host, [Entity(weight_of(nice), custom) for nice, custom in people], steps[:30])


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
        queue.enqueue(MS, sleeper, wakeup=True)
        assert (floor(mean(queue)) - sleeper.vruntime < owed - sleeper.inv_weight) is grows


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
    queue.enqueue(MS, running, wakeup=True)
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
    queue.enqueue(MS, running, wakeup=True)
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
        there.enqueue(host.now, moved, migrated=True)
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
    queue.enqueue(host.now, woken, wakeup=True)
    assert not queue.wakeup_preempts(host.now, woken)


@pytest.mark.parametrize(("request_of_current", "preempts"), [(30 * MS, True), (MS, False)])
def test_a_wake_up_with_a_shorter_slice_and_an_earlier_deadline_preempts(
    request_of_current: int, preempts: bool
) -> None:
    queue = eevdf()
    host = Host(queue)
    host.wake(Entity(NICE_0_LOAD, request_of_current))
    woken = Entity(NICE_0_LOAD, 2 * MS)
    queue.enqueue(0, woken, wakeup=True)
    assert queue.wakeup_preempts(0, woken) is preempts


def test_a_shorter_slice_that_is_not_eligible_shortens_the_protection_of_current() -> None:
    """Linux commit 3a0baa8e6c57."""
    queue = eevdf()
    host = Host(queue)
    current = Entity(NICE_0_LOAD, 30 * MS)
    host.wake(current)
    woken = Entity(NICE_0_LOAD, MS)
    woken.vlag = -MS * woken.inv_weight
    queue.enqueue(0, woken, wakeup=True)
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
    queue.enqueue(SLICE + 5, woken, wakeup=True)
    assert queue.wakeup_preempts(SLICE + 5, woken)
    assert queue.pick_next(SLICE + 5) is not current
    assert not ticks(queue, SLICE + 5)


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
