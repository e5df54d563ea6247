"""Control groups: they share the CPUs by their weights, whatever is in them, and one group alone changes nothing."""

from fractions import Fraction

import pytest
from hosts import only, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ticks import watched

from sim.errors import InputError
from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_groups import GroupedRunQueue, TaskGroup
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.runqueue import Entity

HOST = """
title = "threads in groups"
[run]
measure = "{measure}"
warmup = "0 ns"
[host]
cpus = {cpus}
cpu = ["zen4"]
preemption = "{preemption}"
{kernel}
"""


def host(measure="400 ms", cpus=1, preemption="voluntary", kernel=""):
    return HOST.format(measure=measure, cpus=cpus, preemption=preemption, kernel=kernel)


def on_cpu(text):
    """Seconds on a CPU by entry."""
    found = {}
    for life in watched(only(text)).lives:
        name = life.name.partition("/")[0]
        found[name] = found.get(name, 0.0) + sum(burst.on_ns for burst in life.bursts) * 1e-9
    return found


def busy(**entries):
    """Entries of threads that never sleep: how many, and their group."""
    return "".join(
        f'[threads.{name}]\ncount = {count}\ncompute = "1 ms"\n' + (f'group = "{group}"\n' if group else "")
        for name, (count, group) in entries.items()
    )


@pytest.mark.parametrize("kernel", ["", 'kernel = ["v7.3"]'])
@pytest.mark.parametrize(("weight", "share"), [(1024, 1 / 2), (2048, 2 / 3), (102, 1 / 11)])
def test_groups_share_a_cpu_by_their_weights_whatever_is_in_them(weight, share, kernel):
    preemption = "full" if kernel else "voluntary"
    text = host(kernel=kernel, preemption=preemption) + busy(many=(5, "a"), one=(1, "b"))
    found = on_cpu(text + f"[groups.a]\nweight = {weight}\n[groups.b]\n")
    assert found["many"] / 0.4 == pytest.approx(share, abs=0.03)


def test_a_thread_of_the_root_group_competes_with_a_group_as_one():
    found = on_cpu(host() + busy(many=(3, "a"), root=(1, None)) + "[groups.a]\n")
    assert found["root"] / 0.4 == pytest.approx(0.5, abs=0.03)


def test_a_group_has_its_weight_once_on_all_cpus_together():
    text = host(cpus=2) + busy(wide=(2, "a"), one=(1, "b"), other=(1, "c")).replace(
        "[threads.wide]\n", '[threads.wide]\naffinity = "pinned"\n'
    ).replace("[threads.one]\n", "[threads.one]\naffinity = [0]\n").replace(
        "[threads.other]\n", "[threads.other]\naffinity = [1]\n"
    )
    found = on_cpu(text + "[groups.a]\n[groups.b]\n[groups.c]\n")
    assert found["wide"] / 0.8 == pytest.approx(1 / 3, abs=0.03)


THREADS = """
[threads.hog]
count = HOGS
compute = "1 ms"
GROUP
[threads.sleeper]
count = SLEEPERS
compute = { exponential = "200 us" }
sleep = { exponential = "900 us" }
GROUP
[threads.child]
kind = "fork"
compute = { exponential = "300 us" }
sleep = { exponential = "3 ms" }
GROUP
[threads.pair]
kind = "pipe"
compute = "30 us"
GROUP
[guests.vm]
vcpus = 2
demand = "100 us"
sleep = { exponential = "500 us" }
GROUP
"""


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.sampled_from(["none", "voluntary", "full", "lazy"]))
def test_one_group_with_everything_in_it_changes_nothing(hogs, sleepers, cpus, preemption):
    text = host("30 ms", cpus, preemption) + THREADS.replace("HOGS", str(hogs)).replace("SLEEPERS", str(sleepers))
    (flat, grouped) = (
        simulate(only(text.replace("GROUP", group) + groups), "free-ssp", 0)
        for group, groups in (("", ""), ('group = "all"', "[groups.all]\n"))
    )
    assert grouped == flat


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(["none", "full", "lazy"]),
    st.integers(1, 3),
    st.sampled_from(["abaab", "ab-a-"]),
)
def test_nobody_starves_and_all_time_is_accounted_for(seed, preemption, cpus, groups):
    text = host("60 ms", cpus, preemption)
    parts = THREADS.replace("HOGS", "3").replace("SLEEPERS", "4").split("GROUP")
    for part, group in zip(parts, groups, strict=False):
        text += part + (f'group = "{group}"' if group != "-" else "")
    case = only(text + "\n[groups.a]\nweight = 300\n[groups.b]\n", seed=seed)
    assert simulate(case, "free-ssp", 0)  # accounts add up, or it raises
    for life in watched(case).lives:
        assert max(burst.end_ns - burst.ready_ns - burst.on_ns for burst in life.bursts) < 58e6


