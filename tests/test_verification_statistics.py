"""The studies of sim/verification/statistics, on a small scale, and that they would notice."""

import json
from dataclasses import replace

import numpy as np
import pytest
from command import run as run_command
from hosts import MS, changed, shipped
from scipy import stats

import sim
from sim import experiment
from sim.analysis.answers import Answers
from sim.scenario.shipped import file
from sim.verification.statistics import coverage, per_event


def few(name, number=0, replications=4, keep=("manual-exit", "manual-load", "xstate-guest", "user-return")):
    case = changed(shipped(file(name))[number], measure=8 * MS, warmup=2 * MS, integrity=False)
    chosen = [each for each in case.strategies if each in (*keep, case.timed_by)]
    return per_event.compared(name, replace(case, strategies=tuple(chosen)), replications)


@pytest.fixture(scope="module")
def storm():
    return few("exit-storm")


@pytest.mark.slow
def test_own_operations_per_event_are_those_of_independent_runs(storm):
    found = per_event.findings([*storm, *few("rfc-question"), *few("idle-fleet")])
    assert {each.what for each in found} == {*per_event.EVENTS, per_event.RATES}
    assert [each for each in found if not each.holds] == []
    of_events = [each for each in found if each.what != per_event.RATES]
    assert max(abs(each.mean / each.of) for each in of_events) < 0.06


def test_where_totals_differ_the_change_of_rates_explains_it(storm):
    (exits,) = (each for each in storm if each.strategy == "manual-exit")
    whole = np.array(exits.feedback)
    assert stats.ttest_1samp(whole, 0).pvalue < 0.01  # saving at each exit leaves time for fewer of them
    assert whole.mean() < 0
    assert per_event.explained([exits]) > 0.99


def test_a_walker_that_forgot_an_operation_would_be_noticed(storm):
    forgetful = [
        each._replace(own={what: tuple(v - 0.2 * each.of[what] for v in values) for what, values in each.own.items()})
        for each in storm
    ]
    assert any(not each.holds for each in per_event.findings(forgetful))
    late = [each._replace(by_rates=tuple(0.5 * v for v in each.by_rates)) for each in storm]
    assert per_event.explained(late) < 0.9


def test_coverage_counts_intervals_that_contain_the_mean_of_all_replications():
    rng = np.random.default_rng(1)
    runs = [rng.normal(5, 1, n) for n in (10, 30, 20)] + [rng.normal(9, 0.1, 10)]
    found = coverage.coverage(runs)
    truth = np.concatenate(runs).mean()
    assert found.truth == pytest.approx(truth)
    assert found.replications == 17.5
    by_hand = [stats.ttest_1samp(run, 0).confidence_interval(0.95) for run in runs]
    assert found.covered == sum(low <= truth <= high for low, high in by_hand)
    assert (found.repetitions, found.holds) == (4, False)
    assert found.low < found.share < found.high


def test_a_repetition_of_the_study_is_a_run_and_its_intervals_are_those_that_are_printed():
    seed = 3
    found = coverage.replications(seed)
    comparison = sim.compare(experiment.run(coverage.scenario(seed), jobs=1))
    n = comparison.results.manifest["replications"]
    assert {len(each) for each in found.values()} == {n}
    assert 10 < n < 100
    costs = comparison.df_metrics().query("metric == 'cost'").set_index("strategy").loc["manual-load"]
    moved = comparison.df_differences().query("metric == 'cost'").set_index("strategy").loc["xstate-guest"]
    for each, printed in ((found["cost"], costs), (found["own"], moved)):
        assert each.mean() == pytest.approx(printed["mean"])
        half = stats.t.ppf(0.975, n - 1) * each.std(ddof=1) / n**0.5
        assert (printed["high"] - printed["low"]) / 2 == pytest.approx(half)
    (contrast,) = Answers(comparison).contrasts()
    # Prices are not rounded to whole cycles in an answer, and a window is not exactly a millisecond.
    assert found["contrast"].mean() == pytest.approx(contrast.own.mean, rel=0.02)


def test_the_command_says_what_it_found_and_fails_where_it_must(capsys, monkeypatch):
    intervals = {"own": coverage.Coverage(190, 200, 1.0, 0.91, 0.97, 40.0)}
    monkeypatch.setattr(coverage, "study", lambda repetitions, jobs: intervals)
    monkeypatch.setattr(per_event, "study", lambda names, jobs, replications: few("exit-storm", replications=3))
    status, out, _ = run_command(capsys, "verify", "statistics", "--repetitions", "200")
    assert status == 0
    assert "95.0%" in out
    assert "0 outside their intervals" in " ".join(out.split())
    intervals["own"] = intervals["own"]._replace(covered=180)
    status, out, _ = run_command(capsys, "verify", "statistics", "--json")
    assert status == 1
    assert not json.loads(out)["coverage"]["own"]["holds"]
