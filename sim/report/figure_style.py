"""What the figures have in common: a look for each strategy, the layout, axes whose labels do not overlap.

seaborn and matplotlib are imported when a figure is drawn, and pyplot is not: nothing here needs a display or keeps a
figure alive.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from sim.report.summary import marked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.analysis.comparison import Comparison

WIDTH_IN: Final = 12.0
TITLE: Final = 100
"""Characters in a line of a figure's title."""
NOTE: Final = 165
"""Characters in a line of the note below a figure, and of the title of a case."""
MOST_CASES: Final = 8
"""The most rows of panels in one figure; the tables have all cases."""
ONLY_THE_REFERENCE: Final = "only the reference: no difference"
POINTS: Final = 72.0
"""Points in an inch."""


class Look(NamedTuple):
    """A strategy's colour and marker."""

    color: str
    marker: str


LOOKS: Final = {
    "no-cet": Look("#aabb99", "h"),
    "free-ssp": Look("#886677", "o"),
    "manual-exit": Look("#661100", "^"),
    "manual-run": Look("#993300", "v"),
    "manual-run-guarded": Look("#aa8899", "<"),
    "manual-load": Look("#bb5522", "s"),
    "manual-load-nozero": Look("#dd7744", "D"),
    "manual-lazy": Look("#eeaa22", ">"),
    "user-return": Look("#664466", "p"),
    "msr-autoload": Look("#440044", "X"),
    "xstate-all": Look("#77bbff", "P"),
    "xstate-guest": Look("#3344aa", "*"),
    "xstate-guest-resident": Look("#220088", "d"),
    "xstate-all-resident": Look("#8888ff", "8"),
    "independent": Look("#5566dd", "H"),
    "guest-fpstate": Look("#1111aa", "s"),
    "regs-entry-exit": Look("#663300", "^"),
    "regs-outer-loop": Look("#449900", "D"),
    "hardware-xcr0": Look("#ff00ff", "X"),
}
"""The looks of the shipped strategies: browns for RDMSR and WRMSR by hand, purples for user-return MSRs and MSR lists,
blues for XSAVES.  The colours are those whose two nearest are farthest apart (in OKLab) under normal, protan, deutan
and tritan vision as Machado et al. simulate it (IEEE TVCG 15, 2009); each strategy also has a marker of its own.  The
last four, those of APX, are told apart from each other, from the references and from own ones."""

OWN_COLOR: Final = "#111111"
OWN_MARKERS: Final[tuple[str, ...]] = ("o", "s", "^", "D", "v", "P", "X", "*", "d", "<", ">", "p")

CATEGORY_COLORS: Final = {
    "FPU": "#009e73", "MSR": "#f0e442", "XSS": "#cc79a7", "virtualisation": "#bbbbbb", "scheduling": "#777777",
}  # fmt: skip
"""Three of Okabe and Ito's (Color Universal Design, 2008) that no strategy has, and grey for what none changes."""


def look(strategy: str) -> Look:
    """The look of a strategy in all figures; a user's own is black, with a marker that follows from its name."""
    return LOOKS.get(strategy) or Look(OWN_COLOR, OWN_MARKERS[zlib.crc32(strategy.encode()) % len(OWN_MARKERS)])


@contextmanager
def style() -> Iterator[None]:
    """The style in which axes are made."""
    import seaborn as sns

    with sns.axes_style("whitegrid", {"axes.edgecolor": "0.3", "grid.color": "0.9"}), sns.plotting_context("notebook"):
        yield


# The figure.


def figure_of(comparison: Comparison, finding: str, note: str, heights_in: Sequence[float], columns: int) -> Any:
    """A figure that says ``finding`` in its title, and its axes, rows by columns.

    Below are scenario, replications and seed, and ``note``: how to read it.
    """
    from matplotlib.figure import Figure

    title = textwrap.wrap(finding, TITLE, break_on_hyphens=False)
    manifest = comparison.results.manifest
    n = int(manifest["replications"])
    what = f"{manifest['scenario'] or 'scenario'}: n = {n} replication{'s' * (n != 1)}, seed {manifest['seed']}."
    below = textwrap.wrap(f"{what} {note}{violation_note(comparison)}", NOTE, break_on_hyphens=False)
    more_in = 0.27 * len(title) + 0.18 * len(below) + 0.2
    figure = Figure(figsize=(WIDTH_IN, more_in + sum(heights_in)), layout="constrained")
    figure.suptitle("\n".join(title), fontsize=13, fontweight="bold", x=0.01, ha="left")
    figure.supxlabel("\n".join(below), fontsize=9, color="0.25", x=0.01, ha="left")
    panels = figure.subplots(len(heights_in), columns, squeeze=False, height_ratios=list(heights_in))
    return figure, panels


