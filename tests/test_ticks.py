"""Sleeps that end at ticks, and load weights: what a fit finds of them, and what the simulated host does."""

import io

import numpy as np
import pytest
from hosts import changed, differences, only, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.analysis.recorded_run import RecordedRun
from sim.errors import InputError
from sim.trace.fit import estimate
from sim.trace.fit.entries import Charges
from sim.trace.fit.groups import grouped
from sim.trace.fit.lives import Seen, Watcher
from sim.trace.fit.thread_times import Life
from sim.trace.fit.ticks import config_hz, ticks
from sim.trace.reading.chunks import steps
from sim.trace.reading.reader import Reader

HOST = """
title = "a busy thread, one that sleeps by the timer wheel, and one by an hrtimer"
[run]
measure = "400 ms"
warmup = "0 ns"
[host]
cpus = 1
cpu = ["zen4"]
preemption = "voluntary"
[threads.busy]
compute = "1 ms"
[threads.rcu_preempt]
kind = "kthread"
compute = "8 us"
sleep = { exponential = "6 ms" }
timer = "tick"
[threads.other]
kind = "kthread"
compute = "8 us"
sleep = { exponential = "6 ms" }
"""


def watched(case):
    lines = RecordedRun(case, "no-cet", 0, only=frozenset(("sched_switch", "sched_wakeup"))).lines()
    reader, watcher = Reader(io.BytesIO("\n".join([*lines, ""]).encode()), "a run"), Watcher()
    for chunk in reader.chunks():
        for step in steps(chunk, reader.names):
            watcher.see(step)
    watcher.finish()
    return watcher


def woken(watcher, name):
    return [burst.ready_ns for life in watcher.lives if life.name.startswith(name) for burst in life.bursts][1:]


def test_a_timer_of_the_timer_wheel_wakes_at_ticks_and_an_hrtimer_does_not():
    watcher = watched(only(HOST))
    found = ticks(woken(watcher, "rcu_preempt"))
    assert found.hz == 250
    assert found.wake(woken(watcher, "rcu_preempt"))
    assert not found.wake(woken(watcher, "other"))
    (rcu, other) = (len(woken(watcher, name)) for name in ("rcu_preempt", "other"))
    assert rcu == pytest.approx(0.4 / 8e-3, rel=0.4)  # half a tick later on average
    assert other == pytest.approx(0.4 / 6e-3, rel=0.4)


def test_a_fit_finds_whose_sleeps_end_at_ticks():
    watcher = watched(only(HOST))
    for life in watcher.lives:
        life.name = life.name.partition("/")[0]
    found = ticks(woken(watcher, "rcu_preempt"))
    groups = {group.key[1]: group for group in grouped(watcher.lives, 0, watcher.seen.last_ns, Charges(), found)}
    assert [name for name, group in groups.items() if group.at_ticks] == ["rcu_preempt"]
    # Rounded up to the next tick, the sleeps are as long as they were, wherever in the half period before they begin.
    assert np.mean(groups["rcu_preempt"].sleep) == pytest.approx(8e6 - 2e6, rel=0.2)


