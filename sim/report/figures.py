"""The figures of a comparison.

Each function returns a matplotlib figure with a row of panels for each case.  seaborn and matplotlib are imported when
one is drawn, and pyplot is not: nothing here needs a display or keeps a figure alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import pandas as pd

from sim.analysis import metrics
from sim.analysis.categories import CARRYING, CATEGORIES
from sim.analysis.latency import QUANTILES
from sim.report.summary import marked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.analysis.comparison import Comparison

MOST_CASES: Final = 8
"""Rows of panels in one figure; a sweep of more points is in :func:`against_rates`, and all are in the tables."""

WIDTH_IN: Final = 12.0
ROW_IN: Final = 0.27
"""Inches for a strategy."""
ONLY_THE_REFERENCE: Final = "only the reference: no difference"
MARGIN: Final = 1.06
"""How far an axis from 0 goes, in units of its largest value."""


@contextmanager
def style() -> Iterator[Any]:
    """The style in which axes are made; yields seaborn."""
    import seaborn as sns

    with sns.axes_style("whitegrid", {"axes.edgecolor": "0.3", "grid.color": "0.9"}), sns.plotting_context("notebook"):
        yield sns


def panels_of(comparison: Comparison, title: str, note: str, columns: int, *, per_strategy: bool = True) -> Any:
    """A figure, its cases, and its axes as rows by columns."""
    from matplotlib.figure import Figure

    cases = [case for case in comparison.results.cases if _there(comparison, case)][:MOST_CASES]
    counts = [len(case["strategies"]) for case in cases] or [1]
    heights = [1.3 + ROW_IN * n if per_strategy or n == 1 else 4.6 for n in counts]
    figure = Figure(figsize=(WIDTH_IN, 1.0 + sum(heights)), layout="constrained")
    left_out = len(comparison.results.cases) - len(cases)
    more = f"  ({left_out} more cases are in the tables)" if left_out else ""
    figure.suptitle(f"{comparison.results.manifest['scenario']}: {title}{more}", fontsize=13, fontweight="bold")
    figure.supxlabel(note + violation_note(comparison), fontsize=9, color="0.25")
    return figure, cases, figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)


def violation_note(comparison: Comparison) -> str:
    """What the mark means, if there is one."""
    some = any(comparison.violating(case["case"]) for case in comparison.results.cases)
    return "; (!): violates integrity, so its cost is no cost to compare" if some else ""


def _there(comparison: Comparison, case: Mapping[str, Any]) -> bool:
    found = comparison.df_metrics()
    return bool(((found["case"] == case["case"]) & (found["metric"] == metrics.COST)).any())


def _of(frame: pd.DataFrame, case: Mapping[str, Any], metric: str) -> pd.DataFrame:
    """The rows of a metric in a case, by strategy."""
    found: pd.DataFrame = frame[(frame["case"] == case["case"]) & (frame["metric"] == metric)].set_index("strategy")
    return found


def _by_cost(comparison: Comparison, case: Mapping[str, Any]) -> list[str]:
    """The strategies, the cheapest first."""
    costs = _of(comparison.df_metrics(), case, metrics.COST)["mean"]
    return [str(name) for name in costs.sort_values(kind="stable").index]


def _strategy_axis(
    axes: Axes, strategies: Sequence[str], comparison: Comparison, case: str, *, names: bool = True
) -> None:
    """Strategies from the top; the reference is in bold, and one that violates integrity has a mark."""
    reference, violating = comparison.references[case], comparison.violating(case)
    axes.set_yticks(range(len(strategies)), [marked(name, violating) for name in strategies] if names else [])
    axes.set_ylim(len(strategies) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    for label, name in zip(axes.get_yticklabels(), strategies, strict=False):
        label.set_fontsize(10)
        if name == reference:
            label.set_fontweight("bold")


def _number_axis(axes: Axes, label: str) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xlabel(label, fontsize=10)
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(axis="x", labelsize=9)


def _intervals(axes: Axes, frame: pd.DataFrame, at: Any, **style: Any) -> None:
    """Means with their intervals; a mean without an interval is a mark alone."""
    means = frame["mean"].to_numpy()
    half = np.nan_to_num(np.array([means - frame["low"].to_numpy(), frame["high"].to_numpy() - means]))
    axes.errorbar(means, at, xerr=half, linestyle="none", capsize=3, markersize=5, **style)


def symmetric_log(axes: Axes, axis: Literal["x", "y"], values: Sequence[Any], uncertainty: float = 0.0) -> str:
    """Makes an axis logarithmic on both sides of 0 if its values differ by orders of magnitude; says so if it did.

    It stays linear around 0 up to the ``uncertainty`` of the values, so that an interval over 0 is not blown up.
    """
    from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

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
    first, last = np.floor(np.log10(least)), np.ceil(np.log10(sizes.max()))
    decades = 10.0 ** np.arange(first, last + 1)
    low, high = (2.0 * every.min() if every.min() < 0 else 0.0), (2.0 * every.max() if every.max() > 0 else 0.0)
    scale = axes.set_xscale if axis == "x" else axes.set_yscale
    scale("symlog", linthresh=decades[0], linscale=0.6)
    limits(min(low, -decades[0] / 2), max(high, decades[0] / 2))
    scaled.set_major_locator(FixedLocator([*-decades[::-1], 0.0, *decades]))
    scaled.set_minor_locator(NullLocator())
    scaled.set_major_formatter(EngFormatter(sep=""))
    return " (symmetric log)"


def _legend_above(axes: Axes) -> None:
    axes.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, borderaxespad=0.2)


def _unit(case: Mapping[str, Any]) -> str:
    return "cycles per vCPU-second" if case["vcpus"] else "cycles per CPU-second"


def cost(comparison: Comparison) -> Figure:
    """Cost by strategy, and its difference from the reference: of all operations, and of FPU, MSR and XSS alone."""
    with style() as sns:
        with_xss, without, plain = (sns.color_palette("colorblind")[i] for i in (0, 1, 7))
        figure, cases, panels = panels_of(
            comparison,
            "cost by strategy",
            "left: cost; middle and right: paired difference from the reference (bold), with and without the writes of "
            "IA32_XSS;\nmarks: means over replications; bars: 95 % t intervals; all in cycles per vCPU-second (hosts "
            "without vCPUs: per CPU-second)",
            3,
        )
        for case, (left, whole, own) in zip(cases, panels, strict=False):
            order, reference = _by_cost(comparison, case), comparison.references[case["case"]]
            at = np.arange(len(order))
            costs = _of(comparison.df_metrics(), case, metrics.COST).loc[order]
            _intervals(left, costs, at, fmt="o", color=plain)
            left.set_xlim(0, MARGIN * costs[["mean", "high"]].max().max())
            _strategy_axis(left, order, comparison, case["case"])
            _number_axis(left, _unit(case))
            left.set_title(case["case"], loc="left", fontsize=11)
            places = np.array([i for i, name in enumerate(order) if name != reference])
            others = [name for name in order if name != reference]
            if not others:
                nothing(whole, ONLY_THE_REFERENCE)
                nothing(own, ONLY_THE_REFERENCE)
                continue
            for axes, title, names in (
                (whole, "whole difference", (metrics.COST, metrics.COST_WITHOUT_XSS)),
                (own, "FPU, MSR, XSS alone", (metrics.CARRYING_COST, metrics.CARRYING_COST_WITHOUT_XSS)),
            ):
                shown = [_of(comparison.df_differences(), case, name).loc[others] for name in names]
                for moved, shift, color, mark, label in zip(
                    shown, (-0.15, 0.15), (with_xss, without), "os", ("with XSS", "without XSS"), strict=True
                ):
                    _intervals(axes, moved, places + shift, fmt=mark, color=color, label=label)
                axes.axvline(0, color="0.3", linewidth=1)
                both = pd.concat(shown)
                scale = symmetric_log(
                    axes,
                    "x",
                    [both[end] for end in ("mean", "low", "high")],
                    ((both["high"] - both["low"]) / 2).median(),
                )
                _strategy_axis(axes, order, comparison, case["case"], names=False)
                _number_axis(axes, f"{title}{scale}")
            _legend_above(own)
        return cast("Figure", figure)


def categories(comparison: Comparison) -> Figure:
    """Where the cycles go: all categories (left), and those in which strategies differ by design (right)."""
    with style() as sns:
        colors = dict(zip(CATEGORIES, (sns.color_palette("colorblind")[i] for i in (0, 1, 2, 7, 8)), strict=True))
        figure, cases, panels = panels_of(
            comparison, "where the cycles go", "means over replications; bold: the reference", 2
        )
        for case, axes_of_case in zip(cases, panels, strict=False):
            order = _by_cost(comparison, case)
            for axes, shown in zip(axes_of_case, (CATEGORIES, CARRYING), strict=True):
                left = np.zeros(len(order))
                for name in shown:
                    found = _of(comparison.df_metrics(), case, f"cost_{name.lower()}")["mean"].loc[order].to_numpy()
                    axes.barh(order, found, left=left, color=colors[name], label=name, height=0.7, linewidth=0)
                    left += found
                axes.set_xlim(0, MARGIN * max(left.max(), 1.0))
                _strategy_axis(axes, order, comparison, case["case"], names=shown is CATEGORIES)
                _number_axis(axes, f"{_unit(case)}{'' if shown is CATEGORIES else ': FPU, MSR and XSS alone'}")
            axes_of_case[0].set_title(case["case"], loc="left", fontsize=11)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=9)
        return cast("Figure", figure)


def latency(comparison: Comparison) -> Figure:
    """Wake-up latencies: of vCPUs to VM entry (left) and of threads to user mode (right)."""
    with style() as sns:
        palette = sns.color_palette("colorblind")
        found = comparison.df_latency()
        histograms = [name for name in _WAKEUPS if name in set(found["histogram"])] or list(_WAKEUPS)[:1]
        figure, cases, panels = panels_of(
            comparison,
            "wake-up latency",
            "all replications together; a quantile is there only with 20 samples beyond it; bold: the reference",
            len(histograms),
        )
        for case, axes_of_case in zip(cases, panels, strict=False):
            order = list(case["strategies"])
            for axes, histogram in zip(axes_of_case, histograms, strict=True):
                here = found[(found["case"] == case["case"]) & (found["histogram"] == histogram)]
                if here.empty:
                    nothing(axes, f"{_WAKEUPS[histogram]}: too few samples")
                    continue
                stated = [name for name in QUANTILES if name in set(here["quantile"])]
                for name, mark, color in zip(QUANTILES, "osD", palette[:3], strict=True):
                    if name not in stated:
                        continue
                    shift = 0.2 * (stated.index(name) - (len(stated) - 1) / 2)
                    of = here[here["quantile"] == name]
                    at = [order.index(strategy) + shift for strategy in of["strategy"]]
                    axes.plot(of["us"], at, mark, color=color, label=name, markersize=6)
                _time_axis(axes, here["us"])
                _strategy_axis(axes, order, comparison, case["case"], names=histogram == histograms[0])
                axes.set_xlabel(f"{_WAKEUPS[histogram]}, us (log)", fontsize=10)
                _legend_above(axes)
            axes_of_case[0].set_title(case["case"], loc="left", fontsize=11)
        return cast("Figure", figure)


_WAKEUPS: Final = {"vcpu": "vCPU: wake-up to VM entry", "thread": "thread: wake-up to user mode"}


def nothing(axes: Axes, why: str) -> None:
    """A panel that has nothing to show says why."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes, fontsize=10)


def _time_axis(axes: Axes, values: pd.Series) -> None:
    """Logarithmic, and never less than a decade, which a difference of percents would fill."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    first = values.min() / 1.5
    axes.set_xlim(first, max(values.max() * 1.5, 10 * first))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.tick_params(axis="x", labelsize=9)
