"""Who runs where: wake-up placement, affinity, balancing, shares, and what a wake-up takes."""

import random

import pytest
from hosts import MS, RICH, SHIPPED, changed, from_text, hosted, only, shipped, simulate, threads

from sim.costs.price import price
from sim.costs.table import current
from sim.host.cpu import HostCpu
from sim.host.weights import weight_of
from sim.kernel.operations import VMCLEAR

FOUR = """
title = "four CPUs"
[run]
measure = "50 ms"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 4
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
"""
ANYWHERE = 0b1111


# Who gets an IPI.


def test_an_ipi_to_the_next_goes_round_the_vcpus_of_one_vm():
    text = (
        FOUR
        + """
[guests.ring]
vms = 2
vcpus = 3
[guests.ring.exits.ipi]
every = "1 kHz"
effect = "ipi"
target = "next"
"""
    )
    _env, host = hosted(only(text))
    vcpu = threads(host)["ring/1/vcpu1"]
    (kind,) = vcpu._stream.kinds
    assert [thread.name for thread in vcpu.vm] == [f"ring/1/vcpu{i}" for i in range(3)]
    assert [host.ipi_target(each, kind).name for each in vcpu.vm] == [f"ring/1/vcpu{i}" for i in (1, 2, 0)]


# Where a thread wakes up: select_task_rq_fair().


@pytest.fixture
def placed():
    """place(idle CPUs, the CPU it was on, the target, allowed): where it goes."""
    _env, host = hosted(only(FOUR + '[threads.t]\ncompute = "1 ms"\nsleep = "1 ms"\n'))
    (thread,) = threads(host).values()

    def place(idle, was, target=None, allowed=ANYWHERE):
        host._idle = sum(1 << cpu for cpu in idle)
        thread.cpu = host.cpus[was]
        thread.allowed = allowed
        return host._select(thread, host.cpus[was if target is None else target]).id

    return place


def test_a_thread_wakes_on_the_target_if_that_is_idle(placed):
    assert placed(idle=[0, 1, 2, 3], was=1) == 1
    assert placed(idle=[0, 1, 2, 3], was=1, target=2) == 2


def test_else_where_it_was_if_that_is_idle(placed):
    assert placed(idle=[0, 1, 3], was=1, target=2) == 1


def test_else_on_the_next_idle_cpu_after_the_target_in_a_circle(placed):
    assert placed(idle=[0, 3], was=1) == 3
    assert placed(idle=[0, 1], was=2, target=2) == 0
    assert placed(idle=[0, 1], was=2, target=3) == 0
    assert placed(idle=[0], was=1) == 0


def test_else_on_the_target_busy_as_it_is(placed):
    assert placed(idle=[], was=1) == 1
    assert placed(idle=[], was=1, target=3) == 3


def test_a_cpu_on_which_it_may_not_run_is_neither_idle_nor_a_target(placed):
    assert placed(idle=[0, 3], was=1, allowed=0b0110) == 1
    assert placed(idle=[], was=1, target=3, allowed=0b0110) == 1
    assert placed(idle=[], was=0, target=3, allowed=0b0110) == 1
    assert placed(idle=[], was=2, target=3, allowed=0b0110) == 2
    assert placed(idle=[2, 3], was=0, target=3, allowed=0b0110) == 2


def woken(busy_on_waker, sync):
    """Where a thread of CPU 2 wakes if CPU 0, with so many threads, wakes it and no CPU is idle."""
    _env, host = hosted(only(FOUR + '[threads.a]\ncompute = "1 ms"\nsleep = "1 ms"\ncount = 8\n'))
    thread = threads(host)["a/2"]
    waker, there = host.cpus[0], host.cpus[2]
    there.rq.dequeue(0, thread, sleep=True, special=True)
    host.note_queue(there)
    while waker.rq.nr_running > busy_on_waker:
        waker.rq.dequeue(0, waker.rq.waiting()[-1], sleep=True, special=True)
    host.note_queue(waker)
    host.wake(thread, waker, sync=sync)
    return thread.cpu.id, waker.count_migrations, waker.count_wakeups


