"""What the cost figure says: the pair, its difference, the intervals, what is unsound."""

import re
from dataclasses import replace
from types import SimpleNamespace

import fake_host
import pandas as pd
import pytest
from drawn import ASKED, GUESTS, HOST, ONE_AND_MANY, TWO_CPUS, compared, title

import sim
from sim import experiment
from sim.analysis.answers import Difference, Estimate, Range
from sim.report import amounts, findings, shown

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.mark.parametrize("turned", [False, True])
def test_the_cost_figure_says_by_how_much_the_pair_differs_that_is_asked_about(tmp_path_factory, turned):
    text = ASKED.replace('"manual-load", "independent"]]', '"independent", "manual-load"]]') if turned else ASKED
    what = compared(tmp_path_factory, text + GUESTS)
    costs = what.df_metrics()
    costs = costs[costs["metric"] == "cost_carrying_without_xss"].set_index("strategy")["mean"]
    us = (costs["manual-load"] - costs["independent"]) / 2e9 * 1e6
    said = re.match(
        r"manual-load costs ([\d,.]+) ± [\d.]+ us per vCPU-second more than independent,", title(what.plot_cost())
    )
    assert float(said[1].replace(",", "")) == pytest.approx(us, rel=0.01)


def test_without_a_question_about_a_pair_the_extremes_are_named(drawn_comparison):
    kind, what = drawn_comparison
    said = title(what.plot_cost())
    if kind == "guests":
        assert re.match(
            r"own operations go from \+[\d.]+ \([\w-]+\) to \+[\d.,]+ \(manual-exit\) us per vCPU-s", said, re.I
        )
    if kind == "no-guests":
        assert re.match(r"xstate-all costs .* us per CPU-second more than free-ssp", said)


def estimate(mean, half, n=10):
    return Estimate(mean, mean - half, mean + half, "cycles/vCPU-s", n)


def difference(mean, half, p, n=10, cheaper=0.0):
    own, span = estimate(mean, half, n), Range(mean / 2, mean, 2 * mean)
    nothing = estimate(0.0, 0.0, n)
    return Difference(
        case="c", a="a", b="b", own=own, own_without_xss=own, xss=nothing, range=span, range_without_xss=span,
        range_xss=Range(0, 0, 0), p=p, p_without_xss=p, cheaper=cheaper, cheaper_without_xss=cheaper, assumed=1.0,
        rows=("row",), planned=True, p_adjusted=float("nan"), p_without_xss_adjusted=float("nan"), verdict="",
        heavy_tails=False,
    )  # fmt: skip


def test_a_difference_is_said_as_it_was_found():
    def said(*found, **more):
        return findings.of_pair(difference(*found, **more), 0.001, "us")

    assert (
        said(12_340, 560, 1e-9)
        == "a costs 12.3 ± 0.6 us more than b, and costs more in > 99 % of the draws of the costs"
    )
    assert said(-12_340, 560, 1e-9, cheaper=0.75) == (
        "b costs 12.3 ± 0.6 us more than a, and costs more in 75 % of the draws of the costs"
    )
    assert said(1_234, 5_600, 0.4) == "no difference shown between a and b (1 ± 6 us)"
    assert said(12_340, float("nan"), float("nan"), n=1) == (
        "a costs 12.3 us more than b (one replication: not tested)"
    )
    assert said(0, 0, float("nan")) == "a and b cost the same"


SHOWN, UNSHOWN, ALWAYS_THE_SAME = (1_000, 10, 1e-9), (300, 900, 0.5), (0, 0, float("nan"))
UNTESTED = 1_000, float("nan"), float("nan"), 1


