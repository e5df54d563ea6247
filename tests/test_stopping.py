"""When a run has enough replications: a rule that sees replications in their order, and nothing else."""

import functools
import json
import math
from dataclasses import replace

import fake_host
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import sim
from sim import experiment
from sim.errors import RunError
from sim.experiment.stopping import Rule, Stopped
from sim.kernel.operations import Operation
from sim.results import Record, load
from sim.results.record import Finished
from sim.results.tables import SCHEMAS
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.scenario.schema import Scenario
from sim.scenario.units import FROM_FILE

SCENARIO = """
title = "Stopping"
[run]
measure = "400 ms"
precision = "2 %"
max_replications = 60
strategies = ["free-ssp", "manual-load", "xstate-guest", "xstate-all-resident"]
[host]
cpus = 2
cpu = ["sapphire-rapids", "zen4"]
tsc = "2 GHz"
[guests.g]
vcpus = 2
"""
PAIR = '[["manual-load", "xstate-guest"]]'


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "small.toml"
    path.write_text(SCENARIO)
    return path


def scenario(path, **run):
    return read(path, {f"run.{key}": value for key, value in run.items()})


def run(path, **options):
    return experiment.run(path, **{"jobs": 1, "simulate": fake_host.simulate} | options)


def record(case, strategy, replication, cycles, integrity=None, timed_by="free-ssp"):
    operation = Operation("user", "switch", "context switch")
    return Finished.of(
        Record(case, timed_by, strategy, replication, ((operation, 1, cycles),), {}, {}, integrity or {})
    )


@functools.cache
def two_cases(path, contrasts):
    asked = scenario(path, **({"contrasts": json.loads(contrasts)} if contrasts else {}))
    return asked, cases(asked)


def told(rule, of_cases, cycles, there, **more):
    """A rule that has been told of ``there`` replications, of which ``cycles(case, strategy, n)`` says the rest."""
    for n in reversed(range(there)):
        for case in of_cases:
            for strategy in case.strategies:
                rule.take(record(case.name, strategy, n, cycles(case.name, strategy, n), **more))
    return rule


def widest(values, least=0.8):
    """The half-width of the t interval with the standard deviation at its upper limit, over the mean, by hand."""
    n = len(values)
    deviation = np.std(values, ddof=1) * math.sqrt((n - 1) / stats.chi2.ppf(1 - least, n - 1))
    return stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n) / abs(np.mean(values))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.0, 0.2), steps=st.lists(st.integers(1, 40), max_size=8))
def test_n_depends_on_the_replications_alone_and_is_the_first_look_that_is_content(path, seed, spread, steps):
    asked, of_cases = two_cases(path, PAIR)
    rng = np.random.default_rng(seed)
    noise = {case.name: rng.normal(1e6, 1e6 * spread, 60).astype(int) for case in of_cases}

    def cycles(case, strategy, n):
        return 5_000_000 + (int(noise[case][n]) if strategy == "manual-load" else 0)

    found = set()
    for there in {*np.minimum(np.cumsum([1, *steps]), 60).tolist(), 60}:
        rule = told(Rule(asked, of_cases), of_cases, cycles, there)
        verdict = rule.look(there)
        if isinstance(verdict, Stopped):
            found.add(verdict.replications)
        else:
            assert there < verdict <= 60
            assert verdict in rule.looks
    content = (n for n in rule.looks if max(widest(each[:n]) for each in noise.values()) <= 0.02)
    assert found == {next(content, 60)}


def test_looks_are_few_and_the_first_is_the_fewest(path):
    asked, of_cases = two_cases(path, PAIR)
    looks = Rule(asked, of_cases).looks
    assert (looks[0], looks[-1]) == (10, 60)
    assert len(looks) <= 12
    assert Rule(scenario(path, replications=7), of_cases).looks == (7,)