SPINNING = """
[threads.hog]
count = 2
compute = "1 ms"
HOGS
[guests.vm]
vcpus = 4
lock = { every = "20 us", hold = "10 us" }
VCPUS
"""
A, B = 'group = "a"', 'group = "b"'


@pytest.mark.parametrize("directed", ["none", "v7.3", "lag-credit"])
@pytest.mark.parametrize("cpus", [2, 3])
def test_vcpus_of_a_group_yield_to_each_other_as_without_and_in_several_groups_all_time_is_accounted_for(
    directed, cpus
):
    def record(hogs, vcpus, groups=""):
        text = host("10 ms", cpus, kernel=f'ple_window = 2000\ndirected_yield = "{directed}"')
        return simulate(only(text + SPINNING.replace("HOGS", hogs).replace("VCPUS", vcpus) + groups), "free-ssp", 0)

    flat = record("", "")
    assert record(A, A, "[groups.a]\n") == flat
    assert record(A, B, "[groups.a]\n[groups.b]\n") != flat
    assert record("", A, "[groups.a]\n") != flat
    assert record(A, "", "[groups.a]\n")  # accounts add up, or it raises


# The buddy that dequeue_entities() makes of a group (fair.c, v6.18.2); a cycle at nice 0 is UNIT.

UNIT = 1 << 32


def in_a_group(kind):
    """A root queue in which a group of two runs, its protection over, beside two threads: all are eligible but the last
    of them, and the first of them has the earliest deadline."""
    group = TaskGroup(1024)
    root, own = kind(1000, 100), kind(1000, 100)
    rq = GroupedRunQueue(root, {group: own})
    first, second, other, late = (Entity() for _ in range(4))
    first.group = second.group = group
    for entity in (first, second):
        rq.enqueue(0, entity)
    assert rq.pick_next(0) is first
    for entity, vruntime in ((other, 0), (late, 300 * UNIT)):
        rq.enqueue(0, entity)
        root._remove(entity)
        entity.vruntime, entity.deadline = vruntime, vruntime + 1000 * UNIT
        root._insert(entity)
    root.current.vruntime, root.current.vprot, root.current.deadline = 0, 0, 2000 * UNIT
    return rq, first, second, other


@pytest.mark.parametrize(("kind", "goes_on"), [(EevdfRunQueue, True), (EevdfRunQueueV73, False)])
def test_a_thread_that_sleeps_leaves_the_cpu_to_its_group(kind, goes_on):
    """set_next_buddy(), which v7.3's flat queue has not; and so it stays where the group is picked again."""
    rq, first, second, other = in_a_group(kind)
    rq.dequeue(0, first, sleep=True)
    for _ in range(2):
        assert rq.pick_next(0) is (second if goes_on else other)


def test_a_thread_that_moves_or_stays_queued_leaves_the_cpu_to_whose_turn_it_is():
    rq, first, _second, other = in_a_group(EevdfRunQueue)
    rq.dequeue(0, first, sleep=False)
    assert rq.pick_next(0) is other
    rq, first, _second, other = in_a_group(EevdfRunQueue)
    first.vruntime += 10 * UNIT
    rq.dequeue(0, first, sleep=True)
    assert first.sched_delayed
    assert rq.pick_next(0) is other


def test_a_sleeper_that_leaves_late_leaves_the_cpu_to_its_group_too():
    rq, first, second, other = in_a_group(EevdfRunQueue)
    rq.dequeue(0, first, sleep=True)
    assert rq.pick_next(0) is second
    rq.update_current(1)
    assert rq.pick_next(1) is other
    rq, first, second, other = in_a_group(EevdfRunQueue)
    first.vruntime += 10 * UNIT
    rq.dequeue(0, first, sleep=True)
    own = rq._root.current
    own.deadline = 500 * UNIT  # its turn, and in it that of the sleeper
    first.vruntime = first.deadline = 0
    assert rq.pick_next(0) is second
    assert not first.on_rq
    own.deadline = 2000 * UNIT
    assert rq.pick_next(0) is second


def test_a_request_that_is_over_ends_what_a_sleeper_has_left_to_its_group():
    """update_curr(): clear_buddies().  At 50 cycles the group is still eligible: V is (50 + 0 + 300) / 3."""
    rq, first, second, other = in_a_group(EevdfRunQueue)
    rq.dequeue(0, first, sleep=True)
    assert rq.pick_next(0) is second
    rq._root.current.vprot = 40 * UNIT
    rq.update_current(39)
    assert rq.pick_next(39) is second
    assert rq.pick_next(50) is other


