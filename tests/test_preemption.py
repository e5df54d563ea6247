"""Preemption models and HRTICK on a simulated host: who sees that a CPU has to reschedule, and when."""

from itertools import pairwise

import pytest
from hosts import MS, RICH, US, changed, differences, from_text, hosted, only, simulate, threads, value

from sim.errors import InputError
from sim.experiment import run
from sim.host import simulation
from sim.host.eevdf import EevdfRunQueue
from sim.host.exits import INF
from sim.host.guest_span import GUEST as IN_GUEST
from sim.host.halting import HANDLER, POLLING, VMM
from sim.host.preemption import POLLS, TO_USER
from sim.host.simulation import cross
from sim.kernel import versions
from sim.report.comparison import compare
from sim.scenario.cases import cases
from sim.scenario.reading import read

MODELS = ("none", "voluntary", "full", "lazy")
TSC = 2e9
TICK = round(4 * MS * TSC)
"""At 250 Hz; those of CPU 1 of two come at 6 ms, 10 ms and so on."""
NEXT_TICK = TICK * 5 // 2
AT = round(7.05 * MS * TSC)
"""When the late one wakes: it has run after the tick at 6 ms at the latest, and the next is far."""
SOON = round(5 * US * TSC)

HEAD = """
title = "one CPU is kept busy, and something wakes there"
[run]
measure = "50 ms"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
{host}
[threads.late]
affinity = [1]
compute = "20 us"
sleep = "10 s"
"""
GUEST = """
[guests.busy]
affinity = [1]
[guests.busy.exits.one]
every = "300 us"
reason = "{reason}"
time = "400 ns"
"""
KTHREAD = """
[threads.busy]
kind = "kthread"
affinity = [1]
compute = "1500 us"
"""
USER = """
[threads.busy]
affinity = [1]
compute = "30 ms"
"""


def held(busy, preemption="voluntary", **host):
    """A host whose CPU 1 has run ``busy`` alone for long; ``late`` sleeps there."""
    host = {"preemption": f'"{preemption}"', "hrtick": "false", **host}
    case = only(HEAD.format(host="\n".join(f"{key} = {each}" for key, each in host.items())) + busy)
    env, machine = hosted(case)
    env.run(until=100)
    return env, machine, threads(machine)


def wake(env, machine, late, at, on=0):
    """CPU ``on`` wakes ``late`` at a time, with a request so short that it preempts."""
    env.run(until=at)
    assert late.blocked, "not asleep yet"
    late.custom_slice = round(100 * US * TSC)
    machine.wake(late, machine.cpus[on])


def runs_at(env, machine, late, most=3 * TICK):
    """When CPU 1 has switched to ``late``, to within half a microsecond."""
    begin = env.now
    while machine.cpus[1].thread is not late:
        assert env.now < begin + most, "it never runs"
        env.run(until=env.now + 1000)
    return env.now


def waits(busy, preemption, **host):
    """How long ``late`` waits for CPU 1 if CPU 0 wakes it, and the CPU on which that was."""
    env, machine, there = held(busy, preemption, **host)
    wake(env, machine, there["late/0"], AT)
    return runs_at(env, machine, there["late/0"]) - AT, machine.cpus[1]


def next_exit(env, machine, vcpu):
    """When the guest, which runs on CPU 1, leaves next."""
    env.run(until=AT)
    stream, there = vcpu._stream, vcpu._wall + env.now - machine.cpus[1].span_begin
    return env.now + stream.begins(stream.passed(there, len(stream.wall)) + 1) - there


def in_handler(busy, model, wakes_after):
    """A host on which ``late`` wakes so long after the beginning of an exit, which takes long."""
    env, machine, there = held(busy, model)
    begins = next_exit(env, machine, there["busy/0/vcpu0"])
    wake(env, machine, there["late/0"], begins + wakes_after)
    return env, machine, there, begins


# Which model a kernel has.


