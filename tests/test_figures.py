"""Figures say what was found, show what there is, and can be read."""

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_host
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from readable import texts, unreadable

import sim
from sim import experiment
from sim.analysis.answers import Difference, Estimate, Range
from sim.errors import InputError
from sim.kernel import strategies
from sim.report import amounts, figure_style, findings, shown

HOST = """
title = "Figures"
[run]
measure = "50 ms"
replications = 2
strategies = ["free-ssp", "manual-load", "manual-exit", "independent"]
[host]
cpus = 2
cpu = ["zen4"]
tsc = "2 GHz"
"""
GUESTS = """
[guests.g]
vcpus = 2
"""
SWEEP = """
[guests.g.exits]
io = { every = "1 kHz" }
[sweep]
"guests.g.exits.io.every" = ["1 kHz", "9 kHz"]
"""
PIPES = """
[threads.p]
kind = "pipe"
compute = "1 us"
"""
SCENARIOS = {
    "guests": HOST + GUESTS,
    "sweep": HOST + GUESTS + SWEEP,
    "no-guests": HOST.replace('"manual-load", "manual-exit", "independent"', '"xstate-all"') + PIPES,
}
ONE_AND_MANY = HOST.replace('["free-ssp", "manual-load", "manual-exit", "independent"]', '"all"')
ONE_AND_MANY = ONE_AND_MANY.replace('["zen4"]', '["zen4"]\nkernel = ["v6.6", "v6.18"]') + GUESTS

LONG = HOST.replace('"50 ms"', '"1 s"')
"""With enough wake-ups for quantiles."""

pytestmark = pytest.mark.usefixtures("few_draws")

FIGURES = ("cost", "categories", "rates", "latency")


def compared(tmp_path_factory, text, simulate=fake_host.simulate, *, feedback=False, **options):
    path = tmp_path_factory.mktemp("figures") / "figures.toml"
    path.write_text(text)

    if feedback:
        options["overrides"] = {"run.feedback": True}
    results = experiment.run(path, jobs=1, simulate=simulate, **options)
    return sim.compare(results)


def figures_of(comparison):
    return {
        name: getattr(comparison, f"plot_{name}")()
        for name in FIGURES
        if name != "latency" or comparison.independent is not None
    }


def swept(case, record):
    """The fake host; where the sweep says so, with hardly any exits or with nine times as many."""
    every = case.sweep.get("guests.g.exits.io.every")
    if every is None:
        return record
    times = {"1 kHz": 0, "9 kHz": 9}[every]
    ledger = tuple(
        (op, count * factor, cycles * factor)
        for op, count, cycles in record.ledger
        for factor in (times if op.phase in ("vm-transition", "guest-exit", "guest-entry", "xss") else 1,)
        if factor
    )
    metrics = record.metrics
    if metrics:
        metrics = metrics | {"vm_exits": (9 * metrics["vm_exits"][0] if times else 40, "count")}
    return replace(record, ledger=ledger, metrics=metrics)


@pytest.fixture(scope="module", params=SCENARIOS)
def comparison(request, tmp_path_factory):
    return request.param, compared(tmp_path_factory, SCENARIOS[request.param], fake_host.altered(swept))


# Whether one can read them.


SIX_CASES = 'cpu = ["sapphire-rapids", "zen4"]\nkernel = ["v6.18", "v6.19", "v7.3"]'
TWO = '["free-ssp", "xstate-guest"]'


@pytest.mark.slow
@pytest.mark.parametrize("cases", ['cpu = ["sapphire-rapids"]', SIX_CASES], ids=["1 case", "6 cases"])
@pytest.mark.parametrize("chosen", [TWO, '"all"'], ids=["2 strategies", "15 strategies"])
def test_no_labels_overlap_at_2_to_15_strategies_and_1_to_6_cases(tmp_path_factory, chosen, cases):
    text = LONG.replace('["free-ssp", "manual-load", "manual-exit", "independent"]', chosen)
    text = text.replace('cpu = ["zen4"]\ntsc = "2 GHz"', cases) + GUESTS
    few = compared(tmp_path_factory, text, feedback=cases != SIX_CASES)
    assert len(few.results.cases) == (6 if cases == SIX_CASES else 1)
    assert len(few.results.cases[0]["strategies"]) == (2 if chosen == TWO else 15)
    for name, figure in figures_of(few).items():
        assert not unreadable(figure), name


