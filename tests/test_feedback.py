"""What the host does otherwise: independent runs of each strategy, beside the schedule that all of them walk."""

import fake_host
import pytest
from hosts import simulate

import sim
from sim import experiment
from sim.analysis.schedules import has_feedback, independent, walked
from sim.scenario.cases import cases
from sim.scenario.reading import read

SCENARIO = """
title = "Feedback"
[run]
measure = "4 ms"
warmup = "1 ms"
replications = 3
strategies = ["no-cet", "manual-load", "xstate-guest"]
reference = "no-cet"
feedback = true
[host]
cpus = 1
cpu = ["sapphire-rapids"]
[guests.g]
vcpus = 2
shadow_stacks = "rewritten"
task_switch = "500 us"
[guests.g.exits]
io = { every = "100 us", reason = "io", handled = "userspace", time = "500 ns", vmm = { exponential = "2 us" } }
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "small.toml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="module")
def results(small):
    return experiment.run(small, jobs=1)


def test_with_feedback_each_strategy_also_runs_on_a_schedule_of_its_own(small, results):
    (case,) = cases(read(small))
    of_themselves = independent(results)
    assert has_feedback(results)
    for strategy in case.strategies:
        for replication in range(3):
            record = simulate(case, strategy, replication)
            here = of_themselves.ledger.query("strategy == @strategy and replication == @replication")
            assert (here["timed_by"] == strategy).all()
            assert here["cycles"].sum() == sum(cycles for _, _, cycles in record.ledger)
            metrics = of_themselves.metrics.query("strategy == @strategy and replication == @replication")
            assert dict(zip(metrics["metric"], metrics["value"], strict=True)) == {
                name: value for name, (value, _) in record.metrics.items()
            }


def test_independent_runs_change_nothing_of_the_schedule_that_all_walk(small, results):
    without = experiment.run(small, overrides={"run.feedback": False}, jobs=1)
    assert not has_feedback(without)
    for name in ("ledger", "metrics", "latency", "integrity"):
        assert getattr(walked(results), name).equals(getattr(without, name))
    assert sim.compare(results).df_differences().equals(sim.compare(without).df_differences())


def test_the_strategy_that_times_the_schedule_does_not_run_twice(small):
    seen = []

    def watched(case, timed_by, strategies, replication):
        seen.append((timed_by, tuple(strategies)))
        return fake_host.simulate(case, timed_by, strategies, replication)

    experiment.run(small, overrides={"run.timed_by": "manual-load"}, replications=1, jobs=1, simulate=watched)
    assert seen == [
        ("manual-load", ("manual-load", "no-cet", "xstate-guest")),
        ("no-cet", ("no-cet",)),
        ("xstate-guest", ("xstate-guest",)),
    ]