@pytest.mark.parametrize("name", versions.names())
def test_a_kernel_has_the_models_of_its_row_and_refuses_others(name):
    kernel = versions.version(name)
    text = HEAD.replace("{host}", f'kernel = ["{name}"]\n{{host}}').replace("xstate-guest", "no-cet")
    for model in MODELS:
        with_it = text.format(host=f'preemption = "{model}"')
        if model in kernel.preemption_models:
            assert only(with_it).scenario.host.preemption == model
        else:
            with pytest.raises(InputError, match=rf"host\.preemption: found '{model}', which .* lacks; allowed: "):
                only(with_it)
    default = only(text.format(host="")).scenario.host
    assert (default.preemption, default.hrtick) == (kernel.preemption_default, kernel.hrtick)


def test_lazy_preemption_is_refused_before_v6_13_and_none_and_voluntary_since_v7_0():
    for kernel, model in (("v6.12", "lazy"), ("v7.3", "none"), ("v7.3", "voluntary")):
        with pytest.raises(InputError, match=r"host\.preemption"):
            only(HEAD.format(host=f'kernel = ["{kernel}"]\npreemption = "{model}"').replace("xstate-guest", "no-cet"))


def test_both_keys_can_be_swept():
    text = HEAD.format(host="") + '[sweep]\n"host.preemption" = ["none", "lazy"]\n"host.hrtick" = [false, true]\n'
    assert [(case.scenario.host.preemption, case.scenario.host.hrtick) for case in from_text(text)] == [
        ("none", False), ("none", True), ("lazy", False), ("lazy", True),
    ]  # fmt: skip


# A wake-up from another CPU.


@pytest.mark.parametrize("model", ["none", "voluntary", "full"])
@pytest.mark.parametrize("busy", [GUEST.format(reason="other"), USER], ids=["guest", "user"])
def test_a_request_that_is_not_lazy_is_an_ipi_which_is_seen_at_once(model, busy):
    wait, cpu = waits(busy, model)
    assert wait < SOON
    assert cpu.count_interrupts >= 1


@pytest.mark.parametrize("reason", ["other", "wrmsr-tsc-deadline"], ids=["handled in the loop", "in the fastpath"])
def test_a_lazy_request_sends_no_ipi_and_the_guest_runs_on_to_its_next_exit(reason):
    """Also to one that the fastpath handles: kvm_vcpu_exit_request() sees the flag before the guest would run on."""
    env, machine, there = held(GUEST.format(reason=reason), "lazy")
    cpu, exit_at = machine.cpus[1], next_exit(env, machine, there["busy/0/vcpu0"])
    interrupts = cpu.count_interrupts
    wake(env, machine, there["late/0"], exit_at - 2 * SOON)
    assert (cpu.need_resched, cpu.need_resched_lazy, cpu.posted) == (False, True, [])
    assert exit_at < runs_at(env, machine, there["late/0"]) < exit_at + SOON
    assert cpu.count_interrupts == interrupts


def test_a_fastpath_exit_with_a_lazy_request_leaves_the_loop_and_another_does_not():
    env, machine, there = held(GUEST.format(reason="wrmsr-tsc-deadline"), "lazy")
    cpu, vcpu = machine.cpus[1], there["busy/0/vcpu0"]
    env.run(until=AT)
    assert vcpu._vm_exit(cpu, vcpu._stream.kinds[0])
    cpu.need_resched_lazy = True
    assert not vcpu._vm_exit(cpu, vcpu._stream.kinds[0])


def test_without_exits_a_guest_runs_on_to_the_tick_which_is_an_exit():
    wait, _cpu = waits(GUEST.format(reason="other").replace("300 us", "1 s"), "lazy")
    assert NEXT_TICK < AT + wait < NEXT_TICK + SOON


def test_user_mode_runs_on_to_its_next_interrupt():
    wait, _cpu = waits(USER, "lazy")
    assert NEXT_TICK < AT + wait < NEXT_TICK + SOON
    with_devices = USER + '[interrupts.net]\nevery = "1 ms"\ntime = "1 us"\n'
    wait, _cpu = waits(with_devices, "lazy")
    assert 8 * MS * TSC < AT + wait < 8 * MS * TSC + SOON


def test_a_request_that_comes_while_an_interrupt_is_served_is_seen_when_that_ends():
    wait, _cpu = waits(USER + '[interrupts.net]\nevery = "1 ms"\ntime = "200 us"\n', "lazy")
    assert 7.2 * MS * TSC < AT + wait < 7.2 * MS * TSC + SOON


