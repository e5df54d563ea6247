"""Lazy and other requests while a vCPU halts or polls, and HRTICK."""

from itertools import pairwise

import pytest
from hosts import MS, US
from preempted import AT, GUEST, KTHREAD, MODELS, NEXT_TICK, SOON, TICK, TSC, USER, held, runs_at, waits, wake

from sim.host.exits import INF
from sim.host.guest_span import GUEST as IN_GUEST
from sim.host.halting import HANDLER, POLLING, VMM
from sim.host.preemption import POLLS, TO_USER
from sim.host.simulation import cross

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


@pytest.mark.parametrize("model", ["none", "voluntary", "full"])
def test_a_request_that_comes_during_the_exit_of_hlt_preempts_the_vcpu_before_it_halts(model):
    """vcpu_run() asks __xfer_to_guest_mode_work_pending(), which knows both flags, before it calls vcpu_block()."""
    env, machine, there = held(HALTS.partition("signalled")[0], model, halt_poll='"0 ns"')
    vcpu, late, cpu = there["busy/0/vcpu0"], there["late/0"], machine.cpus[1]
    env.run(until=AT)
    halts = cpu.count_halts
    while cpu.count_halts == halts:
        env.run(until=env.now + 100)
    assert (vcpu.account, cpu.clock > env.now) == (IN_GUEST, True)
    wake(env, machine, late, env.now + 1)
    assert runs_at(env, machine, late) > env.now - SOON
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


def test_a_tick_that_ends_a_slice_in_the_kernel_accounts_for_it_up_to_then():
    """task_tick_fair() calls update_curr(); the thread sees no lazy request, and the next tick makes it go."""
    env, machine, _there = held(KTHREAD.replace("1500 us", "1 s") + "count = 2\n", "lazy")
    cpu = machine.cpus[1]
    tick = TICK * 3 // 2
    env.run(until=tick + SOON)
    current = cpu.rq.current
    assert (cpu.thread, cpu.need_resched_lazy, cpu.need_resched) == (current, True, False)
    assert current.exec_start == tick
    assert current.deadline > current.vruntime  # the request that is over has been renewed
    env.run(until=tick + TICK + SOON)
    assert cpu.thread is not current


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