def test_a_waker_that_is_about_to_sleep_and_has_nothing_else_to_run_takes_the_thread_to_its_cpu():
    assert woken(busy_on_waker=1, sync=True) == (0, 1, 1)


@pytest.mark.parametrize(("busy_on_waker", "sync"), [(2, True), (1, False)])
def test_any_other_waker_leaves_it_where_it_was(busy_on_waker, sync):
    assert woken(busy_on_waker, sync) == (2, 0, 1)


def test_a_thread_that_is_still_queued_as_delayed_is_woken_where_it_is():
    env, host = hosted(only(FOUR + '[threads.a]\ncompute = "1 ms"\nsleep = "1 ms"\ncount = 2\naffinity = [0]\n'))
    env.run(until=1000)
    running = host.cpus[0].thread
    running.sched_delayed = True
    running.allowed = ANYWHERE
    seen = []
    host._enqueue = lambda thread, waker: seen.append(thread.cpu.id)
    host.wake(running, host.cpus[3])
    assert seen == [0]


def test_threads_begin_on_the_cpus_with_the_fewest():
    entries = "".join(f'[threads.{name}]\ncompute = "1 ms"\n' for name in "abcdef")
    _env, host = hosted(only(FOUR + entries))
    assert [cpu.rq.nr_running for cpu in host.cpus] == [2, 2, 1, 1]


# Affinity.


BOUND = (
    RICH.replace("cpus = 3\n", "cpus = 6\n")
    .replace("[threads.batch]\n", "[threads.batch]\naffinity = [0, 2]\nnice = 5\n")
    .replace("[threads.kernel]\n", '[threads.kernel]\naffinity = "pinned"\ncount = 3\n')
    .replace("[guests.web]\n", "[guests.web]\naffinity = [1, 2]\n")
    .replace("[guests.busy]\n", '[guests.busy]\naffinity = "pinned"\n')
)


def places(host):
    """Each thread that is runnable or running, and the CPUs where it is."""
    found = {}
    for cpu in host.cpus:
        for thread in [cpu.thread, *cpu.rq.waiting()]:
            if thread is not cpu.idle_thread and not (thread is cpu.thread and thread.blocked):
                found.setdefault(thread, set()).add(cpu.id)
    return found


@pytest.mark.parametrize("strategy", ["free-ssp", "manual-exit"])
def test_no_thread_is_ever_on_a_cpu_where_it_may_not_run_nor_on_two(strategy):
    env, host = hosted(from_text(BOUND)[0], strategy)
    rng = random.Random(1)
    bound = set()
    for _ in range(1500):
        env.run(until=env.now + rng.randint(1, 40_000))
        for thread, cpus in places(host).items():
            assert len(cpus) == 1
            assert cpus == {thread.cpu.id}
            assert thread.allowed >> thread.cpu.id & 1
            if thread.allowed.bit_count() < 6:
                bound.add(thread.name)
    assert len(bound) > 10
    assert sum(cpu.count_migrations for cpu in host.cpus) > 10


# Balancing.


MIXED = (
    FOUR
    + """
[threads.daemon]
count = 7
compute = { exponential = "300 us" }
sleep = { exponential = "300 us" }
[guests.g]
vcpus = 4
demand = { exponential = "200 us" }
sleep = { exponential = "400 us" }
[threads.make]
kind = "fork"
compute = { exponential = "500 us" }
sleep = { exponential = "1 ms" }
"""
)


def idle_while_others_wait(text):
    """How many CPUs idle at random instants, and at how many of these instants an unpinned thread waits elsewhere.

    Not counted: CPUs with a thread that woke where it was still queued as delayed, since ttwu_runnable() moves none.
    """
    env, host = hosted(only(text))
    stayed = set()
    wake = host.wake

    def watched(thread, waker, sync=False):
        (stayed.add if thread.sched_delayed else stayed.discard)(thread)
        wake(thread, waker, sync)

    host.wake = watched
    rng = random.Random(2)
    idle_seen = waited = 0
    for _ in range(3000):
        env.run(until=env.now + rng.randint(1, 60_000))
        idle = [cpu for cpu in host.cpus if cpu.thread is cpu.idle_thread and cpu.waiting and not cpu.rq.nr_running]
        waiting = [each for cpu in host.cpus for each in cpu.rq.waiting() if cpu.thread is not each]
        idle_seen += len(idle)
        waited += any(
            thread.allowed >> cpu.id & 1 and not thread.cpu.need_resched and thread.cpu.waiting
            for cpu in idle
            for thread in waiting
            if not stayed & {thread.cpu.thread, *thread.cpu.rq.waiting()}
        )
    return idle_seen, waited


