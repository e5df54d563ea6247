"""The uncertainty of a run as figures, one for each part of the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from sim.analysis.uncertainty.breakeven import together
from sim.analysis.uncertainty.report import CaseReport, View, file_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN: Final = 12
"""Factors or rows that a figure shows by name, at most."""
THOUSAND: Final = 1000.0


def write_figures(each: CaseReport, folder: Path) -> list[Path]:
    """Draws all figures of a case as PNG files in ``folder``, and returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(style="whitegrid", context="paper")
    parts = {
        "probability": plot_probability, "intervals": plot_intervals, "variance": plot_variance,
        "break-even": plot_break_even, "measure-next": plot_measure_next, "feedback": plot_feedback,
    }  # fmt: skip
    written = []
    for name, plot in parts.items():
        figure = plot(each)
        if figure is not None:
            written.append(folder / f"{file_name(each.coefficients.case)}-{name}.png")
            figure.savefig(written[-1], dpi=150, bbox_inches="tight")
            plt.close(figure)
    return written


def _subplots(width: float, height: float, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False, layout="constrained")
    return figure, list(axes[0])


def _names(view: View) -> list[str]:
    """One name for each group of strategies that do the same, in order."""
    names = view.pricing.coefficients.strategies
    return ["\n= ".join(names[i] for i in group) for group in view.groups]


def plot_probability(each: CaseReport) -> "Figure":
    """The probability that the row is cheaper than the column, with and without IA32_XSS switching."""
    import seaborn as sns

    views = [view for view in each.views if view.distributions == "table"]
    size = 2.5 + 0.5 * len(views[0].groups)
    figure, axes = _subplots(2 * size, size, 2)
    for axis, view in zip(axes, views, strict=True):
        firsts = [group[0] for group in view.groups]
        cells = [[np.nan if a == b else 100 * view.pricing.cheaper(a, b) for b in firsts] for a in firsts]
        labels = _names(view)
        frame = pd.DataFrame(cells, index=labels, columns=[str(place) for place in range(1, len(labels) + 1)])
        frame.index = pd.Index([f"{name}  {place}" for place, name in enumerate(labels, 1)])
        sns.heatmap(
            frame, vmin=0, vmax=100, cmap="RdYlGn", annot=True, fmt=".0f", cbar=False, square=True, ax=axis,
            annot_kws={"size": 7},
        )  # fmt: skip
        axis.grid(visible=False)
        axis.set_title("with IA32_XSS switching" if view.with_xss else "without")
    figure.suptitle(f"{each.coefficients.case}: probability (%) that the row is cheaper than the column")
    return figure


