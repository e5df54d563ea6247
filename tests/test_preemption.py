"""When the preemption models of Linux let another thread onto a CPU."""

import pytest
from hosts import MS, RICH, US, changed, differences, from_text, hosted, only, simulate, value
from preempted import AT, GUEST, HEAD, KTHREAD, MODELS, NEXT_TICK, SOON, TICK, TSC, USER, held, runs_at, waits, wake

from sim.errors import InputError
from sim.experiment import run
from sim.host import simulation
from sim.host.eevdf import EevdfRunQueue
from sim.kernel import versions
from sim.report.comparison import compare
from sim.scenario.cases import cases
from sim.scenario.reading import read


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


@pytest.mark.parametrize("model", ["none", "voluntary", "full"])
def test_a_flag_that_is_set_already_sends_no_second_ipi(model):
    """__resched_curr(): cti->flags & ((1 << tif) | _TIF_NEED_RESCHED)."""
    env, machine, _there = held(USER, model)
    env.run(until=AT)
    asker, cpu = machine.cpus
    cpu.resched_curr_lazy(asker)
    assert (cpu.need_resched, len(cpu.posted)) == (True, 1)
    cpu.resched_curr_lazy(asker)
    cpu.ask_resched()
    assert len(cpu.posted) == 1


def test_who_is_woken_on_an_idle_cpu_that_is_about_to_run_another_one_sends_no_ipi():
    env, machine, there = held('[threads.busy]\naffinity = [1]\ncompute = "20 us"\nsleep = "10 s"\n')
    env.run(until=AT)
    cpu = machine.cpus[1]
    assert cpu.thread is cpu.idle_thread
    for each in ("late/0", "busy/0"):
        machine.wake(there[each], machine.cpus[0])
    assert (cpu.need_resched, cpu.posted, cpu.rq.nr_running) == (True, [], 2)


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


# HRTICK.


def test_the_timer_of_a_slice_runs_for_10_us_at_the_least_and_stays_if_it_is_due_within_5_us():
    """hrtick_start() and hrtick_needs_rearm(), kernel/sched/core.c, Linux v7.3; at 2 GHz."""
    _env, host = hosted(from_text(RICH)[0])
    timer = host.cpus[0].hrtick
    assert [timer.due_after(100, delay) for delay in (0, 1, 19_999, 20_000, 20_001)] == [20_100] * 4 + [20_101]
    timer.time = 50_000
    assert [timer.due_after(0, delay) for delay in (39_999, 40_000, 60_000, 60_001)] == [39_999, 50_000, 50_000, 60_001]