def test_no_labels_overlap_in_a_sweep_nor_without_guests(comparison):
    for name, figure in figures_of(comparison[1]).items():
        assert not unreadable(figure), name


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("ends", [(-3e5, 2e6), (0.02, 900), (-5, 80_000), (-2e6, -30)])
def test_ticks_of_an_axis_that_is_logarithmic_on_both_sides_of_0_do_not_overlap(columns, ends):
    figure = Figure(figsize=(figure_style.WIDTH_IN, 3), layout="constrained")
    for axes in figure.subplots(1, columns, squeeze=False)[0]:
        axes.yaxis.set_visible(False)
        assert figure_style.symmetric_log(axes, "x", [ends, [1.0]]) == " (symmetric log)"
    assert not unreadable(figure)
    shown = [text for text, _ in texts(figure)]
    assert shown.count("0") == columns
    assert len(shown) >= 2 * columns


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.1)), max_size=12))
def test_labels_that_are_spread_keep_their_order_and_lie_apart_and_inside_if_they_fit(labels):
    labels = sorted(labels)
    halves = [half for _, half in labels]
    found = figure_style.spread([at for at, _ in labels], halves)
    ends = [(at - half, at + half) for at, half in zip(found, halves, strict=True)]
    assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(ends))
    if 2 * sum(halves) <= 1:
        assert all(low >= -1e-9 and high <= 1 + 1e-9 for low, high in ends)