@settings(deadline=None)
@given(st.sampled_from((100, 250, 300, 1000)), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_period_and_phase_of_the_tick_are_found_wherever_it_lies(hz, phase, seed):
    rng = np.random.default_rng(seed)
    period = 1e9 / hz
    numbers = np.cumsum(rng.integers(1, 8, 60))
    at = (numbers + phase + 0.04 * rng.random(60)) * period
    found = ticks(at)
    assert found.hz == hz
    assert found.wake(at)
    assert not found.wake(at + period / 2)


SHARED = """
title = "busy threads, and sleepers that preempt them at any time"
[run]
measure = "600 ms"
warmup = "0 ns"
[host]
cpus = 2
cpu = ["zen4"]
hz = {hz}
[threads.busy]
count = 4
compute = "1 ms"
[threads.sleeper]
count = 2
compute = {{ exponential = "200 us" }}
sleep = {{ exponential = "1500 us" }}
"""


@pytest.mark.parametrize("hz", [100, 250, 1000])
def test_slices_tell_how_often_the_tick_comes_however_many_sleepers_preempt_them(hz):
    expired = watched(only(SHARED.format(hz=hz))).seen.expired_ns
    assert sum(map(len, expired.values())) > 60
    assert config_hz(expired.values()) == hz


def test_slices_that_end_at_any_time_tell_no_tick():
    rng = np.random.default_rng(1)
    assert config_hz([np.cumsum(rng.exponential(5e6, 100)) for _ in range(2)]) is None
    assert config_hz([[], [1.0]]) is None
    for cpus, slices in ((4, 65), (4, 300), (64, 40)):  # of many windows the fullest has more than its share
        assert config_hz([np.cumsum(rng.exponential(5e6, slices)) for _ in range(cpus)]) is None


@pytest.mark.parametrize("hz", [100, 250, 300])
def test_ticks_of_cpus_that_are_apart_are_no_faster_ones(hz):
    """Two CPUs, at half a period from each other, where no slices end; a timer is on the CPU where the thread slept."""
    life, rng, cpu = Life(1, "rcu_preempt", 0), np.random.default_rng(1), 0
    for tick in np.cumsum(rng.integers(2, 6, 200)):
        at = int((tick + cpu / 2) * 1e9 / hz + rng.uniform(0, 2000))
        cpu = int(rng.integers(2))
        life.ready_ns = at
        life.gets(cpu, at + 1000)
        life.stints = 1
        life.runs_until(at + 9000)
        life.end_burst(at + 9000)
    assert estimate._hz(Seen(), [life], None, []) == hz


def test_no_tick_is_found_where_wake_ups_come_at_any_time():
    assert ticks(np.random.default_rng(1).random(200) * 1e9) is None


@pytest.mark.parametrize("preemption", ["voluntary", "full"])
def test_batched_and_one_by_one_are_the_same_with_sleeps_that_end_at_ticks(preemption):
    guest = '[guests.vm.exits.cpuid]\nevery = { exponential = "30 us" }\n'
    case = changed(only(HOST.replace('"voluntary"', f'"{preemption}"') + guest), measure=0.05)
    assert differences(*(simulate(changed(case, batch=batch), "no-cet", 0) for batch in (True, False))) == []


def test_cpu_time_is_shared_out_by_weight():
    rows = "".join(
        f'[threads.{name}]\ncompute = "1 ms"\nweight = {weight}\n' for name, weight in (("a", 300), ("b", 900))
    )
    watcher = watched(only(HOST[: HOST.index("[threads.busy]")] + rows))
    on = {life.name[0]: sum(burst.on_ns for burst in life.bursts) for life in watcher.lives}
    assert on["b"] / on["a"] == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'sleep = { exponential = "6 ms" }\ntimer = "tick"',
            'timer = "tick"',
            "threads.rcu_preempt.timer: found 'tick'",
        ),
        ('timer = "tick"', 'timer = "jiffies"', "threads.rcu_preempt.timer"),
        ('timer = "tick"', "nice = 3\nweight = 100", "threads.rcu_preempt.weight: found beside nice"),
        ('timer = "tick"', "weight = 14", "threads.rcu_preempt.weight"),
        ('timer = "tick"', "weight = 88762", "threads.rcu_preempt.weight"),
        ('timer = "tick"', 'weight = "1 ms"', "threads.rcu_preempt.weight"),
    ],
)
def test_a_timer_or_a_weight_that_cannot_be_is_refused(old, new, message, tmp_path):
    from sim.scenario.cases import cases
    from sim.scenario.reading import read

    assert old in HOST
    (tmp_path / "host.toml").write_text(HOST.replace(old, new))
    with pytest.raises(InputError, match=r"^[^:]*: ") as error:
        cases(read(tmp_path / "host.toml"))
    assert message in str(error.value)
