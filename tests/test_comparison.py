"""Comparisons: what is paired, what an interval covers, which tests count, prices and laws."""

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import fake_host
import numpy as np
import pandas as pd
import pytest
from hosts import from_text
from scipy import stats

import sim
from sim import experiment
from sim.analysis import estimates, latency, law, pricing
from sim.costs import table as cost_tables
from sim.costs.price import Prices
from sim.errors import InputError
from sim.kernel import flows, strategies
from sim.kernel.config import Settings
from sim.kernel.operations import Operation
from sim.report import summary
from sim.results.tables import SCHEMAS

pytestmark = pytest.mark.usefixtures("few_draws")


# Pairing and intervals.


def test_the_same_strategy_under_two_names_differs_by_exactly_zero(small, tmp_path):
    folder = Path(strategies.__file__).parent / "data" / "strategies"
    twin = tmp_path / "too.toml"
    twin.write_text((folder / "manual-load.toml").read_text(encoding="utf-8"))
    results = experiment.run(
        small, strategies=["manual-load", str(twin)], reference="manual-load", jobs=1, simulate=fake_host.simulate
    )
    comparison = sim.compare(results)
    found = comparison.df_differences()
    assert len(found) > 30
    assert (found[["mean", "low", "high"]] == 0).all(axis=None)
    assert set(found["verdict"]) == {"same"}
    assert found["p"].isna().all()
    assert "exactly the same: manual-load (too.toml)" in comparison.summary()


def test_differences_are_paired_by_replication():
    rng = np.random.default_rng(1)
    world = rng.normal(1000, 100, 12)  # far larger than what the strategies differ by
    effect = rng.normal(3, 1, 12)
    frame = pd.DataFrame(
        [
            ("c", s, r, "cost", "x", v)
            for s, values in (("ref", world), ("s", world + effect))
            for r, v in enumerate(values)
        ],
        columns=["case", "strategy", "replication", "metric", "unit", "value"],
    ).sample(frac=1, random_state=3)
    found = estimates.compared(estimates.paired(frame, pd.Series({"c": "ref"}))).iloc[0]
    expected = stats.ttest_rel(world + effect, world)
    interval = expected.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["verdict"] == "higher"
    assert found["percent"] == pytest.approx(100 * effect.mean() / world.mean())


def differences(metric, ref, **others):
    """What compared() says of values by strategy, whose reference is ``ref``; by strategy."""
    frame = pd.DataFrame(
        [
            ("c", s, r, metric, "us", float(v))
            for s, values in {"ref": ref, **others}.items()
            for r, v in enumerate(values)
        ],
        columns=["case", "strategy", "replication", "metric", "unit", "value"],
    )
    return estimates.compared(estimates.paired(frame, pd.Series({"c": "ref"}))).set_index("strategy")


def test_what_is_exactly_the_same_has_no_p_and_does_not_count_among_the_tests():
    rng = np.random.default_rng(5)
    world, effect = rng.normal(1000, 100, 12), rng.normal(1, 2, 12)
    found = differences("cost", world, twin=world, rounded=world * (1 + 2e-16), other=world + effect)
    assert list(found["verdict"].loc[["twin", "rounded"]]) == ["same", "same"]
    assert found["p"].loc[["twin", "rounded"]].isna().all()
    assert found.loc["other", "p"] == pytest.approx(stats.ttest_rel(world + effect, world).pvalue)


def test_a_constant_difference_has_no_p_and_a_verdict():
    found = differences("task_fpstate_bytes", [2696.0] * 10, more=[2720.0] * 10)
    assert math.isnan(found.loc["more", "p"])
    assert found.loc["more", "verdict"] == "higher"


def test_a_quantile_is_known_to_a_bucket_and_no_better():
    rng = np.random.default_rng(6)
    ref = rng.normal(16, 0.001, 10)
    found = differences("vcpu_wakeup_p50", ref, near=ref + 0.9, constant=ref * 1.05, far=ref + rng.normal(2, 0.01, 10))
    assert list(found["verdict"]) == ["not shown", "not shown", "higher"]
    assert found["p"].isna().tolist() == [True, True, False]
    bucket = 18 / 16
    assert found.loc["far", "low"] == pytest.approx(2 - bucket, abs=0.02)
    assert found.loc["far", "high"] == pytest.approx(2 + bucket, abs=0.02)
    assert differences("us_per_handoff", ref, near=ref + 0.9).loc["near", "verdict"] == "higher"


