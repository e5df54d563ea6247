"""Weights and control groups of a fit: what a CPU was shared out by, and who belongs together."""

from collections import Counter

import pytest

from sim.analysis import tuning
from sim.trace.fit.entries import Charges, Group
from sim.trace.fit.families import families
from sim.trace.fit.groups import _threads, grouped
from sim.trace.fit.handovers import passed_over, sharing
from sim.trace.fit.pins import pins
from sim.trace.fit.thread_times import Burst, Life
from sim.trace.fit.ticks import Ticks
from sim.trace.fit.waking import Waiting
from sim.trace.fit.weights import set_weights

MS = 1_000_000
SECONDS_NS = 2_000 * MS


def life(name, tid, share=1.0, cpu=0, *, parent=-1, burst_ms=2000, prio=120, stints=100):
    """A thread that wants a CPU all the time and gets a share of it, in bursts of so much wall time."""
    found = Life(tid, name, 0 if parent < 0 else 1, prio)
    found.user, found.parent = True, parent
    for begin in range(0, 2000, burst_ms):
        on_ns = round(share * burst_ms * MS)
        found.bursts.append(Burst(begin * MS, (begin + burst_ms) * MS, on_ns, stints, 0, 0, -1))
        found.cpus[cpu] += stints
        found.at_ns[cpu] += on_ns
    found.last_ns = SECONDS_NS
    return found


def entries(*lives):
    """By name and CPU."""
    groups = grouped(list(lives), 0, SECONDS_NS, Charges())
    return {(group.key[1], *group.key[3]): group for group in groups}


def test_threads_of_equal_weight_get_equal_weights_however_full_their_cpus_are():
    crowded = [life(f"a{n}", n, 0.2, 0) for n in range(1, 6)]
    found = entries(*crowded, life("b1", 11, 0.5, 1), life("b2", 12, 0.5, 1))
    assert {group.weight for group in found.values()} == {1024}


def test_a_short_burst_has_the_weight_of_those_with_which_it_shares_its_cpu():
    short = life("short", 9, 0.2, 1, burst_ms=2)
    found = entries(life("big", 1, 0.6), life("small", 2, 0.3), life("alone", 3, 0.4, 1), life("too", 4, 0.4, 1), short)
    assert (found["big", 0].weight, found["small", 0].weight) == (1024, 512)
    assert found["short", 1].weight == found["alone", 1].weight == 1024


def test_a_thread_that_never_sleeps_shows_its_weight_however_little_it_gets():
    """As one of SCHED_IDLE does: among those that do little it would have the weight of the others, and as much."""
    brief = life("brief", 3, 0.001, burst_ms=500)
    brief.bursts = brief.bursts[:1]
    found = entries(life("busy", 1, 0.99), life("idle-prio", 2, 0.008), brief)
    assert (found["busy", 0].weight, found["idle-prio", 0].weight) == (1024, 15)
    assert found["others",].weight is None


def test_a_thread_that_gets_hardly_any_time_changes_no_weights_on_other_cpus():
    """Nor does a thread on any CPU that never waits: it has not the time of that one."""

    def busy(name, share, *cpus):
        on_ns = round(share * SECONDS_NS)
        return Group(("compute", name, 0, cpus), 1, 1, Counter(), on_ns, SECONDS_NS, compute=[on_ns])

    groups = [
        busy("a", 0.5, 0),
        busy("b", 0.5, 0),
        busy("anywhere", 0.99),
        busy("c", 0.99, 1),
        busy("starved", 0.008, 1),
    ]
    most = set_weights(groups, 0.01 * SECONDS_NS, 0.9 * SECONDS_NS, by_nice=False)
    assert most == {0: 0.5, 1: 0.99}
    assert [group.weight for group in groups] == [1024, 1024, None, 1024, 15]


