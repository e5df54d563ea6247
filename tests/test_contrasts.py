"""Which pairs are tested, and how: planned ones by themselves, all others allowing for each other."""

import math
from dataclasses import replace

import fake_host
import numpy as np
import pytest
from scipy import stats

import sim
from sim import experiment
from sim.analysis import estimates
from sim.analysis.answers import Answers
from sim.analysis.uncertainty.draws import Ranges, draw, draw_pair
from sim.costs.table import load as load_costs

pytestmark = pytest.mark.usefixtures("few_draws")

SCENARIO = """
title = "Contrasts"
[run]
measure = "50 ms"
replications = 12
strategies = ["free-ssp", "manual-load", "manual-lazy", "xstate-guest", "xstate-all"]
contrasts = [["manual-load", "xstate-guest"], ["xstate-all", "free-ssp"]]
[host]
cpus = 2
cpu = ["sapphire-rapids", "zen4"]
tsc = "2 GHz"
[guests.g]
vcpus = 2
"""
MINE = """
title = "Sapphire Rapids with another VM exit"
date = "2026-11"
derived_from = "sapphire-rapids"
[[rows]]
operation = "VM exit"
term = "base"
value = 777
low = 700
high = 800
clock = "tsc"
grade = "assumed"
source = "a test"
conditions = "range chosen because a test needs one"
"""
SPR, ZEN4 = "sapphire-rapids v6.18", "zen4 v6.18"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "small.toml"
    path.write_text(SCENARIO)
    return path


def run(path, **options):
    return experiment.run(path, **{"jobs": 1, "simulate": fake_host.simulate} | options)


@pytest.fixture(scope="module")
def results(path):
    return run(path)


@pytest.fixture(scope="module")
def comparison(results):
    return sim.compare(results)


def costs(comparison, case, strategy):
    found = comparison.df_replications()
    chosen = found[(found["metric"] == "cost") & (found["case"] == case) & (found["strategy"] == strategy)]
    return chosen.sort_values("replication")["value"].to_numpy()


def test_p_is_raw_and_what_was_not_planned_is_adjusted_over_all_cases_together(comparison):
    found = comparison.df_differences().query("metric == 'cost'").set_index(["case", "strategy"])
    raw = {
        (case, strategy): stats.ttest_rel(costs(comparison, case, strategy), costs(comparison, case, "free-ssp")).pvalue
        for case, strategy in found.index
    }
    assert found["p"].to_dict() == pytest.approx(raw)
    assert set(found.index[found["planned"]]) == {(SPR, "xstate-all"), (ZEN4, "xstate-all")}
    unplanned = found[~found["planned"]]
    assert len(unplanned) == 6
    ordered = sorted(raw[key] for key in unplanned.index)
    by_hand = np.minimum(np.maximum.accumulate(np.array(ordered) * np.arange(6, 0, -1)), 1)
    assert sorted(unplanned["p_adjusted"]) == pytest.approx(by_hand)
    assert found.loc[found["planned"], "p_adjusted"].isna().all()


def test_the_verdict_goes_by_the_p_that_counts():
    rng = np.random.default_rng(1)
    world = rng.normal(1000, 1, 12)
    effect = rng.normal(0, 1, 12)
    effect = 0.75 + (effect - effect.mean()) / effect.std(ddof=1)  # t is 2.6, p 0.025
    strategies = {"ref": world, "s": world + effect, **{f"x{i}": world + rng.normal(0, 1, 12) for i in range(8)}}
    import pandas as pd

    frame = pd.DataFrame(
        [("c", s, r, "cost", "x", v) for s, values in strategies.items() for r, v in enumerate(values)],
        columns=["case", "strategy", "replication", "metric", "unit", "value"],
    )
    moved = estimates.paired(frame, pd.Series({"c": "ref"}))
    unplanned = estimates.compared(moved).set_index("strategy").loc["s"]
    planned = estimates.compared(moved, {("c", "s")}).set_index("strategy").loc["s"]
    assert unplanned["p"] == planned["p"]
    assert 0.001 < planned["p"] < 0.05 < unplanned["p_adjusted"]
    assert (unplanned["verdict"], planned["verdict"]) == ("not shown", "higher")


def test_planned_contrasts_are_paired_within_their_case_and_their_p_is_raw(comparison):
    found = comparison.df_contrasts()
    assert list(zip(found["case"], found["a"], found["b"], strict=True)) == [
        (SPR, "manual-load", "xstate-guest"),
        (ZEN4, "manual-load", "xstate-guest"),
        (SPR, "xstate-all", "free-ssp"),
        (ZEN4, "xstate-all", "free-ssp"),
    ]
    for row in found.to_dict("records"):
        moved = costs(comparison, row["case"], row["a"]) - costs(comparison, row["case"], row["b"])
        # Prices are not rounded in an answer, and are in a cost.
        assert row["mean"] == pytest.approx(moved.mean(), rel=0.15)
        assert row["range_low"] < row["range_median"] < row["range_high"]
        assert row["n"] == 12
    found = Answers(comparison).contrasts()
    assert all(each.planned and math.isnan(each.p_adjusted) for each in found)
    assert {each.verdict for each in found} <= {"higher", "lower"}