def test_the_summary_has_the_pooled_quantiles(comparison):
    pooled = comparison.df_latency()
    here = pooled[(pooled["strategy"] == "free-ssp") & (pooled["quantile"] == "p50")]["us"].item()
    table = comparison.summary().split("Wake-up latency of that schedule in us")[1]
    line = next(line for line in table.splitlines() if line.startswith("free-ssp(*) "))
    assert f"{here:.3g}" in line.split()


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(7)
    experiments, n = 2000, 10
    values = rng.normal(5, 2, (experiments, n))
    frame = pd.DataFrame({"e": np.repeat(np.arange(experiments), n), "value": values.ravel()})
    found = estimates.with_intervals(frame, ["e"])
    covered = ((found["low"] <= 5) & (found["high"] >= 5)).sum()
    assert stats.binomtest(int(covered), experiments, 0.95).pvalue > 1e-4


def test_one_replication_has_no_interval():
    found = estimates.with_intervals(pd.DataFrame({"e": [1], "value": [3.0]}), ["e"]).iloc[0]
    assert found["mean"] == 3
    assert math.isnan(found["low"])
    assert math.isnan(found["high"])


def test_holm_agrees_with_an_example_by_hand():
    p = np.array([0.01, 0.04, 0.03, 0.005, np.nan])
    # ordered 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, then made monotone
    assert estimates.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02, np.nan], nan_ok=True)
    assert estimates.holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])


def test_no_false_cheaper_more_often_than_one_in_twenty_whatever_the_number_of_strategies():
    rng = np.random.default_rng(11)
    families, strategies_, n = 400, 8, 10
    wrong = 0
    for _ in range(families):
        values = rng.normal(0, 1, (strategies_, n))
        p = estimates.p_values(values.mean(axis=1), values.std(axis=1, ddof=1), np.full(strategies_, n))
        wrong += bool((estimates.holm(p) < 0.05).any())
    assert stats.binomtest(wrong, families, 0.05, alternative="greater").pvalue > 1e-4


# Quantiles.