def plot_intervals(each: CaseReport) -> "Figure":
    """Differences to the reference: what the replications, the costs and both leave open."""
    view = each.views[0]
    case = each.coefficients
    labels, firsts = _names(view), [group[0] for group in view.groups]
    figure, (axis,) = _subplots(8, 1.5 + 0.45 * len(firsts))
    colours = {"joint": "0.75", "costs": "tab:blue", "replications": "black"}
    for place, i in enumerate(firsts):
        found = view.versus_reference(i)
        for name, width in (("joint", 9), ("costs", 5), ("replications", 2)):
            interval = getattr(found, name)
            axis.plot(
                [interval.low / THOUSAND, interval.high / THOUSAND], [place, place], color=colours[name],
                linewidth=width, solid_capstyle="butt", label=name if place == 0 else None,
            )  # fmt: skip
        axis.plot(found.replications.mean / THOUSAND, place, marker="|", markersize=11, color="black")
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlabel(f"cost less that of {case.reference}, 1000 TSC cycles per {case.per} (linear between -1 and 1)")
    axis.set_title(f"{case.case}: 95 % intervals; the mark: each row at its value")
    if axis.get_xlim()[0] < 0 <= min(view.versus_reference(i).joint.low for i in firsts):
        axis.set_xlim(left=0)
    axis.legend(title="what is uncertain", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_variance(each: CaseReport) -> "Figure | None":
    """Shares of the variance of the difference to the reference."""
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
    ranked = frame.sum().sort_values(ascending=False).index
    shown = frame[ranked[:SHOWN]].assign(**{"all others": frame[ranked[SHOWN:]].sum(axis=1)})
    figure, (axis,) = _subplots(9, 1.5 + 0.45 * len(labels))
    shown.mul(100).plot.barh(stacked=True, ax=axis, colormap="tab20", width=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("% of the variance")
    axis.set_title(f"{case.case}: what explains the variance of the difference to {case.reference}")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    return figure


def plot_break_even(each: CaseReport) -> "Figure | None":
    """Rows inside or near whose range an order turns: the range, the value, and the break-even points.

    If there is none, how cheap all in which a strategy costs more would have to be.
    """
    view, case = each.views[0], each.coefficients
    firsts = [group[0] for group in view.groups if group[0] in view.carrying]
    turns = [turn for a in firsts for b in firsts if a < b for turn in view.break_even(a, b) if turn.value is not None]
    rows = case.table.rows

    def place(turn_value: float, row: str) -> float:
        return (turn_value - rows[row].low) / (rows[row].high - rows[row].low)

    near = [turn for turn in turns if turn.steady and rows[turn.row].high > rows[turn.row].low]
    near = [turn for turn in near if turn.value is not None and -0.5 <= place(turn.value, turn.row) <= 2]
    if not near:
        return _plot_together(each)
    names = list(dict.fromkeys(turn.row for turn in sorted(near, key=lambda t: not t.within)))[:SHOWN]
    figure, (axis,) = _subplots(9, 1.5 + 0.6 * len(names))
    for y, name in enumerate(names):
        row = rows[name]
        axis.plot([0, 1], [y, y], color="0.75", linewidth=8, solid_capstyle="butt")
        axis.plot(place(row.value, name), y, marker="|", markersize=12, color="black")
        for n, turn in enumerate(t for t in near if t.row == name):
            assert turn.value is not None
            x = place(turn.value, name)
            axis.plot(x, y, marker="v" if turn.wins == "over" else "^", color="tab:red", markersize=5)
            text = f"{turn.dearer} beats {turn.cheaper} {turn.wins} {turn.value:.3g}"
            axis.annotate(text, (x, y), (2, 6 + 6 * (n % 5)), textcoords="offset points", fontsize=5)
    axis.set_yticks(range(len(names)), [f"{name}\n{rows[name].low:g} to {rows[name].high:g}" for name in names])
    axis.set_ylim(len(names) - 0.4, -0.8)
    axis.set_xlim(-0.6, 2.9)
    axis.set_xlabel("place in the row's range (0: low, 1: high; the black mark is its value)")
    axis.set_title(f"{case.case}: values of one row at which the order of two strategies turns")
    return figure


def _plot_together(each: CaseReport) -> "Figure | None":
    """What is left of all costs in which a strategy costs more than the cheapest, when both cost the same."""
    view, case = each.views[0], each.coefficients
    best, *others = [group[0] for group in view.groups if group[0] in view.carrying]
    if not others:
        return None
    shares = [100 * together(view.pricing, best, other).share for other in others]
    figure, (axis,) = _subplots(8, 1.7 + 0.35 * len(others))
    bars = axis.barh([case.strategies[other] for other in others], shares, color="tab:blue", height=0.6)
    axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, max(10.0, 1.15 * max(shares)))
    axis.set_xlabel(f"% of their values that all costs in which it has more may have to equal {case.strategies[best]}")
    axis.set_title(f"{case.case}: no value of one row near its range turns an order")
    return figure


def plot_measure_next(each: CaseReport) -> "Figure | None":
    """What knowing one factor takes from the expected number of pairs in the wrong order."""
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
    figure, (axis,) = _subplots(8, 1.5 + 0.3 * frame["factor"].nunique())
    sns.barplot(frame, y="factor", x="pairs", hue="rows", ax=axis)
    axis.set_xlabel("pairs less in the wrong order, expected, if it were known exactly")
    axis.set_ylabel("")
    before = each.views[0].gains[0].before if each.views[0].gains else 0.0
    axis.set_title(f"{case.case}: what to measure next ({before:.2f} pairs are expected to be in the wrong order)")
    return figure


def plot_feedback(each: CaseReport) -> "Figure | None":
    """How far the repriced difference to the reference is from the simulated one, for each draw that was simulated."""
    rows = [one for one in each.feedback if one.difference_repriced]
    if not rows:
        return None
    names = list(dict.fromkeys(one.strategy for one in rows))
    figure, (axis,) = _subplots(7, 1.5 + 0.35 * len(names))
    axis.axvline(0, color="0.5", linewidth=1)
    draws = 1 + max(one.draw for one in rows)
    for one in rows:
        y = names.index(one.strategy) + 0.5 * ((one.draw + 0.5) / draws - 0.5)
        mean, low, high = (100 * end / abs(one.difference_repriced) for end in one.departure)
        axis.plot([low, high], [y, y], color="0.6", linewidth=2)
        axis.plot(mean, y, marker="o", markersize=4, color="tab:blue")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel(f"simulated less repriced, % of the repriced difference to {each.coefficients.reference}")
    axis.set_title(f"{each.coefficients.case}: repricing against simulating again (a mark per draw, 95 % t interval)")
    return figure
