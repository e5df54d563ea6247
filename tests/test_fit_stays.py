"""Busy threads that the recorded scheduler moved between CPUs: one thread for each CPU in the twin."""

import pytest

from sim.trace.fit.entries import Charges
from sim.trace.fit.groups import grouped
from sim.trace.fit.lives import Watcher
from sim.trace.fit.stays import parts
from sim.trace.fit.thread_times import VcpuTimes
from sim.trace.following.known import Step
from sim.trace.reading.events import CODE

MS = 1_000_000
ROUND_MS = 12
"""Of each CPU's threads, which have a slice of 4 ms each."""
NAMES = {1: "here", 2: "there", 3: "moved", 4: "other", 5: "another"}


def recording(stays, rounds=90):
    """Two CPUs that are never idle, and on which slices follow one another; ``stays`` says where thread 3 is."""
    watcher, time_ns, on = Watcher(), 0, {0: 1, 1: 2}
    events = []
    for number in range(rounds):
        at = stays[number * len(stays) // rounds]
        for cpu, own in ((0, (1, 4)), (1, (2, 5))):
            threads = (*own, 3) if at == cpu else own
            slice_ns = ROUND_MS * MS // len(threads)
            events += [(number * ROUND_MS * MS + i * slice_ns + cpu + 1, cpu, tid) for i, tid in enumerate(threads)]
    for time_ns, cpu, tid in sorted(events):
        if on[cpu] != tid:
            values = (on[cpu], 120, ord("R"), NAMES[tid], tid, 120)
            watcher.see(Step(0, time_ns, cpu, on[cpu], NAMES[on[cpu]], CODE["sched_switch"], values))
            on[cpu] = tid
    watcher.finish()
    for life in watcher.lives:
        life.user = True
    return watcher


def entries(watcher):
    """By name and CPU."""
    seen = watcher.seen
    groups = grouped(watcher.lives, seen.first_ns, seen.last_ns, Charges())
    return {(group.key[1], *group.key[3]): group for group in groups}


def test_a_thread_that_was_moved_is_busy_on_each_cpu_while_it_was_there_and_asleep_while_not():
    watcher = recording([0, 1, 0])
    (life,) = (each for each in watcher.lives if each.tid == 3)
    found = entries(watcher)
    on = {cpu: sum(found["moved", cpu].compute) for cpu in (0, 1)}
    assert on == {cpu: pytest.approx(life.at_ns[cpu], rel=0.01) for cpu in (0, 1)}
    assert [len(found["moved", cpu].compute) for cpu in (0, 1)] == [2, 1]
    third = 30 * ROUND_MS * MS
    assert max(found["moved", 0].sleep) == pytest.approx(third, rel=0.05)
    assert found["moved", 1].sleep == [pytest.approx(2 * third, rel=0.05)]
    assert found["moved", 0].share == pytest.approx(1 / 3, rel=0.05)
    assert all(found["moved", cpu].order is not None for cpu in (0, 1))
    assert {("here", 0), ("other", 0), ("there", 1), ("another", 1)} < set(found)


def test_a_thread_whose_stays_are_one_slice_long_stays_on_one_cpu():
    watcher = recording([0, 1] * 45)
    assert not parts(watcher.lives, idle=0.0)
    assert [key for key in entries(watcher) if key[0] == "moved"] in ([("moved", 0)], [("moved", 1)])


def test_where_cpus_are_idle_at_times_no_thread_is_cut():
    assert len(parts(recording([0, 1, 0]).lives, idle=0.0)) == 1
    assert not parts(recording([0, 1, 0]).lives, idle=0.1)


def test_wake_ups_by_a_thread_that_was_moved_go_along_in_proportion():
    watcher = recording([0, 1, 0])
    (life,) = (each for each in watcher.lives if each.tid == 3)
    (burst,) = life.bursts
    life.bursts[0] = burst._replace(wakes=300)
    (split,) = parts(watcher.lives, idle=0.0).values()
    assert sum(each.wakes for part in split for each in part.bursts) == pytest.approx(300, abs=2)
    assert sum(each.on_ns for part in split for each in part.bursts) == burst.on_ns
    assert sum(each.stints for part in split for each in part.bursts) == pytest.approx(burst.stints, abs=1)


def test_a_thread_that_forks_in_a_long_burst_is_not_cut():
    watcher = recording([0, 1, 0])
    (life,) = (each for each in watcher.lives if each.tid == 3)
    life.bursts[0] = life.bursts[0]._replace(forks=1)
    assert not parts(watcher.lives, idle=0.0)


def test_beside_a_thread_that_was_moved_and_cannot_be_cut_none_is():
    watcher = recording([0, 1, 0])
    (life,) = (each for each in watcher.lives if each.tid == 3)
    (vcpu,) = (each for each in recording([1, 0, 1]).lives if each.tid == 3)
    assert len(parts([*watcher.lives, vcpu], idle=0.0)) == 2
    vcpu.vcpu = VcpuTimes()
    assert not parts([*watcher.lives, vcpu], idle=0.0)
    assert id(life) in parts(watcher.lives, idle=0.0)
