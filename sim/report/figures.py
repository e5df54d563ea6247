"""The figures of a comparison: what strategies cost, where the cycles go, how the host reacts.

Each function returns a matplotlib figure with a row of panels for each case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import pandas as pd

from sim.analysis.answers import Answers, Difference, Estimate, Range
from sim.analysis.categories import CARRYING, CATEGORIES
from sim.errors import InputError
from sim.report import findings
from sim.report.amounts import three_digits
from sim.report.figure_style import (
    CATEGORY_COLORS,
    ONLY_THE_REFERENCE,
    case_title,
    cases_of,
    figure_of,
    look,
    nothing,
    number_axis,
    strategy_axis,
    style,
    symmetric_log,
    unit,
    unsound_in,
    us,
)
from sim.report.summary import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.analysis.comparison import Comparison

ROW_IN: Final = 0.27
"""Height of a strategy's row, in inches."""
FRAME_IN: Final = 0.95
"""Height of the title and the axis of a row of panels, in inches."""
MARGIN: Final = 1.06
"""How far an axis from 0 goes, in units of its largest value."""


def _height_in(strategies: int) -> float:
    return FRAME_IN + ROW_IN * strategies


# What strategies cost.


def cost(comparison: Comparison, answers: Answers) -> Figure:
    """Own operations of each strategy less the reference's: over the replications and, separately, over the costs."""
    cases, left_out = cases_of(comparison)
    found = [findings.own_operations(comparison, answers, case) for case in cases]
    switching = any(_switches_xss(each) for own in found for each in own.differences.values())
    reference = " or ".join(dict.fromkeys(short(comparison.references[case["case"]]) for case in cases))
    with style():
        figure, panels = figure_of(
            comparison,
            findings.of_cost(comparison, answers, found),
            f"Own operations on one schedule, less those of the reference ({reference}, bold). Marks: each cost at its "
            "value; their bars: 95 % t intervals over the replications. Pale bars below: 95 % of 10,000 draws of the "
            "costs from their ranges, with the median. In numbers: value ± half the interval [draws]." + left_out,
            [_height_in(len(own.differences) + 1) for own in found],
            2 if switching else 1,
        )
        for own, row in zip(found, panels, strict=True):
            _cost_row(comparison, own, row, alone=len(found) == 1)
    return cast("Figure", figure)


def _switches_xss(found: Difference) -> bool:
    return abs(found.own.mean - found.own_without_xss.mean) > 1e-6 * abs(found.own.mean)


def _cost_row(comparison: Comparison, own: findings.Own, row: Sequence[Axes], *, alone: bool) -> None:
    name, scale = own.case["case"], us(own.case)
    reference, unsound = comparison.references[name], unsound_in(comparison, name)
    order = sorted(own.differences, key=lambda each: own.differences[each].own_without_xss.mean)
    order.insert(next((i for i, s in enumerate(order) if own.differences[s].own_without_xss.mean > 0), 0), reference)
    if not own.differences:
        for axes in row:
            nothing(axes, ONLY_THE_REFERENCE)
        case_title(row[0], name)
        return
    said = findings.of_pair(own.pair, scale, unit(own.case)) if own.pair else findings.extremes(comparison, own)
    case_title(row[0], f"{name}: {said}" if said and not alone else name)
    for axes, with_xss in zip(row, (False, True), strict=False):
        if with_xss and not any(map(_switches_xss, own.differences.values())):
            nothing(axes, "with the writes of IA32_XSS: the same,\nsince no strategy changes their number")
            continue
        amounts = {
            each: (one.own, one.range) if with_xss else (one.own_without_xss, one.range_without_xss)
            for each, one in own.differences.items()
        }
        _amounts(axes, order, amounts, scale, unsound)
        strategy_axis(axes, order, reference, unsound, names=not with_xss)
        label = "with the writes of IA32_XSS" if with_xss else "without the writes of IA32_XSS"
        ends = [scale * end for est, span in amounts.values() for end in (est.mean, est.low, est.high, *_ends(span))]
        half = np.median([scale * (est.high - est.low) / 2 for est, _ in amounts.values()])
        log = symmetric_log(axes, "x", [ends], float(half))
        number_axis(axes, f"{unit(own.case)}, {label}{log}" if len(row) > 1 else f"{unit(own.case)}{log}")


def _ends(span: Range) -> tuple[float, float]:
    return span.low, span.high


def _amounts(
    axes: Axes,
    order: Sequence[str],
    amounts: Mapping[str, tuple[Estimate, Range]],
    scale: float,
    unsound: frozenset[str],
) -> None:
    """A mark with its interval for each strategy, its range over the costs below, and both in numbers at the right."""
    axes.axvline(0, color="0.3", linewidth=1)
    for y, name in enumerate(order):
        if name not in amounts:
            axes.text(1.02, y, "0", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
            continue
        own, span = amounts[name]
        color, marker = look(name)
        alpha = 0.4 if name in unsound else 1.0
        low, median, high = (scale * end for end in (span.low, span.median, span.high))
        axes.plot([low, high], [y + 0.24] * 2, color=color, alpha=0.35 * alpha, linewidth=5, solid_capstyle="butt")
        axes.plot([median], [y + 0.24], "|", color=color, alpha=alpha, markersize=6)
        half = 0.0 if np.isnan(own.low) else scale * (own.high - own.mean)
        axes.errorbar(
            scale * own.mean, y - 0.12, xerr=half or None, fmt=marker, color=color, alpha=alpha, markersize=5.5,
            capsize=2.5, elinewidth=1.2, label=name,
        )  # fmt: skip
        value = findings.signed(own.mean, findings.amount(own, scale))
        text = f"{value}  [{three_digits(low)} to {three_digits(high)}]" if low or high else "0"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, alpha=alpha)


