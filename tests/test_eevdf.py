"""EEVDF of v6.18 on a run queue: its theorems, and a literal second reading of fair.c."""

from copy import deepcopy
from itertools import pairwise
from math import floor

import pytest
from eevdf_literal import CfsRq, CfsRqV73, Se
from hypothesis import given, settings
from hypothesis import strategies as st
from run_queue import SLICE, TICK, Host, eevdf, lag, live, mean, people, queued, steps, ticks

from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.round_robin import RoundRobinRunQueue
from sim.host.runqueue import Entity, RunQueue
from sim.host.weights import SCHED_PRIO_TO_WEIGHT, WMULT_SHIFT, inverse, weight_of

# Weights.

SCHED_PRIO_TO_WMULT = (
    *(48388, 59856, 76040, 92818, 118348, 147320, 184698, 229616, 287308, 360437),
    *(449829, 563644, 704093, 875809, 1099582, 1376151, 1717300, 2157191, 2708050, 3363326),
    *(4194304, 5237765, 6557202, 8165337, 10153587, 12820798, 15790321, 19976592, 24970740, 31350126),
    *(39045157, 49367440, 61356676, 76695844, 95443717, 119304647, 148102320, 186737708, 238609294, 286331153),
)
"""sched_prio_to_wmult[], kernel/sched/core.c, Linux v6.18: 2^32 over the weight of each nice level."""


def test_a_nice_level_is_a_quarter_more_weight_and_inverses_are_those_of_the_kernel() -> None:
    for heavier, lighter in pairwise(SCHED_PRIO_TO_WEIGHT[:30]):
        assert heavier / lighter == pytest.approx(1.25, rel=0.04)
    for weight, wmult in zip(SCHED_PRIO_TO_WEIGHT, SCHED_PRIO_TO_WMULT, strict=True):
        assert (1 << 32) // weight == pytest.approx(wmult, abs=1)
        assert inverse(weight) / 1024 == pytest.approx(wmult, rel=2e-5)
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
    numbers = getattr(queue, "listings", None)  # Python 3.14 copies no count()

    def see() -> None:
        when = queue.preempt_time()
        times = [host.now, host.now + until] if when is None else [when - 1, when, when + 1, when + until]
        assert min(times) >= host.now - 1
        for now in [time for time in times if time >= host.now]:
            copy = deepcopy(queue, {id(numbers): numbers})
            stop = host.now + (now - host.now) // 3
            assert ticks(copy, stop) == (when is not None and stop >= when)
            assert ticks(copy, now) == (when is not None and now >= when)

    host.see = see
    live(host, [Entity(weight_of(nice), custom) for nice, custom in people], steps[:30])
