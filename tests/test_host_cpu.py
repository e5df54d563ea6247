"""One CPU of the simulated host: when it goes on without waiting for others, and in which order things are done."""

from itertools import count
from types import SimpleNamespace

import pytest
from hosts import hosted, only, with_little
from hypothesis import given
from hypothesis import strategies as st
from preempted import AT, GUEST, held, wake
from test_preemption import next_exit

from sim.host.cpu import HostCpu
from sim.host.cpu_time import CpuTime
from sim.host.events import Until, Work
from sim.host.exits import INF
from sim.host.host import TIMER
from sim.host.thread import Thread
from sim.host.vcpu import VcpuThread
from sim.kernel import kvm
from sim.kernel.walker import Walker

LONELY = with_little("a CPU with one thread", "1 ms") + '[threads.t]\naffinity = [0]\ncompute = "1 ms"\n'


def lonely():
    """A clock, and a CPU that has run its only thread for a while."""
    env, host = hosted(only(LONELY))
    while env.now < 1_000_000:
        env.step()
    assert host.cpus[0].waiting
    return env, host.cpus[0]


def test_a_cpu_that_is_ahead_of_time_goes_on_only_if_nothing_happens_before_it_is_there():
    env, cpu = lonely()
    now = env.now
    cpu.due = now + 1000
    Until(env, now + 100, 1)
    for ahead, goes_on in ((0, True), (1, True), (99, True), (100, False), (101, False)):
        cpu.clock = now + ahead
        assert cpu._can_go_on() is goes_on
    cpu.host.batch = False
    for ahead, goes_on in ((0, True), (1, False)):
        cpu.clock = now + ahead
        assert cpu._can_go_on() is goes_on


def test_a_cpu_goes_on_only_if_nothing_is_due_or_asked():
    env, cpu = lonely()
    cpu.clock = env.now
    for due, goes_on in ((cpu.clock - 1, False), (cpu.clock, False), (cpu.clock + 1, True)):
        cpu.due = due
        assert cpu._can_go_on() is goes_on
    for of, what, asked in (
        (cpu, "posted", [Work(0)]), (cpu, "need_resched", True), (cpu, "need_resched_lazy", True),
        (cpu.thread, "blocked", True),
    ):  # fmt: skip
        before = getattr(of, what)
        setattr(of, what, asked)
        assert not cpu._can_go_on()
        setattr(of, what, before)
        assert cpu._can_go_on()


def test_an_interrupt_that_comes_on_the_way_to_a_thread_is_served_before_the_thread_runs():
    runs = []
    for cycles in (0, 50_000):
        env, machine, there = held("")
        cpu, late = machine.cpus[1], there["late/0"]
        wake(env, machine, late, AT)
        Until(env, AT + 100, 1).callbacks.append(lambda event, cpu=cpu, cycles=cycles: cpu.post(Work(cycles)))
        while late.woken_at >= 0:
            env.step()
        runs.append(cpu.clock)
    assert runs[1] - runs[0] == 50_000


def test_what_comes_when_a_burst_ends_comes_before_its_end():
    """Whoever asks has a priority of its own, such as that of a CPU with a high number."""
    env, cpu = lonely()
    before, bursts = cpu.count_bursts, []
    end = cpu.span_begin + cpu.thread.left
    asks = Work(50_000, action=lambda cpu: bursts.append(cpu.count_bursts))
    Until(env, end, 1 << 19).callbacks.append(lambda event: cpu.post(asks))
    while not bursts:
        env.step()
    assert bursts == [before]
    assert env.now == end + 50_000


def test_of_spans_that_end_at_the_same_time_that_of_the_first_cpu_ends_first():
    text = with_little("many CPUs", "1 ms").replace("cpus = 2\n", "cpus = 5\n")
    env, host = hosted(only(text + '[threads.t]\ncount = 5\naffinity = "pinned"\ncompute = "1 ms"\n'))
    env.run(until=1_000_000)
    priorities = {event: priority for _, priority, _, event in env._queue}
    ends = [priorities[cpu.process.target] for cpu in host.cpus]
    assert ends == sorted(set(ends))
    own = [cpu.priority for cpu in host.cpus]
    assert own == sorted(set(own))
    assert TIMER < min(own) <= max(own) < min(ends)  # a timer comes before all CPUs


