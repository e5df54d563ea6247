"""Who wakes whom, fitted: a simulated host knows it, and its recording has to show it."""

import io
from collections import Counter

import pytest
from hosts import only
from test_wait_queues import MAKE

from sim.analysis.recorded_run import RecordedRun
from sim.trace.fit.entries import Charges
from sim.trace.fit.groups import grouped
from sim.trace.fit.lives import Watcher
from sim.trace.following.replay import REGS
from sim.trace.reading.reader import Reader, steps

EVENTS = frozenset(("sched_switch", "sched_wakeup", "sched_process_fork", "sched_process_exec", "kvm_fpu", *REGS))
HOST = """
title = "who wakes whom"
[run]
measure = "{measure}"
warmup = "0 ns"
[host]
cpus = 2
cpu = ["zen4"]
halt_poll = "0 ns"
preemption = "{preemption}"
[threads.hog]
count = 2
compute = "1 ms"
fpu = {{ components = ["SSE"] }}
[threads.sleeper]
count = 4
compute = {{ exponential = "200 us" }}
sleep = {{ exponential = "2 ms" }}
fpu = {{ components = ["SSE"] }}
"""
KICKER = """
[threads.kicker]
compute = "20 us"
sleep = {{ exponential = "800 us" }}
wakes = {{ vm = {mean} }}
fpu = {{ components = ["SSE"] }}
[guests.vm]
vcpus = 3
demand = "30 us"
waits = {{ share = 1.0 }}
"""
PIPELINE = """
[threads.source]
compute = {{ exponential = "50 us" }}
sleep = {{ exponential = "1 ms" }}
wakes = {{ sink = {mean} }}
[threads.sink]
count = 2
affinity = [1]
compute = "60 us"
sleep = {{ exponential = "3 ms" }}
waits = {{ share = {share} }}
"""


def groups(text, seed=1, preemption="voluntary", measure="600 ms"):
    """The entries of a fit to a run of a scenario, by their names and keys."""
    case = only(HOST.format(preemption=preemption, measure=measure) + text, seed=seed)
    lines = RecordedRun(case, "free-ssp", 0, only=EVENTS).lines()
    reader, watcher = Reader(io.BytesIO("\n".join([*lines, ""]).encode()), "a run"), Watcher()
    for chunk in reader.chunks():
        for step in steps(chunk, reader.names):
            watcher.see(step)
    watcher.finish()
    seen = watcher.seen
    found = grouped(watcher.lives, seen.first_ns, seen.last_ns, Charges())
    return {entry(group.key): group for group in found} | {group.key: group for group in found}


def vcpus(found):
    return [group for key, group in found.items() if key[0] == "vcpu"]


def entry(key):
    """The name of an entry without the number of its only thread."""
    return key[1].removesuffix("-0").removesuffix("-0")


def wakes(group):
    """Means by entry; threads of one name that stay on different CPUs are several entries."""
    found = Counter()
    for key, mean in group.wakes.items():
        found[entry(key)] += mean
    return found


@pytest.mark.parametrize("preemption", ["none", "full"])
@pytest.mark.parametrize("mean", [1.0, 0.5])
def test_a_kicker_is_found_with_its_probability_beside_threads_that_timers_wake(preemption, mean):
    found = groups(KICKER.format(mean=mean), preemption=preemption)
    assert sum(wakes(found["kicker"]).values()) == pytest.approx(mean, abs=0.12)
    for vm in vcpus(found):
        assert vm.waits[0] > 0.97
        assert len(vm.halt) < 8


@pytest.mark.parametrize(("mean", "share"), [(1.0, 1.0), (1.0, 0.4), (1.0, 0.7)])
def test_sleeps_that_somebody_ends_are_told_from_those_that_time_ends(mean, share):
    found = groups(PIPELINE.format(mean=mean, share=share))
    sink = found["sink"]
    assert wakes(found["source"])["sink"] == pytest.approx(mean, abs=0.25)
    assert sink.waits[0] == pytest.approx(share, abs=0.12)
    if share < 1:
        assert sum(sink.sleep) / len(sink.sleep) == pytest.approx(3e6, rel=0.3)


@pytest.mark.parametrize("seed", range(1, 6))
def test_nobody_wakes_anybody_where_timers_end_all_sleeps(seed):
    found = groups("", seed)
    assert found["sleeper"].cycles > 400
    assert all(group.waits is None and not group.wakes for group in found.values())


def test_the_exits_of_children_wake_who_waits_for_them():
    found = groups(MAKE, measure="400 ms")
    assert wakes(found["forks"]) == {"make": pytest.approx(1.0, abs=0.05)}
    assert found["make"].waits[0] > 0.95


def test_a_wait_ends_at_the_latest_when_the_longest_one_of_the_trace_did():
    found = groups(KICKER.format(mean=1.0))
    assert all(2e6 < vm.waits[1] < 20e6 for vm in vcpus(found))