@pytest.mark.parametrize("scheduler", ["eevdf", "round-robin"])
def test_no_cpu_is_idle_while_a_thread_that_may_run_there_waits(scheduler):
    idle, waited = idle_while_others_wait(MIXED.replace("[host]", f'[host]\nscheduler = "{scheduler}"'))
    assert idle > 100
    assert waited == 0


def test_a_thread_that_may_not_run_on_cpu_0_is_pulled_by_another():
    """Three threads of two CPUs: nothing else keeps both busy, and each is pulled now and then."""
    text = FOUR + '[threads.t]\ncompute = { exponential = "1 ms" }\nsleep = "1 ms"\ncount = 3\naffinity = [1, 2]\n'
    idle, waited = idle_while_others_wait(text)
    assert idle > 100
    assert waited == 0


def test_without_idle_balancing_some_do_wait():
    idle, waited = idle_while_others_wait(MIXED.replace("[host]", "[host]\nidle_balancing = false"))
    assert idle > 100
    assert waited > 0


# Shares.


@pytest.mark.parametrize("hz", [250, 1000])
def test_busy_threads_share_a_cpu_by_their_weights(hz):
    nices = (0, 5, -5, 0)
    text = FOUR.replace("cpus = 4", f"cpus = 1\nhz = {hz}")
    text += "".join(f'[threads.t{i}]\ncompute = "1 ms"\nnice = {nice}\n' for i, nice in enumerate(nices))
    case = only(text)
    env, host = hosted(case)
    env.run(until=case.cycles(4.0))
    total = sum(thread.sum_exec_runtime for thread in threads(host).values())
    assert total == pytest.approx(case.cycles(4.0), rel=0.01)  # all but the last span is accounted for
    lag = 2 * case.cycles(case.scenario.host.base_slice) + 2 * case.cycles(1 / hz)
    weights = sum(map(weight_of, nices))
    for i, nice in enumerate(nices):
        share = total * weight_of(nice) / weights
        assert abs(threads(host)[f"t{i}/0"].sum_exec_runtime - share) <= lag


# What a wake-up takes.

LONE = FOUR.replace("cpus = 4", 'cpus = 1\nbuffer_level = "L1"\nhalt_poll = "0 ns"')


class Latencies(list):
    add = list.append


def latencies(text, name):
    case = only(text)
    env, host = hosted(case)
    host.latency[name] = seen = Latencies()
    host.cpus[0].measuring = True
    env.run(until=case.cycles(100 * MS))
    assert len(seen) >= 30
    return seen[3:], current(case.costs)


def test_a_thread_that_wakes_on_an_idle_cpu_waits_for_the_switch_and_no_longer():
    seen, table = latencies(LONE + '[threads.t]\ncompute = "500 us"\nsleep = "2 ms"\n', "thread")
    path = [
        ("idle", "switch", "context switch"),
        ("idle", "switch", "RDPKRU"),
        ("user", "return-to-user", "restore skipped"),
    ]
    assert set(seen) == {sum(price(operation, table) for operation in path)}


def test_a_vcpu_that_wakes_on_an_idle_cpu_waits_for_the_switch_vcpu_load_and_the_entry():
    seen, table = latencies(LONE + '[guests.g]\ndemand = "500 us"\nsleep = "2 ms"\n', "vcpu")
    path = [
        ("idle", "switch", "context switch"),
        ("idle", "switch", "RDPKRU"),
        ("vcpu", "vcpu-load", "RDPKRU"),
        ("vcpu", "guest-entry", "WRMSR(KERNEL_GS_BASE)"),
        ("vcpu", "guest-entry", "restore skipped"),
        ("vcpu", "guest-entry", "XSETBV"),  # the host has AMX, the guest has not
        ("vcpu", "xss", "WRMSR(XSS)"),
        ("vcpu", "vm-transition", "VM entry"),
    ]
    assert set(seen) == {sum(price(operation, table) for operation in path)}


