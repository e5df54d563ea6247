"""The uncertainty of a run as figures, one for each part of the report; each says in its title what was found."""

import textwrap
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from sim.analysis.uncertainty.breakeven import BreakEven, together
from sim.analysis.uncertainty.report import CaseReport, View, file_name
from sim.report.amounts import three_digits
from sim.report.figure_style import look, style, symmetric_log, tick_numbers
from sim.report.summary import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN: Final = 12
"""The most factors or break-even points that a figure shows by name."""
FACTORS: Final = 7
"""Factors that have a colour of their own."""
TITLE_PER_IN: Final = 9.5
"""Characters of a title in an inch of a figure's width."""
OPEN: Final = 0.05
"""A pair is open if each is cheaper than the other with at least this probability."""


def write_figures(each: CaseReport, folder: Path, seed: int) -> list[Path]:
    """Draws all figures of a case as PNG files in ``folder``, and returns their paths; ``seed``: of the draws."""
    parts = {
        "probability": plot_probability, "intervals": plot_intervals, "variance": plot_variance,
        "break-even": plot_break_even, "measure-next": plot_measure_next, "feedback": plot_feedback,
    }  # fmt: skip
    n = each.coefficients.replications
    draws = len(each.views[0].pricing.draws.rows)
    written = []
    for name, plot in parts.items():
        figure = plot(each)
        if figure is not None:
            note = f"n = {n} replication{'s' * (n != 1)}, {draws:,} draws of the costs, seed {seed}"
            figure.supxlabel(note, fontsize=8, color="0.25", x=0.01, ha="left")
            written.append(folder / f"{file_name(each.coefficients.case)}-{name}.png")
            figure.savefig(written[-1], dpi=130)
    return written


