"""The order of bursts and sleeps: found where it is there and only there, and kept by the simulated host."""

from itertools import pairwise

import numpy as np
import pytest
from hosts import only
from test_ticks import watched

from sim.errors import InputError
from sim.host.builder import Builder
from sim.host.streams import Streams, in_blocks
from sim.scenario.distribution import Distribution
from sim.trace.fit.order import order, whole

HOST = """
title = "a thread whose bursts come in phases"
[run]
measure = "2 s"
warmup = "0 ns"
[host]
cpus = 1
cpu = ["zen4"]
[threads.phased]
compute = {{ empirical = "{file}", column = "compute", unit = "us" }}
sleep = {{ empirical = "{file}", column = "sleep", unit = "us" }}
{blocks}
"""


def phases(rng, rows=600, length=40):
    """Phases of short bursts with long sleeps and of long bursts with short ones."""
    long = (np.arange(rows) // length) % 2 == 1
    bursts = np.where(long, 900, 150) * rng.lognormal(0, 0.3, rows)
    sleeps = np.where(long, 300, 1500) * rng.lognormal(0, 0.3, rows)
    return bursts, sleeps


def correlations(bursts):
    x = np.log(bursts)
    x = x - x.mean()
    return float((x[:-1] * x[1:]).mean() / x.var())


def test_phases_are_found_and_blocks_are_as_long_as_they_reach():
    found = order(*phases(np.random.default_rng(1)))
    assert abs(found.correlation) > 0.5 > found.bound
    assert 40 < found.rows < 300


def test_independent_bursts_and_sleeps_have_no_order():
    rng = np.random.default_rng(2)
    found = [order(rng.exponential(1.0, 300), rng.exponential(1.0, 300)) for _ in range(300)]
    assert sum(each is not None for each in found) <= 3


def test_few_bursts_or_constant_ones_say_nothing_of_order():
    assert order([1.0] * 40, [2.0] * 40) is None
    assert order([5.0] * 400, [7.0] * 400) is None
    assert order([1.0] * 400, [2.0] * 300) is None


def test_a_few_unequal_bursts_keep_their_order_as_a_whole_and_many_or_equal_ones_do_not():
    rng = np.random.default_rng(4)
    few, many = rng.exponential(1e6, 40), rng.exponential(1e6, 1000)
    assert whole(few, 3 * few).rows == 40
    assert whole(np.full(40, 1e6), rng.exponential(1e6, 40)).rows == 40
    assert whole(many, many) is whole(np.full(40, 1e6), np.full(40, 1e6)) is None
    assert whole(few[:1], few[:1]).rows == 2
    assert whole(few[:0], few[:0]) is whole(few, few[1:]) is None


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_blocks_are_runs_of_the_file_however_many_are_drawn_at_once(rows):
    values = tuple(float(i) for i in range(100))
    distribution = Distribution(kind="empirical", mean=49.5, values=values)
    one, other = (in_blocks(distribution, 1.0, Streams(1, 0).generator("t"), rows) for _ in range(2))
    drawn = np.concatenate([one(n) for n in (1, 16, 3, 200, 780)])
    assert (drawn == other(1000)).all()
    steps = np.diff(drawn) % 100
    assert (np.delete(steps, np.arange(rows - 1, 999, rows)) == 1).all()
    assert np.bincount(drawn.astype(int), minlength=100).min() > 0


def scenario(tmp_path, blocks, bursts, sleeps):
    file = tmp_path / "rows.csv"
    rows = "".join(f"{a:.3f},{b:.3f}\n" for a, b in zip(bursts, sleeps, strict=True))
    file.write_text(f"compute,sleep\n{rows}")
    return HOST.format(file=file, blocks=blocks)


def test_the_simulated_host_keeps_the_correlation_in_blocks_and_loses_it_without(tmp_path):
    bursts, sleeps = phases(np.random.default_rng(3))
    recorded = correlations(bursts)
    for blocks, low, high in (("blocks = 80", 0.8 * recorded, 1.0), ("", -0.15, 0.15)):
        (life,) = watched(only(scenario(tmp_path, blocks, bursts, sleeps))).lives
        on = np.array([burst.on_ns for burst in life.bursts[1:-1]])
        assert low < correlations(on) < high
        assert on.mean() == pytest.approx(1e3 * bursts.mean(), rel=0.15)


def test_blocks_need_rows_of_both(tmp_path):
    bursts, sleeps = phases(np.random.default_rng(3))
    text = scenario(tmp_path, "blocks = 80", bursts, sleeps)
    for wrong in ('compute = "1 ms"', "waits = { share = 0.5 }"):
        broken = "\n".join(wrong if line.startswith("compute") else line for line in text.split("\n"))
        if "waits" in wrong:
            broken = text.replace("[threads.phased]", f"[threads.phased]\n{wrong}")
        with pytest.raises((InputError, ValueError), match=r"threads\.phased\.blocks"):
            only(broken)


@pytest.mark.parametrize(("count", "kind"), [(1, "compute"), (4, "compute"), (2, "kthread"), (1, "fork")])
def test_threads_that_take_all_rows_come_to_each_of_them_once_in_the_time_that_all_take(count, kind, tmp_path):
    rng = np.random.default_rng(5)
    bursts, sleeps = 500 * 1.06 ** rng.permutation(60), rng.lognormal(8, 1, 60)  # us; no two bursts are alike
    seconds = (bursts + sleeps if kind != "fork" else sleeps).sum() * 1e-6 / count
    more = f'blocks = 60\nkind = "{kind}"\ncount = {count}\nsyscall = "0 ns"'
    text = scenario(tmp_path, more, bursts, sleeps).replace("cpus = 1", "cpus = 16")
    lives = watched(only(text.replace('"2 s"', f'"{seconds:.6f} s"'))).lives
    got = np.array([burst.on_ns for life in lives for burst in life.bursts]) / 1e3
    found = [int((np.abs(got / each - 1) < 0.025).sum()) for each in bursts]
    under_way = 6 if kind == "fork" else 2 * count + 2  # when a thread begins or ends; these bursts are not whole
    assert found.count(1) >= len(bursts) - under_way, found


def test_the_time_from_one_fork_to_the_next_is_that_after_the_same_child(tmp_path):
    rng = np.random.default_rng(6)
    bursts, sleeps = 500 * 1.06 ** rng.permutation(60), rng.lognormal(8, 1, 60)  # us; no two bursts are alike
    text = scenario(tmp_path, 'blocks = 60\nkind = "fork"\nsyscall = "0 ns"', bursts, sleeps)
    lives = watched(only(text.replace("cpus = 1", "cpus = 16").replace('"2 s"', '"400 ms"'))).lives
    children = [life for life in lives if "." in life.name and life.ended][1:]  # the first had begun before
    assert len(children) > 20
    rows = [int(np.argmin(np.abs(bursts - life.bursts[0].on_ns / 1e3))) for life in children]
    between = np.diff([life.first_ns for life in children]) / 1e3
    assert all((row + 1) % 60 == after for row, after in pairwise(rows))
    assert np.abs(between - sleeps[rows[:-1]]).max() < 50


def test_threads_begin_in_the_middle_of_bursts_and_of_sleeps_by_how_long_these_are(tmp_path):
    case = only(scenario(tmp_path, "blocks = 10\ncount = 200", [100] * 10, [900] * 10))
    whole_burst, whole_sleep = case.cycles(100e-6), case.cycles(900e-6)
    in_bursts = 0
    for number in range(200):
        bursts, sleeps = Builder(case, 0).recorded(case.scenario.threads["phased"], "phased", number)
        burst, sleep = bursts.next(), sleeps.next()
        in_bursts += burst > 0
        assert (0 < burst <= whole_burst and sleep == whole_sleep) if burst else 0 <= sleep <= whole_sleep
    assert in_bursts == 200 * 100 / (100 + 900)


def test_a_parent_that_forks_at_once_each_time_begins_with_the_first_row_behind_the_last(tmp_path):
    """All rows together take no time, in which it could be anywhere else."""
    case = only(scenario(tmp_path, 'blocks = 3\nkind = "fork"', (1, 2, 3), (0, 0, 0)))
    bursts, sleeps = Builder(case, 0).recorded(case.scenario.threads["phased"], "phased", 0)
    us = case.cycles(1e-6)
    assert [bursts.next() for _ in range(6)] == [0, 0, us, 2 * us, 3 * us, us]
    assert sleeps.next() == 0