# Where the cycles go.


def categories(comparison: Comparison) -> Figure:
    """Where the time of operations goes: all categories (left), and those in which strategies differ by design."""
    cases, left_out = cases_of(comparison)
    with style():
        figure, panels = figure_of(
            comparison,
            findings.of_categories(comparison, cases),
            "Left: all operations; right: FPU, MSR and XSS alone. Means over replications; bold: the reference."
            + left_out,
            [_height_in(len(case["strategies"])) for case in cases],
            2,
        )
        costs = comparison.df_categories()
        for case, row in zip(cases, panels, strict=True):
            name, scale = case["case"], us(case)
            here = costs[costs["case"] == name].pivot(index="strategy", columns="category", values="mean")
            order = [str(each) for each in here.sum(axis=1).sort_values(kind="stable").index]
            for axes, shown in zip(row, (CATEGORIES, CARRYING), strict=True):
                left = np.zeros(len(order))
                for category in shown:
                    width = scale * here.loc[order, category].to_numpy()
                    axes.barh(
                        range(len(order)), width, left=left, color=CATEGORY_COLORS[category], label=category,
                        height=0.7, linewidth=0,
                    )  # fmt: skip
                    left = left + width
                axes.set_xlim(0, MARGIN * max(left.max(), 1e-3))
                strategy_axis(
                    axes, order, comparison.references[name], unsound_in(comparison, name), names=shown is CATEGORIES
                )
                number_axis(axes, f"{unit(case)}{'' if shown is CATEGORIES else ': FPU, MSR and XSS alone'}")
            case_title(row[0], name)
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", fontsize=9)
    return cast("Figure", figure)


# How the host reacts.

REACTIONS: Final = {
    "us_per_handoff": "time per hand-off",
    "vcpu_wakeup_p50": "vCPU wake-up to VM entry, p50",
    "vcpu_wakeup_p99": "vCPU wake-up to VM entry, p99",
    "thread_wakeup_p50": "thread wake-up to user mode, p50",
    "thread_wakeup_p99": "thread wake-up to user mode, p99",
}
"""What the latency figure shows: the first three of these that the results have."""
MOST_REACTIONS: Final = 3


def latency(comparison: Comparison) -> Figure:
    """Differences in latencies between independent runs: how the host reacts to each strategy.

    Raises :class:`~sim.errors.InputError` if there are none: on one schedule all strategies have the same latencies.
    """
    if comparison.independent is None:
        raise InputError(
            "no independent runs, and on one schedule all strategies have the same latencies (allowed: results of a "
            "scenario with run.feedback = true, or of fpswitch run --feedback)"
        )
    moved = _reactions_of(comparison)
    cases, left_out = cases_of(comparison)
    moved = moved[moved["case"].isin([case["case"] for case in cases])]
    metrics_shown = _most_common(moved)
    if not metrics_shown:
        raise InputError("no latency of these independent runs has enough samples for a quantile")
    moved = moved[moved["metric"].isin(metrics_shown)]
    with style():
        figure, panels = figure_of(
            comparison,
            findings.of_feedback(moved, REACTIONS),
            "Independent runs, each strategy on a host of its own, paired by their random streams: difference from the "
            "reference (bold), with 95 % t intervals over the replications; those of quantiles are a bucket of "
            f"their histogram, a sixteenth of the value, wider at each end.{left_out}",
            [_height_in(len(case["strategies"])) for case in cases],
            len(metrics_shown),
        )
        for case, row in zip(cases, panels, strict=True):
            for axes, metric in zip(row, metrics_shown, strict=True):
                here = moved[(moved["case"] == case["case"]) & (moved["metric"] == metric)].set_index("strategy")
                if here.empty:
                    nothing(axes, f"{REACTIONS[metric]}:\ntoo few samples in {case['case']}")
                    continue
                _reactions(axes, case["strategies"], here)
                strategy_axis(
                    axes, case["strategies"], comparison.references[case["case"]],
                    unsound_in(comparison, case["case"]), names=metric == metrics_shown[0],
                )  # fmt: skip
                number_axis(axes, f"{REACTIONS[metric]}, us")
            case_title(row[0], case["case"])
    return cast("Figure", figure)


def _most_common(moved: pd.DataFrame) -> list[str]:
    """The metrics to show: those that all cases have, or else those that most have."""
    cases = moved.groupby("metric")["case"].nunique()
    there = sorted((name for name in REACTIONS if name in cases), key=lambda name: -int(cases[name]))
    everywhere = [name for name in there if cases[name] == moved["case"].nunique()]
    return [name for name in REACTIONS if name in (everywhere or there)[:MOST_REACTIONS]]


def has_latency(comparison: Comparison) -> bool:
    """Whether there are differences that the latency figure could show."""
    return not _reactions_of(comparison).empty


def _reactions_of(comparison: Comparison) -> pd.DataFrame:
    found = comparison.df_feedback()
    return found[found["metric"].isin(REACTIONS)]


def _reactions(axes: Axes, strategies: Sequence[str], here: pd.DataFrame) -> None:
    axes.axvline(0, color="0.3", linewidth=1)
    for y, name in enumerate(strategies):
        if name not in here.index:
            continue
        mean, low, high = here.loc[name, ["mean", "low", "high"]].to_numpy(dtype=float)
        color, marker = look(name)
        error = None if np.isnan(low) else [[mean - low], [high - mean]]
        axes.errorbar(
            mean, y, xerr=error, fmt=marker, color=color, markersize=5.5, capsize=2.5, elinewidth=1.2, label=name
        )
    ends = np.nan_to_num(np.abs(here[["mean", "low", "high"]].to_numpy()))
    end = MARGIN * max(float(ends.max()), 1e-3)
    axes.set_xlim(-end, end)