def test_an_idle_cpu_goes_at_once_whatever_the_model():
    env, machine, there = held("", "lazy")
    wake(env, machine, there["late/0"], AT)
    assert machine.cpus[1].need_resched
    assert runs_at(env, machine, there["late/0"]) - AT < SOON


# Kernel code.


@pytest.mark.parametrize(
    ("model", "when"),
    [
        ("voluntary", AT),
        ("full", AT),
        ("none", round(7.52 * MS * TSC)),  # cond_resched() at the end of the burst, the fifth after the late one's
        ("lazy", NEXT_TICK),  # which makes the request one that is not lazy
    ],
)
def test_a_kernel_thread_is_preempted_where_its_model_says(model, when):
    wait, _cpu = waits(KTHREAD, model)
    assert when < AT + wait < when + 3 * SOON


def test_a_slice_that_is_over_in_kernel_code_is_noted_by_one_tick_and_ends_at_the_next_if_requests_are_lazy():
    ends = {}
    for model in ("voluntary", "lazy"):
        env, machine, _there = held(KTHREAD.replace("1500 us", "1 s") + "count = 2\n", model)
        env.run(until=MS * TSC)
        first = machine.cpus[1].thread
        while machine.cpus[1].thread is first:
            env.run(until=env.now + 1000)
        ends[model] = env.now
    assert ends["voluntary"] < TICK * 3 // 2 + SOON
    assert abs(ends["lazy"] - ends["voluntary"] - TICK) < SOON


@pytest.mark.parametrize(
    ("model", "preempted"), [("none", False), ("voluntary", False), ("full", True), ("lazy", False)]
)
def test_a_system_call_is_preempted_where_it_is_only_by_a_request_that_is_not_lazy(model, preempted):
    """The third call begins at 6.3 ms."""
    wait, _cpu = waits(USER.replace('"30 ms"', '"100 us"\nsyscall = "3 ms"'), model)
    assert (wait < SOON) is preempted
    assert preempted or 9.3 * MS * TSC < AT + wait < 9.4 * MS * TSC


@pytest.mark.parametrize(("model", "preempted"), [("voluntary", False), ("full", True), ("lazy", False)])
def test_a_handler_of_an_exit_is_preempted_where_it_is_only_by_a_request_that_is_not_lazy(model, preempted):
    busy = GUEST.format(reason="other").replace("400 ns", "400 us")
    env, machine, there, begins = in_handler(busy, model, round(100 * US * TSC))
    at, runs = env.now, runs_at(env, machine, there["late/0"])
    assert (runs < at + SOON) is preempted
    assert preempted or 0 < runs - begins - 400 * US * TSC < SOON


def test_a_handler_that_is_preempted_before_kvm_run_returns_is_so_with_the_guest_fpstate_loaded():
    """With voluntary preemption the exit to user space comes first, and with it kvm_put_guest_fpu()."""
    loaded = {}
    for model in ("voluntary", "full"):
        busy = GUEST.format(reason="io").replace("400 ns", "400 us") + 'handled = "userspace"\nvmm = "1 ms"\n'
        env, machine, there, _begins = in_handler(busy, model, round(100 * US * TSC))
        runs_at(env, machine, there["late/0"])
        loaded[model] = there["busy/0/vcpu0"].task.notifier is not None
    assert loaded == {"voluntary": False, "full": True}


@pytest.mark.parametrize(("model", "hands_over_first"), [("voluntary", False), ("full", True), ("lazy", False)])
def test_a_wake_up_in_a_system_call_switches_before_the_call_ends_in_a_fully_preemptible_kernel(
    model, hands_over_first, monkeypatch
):
    """The reader of a pipe runs while its writer has not gone to sleep yet, so that it counts as preempted."""

    def preempts(queue, now, entity, *, fork=False):
        current = queue.current
        current.vprot, entity.deadline = current.vruntime, current.deadline - 1
        queue.need_resched = True
        return True

    monkeypatch.setattr(EevdfRunQueue, "wakeup_preempts", preempts)
    text = (
        HEAD.format(host=f'preemption = "{model}"')
        + '[threads.pipes]\nkind = "pipe"\naffinity = [0]\ncompute = "5 us"\n'
    )
    record = simulate(changed(only(text), measure=5 * MS, warmup=1 * MS), "xstate-guest", 0)
    assert value(record, "handoffs") > 100
    assert (value(record, "preemptions") > 0.3 * value(record, "handoffs")) is hands_over_first