@pytest.mark.parametrize(
    ("tick", "device", "hrtick", "served"),
    [
        (10, 20, 5, "hrtick"), (10, 20, 10, "tick"), (10, 10, 11, "tick"), (10, 9, 9, "device"), (10, 9, 8, "hrtick"),
        (11, 10, INF, "device"), (10, 11, INF, "tick"),
    ],
)  # fmt: skip
def test_of_interrupts_at_one_time_the_tick_is_served_first_and_hrtick_last(tick, device, hrtick, served):
    """As in both engines; the hardware has its own order, that of the vectors."""
    _env, cpu = lonely()
    cpu.next_tick, cpu.hrtick.time = tick, hrtick
    cpu.devices = SimpleNamespace(time=lambda n: device, components=lambda n: None, cycles=lambda n: 7, serve=id)
    before = cpu.count_ticks, cpu.count_interrupts
    cpu._serve_due()
    counted = cpu.count_ticks - before[0], cpu.count_interrupts - before[1]
    assert counted == ((1, 0) if served == "tick" else (0, 1))
    assert (cpu.need_resched, cpu.hrtick.time == INF) == (served == "hrtick", served == "hrtick" or hrtick == INF)


@pytest.mark.parametrize(("over", "asks"), [(None, False), (99, True), (100, True), (101, False)])
@pytest.mark.parametrize("goes_at_once", [False, True])
def test_a_tick_asks_for_the_cpu_if_the_slice_is_over_by_then_and_accounts_for_it_unless_a_pick_follows(
    over, asks, goes_at_once
):
    asked, accounted = [], []
    cpu = SimpleNamespace(
        rq=SimpleNamespace(preempt_time=lambda: over, update_current=accounted.append), next_tick=100,
        need_resched=False, need_resched_lazy=False, resched_curr_lazy=asked.append, must_schedule=lambda: goes_at_once,
    )  # fmt: skip
    HostCpu._sched_tick(cpu)
    assert asked == [cpu] * asks
    assert accounted == [100] * (asks and not goes_at_once)
    assert not cpu.need_resched
    cpu.need_resched_lazy = True
    HostCpu._sched_tick(cpu)
    assert cpu.need_resched


def test_of_two_busy_vcpus_on_one_cpu_one_is_stolen_from_at_any_time():
    text = with_little("two guests", "1 ms").replace("cpus = 2\n", 'cpus = 1\ntsc = "2 GHz"\n')
    env, host = hosted(only(text + "[guests.g]\nvms = 2\n"))
    cpu = host.cpus[0]
    env.run(until=400_000_000)
    assert cpu.count_preemptions > 10
    waits = next(iter(cpu.rq.waiting()))
    assert cpu.steal + (env.now - waits.queued_at) == pytest.approx(env.now, rel=1e-3)


def test_an_exit_in_the_cycle_of_a_tick_is_one_of_its_own_kind_and_not_for_the_tick(monkeypatch):
    env, machine, there = held(GUEST.format(reason="other"))
    cpu, vcpu, seen, exits = machine.cpus[1], there["busy/0/vcpu0"], [], VcpuThread._vm_exit
    cpu.next_tick = cpu.due = at = next_exit(env, machine, vcpu)
    cpu.kick()
    ticks = cpu.count_ticks
    monkeypatch.setattr(VcpuThread, "_vm_exit", lambda *which: seen.append(which[2].reason) or exits(*which))
    env.run(until=at + 10_000)
    assert (cpu.count_ticks - ticks, seen) == (1, ["other"])


@given(st.integers(1, 50), st.integers(0, 60), st.integers(0, 400))
def test_a_slice_ends_at_the_first_tick_that_finds_it_over(period, tick, over):
    cpu = SimpleNamespace(rq=SimpleNamespace(preempt_time=lambda: over), next_tick=tick, tick_period=period)
    assert HostCpu._resched_tick(cpu) == next(at for at in count(tick, period) if at >= over)


