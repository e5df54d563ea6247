"""The schedule as a figure: quantities against a swept key, or CPU time against wake-up latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from sim.analysis.outcomes import Outcome, outcomes
from sim.report import schedule_answer
from sim.report.amounts import three_digits
from sim.report.figure_style import figure_of, nothing, style
from sim.report.names import key_name, value_text
from sim.report.schedule_answer import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.analysis.comparison import Comparison

PANEL_IN: Final = 4.2
MOST_PANELS: Final = 3
COLORS: Final = ("#3344aa", "#bb5522", "#664466", "#009e73", "#eeaa22", "#77bbff", "#661100", "#777777")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
FIRST: Final = ("p99", "steal", "requests", "work", "spinning", "mean")
"""What is drawn against a key: the first of these that the results have."""

FOUND: Final = {
    "polling": ("polling takes", " % of vCPU time"), "spinning": ("spinning for locks", " % of vCPU time"),
    "steal": ("steal", " % of vCPU time"), "p99": ("p99 of the wake-up", " us"),
}  # fmt: skip
"""What the title says of a quantity that a panel has."""
NEAR: Final = 0.04
"""Labels of points nearer than this, as a share of the axes, would overlap."""
LABEL: Final = 0.13
"""Room for the label of the point at the right end, as a share of the axis."""


def outcome(comparison: Comparison) -> Figure:
    """If guests or KVM poll: the CPU time of polling against latency, a line for each load; else quantities by key.

    A line joins the cases that differ in one key alone, the one with most values.
    """
    found = outcomes(comparison)
    key = _key(found)
    polls = any(each.polling >= schedule_answer.ROOM for each in found)
    columns = [each for name in FIRST for each in schedule_answer.columns_of(found) if each.name == name][:MOST_PANELS]
    with style():
        figure, panels = figure_of(
            comparison,
            _finding(found, ["polling", "p99"] if polls else [each.name for each in columns]),
            f"Means over replications{'' if polls else ', with 95 % intervals'}; latencies of all replications "
            "together, from the event or the wake-up (run.latency_from) to the VM entry. Lines join cases that differ "
            "only in the key named.",
            [PANEL_IN],
            2 if polls else max(len(columns), 1),
        )
        row = panels[0]
        if not found:
            nothing(row[0], "no case has vCPUs")
        elif polls:
            for axes, (name, label) in zip(row, (("mean", "mean"), ("p99", "p99")), strict=True):
                _pareto(axes, found, key, name, label)
        else:
            for axes, column in zip(row, columns, strict=True):
                _by_key(axes, found, key, column)
        handles, names = row[0].get_legend_handles_labels()
        if names:
            figure.legend(handles, names, loc="outside right upper", fontsize=9)
    return cast("Figure", figure)


def _finding(found: Sequence[Outcome], names: Sequence[str]) -> str:
    """The title: how far the quantities that are drawn go."""
    said = []
    for name, (text, unit) in ((name, FOUND[name]) for name in names if name in FOUND):
        values = [value for each in found if math.isfinite(value := getattr(each, name))]
        if values and max(values) > (schedule_answer.ROOM if name in schedule_answer.SHARES else 0):
            low, high = (three_digits(end if end >= schedule_answer.LEAST else 0) for end in (min(values), max(values)))
            said.append(f"{text} {low} to {high}{unit}")
    text = "; ".join(said) or "nothing waits"
    return text[0].upper() + text[1:]


def _key(found: Sequence[Outcome]) -> str:
    """The swept key with the most values; among numeric keys, the one whose doublings are mentioned."""
    number = schedule_answer.numbers(found)
    if number:
        return number
    values: dict[str, set[Any]] = {}
    for each in found:
        for path, value in each.case["sweep"].items():
            values.setdefault(path, set()).add(value)
    return max(values, key=lambda path: len(values[path]), default="")


def _groups(found: Sequence[Outcome], key: str) -> dict[str, list[Outcome]]:
    """The cases that differ in this key alone, by the values of the other keys."""
    groups: dict[str, list[Outcome]] = {}
    varying = {
        path for each in found for path, value in each.case["sweep"].items()
        if path != key and any(other.case["sweep"].get(path) != value for other in found)
    }  # fmt: skip
    for each in found:
        rest = [
            f"{key_name(path)} = {value_text(path, value)}"
            for path, value in each.case["sweep"].items()
            if path in varying
        ]
        groups.setdefault(", ".join(rest), []).append(each)
    return groups


def _pareto(axes: Axes, found: Sequence[Outcome], key: str, name: str, label: str) -> None:
    """CPU time that polling takes against a latency; at each point the value of the key."""
    every = [each for each in found if math.isfinite(getattr(each, name))]
    if not every:
        nothing(axes, "too few wake-ups for this quantile")
        return
    widest, highest = max(each.polling for each in every), max(getattr(each, name) for each in every)
    labelled: list[tuple[float, float]] = []
    for number, (group, members) in enumerate(_groups(found, key).items()):
        there = [each for each in members if math.isfinite(getattr(each, name))]
        if not there:
            continue
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        x, y = [each.polling for each in there], [getattr(each, name) for each in there]
        axes.plot(
            x, y, "-", color=color, marker=marker, markersize=6, linewidth=1.2, clip_on=False,
            label=group or "all cases",
        )  # fmt: skip
        for each, left, up in zip(there, x, y, strict=True) if len(there) > 1 else ():
            if all(abs(left - a) > NEAR * widest or abs(up - b) > NEAR * highest for a, b in labelled):
                labelled.append((left, up))
                text = value_text(key, each.case["sweep"].get(key, ""))
                axes.annotate(text, (left, up), textcoords="offset points", xytext=(5, 4), fontsize=7.5, color=color)
    axes.set_xlim(-0.05 * widest, (1 + LABEL) * widest)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"polling, % of vCPU time (at each point: {key})", fontsize=10)
    axes.set_ylabel(f"wake-up to VM entry, {label}, us", fontsize=10)


def _by_key(axes: Axes, found: Sequence[Outcome], key: str, column: Column) -> None:
    for number, (group, members) in enumerate(_groups(found, key).items()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        values = [each.case["sweep"].get(key, "") for each in members]
        x = values if schedule_answer.numbers(found) else [value_text(key, value) for value in values]
        axes.errorbar(
            x, [getattr(each, column.name) for each in members],
            yerr=[each.half.get(column.name, math.nan) for each in members],
            color=color, marker=marker, markersize=6, linewidth=1.2, capsize=2.5, clip_on=False,
            label=group or "all cases",
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlabel(key, fontsize=10)
    axes.set_ylabel(f"{column.called}, {column.below.removeprefix('p99 ').removeprefix('mean ')}", fontsize=10)