def test_where_nice_values_differ_and_busy_threads_share_cpus_by_them_they_are_the_weights():
    short = life("short", 9, 0.05, burst_ms=2, prio=130)
    assert all(group.weight is None for group in entries(life("a", 1, 0.5), life("b", 2, 0.45), short).values())
    by_groups = life("big", 1, 0.6), life("small", 2, 0.3), short
    assert entries(*by_groups)["short", 0].weight is not None
    for each in by_groups:
        each.bursts = each.bursts[: max(1, len(each.bursts) // 4)]
    in_half_a_second = grouped(by_groups, 0, SECONDS_NS // 4, Charges())
    assert {group.key[1]: group.weight for group in in_half_a_second} == {"big": 1024, "small": 512, "short": 853}


@pytest.mark.parametrize("idle", [0.0, 0.3])
def test_children_stay_on_the_cpu_where_they_were_unless_cpus_are_idle_at_times(idle):
    children = [life(f"cc{n}", 20 + n, 0.5, n % 2, parent=1, stints=3) for n in range(12)]
    for n, child in enumerate(children):
        child.execs, child.forked_ns = True, n * MS
        child.bursts[0] = child.bursts[0]._replace(on_ns=(1 + n) * MS)
    found = grouped(children, 0, SECONDS_NS, Charges(), idle=idle)
    forks = {group.key[3]: group for group in found if group.key[0] == "fork"}
    assert set(forks) == ({()} if idle else {(0,), (1,)})
    assert all(len(group.compute) == len(group.sleep) == 12 // len(forks) for group in forks.values())
    assert all(sum(group.sleep) == SECONDS_NS for group in forks.values())


@pytest.mark.parametrize(("parents", "rows"), [((1, 2), 2), ((1, 2, 3, 4), 1), ((1,), 1)])
def test_parents_that_fork_all_the_time_do_so_side_by_side_and_few_forks_are_one_parent_s(parents, rows):
    """Of 24 children each parent has forked 6, 12 or 24; ten are enough."""
    whose = [parents[n % len(parents)] for n in range(24)]
    children = [life(f"cc{n}", 20 + n, 0.5, parent=parent, stints=3) for n, parent in enumerate(whose)]
    for n, child in enumerate(children):
        child.execs, child.forked_ns = True, n * MS
        child.bursts[0] = child.bursts[0]._replace(on_ns=(1 + whose[n]) * MS)
    (forks,) = (group for group in grouped(children, 0, SECONDS_NS, Charges(), idle=0.3) if group.key[0] == "fork")
    assert forks.rows == rows
    assert sum(forks.sleep) == rows * SECONDS_NS
    if rows > 1:  # each burst is beside the sleep after it of the same parent
        assert forks.compute == sorted(forks.compute)


def test_a_child_that_forks_before_it_first_sleeps_is_a_child_of_that_burst():
    """As a compiler driver does, which may wait for its child to the end of the trace."""
    children = [life(f"cc{n}", 20 + n, 0.5, parent=1, stints=3) for n in range(12)]
    for n, child in enumerate(children):
        child.execs, child.forked_ns = True, n * MS
        child.bursts[0] = child.bursts[0]._replace(on_ns=(1 + n) * MS, forks=n % 2)
    parent = life("make", 1, 0.1, burst_ms=100)
    parent.bursts = [burst._replace(forks=n % 2) for n, burst in enumerate(parent.bursts)]
    found = {group.key[1]: group for group in grouped([parent, *children], 0, SECONDS_NS, Charges())}
    assert found["forks"].on_ns == sum(range(1, 13)) * MS
    assert len(found["forks"].syscall) == len(found["make"].compute) == 10


@pytest.mark.parametrize("cpus", [(0,), (0, 1)])
def test_a_control_group_weighs_what_its_cpu_time_comes_to_on_each_cpu(cpus):
    lives = [life("shell", 1, 0.001, burst_ms=20)]
    for cpu in cpus:
        lives += [life(f"in{n}", 10 * cpu + n, 0.1, cpu, parent=1) for n in (2, 3, 4)]
        lives.append(life("root-" + "ab"[cpu], 90 + cpu, 0.7, cpu))
    found = entries(*lives)
    assert {found[key].weight for key in found if key[0].startswith("root")} == {1024}
    for cpu in cpus:
        assert found["in", cpu].family_weight == pytest.approx(1024 * 0.3 / 0.7, rel=0.02)
        assert found["in", cpu].weight is None
    assert len({group.family for group in found.values() if group.family}) == len(cpus)


def test_a_group_of_one_thread_weighs_what_its_share_was_while_it_was_there():
    shell, late = life("shell", 1, 0.001, burst_ms=20), life("late", 2, 0.3, 1, parent=1)
    late.bursts[0] = late.bursts[0]._replace(ready_ns=SECONDS_NS * 3 // 4, on_ns=round(0.3 * SECONDS_NS / 4))
    late.at_ns[1] = late.bursts[0].on_ns
    found = entries(shell, late, life("root", 3, 0.6, 1))
    assert found["late", 1].family_weight == pytest.approx(1024 * 0.3 / 0.6, rel=0.02)


def test_a_thread_that_hardly_ever_leaves_its_cpu_is_pinned_by_the_time_that_it_was_there():
    found = entries(life("hog", 1, 1.0, 1, stints=1), life("brief", 2, 0.002, 1, stints=1))
    assert ("hog", 1) in found
    assert ("brief",) in found


def named(lives):
    return {frozenset(each.tid for each in family) for family in families(lives)}


def test_whose_parent_is_not_known_belongs_to_the_only_family_that_forks_threads_called_so():
    make = [life("make", 1), life("cc1", 2, parent=1), life("as", 3, parent=2)]
    before, its_own = life("cc1", 7), life("as", 8, parent=7)
    assert named([*make, before, its_own]) == {frozenset({1, 2, 3, 7, 8})}
    assert named([*make, life("cc1", 7, prio=130)]) == {frozenset({1, 2, 3})}
    other = [life("ninja", 11), life("cc1", 12, parent=11)]
    assert named([*make, *other, before]) == {frozenset({1, 2, 3}), frozenset({11, 12})}


def test_busy_threads_of_a_series_that_no_family_forks_are_one():
    """As the compilers of a make that forks nothing while the trace is recorded."""
    busy, brief = [life("cc1", n) for n in (1, 2)], life("cc1", 3, 0.01, burst_ms=20, prio=120)
    brief.user = False
    assert named([*busy, life("cc1", 4, prio=130), life("ld", 5), brief]) == {frozenset({1, 2})}
    assert named([life("hog0", 1), life("hog1", 2)]) == {frozenset({1, 2})}
    assert named([life("task-71", 1), life("task-72", 2)]) == set()
    kernel = [life("kcompactd", n) for n in (1, 2)]
    for each in kernel:
        each.user = False
    assert named(kernel) == set()
    assert named([life("cc1", n, 0.2, burst_ms=20) for n in (1, 2)]) == set()
    two_makes = [life("make", 11), life("cc1", 12, parent=11), life("ninja", 21), life("cc1", 22, parent=21)]
    assert named([*two_makes, *busy]) == {frozenset({11, 12}), frozenset({21, 22})}
    of_one_name = [life("make", 11), life("cc1", 12, parent=11), life("make", 21), life("ld", 22, parent=21)]
    assert named(of_one_name) == {frozenset({11, 12}), frozenset({21, 22})}


def test_busy_threads_of_a_series_compete_as_one_control_group_if_the_host_has_groups():
    compilers = [life("cc1", n, 0.15) for n in (1, 2)]
    found = entries(*compilers, life("root", 3, 0.6))
    assert found["cc1", 0].family_weight == pytest.approx(1024 * 0.3 / 0.6, rel=0.02)
    assert not found["root", 0].family
    assert not entries(*compilers, life("root", 3, 0.15))["cc1", 0].family


def test_a_thread_that_is_always_busy_is_no_entry_with_those_of_its_name_that_come_and_go():
    brief = life("cc1", 2, 0.5, burst_ms=20)
    brief.bursts = list(brief.bursts)[::2]
    found = entries(life("cc1", 1, 0.5), brief)
    assert found["cc1-busy", 0].compute == [1000 * MS]
    assert not found["cc1-busy", 0].sleep
    assert len(found["cc1", 0].compute) == 50


def moved(name, tid, *parts, burst_ms=2000):
    """A thread that was on several CPUs: of each its number, and how much of the trace it was on it."""
    found = life(name, tid, sum(share for _, share in parts), burst_ms=burst_ms)
    found.cpus.clear()
    found.at_ns.clear()
    for cpu, share in parts:
        found.cpus[cpu], found.at_ns[cpu] = round(1000 * share), round(share * SECONDS_NS)
    return found


def test_on_a_host_that_is_never_idle_threads_that_moved_fill_up_what_the_others_leave_of_each_cpu():
    lives = [life("a", 1, 0.6, 0), life("b", 2, 0.5, 1)]
    lives += [moved("large", 3, (0, 0.25), (1, 0.2)), moved("small", 4, (0, 0.14), (1, 0.3))]
    found = pins(lives, idle=0.0)
    assert [found[id(each)] for each in lives] == [(0,), (1,), (1,), (0,)]
    short = moved("short", 6, (0, 0.15), (1, 0.2), burst_ms=2)
    assert pins([*lives, short], idle=0.0)[id(short)] == (1,)


def test_of_threads_of_one_name_that_moved_as_many_stay_on_a_cpu_as_they_had_time_there():
    came = moved("came", 1, (0, 0.03), (1, 0.13))
    came.first_ns = SECONDS_NS // 2
    hog = moved("hog", 2, (0, 0.06), (1, 0.17))
    vcpus = [moved(f"vcpu{n}", 3 + n, (0, 0.18), (1, 0.07)) for n in range(4)]
    found = pins([life("a", 7, 0.19, 0), life("b", 8, 0.42, 1), came, hog, *vcpus], idle=0.0)
    assert sorted(found[id(each)] for each in vcpus) == [(0,), (0,), (0,), (1,)]
    assert found[id(hog)] == (1,)


def test_where_cpus_are_idle_at_times_threads_that_moved_may_move():
    lives = [life("a", 1, 0.5, 0), moved("b", 2, (0, 0.3), (1, 0.01))]
    found = pins(lives, idle=0.1)
    assert [found[id(each)] for each in lives] == [(0,), ()]


def test_a_kernel_thread_is_on_the_cpu_of_its_name_if_it_ran_there():
    lives = [
        life(name, tid, 0.001, cpu, stints=1)
        for tid, (name, cpu) in enumerate((("kworker/1:0", 1), ("irq/25-a", 0)), 1)
    ]
    for each in lives:
        each.user = False
    assert [pins(lives, idle=0.5)[id(each)] for each in lives] == [(1,), ()]


def test_a_thread_that_moved_and_came_or_went_within_the_trace_may_move():
    lives = [life("a", 1, 0.6, 0), life("b", 2, 0.5, 1)]
    for name, first_ns, last_ns in (("came", SECONDS_NS // 5, SECONDS_NS), ("went", 0, SECONDS_NS // 2)):
        each = moved(name, len(lives) + 1, (0, 0.25), (1, 0.2))
        each.first_ns, each.last_ns = first_ns, last_ns
        lives.append(each)
    found = pins(lives, idle=0.0)
    assert [found[id(each)] for each in lives] == [(0,), (1,), (), ()]


def beside_busy_threads(handed, on_ms, wakers=None):
    """A thread of short bursts on CPU 0, and how often which of the busy threads got the CPU after them."""
    short = life("short", 1, 0.2, burst_ms=20)
    busy = [life(f"busy{tid}", tid, ms / 2000) for tid, ms in on_ms.items()]
    for tid, times in handed.items():
        short.handed[0, tid] = times
        short.by_chance[tid] = 10
        short.wakers[tid] = (wakers or {}).get(tid, 10)
    found = sharing([short, *busy], SECONDS_NS)
    return frozenset(each.tid for pair in found for each in pair)


@pytest.mark.parametrize(
    ("handed", "on_ms", "together"),
    [
        ({2: 45, 3: 45, 4: 10}, {2: 250, 3: 250, 4: 500}, {1, 2, 3}),
        ({2: 25, 3: 25, 4: 50}, {2: 250, 3: 250, 4: 500}, set()),
        ({2: 10, 3: 90}, {2: 250, 3: 750}, set()),
        ({2: 18, 3: 18, 4: 4}, {2: 250, 3: 250, 4: 500}, {1, 2, 3}),
        ({2: 9, 3: 9, 4: 2}, {2: 250, 3: 250, 4: 500}, set()),
    ],
    ids=["of its group", "as often as they run", "a light thread seldom", "few bursts", "too few bursts"],
)
def test_a_short_burst_leaves_the_cpu_to_threads_of_its_group(handed, on_ms, together):
    assert beside_busy_threads(handed, on_ms) == together


@pytest.mark.parametrize(
    ("took", "handed", "inside"),
    [
        ({(2, 3): 30, (3, 2): 10, (2, 1): 40, (3, 1): 50}, {2: 50, 3: 50}, {1, 2}),
        ({(2, 3): 12, (3, 2): 2, (2, 1): 88, (3, 1): 55}, {2: 50, 3: 50}, set()),
        ({(2, 3): 30, (3, 2): 25, (2, 1): 40, (3, 1): 50}, {2: 50, 3: 50}, set()),
        ({(2, 3): 30, (3, 2): 10, (2, 1): 40, (3, 1): 50}, {2: 20, 3: 80}, set()),
    ],
    ids=["of its group", "slices that were over", "either way", "it is left the CPU less often than it has it"],
)
def test_a_wake_up_by_which_another_group_goes_on_shows_who_shares_a_group(took, handed, inside):
    """Thread 2 has the CPU for two fifths of the time, 3 for the rest; two threads of short bursts share the counts."""
    shorts = [life(f"short{tid}", tid, 0.1, burst_ms=20) for tid in (1, 11)]
    busy = [life("hog", 2, 0.32), life("cc1", 3, 0.48)]
    for (preempted, next_one), times in took.items():
        for number, short in enumerate(shorts):
            short.took[0, preempted, next_one] = (times + number) // 2
    for tid, times in handed.items():
        shorts[0].handed[0, tid] = times
    found = {each.tid for pair in passed_over([*shorts, *busy], SECONDS_NS) for each in pair}
    assert found == (inside | {11} if inside else set())


@pytest.mark.parametrize(("hog", "cc1", "family"), [(0.2, 0.6, True), (0.4, 0.4, False)])
def test_such_wake_ups_show_a_group_only_on_a_host_that_has_groups(hog, cc1, family):
    short = life("short", 1, 0.1, burst_ms=20, prio=125)
    short.handed.update({(0, 2): 50, (0, 3): 50})
    short.took.update({(0, 2, 3): 30, (0, 3, 2): 10, (0, 2, 1): 40, (0, 3, 1): 50})
    found = entries(short, life("hog", 2, hog), life("cc1", 3, cc1))
    assert [bool(found[name, 0].family) for name in ("short", "hog", "cc1")] == [family, family, False]
    assert (found["cc1", 0].weight is None) == (not family)


def test_to_whom_short_bursts_leave_the_cpu_shows_groups_though_all_get_the_same():
    short = life("short", 1, 0.1, burst_ms=20)
    for tid, times in {2: 80, 3: 10, 4: 10}.items():
        short.handed[0, tid] = times
        short.by_chance[tid] = short.wakers[tid] = 10
    found = entries(short, *(life(name, tid, 0.25) for tid, name in ((2, "inside"), (3, "out"), (4, "of-it"))))
    assert {name for (name, _), group in found.items() if group.family} == {"short", "inside"}


def test_a_thread_that_comes_and_goes_with_its_waker_shows_no_group():
    handed, on_ms = {2: 45, 3: 45, 4: 10}, {2: 250, 3: 250, 4: 500}
    assert beside_busy_threads(handed, on_ms, {2: 40}) == frozenset()
    assert beside_busy_threads(handed, on_ms, {4: 2}) == frozenset()


def test_threads_that_share_a_group_are_one_family_with_all_that_they_forked():
    make = [life("make", 1), life("cc1", 2, parent=1)]
    spinner, sleeper, other = (life(name, tid) for name, tid in (("spin", 5), ("sleep", 6), ("other", 7)))
    found = families([*make, spinner, sleeper, other], [(spinner, sleeper), (sleeper, make[1])])
    assert [{each.tid for each in family} for family in found] == [{1, 2, 5, 6}]


def kernel_thread(name, tid, woken_ms):
    found = Life(tid, name, 0)
    found.bursts += [Burst(round(ms * MS), round(ms * MS) + 9000, 9000, 1, 0, 0, -1) for ms in (0, *woken_ms)]
    found.last_ns = SECONDS_NS
    return found


def test_of_kernel_threads_with_few_samples_those_that_ticks_wake_are_apart():
    delayed, queued = (8.05, 400.1, 700.0, 801.3), (7.3, 33.3, 510.7, 900.9)
    threads = [kernel_thread("kworker/1:0", 1, delayed), kernel_thread("kworker/1:1H", 2, queued)]
    groups = grouped([*threads, life("user", 3, 0.5)], 0, SECONDS_NS, Charges(), Ticks(250, 0.0))
    found = {name: (group.key[1], group.at_ticks) for group in groups for name in group.names}
    assert found["kworker/1:0"] == ("kernel-others-at-ticks", True)
    assert found["kworker/1:1H"] == ("kernel-others", False)


@pytest.mark.parametrize("cycles", [3, 300])
def test_threads_that_come_and_go_are_tuned_by_how_long_they_wait_however_few_they_are(cycles):
    compute, sleep = [40.0 * MS / cycles] * cycles, [1_900.0 * MS / cycles] * cycles
    group = Group(("fork", "forks", 0, ()), cycles, 1, Counter(), 40 * MS, 100 * MS, 1024, entry="forks")
    group.compute, group.sleep, group.cycles = compute, sleep, cycles
    waits_twice_as_long = tuning._Seen({"forks": cycles / 2}, {"forks": 0.02}, {"forks": 0.08})
    assert tuning._tuned(group, group, waits_twice_as_long, 2.0, 0.7).weight > 1200
    waits_as_long = tuning._Seen({"forks": cycles / 2}, {"forks": 0.02}, {"forks": 0.05})
    assert tuning._tuned(group, group, waits_as_long, 2.0, 0.7).weight == 1024
    comes_seldom = tuning._Seen({"forks": cycles / 4}, {"forks": 0.02}, {"forks": 0.05})
    changed = tuning._tuned(group, group, comes_seldom, 2.0, 0.7).sleep[0] / sleep[0]
    assert changed < 0.9 if cycles >= tuning.ENOUGH else changed == 1


def test_a_parent_forks_as_often_as_in_the_trace_also_where_its_children_queue_up():
    """Three children wait for a CPU at any time, on average."""
    group = Group(("fork", "forks", 0, ()), 300, 1, Counter(), 1_500 * MS, 7_500 * MS, 1024, entry="forks")
    group.compute, group.sleep, group.cycles = [5.0 * MS] * 300, [6.0 * MS] * 300, 300
    forks_seldom = tuning._Seen({"forks": 140.0}, {"forks": 0.70}, {"forks": 3.5})
    late_ns = 1e9 / 140 - 2e9 / 300
    assert tuning._tuned(group, group, forks_seldom, 2.0, 1.0).sleep[0] == pytest.approx(6.0 * MS - late_ns)


@pytest.mark.parametrize("times_as_long", [0.8, 1.2])
@pytest.mark.parametrize(("cycles", "changes"), [(40, False), (2000, True)])
def test_a_weight_is_tuned_only_if_waits_differ_by_more_than_chance(cycles, changes, times_as_long):
    """Of 41 waits the mean has a standard error of 0.16, of 2,001 one of 0.02."""
    group = Group(("compute", "a", 0, ()), cycles, 1, Counter(), 5 * MS, 105 * MS, 1024, entry="a")
    group.compute, group.sleep, group.cycles = [5.0 * MS / cycles] * cycles, [1_900.0 * MS / cycles] * cycles, cycles
    seen = tuning._Seen({"a": cycles / 2}, {"a": 0.0025}, {"a": 0.0025 + 0.05 * times_as_long})
    weight = tuning._tuned(group, group, seen, 2.0, 0.7).weight
    assert (weight > 1024, weight < 1024) == (changes and times_as_long > 1, changes and times_as_long < 1)


def test_a_thread_that_hardly_sleeps_is_tuned_by_what_it_gets_of_the_cpu():
    group = Group(("compute", "busy", 0, ()), 1, 1, Counter(), 900 * MS, 1_990 * MS, 1024, entry="busy")
    group.compute, group.sleep, group.cycles = [3.0 * MS] * 300, [0.03 * MS] * 300, 300
    gets_less = tuning._Seen({"busy": 100.0}, {"busy": 0.3}, {"busy": 0.99})
    assert tuning._tuned(group, group, gets_less, 2.0, 0.7).weight == round(1024 * 1.5**0.7)


@pytest.mark.parametrize("long", [3, 7])
def test_bursts_go_on_after_a_wake_up_if_half_of_them_do(long):
    """One timer in the middle of a burst makes the mean long."""
    waker = life("waker", 1, 0.5, burst_ms=200)
    after = {(id(waker), burst.end_ns): (50 * MS if n < long else 1000, 1) for n, burst in enumerate(waker.bursts)}
    key = ("compute", "waker", 0, ())
    group = _threads(key, [waker], 0, SECONDS_NS, Charges(), None, Waiting(after=after))
    assert len(group.after) == (10 if long == 7 else 0)


@pytest.mark.parametrize("late_ms", [0, 200])
def test_a_thread_that_is_runnable_at_both_ends_of_a_trace_has_no_sleep_but_those_that_others_end(late_ms):
    waits = life("make", 1, 0.5, burst_ms=200)
    ended = {(id(waits), burst.end_ns) for burst in waits.bursts[:-1]}
    key = ("compute", "make", 0, ())
    waiting = Waiting(ended=ended, longest_ns=MS)
    group = _threads(key, [waits], 0, SECONDS_NS + late_ms * MS, Charges(), None, waiting)
    assert (group.waits[0], group.sleep) == ((0.9, [late_ms * MS]) if late_ms else (1.0, []))


def test_a_vcpu_of_few_halts_is_tuned_by_what_it_gets_of_the_cpu():
    group = Group(("vcpu", "vm", 0, ()), 1, 1, Counter(), 200 * MS, 900 * MS, 1024, entry="vm")
    group.compute, group.demand, group.halt, group.halts = [200.0 * MS], [100.0 * MS], [500.0 * MS] * 2, 2
    gets_more = tuning._Seen({"vm": 1.0}, {"vm": 0.15}, {"vm": 0.45})
    assert tuning._tuned(group, group, gets_more, 2.0, 0.7).weight == round(1024 * (0.1 / 0.15) ** 0.7)