@given(st.integers(1, 50), st.integers(1, 100), st.integers(0, 400))
def test_ticks_go_on_where_the_period_has_them_however_long_there_were_none(period, first, time):
    cpu = SimpleNamespace(host=SimpleNamespace(first_tick=lambda number: first + number), id=3, tick_period=period)
    assert HostCpu.tick_after(cpu, time) == next(at for at in count(first + 3, period) if at >= time)


@pytest.mark.parametrize(("of", "elsewhere"), [(None, False), (0, False), (1, True)])
def test_a_vmcs_is_asked_for_only_where_it_is_current_on_another_cpu(of, elsewhere):
    """vmx_vcpu_load_vmcs(): loaded_vmcs_clear(), unless vmx->loaded_vmcs->cpu is this one, or -1."""
    _env, host = hosted(only(LONELY))
    vcpu = SimpleNamespace(vmcs_cpu=None if of is None else host.cpus[of].cpu)
    assert host.cpus[0].vmcs_is_elsewhere(vcpu) is elsewhere


@pytest.mark.parametrize(("profile", "elsewhere"), [("sapphire-rapids", True), ("zen4", False)])
def test_a_vcpu_that_moves_leaves_a_vmcs_behind_and_no_vmcb(profile, elsewhere):
    """svm_vcpu_load() asks no other CPU: AMD has no VMCLEAR."""
    _env, host = hosted(only(with_little("a guest", "1 ms", profile) + "[guests.g]\n"))
    (vcpu,) = (task.vcpu for task in host.schedule.timing.tasks.values() if task.vcpu is not None)
    here, there = host.cpus
    here.cpu.current = vcpu.task
    kvm.vcpu_load(host.kernel, here.cpu)
    assert not here.vmcs_is_elsewhere(vcpu)
    assert there.vmcs_is_elsewhere(vcpu) is elsewhere


@pytest.mark.parametrize("preemption", ["voluntary", "full"])
@pytest.mark.parametrize(
    "thread",
    [
        'kind = "pipe"\ncompute = "1 us"\n', 'compute = "1 us"\nsyscall = "1 us"\n',
        'compute = "1 us"\nsleep = "5 us"\n', 'compute = "1 us"\nwaits = { share = 1.0, at_most = "5 us" }\n'
        '[threads.waker]\nkind = "kthread"\ncompute = "1 ns"\nsleep = "10 s"\nwakes = { t = 1 }\n',
    ],
)  # fmt: skip
def test_each_burst_begins_with_one_return_to_user_mode(thread, preemption, monkeypatch):
    """Before the first tick, at 4 ms, nothing else leads there."""
    text = with_little("bursts", "1 ms").replace(
        "cpus = 2\n", f'cpus = 1\npreemption = "{preemption}"\ntsc = "2 GHz"\n'
    )
    env, host = hosted(only(text + "[threads.t]\n" + thread))
    passed, passes = [], CpuTime.passes
    monkeypatch.setattr(CpuTime, "passes", lambda cpu, what, *of: passed.append(what) or passes(cpu, what, *of))
    env.run(until=6_000_000)
    (cpu,) = host.cpus
    assert cpu.count_bursts + cpu.count_handoffs > 100
    assert cpu.count_bursts + cpu.count_handoffs == pytest.approx(passed.count(Walker.return_to_user), abs=3)


# A span of a thread, against one that is followed cycle by cycle.


def thread(left, flow=0):
    found = Thread(None, "t", 0, None, 1024, 1, flow)
    found.left = left
    return found


def a_cpu(tick, period, tick_cycles, devices):
    """As much of a CPU as a span sees; ``devices`` are (time, cycles, components)."""
    never = (1 << 62, 0, None)
    ahead = SimpleNamespace(
        time=lambda n: (devices[n] if n < len(devices) else never)[0],
        cycles=lambda n: devices[n][1],
        components=lambda n: devices[n][2],
    )
    absorbed = []
    return SimpleNamespace(
        next_tick=tick, tick_period=period, tick_cycles=lambda n: tick_cycles[n % len(tick_cycles)], devices=ahead,
        user=0, touched=0, seen=absorbed, absorbed=lambda *what: absorbed.append(what),
    )  # fmt: skip