def test_a_halt_within_the_poll_window_is_polled_and_another_is_not():
    polled = LONE.replace('halt_poll = "0 ns"', 'halt_poll = "200 us"')
    for sleep, all_polled in (("15 us", True), ("400 us", False)):
        case = only(polled + f'[guests.g]\ndemand = "500 us"\nsleep = "{sleep}"\n')
        env, host = hosted(case)
        env.run(until=case.cycles(50 * MS))
        (cpu,) = host.cpus
        assert cpu.count_halts > 40
        if all_polled:  # but the first few, while the window grows from 0 over 10 us to 20 us
            assert cpu.count_halts - 4 <= cpu.count_polled < cpu.count_halts
            assert cpu.halt_poll > 0
        else:
            assert cpu.count_polled == 0
            assert cpu.halt_poll == 0


def test_requests_that_come_together_are_served_one_by_one_and_pending_ipis_are_one():
    _env, host = hosted(only(LONE + '[guests.g]\ndemand = "1 ms"\narrivals = "1 Hz"\n'))
    (vcpu,) = threads(host).values()
    vcpu._waiting = 2
    for _ in range(3):
        vcpu.deliver_ipi()
    assert [vcpu._take_pending() for _ in range(4)] == [True, True, True, False]


# Registers of guests.


def test_a_guest_saves_what_it_wrote_after_its_last_context_switch_and_not_what_it_wrote_before():
    """Writes come each 100 us, switches to tasks without FPU state each 250 us, saves each 260 us."""
    text = LONE + (
        '[guests.g]\ntask_switch = "250 us"\nfpu = { components = ["SSE", "AVX"], every = "100 us", share = 0.0 }\n'
        '[guests.g.exits.io]\nevery = "260 us"\nhandled = "userspace"\nvmm = "1 us"\n'
    )
    record = simulate(changed(only(text), measure=50 * MS, warmup=0.0), "no-cet", 0)
    saves = [op for op, *_ in record.ledger if op.operation == "XSAVES" and op.phase == "kvm-put-guest-fpu"]
    assert {bool(op.components & 6) for op in saves} == {True, False}
    assert all(op.initialised & 6 == 6 for op in saves if not op.components & 6)


AWAY = """
title = "vCPU threads that other CPUs pull while their VMM runs"
[run]
measure = "50 ms"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
tsc = "2 GHz"
[guests.io]
vms = 5
demand = { exponential = "1 ms" }
sleep = { exponential = "1 ms" }
[guests.io.exits.io]
every = { exponential = "50 us" }
time = "1 us"
handled = "userspace"
vmm = { exponential = "300 us" }
"""


@pytest.mark.parametrize(
    "case", [shipped(path)[0] for path in SHIPPED if path.stem == "idle-fleet"] + [*from_text(AWAY)]
)
def test_every_vmclear_that_vcpu_load_asks_for_is_an_interrupt_at_that_time_where_the_vmcs_was(case, monkeypatch):
    """Linux's loaded_vmcs_clear() runs on the other CPU, in smp_call_function_single()."""
    served = []
    env, host = hosted(case, replication=1)
    post = HostCpu.post

    def posted(cpu, work):
        if work.call:
            served.append(cpu.id)
            assert work.interrupt > 0
            assert env.now in {other.clock for other in host.cpus if other is not cpu}
        post(cpu, work)

    monkeypatch.setattr(HostCpu, "post", posted)
    env.run(until=case.cycles(150 * MS))
    for cpu in host.cpus:
        cpu.charge()
        waiting = sum(work.call for work in cpu.posted)
        assert cpu.ledger.count(VMCLEAR) + waiting == served.count(cpu.id)
    assert len(served) > 2
