"""Two results compared: paired where the worlds are the same, Welch's test where not, and it says which."""

import json
import math
import re
from dataclasses import replace

import fake_host
import numpy as np
import pytest
import worlds
from command import run as run_command
from scipy import stats

import sim
from sim import experiment
from sim.analysis.two_results import differing, match, paired_difference, two_results, welch_difference
from sim.errors import InputError
from sim.report import two_results as report

pytestmark = pytest.mark.usefixtures("few_draws")

HOST = worlds.web(["free-ssp", "manual-load", "manual-lazy", "xstate-guest"], replications=6)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Comparisons of the host above with changes, and with more lines, each simulated once."""
    path = tmp_path_factory.mktemp("two") / "host.toml"
    done = {}

    def run(lines="", **changes):
        key = lines + json.dumps(changes, sort_keys=True)
        if key not in done:
            path.write_text(HOST + lines)
            done[key] = sim.compare(experiment.run(path, overrides=changes, jobs=1, simulate=fake_host.simulate))
        return done[key]

    return run


def text_of(a, b, **options):
    """The text, which fits if it is not in full; on one line."""
    text = report.text(two_results(a, b), a, b, full=options.get("full", False))
    assert max(map(len, text.splitlines())) <= 72
    assert options.get("full") or len(text.splitlines()) <= 40
    assert "nan" not in text
    return " ".join(text.split())


def one(found, what, strategy):
    return next(each for pair in found.pairs for each in pair.found if (each.what, each.strategy) == (what, strategy))


# The statistics.


def test_a_paired_difference_is_a_paired_t_test():
    rng = np.random.default_rng(1)
    world = rng.normal(1000, 100, 12)
    x, y = world, world + rng.normal(3, 1, 12)
    found, p = paired_difference(x, y, "us")
    expected = stats.ttest_rel(y, x)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert p == pytest.approx(expected.pvalue)
    assert welch_difference(x, y, "us")[1] > 0.5  # the world hides what pairing shows


def test_an_unpaired_difference_is_welchs():
    rng = np.random.default_rng(2)
    x, y = rng.normal(10, 1, 8), rng.normal(12, 4, 15)
    found, p = welch_difference(x, y, "us")
    expected = stats.ttest_ind(y, x, equal_var=False)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert p == pytest.approx(expected.pvalue)
    assert found.n == 8


@pytest.mark.parametrize("difference", [paired_difference, welch_difference])
def test_both_intervals_cover_as_often_as_they_say(difference):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        found, _ = difference(rng.normal(5, 1, 10), rng.normal(6, 2, 10), "us")
        covered += found.low <= 1 <= found.high
    assert stats.binomtest(covered, 1000, 0.95).pvalue > 1e-4


def test_samples_without_variance_have_nothing_to_test():
    for difference in (paired_difference, welch_difference):
        found, p = difference(np.full(5, 3.0), np.full(5, 4.0), "us")
        assert (found.mean, found.low, found.high) == (1, 1, 1)
        assert math.isnan(p)
        assert math.isnan(difference(np.ones(1), np.ones(1), "us")[0].low)


# Which go together, and how.


def test_the_same_result_twice_is_paired_and_exactly_the_same(ran):
    a = ran()
    found = two_results(a, a)
    assert [pair.paired for pair in found.pairs] == [True]
    assert {each.verdict for each in found.pairs[0].found} == {"same"}
    assert all(each.difference.mean == 0 for each in found.pairs[0].found)
    assert (found.tool, found.alone, found.pairs[0].differs) == ((), ((), ()), ())
    text = text_of(a, a)
    assert "PAIRED: seed, load and random streams are the same" in text
    assert "They differ in nothing." in text


def test_two_kernels_are_the_same_world(ran):
    a, b = ran(**{"host.kernel": ["v6.18"]}), ran(**{"host.kernel": ["v6.19"]})
    found = two_results(a, b)
    assert found.pairs[0].paired
    assert ("host.kernel", ["v6.18"], ["v6.19"]) in found.pairs[0].differs
    text = text_of(a, b)
    assert "They differ in host.kernel (v6.18; v6.19), host.directed_yield (v6.18; v7.3)." in text
    assert "sapphire-rapids v6.18 (A), sapphire-rapids v6.19 (B)" in text
    moved = one(found, "cost", "free-ssp").difference
    there, back = (each.df_replications() for each in (b, a))
    cost = [
        frame[(frame["metric"] == "cost") & (frame["strategy"] == "free-ssp")]["value"].to_numpy()
        for frame in (there, back)
    ]
    # The ledger's prices are whole cycles.
    assert moved.mean == pytest.approx(float((cost[0] - cost[1]).mean()), abs=0.5 * 60_000)
    assert moved.high - moved.low < (one(found, "cost", "free-ssp").a.high - one(found, "cost", "free-ssp").a.low)


def test_another_seed_or_load_is_another_world(ran):
    a = ran()
    for change, said in (
        ({"run.seed": 2}, "different seed (1; 2)"),
        ({"guests.web.exits.timer.every": "6 kHz"}, "different guests.web.exits.timer.every"),
    ):
        b = ran(**change)
        found = two_results(a, b)
        assert not found.pairs[0].paired
        text = text_of(a, b)
        assert said in text
        assert "compared by Welch's test" in text
        assert "They differ in nothing else." in text
        assert "They differ in nothing." not in text
        assert report.document(found, a, b)["cases"][0]["test"] == "Welch"


def test_what_only_says_how_often_and_which_strategies_run_leaves_the_world_as_it_is(ran):
    a = ran()
    b = ran(**{"run.replications": 4, "run.strategies": ["xstate-guest"], "run.contrasts": []})
    [pair] = two_results(a, b).pairs
    assert (pair.paired, pair.n) == (True, (6, 4))
    assert {each.strategy for each in pair.found} == {"free-ssp", "xstate-guest"}
    assert {each.difference.n for each in pair.found} == {4}
    assert {each.verdict for each in pair.found} == {"same"}


def test_cpus_of_other_clocks_are_compared_in_microseconds(ran):
    a, b = ran(), ran(**{"host.cpu": ["zen4"]})
    found = two_results(a, b)
    assert {each.difference.unit for each in found.pairs[0].found} == {"us/vCPU-s"}
    cost = one(found, "cost", "free-ssp")
    assert cost.difference.mean == pytest.approx(cost.b.mean - cost.a.mean)
    assert "have the same assumed" in text_of(a, b)
    assert {each.difference.unit for each in two_results(a, a).pairs[0].found} == {"cycles/vCPU-s"}


def test_the_other_way_round_is_the_difference_with_the_other_sign(ran):
    a, b = ran(), ran(**{"run.seed": 2})
    there, back = two_results(a, b), two_results(b, a)
    for each in there.pairs[0].found:
        other = one(back, each.what, each.strategy)
        assert each.difference.mean == pytest.approx(-other.difference.mean)
        assert each.p == pytest.approx(other.p, nan_ok=True)


def test_unsound_strategies_and_single_replications_are_not_compared(ran):
    a = ran(**{"run.replications": 1})
    found = two_results(a, ran(**{"run.replications": 1, "run.seed": 2}))
    assert found.pairs[0].unsound == ("manual-lazy",)
    assert "manual-lazy" not in {each.strategy for each in found.pairs[0].found}
    assert {each.verdict for each in found.pairs[0].found} == {"not tested"}
    assert "UNSOUND manual-lazy" in text_of(a, ran(**{"run.replications": 1, "run.seed": 2}))


def test_cases_go_together_by_what_both_results_have_several_of():
    def cases(cpus, kernels, sweep=({},)):
        return [
            {"case": f"{c} {k} {s}", "cpu": c, "kernel": k, "sweep": s} for c in cpus for k in kernels for s in sweep
        ]

    def names(a, b):
        return [(one["case"], other["case"]) for one, other in match(a, b)]

    assert len(names(cases("x", "12"), cases("y", "12"))) == 2
    assert names(cases("xy", "1"), cases("y", "1")) == [("y 1 {}", "y 1 {}")]
    assert len(names(cases("x", "1", [{"a": 1}, {"a": 2}]), cases("x", "2", [{"a": 2}, {"a": 3}]))) == 1
    assert names(cases("xy", "1"), cases("z", "12")) == []
    assert list(differing({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})) == [("a.b", 1, 3)]


def test_many_cases_fit_and_full_has_them_all(ran):
    sweep = {"guests.web.vms": [1, 2, 3, 4, 5, 6, 7]}
    a, b = ran(sweep=sweep), ran(sweep=sweep, **{"run.seed": 2})
    assert "1 more pair of cases: --full" in text_of(a, b)
    full = text_of(a, b, full=True)
    assert all(f"guests.web.vms={n}" in full for n in range(1, 8))
    json.dumps(report.document(two_results(a, b), a, b), allow_nan=False)


def test_the_answer_says_what_the_table_shows_of_xss(ran):
    """On Zen 4 XSAVES saves the switching of IA32_XSS, on Sapphire Rapids there is none to save."""
    a, b = ran(**{"host.cpu": ["zen4"]}), ran()
    found = two_results(a, b)
    with_xss, without = (one(found, what, "xstate-guest") for what in ("own", "own_without_xss"))
    assert (with_xss.verdict, without.verdict) == ("higher", "not shown")
    text = text_of(a, b)
    answer = text[text.index("ANSWER") : text.index("us per vCPU-second A")]
    assert "own operations of the others without IA32_XSS: no difference shown" in answer
    moved = with_xss.difference
    assert f"with it: XSAVES guest-only +{moved.mean:.0f} +- {moved.high - moved.mean:.0f} (B is more" in answer
    assert "IA32_XSS" not in text_of(ran(), ran(**{"run.seed": 2}))
    twice = replace(found, pairs=(replace(found.pairs[0], found=found.pairs[0].found * 2),))
    text = " ".join(report.text(twice, a, b, full=True).split())
    assert "with it: B is more expensive, at most XSAVES guest-only +" in text


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_numbers_of_any_size_are_apart_and_p_is_said_to_be_adjusted(ran, scale):
    a, b = ran(**{"host.cpu": ["zen4"]}), ran()
    found = two_results(a, b)

    def larger(estimate):
        return replace(estimate, **{end: scale * getattr(estimate, end) for end in ("mean", "low", "high")})

    lines = [
        replace(each, a=larger(each.a), b=larger(each.b), difference=larger(each.difference))
        for each in found.pairs[0].found
    ]
    text = report.text(replace(found, pairs=(replace(found.pairs[0], found=tuple(lines)),)), a, b, full=False)
    assert max(map(len, text.splitlines())) <= 72
    rows = [line for line in text.splitlines() if line.count("+-") == 3]
    assert len(rows) == len(lines) - sum(each.what == "own" for each in lines) + 1
    assert not [row for row in rows if re.search(r"\d[+-]", row)]
    assert "adj. p: Holm's" in text


def test_tables_and_cases_that_one_has_alone_are_named_and_not_dumped(ran):
    text = text_of(ran(), ran("[guests.more]\nvcpus = 2\n"))
    assert "guests.more (only in B)" in text
    assert not set("{}[]") & set(text)
    a, b = ran(sweep={"guests.web.vms": [1, 2, 3]}), ran(sweep={"guests.web.vms": [3, 4]})
    found = two_results(a, b)
    assert [len(alone) for alone in found.alone] == [2, 1]
    text = text_of(a, b)
    assert "ALONE in A only: sapphire-rapids v6.18 guests.web.vms=1, sapphire" in text
    assert "; in B only: sapphire-rapids v6.18 guests.web.vms=4" in text
    document = report.document(found, a, b)
    assert document["alone"] == document["alone_in"]["a"] + document["alone_in"]["b"]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"vms": 2}, None, "k (only in A)"),
        (None, {"vms": 2}, "k (only in B)"),
        ("5 kHz", {"every": "1 s"}, "k (a table in B)"),
        (["SSE"], ["SSE", "AVX"], "k (SSE; SSE, AVX)"),
        (None, [], "k"),
        ([{"a": 1}], [{"a": 2}, {"a": 3}], "k (1 entries; 2 entries)"),
        ([{"a": 1}], [{"a": 2}], "k"),
        (True, None, "k (true; nothing)"),
    ],
)
def test_values_are_shown_as_a_scenario_has_them(one, other, said):
    assert report._differing("k", one, other) == said


def test_what_cannot_be_compared_is_one_message(ran):
    with pytest.raises(InputError, match=r"nothing to compare: the first result has 'sapphire-rapids v6\.18'"):
        two_results(ran(), ran(**{"host.cpu": ["zen4", "zen5"]}))
    only = ran(**{"run.strategies": ["manual-exit"], "run.reference": "manual-exit"})
    with pytest.raises(InputError, match="no strategy in common"):
        two_results(only, ran(**{"run.strategies": ["manual-load"], "run.reference": "manual-load"}))


def test_the_command_takes_one_directory_or_two(ran, tmp_path, capsys):
    path = tmp_path / "host.toml"
    path.write_text(HOST)
    for name, seed in (("a", 1), ("b", 2)):
        experiment.run(path, seed=seed, jobs=1, simulate=fake_host.simulate, out=tmp_path / name)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    status, out, err = run_command(capsys, "compare", a, b)
    assert (status, err) == (0, "")
    assert "NOT PAIRED: different seed (1; 2)" in " ".join(out.split())
    status, out, _ = run_command(capsys, "compare", a, b, "--json")
    assert json.loads(out)["cases"][0]["differs"] == []
    for arguments in ((a, b, "--mail"), (a, str(tmp_path)), (a, b, "--reference", "nobody")):
        status, out, err = run_command(capsys, "compare", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
