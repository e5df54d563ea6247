"""The compiled engine gives what the reference gives, to the last count, for whatever host it accepts.

The loop runs as plain Python here, which needs no compiler; ``fpswitch run --check-engine`` compares the compiled one,
and so does ``make verify``, which sets ENGINE_HOSTS to how many random hosts are to be compared.
"""

import pytest
from engine_mode import COMPILED, HOSTS_COMPARED
from hosts import RICH, SHIPPED, changed, from_text, on_host, only, shipped, with_little
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.engine import (
    choice,
    directed_yield,
    eevdf_groups,
    exits,
    guest,
    guest_lock,
    halting,
    host,
    kernel_table,
    kernel_work,
    loop,
    preempting,
    process,
    rescheduling,
    scheduler,
    simulation,
    spans,
    threads,
    vcpus,
    waiting,
    walking,
)
from sim.engine.check import check
from sim.engine.fragments import Unsupported
from sim.errors import InputError
from sim.host import simulation as reference
from sim.host.preemption import PREEMPTION


def assert_the_same(case, strategies=None, replication=0):
    """Both engines give the same records of all strategies on the schedule of the case."""
    walked = case.strategies if strategies is None else strategies
    wanted = reference.simulate(case, case.timed_by, walked, replication)
    found = simulation.simulate(case, case.timed_by, walked, replication)
    for one, other in zip(wanted, found, strict=True):
        assert dict(one.metrics) == dict(other.metrics), one.strategy
        assert one.ledger == other.ledger, one.strategy
        assert one.latency == other.latency, one.strategy
        assert one.integrity == other.integrity, one.strategy
    assert wanted == found


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
        "directed": st.sampled_from(["none", "v7.3", "lag-credit"]),
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


def later(function):
    """The function with a result that is too large."""
    return lambda *arguments: function(*arguments) + 1000


def otherwise(function):
    """The function with the opposite answer."""
    return lambda *arguments: not function(*arguments)


def nobody(function):
    """The function that always says that there is none."""
    return lambda *arguments: -1


def never(function):
    """A function that does nothing."""
    return lambda *arguments: 0


BROKEN = [
    (scheduler, "avg_vruntime", later),
    (scheduler, "min_slice", never),
    (scheduler, "update_lag", never),
    (host, "wakeup_preempts", otherwise),
    (host, "next_idle", never),
    (host, "pull", never),
    (host, "note_queue", never),
    (spans, "preempt_time", never),
    (kernel_work, "tick_cycles", later),
    (kernel_work, "device_cycles", later),
    (guest, "begins", later),
    (guest, "uses_registers", never),
    (guest, "absorbed", never),
    (guest, "repeat", never),
    (halting, "end_polling", never),
    (host, "end_tickless", never),
    (threads, "writes", never),
    (halting, "in_guest", otherwise),
    (kernel_table, "level_of", never),
    (process, "charge", never),
    (scheduler, "set_protect_slice", never),
    (scheduler, "requeue_delayed", never),
    (preempting, "wakeup_preempt", never),
    (rescheduling, "due_after", later),
    (host, "hrtick_start_fair", never),
    (host, "resched_curr_lazy", never),
    (kernel_work, "sched_tick", never),
    (threads, "is_preempted", otherwise),
    (vcpus, "handles", never),
    (halting, "begin_polling", never),
    (halting, "passes_signal", never),
    (threads, "tick_after", later),
    (loop, "wakes_at_tick", never),
    (halting, "has_halted", never),
    (halting, "kick_poll", never),
    (spans, "polls_until", later),
    (vcpus, "finds_work", never),
    (vcpus, "grow", never),
    (guest_lock, "shrink", never),
    (guest_lock, "set_end", never),
    (guest_lock, "release", never),
    (guest_lock, "runs_again", never),
    (spans, "spins_until", later),
    (guest_lock, "on_spin", never),
    (directed_yield, "is_ready", otherwise),
    (directed_yield, "preempted_in_kernel", otherwise),
    (directed_yield, "nominate", never),
    (halting, "join", never),
    (threads, "prepares_to_wait", never),
    (loop, "times_out", never),
    (halting, "limit_wait", never),
    (threads, "limit_wait", never),
    (waiting, "ends_wait", otherwise),
    (directed_yield, "forfeit", never),
    (vcpus, "learn", never),
    (guest, "exits", never),
    (eevdf_groups, "weigh", never),
    (eevdf_groups, "reweight", never),
    (eevdf_groups, "put_previous", never),
    (eevdf_groups, "need_resched", otherwise),
    (eevdf_groups, "level", nobody),
    (eevdf_groups, "preempt_time", never),
]


