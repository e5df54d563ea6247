"""What the host does otherwise: independent runs of each strategy, and what is estimated from them."""

import json

import fake_host
import numpy as np
import pandas as pd
import pytest
from hosts import MS, simulate, value
from scipy import stats

import sim
from sim import experiment
from sim.analysis import estimates, feedback
from sim.analysis.answers import Answers
from sim.analysis.schedules import has_feedback, independent, walked
from sim.host import simulation
from sim.scenario.cases import cases
from sim.scenario.reading import read

SCENARIO = """
title = "Feedback"
[run]
measure = "8 ms"
warmup = "1 ms"
replications = 5
strategies = ["no-cet", "manual-load", "xstate-guest"]
reference = "no-cet"
feedback = true
[host]
cpus = 1
cpu = ["sapphire-rapids"]
base_slice = "700 us"
hz = 1000
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
        for replication in range(5):
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


# The estimate.


@pytest.fixture(scope="module")
def comparison(results):
    return sim.compare(results)


@pytest.fixture(scope="module")
def records(small):
    """Independent runs and records on the schedule that all walk, by strategy, in the order of replications."""
    (case,) = cases(read(small))
    names = case.strategies
    independent_runs = {name: [simulate(case, name, n) for n in range(5)] for name in names}
    schedules = [simulation.simulate(case, case.timed_by, names, n) for n in range(5)]
    on_one = {name: [next(each for each in of if each.strategy == name) for of in schedules] for name in names}
    return case, independent_runs, on_one


def cycles(records):
    return np.array([sum(cycles for _, _, cycles in record.ledger) for record in records], dtype=float)


def test_of_what_the_host_shows_feedback_is_the_paired_difference_of_independent_runs(comparison, records):
    _, runs, _ = records
    found = comparison.df_feedback().set_index(["strategy", "metric"])
    for strategy in ("manual-load", "xstate-guest"):
        mine, theirs = (np.array([value(record, "guest_cycles") for record in runs[s]]) for s in (strategy, "no-cet"))
        row = found.loc[strategy, "guest_cycles"]
        test = stats.ttest_rel(mine, theirs)
        interval = test.confidence_interval(0.95)
        assert row["percent"] == pytest.approx(100 * (mine - theirs).mean() / theirs.mean(), rel=1e-3)
        assert row["p"] == pytest.approx(test.pvalue, rel=1e-3)
        assert row["low"] / row["mean"] == pytest.approx(interval.low / (mine - theirs).mean(), rel=1e-3)


def test_of_the_cost_feedback_is_the_whole_difference_less_own_operations(comparison, records):
    _, runs, on_one = records
    seconds = 2 * 8 * MS
    found = comparison.df_feedback().set_index(["strategy", "metric"])
    own = comparison.df_differences().set_index(["strategy", "metric"])
    for strategy in ("manual-load", "xstate-guest"):
        whole = (cycles(runs[strategy]) - cycles(runs["no-cet"])) / seconds
        walked_here = (cycles(on_one[strategy]) - cycles(on_one["no-cet"])) / seconds
        row = found.loc[strategy, "cost"]
        by_hand = stats.ttest_1samp(whole - walked_here, 0)
        # A window ends where a CPU is between two pieces of work, so seconds are not the same to the last digit.
        assert row["mean"] == pytest.approx((whole - walked_here).mean(), rel=0.05, abs=0.002 * abs(whole.mean()))
        assert row["low"] < row["mean"] < row["high"]
        assert (row["p"] < 0.5) == (by_hand.pvalue < 0.5)
        assert own.loc[strategy, "cost"]["mean"] + row["mean"] == pytest.approx(whole.mean(), rel=0.002)
        assert row["unit"] == "cycles/vCPU-s"


def test_the_strategy_that_times_the_schedule_has_no_feedback_of_its_own(small):
    overrides = {"run.timed_by": "manual-load", "run.reference": "manual-load"}
    comparison = sim.compare(experiment.run(small, overrides=overrides, jobs=1))
    values = comparison.feedback_by_replication.of(comparison.results.cases[0]["case"], ["manual-load"])
    timing = values[values["metric"].isin(["cost", "cost_without_xss"])]
    assert len(timing) == 2 * comparison.results.manifest["replications"]
    assert (timing["value"] == 0).all()


def test_the_margin_is_the_smallest_that_two_one_sided_tests_show():
    rng = np.random.default_rng(1)
    for _ in range(20):
        values = rng.normal(rng.normal(0, 2), 1, 7)
        margin = estimates.no_more_than(values.mean(keepdims=True), values.std(ddof=1, keepdims=True), np.array([7]))[0]
        above = stats.ttest_1samp(values, margin, alternative="less").pvalue
        below = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        assert max(above, below) == pytest.approx(0.025)


def test_margins_hold_as_often_as_they_say():
    rng = np.random.default_rng(2)
    values = rng.normal(0.3, 1, (4000, 10))
    margins = estimates.no_more_than(values.mean(axis=1), values.std(axis=1, ddof=1), np.full(4000, 10))
    assert (margins >= 0.3).mean() > 0.97
    values = rng.normal(3, 1, (4000, 10))
    margins = estimates.no_more_than(values.mean(axis=1), values.std(axis=1, ddof=1), np.full(4000, 10))
    assert (margins >= 3).mean() == pytest.approx(0.975, abs=0.008)


def test_only_strategies_that_are_compared_have_feedback(comparison):
    assert comparison.results.cases[0]["timed_by"] == "free-ssp"
    assert set(comparison.df_feedback()["strategy"]) == {"manual-load", "xstate-guest"}


def test_an_answer_has_the_feedback_of_any_pair(comparison):
    answers = Answers(comparison)
    (case,) = comparison.results.cases
    found = answers.feedback(case["case"], "manual-load", "no-cet")
    frame = comparison.df_feedback().set_index(["strategy", "metric"])
    for response in (found.cost, found.cost_without_xss, *found.host):
        row = frame.loc["manual-load", response.metric]
        assert (response.mean, response.low, response.no_more_than) == (row["mean"], row["low"], row["no_more_than"])
    assert "guest_cycles" in [each.metric for each in found.host]
    assert {"time_idle", "requests_per_second"}.isdisjoint(each.metric for each in found.host)  # there are no requests
    other_way = answers.feedback(case["case"], "no-cet", "manual-load")
    assert other_way.cost.mean == pytest.approx(-found.cost.mean)
    assert other_way.cost.no_more_than == pytest.approx(found.cost.no_more_than)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["cost"]["mean"] == found.cost.mean
    assert set(document["host"]) == {each.metric for each in found.host}
    text = comparison.summary()
    assert "How the host reacts" in text


def test_without_independent_runs_what_only_the_host_shows_has_no_difference(small):
    comparison = sim.compare(experiment.run(small, overrides={"run.feedback": False}, jobs=1))
    assert comparison.df_feedback().empty
    assert list(comparison.df_feedback().columns) == list(sim.compare(comparison.whole).df_feedback().columns)
    answers = Answers(comparison)
    assert answers.feedback(comparison.results.cases[0]["case"], "manual-load", "no-cet") is None
    assert "guest_cycles" not in set(comparison.df_differences()["metric"])
    assert "How the host reacts" not in comparison.summary()


def test_one_replication_of_feedback_is_not_tested_and_has_no_margin(small):
    comparison = sim.compare(experiment.run(small, replications=1, jobs=1))
    found = comparison.df_feedback()
    assert set(found.loc[found["mean"] != 0, "verdict"]) <= {"not tested", "not shown"}
    assert found["no_more_than"].isna().all()
    feedback = Answers(comparison).feedback(comparison.results.cases[0]["case"], "manual-load", "no-cet")
    assert feedback.document()["cost"]["no_more_than"] is None
    json.dumps(feedback.document(), allow_nan=False)


@pytest.mark.parametrize(("spread", "known"), [(30.0, False), (0.5, True)])
def test_what_is_not_known_to_its_own_size_has_no_percentage(spread, known):
    """A difference of +94 +- 227 % says nothing; one of +30 +- 12 % does."""
    values = pd.DataFrame(
        [
            ("c", strategy, n, "guest_cycles", "cycles/vCPU-s", value, value)
            for n, moved in enumerate((3 - spread, 3.0, 3 + spread))
            for strategy, value in (("b", 10.0), ("a", 10.0 + moved))
        ],
        columns=["case", "strategy", "replication", "metric", "unit", "value", "of"],
    )
    (row,) = feedback.df_feedback([values], {"c": "b"}, {("c", "a")}).to_dict("records")
    assert row["no_more_than"] == pytest.approx(max(abs(row["low"]), abs(row["high"])))  # of the interval beside it
    for name in ("percent", "percent_low", "percent_high", "percent_no_more_than"):
        assert np.isnan(row[name]) != known
    assert row["mean"] == pytest.approx(3.0)
