"""Threads and vCPUs that wait for each other: what waking conserves, whatever preempts whom."""

from collections import defaultdict
from itertools import pairwise, product

import pytest
from hosts import only, simulate
from test_ticks import watched

from sim.errors import InputError

HOST = """
title = "who waits for whom"
[run]
measure = "200 ms"
warmup = "0 ns"
[host]
cpus = {cpus}
cpu = ["zen4"]
halt_poll = "0 ns"
preemption = "{preemption}"
"""
KICKER = """
[threads.kicker]
compute = "20 us"
sleep = { exponential = "500 us" }
wakes = { vm = 1.0 }
[guests.vm]
vcpus = 3
demand = "10 us"
waits = { share = 1.0 }
"""
LOOP = """
[threads.a]
compute = { exponential = "30 us" }
waits = { share = 1.0 }
wakes = { b = 1.0 }
syscall = "2 us"
[threads.b]
compute = { exponential = "20 us" }
waits = { share = 1.0 }
wakes = { a = 1.0 }
syscall = "2 us"
[threads.hog]
count = 2
compute = "1 ms"
"""
POOL = """
[threads.source]
compute = "20 us"
sleep = { exponential = "1 ms" }
wakes = { worker = 0.5 }
[threads.worker]
kind = "kthread"
count = 4
compute = "10 us"
waits = { share = 1.0 }
"""
MAKE = """
[threads.shell]
kind = "fork"
compute = { exponential = "200 us" }
sleep = { exponential = "1 ms" }
wakes = { make = 1.0 }
[threads.make]
compute = "20 us"
waits = { share = 1.0 }
"""


def case(text, cpus=2, preemption="voluntary"):
    return only(HOST.format(cpus=cpus, preemption=preemption) + text)


def lives(text, *host):
    """What each thread does, by its name up to the number."""
    found = defaultdict(list)
    for life in watched(case(text, *host)).lives:
        found[life.name.partition("/")[0]].append(life)
    return found


def test_each_burst_of_a_kicker_ends_one_halt_of_the_vcpu_that_has_waited_longest():
    found = lives(KICKER)
    (kicker,) = found["kicker"]
    vcpus = [len(life.bursts) for life in found["vm"]]
    assert sum(vcpus) == pytest.approx(len(kicker.bursts), abs=6)
    assert max(vcpus) - min(vcpus) <= 2
    for life in found["vm"]:
        assert set(life.wakers) == {kicker.tid}


@pytest.mark.parametrize(
    ("cpus", "preemption"),
    [
        pytest.param(
            cpus, each, marks=[] if (cpus, each) in ((1, "none"), (1, "full"), (2, "lazy")) else pytest.mark.slow
        )
        for cpus in (1, 2)
        for each in ("none", "voluntary", "full", "lazy")
    ],
)
def test_a_loop_of_two_that_wake_each_other_never_stops(cpus, preemption):
    """A wake-up between prepare_to_wait() and the sleep would otherwise be lost, and both would sleep for ever."""
    found = lives(LOOP, cpus, preemption)
    (a,), (b,) = found["a"], found["b"]
    assert len(a.bursts) > 20
    assert max(a.bursts[-1].end_ns, b.bursts[-1].end_ns) > 190e6


def test_a_probability_is_the_share_of_bursts_that_wake_somebody():
    found = lives(POOL)
    (source,) = found["source"]
    woken = sum(life.wakers[source.tid] for life in found["worker"])
    assert woken / len(source.bursts) == pytest.approx(0.5, abs=0.12)
    assert all(set(life.wakers) <= {source.tid} for life in found["worker"])


def test_a_number_above_one_wakes_several_of_those_that_wait():
    found = lives(POOL.replace("worker = 0.5", "worker = 2.5"))
    (source,) = found["source"]
    woken = sum(life.wakers[source.tid] for life in found["worker"])
    assert woken / len(source.bursts) == pytest.approx(2.5, abs=0.2)