NEWEST = RICH.replace('cpu = ["sapphire-rapids", "zen4"]', 'cpu = ["sapphire-rapids"]\nkernel = ["v7.3"]').replace(
    'shadow_stacks = "constant"', 'shadow_stacks = "constant"\nsignalled = 0.2\nsignal_time = "3 us"'
)
"""The same with lazy preemption, HRTICK and the slices of v7.3, and with signals."""


LOCKED = """
title = "guests that poll and guests that spin, and threads that sleep in ticks"
[run]
measure = "10 ms"
warmup = "1 ms"
latency_from = "event"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
hz = 1000
ple_window_shrink = 2
directed_yield = "lag-credit"
[guests.polling]
idle = "haltpoll"
demand = { exponential = "20 us" }
sleep = { exponential = "60 us" }
[guests.spinning]
vms = 2
vcpus = 3
lock = { every = { exponential = "20 us" }, hold = { exponential = "10 us" } }
demand = { exponential = "100 us" }
sleep = { exponential = "50 us" }
[threads.rcu]
kind = "kthread"
timer = "tick"
compute = "5 us"
sleep = { exponential = "1 ms" }
"""


GROUPED = """
title = "threads and vCPUs in control groups"
[run]
measure = "6 ms"
warmup = "1 ms"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
kernel = ["{kernel}"]
preemption = "{preemption}"
hrtick = {hrtick}
tsc = "1 GHz"
hz = 1000
base_slice = "200 us"
ple_window = 500
directed_yield = "{directed}"
halt_poll = "20 us"
[guests.spinning]
vcpus = 4
group = "a"
lock = {{ every = {{ exponential = "30 us" }}, hold = {{ exponential = "10 us" }} }}
demand = {{ exponential = "200 us" }}
sleep = {{ exponential = "50 us" }}
[guests.halting]
vcpus = 2
group = "b"
nice = 3
demand = {{ exponential = "20 us" }}
sleep = {{ exponential = "30 us" }}
[threads.hog]
compute = "2 ms"
group = "b"
affinity = [0]
[threads.daemon]
count = 3
compute = {{ exponential = "50 us" }}
sleep = {{ exponential = "150 us" }}
group = "b"
[threads.kernel]
kind = "kthread"
count = 2
compute = {{ exponential = "20 us" }}
sleep = {{ exponential = "100 us" }}
[threads.pair]
kind = "pipe"
compute = "30 us"
group = "c"
[threads.make]
kind = "fork"
compute = {{ exponential = "40 us" }}
sleep = {{ exponential = "200 us" }}
group = "c"
[groups.a]
[groups.b]
weight = 300
[groups.c]
weight = 2048
"""


