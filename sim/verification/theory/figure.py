"""A figure of simulated values over those of theory, claim by claim."""

from collections.abc import Sequence
from pathlib import Path

from sim.report.figure_style import tick_numbers
from sim.verification.theory.study import MARGIN, Finding


def draw(findings: Sequence[Finding], path: Path) -> None:
    """Draws an interval for each claim, in percent, with the margin as a band; the suffix of ``path`` is the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.9 + 0.3 * len(findings)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(-100 * MARGIN, 100 * MARGIN, color="0.92")
    axes.axvline(0, color="0.6", linewidth=1)
    for row, each in enumerate(findings):
        color = "#3344aa" if each.holds else "#bb2222"
        axes.plot([100 * each.low, 100 * each.high], [row, row], color=color, linewidth=2, solid_capstyle="butt")
        axes.plot(100 * (each.low + each.high) / 2, row, "o", color=color, markersize=5)
    axes.set_yticks(range(len(findings)), [f"{each.theory}: {each.host}" for each in findings])
    axes.invert_yaxis()
    axes.set_xlabel(
        f"simulated less theory, %\nintervals of 95 % for all together; grey: a margin of {100 * MARGIN:g} %"
    )
    failures = sum(not each.holds for each in findings)
    axes.xaxis.set_major_formatter(tick_numbers())
    axes.set_title(f"{len(findings) - failures} of {len(findings)} hosts agree with queueing theory", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
