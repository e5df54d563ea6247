"""Who wakes whom, fitted: a simulated host knows it, and its recording has to show it."""

import io
from collections import Counter

import pytest
from hosts import only, simulate, value
from test_wait_queues import MAKE

from sim.analysis import tuning
from sim.analysis.recorded_run import RecordedRun
from sim.trace.fit.entries import Charges
from sim.trace.fit.groups import grouped
from sim.trace.fit.lives import Watcher
from sim.trace.following.replay import REGS
from sim.trace.reading.chunks import steps
from sim.trace.reading.reader import Reader

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
wakes = {{ sink = 1.0 }}
[threads.sink]
count = 2
affinity = [1]
compute = "60 us"
sleep = {{ exponential = "3 ms" }}
waits = {{ share = {share} }}
"""


def groups(text, seed=1, preemption="voluntary", measure="600 ms", more=()):
    """The entries of a fit to a run of a scenario, by their names and keys; of ``more`` events than needed."""
    case = only(HOST.format(preemption=preemption, measure=measure) + text, seed=seed)
    lines = RecordedRun(case, "free-ssp", 0, only=EVENTS | set(more)).lines()
    reader, watcher = Reader(io.BytesIO("\n".join([*lines, ""]).encode()), "a run"), Watcher()
    for chunk in reader.chunks():
        for step in steps(chunk, reader.names):
            watcher.see(step)
    watcher.finish()
    seen = watcher.seen
    found = grouped(watcher.lives, seen.first_ns, seen.last_ns, Charges(), interrupts=case.scenario.host.hz)
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


@pytest.mark.parametrize(
    ("mean", "preemption"),
    [
        (0.5, "full"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((0.5, "none"), (1.0, "none"), (1.0, "full"))),
    ],
)
def test_a_kicker_is_found_with_its_probability_beside_threads_that_timers_wake(mean, preemption):
    found = groups(KICKER.format(mean=mean), preemption=preemption)
    assert sum(wakes(found["kicker"]).values()) == pytest.approx(mean, abs=0.12)
    for vm in vcpus(found):
        assert vm.waits[0] > 0.97
        assert len(vm.halt) < 8


@pytest.mark.parametrize("by_chance", [False, True])
def test_whose_turn_it_is_and_how_long_a_burst_goes_on_after_a_wake_up_are_found(by_chance):
    text = KICKER.format(mean=1.0)
    if by_chance:
        text = text.replace("share = 1.0", 'share = 1.0, order = "any"')
        text = text.replace("wakes = { vm", 'compute_after = { exponential = "30 us" }\nwakes = { vm')
    found = groups(text)
    assert {vm.any_order for vm in vcpus(found) if vm.rows > 1} == {by_chance}
    kicker = found["kicker"]
    assert bool(kicker.after) == by_chance
    if by_chance:
        assert sum(kicker.after) / len(kicker.after) / 1e3 == pytest.approx(31, rel=0.15)
    assert sum(kicker.compute) / len(kicker.compute) / 1e3 == pytest.approx(21, rel=0.1)


@pytest.mark.parametrize("share", [0.7, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.4, 1.0))])
def test_sleeps_that_somebody_ends_are_told_from_those_that_time_ends(share):
    found = groups(PIPELINE.format(share=share))
    sink = found["sink"]
    assert wakes(found["source"])["sink"] == pytest.approx(1.0, abs=0.25)
    assert sink.waits[0] == pytest.approx(share, abs=0.12)
    if share < 1:
        assert sum(sink.sleep) / len(sink.sleep) == pytest.approx(3e6, rel=0.3)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
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


VHOST = """
[guests.vm]
vcpus = 2
[guests.vm.exits.kick]
every = {{ exponential = "250 us" }}
reason = "ept-misconfig"
handled = "{handled}"
wakes = {{ vhost = {mean} }}
[threads.vhost]
kind = "kthread"
count = 3
compute = {{ exponential = "20 us" }}
waits = {{ share = 1.0 }}
"""


@pytest.mark.parametrize(("handled", "more", "name"), [
    ("kernel", ("kvm_entry", "kvm_exit"), "ept-misconfig"), ("userspace", (), "userspace"),
    pytest.param("kernel", (), "kick", marks=pytest.mark.slow),
    pytest.param("userspace", ("kvm_entry", "kvm_exit"), "userspace", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_vcpu_s_exits_that_wake_a_thread_are_found_with_their_probability(handled, more, name):
    found = groups(VHOST.format(handled=handled, mean=0.8 if more else 1.0), measure="400 ms", more=more)
    assert sum(group.cycles for key, group in found.items() if key[1] == "vhost") > 200
    for vm in vcpus(found):
        assert set(vm.exit_wakes) == {name}
        assert sum(wakes.waits[0] for key, wakes in found.items() if key[1:2] == ("vhost",)) > 0.95
        assert sum(vm.exit_wakes[name].values()) == pytest.approx(0.8 if more else 1.0, abs=0.15)


@pytest.mark.parametrize(("handled", "name"), [("kernel", "ept-misconfig"), ("userspace", "userspace")])
def test_exits_at_which_the_woken_thread_is_busy_say_nothing_of_the_probability(handled, name):
    host = VHOST.format(handled=handled, mean=0.8).replace("count = 3", "").replace('"20 us"', '"200 us"')
    found = groups(host, measure="400 ms", more=("kvm_entry", "kvm_exit"))
    for vm in vcpus(found):
        assert sum(vm.exit_wakes[name].values()) == pytest.approx(0.8, abs=0.08)


# As VIRTIO of benchmarks/twins.py was when a rule was made for it; a test does not change with a benchmark.
TIMEOUTS = """
[guests.vm]
vcpus = 2
demand = { exponential = "200 us" }
waits = { share = 0.7, at_most = "5 ms" }
sleep = { exponential = "600 us" }
[guests.vm.exits.doorbell]
every = { exponential = "180 us" }
reason = "ept-misconfig"
wakes = { iothread = 1.0 }
[threads.iothread]
compute = { exponential = "30 us" }
waits = { share = 1.0 }
wakes = { vm = 0.8 }
"""


def test_waits_that_time_out_are_waits_and_a_wake_up_by_chance_does_not_make_bursts_go_on():
    found = groups(TIMEOUTS, more=("kvm_entry", "kvm_exit"))
    for vm in vcpus(found):
        assert vm.waits == (pytest.approx(0.7, abs=0.08), pytest.approx(5e6, rel=0.01))
    assert not found["iothread"].after


def test_sleeps_of_one_length_during_which_wakers_run_are_no_waits():
    host = """