def violation_note(comparison: Comparison) -> str:
    """What the mark means, if there is one."""
    some = any(unsound_in(comparison, case["case"]) for case in comparison.results.cases)
    return " (!): unsound, as caught here or as documented, so its cost is not comparable." if some else ""


def unsound_in(comparison: Comparison, case: str) -> frozenset[str]:
    """The strategies that were caught violating integrity in a case, or are documented as unsound there."""
    rows = comparison.df_integrity()
    rows = rows[(rows["case"] == case) & ((rows["violations"] > 0) | (rows["documented"] != ""))]
    return frozenset(rows["strategy"])


def cases_of(comparison: Comparison) -> tuple[list[Mapping[str, Any]], str]:
    """The cases that have a row of panels, and what to say of the others."""
    there = set(comparison.df_metrics()["case"])
    cases = [case for case in comparison.results.cases if case["case"] in there]
    left_out = len(cases) - MOST_CASES
    return list(cases[:MOST_CASES]), f" {left_out} more cases are in the tables." if left_out > 0 else ""


def case_title(axes: Axes, text: str) -> None:
    """Writes above a row of panels which case it is, and what was found in it."""
    axes.set_title(textwrap.fill(text, NOTE - 40, break_on_hyphens=False), loc="left", fontsize=10.5)


def us(case: Mapping[str, Any]) -> float:
    """Microseconds in a TSC cycle of a case."""
    return 1e6 / float(case["tsc_hz"])


def unit(case: Mapping[str, Any]) -> str:
    """What costs are given in."""
    return "us per vCPU-second" if case["vcpus"] else "us per CPU-second"


def nothing(axes: Axes, why: str) -> None:
    """A panel that has nothing to show says why."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes, fontsize=10)


# Axes.


def strategy_axis(
    axes: Axes, strategies: Sequence[str], reference: str, unsound: Iterable[str], *, names: bool = True
) -> None:
    """Strategies from the top; the reference is in bold, and one that is unsound has a mark."""
    unsound = frozenset(unsound)
    axes.set_yticks(range(len(strategies)), [marked(name, unsound) for name in strategies] if names else [])
    axes.set_ylim(len(strategies) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    for label, name in zip(axes.get_yticklabels(), strategies, strict=False):
        label.set_fontsize(9.5)
        if name == reference:
            label.set_fontweight("bold")


def tick_numbers() -> Any:
    """A formatter of ticks: k, M and G from a thousand on, decimals below 1, and the minus sign that texts have."""
    from matplotlib.ticker import EngFormatter, FuncFormatter

    large = EngFormatter(sep="")

    def written(value: float, place: int | None) -> str:
        return f"{value:g}" if abs(value) < 1000 else large(value, place).replace("\N{MINUS SIGN}", "-")

    return FuncFormatter(written)


def number_axis(axes: Axes, label: str) -> None:
    """A label and numbers on the x axis."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(label, fontsize=10)
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(tick_numbers())
    axes.tick_params(axis="x", labelsize=9)


LABEL_PT: Final = {"x": 32.0, "y": 16.0}
"""Room for a tick's label along an axis, in points; beside the 0 two thirds of it."""
NEAR_ZERO: Final = 0.8
"""Length of the linear part of a symmetric logarithmic axis on either side of 0, in decades."""


