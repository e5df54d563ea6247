"""The figure over a rate: laws, simulated points, break-evens."""

import re
from dataclasses import replace

import fake_host
import numpy as np
import pytest
from drawn import ASKED, GUESTS, HOST, SCENARIOS, TWO_CPUS, compared, swept, title
from readable import unreadable

from sim.report import amounts

pytestmark = pytest.mark.usefixtures("few_draws")


# Rates.


def test_rates_are_drawn_from_a_sweep_where_there_is_one_and_from_the_law_otherwise(drawn_comparison):
    kind, what = drawn_comparison
    note = what.plot_rates().get_supxlabel().replace("\n", " ")
    assert ("Simulated, over the sweep" in note) == (kind == "sweep")
    assert ("a law, not a simulation" in note) == (kind != "sweep")
    sources = set(what.df_break_even()["source"])
    assert ("sweep" if kind == "sweep" else "law") in sources or kind == "no-guests"


def test_a_break_even_of_a_sweep_lies_between_the_points_where_the_sign_changes_and_is_in_the_title(drawn_comparison):
    kind, what = drawn_comparison
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