# Halting.


def polling(model):
    env, machine, there = held(GUEST.format(reason="other"), model)
    vcpu, cpu = there["busy/0/vcpu0"], machine.cpus[1]
    env.run(until=AT)
    vcpu._does("halt_poll")
    cpu.need_resched = True
    return vcpu, cpu


@pytest.mark.parametrize(("model", "blocks"), [("none", True), ("voluntary", True), ("full", False), ("lazy", False)])
def test_an_interrupt_that_asks_for_the_cpu_preempts_a_polling_vcpu_or_makes_it_block(model, blocks):
    vcpu, cpu = polling(model)
    assert vcpu.place == POLLS
    vcpu.before_switch(cpu)
    assert vcpu.blocked is blocks


@pytest.mark.parametrize("model", MODELS)
def test_what_another_cpu_queues_ends_the_polling_before_its_ipi_comes(model):
    """single_task_running() is in the loop's condition."""
    vcpu, cpu = polling(model)
    vcpu._poll_over = True
    vcpu.before_switch(cpu)
    assert vcpu.blocked


def test_a_lazy_request_is_seen_after_the_exit_of_hlt_and_before_the_vcpu_blocks():
    env, machine, there = held(GUEST.format(reason="other"), "lazy")
    vcpu, cpu = there["busy/0/vcpu0"], machine.cpus[1]
    env.run(until=AT)
    for lazy, place in ((True, TO_USER), (False, POLLS)):
        vcpu._does("halt_poll")
        cpu.need_resched_lazy = lazy
        if lazy:
            vcpu.place = TO_USER
        assert vcpu.place == place
        assert cpu.must_schedule() is lazy
        vcpu.before_switch(cpu)
        assert not vcpu.blocked or not lazy
        cpu.need_resched_lazy = False
        vcpu.enter(cpu)
        assert vcpu.place == POLLS


HALTS = """
[guests.busy]
affinity = [1]
demand = "100 us"
sleep = "100 us"
signalled = 1.0
signal_time = "5 us"
"""


def test_a_vcpu_with_a_lazy_request_is_preempted_after_its_exit_of_hlt_and_halts_when_it_is_back():
    env, machine, there = held(HALTS.partition("signalled")[0], "lazy", halt_poll='"0 ns"')
    vcpu, late, cpu = there["busy/0/vcpu0"], there["late/0"], machine.cpus[1]
    env.run(until=AT)
    for into in (False, True):
        while (cpu.thread is vcpu and vcpu.account == IN_GUEST) is not into:
            env.run(until=env.now + 100)
    halts = cpu.count_halts
    wake(env, machine, late, env.now + 100)
    assert runs_at(env, machine, late) > env.now - SOON
    assert cpu.count_halts == halts + 1
    assert (vcpu.account, vcpu.place, vcpu.blocked) == (POLLING, TO_USER, False)
    while not late.blocked:
        env.run(until=env.now + 100)
    env.run(until=env.now + SOON)
    assert (vcpu.account, vcpu.blocked, cpu.count_polled) == (POLLING, True, 0)


def test_what_comes_before_the_vcpu_calls_vcpu_block_is_no_halt():
    vcpu, cpu = polling("lazy")
    vcpu._vm_exit(cpu, vcpu._hlt)
    vcpu.place, vcpu._waiting, vcpu._halted_at = TO_USER, 1, 0
    vcpu._polling.window = window = round(20 * US * TSC)
    polled = cpu.count_polled
    vcpu.enter(cpu)
    assert (vcpu.account, vcpu._is_pending) == (IN_GUEST, False)
    assert (vcpu._polling.window, cpu.count_polled) == (window, polled)


@pytest.mark.parametrize("pending", [1, 0])
def test_what_comes_in_the_cycle_in_which_polling_ends_keeps_the_vcpu_from_blocking(pending):
    vcpu, cpu = polling("none")
    vcpu._waiting = pending
    assert list(vcpu.event(cpu)) == []
    assert vcpu.blocked is not bool(pending)


