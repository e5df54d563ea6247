"""Control groups in the compiled engine, and virtual times that need 128 bits: both engines give the same records."""

import os
import subprocess
import sys
from dataclasses import replace

import both_engines  # first of all: the loop as plain Python
import pytest
from both_engines import GROUPED, assert_the_same
from hosts import RICH, changed, from_text, only, with_little
from hypothesis import given
from hypothesis import strategies as st

from sim.engine import choice, eevdf_groups, layout, preempting, queues, scheduler, simulation
from sim.engine.arrays import empty
from sim.engine.wide import WideMemory
from sim.host.preemption import PREEMPTION
from sim.host.weights import inverse

HOST = with_little("groups", "4 ms") + 'tsc = "2 GHz"\nhz = 1000\n'


@pytest.mark.parametrize("kernel", ["v6.18", "v7.3"])
@pytest.mark.parametrize("hrtick", ["true", "false"])
def test_a_host_with_everything_in_groups_gives_the_same_records(kernel, hrtick):
    case = only(GROUPED.format(kernel=kernel, preemption="full", hrtick=hrtick, directed="lag-credit"))
    assert_the_same(case)


@pytest.mark.parametrize("preemption", PREEMPTION)
def test_each_preemption_model_gives_the_same_records_with_groups(preemption):
    case = only(GROUPED.format(kernel="v6.18", preemption=preemption, hrtick="false", directed="v7.3"))
    assert_the_same(case)


@pytest.mark.parametrize("switch", ["idle_balancing", "wakeup_preemption"])
def test_groups_without_balancing_or_wakeup_preemption_give_the_same_records(switch):
    text = GROUPED.format(kernel="v7.3", preemption="lazy", hrtick="true", directed="none")
    assert_the_same(only(text.replace("[host]\n", f"[host]\n{switch} = false\n")))


