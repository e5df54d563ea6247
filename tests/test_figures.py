"""One can read every figure, and all of them look alike and are written as files."""

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_host
import numpy as np
import pytest
from drawn import GUESTS, HOST, ONE_AND_MANY, compared, title
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from readable import texts, unreadable

from sim.errors import InputError
from sim.kernel import strategies
from sim.report import figure_style

LONG = HOST.replace('"50 ms"', '"1 s"')
"""With enough wake-ups for quantiles."""

pytestmark = pytest.mark.usefixtures("few_draws")

FIGURES = ("cost", "categories", "rates", "latency")


def figures_of(comparison):
    return {
        name: getattr(comparison, f"plot_{name}")()
        for name in FIGURES
        if name != "latency" or comparison.independent is not None
    }


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


def test_no_labels_overlap_in_a_sweep_nor_without_guests_and_the_minus_sign_is_that_of_texts(drawn_comparison):
    for name, figure in figures_of(drawn_comparison[1]).items():
        assert not unreadable(figure), name
        assert not any("\N{MINUS SIGN}" in text.get_text() for text in figure.findobj(Text)), name


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


def test_ticks_are_decimals_below_1_and_have_no_prefix_for_thousandths():
    numbers = figure_style.tick_numbers()
    assert [numbers(value, 0) for value in (0, 0.1, 0.025, -0.5, 20, 900, 1000, 2_000_000)] == [
        "0", "0.1", "0.025", "-0.5", "20", "900", "1k", "2M"
    ]  # fmt: skip


def test_ticks_of_a_symmetric_axis_have_one_minus_sign():
    numbers = figure_style.tick_numbers()
    assert [numbers(value, 0) for value in (-2_000_000, -1000, -100, -0.1)] == ["-2M", "-1k", "-100", "-0.1"]


# How the host reacts.


def test_on_one_schedule_there_are_no_latencies_to_compare(drawn_comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda *arguments, **options: None)
    kind, what = drawn_comparison
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