def followed(cpu, begin, left, until):
    """The end, whether by itself, what is left, and the ticks, device interrupts and cycles in between.

    Only an interrupt that comes before ``until`` is served, and one that uses the FPU ends the span.
    """
    now, ticks, devices, serving, served = begin, 0, 0, 0, 0
    while True:
        tick, device = cpu.next_tick + ticks * cpu.tick_period, cpu.devices.time(devices)
        if serving:
            serving -= 1
            served += 1
            now += 1
        elif left == 0:
            return now, True, 0, ticks, devices, served
        elif tick <= min(device, now) and tick < until:
            serving, ticks = cpu.tick_cycles(ticks), ticks + 1
        elif device < tick and device <= now and device < until:
            if cpu.devices.components(devices) is not None:
                return now, False, left, ticks, devices, served
            serving, devices = cpu.devices.cycles(devices), devices + 1
        elif now >= until:
            return now, False, left, ticks, devices, served
        else:
            left -= 1
            now += 1


DEVICES = st.lists(
    st.tuples(st.integers(0, 150), st.integers(0, 12), st.sampled_from([None, None, None, 0, 6])), max_size=6
).map(lambda found: sorted(found, key=lambda each: each[0]))


@given(
    st.integers(0, 60), st.integers(1, 120), st.integers(0, 150), st.integers(0, 100), st.integers(20, 60),
    st.lists(st.integers(0, 12), min_size=1, max_size=3), DEVICES,
)  # fmt: skip
def test_a_span_ends_where_one_that_is_followed_cycle_by_cycle_does(
    begin, left, ahead, tick, period, tick_cycles, devices
):
    until = begin + ahead
    cpu = a_cpu(tick, period, tick_cycles, devices)
    expected = followed(cpu, begin, left, until)
    end, by_itself, remains, *what = expected
    runs = thread(left, flow=3)
    assert runs.plan(cpu, begin, until) == (end, by_itself)
    assert runs.settle(cpu, begin, end) == end
    assert (runs.left, cpu.user, cpu.touched) == (remains, left - remains, 3 * (left - remains))
    assert cpu.seen == ([tuple(what)] if what[0] or what[1] else [])
    again = thread(left)
    assert again.settle(cpu, begin, until) == end
    assert again.left == remains


def test_a_span_may_last_beyond_an_instant_before_which_it_cannot_end():
    for begin, left, end in ((1000, 100, 1100), (3, 5, 8), (5, 3, 8)):
        assert thread(left).may_last(begin, end - 1)
        assert not thread(left).may_last(begin, end)


def test_a_wake_up_latency_is_the_time_since_the_wake_up_however_early_that_was():
    samples = []
    for woken_at in (0, 10, 100):
        runs = thread(1)
        runs.host = SimpleNamespace(latency={"thread": SimpleNamespace(add=samples.append)})
        runs.woken_at = woken_at
        cpu = SimpleNamespace(charge=lambda: None, measuring=True, clock=130)
        runs._has_woken(cpu, "thread")
    assert samples == [130, 120, 30]


def test_a_guest_is_interrupted_once_at_each_tick_and_device_interrupt_with_one_exit_where_both_come_together():
    text = with_little("a guest", "1 ms").replace(
        "cpus = 2\n", 'cpus = 1\nhz = 1000\ntsc = "2 GHz"\ninterrupt_time = "3 us"\n'
    )
    env, host = hosted(only(text + '[guests.g]\n[interrupts.net]\nevery = "700 us"\ntime = "1 us"\n'))
    cpu = host.cpus[0]
    env.run(until=200_000_000)
    ticks, devices = (range(each, cpu.clock, each) for each in (2_000_000, 1_400_000))
    assert (cpu.count_ticks, cpu.count_interrupts) == (len(ticks), len(devices))
    assert cpu.count_exits == len({*ticks, *devices})
    assert cpu.interrupt == 6000 * len(ticks) + 2000 * len(devices)
