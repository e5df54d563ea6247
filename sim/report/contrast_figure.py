"""The figure of contrasts between cases: what one case costs more than another, a row for each pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np

from sim.report import names, words
from sim.report.amounts import three_digits, with_half
from sim.report.figure_style import figure_of, number_axis, style, symmetric_log, unit
from sim.report.shown import Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.analysis.answers import Difference

ROW_IN: Final = 0.34
"""Height of a pair's row, in inches."""
FRAME_IN: Final = 0.7
"""Height of the axis, in inches."""
COLOR: Final = "#334fb3"


def of_pairs(screen: Shown) -> Figure:
    """All operations of one case less another's: over the replications and, separately, over the costs."""
    comparison = screen.comparison
    titles = names.titles(comparison.results.cases).short
    found = {
        names.less(*(titles[each.case] for each in pair.contrast)): (words.scale(screen, pair), pair.found)
        for pair in screen.between
        if pair.found is not None
    }
    per = unit(comparison.results.cases[0])
    said = [f"{_signed(each, scale)} ({label})" for label, (scale, each) in found.items()]
    with style():
        figure, panels = figure_of(
            comparison,
            f"One case less another: {' to '.join(dict.fromkeys((said[0], said[-1])))} {per}" if said else "No pair",
            "All operations of two cases, each with a schedule of its own. Marks: each cost at its value; their bars: "
            "95 % intervals over the replications. Pale bars below: 95 % of 10,000 draws of the costs from their "
            "ranges, with the median. In numbers: value ± half the interval [draws].",
            [FRAME_IN + ROW_IN * len(found)],
            1,
        )
        axes = panels[0][0]
        axes.axvline(0, color="0.3", linewidth=1)
        for y, (scale, each) in enumerate(found.values()):
            _row(axes, y, scale, each)
        axes.set_yticks(range(len(found)), list(found), fontsize=9.5)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        ends = [s * end for s, each in found.values() for end in (each.own.mean, each.range.low, each.range.high)]
        half = float(np.median([s * (each.own.high - each.own.mean) for s, each in found.values()] or [0.0]))
        number_axis(axes, f"{per}{symmetric_log(axes, 'x', [ends], half)}")
    return cast("Figure", figure)


def _signed(found: Difference, scale: float) -> str:
    return with_half(scale * found.own.mean, scale * (found.own.high - found.own.mean)).replace("+-", "±")


def _row(axes: Axes, y: int, scale: float, found: Difference) -> None:
    low, median, high = (scale * end for end in (found.range.low, found.range.median, found.range.high))
    axes.plot([low, high], [y + 0.24] * 2, color=COLOR, alpha=0.35, linewidth=5, solid_capstyle="butt")
    axes.plot([median], [y + 0.24], "|", color=COLOR, markersize=6)
    half = 0.0 if np.isnan(found.own.low) else scale * (found.own.high - found.own.mean)
    axes.errorbar(
        scale * found.own.mean, y - 0.12, xerr=half or None, fmt="o", color=COLOR, markersize=5.5, capsize=2.5,
        elinewidth=1.2,
    )  # fmt: skip
    text = f"{_signed(found, scale)}  [{three_digits(low)} to {three_digits(high)}]"
    axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