def test_a_signal_that_ends_a_halt_nobody_woke_the_vcpu_from_is_no_wake_up():
    env, machine, there = held(HALTS, halt_poll='"0 ns"')
    vcpu, cpu = there["busy/0/vcpu0"], machine.cpus[1]
    env.run(until=AT)
    while cpu.cpu.guest is None:
        env.run(until=env.now + 100)
    vcpu._vm_exit(cpu, vcpu._hlt)
    vcpu._does(POLLING)
    vcpu.place, vcpu._waiting, vcpu.woken_at = TO_USER, 1, -1
    wakeups, trips = machine.latency["vcpu"].buckets(), cpu.count_round_trips
    vcpu.enter(cpu)
    assert (vcpu.account, cpu.count_round_trips) == (VMM, trips + 1)
    assert machine.latency["vcpu"].buckets() == wakeups


def test_a_measurement_that_ends_within_a_handler_ends_there_and_before_the_tick_that_is_due_then():
    """As it does where each exit is an event of its own."""
    env, machine, there = held(GUEST.format(reason="other").replace("400 ns", "1 ms"), "full")
    vcpu, cpu, passed = there["busy/0/vcpu0"], machine.cpus[1], []
    env.run(until=NEXT_TICK)
    ticks = cpu.count_ticks
    cross(machine, lambda here: passed.append((here.id, here.clock, here.count_ticks, here.thread.account)))
    env.run(until=NEXT_TICK + SOON)
    assert (1, NEXT_TICK, ticks, HANDLER) in passed
    assert (cpu.count_ticks, vcpu.account) == (ticks + 1, HANDLER)


# HRTICK.


def switches(host, most):
    """When CPU 1 switches between two busy threads."""
    env, machine, _there = held(USER + "count = 2\n", "voluntary", **host)
    cpu, found, before = machine.cpus[1], [], None
    while len(found) < most:
        if cpu.thread is not before and cpu.thread.name.startswith("busy"):
            found.append(env.now)
        before = cpu.thread
        env.run(until=env.now + 500)
    return found