def test_an_answer_that_nobody_planned_is_adjusted_with_the_family_and_an_odd_pair_with_itself(comparison):
    answers = Answers(comparison)
    family = {
        (case, s): answers.difference(case, s, "free-ssp").p
        for case in (SPR, ZEN4)
        for s in ("manual-load", "manual-lazy", "xstate-guest")
    }
    for (case, strategy), p in family.items():
        found = answers.difference(case, strategy, "free-ssp")
        assert not found.planned
        rank = sorted(family.values()).index(p)
        by_hand = max(q * (6 - i) for i, q in enumerate(sorted(family.values())) if i <= rank)
        assert found.p_adjusted == pytest.approx(min(by_hand, 1))
    odd = answers.difference(SPR, "manual-load", "xstate-all")
    assert not odd.planned
    assert odd.p <= odd.p_adjusted <= 7 * odd.p
    assert answers.difference(SPR, "free-ssp", "xstate-all").planned


def test_a_comparison_with_another_reference_knows_what_was_planned(results):
    found = sim.compare(results, "xstate-guest").df_differences().query("metric == 'cost'")
    assert set(found.loc[found["planned"], "strategy"]) == {"manual-load"}


def test_one_replication_is_not_tested(path):
    comparison = sim.compare(run(path, replications=1))
    found = comparison.df_differences()
    assert set(found.loc[found["mean"] != 0, "verdict"]) == {"not tested"}
    assert "not shown" not in set(found["verdict"])
    assert found[["p", "p_adjusted", "low", "high"]].isna().all(axis=None)
    answers = Answers(comparison)
    assert {each.verdict for each in answers.contrasts()} == {"not tested"}
    text = comparison.summary()
    assert "no difference shown" not in text
    assert "not tested: manual-load" in text


# Contrasts of two cases.


def between(path, a, b, **overrides):
    results = run(path, overrides={"run.contrasts": [[a, b]], **overrides})
    (found,) = Answers(sim.compare(results)).contrasts()
    return results, found


def test_a_contrast_of_two_kernels_is_the_paired_difference_of_their_costs(path):
    names = [f"sapphire-rapids {kernel}" for kernel in ("v6.18", "v6.19")]
    a, b = (f"manual-load@{name}" for name in names)
    results, found = between(path, a, b, **{"host.cpu": ["sapphire-rapids"], "host.kernel": ["v6.18", "v6.19"]})
    comparison = sim.compare(results)
    one, other = (costs(comparison, name, "manual-load") for name in names)
    assert (found.case, found.a, found.b, found.own.unit) == ("", a, b, "cycles/vCPU-s")
    assert found.own.mean == pytest.approx((one - other).mean(), rel=0.15, abs=0.001 * one.mean())
    assert found.planned
    row = comparison.df_contrasts().iloc[0]
    assert (row["case"], row["a"], row["b"], row["mean"]) == ("", a, b, found.own.mean)
    assert a in comparison.summary().replace("\n  ", " ")


def test_with_other_clocks_two_cases_are_compared_by_time(path):
    """At twice the clock the same cycles take half the time; the fake host's worlds have the same events."""

    def same_world(case, timed_by, strategies, replication):
        seconds = replace(case, name="same")
        return [
            replace(each, case=case.name) for each in fake_host.simulate(seconds, timed_by, strategies, replication)
        ]

    overrides = {
        "host.cpu": ["sapphire-rapids", "emerald-rapids"],
        "host.tsc": {"sapphire-rapids": "2 GHz", "emerald-rapids": "4 GHz"},
        "host.costs": {"emerald-rapids": "sapphire-rapids"},
    }
    cases = SPR, SPR.replace("sapphire", "emerald")
    results = run(
        path,
        overrides={"run.contrasts": [[f"manual-load@{case}" for case in cases]], **overrides},
        simulate=same_world,
    )
    comparison = sim.compare(results)
    answers = Answers(comparison)
    (found,) = answers.contrasts()
    assert found.own.unit == "us/vCPU-s"
    one, other = (costs(comparison, case, "manual-load").mean() for case in cases)
    assert found.own.mean == pytest.approx(1e6 * (one / 2e9 - other / 4e9), rel=0.02)