def test_auto_takes_the_compiled_engine_for_groups(monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    monkeypatch.delenv(choice.DISABLED, raising=False)
    case = only(GROUPED.format(kernel="v6.18", preemption="none", hrtick="false", directed="none"))
    case = changed(case, measure=1e-3, engine="auto")
    assert {each.engine for each in choice.simulate(case, case.timed_by, (), 0)} == {"compiled"}


LONG = """
idle_exit = "50 us"
preemption = "{preemption}"
[threads.long]
compute = "8 ms"
sleep = "500 us"
group = "a"
[threads.short]
count = 5
compute = {{ exponential = "5 us" }}
sleep = {{ exponential = "{sleep}" }}
group = "a"
[threads.kernel]
kind = "kthread"
count = 2
compute = {{ exponential = "2 ms" }}
sleep = {{ exponential = "{sleep}" }}
[groups.a]
"""


@pytest.mark.parametrize(("preemption", "sleep"), [("none", "60 us"), ("lazy", "60 us"), ("voluntary", "20 ms")])
def test_requests_of_who_runs_alone_and_wakeups_on_cpus_that_leave_idle_give_the_same_records_with_groups(
    preemption, sleep
):
    assert_the_same(changed(only(HOST + LONG.format(preemption=preemption, sleep=sleep)), measure=30e-3))


PULLED = """
[threads.one]
count = 3
compute = { exponential = "300 us" }
sleep = { exponential = "300 us" }
group = "a"
[threads.other]
count = 3
compute = { exponential = "300 us" }
sleep = { exponential = "300 us" }
[groups.a]
"""


def test_an_idle_cpu_pulls_threads_of_groups_and_others(monkeypatch):
    case = changed(only(HOST + PULLED), measure=20e-3)
    assert not both_engines.differ(case)
    waiting = eevdf_groups.waiting
    monkeypatch.setattr(eevdf_groups, "waiting", lambda a, c, there: -1 if there >= 0 else waiting(a, c, there))
    assert both_engines.differ(case)
    root_only = lambda a, c, there: scheduler.waiting(a, eevdf_groups.root(a, c), there)  # noqa: E731
    monkeypatch.setattr(eevdf_groups, "waiting", root_only)
    assert both_engines.differ(case)


LEAVERS = """
kernel = ["v7.3"]
preemption = "full"
base_slice = "200 us"
[threads.hog]
count = 3
compute = "2 ms"
sleep = { exponential = "20 us" }
group = "a"
[threads.short]
count = 10
compute = { exponential = "20 us" }
sleep = { exponential = "80 us" }
group = "a"
[threads.root]
compute = { exponential = "100 us" }
sleep = { exponential = "100 us" }
[groups.a]
weight = 3000
"""


def test_who_leaves_late_when_another_of_its_group_wakes_changes_the_weight_of_the_group_in_both_engines(monkeypatch):
    case = changed(only(HOST + LEAVERS), measure=20e-3)
    assert not both_engines.differ(case)
    wakeup_preempts = eevdf_groups.wakeup_preempts

    def as_it_was(*arguments):
        with monkeypatch.context() as broken:
            broken.setattr(eevdf_groups, "weigh", both_engines.never(None))
            return wakeup_preempts(*arguments)

    monkeypatch.setattr(eevdf_groups, "wakeup_preempts", as_it_was)
    assert both_engines.differ(case)


LIGHT = """
[threads.{name}]
count = {count}
group = "a"
compute = {{ exponential = "500 us" }}
sleep = {{ exponential = "300 us" }}
affinity = {affinity}
"""


def virtual_times(case, wide=False):
    """Of all entities at the end of a replication, in the words in which the loop has them."""
    run = simulation.Replication(case, case.timed_by, (), 0, wide=wide)
    run.run()
    t = WideMemory(run.a).t
    return [t[i, column] for i in range(len(run.a.t)) for column in (layout.VRUNTIME, layout.DEADLINE, layout.VLAG)]


def test_a_group_of_which_little_is_on_a_cpu_has_virtual_times_of_more_than_64_bits_there():
    many = LIGHT.format(name="many", count=30, affinity="[0]") + LIGHT.format(name="few", count=1, affinity="[1]")
    root = (
        '[threads.root]\ncount = 4\ncompute = "300 us"\nsleep = { exponential = "100 us" }\n[groups.a]\nweight = 15\n'
    )
    case = changed(only(HOST + 'base_slice = "20 ms"\n' + many + root), measure=20e-3)
    assert_the_same(case)
    assert max(map(abs, virtual_times(case))) > 1 << 63


def test_a_nice_level_whose_lag_does_not_fit_in_64_bits_gives_the_same_records():
    case = changed(from_text(RICH)[0], measure=2e-3, warmup=0.0)
    nice = case.scenario.threads["batch"].model_copy(update={"nice": 19})
    scenario = case.scenario.model_copy(update={"threads": {**case.scenario.threads, "batch": nice}})
    light = replace(case, scenario=scenario)
    assert queues.is_grouped(light)
    assert not queues.is_grouped(case)
    assert_the_same(light)


STRETCHES = """
preemption = "none"
base_slice = "100 us"
[threads.kernel]
kind = "kthread"
count = 3
nice = 19
compute = "80 ms"
sleep = "100 us"
affinity = [0]
[threads.user]
count = 2
nice = 10
compute = "1 ms"
sleep = "1 ms"
affinity = [0]
"""


def test_a_thread_that_nothing_preempts_may_leave_others_behind_farther_than_64_bits():
    case = changed(only(HOST.replace("2 GHz", "1 GHz") + STRETCHES), measure=0.6)
    assert not queues.is_grouped(case)
    with pytest.raises(simulation.TooFar):
        virtual_times(case)
    assert_the_same(case)


CROWD = """
base_slice = "700 us"
[threads.crowd]
count = 100
nice = {nice}
compute = "30 ms"
sleep = "20 us"
affinity = [0]
"""


@pytest.mark.filterwarnings("ignore:overflow encountered")  # of that sum, which is not used then
@pytest.mark.parametrize("nice", [19, 18])
def test_a_crowd_of_equal_threads_has_a_mean_though_the_sum_does_not_fit_in_64_bits(nice):
    case = changed(only(HOST + CROWD.format(nice=nice)), measure=0.1)
    assert not queues.is_grouped(case)
    assert not both_engines.differ(case)


def test_a_queue_whose_virtual_times_have_gone_down_is_moved_back():
    case = changed(only(HOST + CROWD.format(nice=0)), measure=2e-3)
    run = simulation.Replication(case, case.timed_by, (), 0)
    run.run()
    a, current = run.a, run.a.c[0, layout.CURRENT_ENTITY]
    waiting = a.queue[0, : a.c[0, layout.QUEUED]]
    assert len(waiting) > 50
    at_0 = [current, *waiting]
    average = scheduler.avg_vruntime(a, 0) - a.t[current, layout.VRUNTIME]
    for column in (layout.VRUNTIME, layout.DEADLINE, layout.VPROT):
        a.t[at_0, column] -= 1 << 61
    execs = a.t[current, layout.EXEC_START]
    a.t[current, layout.VRUNTIME] -= a.t[current, layout.INV_WEIGHT]
    scheduler.update_current(a, 0, execs + 1)
    assert not a.g[layout.FAILED]
    assert a.t[current, layout.VRUNTIME] == 0
    assert scheduler.avg_vruntime(a, 0) == average


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("others", [False, True])
def test_a_stretch_too_long_for_64_bits_matters_where_others_wait(others, wide):
    """While others wait there are ticks, and none of them is so far from the last one: no scenario leads there."""
    case = changed(only(HOST + CROWD.format(nice=19)), measure=2e-3)
    run = simulation.Replication(case, case.timed_by, (), 0, wide=wide)
    run.run()
    a = WideMemory(run.a) if wide else run.a
    q = eevdf_groups.root(a, 0) if wide else 0
    current = a.c[q, layout.CURRENT_ENTITY]
    assert a.c[q, layout.QUEUED] > 50
    if not others:
        a.c[q, layout.QUEUED] = 0
    inv = int(a.t[current, layout.INV_WEIGHT])
    cycles = scheduler.FAR // inv + 1
    ahead = a.t[current, layout.VRUNTIME] - a.t[a.queue[q, 0], layout.VRUNTIME]
    scheduler.update_current(a, q, a.t[current, layout.EXEC_START] + cycles)
    assert a.g[layout.FAILED] == (layout.FAIL_VRUNTIME if others and not wide else 0)
    if wide and others:
        assert a.t[current, layout.VRUNTIME] - a.t[a.queue[q, 0], layout.VRUNTIME] == ahead + cycles * inv
    elif not others and not wide:
        lasts = a.t[current, layout.DEADLINE] - a.t[current, layout.VRUNTIME]
        assert lasts == a.t[current, layout.SLICE] * inv > 0


@pytest.mark.parametrize("nice", [0, 7, 12])
@pytest.mark.parametrize("wide", [False, True])
def test_the_request_of_who_runs_alone_is_renewed_at_the_time_that_is_said_and_no_cycle_earlier(wide, nice):
    """As in the queues of the host (test_run_queues.py); a tick that comes too early changes no record."""
    case = changed(only(HOST + f'[threads.alone]\nnice = {nice}\ncompute = "9 ms"\naffinity = [0]\n'), measure=1e-3)
    run = simulation.Replication(case, case.timed_by, (), 0, wide=wide)
    run.run()
    a, q = (WideMemory(run.a), eevdf_groups.root(run.a, 0)) if wide else (run.a, 0)
    current, when = a.c[q, layout.CURRENT_ENTITY], preempting.renewal_time(a, q)
    inv_weight = a.t[current, layout.INV_WEIGHT]
    for now, least, most in ((when - 1, 1, inv_weight), (when, 2 * inv_weight, layout.INF)):
        scheduler.update_current(a, q, now)
        assert least <= a.t[current, layout.DEADLINE] - a.t[current, layout.VRUNTIME] <= most


@pytest.mark.parametrize("hinted", [True, False])
def test_a_hint_to_yield_is_used_up_at_both_levels_when_its_thread_is_pulled_and_not_when_another_is(hinted):
    """clear_buddies() goes up from the thread, as in the queues of the host (test_groups.py)."""
    group, root = (LIGHT.format(name=name, count=6, affinity="[0]") for name in ("group", "root"))
    text = HOST + group + root.replace('group = "a"\n', "") + "[groups.a]\n"
    run = simulation.Replication(changed(only(text), measure=1e-3), "xstate-guest", (), 0, wide=True)
    run.run()
    a = WideMemory(run.a)
    entity, top = a.g[layout.ENTITIES], eevdf_groups.root(a, 0)
    q = eevdf_groups.group_queue(a, entity)
    one, other, *_ = (thread for thread in run.a.queue[q, : a.c[q, layout.QUEUED]] if not a.t[thread, layout.DELAYED])
    assert entity in run.a.queue[top, : a.c[top, layout.QUEUED]]
    assert eevdf_groups.nominate(a, 0, one)
    eevdf_groups.dequeue(a, 0, a.g[layout.NOW], one if hinted else other, False)
    assert [a.c[queue, layout.BUDDY] for queue in (q, top)] == ([-1, -1] if hinted else [one, entity])


@pytest.mark.parametrize("delayed", [True, False])
def test_a_sleeper_whose_delay_begins_leaves_the_weight_of_its_group_as_it_is(delayed):
    """As in the queues of the host (test_groups.py); the group's load has doubled, as by threads on other CPUs."""
    text = HOST + LIGHT.format(name="t", count=6, affinity="[0]") + "[groups.a]\n"
    run = simulation.Replication(changed(only(text), measure=1e-3), "xstate-guest", (), 0, wide=True)
    run.run()
    a = WideMemory(run.a)
    entity = a.g[layout.ENTITIES]
    q = eevdf_groups.group_queue(a, entity)
    before = a.t[entity, layout.WEIGHT]
    thread = next(each for each in run.a.queue[q, : a.c[q, layout.QUEUED]] if not a.t[each, layout.DELAYED])
    a.groups[0, layout.GROUP_LOAD] *= 2
    scheduler.remove(a, q, thread)
    a.t[thread, layout.VRUNTIME] = scheduler.avg_vruntime(a, q) + (1 if delayed else -1) * 10**15
    scheduler.insert(a, q, thread)
    eevdf_groups.dequeue(a, 0, a.g[layout.NOW], thread, True)
    assert a.t[thread, layout.DELAYED] == delayed
    assert (a.t[entity, layout.WEIGHT] == before) is delayed


MANY_GROUPS = "".join(
    f'[threads.t{i}]\ngroup = "g{i}"\ncompute = "50 us"\nsleep = "9 us"\n[groups.g{i}]\n' for i in range(60)
)


def test_a_queue_has_room_for_a_group_and_not_for_all_threads_of_the_host():
    case = changed(only(HOST.replace("cpus = 2", "cpus = 16") + MANY_GROUPS), measure=1e-3)
    run = simulation.Replication(case, case.timed_by, (), 0)
    assert run.a.queue.shape == (16 * 62, 61)
    assert_the_same(case)


def test_wider_virtual_times_change_no_record():
    case = changed(only(both_engines.LOCKED), measure=3e-3)
    found = []
    for wide in (False, True):
        run = simulation.Replication(case, case.timed_by, (), 0, wide=wide)
        run.run()
        found.append(run.records())
    assert found[0] == found[1]


NUMBERS = st.integers(-(1 << 126), (1 << 126) - 1) | st.integers(-(1 << 64), 1 << 64)


@given(NUMBERS, st.sampled_from(sorted(layout.HIGH)))
def test_a_number_of_128_bits_is_read_as_it_was_written(number, column):
    arrays = empty(1, 2, 1, 1, 1, 0, 1)
    a = WideMemory(arrays)
    if column == layout.INV_WEIGHT:  # one of 64 bits
        number = inverse(number % 88761 + 1)
    arrays.t[1] = before = 77
    a.t[1, column] = number
    assert a.t[1, column] == number
    written = {column, layout.HIGH[column]}
    assert {int(each) for i, each in enumerate(arrays.t[1]) if i not in written} == {before}


IN_MACHINE_CODE = """
from __future__ import annotations
from random import Random
from numba import njit
from sim.engine.arrays import empty
from sim.engine.jit import HAVE_NUMBA, Memory, compiled, cycles, is_wide, memory, wide
from sim.engine.layout import DEADLINE, INV_WEIGHT, SLICE, VLAG, VPROT, VRUNTIME
from sim.engine.wide import Virtual, WideMemory

assert HAVE_NUMBA

@compiled
def less(a: Memory, number: Virtual, by: int) -> int:
    return number - by

@compiled
def work(a: Memory, by: int) -> int:
    t = a.t
    one, other = t[0, VRUNTIME], t[0, DEADLINE]
    quotient = one // by
    t[1, VRUNTIME] = quotient
    t[1, DEADLINE] = -quotient * by + one
    t[1, VLAG] = max(one, other) - min(one, other)
    t[1, VPROT] = less(a, one, by) + other // t[0, INV_WEIGHT] * 3
    total = 0
    for _ in range(3):
        total += one
    t[2, VRUNTIME] = total
    t[2, DEADLINE] = by
    t[2, DEADLINE] -= t[0, SLICE] * t[0, INV_WEIGHT]
    t[2, VLAG] = cycles(other)
    t[2, VPROT] = (one < other) + 2 * (one <= other) + 4 * (one > other) + 8 * (one >= other) + 16 * (one == other)
    return 32 * (one != other) + 64 * is_wide(a)

@njit
def in_machine_code(handle, by):
    return work(wide(memory(handle)), by)

draw = Random(1)
columns = (VRUNTIME, DEADLINE, VLAG, VPROT)
for i in range(3000):
    arrays = empty(1, 3, 1, 1, 1, 0, 1)
    a = WideMemory(arrays)
    one, other = (draw.randrange(-1 << bits, 1 << bits) for bits in draw.choices((30, 62, 63, 64, 65, 100, 120), k=2))
    if i % 7 == 0:
        other = one
    by, inverse = draw.randrange(1, 1 << draw.choice((1, 20, 32, 43))), draw.randrange(1, (1 << 42) + 1)
    length = draw.randrange(1 << 40)
    a.t[0, VRUNTIME], a.t[0, DEADLINE], a.t[0, INV_WEIGHT], a.t[0, SLICE] = one, other, inverse, length
    found = in_machine_code(arrays.table.ctypes.data, by)
    flags = (one < other) + 2 * (one <= other) + 4 * (one > other) + 8 * (one >= other) + 16 * (one == other)
    assert found == 32 * (one != other) + 64
    wanted = [one // by, one % by, abs(one - other), one - by + other // inverse * 3]
    wanted += [3 * one, by - length * inverse, (other + (1 << 63)) % (1 << 64) - (1 << 63), flags]
    assert [a.t[row, column] for row in (1, 2) for column in columns] == wanted, (one, other, by, inverse, length)
"""


@pytest.mark.slow
def test_numbers_of_128_bits_in_machine_code_are_those_of_python():
    pytest.importorskip("numba")
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    command = [sys.executable, "-c", IN_MACHINE_CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