def test_with_hrtick_a_slice_ends_when_it_is_over_and_without_at_a_tick():
    """New tasks have half a slice at first."""
    slice_ = round(1.4 * MS * TSC)
    assert all(abs(b - a - slice_) < SOON for a, b in pairwise(switches({"hrtick": "true"}, 8)[2:]))
    assert all((each - TICK // 2) % TICK < SOON for each in switches({"hrtick": "false"}, 4)[1:])


def test_the_end_of_a_slice_by_hrtick_is_never_lazy():
    """entity_tick() calls resched_curr(): a kernel thread, which sees no lazy request, goes at once."""
    env, machine, _there = held(KTHREAD.replace("1500 us", "1 s") + "count = 2\n", "lazy", hrtick="true")
    cpu = machine.cpus[1]
    env.run(until=round(20 * MS * TSC))
    assert cpu.count_preemptions >= 20 * MS // (1.4 * MS) - 2


def test_the_first_to_queue_up_behind_a_running_thread_has_the_timer_started_by_an_ipi_that_shows_a_lazy_request():
    """So HRTICK hides most of what lazy preemption does where a CPU had one thread to run."""
    busy = GUEST.format(reason="other").replace("300 us", "1 s")
    wait, cpu = waits(busy, "lazy", hrtick="true")
    assert wait < SOON
    assert cpu.count_interrupts >= 1


def test_a_timer_that_is_started_is_not_started_again_and_no_ipi_is_sent_for_it():
    env, machine, there = held(USER, "lazy", hrtick="true")
    cpu, late = machine.cpus[1], there["late/0"]
    env.run(until=AT)
    cpu.hrtick.time = due = AT + 10 * TICK
    machine.wake(late, machine.cpus[0])
    assert (cpu.posted, cpu.hrtick.time) == ([], due)


def test_the_ipi_for_a_timer_changes_nothing_if_that_was_started_meanwhile():
    _env, machine, _there = held(USER, "lazy", hrtick="true")
    hrtick = machine.cpus[1].hrtick
    hrtick.stop()
    for due in (AT, AT - TICK):
        hrtick.asked = True
        machine.cpus[1]._hrtick_asked(due)
        assert (hrtick.asked, hrtick.time) == (False, AT)


def test_no_timer_is_asked_for_a_thread_that_has_blocked_and_not_left_its_cpu_yet():
    env, machine, there = held(USER, "lazy", hrtick="true")
    cpu = machine.cpus[1]
    env.run(until=AT)
    cpu.block(cpu.thread)
    machine.wake(there["late/0"], machine.cpus[0])
    assert cpu.rq.waiting() == [there["late/0"]]
    assert not cpu.hrtick.asked
    assert all(work.action is None for work in cpu.posted)


def test_an_idle_cpu_has_no_timer():
    env, machine, _there = held("", "lazy", hrtick="true")
    env.run(until=AT)
    assert [cpu.hrtick.time for cpu in machine.cpus] == [INF, INF]


# Whole runs.


def rich(kernel, model, hrtick, cpu):
    keys = f'kernel = ["{kernel}"]\npreemption = "{model}"\nhrtick = {str(hrtick).lower()}\n'
    case = from_text(RICH.replace("[host]\n", f"[host]\n{keys}"))[cpu]
    return changed(case, measure=8 * MS, warmup=2 * MS)


@pytest.mark.parametrize(
    ("kernel", "model", "hrtick", "cpu"),
    [
        ("v6.18", "none", True, 0), ("v6.18", "voluntary", True, 1), ("v6.18", "full", False, 0),
        ("v6.18", "full", True, 1), ("v6.18", "lazy", False, 1), ("v6.18", "lazy", True, 0), ("v7.3", "full", False, 1),
        ("v7.3", "lazy", False, 0), ("v7.3", "lazy", True, 1),
    ],
)  # fmt: skip
def test_exits_counted_together_are_exits_one_by_one_whatever_the_preemption(kernel, model, hrtick, cpu):
    case = rich(kernel, model, hrtick, cpu)
    together, one_by_one = (
        simulation.simulate(changed(case, batch=batch), case.timed_by, ["manual-load", "xstate-guest"], 1)
        for batch in (True, False)
    )
    for a, b in zip(together, one_by_one, strict=True):
        assert differences(a, b) == []
    assert value(together[0], "preemptions") > 20


def test_strategies_walk_one_schedule_and_none_depends_on_which_others_there_are():
    case = rich("v6.18", "lazy", False, 0)
    both = simulation.simulate(case, case.timed_by, ["manual-load", "xstate-guest"], 0)
    alone = simulation.simulate(case, case.timed_by, ["xstate-guest"], 0)
    assert differences(both[0], alone[0]) == []
    assert differences(both[2], alone[1]) == []


def test_kernel_eras_compares_kernels_with_one_preemption_model_and_without_hrtick():
    found = {(case.scenario.host.preemption, case.scenario.host.hrtick) for case in cases(read("kernel-eras"))}
    assert found == {("voluntary", False)}


# The scenario that asks.


def test_the_first_screen_has_what_the_models_do_to_preemptions_latency_and_overhead():
    scenario = read("preemption-models", {"run.measure": "40 ms", "run.warmup": "5 ms", "run.replications": 2})
    comparison = compare(run(scenario, jobs=1))
    lines = comparison.answer().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 72
    begin = next(i for i, line in enumerate(lines) if line.startswith("SCHEDULE"))
    table = {line.split()[0]: line.split()[1:] for line in lines[begin + 2 : begin + 6]}
    assert list(table) == list(MODELS)
    schedule = comparison.df_schedule().set_index(["case", "metric"])["mean"]
    for case, model in zip(cases(scenario), MODELS, strict=True):
        assert table[model][0] == f"{schedule[case.name, 'preemptions_per_second'] / 4:.0f}"
        assert table[model][1] == f"{schedule[case.name, 'interrupts_per_second'] / 4:.0f}"
    html = comparison.report()
    assert all(f">{cell}<" in html for cells in table.values() for cell in cells)
    medians = {model: float(cells[2]) for model, cells in table.items()}
    assert medians["lazy"] > 5 * max(medians[model] for model in MODELS if model != "lazy")


def test_a_sweep_of_something_else_has_no_such_table():
    scenario = read("overcommit", {"run.measure": "5 ms", "run.warmup": "2 ms", "run.replications": 2})
    assert "SCHEDULE" not in compare(run(scenario, jobs=1)).answer()