def symmetric_log(axes: Axes, axis: Literal["x", "y"], values: Sequence[Any], uncertainty: float = 0.0) -> str:
    """Makes an axis logarithmic on both sides of 0 if its values differ by orders of magnitude; returns a note if so.

    It stays linear around 0 up to the ``uncertainty`` of the values, so that an interval around 0 does not look large.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    every = np.concatenate([np.asarray(each, dtype=float).ravel() for each in values] or [np.zeros(0)])
    every = every[np.isfinite(every)]
    sizes = np.abs(every[every != 0])
    least = max(sizes.min(), sizes.max() / 1e4, np.nan_to_num(uncertainty)) if len(sizes) else 0.0
    scaled, limits = (axes.xaxis, axes.set_xlim) if axis == "x" else (axes.yaxis, axes.set_ylim)
    if not len(sizes):
        limits(-1, 1)
        scaled.set_major_locator(FixedLocator([0.0]))
    if not len(sizes) or sizes.max() < 30 * least:
        return ""
    first, last = int(np.floor(np.log10(least))), int(np.ceil(np.log10(sizes.max())))
    low, high = (2.0 * every.min() if every.min() < 0 else 0.0), (2.0 * every.max() if every.max() > 0 else 0.0)
    low, high = min(low, -(10.0**first) / 2), max(high, 10.0**first / 2)
    scale = axes.set_xscale if axis == "x" else axes.set_yscale
    scale("symlog", linthresh=10.0**first, linscale=NEAR_ZERO)
    limits(low, high)
    scaled.set_major_locator(FixedLocator(_decades(axes, axis, (low, high), first, last)))
    scaled.set_minor_locator(NullLocator())
    scaled.set_major_formatter(tick_numbers())
    return " (symmetric log)"


def _decades(axes: Axes, axis: str, limits: tuple[float, float], first: int, last: int) -> list[float]:
    """0 and those powers of ten on both sides of it whose labels have room."""

    def place(value: float) -> float:
        size = abs(value) / 10.0**first
        return NEAR_ZERO * size if size <= 1 else NEAR_ZERO + float(np.log10(size))

    box = axes.get_position()
    figure = axes.figure.bbox
    points = POINTS / axes.figure.dpi * (figure.width * box.width if axis == "x" else figure.height * box.height)
    length = sum(place(end) for end in limits)
    least = LABEL_PT[axis] / (0.7 * points) * length  # labels and titles take part of the space
    found = [0.0]
    for sign, end in zip((-1, 1), limits, strict=True):
        at = 0.0
        for decade in range(first, last + 1):
            if place(10.0**decade) - at >= (least if at else 2 / 3 * least) and 10.0**decade <= abs(end):
                found.append(sign * 10.0**decade)
                at = place(10.0**decade)
    return found


class Label(NamedTuple):
    """A text to the right of an axes, ``at`` a place in units of the axes' height, and the look of its strategy."""

    at: float
    text: str
    look: Look
    has_line: bool


LINE_PT: Final = 10.5
"""Height of a line of such a text, in inches."""


def labels_at_right(axes: Axes, labels: Sequence[Label], height_in: float) -> None:
    """Texts to the right of an axes of about that height, as near to their places as they fit without overlapping."""
    line = LINE_PT / POINTS / height_in
    ordered = sorted(labels, key=lambda label: label.at)
    halves = [line * (1 + label.text.count("\n")) / 2 for label in ordered]
    for label, y in zip(ordered, spread([label.at for label in ordered], halves), strict=True):
        color = label.look.color
        if label.has_line:
            axes.plot(
                [1.0, 1.03], [label.at, y], color=color, linewidth=0.8, transform=axes.transAxes, clip_on=False,
                label="_",
            )  # fmt: skip
        axes.plot(
            [1.045], [y], label.look.marker, color=color, markersize=5, transform=axes.transAxes, clip_on=False,
            label="_",
        )  # fmt: skip
        axes.text(1.075, y, label.text, transform=axes.transAxes, fontsize=8, va="center", linespacing=1.0)


def spread(places: Sequence[float], halves: Sequence[float]) -> list[float]:
    """Places in ascending order, moved apart so that things of these half heights do not overlap, and lie in 0 to 1."""
    found: list[float] = []
    for at, half in zip(places, halves, strict=True):
        below = found[-1] + halves[len(found) - 1] if found else 0.0
        found.append(max(at, below + half))
    top = max(1.0, sum(2 * half for half in halves))
    for i in reversed(range(len(found))):
        found[i] = min(found[i], top - halves[i])
        top = found[i] - halves[i]
    return found