def test_any_of_those_that_wait_is_woken_where_the_scenario_says_so():
    found = lives(KICKER.replace("share = 1.0", 'share = 1.0, order = "any"'))
    ends = sorted((burst.ready_ns, life.tid) for life in found["vm"] for burst in life.bursts)
    again = sum(one == other for (_, one), (_, other) in pairwise(ends)) / (len(ends) - 1)
    assert again == pytest.approx(1 / 3, abs=0.08)
    in_turn = lives(KICKER)
    ends = sorted((burst.ready_ns, life.tid) for life in in_turn["vm"] for burst in life.bursts)
    assert sum(one == other for (_, one), (_, other) in pairwise(ends)) <= 2


AFTER = """
[threads.kicker]
affinity = [0]
compute = "20 us"
compute_after = "30 us"
sleep = { exponential = "500 us" }
wakes = { vm = 1.0 }
fpu = { components = ["SSE"] }
[guests.vm]
affinity = [0]
vcpus = 3
demand = "10 us"
waits = { share = 1.0 }
"""


@pytest.mark.parametrize("preemption", ["none", "full"])
def test_a_burst_that_goes_on_after_it_has_woken_somebody_may_be_preempted_by_whom_it_woke(preemption):
    for text, own_us in ((AFTER, 50), (AFTER.replace('compute_after = "30 us"\n', ""), 20)):
        (kicker,) = lives(text, 1, preemption)["kicker"]
        bursts = [burst for burst in kicker.bursts if burst.wakes][1:]
        assert len(bursts) > 100
        preempted = sum(burst.stints > 1 for burst in bursts) / len(bursts)
        assert preempted > 0.5 if own_us == 50 else preempted == 0 or preemption == "full"
        assert sum(burst.on_ns for burst in bursts) / len(bursts) / 1e3 == pytest.approx(own_us, abs=5)


def test_a_wake_up_that_finds_nobody_waiting_does_nothing():
    found = lives(POOL.replace("count = 4", "count = 1").replace('compute = "10 us"', 'compute = "3 ms"'))
    (source,), (worker,) = found["source"], found["worker"]
    assert len(worker.bursts) < 0.5 * len(source.bursts)


@pytest.mark.parametrize(("share", "at_most"), [(1.0, 2), pytest.param(0.5, 2, marks=pytest.mark.slow), (0.5, 5)])
def test_a_wait_that_nobody_ends_is_over_at_its_time_limit(share, at_most):
    text = POOL.replace("worker = 0.5", "worker = 0.0001").replace(
        "waits = { share = 1.0 }", f'waits = {{ share = {share}, at_most = "{at_most} ms" }}\nsleep = "1 ms"'
    )
    mean = sum(len(life.bursts) for life in lives(text)["worker"]) / 4
    assert mean == pytest.approx(200 / (share * at_most + (1 - share) + 0.02), rel=0.1)


def test_a_halt_that_no_thread_ends_is_over_at_its_time_limit():
    text = KICKER.replace("vm = 1.0", "vm = 0.0001").replace("share = 1.0", 'share = 1.0, at_most = "2 ms"')
    for life in lives(text)["vm"]:
        assert len(life.bursts) == pytest.approx(200 / 2.03, abs=3)


def test_the_exit_of_a_child_wakes_who_waits_for_it():
    found = lives(MAKE)
    (make,) = found["make"]
    children = len(found["shell"]) - 1
    assert children > 100
    assert 0.9 * children < len(make.bursts) <= children + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (KICKER.replace("{ vm = 1.0 }", "{ vn = 1.0 }"), "threads.kicker.wakes"),
        (KICKER.replace("wakes = { vm = 1.0 }", ""), "guests.vm.waits: nobody wakes them"),
        (KICKER.replace("vm = 1.0", "vm = 0.0"), "threads.kicker.wakes.vm"),
        (KICKER.replace("share = 1.0", "share = 0.5"), "guests.vm.demand"),
        (KICKER.replace('demand = "10 us"', ""), "guests.vm.waits"),
        (POOL.replace("share = 1.0", "share = 0.5"), "threads.worker.waits.share"),
        (POOL.replace('"kthread"', '"fork"') + 'sleep = "1 ms"\n', "threads.worker.waits"),
        (POOL.replace("[threads.source]", '[threads.source]\nkind = "pipe"').replace(
            'sleep = { exponential = "1 ms" }\n', ""), "threads.source.wakes"),
    ],
)  # fmt: skip
def test_who_waits_for_nobody_and_who_wakes_nobody_is_said(text, message):
    with pytest.raises((InputError, ValueError), match=message.replace(".", r"\.")):
        case(text)