def test_costs_of_one_cpu_are_one_uncertainty_and_those_of_two_are_not(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(MINE)
    one, other, own = (
        Ranges(table, (True,) * len(table.rows), "table")
        for table in map(load_costs, ("sapphire-rapids", "zen4", str(mine)))
    )
    row = list(one.table.rows).index("WRMSR(PLx_SSP)/base")
    ssp = list(other.table.rows).index("WRMSR(PLx_SSP)/base")
    vm_exit = [list(each.table.rows).index("VM exit/base") for each in (one, own)]
    a, b = draw_pair(one, one, 2000, 1, same_cpu=True)
    assert (a == b).all()
    assert (a == draw(one, 2000, 1).rows).all()
    a, b = draw_pair(one, own, 2000, 1, same_cpu=True)
    assert (a[:, row] == b[:, list(own.table.rows).index("WRMSR(PLx_SSP)/base")]).all()
    assert abs(np.corrcoef(a[:, vm_exit[0]], b[:, vm_exit[1]])[0, 1]) < 0.3
    a, b = draw_pair(one, other, 2000, 1, same_cpu=False)
    assert a[:, row].std() > 0
    assert abs(np.corrcoef(a[:, row], b[:, ssp])[0, 1]) < 0.1


def test_the_same_strategy_in_two_cases_that_do_the_same_differs_by_nothing(path):
    cases = [f"sapphire-rapids v6.18 run.batch={each}" for each in ("true", "false")]

    def same_world(case, timed_by, strategies, replication):
        renamed = replace(case, name="same")
        return [
            replace(each, case=case.name) for each in fake_host.simulate(renamed, timed_by, strategies, replication)
        ]

    results = run(
        path,
        overrides={
            "run.contrasts": [[f"manual-load@{cases[0]}", f"manual-load@{cases[1]}"]],
            "sweep": {"run.batch": [True, False]},
            "host.cpu": ["sapphire-rapids"],
        },
        simulate=same_world,
    )
    (found,) = Answers(sim.compare(results)).contrasts()
    assert (found.own.mean, found.own.low, found.own.high) == (0, 0, 0)
    assert found.verdict == "same"
    assert (found.range.low, found.range.high) == (0, 0)


# Heavy tails.


@pytest.mark.parametrize("n", [10, 30, 100])
def test_normal_replications_are_rarely_called_heavy_tailed(n):
    rng = np.random.default_rng(n)
    named = sum(estimates.has_heavy_tails(rng.normal(5, 2, n)) for _ in range(4000))
    assert 0.002 < named / 4000 < 0.025


@pytest.mark.parametrize("n", [10, 30, 100])
def test_a_few_replications_that_part_from_the_rest_are_named(n):
    rng = np.random.default_rng(n)
    named = 0
    for _ in range(200):
        values = rng.normal(12_000, 1_000, n)
        values[: max(1, n // 10)] += rng.choice([-1, 1]) * 100_000
        named += estimates.has_heavy_tails(values, 10)
    assert named > 190


def test_heavy_tails_are_said_in_the_summary_and_marked_in_an_answer(path):
    def parting(case, record):
        if record.replication == 7 and record.strategy == "xstate-guest" and case.name == ZEN4:
            operation, count, cycles = record.ledger[0]
            return replace(record, ledger=((operation, 40 * count, 40 * cycles), *record.ledger[1:]))
        return record

    comparison = sim.compare(run(path, seed=2, simulate=fake_host.altered(parting)))
    notes = [note for note in comparison.notes() if note.startswith("Heavy") and "xstate-guest" in note]
    for pair, note in zip(("manual-load less xstate-guest", "xstate-guest less free-ssp"), notes, strict=True):
        assert note.startswith(f"Heavy tails: in {ZEN4}, 1 of 12 replications make half of the variance of {pair}.")
    assert "Heavy tails" in comparison.summary()
    answers = Answers(comparison)
    assert answers.difference(ZEN4, "xstate-guest", "free-ssp").heavy_tails
    assert not answers.difference(SPR, "xstate-guest", "free-ssp").heavy_tails


def test_a_precision_that_was_not_reached_is_said(path):
    rule = {"run.precision": "0.01 %", "run.max_replications": 11}
    comparison = sim.compare(run(path, replications=None, overrides=rule))
    (note,) = (each for each in comparison.notes() if each.startswith("Precision"))
    assert "after 11 replications" in note
    assert "less" in note
    assert "Precision not reached" in comparison.summary()


def test_no_contrast_is_tested_that_was_not_asked_about(path):
    comparison = sim.compare(run(path, overrides={"run.contrasts": []}))
    assert comparison.df_contrasts().empty
    assert Answers(comparison).contrasts() == []
    assert not comparison.df_differences()["planned"].any()