def _subplots(title: str, width: float, height: float, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    lines = textwrap.wrap(title, int(TITLE_PER_IN * width), break_on_hyphens=False)
    figure = Figure(figsize=(width, height + 0.25 * len(lines) + 0.2), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=11, fontweight="bold", x=0.01, ha="left")
    with style():
        axes = figure.subplots(1, columns, squeeze=False)
    for axis in axes[0]:
        axis.tick_params(labelsize=8.5)
        axis.xaxis.label.set_size(9.5)
    return figure, list(axes[0])


def _names(view: View) -> list[str]:
    """One name for each group of strategies that do the same, in order."""
    names = [short(name) for name in view.pricing.coefficients.strategies]
    return ["\n= ".join(names[i] for i in group) for group in view.groups]


def _height(labels: list[str], line: float) -> float:
    """Inches for labels under each other, each with room for its lines."""
    return sum(max(line, 0.16 * (1 + label.count("\n")) + 0.08) for label in labels)


def plot_probability(each: CaseReport) -> "Figure":
    """The probability that the row is cheaper than the column, with and without IA32_XSS switching."""
    import seaborn as sns

    views = [view for view in each.views if view.distributions == "table"]
    firsts = [group[0] for group in views[0].groups]
    pairs = list(combinations(firsts, 2))
    undecided = sum(
        min(views[0].pricing.cheaper(*pair), views[0].pricing.cheaper(*pair[::-1])) >= OPEN for pair in pairs
    )
    title = (
        f"{each.coefficients.case}: of {len(pairs)} pairs of strategies {undecided} "
        f"{'is' if undecided == 1 else 'are'} open: each is the cheaper one in {100 * OPEN:.0f} % of the draws or more"
    )
    size = 2.5 + 0.5 * len(views[0].groups)
    figure, axes = _subplots(title, 2 * size, size, 2)
    for axis, view in zip(axes, views, strict=True):
        firsts = [group[0] for group in view.groups]
        cells = [[np.nan if a == b else 100 * view.pricing.cheaper(a, b) for b in firsts] for a in firsts]
        labels = [f"{name}  {place}" for place, name in enumerate(_names(view), 1)]
        frame = pd.DataFrame(cells, index=pd.Index(labels), columns=[str(place) for place in range(1, len(labels) + 1)])
        sns.heatmap(
            frame, vmin=0, vmax=100, cmap="PuOr", annot=True, fmt=".0f", cbar=False, square=True, ax=axis,
            annot_kws={"size": 7},
        )  # fmt: skip
        axis.grid(visible=False)
        axis.tick_params(axis="y", rotation=0)
        switching = "with" if view.with_xss else "without"
        axis.set_title(f"{switching} IA32_XSS switching", fontsize=9.5)
        axis.set_xlabel("% of the draws in which the row\nis cheaper than the column", fontsize=9)
    return figure


def plot_intervals(each: CaseReport) -> "Figure":
    """Differences from the reference, with the ranges over replications, over costs, and over both."""
    view, case = each.views[0], each.coefficients
    labels, firsts = _names(view), [group[0] for group in view.groups]
    found = [view.versus_reference(i) for i in firsts]
    ratios = [
        (one.costs.high - one.costs.low) / (one.replications.high - one.replications.low)
        for one in found
        if one.replications.high > one.replications.low
    ]
    title = f"{case.case}: what is not known of the cost beside {short(case.reference)}"
    if ratios:
        median = float(np.median(ratios))
        most, least, factor = ("costs", "replications", median) if median > 1 else ("replications", "costs", 1 / median)
        title = f"{title}: the {most} leave {three_digits(factor)} times as much open as the {least}"
    figure, (axis,) = _subplots(title, 9, 1.2 + _height(labels, 0.32))
    for place, (i, one) in enumerate(zip(firsts, found, strict=True)):
        color, marker = look(case.strategies[i])
        for interval, width, shade in ((one.joint, 9, "0.82"), (one.costs, 5, color), (one.replications, 1.6, "black")):
            axis.plot(
                [interval.low, interval.high], [place, place], color=shade, linewidth=width, solid_capstyle="butt",
                alpha=0.6 if width == 5 else 1.0,
            )  # fmt: skip
        axis.plot(one.replications.mean, place, marker, color=color, markersize=6, markeredgecolor="white")
    axis.axvline(0, color="0.3", linewidth=1, zorder=0)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    ends = [end for one in found for end in (one.joint.low, one.joint.high, one.replications.mean)]
    log = symmetric_log(axis, "x", [ends])
    axis.xaxis.set_major_formatter(tick_numbers())
    axis.set_xlabel(
        f"TSC cycles per {case.per} more than {short(case.reference)}{log}.  Mark: each row at its value;\n"
        "95 % intervals: black, over the replications; coloured, over the costs; grey, over both"
    )
    return figure


def plot_variance(each: CaseReport) -> "Figure | None":
    """Shares of the variance of the difference from the reference."""
    import seaborn as sns

    view, case = each.views[0], each.coefficients
    reference = case.strategies.index(case.reference)
    found = {frozenset(pair): share for pair, share in zip(view.pairs, view.shares, strict=True)}
    rows, labels = [], []
    for group, label in zip(view.groups, _names(view), strict=True):
        share = found.get(frozenset((group[0], reference)))
        if share is not None and share.deviation > 0:
            rows.append(
                share.factors | {"replications": share.replications, "the ratio with others": share.interaction}
            )
            labels.append(label)
    if not rows:
        return None
    frame = pd.DataFrame(rows, index=labels).fillna(0.0)
    first = frame.idxmax(axis=1).value_counts()
    ranked = frame.sum().sort_values(ascending=False).index
    shown = frame[ranked[:FACTORS]].assign(**{"all others": frame[ranked[FACTORS:]].sum(axis=1)})
    title = (
        f"{case.case}: {first.index[0]} explains most of what is not known of {first.iloc[0]} of {len(labels)} "
        f"differences from {short(case.reference)}"
    )
    figure, (axis,) = _subplots(title, 10, 1.2 + _height(labels, 0.3))
    palette = list(sns.color_palette("colorblind", 10).as_hex())
    colors: Any = [*[*palette[:4], *palette[5:8]][: len(shown.columns) - 1], "0.85"]
    shown.mul(100).plot.barh(stacked=True, ax=axis, color=colors, width=0.75)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel(f"% of the variance of the difference from {short(case.reference)}")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def plot_break_even(each: CaseReport) -> "Figure | None":
    """Values of one row at which the order of two strategies is reversed, inside or near its range: a line for each.

    If there is none: how cheap all the rows in which a strategy is more expensive would have to be.
    """
    view, case = each.views[0], each.coefficients
    firsts = [group[0] for group in view.groups if group[0] in view.carrying]
    rows = case.table.rows

    def place(turn: BreakEven) -> float:
        row = rows[turn.row]
        return np.nan if turn.value is None else (turn.value - row.low) / (row.high - row.low)

    turns = [turn for a, b in combinations(firsts, 2) for turn in view.break_even(a, b) if turn.value is not None]
    near = [turn for turn in turns if turn.steady and rows[turn.row].high > rows[turn.row].low]
    near = sorted((turn for turn in near if -0.5 <= place(turn) <= 2), key=lambda turn: abs(place(turn) - 0.5))[:SHOWN]
    if not near:
        return _plot_together(each)
    within = len({frozenset((turn.cheaper, turn.more_expensive)) for turn in near if turn.within})
    pairs = len(firsts) * (len(firsts) - 1) // 2
    title = (
        f"{case.case}: of {pairs} pairs of strategies {within or 'none'} change{'s' * (within == 1)} places within the "
    )
    title += "range of one cost row" if within else "range of one cost row; nearest to that are"
    figure, (axis,) = _subplots(title, 11, 1.3 + 0.34 * len(near))
    order = sorted(near, key=lambda turn: list(rows).index(turn.row))
    for y, turn in enumerate(order):
        row = rows[turn.row]
        winner = look(turn.more_expensive)
        axis.plot([0, 1], [y, y], color="0.85", linewidth=9, solid_capstyle="butt", zorder=1)
        axis.plot((row.value - row.low) / (row.high - row.low), y, marker="|", markersize=11, color="black", zorder=2)
        axis.plot(place(turn), y, marker=winner.marker, color=winner.color, markersize=7, zorder=3)
        assert turn.value is not None
        text = (
            f"{turn.wins} {three_digits(turn.value)} {short(turn.more_expensive)} is cheaper than {short(turn.cheaper)}"
        )
        axis.text(1.01, y, text, transform=axis.get_yaxis_transform(), va="center", fontsize=8.5)
    labels = [f"{turn.row}, {rows[turn.row].low:g} to {rows[turn.row].high:g}" for turn in order]
    axis.set_yticks(range(len(order)), labels)
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_xlim(-0.6, 2.1)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("place in the row's range (0: low, 1: high); black: its value; mark: break-even")
    return figure


def _plot_together(each: CaseReport) -> "Figure | None":
    """The factor on all costs in which a strategy is more expensive than the cheapest, at which both cost the same."""
    view, case = each.views[0], each.coefficients
    best, *others = [group[0] for group in view.groups if group[0] in view.carrying]
    if not others:
        return None
    shares = [100 * together(view.pricing, best, other).share for other in others]
    names = [case.strategies[other] for other in others]
    title = f"{case.case}: no value of one row near its range turns an order"
    figure, (axis,) = _subplots(title, 9, 1.3 + 0.3 * len(others))
    bars = axis.barh([short(name) for name in names], shares, color=[look(name).color for name in names], height=0.6)
    axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, max(10.0, 1.15 * max(shares)))
    best_name = short(case.strategies[best])
    axis.set_xlabel(f"% of their values at which all costs that it has more of make it cost what {best_name} costs")
    return figure


