"""The compiled engine gives what the reference gives, to the last count, for whatever host it accepts.

The loop runs as plain Python here, which needs no compiler; ``fpswitch run --check-engine`` compares the compiled one,
and so does ``make verify``, which sets ENGINE_HOSTS to how many random hosts are to be compared.
"""

import pytest
from both_engines import NEWEST, assert_the_same  # first of all: the loop as plain Python
from engine_mode import COMPILED, HOSTS_COMPARED
from hosts import RICH, SHIPPED, changed, from_text, on_host, only, shipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.engine import choice, loop, simulation
from sim.engine.check import check
from sim.engine.fragments import Unsupported
from sim.errors import InputError
from sim.host import simulation as reference
from sim.host.preemption import PREEMPTION


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_scenarios_give_the_same_records_of_all_strategies(path):
    for case in shipped(path, "2 ms", "1 ms"):
        assert_the_same(case)


def test_a_host_with_everything_in_it_gives_the_same_records_in_several_replications():
    case = changed(from_text(RICH)[0], measure=4e-3, warmup=2e-3)
    for replication in range(3):
        assert_the_same(case, case.strategies[:4], replication)


@pytest.mark.parametrize(
    "host",
    [{"scheduler": "round-robin"}, {"wakeup_preemption": False}, {"idle_balancing": False}, {"buffer_level": "memory"}],
    ids=str,
)
def test_other_settings_of_the_host_give_the_same_records(host):
    case = changed(on_host(from_text(RICH)[1], **host), measure=3e-3, warmup=1e-3)
    assert_the_same(case, case.strategies[-2:])


def test_one_event_per_exit_gives_the_same_records():
    case = changed(from_text(RICH)[0], measure=2e-3, warmup=1e-3, batch=False)
    assert_the_same(case, ("manual-load",))


def test_no_integrity_check_gives_the_same_records():
    case = changed(from_text(RICH)[0], measure=2e-3, warmup=1e-3, integrity=False)
    assert_the_same(case, ("xstate-all-resident",))


TIES = """
title = "constant times, so that events of several CPUs fall into the same cycle"
[run]
measure = "{measure} us"
warmup = "{warmup} us"
seed = {seed}
latency_from = "{latency}"
[host]
cpus = {cpus}
cpu = ["{cpu}"]
kernel = ["{kernel[0]}"]
preemption = "{kernel[1]}"
hrtick = {hrtick}
idle_exit = "{idle_exit} us"
halt_poll_grow = {grow}
tsc = "1 GHz"
hz = 1000
halt_poll = "{poll} us"
ple_gap = {ple[0]}
ple_window = {ple[1]}
ple_window_grow = {ple[2]}
ple_window_shrink = {ple[3]}
ple_window_max = 30_000
directed_yield = "{directed}"
interrupt_time = "{interrupt} ns"
[guests.closed]
vcpus = {vcpus}
demand = "{demand} us"
sleep = "{sleep} us"
posted_interrupts = {posted}
{groups[0]}
idle = "{idle}"
guest_halt_poll = "{poll} us"
guest_halt_poll_grow_start = "{guest_start} us"
{signals}
{lock}
fpu = {{ components = ["SSE", "AVX"], every = "{writes} us" }}
[guests.closed.exits.ipi]
every = "{exits} us"
effect = "ipi"
time = "{handler} us"
[guests.closed.exits.io]
every = "{exits} us"
handled = "userspace"
vmm = "{vmm} us"
[guests.busy]
vcpus = 2
vms = {vms}
nice = {nice}
{groups[1]}
{lock}
[guests.busy.exits.timer]
every = "{exits} us"
reason = "wrmsr-tsc-deadline"
[guests.busy.exits.cpuid]
every = "{exits} us"
time = "{handler} us"
[threads.pipes]
kind = "pipe"
compute = {burst}
syscall = "1 us"
affinity = "{affinity}"
{groups[2]}
[threads.short]
count = {threads}
compute = {burst}
sleep = "{sleep} us"
syscall = "{syscall} us"
timer = "{timer}"
nice = {nice}
{groups[3]}
fpu = {{ components = ["SSE"] }}
[threads.kernel]
kind = "kthread"
compute = {burst}
sleep = "{sleep} us"
{groups[4]}
[threads.make]
kind = "fork"
compute = {burst}
sleep = "{sleep} us"
exec = true
{groups[5]}
[interrupts.net]
every = "{device} us"
time = "{handler} us"
kernel_fpu = 1.0
{groups[6]}
"""


def in_groups(which, weights):
    """What each of six entries says of its group, "-" for none, and the tables of the groups."""
    tables = "".join(f"[groups.{name}]\nweight = {weight}\n" for name, weight in weights.items())
    return (*("" if each == "-" else f'group = "{each}"' for each in which), tables)


LOCK = 'lock = {{ every = "{} us", hold = "{} us" }}'