WAKING = (
    with_little("who waits for whom", "5 ms", "zen4")
    + """
halt_poll = "20 us"
preemption = "{preemption}"
[threads.source]
compute = {{ exponential = "20 us" }}
sleep = {{ exponential = "60 us" }}
wakes = {{ vm = 1.5, pool = 0.5, make = 1.0 }}
{after}
fpu = {{ components = ["SSE"], share = 0.5 }}
[threads.make]
compute = "10 us"
syscall = "2 us"
waits = {{ share = 0.7, at_most = "100 us" }}
sleep = "20 us"
wakes = {{ pool = 2.0, make = 0.3 }}
{after}
[threads.pool]
kind = "kthread"
count = 3
compute = {{ exponential = "15 us" }}
waits = {{ share = 1.0, at_most = "50 us"{order} }}
[threads.forks]
kind = "fork"
compute = "20 us"
sleep = "50 us"
wakes = {{ make = 1.5 }}
[guests.vm]
vcpus = 3
demand = {{ exponential = "10 us" }}
sleep = "30 us"
waits = {{ share = 0.9, at_most = "100 us"{order} }}
"""
)
BY_CHANCE = {"after": 'compute_after = { exponential = "5 us" }', "order": ', order = "any"'}
IN_ORDER = {"after": "", "order": ""}
KICKS = """
[guests.vm.exits.ipi]
every = {{ exponential = "80 us" }}
effect = "ipi"
wakes = {{ make = 0.7 }}
[guests.vm.exits.kick]
every = {{ exponential = "70 us" }}
reason = "{reason}"
wakes = {{ pool = 1.6, make = 0.4 }}
[guests.vm.exits.out]
every = {{ exponential = "90 us" }}
handled = "userspace"
vmm = "8 us"
wakes = {{ pool = 0.8 }}
[guests.vm.exits.cpuid]
every = {{ exponential = "30 us" }}
"""


@pytest.mark.parametrize("reason", ["msr-write", "other"])
@pytest.mark.parametrize("preemption", PREEMPTION)
def test_exits_that_wake_threads_give_the_same_records(preemption, reason):
    case = only(WAKING.format(preemption=preemption, **BY_CHANCE) + KICKS.format(reason=reason))
    assert_the_same(case)


@pytest.mark.parametrize("how", [IN_ORDER, BY_CHANCE], ids=["in order", "by chance"])
@pytest.mark.parametrize("preemption", PREEMPTION)
def test_threads_and_vcpus_that_wait_for_threads_give_the_same_records(preemption, how):
    assert_the_same(only(WAKING.format(preemption=preemption, **how)))


def test_time_limits_of_waits_that_are_over_get_room_when_they_need_it(monkeypatch):
    monkeypatch.setattr(simulation, "SLICE", 7)
    text = (
        WAKING.format(preemption="voluntary", **IN_ORDER)
        .replace('"100 us"', '"9 ms"')
        .replace('at_most = "50 us"', 'at_most = "9 ms"')
    )
    forks, guests = text.index("[threads.forks]"), text.index("[guests.vm]")
    case = only(text[:forks] + text[guests:])
    sizes = []
    make_room = simulation.Replication._make_room

    def noted(run):
        run.built.most_events = 900  # so that it is not at once that there is too little room
        make_room(run)
        sizes.append(len(run.a.heap))

    monkeypatch.setattr(simulation.Replication, "_make_room", noted)
    assert_the_same(case)
    assert sizes[0] < sizes[-1]


BLOCKS = """
[threads.recorded]
{more}
compute = {{ empirical = {path!r}, column = "compute", unit = "us" }}
sleep = {{ empirical = {path!r}, column = "sleep", unit = "us" }}
"""


@pytest.mark.parametrize("more", ["blocks = 3\ncount = 2", "blocks = 50\ncount = 2", 'blocks = 50\nkind = "fork"'])
def test_bursts_and_sleeps_in_recorded_blocks_give_the_same_records(more, tmp_path):
    rows = "".join(f"{7 * i % 11 + 1},{5 * i % 13 + 1}\n" for i in range(50))
    (tmp_path / "recorded.csv").write_text(f"compute,sleep\n{rows}")
    blocks = BLOCKS.format(path=str(tmp_path / "recorded.csv"), more=more)
    assert_the_same(only(WAKING.format(preemption="voluntary", **IN_ORDER) + blocks))


