"""Which thread an idle CPU pulls: of cfs_tasks, an MRU list, the last one that may go (fair.c, v6.18.2 to v7.3.4)."""

from operator import attrgetter

import pytest
from hosts import hosted, only, with_little
from hypothesis import given
from hypothesis import strategies as st

from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_groups import GroupedRunQueue, TaskGroup
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.runqueue import Entity

STEPS = st.lists(
    st.tuples(st.sampled_from(["wake", "sleep", "pick", "later"]), st.integers(0, 5)), min_size=40, max_size=80
)
"""So many that threads take turns, which short lists hardly lead to."""


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", [EevdfRunQueue, EevdfRunQueueV73])
@given(STEPS)
def test_threads_are_pulled_in_the_order_of_an_mru_list(kind, grouped, steps):
    """list_add() at an enqueue, list_move() where one begins to run, nothing where only a delay ends."""
    group = TaskGroup(1024)
    rq = GroupedRunQueue(kind(1000, 100), {group: kind(1000, 100)}) if grouped else kind(1000, 100)
    entities = [Entity() for _ in range(6)]
    for entity in entities[::2] if grouped else ():
        entity.group = group
    now, tasks = 0, []
    for step, which in steps:
        entity = entities[which]
        current = rq.current
        if step == "later":
            now += 400
            continue
        if step == "wake" and (entity.sched_delayed or not entity.on_rq):
            if not entity.on_rq:
                tasks.insert(0, entity)
            rq.enqueue(now, entity)
        elif step == "sleep" and current is not None:
            rq.dequeue(now, current, sleep=True)
        if step in ("sleep", "pick") and (picked := rq.pick_next(now)) is not None and picked is not current:
            tasks.remove(picked)
            tasks.insert(0, picked)
        tasks = [each for each in tasks if each.on_rq]
        waiting = [each for each in reversed(tasks) if each is not rq.current and not each.sched_delayed]
        assert sorted(rq.waiting(), key=attrgetter("listed")) == waiting


@pytest.mark.parametrize("kernel", ["v6.18", "v7.3"])
def test_an_idle_cpu_takes_who_began_to_run_longest_ago_of_those_that_may_go(kernel):
    """The first has run since before the others came, so that it is behind them on the list when it waits again."""
    text = with_little("pulling", "4 ms") + f'kernel = ["{kernel}"]\n'
    _, host = hosted(only(text + '[threads.t]\ncount = 5\ncompute = "1 ms"\n'))
    here, there = host.cpus
    first, *others = (thread for cpu in host.cpus for thread in cpu.rq.waiting())
    for thread in (first, *others):
        thread.cpu.rq.dequeue(0, thread, sleep=False)
    here.rq.enqueue(0, first)
    assert here.rq.pick_next(0) is first
    for thread in others:
        thread.cpu = here
        here.rq.enqueue(0, thread)
    runs = here.rq.pick_next(10**8)
    b, pinned, c = (thread for thread in others if thread is not runs)
    pinned.allowed = 1 << here.id
    host.note_queue(here)
    for expected in (first, b, c):
        assert host.pull(there, 10**8)
        assert expected.cpu is there
    assert not host.pull(there, 10**8)


def test_an_idle_cpu_looks_on_all_cpus_until_it_finds_who_may_come():
    """sched_balance_newidle() goes on where can_migrate_task() has refused all that it was offered."""
    text = with_little("pulling", "4 ms").replace("cpus = 2", "cpus = 4")
    _, host = hosted(only(text + '[threads.t]\ncount = 8\ncompute = "1 ms"\n'))
    idle, *others = host.cpus
    for thread in idle.rq.waiting():
        idle.rq.dequeue(0, thread, sleep=False)
    for cpu in others:
        for thread in cpu.rq.waiting():
            thread.allowed = 0b1111 if cpu is others[-1] else 0b1110
        host.note_queue(cpu)
    assert host.pull(idle, 0)
    (pulled,) = idle.rq.waiting()
    assert pulled.allowed == 0b1111
    assert [cpu.rq.nr_running for cpu in others] == [2, 2, 1]