def test_a_quantile_is_stated_only_with_twenty_samples_beyond_it():
    def histogram(n):
        return np.array([0, 10]), np.array([10, 20]), np.array([n - n // 2, n // 2])

    assert latency.quantile(histogram(1999), Fraction(99, 100)) is None
    assert latency.quantile(histogram(2000), Fraction(99, 100)) is not None
    assert latency.quantile(histogram(19_999), Fraction(999, 1000)) is None
    assert latency.quantile(histogram(20_000), Fraction(999, 1000)) is not None
    assert latency.quantile(histogram(39), Fraction(1, 2)) is None


def test_a_quantile_lies_in_the_bucket_of_the_sorted_samples():
    rng = np.random.default_rng(2)
    samples = np.sort(rng.exponential(10_000, 30_000).astype(int))
    lows, counts = np.unique(samples - samples % 64, return_counts=True)
    for q in latency.QUANTILES.values():
        found = latency.quantile((lows, lows + 64, counts), q)
        assert abs(found - np.quantile(samples, float(q))) <= 64


def test_a_ratio_without_events_is_absent(small, tmp_path):
    def without_exits(case, record):
        counts = record.metrics and record.metrics | {"vm_exits": (0, "count")}
        return replace(record, metrics=counts, latency={}, integrity={})

    simulate = fake_host.altered(without_exits)
    frame = sim.compare(experiment.run(small, jobs=1, simulate=simulate)).df_replications()
    assert frame["value"].notna().all()
    names = set(frame["metric"])
    assert "operations_per_vm_exit" not in names
    assert "operations_per_context_switch" in names
    assert not any(name.startswith("vcpu_wakeup") for name in names)


# Prices.


def test_repricing_with_the_same_table_gives_the_same_cycles(results):
    assert (pricing.repriced(results) == results.ledger["cycles"]).all()


def test_all_warm_is_at_most_as_modelled_and_that_at_most_all_memory(results):
    warm, modelled, memory = (pricing.repriced(results, level).sum() for level in pricing.LEVELS)
    assert warm < modelled < memory
    without_buffer = results.ledger["level"] == ""
    assert (pricing.repriced(results, "memory")[without_buffer] == results.ledger["cycles"][without_buffer]).all()


def test_what_rows_contribute_adds_up_to_the_cycles_but_for_rounding(results):
    rows = pricing.by_cost_row(results)
    assert rows["cycles"].sum() == pytest.approx(results.ledger["cycles"].sum(), abs=results.ledger["count"].sum() / 2)
    by_hand = Prices(cost_tables.current("sapphire-rapids"))
    key = tuple(results.ledger.loc[0, list(Operation._fields)])
    assert by_hand[key] * results.ledger.loc[0, "count"] == results.ledger.loc[0, "cycles"]


def test_shares_of_grades_add_up(comparison):
    frame = comparison.df_metrics()
    of_cost = frame[frame["metric"].str.startswith("cost_on_")].groupby("strategy")["mean"].sum()
    assert np.allclose(of_cost, 100)
    of_difference = comparison.df_grades().groupby("strategy")["percent"].sum()
    assert set(of_difference.index) == {"manual-load", "manual-lazy", "xstate-guest"}
    assert np.allclose(of_difference, 100)


def test_the_law_is_what_the_sequences_cost():
    table = cost_tables.current("zen4")
    settings = Settings(cpu="zen4", strategy="manual-load")
    prices = Prices(table)
    cost = {name: sum(prices[op] for op in flows.run(name, settings).operations) for _, name, *_ in law.EVENTS}
    found = law.law(settings, table)
    # one preemption and back: an exit among others, and two context switches
    assert found.cost(exits=1, switches=2, round_trips=0) == cost["preempt"]
    assert found.cost(exits=1, switches=0, round_trips=1) == cost["userspace-exit"]
    assert found.cost(exits=1, switches=0, round_trips=0) == cost["in-kernel-exit"]
    other = law.Law(found.exit + 10, found.switch - 100, found.round_trip)
    rate = law.break_even(found, other, round_trips=5, exits=None, switches=300)
    assert found.cost(rate, 300, 5) == pytest.approx(other.cost(rate, 300, 5))
    assert law.break_even(found, found, round_trips=5, exits=None, switches=300) is None


def test_with_several_cases_each_section_says_which_it_is_of(small, tmp_path):
    path = tmp_path / "masks.toml"
    path.write_text(small.read_text() + '[sweep]\n"kernel.guest_xss" = [0x800, 0x1800]\n')
    text = sim.compare(experiment.run(path, replications=2, jobs=1, simulate=fake_host.simulate)).summary()
    assert max(map(len, text.splitlines())) <= 72
    assert "2048" not in text
    titles = [line for line in text.splitlines() if line.startswith("[")]
    for mask in ("0x800", "0x1800"):
        assert sum(line.startswith(f"[sapphire-rapids v6.18 kernel.guest_xss={mask}] ") for line in titles) >= 7


def test_fewer_than_ten_replications_are_said_to_be_few(small):
    results = experiment.run(small, replications=9, jobs=1, simulate=fake_host.simulate)
    assert "WARNING: 9 replications." in sim.compare(results).summary()
    single = experiment.run(small, replications=1, jobs=1, simulate=fake_host.simulate)
    assert "WARNING: 1 replication." in sim.compare(single).summary()
    assert sim.compare(single).document()["cases"][0]["strategies"]["manual-load"]["metrics"]["cost"]["low"] is None


def test_a_reference_alone_has_costs_and_no_differences(small):
    comparison = sim.compare(
        experiment.run(small, strategies=["free-ssp"], replications=2, jobs=1, simulate=fake_host.simulate)
    )
    assert comparison.df_differences().empty
    assert "free-ssp(*)" in comparison.summary()


def test_another_reference_turns_the_difference_round(comparison, results):
    def cost(frame, strategy):
        return frame[(frame["metric"] == "cost") & (frame["strategy"] == strategy)]["mean"].item()

    there = cost(comparison.df_differences(), "manual-load")
    back = cost(sim.compare(results, "manual-load").df_differences(), "free-ssp")
    assert there == pytest.approx(-back)
    with pytest.raises(InputError, match=r"unknown reference in case .*did you mean 'manual-load'"):
        sim.compare(results, "manual-loda")


def test_every_frame_says_the_cpu_the_kernel_and_the_swept_value_of_each_row(small, tmp_path):
    path = tmp_path / "swept.toml"
    path.write_text(small.read_text() + '[sweep]\n"kernel.guest_xss" = [0x800, 0x1800]\n')
    results = sim.run(path, replications=2, jobs=1, overrides={"run.measure": "2 ms"})
    found = sim.compare(results)
    frames = {name: getattr(found, name)() for name in dir(found) if name.startswith("df_")}
    frames |= {name: getattr(results, name) for name in SCHEMAS} | {"rates": found.rates()}
    by_case = {case["case"]: (case["cpu"], case["kernel"], case["sweep"]["kernel.guest_xss"]) for case in results.cases}
    assert {xss for _, _, xss in by_case.values()} == {0x800, 0x1800}
    for name, frame in frames.items():
        assert list(frame.columns[-3:]) == ["cpu", "kernel", "kernel.guest_xss"], name
        for row in frame.to_dict("records"):
            if row["case"]:  # a contrast of two cases has none
                assert (row["cpu"], row["kernel"], row["kernel.guest_xss"]) == by_case[row["case"]]


# Bytes of fpstates.


def compared(entries):
    """A case with these threads and guests."""
    text = (
        'title = "t"\n[run]\nmeasure = "1 ms"\nreplications = 2\nstrategies = ["no-cet"]\nreference = "no-cet"\n'
        f'timed_by = "no-cet"\n[host]\ncpus = 2\ncpu = ["sapphire-rapids"]\n{entries}'
    )
    (case,) = from_text(text)
    return sim.compare(experiment.run(case.scenario, jobs=1, simulate=fake_host.simulate))


def fpstate_bytes(entries):
    """Its means."""
    return compared(entries).df_metrics().set_index("metric")["mean"]


def task_bytes(entries):
    return fpstate_bytes(entries)["task_fpstate_bytes"]


PLAIN, AMX = 2624, 2624 + 12288
"""On Sapphire Rapids 64 and 2,560 bytes of the task's slab object; for an area of 10,752 bytes with its head, three
pages come on top."""


@pytest.mark.parametrize(
    ("entries", "mean"),
    [
        ('[threads.t]\ncompute = "1 ms"\n', PLAIN),
        ('[threads.t]\ncompute = "1 ms"\nfpu = { components = ["XTILEDATA"] }\n', AMX),
        ('[threads.t]\ncompute = "1 ms"\nfpu = { components = ["XTILEDATA"], share = 0.0 }\n', PLAIN),
        ('[threads.t]\ncount = 3\ncompute = "1 ms"\n[threads.u]\ncompute = "1 ms"\n'
         'fpu = { components = ["XTILEDATA"] }\n', (3 * PLAIN + AMX) / 4),
        ('[threads.t]\nkind = "pipe"\ncompute = "1 ms"\nfpu = { components = ["XTILEDATA"] }\n[threads.k]\n'
         'kind = "kthread"\ncompute = "1 ms"\n[guests.g]\nvms = 2\nvcpus = 3\n', (6 * PLAIN + 2 * AMX) / 8),
        ('[threads.k]\nkind = "kthread"\ncompute = "1 ms"\n', PLAIN),
    ],
)  # fmt: skip
def test_bytes_per_task_are_the_mean_over_user_threads_of_what_each_uses(entries, mean):
    assert task_bytes(entries) == pytest.approx(mean)


def test_the_fpstate_of_a_task_that_has_used_amx_is_told_before_it_is_rounded_to_pages():
    amx = '[threads.t]\ncompute = "1 ms"\nfpu = { components = ["XTILEDATA"] }\n'
    assert fpstate_bytes(amx)["task_amx_fpstate_bytes"] == 64 + 10_752
    assert "task_amx_fpstate_bytes" not in fpstate_bytes('[threads.t]\ncompute = "1 ms"\n')
    assert "has used AMX" in " ".join(summary.text(compared(amx), []).split())
    assert "AMX" not in summary.text(compared('[threads.t]\ncompute = "1 ms"\n'), [])
