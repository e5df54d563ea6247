"""From traces to scenarios: what threads and vCPUs did, and how far a twin may be from its host."""

import numpy as np
import pytest
from click.testing import CliRunner

from sim.analysis.fitness import Compared, holds, side_by_side, unsupported
from sim.cli import cli
from sim.cli.compared import compared_text
from sim.scenario.reading import read
from sim.trace.fit.entries import Charges
from sim.trace.fit.groups import grouped
from sim.trace.fit.lives import Watcher
from sim.trace.fit.tally import COST, COUNTED, IDLE, RESTORED, SKIPPED, Counted
from sim.trace.following.known import Step
from sim.trace.reading.events import CODE
from sim.xsave.components import CET_S

US = 1000


class Trace:
    """Steps of a constructed trace on one CPU, times in us."""

    def __init__(self):
        self.steps = []

    def add(self, us, event, tid, values):
        self.steps.append(Step(len(self.steps), us * US, 0, tid, f"t{tid}", CODE[event], values))

    def switch(self, us, prev, state, tid, prio=120):
        name = "other" if tid == 9 else f"worker{tid}"
        self.add(us, "sched_switch", prev, (prev, prio, ord(state), name, tid, prio))

    def wakes(self, us, tid, by=0):
        self.add(us, "sched_wakeup", by, (tid, 120, 0))

    def kvm(self, us, tid, what):
        self.add(us, "kvm_fpu", tid, (what,))

    def restores(self, us, tid, xfeatures):
        self.add(us, "x86_fpu_regs_activated", tid, (0, 1, xfeatures, 0))

    def groups(self, charges=None, of_guests=0):
        watcher = Watcher()
        watcher.of_guests = of_guests
        for step in self.steps:
            watcher.see(step)
        watcher.finish()
        seen = watcher.seen
        return watcher, grouped(watcher.lives, seen.first_ns, seen.last_ns, charges or Charges())