[threads.client]
compute = "20 us"
sleep = "2 ms"
waits = { share = 0.4 }
[threads.server]
compute = "30 us"
sleep = { exponential = "150 us" }
wakes = { client = 1.0 }
"""
    client = groups(host)["client"]
    assert client.waits[0] == pytest.approx(0.4, abs=0.1)


STORM = """
[guests.vm]
vcpus = 2
demand = { exponential = "200 us" }
sleep = { exponential = "100 us" }
halt_poll = "200 us"
[guests.vm.exits.cpuid]
every = { exponential = "30 us" }
reason = "cpuid"
time = "2 us"
"""


def test_exits_that_kvm_handles_are_found_with_their_guest_time_and_handler_and_polled_halts_are_halts():
    found = groups(STORM, measure="200 ms", more=("kvm_entry", "kvm_exit", "kvm_vcpu_wakeup"))
    for vm in vcpus(found):
        (cpuid,) = vm.exits
        assert (cpuid.name, cpuid.reason) == ("cpuid", "cpuid")
        assert cpuid.every.mean == pytest.approx(30e3, rel=0.08)
        assert cpuid.every.samples
        assert 2e3 < cpuid.time.mean < 4e3
        assert sum(vm.demand) / len(vm.demand) == pytest.approx(200e3, rel=0.2)
        assert sum(vm.halt) / len(vm.halt) == pytest.approx(100e3, rel=0.25)
        assert vm.halts > 100


POLLED = """
title = "halts that KVM polls"
[run]
measure = "150 ms"
warmup = "0 ns"
[host]
cpus = 2
cpu = ["zen4"]
[guests.vm]
vcpus = 2
demand = { exponential = "80 us" }
sleep = { exponential = "150 us" }
"""


def test_a_vcpu_comes_round_as_often_as_it_halts_whether_kvm_polls_or_it_sleeps():
    """Longer halts are polled less often, so that there are more sleeps then, and fewer halts."""
    case = only(POLLED)
    record = simulate(case, "free-ssp", 0)
    halts, polled = value(record, "halts"), value(record, "halts_polled")
    assert 0.2 * halts < polled < 0.8 * halts
    seen = tuning._simulated((case, "free-ssp", EVENTS | {"kvm_entry", "kvm_exit", "kvm_vcpu_wakeup"}, 0))
    assert seen.cycles["vm"] * 0.15 == pytest.approx(halts, rel=0.02)