def test_time_is_accounted_for_and_runs_again_to_the_same_record():
    one, other = (simulate(case(LOOP + KICKER.replace("vm", "guest")), "free-ssp", 0) for _ in range(2))
    assert one == other


def test_the_time_limit_of_a_wait_that_is_over_does_not_end_the_next_one():
    """While it wakes others, who is going to wait is on its queue already, and runs."""
    text = """
    wakeup_time = "40 us"
    [threads.source]
    compute = "10 us"
    sleep = { exponential = "60 us" }
    wakes = { relay = 1.0 }
    [threads.relay]
    compute = { exponential = "10 us" }
    waits = { share = 1.0, at_most = "150 us" }
    wakes = { sink = 1.0 }
    [threads.sink]
    compute = "1 us"
    waits = { share = 1.0 }
    """
    (relay,) = lives(text)["relay"]
    assert 100 < sum(relay.wakers.values()) <= len(relay.bursts)


@pytest.mark.parametrize("waiter", ['[guests.vm]\ndemand = "10 us"', '[threads.vm]\ncompute = "10 us"'])
def test_of_waits_that_are_all_ended_before_their_time_limit_none_is_ended_by_that_of_an_earlier_one(waiter):
    """Woken every 300 us and some, with a limit of 500 us that falls into the next wait: a burst for each wake-up."""
    kicker = '[threads.kicker]\ncompute = "20 us"\nsleep = "280 us"\nwakes = { vm = 1.0 }\n'
    found = lives(f'{kicker}{waiter}\nwaits = {{ share = 1.0, at_most = "500 us" }}\n')
    (one,), (other,) = found["kicker"], found["vm"]
    assert len(one.bursts) > 600
    assert len(other.bursts) == pytest.approx(len(one.bursts), abs=2)


VHOST = """
[guests.vm]
vcpus = 1
affinity = [0]
[guests.vm.exits.kick]
every = {{ exponential = "200 us" }}
handled = "{handled}"
wakes = {{ worker = {mean} }}
[threads.worker]
kind = "kthread"
count = 2
affinity = [{cpu}]
compute = "10 us"
waits = {{ share = 1.0 }}
"""


QUICK = ((1.0, 0, "kernel", "full"), (0.5, 1, "kernel", "none"), (1.0, 0, "userspace", "none"))


@pytest.mark.parametrize(
    ("mean", "cpu", "handled", "preemption"),
    [
        pytest.param(*each, marks=[] if each in QUICK else pytest.mark.slow)
        for each in product((1.0, 0.5), (0, 1), ("kernel", "userspace"), ("none", "full"))
    ],
)
def test_exits_of_a_guest_wake_threads_with_their_probability(mean, cpu, handled, preemption):
    found = lives(VHOST.format(handled=handled, mean=mean, cpu=cpu), 2, preemption)
    (vcpu,) = found["vm"]
    woken = [len(life.bursts) for life in found["worker"]]
    assert sum(woken) == pytest.approx(mean * 1000, rel=0.15)
    assert max(woken) - min(woken) <= 0.02 * sum(woken)
    assert all(set(life.wakers) == {vcpu.tid} for life in found["worker"])


def test_a_vcpu_is_not_woken_by_an_exit():
    text = VHOST.format(handled="kernel", mean=1.0, cpu=1)
    with pytest.raises(InputError, match=r"guests\.vm\.exits\.kick\.wakes"):
        case(
            text.replace("worker = 1.0", "vm = 1.0").replace("affinity = [0]", 'demand = "1 ms"\nwaits = { share = 1 }')
        )