def test_the_largest_difference_of_a_case_says_how_well_the_others_must_be_known(path):
    asked, of_cases = two_cases(path, "")
    rng = np.random.default_rng(1)
    small = rng.normal(0, 20_000, 60).astype(int)  # +- 9,000 at n = 22: nothing of 1,000,000, all of 100

    def cycles(large):
        rest = {"manual-load": large, "xstate-guest": 0}
        return lambda case, strategy, n: (
            5_000_000 + rest.get(strategy, 0) + (int(small[n]) if strategy == "xstate-guest" else 0)
        )

    assert told(Rule(asked, of_cases), of_cases, cycles(1_000_000), 60).look(60).replications == 10
    at_most = told(Rule(asked, of_cases), of_cases, cycles(100), 60).look(60)
    assert at_most.replications == 60
    assert at_most.reached > 0.02
    assert at_most.widest.a.strategy == "xstate-guest"


def test_a_strategy_that_is_unsound_or_was_caught_does_not_count(path):
    asked, of_cases = two_cases(path, "")
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 1_000_000, 60).astype(int)

    def noisy(*strategies):
        return lambda case, strategy, n: (
            50_000_000 + 10_000_000 * (strategy == "manual-load") + int(noise[n]) * (strategy in strategies)
        )

    def n_with(cycles, caught=None):
        rule = told(Rule(asked, of_cases), of_cases, cycles, 60)
        if caught is not None:
            at, kind = caught
            rule.take(record(of_cases[0].name, "xstate-guest", at, cycles("", "xstate-guest", at), {kind: 1}))
            rule.take(record(of_cases[1].name, "xstate-guest", at, cycles("", "xstate-guest", at), {kind: 1}))
        return rule.look(60).replications

    assert n_with(noisy("xstate-all-resident")) == 10  # documented as unsound
    assert n_with(noisy("xstate-guest")) > 20
    assert n_with(noisy("xstate-guest"), (0, "wrong-value")) == 10
    assert n_with(noisy("xstate-guest"), (0, "residue")) > 20
    assert n_with(noisy("xstate-guest"), (11, "wrong-value")) == 12  # seen by the second look


def test_what_runs_on_a_schedule_of_its_own_does_not_count(path):
    asked, of_cases = two_cases(path, PAIR)
    rule = told(Rule(asked, of_cases), of_cases, lambda case, strategy, n: 9 if strategy == "manual-load" else 5, 10)
    rng = np.random.default_rng(3)
    for n in range(10):
        for case in of_cases:
            rule.take(record(case.name, "manual-load", n, int(rng.integers(100)), timed_by="manual-load"))
    assert rule.look(10).replications == 10


def test_contrasts_of_two_cases_are_asked_about_by_time_where_clocks_differ(path):
    a, b = "manual-load@sapphire-rapids v6.18", "manual-load@zen4 v6.18"
    overrides = {"run.contrasts": [[a, b]], "host.tsc": {"sapphire-rapids": "2 GHz", "zen4": "4 GHz"}}
    asked = read(path, overrides)
    of_cases = cases(asked)
    rng = np.random.default_rng(4)
    noise = rng.integers(1_000_000, 2_000_000, 60)

    def cycles(case, strategy, n):
        # At 4 GHz the same time is twice the cycles: what the worlds have in common goes away in the difference.
        return int(noise[n]) * (2 if case.startswith("zen4") else 1) + 400_000 * case.startswith("sapphire")

    assert told(Rule(asked, of_cases), of_cases, cycles, 60).look(60).replications == 10


# In a run.


def test_n_is_the_same_with_any_number_of_workers_and_in_any_order(path, tmp_path):
    for jobs in (1, 2):
        run(path, jobs=jobs, out=tmp_path / str(jobs))
    ns = {load(tmp_path / str(jobs)).manifest["replications"] for jobs in (1, 2)}
    (n,) = ns
    assert 10 < n < 60
    for name in SCHEMAS:
        assert len({(tmp_path / str(jobs) / f"{name}.parquet").read_bytes() for jobs in (1, 2)}) == 1
    assert set(load(tmp_path / "1").ledger["replication"]) == set(range(n))


def test_the_interval_that_is_printed_is_as_narrow_as_was_asked(path):
    results = run(path)
    asked = results.manifest["stopping"]
    assert asked["precision"] == 0.02
    assert 0 < asked["reached"] <= 0.02
    found = sim.compare(results).df_differences()
    found = found[(found["metric"] == "cost") & (found["strategy"] != "xstate-all-resident")]
    shares = (found["high"] - found["mean"]) / found.groupby("case")["mean"].transform(lambda mean: mean.abs().max())
    assert shares.max() == pytest.approx(asked["reached"], rel=1e-6)
    widest_of = found.loc[shares.idxmax()]
    assert asked["widest"] == [f"{widest_of['strategy']}@{widest_of['case']}", f"free-ssp@{widest_of['case']}"]