def periodic(burst=300, sleep=700, times=30):
    """One thread that runs for ``burst`` and sleeps for ``sleep``, and whose bursts another one interrupts."""
    trace, now = Trace(), 0
    trace.switch(0, 0, "R", 7)
    for _ in range(times):
        trace.switch(now + burst // 2, 7, "R", 9)
        trace.switch(now + burst // 2 + 50, 9, "S", 7)
        trace.switch(now + burst + 50, 7, "S", 0)
        now += burst + 50 + sleep
        trace.wakes(now, 7)
        trace.switch(now, 0, "R", 7)
    return trace


def test_a_burst_spans_preemption_and_a_sleep_ends_at_its_wakeup():
    _, groups = periodic().groups()
    (group,) = (each for each in groups if each.names == ["worker7"])
    assert group.compute[:30] == [300 * US] * 30
    assert group.sleep[:29] == [700 * US] * 29
    assert group.key[3] == (0,)


def test_who_gets_the_cpu_at_a_wake_up_is_known_if_it_is_at_once():
    trace = Trace()
    trace.switch(0, 0, "R", 7)
    trace.switch(100, 7, "S", 8)
    for begin, soon in ((1000, 5), (2000, 5), (3000, 50)):
        trace.wakes(begin, 7, by=8)
        trace.switch(begin + soon, 8, "R", 9)
        trace.switch(begin + 200, 9, "R", 7)
        trace.switch(begin + 300, 7, "S", 8)
    watcher, _ = trace.groups()
    assert {life.tid: dict(life.took) for life in watcher.lives if life.took} == {7: {(0, 8, 9): 2}}


def test_what_the_model_charges_is_taken_from_bursts_by_stint():
    _, groups = periodic().groups(Charges(stint=10 * US))
    (group,) = (each for each in groups if each.names == ["worker7"])
    assert group.compute[:30] == [280 * US] * 30


def test_idle_time_and_switches_are_those_of_the_trace():
    watcher, _ = periodic().groups()
    assert watcher.seen.switches == 1 + 4 * 30
    assert watcher.seen.idle_ns == 700 * US * 30
    assert watcher.seen.missing == 0


def test_a_cpu_that_is_idle_at_the_end_was_idle_once():
    trace = Trace()
    trace.switch(0, 0, "R", 7)
    trace.switch(300, 7, "S", 0)
    trace.wakes(1000, 7)
    watcher, _ = trace.groups()
    assert watcher.seen.idle_ns == watcher.idle_until(1000 * US) == 700 * US


def test_a_switch_that_is_not_in_the_trace_is_inferred_and_said():
    trace = periodic()
    gone = [i for i, step in enumerate(trace.steps) if step.values[:3] == (0, 120, ord("R"))][3]
    del trace.steps[gone]
    watcher, groups = trace.groups()
    assert watcher.seen.missing == 1
    assert watcher.seen.switches == 1 + 4 * 30
    (group,) = (each for each in groups if each.names == ["worker7"])
    assert group.compute[:30] == [300 * US] * 30


def test_guest_vmm_and_halted_time_of_a_vcpu_are_told_apart():
    trace, now = Trace(), 0
    trace.switch(0, 0, "R", 5)
    trace.kvm(0, 5, "load")
    for _ in range(20):
        trace.kvm(now + 100, 5, "unload")
        trace.kvm(now + 130, 5, "load")
        trace.switch(now + 330, 5, "S", 0)  # HLT, 200 us after the entry
        trace.wakes(now + 1330, 5)
        trace.switch(now + 1330, 0, "R", 5)
        now += 1330
    watcher, (group,) = trace.groups()
    assert group.key[0] == "vcpu"
    assert group.vmm == [30 * US] * 20
    assert group.compute[1:] == [300 * US] * 19
    assert group.demand[:20] == [300 * US] * 20
    assert group.halt[:20] == [1000 * US] * 20
    assert watcher.seen.round_trips == 20


def test_threads_that_were_never_there_at_once_are_simulated_as_one():
    trace, now = Trace(), 0
    trace.switch(0, 0, "R", 0)
    for tid in range(100, 130):
        trace.wakes(now, tid)
        trace.switch(now, 0, "R", tid)
        trace.switch(now + 50, tid, "Z", 0)
        now += 200
    _, (group,) = trace.groups()
    assert (group.threads, group.rows) == (30, 1)
    assert sum(group.sleep) + sum(group.compute) == pytest.approx((now - 150) * US)


def test_a_halt_that_a_signal_ends_is_one_event_and_no_return_of_the_guest():
    trace, now = Trace(), 0
    trace.switch(0, 0, "R", 5)
    trace.kvm(0, 5, "load")
    for _ in range(20):
        trace.restores(now + 240, 5, 0xA6)
        trace.kvm(now + 240, 5, "unload")  # KVM_EXIT_IO
        trace.restores(now + 250, 5, 0)
        trace.kvm(now + 250, 5, "load")
        trace.switch(now + 256, 5, "S", 0)  # HLT
        trace.wakes(now + 1256, 5)
        trace.switch(now + 1256, 0, "R", 5)
        trace.restores(now + 1260, 5, 0xA6)
        trace.kvm(now + 1260, 5, "unload")  # KVM_EXIT_INTR, without a VM entry
        trace.restores(now + 1280, 5, 0)
        trace.kvm(now + 1280, 5, "load")
        now += 1280
    watcher, (group,) = trace.groups()
    assert watcher.seen.round_trips == 40
    assert watcher.seen.loads == 60
    assert group.signalled == [20 * US] * 20
    assert group.vmm == [10 * US] * 20
    assert group.compute[1:] == [246 * US] * 19
    assert group.demand[1:20] == [246 * US] * 19
    assert group.vmm_saves == {0xA6: 40}


def guest_goes_on(us, what):
    """A vCPU whose registers stay in place while it halts, so that no restore shows that its guest goes on."""
    trace, now = Trace(), 0
    trace.switch(0, 0, "R", 5)
    trace.kvm(0, 5, "load")
    for _ in range(20):
        trace.switch(now + 6, 5, "S", 0)  # HLT
        trace.wakes(now + 1000, 5)
        trace.switch(now + 1000, 0, "R", 5)
        if what == "entries":
            trace.add(now + 1002, "kvm_entry", 5, (0,))
        trace.restores(now + 1000 + us, 5, 0xA6)
        trace.kvm(now + 1000 + us, 5, "unload")
        if what == "signals":
            trace.add(now + 1000 + us + 2, "signal_deliver", 5, (10, 0))
        trace.kvm(now + 1000 + us + 20, 5, "load")
        now += 1000 + us + 20
    return trace.groups()[1][0]


@pytest.mark.parametrize(("us", "what", "by_signal"), [
    (4, "nothing", True), (400, "nothing", False), (4, "entries", False), (400, "signals", True),
])  # fmt: skip
def test_a_signal_ends_a_halt_where_the_trace_shows_one_or_the_guest_had_no_time_to_go_on(us, what, by_signal):
    group = guest_goes_on(us, what)
    assert len(group.signalled) == (20 if by_signal else 0)
    assert len(group.vmm) == (0 if by_signal else 20)


def test_where_the_trace_shows_signals_a_halt_without_one_was_not_ended_by_one():
    trace, now = Trace(), 0
    trace.switch(0, 0, "R", 5)
    trace.kvm(0, 5, "load")
    for turn in range(20):
        trace.switch(now + 6, 5, "S", 0)
        trace.wakes(now + 1000, 5)
        trace.switch(now + 1000, 0, "R", 5)
        trace.restores(now + 1004, 5, 0xA6)
        trace.kvm(now + 1004, 5, "unload")
        if turn % 2 == 0:
            trace.add(now + 1006, "signal_deliver", 5, (10, 0))
        trace.kvm(now + 1024, 5, "load")
        now += 1024
    group = trace.groups()[1][0]
    assert (len(group.signalled), len(group.vmm)) == (10, 10)


@pytest.mark.parametrize("shown_by", ["kvm_entry", "x86_fpu_regs_deactivated"])
def test_a_vcpu_that_has_been_in_its_guest_since_before_the_trace_is_one(shown_by):
    trace = Trace()
    trace.switch(0, 0, "R", 5)
    for n in range(1, 31):
        trace.add(500 * n - 300, shown_by, 5, (0,) if shown_by == "kvm_entry" else (0, 1, 2, CET_S))
        trace.switch(500 * n - 200, 5, "R", 9)
        trace.switch(500 * n, 9, "S", 5)
    watcher, groups = trace.groups(of_guests=CET_S)
    assert {group.key[0]: group.names for group in groups} == {"vcpu": ["worker5"], "kthread": ["other"]}
    assert watcher.seen.loads == 30


def counted(switches, skipped=10, busy=0.5, cost=1e6, own=1e4, seconds=1.0):
    """A trace in which everything happens evenly, so that blocks say nothing but the rule."""
    names = (*COUNTED, IDLE, RESTORED, SKIPPED, COST + "free-ssp", COST + "manual-load")
    ns = np.linspace(0, seconds * 1e9, 65).astype(np.int64)
    rows = [switches] * len(COUNTED) + [(1 - busy) * 1e9, 1000 - skipped, skipped, cost, cost + own]
    return Counted(ns, names, np.outer(ns * 1e-9, np.array(rows)), 1)


def test_rates_and_costs_hold_within_5_percent_and_shares_within_points():
    trace = counted(10_000)
    assert holds(side_by_side(trace, [counted(10_490, 19, 0.519, 1.049e6, 1.049e4), counted(10_490, 19, 0.519)]))
    for worse in (
        counted(10_510), counted(10_000, 21), counted(10_000, 10, 0.53), counted(10_000, 10, 0.5, 1.06e6),
        counted(10_000, 10, 0.5, 1e6, 1.1e4),
    ):  # fmt: skip
        compared = side_by_side(trace, [worse])
        assert not holds(compared)
        assert all(each.likely for each in compared if each.holds is False)


def test_the_interval_from_blocks_widens_what_holds():
    rng = np.random.default_rng(1)
    trace = counted(10_000)
    uneven = trace.counts.copy()
    uneven[1:, 0] = np.cumsum(rng.exponential(10_000 / 64, 64))
    trace = Counted(trace.ns, trace.names, uneven, 1)
    switches = side_by_side(trace, [counted(uneven[-1, 0])])[0]
    assert switches.holds
    assert (switches.high - switches.low) / 2 > 0.1 * switches.trace


def test_figures_of_few_samples_are_not_compared_and_said_before():
    few = counted(99)
    assert [each.holds for each in side_by_side(few, [counted(10)])][: len(COUNTED)] == [None] * len(COUNTED)
    assert f"under 100 {COUNTED[0]} in the trace: not compared" in unsupported(few)
    assert any("0.500 s" in each for each in unsupported(counted(10_000, seconds=0.5)))
    assert unsupported(counted(10_000)) == []


def test_what_one_strategy_costs_is_no_range():
    one, other = (
        Compared(f"{COST}{name}", "cycles/s", 100.0, now, 90.0, 110.0, 1000) for name, now in (("a", 104), ("b", 101))
    )
    assert "what the strategy costs in all is +4.0% off what it is on the trace" in compared_text([one], 5)
    assert "and 1 replication of the scenario" in compared_text([one], 1)
    assert "what 2 strategies cost in all is +1.0% to +4.0% off" in compared_text([one, other], 5)


def test_a_clock_that_steps_back_makes_no_burst_shorter_than_its_time_on_the_cpu():
    trace = Trace()
    trace.switch(0, 0, "S", 7)
    trace.switch(100, 7, "S", 0)
    trace.wakes(9000, 7)
    for begin in range(200, 2200, 200):
        trace.switch(begin, 0, "R", 7)
        trace.switch(begin + 100, 7, "S", 0)
        trace.wakes(begin + 5000, 7)
    watcher, _ = trace.groups()
    (life,) = watcher.lives
    assert len(life.bursts) == 11
    assert all(burst.end_ns - burst.ready_ns >= burst.on_ns for burst in life.bursts)


BY_INTERRUPTS = """
title = "interrupts that use the FPU"
[run]
measure = "60 ms"
warmup = "0 ns"
[host]
cpus = 2
cpu = ["zen4"]
[threads.hog]
count = 3
compute = "1 ms"
fpu = { components = ["SSE", "AVX"] }
[threads.sleeper]
compute = "100 us"
sleep = "1 ms"
[interrupts.crypto]
every = { exponential = "200 us" }
time = "5 us"
kernel_fpu = 1.0
"""


def test_how_often_the_kernel_uses_the_fpu_is_told_by_restores_that_nothing_else_explains(tmp_path):
    (tmp_path / "host.toml").write_text(BY_INTERRUPTS)
    trace, twin = tmp_path / "run.txt", tmp_path / "twin.toml"
    assert CliRunner().invoke(cli, ["export", str(tmp_path / "host.toml"), "-o", str(trace)]).exit_code == 0
    lines = trace.read_text().splitlines(keepends=True)
    used = sum("fp_kernel_fpu" in line for line in lines)
    trace.write_text("".join(line for line in lines if not line.startswith("# fpswitch ")))
    assert CliRunner().invoke(cli, ["fit", str(trace), "-o", str(twin), "--no-check"]).exit_code == 0
    (interrupt,) = read(twin).interrupts.values()
    assert interrupt.kernel_fpu == 1
    assert 2 * 60e-3 / interrupt.every.mean == pytest.approx(used, rel=0.1)