@pytest.mark.parametrize("kernel", ["v6.18", "v7.3"])
@pytest.mark.parametrize("directed", ["none", "v7.3", "lag-credit"])
def test_guests_that_spin_and_guests_that_poll_give_the_same_records(directed, kernel):
    text = LOCKED.replace("lag-credit", directed).replace("cpus = 2", f'cpus = 2\nkernel = ["{kernel}"]')
    case = changed(only(text), measure=5e-3)
    assert reference.simulate(case, case.timed_by, (), 0)[0].metrics["guest_spin_cycles"][0] > 0
    assert_the_same(case)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name", "how"), BROKEN, ids=lambda each: getattr(each, "__name__", each))
def test_a_broken_rule_is_found(module, name, how, monkeypatch):
    monkeypatch.setattr(module, name, how(getattr(module, name)))
    busy = changed(from_text(RICH)[0], measure=8e-3, warmup=1e-3)
    idle = shipped(SHIPPED[[path.stem for path in SHIPPED].index("idle-fleet")], "8 ms", "1 ms")[0]
    waking = only(WAKING.format(preemption="voluntary", **IN_ORDER))
    grouped = only(GROUPED.format(kernel="v6.18", preemption="voluntary", hrtick="false", directed="lag-credit"))
    cases = (busy, idle, changed(only(NEWEST), measure=8e-3, warmup=1e-3), only(LOCKED), waking, grouped)
    assert any(map(differ, cases)), f"nobody has noticed that {name} is broken"


MOVING = """
title = "one vCPU, whose kernel loads new SSPs, goes to and fro between two CPUs"
[run]
measure = "10 ms"
warmup = "0 ms"
[host]
cpus = 2
cpu = ["sapphire-rapids"]
[guests.rewriting]
demand = { exponential = "100 us" }
sleep = { exponential = "100 us" }
task_switch = "50 us"
shadow_stacks = "rewritten"
fpu = { components = ["SSE", "AVX"], share = 0.5 }
[threads.worker]
kind = "kthread"
count = 2
compute = { exponential = "200 us" }
sleep = { exponential = "200 us" }
"""


@pytest.mark.slow
def test_what_a_task_left_on_a_cpu_before_it_moved_is_told_from_what_it_has_now(monkeypatch):
    case = only(MOVING)
    assert not differ(case, "user-return")
    monkeypatch.setattr(kernel_table, "note_equal", never(kernel_table.note_equal))
    try:
        found = differ(case, "user-return")
    except AssertionError as contradiction:  # with states that other tests of this process have asked for
        found = str(contradiction) == "a CPU that knows of a content which its task does not have"
    assert found


STORM = """
title = "exits of two kinds, some with kernel_fpu_begin, drawn ahead several times, and some at the same time"
[run]
measure = "2 ms"
warmup = "0 ms"
[host]
cpus = 1
cpu = ["sapphire-rapids"]
[guests.storm]
vms = 2
shadow_stacks = "constant"
fpu = { components = ["SSE", "AVX"], every = "100 us" }
[guests.storm.exits]
kernel = { every = "400 kHz", time = "100 ns" }
other = { every = { constant = "4 us" }, time = { exponential = "50 ns" }, kernel_fpu = 0.1 }
more = { every = { constant = "8 us" }, time = "60 ns" }
"""


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), [(exits, "load_byte"), (walking, "walk_exits"), (loop, "walk")])
def test_exits_that_are_drawn_ahead_again_and_again_give_the_same_records(module, name, monkeypatch):
    case = only(STORM)
    assert not differ(case, "manual-exit")
    monkeypatch.setattr(module, name, never(getattr(module, name)))
    assert differ(case, "manual-exit")


def differ(case, *strategies):
    """Whether the engines differ, or the loop notices by itself that its accounts are wrong."""
    try:
        return not check(case, case.timed_by, strategies, 0).same
    except (AssertionError, Unsupported):
        return True


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