def test_a_manifest_has_n_and_what_was_asked_and_its_rerun_uses_n(path, tmp_path):
    first = run(path, out=tmp_path / "r").manifest
    n = first["replications"]
    asked = {key: first["stopping"][key] for key in ("precision", "min_replications", "max_replications")}
    assert asked == {"precision": 0.02, "min_replications": 10, "max_replications": 60}
    again = Scenario.model_validate(first["resolved"], context={FROM_FILE: True})
    assert again.run.replication_bounds == (n, n)
    repeated = run(tmp_path / "r" / "manifest.json", out=tmp_path / "again").manifest
    for name in SCHEMAS:
        assert (tmp_path / "r" / f"{name}.parquet").read_bytes() == (
            tmp_path / "again" / f"{name}.parquet"
        ).read_bytes()
    for key in ("fingerprint", "scenario_sha256", "seed", "replications", "cases", "resolved"):
        assert repeated[key] == first[key], key
    assert repeated["stopping"] is None


def test_replications_that_are_given_are_exact(path):
    for n in (1, 3, 12):
        results = run(path, replications=n)
        assert results.manifest["replications"] == n
        assert set(results.ledger["replication"]) == set(range(n))


def test_a_run_that_reaches_the_most_says_what_it_reached(path):
    manifest = run(path, overrides={"run.precision": "0.01 %", "run.max_replications": 12}).manifest
    assert manifest["replications"] == 12
    assert manifest["stopping"]["reached"] > manifest["stopping"]["precision"]


def test_a_run_that_was_interrupted_comes_to_the_same_n(path, tmp_path):
    whole = run(path, out=tmp_path / "whole").manifest["replications"]

    def breaking(case, timed_by, strategies, replication):
        if replication == 13:
            raise KeyboardInterrupt
        return fake_host.simulate(case, timed_by, strategies, replication)

    with pytest.raises(RunError, match="interrupted"):
        run(path, out=tmp_path / "r", simulate=breaking)
    assert not load(tmp_path / "r", incomplete_ok=True).ledger.empty
    seen = []

    def watched(case, timed_by, strategies, replication):
        seen.append((case.name, replication))
        return fake_host.simulate(case, timed_by, strategies, replication)

    assert run(path, out=tmp_path / "r", simulate=watched).manifest["replications"] == whole
    assert whole - 1 in {n for _, n in seen}
    assert ("sapphire-rapids v6.18", 0) not in seen
    for name in SCHEMAS:
        assert (tmp_path / "r" / f"{name}.parquet").read_bytes() == (
            tmp_path / "whole" / f"{name}.parquet"
        ).read_bytes()


def test_little_is_simulated_that_is_not_used(path):
    seen = []

    def watched(case, timed_by, strategies, replication):
        seen.append(replication)
        return fake_host.simulate(case, timed_by, strategies, replication)

    wasted = []
    for seed in range(1, 9):
        seen.clear()
        n = run(path, seed=seed, simulate=watched).manifest["replications"]
        wasted.append(max(seen) + 1 - n)
    assert max(wasted) <= 5
    assert sum(wasted) <= 8


def test_with_nothing_to_compare_the_fewest_are_enough(path):
    results = run(path, strategies=["free-ssp"])
    assert results.manifest["replications"] == 10
    assert results.manifest["stopping"]["reached"] is None


def test_one_replication_at_most_has_reached_nothing_that_can_be_said(path):
    manifest = run(path, overrides={"run.min_replications": 1, "run.max_replications": 1}).manifest
    assert manifest["replications"] == 1
    assert manifest["stopping"]["reached"] is None
    json.dumps(manifest, allow_nan=False)


def test_zero_differences_need_no_more_than_the_fewest(path):
    def nothing(case, record):
        return replace(record, ledger=record.ledger[:1])

    results = run(path, simulate=fake_host.altered(nothing))
    assert results.manifest["replications"] == 10
