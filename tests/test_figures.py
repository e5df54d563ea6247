"""Figures are drawn for every kind of scenario, and show what there is."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_host
import pytest

import sim
from sim import experiment

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


@pytest.fixture(scope="module", params=SCENARIOS)
def comparison(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / f"{request.param}.toml"
    path.write_text(SCENARIOS[request.param])
    return request.param, sim.compare(experiment.run(path, jobs=1, simulate=fake_host.altered(swept)))


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


def test_every_figure_can_be_laid_out(comparison):
    _, what = comparison
    for draw in (what.plot_cost, what.plot_categories, what.plot_rates, what.plot_latency):
        draw().draw_without_rendering()


def test_all_figures_are_written_as_png_and_svg(comparison, tmp_path):
    kind, what = comparison
    if kind != "guests":
        pytest.skip("once is enough")
    names = {path.name for path in what.write_figures(tmp_path / "figures")}
    assert names == {f"{n}.{kind}" for n in ("cost", "categories", "rates", "latency") for kind in ("png", "svg")}
    for name in names:
        assert (tmp_path / "figures" / name).stat().st_size > 1000


def test_labels_have_units_and_the_reference_is_bold(comparison):
    kind, what = comparison
    axes = what.plot_cost().axes[0]
    assert axes.get_xlabel() == ("cycles per CPU-second" if kind == "no-guests" else "cycles per vCPU-second")
    assert axes.get_xlim()[0] == 0
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == ["free-ssp"]
    costs = next(line.get_xdata() for line in axes.get_lines() if len(line.get_xdata()) > 1)
    assert list(costs) == sorted(costs)


def test_rates_are_drawn_from_a_sweep_where_there_is_one_and_from_the_law_otherwise(comparison):
    kind, what = comparison
    figure = what.plot_rates()
    note = figure.get_supxlabel()
    assert ("simulated: means" in note) == (kind == "sweep")
    assert ("a law, not a simulation" in note) == (kind != "sweep")
    sources = set(what.df_break_even()["source"])
    assert "law" in sources or kind == "no-guests"


def test_a_break_even_of_a_sweep_lies_between_the_points_where_the_sign_changes(comparison):
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

    path = tmp_path_factory.mktemp("lazy") / "lazy.toml"
    path.write_text(TWO_CPUS + GUESTS)
    return sim.compare(experiment.run(path, jobs=1, simulate=fake_host.altered(lazy)))


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
    figure = lazy_manual_load.plot_rates()
    assert "manual-load (zen4 v6.18)" in figure.get_supxlabel()
    labels = [axes.get_legend_handles_labels()[1] for axes in figure.axes]
    assert "manual-load" in labels[0]
    assert "manual-load: no line" in labels[2]


def test_the_simulated_values_are_marked_at_the_simulated_rate(lazy_manual_load):
    check = lazy_manual_load.df_law_check()
    means = set(check.loc[check["case"] == "zen4 v6.18", "mean"])
    axes = lazy_manual_load.plot_rates().axes[2]
    dotted = next(line for line in axes.get_lines() if line.get_linestyle() == ":" and len(line.get_xdata()) == 2)
    marks = {
        y
        for line in axes.get_lines()
        if line.get_marker() not in ("None", "_", "|") and len(line.get_xdata()) <= len(means)
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if x == dotted.get_xdata()[0]
    }
    assert means <= marks


def test_a_strategy_has_one_colour_in_all_panels(lazy_manual_load):
    colours = {}
    for axes in lazy_manual_load.plot_rates().axes:
        for line in axes.get_lines():
            if not line.get_label().startswith("_"):
                colours.setdefault(line.get_label(), set()).add((str(line.get_color()), line.get_linestyle()))
    assert {"manual-load", "manual-exit", "independent"} <= set(colours)
    assert all(len(found) == 1 for found in colours.values())


def test_a_case_with_the_reference_alone_says_so_in_a_low_row_and_has_no_axis_of_nothing(tmp_path):
    path = tmp_path / "one-and-many.toml"
    path.write_text(ONE_AND_MANY)
    both = sim.compare(experiment.run(path, jobs=1, simulate=fake_host.simulate))
    for figure in (both.plot_cost(), both.plot_rates()):
        panels = figure.axes
        assert sum(text.get_text().startswith("only the reference") for axes in panels for text in axes.texts) == 2
        figure.draw_without_rendering()
        heights = [axes.get_window_extent().height for axes in panels]
        assert heights[0] < heights[-1] / 2


def test_no_figure_is_imported_before_one_is_drawn():
    code = "import sys, sim.analysis.comparison; print('matplotlib' in sys.modules or 'seaborn' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout == "False\n", done.stderr