HOSTS = st.fixed_dictionaries(
    {
        "measure": st.sampled_from([500, 1500]),
        "warmup": st.sampled_from([0, 300]),
        "seed": st.integers(0, 3),
        "cpus": st.sampled_from([1, 1, 2, 3, 5, 256 if COMPILED else 40]),
        "kernel": st.sampled_from([*(("v6.18", each) for each in PREEMPTION), ("v7.3", "full"), ("v7.3", "lazy")]),
        "idle_exit": st.sampled_from([0, 0, 3]),
        "grow": st.sampled_from([2, 0, 3]),
        "latency": st.sampled_from(["wakeup", "event"]),
        "hrtick": st.sampled_from(["true", "false"]),
        "signals": st.sampled_from(["", 'signalled = 0.5\nsignal_time = "3 us"']),
        "syscall": st.sampled_from([0, 3, 50]),
        "cpu": st.sampled_from(["sapphire-rapids", "zen4"]),
        "poll": st.sampled_from([0, 20, 200]),
        "interrupt": st.sampled_from([0, 500]),
        "vcpus": st.integers(2, 3),
        "demand": st.sampled_from([5, 20]),
        "sleep": st.sampled_from([10, 20, 40]),
        "idle": st.sampled_from(["hlt", "haltpoll"]),
        "guest_start": st.sampled_from([0, 5, 50]),
        "lock": st.sampled_from(["", *map(LOCK.format, (3, 1), (4, 9))]),
        "vms": st.sampled_from([1, 1, 3]),
        "ple": st.sampled_from([(128, 2000, 2, 0), (128, 1000, 0, 2), (128, 800, 900, 850), (0, 2000, 2, 0)]),
        "directed": st.sampled_from(["none", "v6.18", "v7.3", "lag-credit"]),
        "timer": st.sampled_from(["hrtimer", "tick"]),
        "posted": st.sampled_from(["true", "false"]),
        "writes": st.sampled_from([5, 50]),
        "exits": st.sampled_from([5, 10, 20]),
        "handler": st.sampled_from([0, 1]),
        "vmm": st.sampled_from([0, 5]),
        "nice": st.sampled_from([-5, 0, 0, 3, 19]),
        "burst": st.sampled_from(['"1 ns"', '{ exponential = "1 ns" }', '"5 us"', '"10 us"', '"400 us"']),
        "affinity": st.sampled_from(["any", "pinned"]),
        "threads": st.integers(1, 4),
        "groups": st.one_of(
            st.just(in_groups("------", {})),
            st.builds(
                in_groups,
                st.text("-ab", min_size=6, max_size=6),
                st.fixed_dictionaries({name: st.sampled_from([15, 300, 1024, 1024, 88761]) for name in "ab"}),
            ),
        ),
        "device": st.sampled_from([3, 30, 100]),
    }
)


@pytest.mark.slow
@settings(max_examples=HOSTS_COMPARED, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(HOSTS)
def test_hosts_with_ties_and_constant_times_give_the_same_records(values):
    case = only(TIES.format(**values))
    try:
        wanted = reference.simulate(case, case.timed_by, ("xstate-guest",), 0)
    except InputError:  # a CPU gets nothing done but interrupts: the reference says so, and the other hands over to it
        with pytest.raises(Unsupported):
            simulation.simulate(case, case.timed_by, ("xstate-guest",), 0)
        return
    assert wanted == simulation.simulate(case, case.timed_by, ("xstate-guest",), 0)


# Event for event.


def test_both_engines_pass_the_same_flow_points_at_the_same_cycles():
    case = changed(from_text(RICH)[0], measure=3e-3, warmup=1e-3)
    found = check(case, case.timed_by, ("manual-load",), 0)
    assert found.same
    assert found.events > 500


# Which engine runs.


def test_without_numba_everything_works_on_simpy(monkeypatch):
    case = changed(from_text(RICH)[0], measure=1e-3, warmup=0.0, engine="auto")
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    (record,) = choice.simulate(case, case.timed_by, (), 0)
    assert "numba, which is not installed" in record.engine
    with pytest.raises(InputError, match="which lacks numba"):
        choice.simulate(changed(case, engine="compiled"), case.timed_by, (), 0)


# Pauses.


def test_pauses_of_the_loop_change_nothing(monkeypatch):
    monkeypatch.setattr(simulation, "SLICE", 7)
    case = changed(only(NEWEST), measure=2e-3, warmup=1e-3)
    assert_the_same(case, ("manual-load",))


def test_a_signal_ends_a_replication_between_two_slices(monkeypatch):
    case = changed(from_text(RICH)[0], measure=1.0, warmup=0.0)
    slices = []

    def interrupted(handle, budget):
        slices.append(budget)
        if len(slices) == 3:
            raise KeyboardInterrupt
        return run(handle, 50)

    run = loop.run
    monkeypatch.setattr(loop, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(case, case.timed_by, (), 0)
    assert len(slices) == 3