MACHADO = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Simulation of colour vision deficiency in linear RGB, severity 1 (Machado et al., IEEE TVCG 15, 2009, table 1)."""


def linear(color):
    srgb = np.array(to_rgb(color))
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def oklab(rgb):
    """Linear RGB in OKLab (Ottosson, 2020), times 100: differences of about 2 are just noticed."""
    to_lms = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return 100 * np.array(to_lab) @ np.cbrt(np.array(to_lms) @ np.clip(rgb, 0, 1))


OF_APX = ["guest-fpstate", "regs-entry-exit", "regs-outer-loop", "hardware-xcr0"]


@pytest.mark.parametrize("together", [strategies.names(), ["no-cet", "free-ssp", *OF_APX]], ids=["CET_S", "APX"])
def test_strategies_of_one_question_are_told_apart_without_one_kind_of_cone(together):
    colors = [figure_style.look(name).color for name in together] + [figure_style.OWN_COLOR]
    for vision, matrix in MACHADO.items():
        seen = [oklab(np.array(matrix) @ linear(color)) for color in colors]
        nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
        assert nearest > 9, vision


def test_every_shipped_strategy_has_a_colour_and_a_marker_of_its_own():
    looks = [figure_style.look(name) for name in strategies.names()]
    assert set(figure_style.LOOKS) == {*strategies.names(), *OF_APX} == set(strategies.names("apx"))
    of_apx = [figure_style.look(name) for name in ["no-cet", "free-ssp", *OF_APX]]
    assert len({each.color for each in of_apx}) == len({each.marker for each in of_apx}) == len(of_apx)
    assert len({each.color for each in looks}) == len({each.marker for each in looks}) == len(looks) == 15


def test_the_look_of_an_own_strategy_follows_from_its_name_alone():
    assert figure_style.look("mine.toml") == figure_style.look("mine.toml")
    assert figure_style.look("mine.toml").color == figure_style.OWN_COLOR
    assert len({figure_style.look(f"own-{i}").marker for i in range(40)}) > 5


@pytest.mark.slow
def test_a_strategy_has_one_look_in_all_figures(tmp_path_factory):
    what = compared(tmp_path_factory, LONG + GUESTS, feedback=True)
    looks = {}
    for name, figure in figures_of(what).items():
        for axes in figure.axes if name != "categories" else ():
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                line = handle[0] if isinstance(handle, tuple) else handle
                looks.setdefault(label, set()).add((name, line.get_color(), line.get_marker()))
    for strategy in ("manual-load", "manual-exit", "independent"):
        assert {name for name, *_ in looks[strategy]} == {"cost", "rates", "latency"}
        assert {tuple(look) for _, *look in looks[strategy]} == {tuple(figure_style.look(strategy))}


# What they say.


def test_every_figure_says_how_many_replications_and_which_seed(tmp_path_factory):
    what = compared(tmp_path_factory, LONG + GUESTS, feedback=True, seed=7)
    for figure in figures_of(what).values():
        assert "n = 2 replications, seed 7." in figure.get_supxlabel().replace("\n", " ")


ASKED = HOST.replace("[host]", 'contrasts = [["manual-load", "independent"]]\n[host]').replace("= 2\n", "= 12\n", 1)


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


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


def test_without_a_question_about_a_pair_the_extremes_are_named(comparison):
    kind, what = comparison
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


def test_categories_say_how_much_of_the_cycles_no_strategy_is_about(comparison):
    kind, what = comparison
    if kind != "guests":
        pytest.skip("once is enough")
    means = what.df_metrics().set_index(["strategy", "metric"])["mean"]["free-ssp"]
    share = 100 * (means["cost_virtualisation"] + means["cost_scheduling"]) / means["cost"]
    assert title(what.plot_categories()).startswith(f"{share:.0f} % of the operations' cycles are virtualisation")


def test_labels_have_units_and_the_reference_is_bold(comparison):
    kind, what = comparison
    axes = what.plot_cost().axes[0]
    assert axes.get_xlabel().startswith("us per CPU-second" if kind == "no-guests" else "us per vCPU-second")
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == ["free-ssp"]


def test_the_cost_figure_has_own_operations_with_an_interval_and_apart_the_range_over_the_costs(comparison):
    kind, what = comparison
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


# Rates.


def test_rates_are_drawn_from_a_sweep_where_there_is_one_and_from_the_law_otherwise(comparison):
    kind, what = comparison
    note = what.plot_rates().get_supxlabel().replace("\n", " ")
    assert ("Simulated, over the sweep" in note) == (kind == "sweep")
    assert ("a law, not a simulation" in note) == (kind != "sweep")
    sources = set(what.df_break_even()["source"])
    assert ("sweep" if kind == "sweep" else "law") in sources or kind == "no-guests"


def test_a_break_even_of_a_sweep_lies_between_the_points_where_the_sign_changes_and_is_in_the_title(comparison):
    kind, what = comparison
    if kind != "sweep":
        pytest.skip("needs a sweep")
    found = what.df_break_even()
    found = found[(found["source"] == "sweep") & (found["rate"] == "exits")]
    costs = what.df_differences()
    costs = costs[costs["metric"] == "cost"].pivot(index="strategy", columns="case", values="mean")
    signs = {strategy for strategy, row in costs.iterrows() if row.min() < 0 < row.max()}
    assert set(found["strategy"]) == signs == {"independent"}
    rates = what.df_metrics()
    exits = rates[(rates["metric"] == "vm_exits_per_second") & (rates["strategy"] == "free-ssp")]["mean"] / 2
    assert exits.min() < found["value"].item() < exits.max()
    said = re.match(r"independent costs what free-ssp does at ([\d,]+) VM exits", title(what.plot_rates()))
    assert float(said[1].replace(",", "")) == pytest.approx(found["value"].item(), rel=0.01)


TWO_CPUS = HOST.replace('cpu = ["zen4"]', 'cpu = ["sapphire-rapids", "zen4"]').replace(
    "replications = 2", "replications = 5"
)


@pytest.fixture(scope="module")
def lazy_manual_load(tmp_path_factory):
    """On one of two CPUs manual-load saves a tenth of what it saves in the sequences of the model."""

    def lazy(case, record):
        if record.strategy != "manual-load" or case.cpu != "zen4":
            return record
        ledger = tuple(
            (op, count // 10, cycles // count * (count // 10)) if op.phase == "vcpu-put" else (op, count, cycles)
            for op, count, cycles in record.ledger
        )
        return replace(record, ledger=ledger)

    return compared(tmp_path_factory, TWO_CPUS + GUESTS, fake_host.altered(lazy))


def test_where_the_law_misses_what_was_simulated_there_is_no_break_even_and_no_line(lazy_manual_load):
    check = lazy_manual_load.df_law_check()
    assert list(check.loc[~check["holds"], ["case", "strategy"]].itertuples(index=False, name=None)) == [
        ("zen4 v6.18", "manual-load")
    ]
    found = lazy_manual_load.df_break_even()
    assert "manual-load" not in set(found.loc[found["case"] == "zen4 v6.18", "strategy"])
    text = " ".join(lazy_manual_load.summary().split())
    assert text.count("The linear law does not hold for") == 1
    assert "The linear law does not hold for manual-load:" in text
    panels = lazy_manual_load.plot_rates().axes
    lines, said = (
        ([*axes.get_legend_handles_labels()[1]] for axes in panels),
        [{text.get_text() for text in axes.texts} for axes in panels],
    )
    assert ["manual-load" in labels for labels in lines] == [True, True, False, False]
    assert ["manual-load: no line" in labels for labels in said] == [False, False, True, True]


def test_the_law_does_not_hold_for_a_strategy_only_because_ia32_xss_is_most_of_it(tmp_path_factory):
    def carries_twice(case, record):
        if record.strategy != "independent":
            return record
        of_cet_s = 1 << 12
        ledger = (
            (op, n * (1 + (op.rfbm == of_cet_s)), cycles * (1 + (op.rfbm == of_cet_s)))
            for op, n, cycles in record.ledger
        )
        return replace(record, ledger=tuple(ledger))

    check = compared(tmp_path_factory, HOST + GUESTS, fake_host.altered(carries_twice)).df_law_check()
    row = check.set_index("strategy").loc["independent"]
    assert abs(row["law"] - row["mean"]) < 0.1 * abs(row["mean"])
    assert abs(row["law_without_xss"] - row["mean_without_xss"]) > 0.1 * abs(row["mean_without_xss"])
    assert not row["holds"]


def test_the_simulated_values_are_marked_at_the_simulated_rate(lazy_manual_load):
    check = lazy_manual_load.df_law_check()
    means = check.loc[check["case"] == "zen4 v6.18", "mean"] / 2000
    axes = lazy_manual_load.plot_rates().axes[2]
    dotted = next(line for line in axes.get_lines() if line.get_linestyle() == ":")
    marks = [
        line.get_ydata()[0]
        for line in axes.get_lines()
        if line.get_marker() not in ("None", "_", "|") and list(line.get_xdata()) == [dotted.get_xdata()[0]]
    ]
    assert sorted(marks) == pytest.approx(sorted(means))


def test_the_rates_figure_is_about_the_pair_that_is_asked_about(tmp_path_factory):
    what = compared(tmp_path_factory, ASKED.replace('"independent"]]', '"manual-exit"]]') + GUESTS)
    check = what.df_law_check().set_index("strategy")
    missed = [name for name in ("manual-load", "manual-exit") if not check.loc[name, "holds"]]
    said = title(what.plot_rates())
    if missed:
        assert said.startswith("Cost at other rates of VM exits and context switches, without " + " and ".join(missed))
    else:
        assert re.match(r"manual-(load|exit) costs more than manual-(exit|load) (above|at all rates within)", said)


def test_a_sweeps_figure_names_its_points_and_is_about_the_pair_that_is_asked_about(tmp_path_factory):
    text = SCENARIOS["sweep"].replace("[host]", 'contrasts = [["manual-exit", "manual-load"]]\n[host]')
    what = compared(tmp_path_factory, text, fake_host.altered(swept))
    figure = what.plot_rates()
    above = [child for axes in figure.axes for child in axes.child_axes]
    assert above
    assert {label.get_text() for label in above[0].get_xticklabels()} == {"1 kHz", "9 kHz"}
    assert above[0].get_xlabel() == "guests.g.exits.io.every"
    assert not unreadable(figure)
    first, last = (
        what.answers.difference(case["case"], "manual-exit", "manual-load").own.mean / 2000
        for case in what.results.cases
    )
    said = title(figure)
    assert said.startswith("manual-exit ")
    assert f"{amounts.three_digits(abs(first))} us" in said or amounts.three_digits(first) in said
    assert amounts.three_digits(abs(last)) in said


def test_the_key_of_the_rates_figure_has_the_colours_of_its_lines_and_marks(tmp_path_factory):
    text = HOST.replace('"free-ssp", ', '"free-ssp", "no-cet", ') + GUESTS
    axes = compared(tmp_path_factory, text).plot_rates().axes[0]
    in_key = {line.get_color() for line in axes.get_lines() if line.get_label() == "_" and line.get_clip_on() is False}
    lines = {line.get_color() for line in axes.get_lines() if len(line.get_xdata()) > 100}
    marks = {container[0].get_color() for container in axes.containers}
    assert lines <= in_key
    assert marks <= in_key


def test_ticks_are_decimals_below_1_and_have_no_prefix_for_thousandths():
    numbers = figure_style.tick_numbers()
    assert [numbers(value, 0) for value in (0, 0.1, 0.025, -0.5, 20, 900, 1000, 2_000_000)] == [
        "0", "0.1", "0.025", "-0.5", "20", "900", "1k", "2M"
    ]  # fmt: skip


def test_ticks_of_a_symmetric_axis_have_one_minus_sign():
    numbers = figure_style.tick_numbers()
    assert [numbers(value, 0) for value in (-2_000_000, -1000, -100, -0.1)] == ["-2M", "-1k", "-100", "-0.1"]


def test_every_figure_has_the_minus_sign_of_texts(comparison):
    for name, figure in figures_of(comparison[1]).items():
        figure.draw_without_rendering()
        assert not any("\N{MINUS SIGN}" in text.get_text() for text in figure.findobj(Text)), name


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


def test_two_laws_cross_where_an_open_circle_is_and_the_title_names_one(tmp_path_factory, monkeypatch):
    monkeypatch.setitem(fake_host.RATES, "in-kernel-exit", 3000)
    figure = compared(tmp_path_factory, HOST + GUESTS).plot_rates()
    found = []
    for axes in figure.axes:
        lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 100]
        for circle in axes.get_lines():
            if circle.get_markerfacecolor() == "white":
                (x,), (y,) = circle.get_xdata(), circle.get_ydata()
                at = [np.interp(np.log(x), np.log(line.get_xdata()), line.get_ydata()) for line in lines]
                crossing = {
                    line.get_label()
                    for line, each in zip(lines, at, strict=True)
                    if abs(each - y) < 0.005 * max(map(abs, at))
                }
                found.append((x, crossing))
    assert found
    assert all(len(crossing) >= 2 for _, crossing in found)
    said = re.match(r"(\S+) costs more than (\S+) above ([\d,]+) (VM exits|context switches)", title(figure))
    named = next(x for x, crossing in found if {said[1], said[2]} <= crossing)
    assert float(said[3].replace(",", "")) == pytest.approx(named, rel=0.01)


# How the host reacts.


def test_on_one_schedule_there_are_no_latencies_to_compare(comparison, tmp_path):
    kind, what = comparison
    if kind != "guests":
        pytest.skip("once is enough")
    with pytest.raises(InputError, match=r"no independent runs.*allowed: .*run.feedback"):
        what.plot_latency()
    assert "latency.png" not in {path.name for path in what.write_figures(tmp_path / "figures")}


def test_a_latency_that_differs_between_independent_runs_is_found(tmp_path_factory):
    def slow(case, record):
        later = {
            name: {(4 * low, 4 * high): count for (low, high), count in buckets.items()}
            for name, buckets in record.latency.items()
        }
        return replace(record, latency=later) if record.timed_by == "manual-exit" else record

    text = LONG.replace("replications = 2", "replications = 5") + GUESTS
    what = compared(tmp_path_factory, text, fake_host.altered(slow), feedback=True)
    figure = what.plot_latency()
    assert re.match(r"With manual-exit vCPU wake-up to VM entry, p50 is 300 % longer", title(figure))
    marks = {each.get_label(): each[0].get_xdata()[0] for each in figure.axes[0].containers}
    assert marks["manual-exit"] > 10
    assert marks["manual-load"] == marks["independent"] == 0


# The files.


@pytest.mark.slow
def test_all_figures_are_written_as_png_and_svg(tmp_path_factory, tmp_path):
    what = compared(tmp_path_factory, LONG + GUESTS, feedback=True)
    names = {path.name for path in what.write_figures(tmp_path / "figures")}
    assert names == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")}
    for name in names:
        assert (tmp_path / "figures" / name).stat().st_size > 1000


@pytest.mark.slow
def test_a_case_with_the_reference_alone_says_so_in_a_low_row_and_has_no_axis_of_nothing(tmp_path_factory):
    both = compared(tmp_path_factory, ONE_AND_MANY)
    for figure in (both.plot_cost(), both.plot_rates()):
        panels = figure.axes
        assert sum(text.get_text().startswith("only the reference") for axes in panels for text in axes.texts) == 2
        figure.draw_without_rendering()
        heights = [axes.get_window_extent().height for axes in panels]
        assert heights[0] < heights[-1] / 2


def test_no_figure_is_imported_before_one_is_drawn():
    code = "import sys, sim.report.comparison; print('matplotlib' in sys.modules or 'seaborn' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout == "False\n", done.stderr