def minus(found):
    return -found[0], *found[1:]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([SHOWN, (2_000, 10, 1e-9)], "a costs 1.00 to 2.00 us per vCPU-second more than b in each case"),
        ([minus(SHOWN), minus(SHOWN)], "b costs 1.00 us per vCPU-second more than a in each case"),
        (
            [SHOWN, UNSHOWN, SHOWN],
            "a costs 1.00 us per vCPU-second more than b in 2 of 3 cases (no difference shown in others)",
        ),
        (
            [ALWAYS_THE_SAME, SHOWN],
            "a costs 1.00 us per vCPU-second more than b in 1 of 2 cases (no difference shown in others)",
        ),
        ([SHOWN, minus(SHOWN)], "Whether a costs more than b depends on the case"),
        ([SHOWN, minus(UNSHOWN)], "a costs 1.00 us per vCPU-second more than b in 1 of 2 cases (no difference shown in "
                                  "others)"),
        ([UNSHOWN, minus(UNSHOWN)], "No difference shown between a and b in any of 2 cases"),
        ([ALWAYS_THE_SAME, UNSHOWN], "No difference shown between a and b in any of 2 cases"),
        ([UNTESTED, UNTESTED], "a costs 1.00 us per vCPU-second more than b in each case (one replication: not "
                               "tested)"),
        ([UNTESTED, minus(UNTESTED)], "Whether a costs more than b depends on the case (one replication: not tested)"),
        ([ALWAYS_THE_SAME, ALWAYS_THE_SAME], "a and b cost the same in all 2 cases"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("asks", [(), (shown.XSS,)])
def test_a_pair_in_several_cases_is_said_to_differ_where_that_is_shown(found, said, asks):
    """Also where writes of IA32_XSS are asked about, of which these have none."""
    case = {"vcpus": 2, "tsc_hz": 1e9}
    comparison = SimpleNamespace(results=SimpleNamespace(manifest={"resolved": {"run": {"asks": asks}}}))
    owns = [findings.Own(case, {}, difference(*each)) for each in found]
    assert findings.of_cost(comparison, None, owns) == said


@pytest.mark.parametrize(("more", "apart"), [(0.0, ""), (1e-13, ""), (0.5, ", IA32_XSS apart")])
def test_only_what_is_more_than_rounding_counts_as_writes_of_ia32_xss(more, apart):
    mean = 12_340.1
    pair = replace(difference(mean, 560, 1e-9), own=estimate(mean * (1 + more), 560))
    results = SimpleNamespace(manifest={"resolved": {"run": {}}})
    owns = [findings.Own({"vcpus": 2, "tsc_hz": 1e9}, {}, pair)] * 2
    said = findings.of_cost(SimpleNamespace(results=results), None, owns)
    assert said == f"a costs 12.3 us per vCPU-second more than b in each case{apart}"
    assert f"more than b{apart}, and" in findings.of_pair(pair, 0.001, "us")


@pytest.mark.parametrize(
    ("strategies", "said"),
    [
        ('["no-cet"]', "Nothing but references: no differences"),
        ('"all"', r"Own operations go from [-+\d.]+ \(.*\) to .* beside free-ssp \(zen4 v6\.18\)"),
    ],
)
def test_a_case_with_the_reference_alone_has_no_difference_to_name(tmp_path_factory, strategies, said):
    what = compared(tmp_path_factory, ONE_AND_MANY.replace('"all"', strategies))
    owns = [findings.own_operations(what, what.answers, case) for case in what.results.cases]
    assert not owns[0].differences
    assert re.fullmatch(said, findings.of_cost(what, what.answers, owns))


def test_one_replication_with_feedback_tests_nothing():
    untested = pd.DataFrame({"verdict": ["not tested"] * 2})
    assert findings.of_feedback(untested, {}) == "How the host reacts: one replication, not tested"


def test_categories_say_how_much_of_the_cycles_no_strategy_is_about(drawn_comparison):
    kind, what = drawn_comparison
    if kind != "guests":
        pytest.skip("once is enough")
    means = what.df_metrics().set_index(["strategy", "metric"])["mean"]["free-ssp"]
    share = 100 * (means["cost_virtualisation"] + means["cost_scheduling"]) / means["cost"]
    assert title(what.plot_categories()).startswith(f"{share:.0f} % of the operations' cycles are virtualisation")


def test_labels_have_units_and_the_reference_is_bold(drawn_comparison):
    kind, what = drawn_comparison
    axes = what.plot_cost().axes[0]
    assert axes.get_xlabel().startswith("us per CPU-second" if kind == "no-guests" else "us per vCPU-second")
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == ["free-ssp"]


def test_the_cost_figure_has_own_operations_with_an_interval_and_apart_the_range_over_the_costs(drawn_comparison):
    kind, what = drawn_comparison
    if kind != "guests":
        pytest.skip("once is enough")
    moved = what.df_differences()
    moved = moved[moved["metric"] == "cost_carrying_without_xss"].set_index("strategy")
    axes = what.plot_cost().axes[0]
    marks = {each.get_label(): each for each in axes.containers}
    assert set(marks) == {"manual-load", "manual-exit", "independent"}
    for name, (mark, _, (bar,)) in marks.items():
        ends = bar.get_segments()[0][:, 0]
        assert [mark.get_xdata()[0], *ends] == pytest.approx(
            [moved.loc[name, end] / 2000 for end in ("mean", "low", "high")], rel=0.02
        )
        spans = [
            line.get_xdata()
            for line in axes.get_lines()
            if line.get_color() == mark.get_color() and line.get_linewidth() == 5
        ]
        assert len(spans) == 1
        assert 0 < spans[0][0] < spans[0][1] < 3 * mark.get_xdata()[0]


def test_what_is_unsound_has_a_mark_and_is_in_no_title(tmp_path_factory):
    text = HOST.replace('"manual-load", "manual-exit", "independent"', '"manual-lazy", "manual-run", "xstate-guest"')
    what = compared(tmp_path_factory, text + GUESTS)
    figure = what.plot_cost()
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert labels == {"free-ssp", "manual-lazy(!)", "manual-run(!)", "xstate-guest"}
    assert "(!): unsound" in figure.get_supxlabel().replace("\n", " ")
    assert re.match(r"xstate-guest costs .* more than free-ssp", title(figure))
    assert "manual" not in title(figure) + title(what.plot_rates())


def of_two_cases(tmp_path_factory, text, one, other):
    pair = f'contrasts = [["{one}", "{other}"]]\n[host]'
    text = re.sub('"manual-load", .*"independent"', '"manual-lazy"', text).replace("[host]", pair)
    return compared(tmp_path_factory, text)


@pytest.mark.parametrize(("turned", "replications"), [(False, 5), (True, 1)])
def test_the_cost_figure_is_about_two_cases_where_they_are_asked_about(tmp_path_factory, turned, replications):
    pair = [f"free-ssp@{cpu} v6.18" for cpu in ("sapphire-rapids", "zen4")]
    text = TWO_CPUS.replace("replications = 5", f"replications = {replications}") + GUESTS
    what = of_two_cases(tmp_path_factory, text, *(pair[::-1] if turned else pair))
    [found] = what.answers.contrasts()
    assert (found.own.mean > 0) == turned
    size = amounts.with_half(abs(found.own.mean) / 2000, (found.own.high - found.own.mean) / 2000).replace("+-", "±")
    said = f"free-ssp (zen4 v6.18) costs {size} us per vCPU-second more than free-ssp (sapphire-rapids v6.18)"
    assert title(what.plot_cost()) == said + " (one replication: not tested)" * (replications == 1)


@pytest.mark.parametrize(("hz", "verdict"), [(250, "same"), (1000, "not shown")])
def test_two_cases_that_cost_the_same_or_hardly_differ_are_said_to(tmp_path_factory, hz, verdict):
    """The fake host draws how often things happen from streams named by how long the name of a case is."""
    text = f'{HOST}{GUESTS}\n[sweep]\n"host.hz" = [100, {hz}]\n'
    cases = [f"zen4 v6.18 host.hz={each}" for each in (100, hz)]
    what = of_two_cases(tmp_path_factory, text, *(f"free-ssp@{case}" for case in cases))
    said = findings.of_cost(what, what.answers, [])
    assert [each.verdict for each in what.answers.contrasts()] == [verdict]
    one, other = (f"free-ssp ({case})" for case in cases)
    if verdict == "same":
        assert said == f"{one} and {other} cost the same"
    else:
        assert re.fullmatch(r"No difference shown between (.*) and (.*) \([\d,.]+ ± [\d,.]+ us per vCPU-second\)", said)
        assert {one, other} == set(re.findall(r"free-ssp \([^)]*\)", said))


def test_of_two_cases_with_an_unsound_strategy_no_cost_is_said(tmp_path_factory):
    pair = "free-ssp@sapphire-rapids v6.18", "manual-lazy@zen4 v6.18"
    what = of_two_cases(tmp_path_factory, TWO_CPUS + GUESTS, *pair)
    said = findings.of_cost(what, what.answers, [])
    assert said == "free-ssp (sapphire-rapids v6.18) against manual-lazy (zen4 v6.18): one of them is unsound"


def test_contrasts_of_cases_of_one_strategy_have_a_figure_with_a_row_for_each_of_them():
    what = sim.compare(experiment.run("mediated-vpmu", replications=3, jobs=1, simulate=fake_host.simulate))
    assert set(what._figures()) == {"contrasts", "categories"}
    axes = what.plot_contrasts().axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"mediated less emulated, {each}" for each in ("1 kHz", "10 kHz", "100 kHz")]
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    hz = what.results.cases[0]["tsc_hz"]
    assert marks == pytest.approx([1e6 / hz * each.own.mean for each in what.answers.contrasts()])
    ranges = [text.get_text().partition("[")[2].rstrip("]") for text in axes.texts]
    ends = [(1e6 / hz * each.range.low, 1e6 / hz * each.range.high) for each in what.answers.contrasts()]
    assert ranges == [" to ".join(map(amounts.three_digits, each)) for each in ends]


def test_the_cost_figure_is_about_the_writes_of_ia32_xss_where_they_are_asked_about():
    what = sim.compare(experiment.run("xss-mismatch", replications=3, jobs=1, simulate=fake_host.simulate))
    moved = [
        1e6 * what.answers.difference(case["case"], "xstate-guest", "free-ssp").xss.mean / case["tsc_hz"]
        for case in what.results.cases
    ]
    low, high = amounts.three_digits(min(moved)), amounts.three_digits(max(moved))
    assert min(moved) < 0 < max(moved)
    assert title(what.plot_cost()).startswith(
        f"xstate-guest less free-ssp, writes of IA32_XSS alone: {low} to +{high} us per vCPU-second"
    )