def test_a_hint_to_yield_to_one_of_the_same_group_is_used_up_at_both_levels():
    """set_next_entity() of the thread: clear_buddies() goes up from it."""
    for moves in (False, True):
        rq, _first, second, other = in_a_group(EevdfRunQueue)
        assert rq.nominate(0, second, credit=False)
        if moves:
            rq.dequeue(0, second, sleep=False)
        else:
            assert rq.pick_next(0) is second
        assert rq.pick_next(0) is other


def test_a_group_that_is_not_there_is_refused():
    text = host() + busy(many=(5, "a"))
    with pytest.raises((InputError, ValueError), match=r"threads\.many\.group"):
        only(text)
    with pytest.raises((InputError, ValueError), match="'round-robin'"):
        only(text.replace("cpus = 1", 'cpus = 1\nscheduler = "round-robin"') + "[groups.a]\n")


# What a group weighs, and what a new weight does to its entity (fair.c, v6.18.2 and v7.3.4).


def on_two_cpus(kind):
    """One group with two threads on the first of two CPUs and one on the second, beside a thread."""
    group = TaskGroup(1024)
    roots = [kind(1000, 100), kind(1000, 100)]
    first, second = (GroupedRunQueue(root, {group: kind(1000, 100)}) for root in roots)
    one, two, there = (Entity() for _ in range(3))
    one.group = two.group = there.group = group
    first.enqueue(0, one)
    first.enqueue(0, Entity())
    assert first.pick_next(0) is one
    return group, first, second, one, two, there


KINDS = [EevdfRunQueue, EevdfRunQueueV73]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sleeper_whose_delay_begins_or_ends_leaves_the_weight_of_its_group_as_it_is(kind):
    """dequeue_entities() returns before update_cfs_group() then, enqueue_task_fair() at ENQUEUE_DELAYED."""
    group, first, second, one, two, there = on_two_cpus(kind)
    first.enqueue(0, two)
    own = group.entities[0]
    one.vruntime += 10 * UNIT
    second.enqueue(0, there)
    assert own.weight == 1024
    first.dequeue(0, one, sleep=True)
    assert one.sched_delayed
    assert own.weight == 1024
    first.enqueue(0, one)
    assert not one.sched_delayed
    assert own.weight == 1024
    first.dequeue(0, two, sleep=False)
    assert own.weight == 1024 // 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ahead", "enqueued"), [(10, (True, 1024)), (-10, (False, 512))])
def test_a_delayed_group_is_queued_again_with_the_weight_that_it_left_with(kind, ahead, enqueued, monkeypatch):
    """requeue_delayed_entity() comes before update_cfs_group(), and that before place_entity() of one that is off."""
    group, first, second, one, two, there = on_two_cpus(kind)
    own, seen = group.entities[0], []
    enqueue = kind.enqueue

    def noted(self, now, entity, **how):
        if entity is own:
            seen.append((entity.on_rq, entity.weight))
        enqueue(self, now, entity, **how)

    monkeypatch.setattr(kind, "enqueue", noted)
    own.vruntime += ahead * UNIT
    first.dequeue(0, one, sleep=True, special=True)
    first.pick_next(0)
    second.enqueue(0, there)
    first.enqueue(0, two)
    assert seen == [enqueued]
    assert own.weight == 512


@pytest.mark.parametrize("kind", KINDS)
def test_a_sleeper_that_leaves_late_renews_the_weight_of_its_group(kind):
    """dequeue_entities(DEQUEUE_SLEEP | DEQUEUE_DELAYED): update_cfs_group()."""
    group, first, second, one, two, there = on_two_cpus(kind)
    first.enqueue(0, two)
    own = group.entities[0]
    second.enqueue(0, there)
    one.vruntime += 10 * UNIT
    first.dequeue(0, one, sleep=True)
    own.deadline, one.deadline = -UNIT, -2 * UNIT  # its turn, and in it that of the sleeper
    one.vruntime = 0
    assert own.weight == 1024
    assert first.pick_next(0) is two
    assert not one.on_rq
    assert own.weight == 1024 // 2