def plot_measure_next(each: CaseReport) -> "Figure | None":
    """By how much knowing one factor lowers the expected number of pairs in the wrong order."""
    import seaborn as sns

    case = each.coefficients
    rows = [
        {
            "factor": gain.factor,
            "pairs": gain.reduction,
            "rows": "as the table says" if view.distributions == "table" else "all uniform",
        }
        for view in each.views
        if view.with_xss
        for gain in view.gains[:SHOWN]
    ]
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    first = each.views[0].gains[0] if each.views[0].gains else None
    title = f"{case.case}: what to measure next"
    if first:
        title += (
            f": knowing {first.factor} would take {three_digits(first.reduction)} of the {three_digits(first.before)} "
            "pairs that are expected to be in the wrong order"
        )
    figure, (axis,) = _subplots(title, 9, 1.5 + 0.32 * frame["factor"].nunique())
    sns.barplot(frame, y="factor", x="pairs", hue="rows", ax=axis, palette="colorblind")
    axis.set_xlabel("pairs less in the wrong order, expected, if it were known exactly")
    axis.set_ylabel("")
    axis.legend(title="rows drawn", loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, title_fontsize=8)
    return figure


def plot_feedback(each: CaseReport) -> "Figure | None":
    """How far the repriced difference from the reference is from the simulated one, by draw that was simulated."""
    rows = [one for one in each.feedback if one.difference_repriced]
    if not rows:
        return None
    names = list(dict.fromkeys(one.strategy for one in rows))
    departures = [[100 * end / abs(one.difference_repriced) for end in one.departure] for one in rows]
    largest = max(abs(mean) for mean, _, _ in departures)
    case = each.coefficients
    title = f"{case.case}: simulated again, differences depart by up to {three_digits(largest)} % from the repriced"
    figure, (axis,) = _subplots(title, 9, 1.3 + 0.38 * len(names))
    axis.xaxis.set_major_formatter(tick_numbers())
    axis.axvline(0, color="0.3", linewidth=1)
    draws = 1 + max(one.draw for one in rows)
    for one, (mean, low, high) in zip(rows, departures, strict=True):
        y = names.index(one.strategy) + 0.5 * ((one.draw + 0.5) / draws - 0.5)
        color, marker = look(one.strategy)
        axis.plot([low, high], [y, y], color=color, alpha=0.5, linewidth=2)
        axis.plot(mean, y, marker=marker, markersize=5, color=color)
    axis.set_yticks(range(len(names)), [short(name) for name in names])
    axis.invert_yaxis()
    axis.set_xlabel(
        f"simulated less repriced, % of the repriced difference from {short(case.reference)}: a mark per draw, 95 % t "
        "interval"
    )
    return figure
