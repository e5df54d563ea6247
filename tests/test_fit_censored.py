"""Times that were cut off, against the distribution that they were cut from."""

import io

import numpy as np
import pytest
from hosts import only

from sim.analysis.recorded_run import RecordedRun
from sim.trace.fit.censored import whole_times
from sim.trace.fit.entries import Charges
from sim.trace.fit.groups import grouped
from sim.trace.fit.lives import Watcher
from sim.trace.reading.chunks import steps
from sim.trace.reading.reader import Reader

EVENTS = frozenset(("sched_switch", "sched_wakeup", "sched_process_fork", "sched_process_exec", "sched_process_exit"))
FORKING = """
title = "children that are forked faster than they get done"
[run]
measure = "700 ms"
warmup = "0 ns"
[host]
cpus = 2
cpu = ["zen4"]
[threads.make]
kind = "fork"
count = 4
compute = { lognormal = "6 ms", sigma = 0.8 }
sleep = { exponential = "9 ms" }
"""


def test_times_that_are_cut_off_are_as_long_as_they_would_be():
    rng = np.random.default_rng(1)
    whole, limit = rng.exponential(1.0, 5000), rng.exponential(0.7, 5000)
    found = np.array(whole_times(np.minimum(whole, limit).tolist(), (whole > limit).tolist()))
    assert found.mean() == pytest.approx(1.0, rel=0.05)
    assert np.quantile(found, [0.25, 0.5, 0.75]) == pytest.approx(-np.log([0.75, 0.5, 0.25]), rel=0.06)
    assert (found[whole <= limit] == whole[whole <= limit]).all()
    assert (found[whole > limit] > limit[whole > limit]).all()


@pytest.mark.parametrize("cut", [True, False])
def test_of_times_all_of_one_kind_none_changes(cut):
    assert whole_times([3.0, 1.0], [cut, cut]) == [3.0, 1.0]


def test_a_time_that_is_cut_off_becomes_one_of_those_that_are_longer():
    found = whole_times([3.0, 2.0, 4.0, 1.0] * 100, [False, True, False, False] * 100)
    assert found[0::4] == [3.0] * 100
    assert sorted(set(found[1::4])) == [3.0, 4.0]
    assert found[1::4].count(3.0) == pytest.approx(50, abs=2)  # of the two that are left, one ends at 3


def test_beyond_the_longest_time_the_mean_rate_goes_on():
    found = whole_times([1.0] * 500 + [10.0] * 500, [False] * 500 + [True] * 500)
    assert np.mean(found[500:]) == pytest.approx(10 + 5500 / 500, rel=0.03)


def test_children_that_the_end_of_a_trace_cuts_off_had_more_to_do():
    text = "\n".join(RecordedRun(only(FORKING), "free-ssp", 0, only=EVENTS).lines()) + "\n"
    watcher, reader = Watcher(), Reader(io.BytesIO(text.encode()), "recording")
    for chunk in reader.chunks():
        for each in steps(chunk, reader.names):
            watcher.see(each)
    watcher.finish()
    groups = grouped(watcher.lives, watcher.seen.first_ns, watcher.seen.last_ns, Charges())
    children = [ns for group in groups if group.key[0] == "fork" for ns in group.compute]
    assert len(children) > 200
    assert np.median(children) == pytest.approx(6e6, rel=0.2)