def test_a_sleeper_that_leaves_when_another_of_its_group_wakes_renews_the_weight_of_the_group():
    """v7.3's wakeup_preempt_fair() picks, and so dequeues the delayed ones that come up before the woken one."""
    group, first, second, one, two, there = on_two_cpus(EevdfRunQueueV73)
    woken = Entity()
    woken.group = group
    own = group.entities[0]
    for entity in (two, woken):
        first.enqueue(0, entity)
    second.enqueue(0, there)
    assert own.weight == 1024
    one.vruntime += 10 * UNIT
    first.dequeue(0, one, sleep=True)
    assert first.pick_next(0) is two
    assert one.sched_delayed
    two.vruntime += 10 * UNIT
    two.vprot = 0
    queue = own.queue
    queue._remove(one)
    one.vruntime = one.deadline = 0
    queue._insert(one)
    first.wakeup_preempts(0, woken)
    assert not one.on_rq
    assert own.weight == 1024 * 2 // 3


def test_who_runs_beside_a_group_of_late_leavers_keeps_its_protection():
    """pick_task_fair() begins again at the root, and sets next only who goes on."""
    group = TaskGroup(1024)
    root = EevdfRunQueue(1000, 100)
    rq = GroupedRunQueue(root, {group: EevdfRunQueue(1000, 100)})
    runs, sleeps, stays = Entity(), Entity(), Entity()
    sleeps.group = stays.group = group
    for entity in (sleeps, stays):
        rq.enqueue(0, entity)
    assert rq.pick_next(0) is sleeps
    sleeps.vruntime += 10 * UNIT
    rq.dequeue(0, sleeps, sleep=True)
    rq.enqueue(0, runs)
    root.current.deadline, root.current.vprot = 2000 * UNIT, 0
    assert rq.pick_next(0) is runs
    rq.dequeue(0, stays, sleep=False)
    assert sleeps.sched_delayed
    runs.vprot = 0
    own = group.entities[0]
    own.deadline = -UNIT
    assert rq.pick_next(0) is runs
    assert not sleeps.on_rq
    assert runs.vprot == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("ahead", [300, -200, 0])
@pytest.mark.parametrize("weight", [512, 3000])
def test_a_new_weight_changes_neither_the_mean_nor_the_lag_in_service_but_of_who_runs_before_v7_3(
    kind, runs, ahead, weight
):
    """reweight_entity(): place_entity() counts curr, with the new weight at the old vruntime (v6.13 to v7.0)."""
    root = kind(1000, 100)
    own, other = Entity(1024), Entity(512)
    for entity in (own, other):
        root.enqueue(0, entity)
    if runs:
        assert root.pick_next(0) is own
    else:
        root._remove(own)
    own.vruntime += ahead * UNIT
    if not runs:
        root._insert(own)
    left = own.deadline - own.vruntime
    mean = Fraction(1024 * own.vruntime + 512 * other.vruntime, 1536)
    lag = (mean - own.vruntime) * 1024 / weight
    expected = mean - lag
    if kind is EevdfRunQueue and runs:
        mean = Fraction(weight * own.vruntime + 512 * other.vruntime, weight + 512)
        expected = mean - lag * (512 + 2 * weight) / (512 + weight)
    root.reweight(0, own, weight)
    assert abs(own.vruntime - expected) < 100  # of 2^32 to a cycle
    assert abs(own.deadline - own.vruntime - Fraction(left * 1024, weight)) < 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("runs", "left", "after"), [(1, 8, 16), (1, 0, None), (1, -8, None), (0, 8, None)])
def test_what_is_left_of_a_protection_is_scaled_in_v7_3_and_one_that_is_over_stays_where_it_was(
    kind, runs, left, after
):
    """reweight_entity(): curr && protect_slice(), which v6.18.2 does not ask."""
    root = kind(1000, 100)
    own, other = Entity(1024), Entity(1024)
    root.enqueue(0, own)
    root.enqueue(0, other)
    if runs:
        assert root.pick_next(0) is own
    own.vprot = before = own.vruntime + left * UNIT
    root.reweight(0, own, 512)
    stays = after is None or kind is EevdfRunQueue
    assert own.vprot == (before if stays else own.vruntime + after * UNIT)


def test_a_group_weighs_min_shares_where_hardly_any_of_its_load_is():
    """MIN_SHARES is 1UL << 1 (kernel/sched/sched.h, Linux v6.18)."""
    group = TaskGroup(1024)
    here, there = (GroupedRunQueue(EevdfRunQueue(1000, 100), {group: EevdfRunQueue(1000, 100)}) for _ in range(2))
    light, heavy = Entity(15), Entity(88761)
    light.group = heavy.group = group
    there.enqueue(0, heavy)
    here.enqueue(0, light)
    assert group.entities[0].weight == 2
