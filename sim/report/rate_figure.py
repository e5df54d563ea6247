"""Cost against the rates of VM exits and of context switches, with the rates at which strategies cost the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pandas as pd

from sim.analysis import rates
from sim.analysis.law import Law
from sim.analysis.metrics import settings_of
from sim.kernel.config import strategy_of
from sim.report import rate_findings
from sim.report.figure_style import (
    ONLY_THE_REFERENCE,
    Label,
    case_title,
    cases_of,
    figure_of,
    labels_at_right,
    look,
    nothing,
    style,
    symmetric_log,
    tick_numbers,
    unsound_in,
    us,
)
from sim.report.names import value_text
from sim.report.summary import marked, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.analysis.answers import Answers
    from sim.analysis.comparison import Comparison

NAMES: Final = {rate: f"{name} per vCPU-second" for rate, name in rate_findings.EVENT_NAMES.items()}
WITHIN: Final = 10.0
"""The law is drawn from the simulated rate divided by this factor to that rate times it."""
PANEL_IN: Final = 4.4
"""Height of a row of panels, and of the axes in it, in inches."""
AXES_IN: Final = 3.5
LOW_IN: Final = 1.2
"""Height of a row that has nothing to show, in inches."""
MARKS: Final = 4
"""How many markers a line has."""


def against_rates(comparison: Comparison, answers: Answers) -> Figure:
    """The difference in cost from the reference against the rate of VM exits (left) and of context switches (right).

    If the scenario sweeps something that moves the rates, these are simulated points; otherwise it is the linear law of
    :mod:`sim.analysis.law`, for the strategies for which it holds.
    """
    points = rates.sweep_points(comparison)
    with style():
        return _laws(comparison) if points.empty else _sweep(comparison, answers, points)


# By the law.


def _laws(comparison: Comparison) -> Figure:
    cases, left_out = cases_of(comparison)
    drawn = {case["case"]: _sound(comparison, case) for case in cases}
    found = {name: rate_findings.crossings(comparison, name, sound, WITHIN) for name, sound in drawn.items()}
    figure, panels = figure_of(
        comparison,
        rate_findings.of_rates(comparison, [each for of_case in found.values() for each in of_case], WITHIN),
        "Lines are a law, not a simulation: prices of the kernel model's sequences x rates, buffers in L1, the other "
        "rate as simulated. Marks on the dotted line: simulated at that rate, FPU, MSR and XSS operations with buffers "
        "in L1, 95 % intervals. Open circles: two strategies cost the same. No line: the law misses the mark, since "
        f"the strategy does not do at each event what it does in a sequence.{left_out}",
        [LOW_IN if case["strategies"] == [comparison.references[case["case"]]] else PANEL_IN for case in cases],
        2,
    )
    at = {row["case"]: row for row in rates.df_rates(comparison).to_dict("records")}
    for case, row in zip(cases, panels, strict=True):
        name = case["case"]
        for axes, rate in zip(row, NAMES, strict=True):
            if case["strategies"] == [comparison.references[name]]:
                nothing(axes, ONLY_THE_REFERENCE)
            elif name not in at or not at[name][rate]:
                nothing(axes, f"no {rate_findings.EVENT_NAMES[rate]} of vCPUs")
            else:
                circles = [each.value for each in found[name] if each.rate == rate]
                _law_panel(comparison, axes, rate, at[name], case, circles)
        case_title(row[0], name)
    return cast("Figure", figure)


def _sound(comparison: Comparison, case: Mapping[str, Any]) -> list[str]:
    """The strategies of a case that have a line and a cost to compare."""
    left_out = unsound_in(comparison, case["case"]).union(rates.missed_by_law(comparison, case["case"]))
    return [name for name in case["strategies"] if name not in left_out]


def _same_laws(laws: Mapping[str, Law], reference: str) -> dict[Law, list[str]]:
    """Strategies by the difference of their law from the reference's; those with the same one share a line.

    The line has the look of the first, so sound strategies that were posted come first.
    """
    groups: dict[Law, list[str]] = {}
    base = laws[reference]
    for name, law in laws.items():
        difference = Law(law.exit - base.exit, law.switch - base.switch, law.round_trip - base.round_trip)
        groups.setdefault(difference, []).append(name)
    return groups


def _law_panel(
    comparison: Comparison,
    axes: Axes,
    rate: str,
    at: Mapping[Any, Any],
    case: Mapping[str, Any],
    circles: Sequence[float],
) -> None:
    name, scale = case["case"], us(case)
    reference, unsound = comparison.references[name], unsound_in(comparison, name)
    missed = rates.missed_by_law(comparison, name)
    check = comparison.df_law_check()
    simulated = check[check["case"] == name].set_index("strategy")[["mean", "low", "high"]] * scale
    x = np.geomspace(at[rate] / WITHIN, at[rate] * WITHIN, 201)
    of_case = rates.laws(comparison)[name]
    drawn = [strategy for strategy in of_case if strategy not in missed]
    remote = {each: (each in unsound, bool(strategy_of(settings_of(case, each)).hypothetical)) for each in drawn}
    laws = {strategy: of_case[strategy] for strategy in sorted(drawn, key=remote.__getitem__)}
    curves: list[tuple[np.ndarray[Any, np.dtype[np.float64]], list[str]]] = []
    for law, names in _same_laws(laws, reference).items():
        exits, switches = (x if rate == event else np.full_like(x, at[event]) for event in NAMES)
        curves.append((scale * (law.exit * exits + law.switch * switches + law.round_trip * at["round_trips"]), names))
    for place, (y, names) in enumerate(curves):
        color, marker = look(names[0])
        if reference in names:
            axes.plot(x, y, color=look(reference).color, linewidth=1.6, label=short(reference))
            continue
        first = 8 + 7 * (place % 5)  # so that markers of lines that coincide lie side by side
        axes.plot(
            x, y, marker=marker, markevery=(first, len(x) // MARKS), markersize=5, color=color, linewidth=1.4,
            alpha=0.5 if unsound.issuperset(names) else 1.0, label=", ".join(map(short, names)),
        )  # fmt: skip
    of_line = {strategy: names[0] for _, names in curves for strategy in names}
    of_reference = next((names for _, names in curves if reference in names), [])
    for strategy in simulated.index.difference(of_reference, sort=False):
        _mark(axes, at[rate], simulated.loc[strategy], of_line.get(strategy, strategy))
    axes.axvline(at[rate], color="0.4", linestyle=":", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(x[0], x[-1])
    log = symmetric_log(axes, "y", [*(y for y, _ in curves), simulated["mean"]])
    by_x = [next(y for y, names in curves if each in names) for each in _crossing_lines(comparison, name, rate)]
    for value, y in zip(circles, by_x, strict=True):
        axes.plot(
            value, np.interp(np.log(value), np.log(x), y), "o", markersize=6, markerfacecolor="white",
            markeredgecolor="0.2", zorder=5,
        )  # fmt: skip
    _rate_axes(axes, rate, short(reference), log)
    labels = [
        Label(_height(axes, float(y[-1])), _names(names, unsound, reference), look(_first(names, reference)), True)
        for y, names in curves
    ]
    labels += [
        Label(_height(axes, float(simulated.loc[each, "mean"])), f"{marked(each, unsound)}: no line", look(each), False)
        for each in missed
    ]
    labels_at_right(axes, labels, AXES_IN)


def _crossing_lines(comparison: Comparison, name: str, rate: str) -> list[str]:
    """A strategy of each crossing, in their order."""
    sound = _sound(comparison, comparison.results.case(name))
    return [each.above for each in rate_findings.crossings(comparison, name, sound, WITHIN) if each.rate == rate]


def _first(names: Sequence[str], reference: str) -> str:
    return reference if reference in names else names[0]


def _names(names: Sequence[str], unsound: frozenset[str], reference: str) -> str:
    """Names of strategies that share a line, two in a line of text."""
    ordered = sorted(names, key=lambda name: name != reference)
    shown = [marked(name, unsound) for name in ordered]
    return ",\n".join(", ".join(shown[i : i + 2]) for i in range(0, len(shown), 2))


def _height(axes: Axes, y: float) -> float:
    """Where a value lies in an axes, from 0 at its bottom to 1 at its top."""
    place = axes.transAxes.inverted().transform(axes.transData.transform((axes.get_xlim()[1], y)))[1]
    return float(np.clip(place, 0.0, 1.0))


def _mark(axes: Axes, rate: float, simulated: pd.Series, strategy: str) -> None:
    """What was simulated, on the line of the simulated rate."""
    color, marker = look(strategy)
    error = None if np.isnan(simulated["low"]) else [[simulated["high"] - simulated["mean"]]] * 2
    axes.errorbar(
        [rate], [simulated["mean"]], yerr=error, fmt=marker, color=color, markersize=6, capsize=2, elinewidth=1,
        label="_", zorder=4,
    )  # fmt: skip


# Over a sweep.


def _sweep(comparison: Comparison, answers: Answers, points: pd.DataFrame) -> Figure:
    hosts = list(dict.fromkeys(points["host"]))
    swept = next(iter(comparison.results.cases[0]["sweep"]))
    moved = [rate for rate in NAMES if any(rates.varies(line) for _, line in points.groupby("host")[rate])]
    figure, panels = figure_of(
        comparison,
        rate_findings.of_sweep(comparison, answers, points, swept),
        f"Simulated, over the sweep of {swept} (above): means with 95 % intervals of the difference on one schedule, "
        "all operations, the writes of IA32_XSS among them; lines are linear between the points. Open circles: costs "
        "as much as the reference.",
        [PANEL_IN] * len(hosts),
        len(moved),
    )
    crossings = rates.df_break_even(comparison)
    crossings = crossings[crossings["source"] == "sweep"]
    for host, row in zip(hosts, panels, strict=True):
        here = points[points["host"] == host]
        case = comparison.results.case(here["case"].iloc[0])
        reference = comparison.references[case["case"]]
        unsound = frozenset().union(*(unsound_in(comparison, name) for name in here["case"].unique()))
        for axes, rate in zip(row, moved, strict=True):
            if not rates.varies(here[rate]):
                nothing(axes, f"{NAMES[rate]}:\nthe sweep does not move them")
                continue
            ends = {
                str(strategy): _sweep_line(axes, line.sort_values(rate), rate, us(case), str(strategy))
                for strategy, line in here.groupby("strategy", sort=False)
            }
            at = crossings[(crossings["rate"] == rate) & crossings["case"].isin(here["case"])]["value"]
            axes.plot(at, [0] * len(at), "o", markersize=7, markerfacecolor="white", markeredgecolor="0.2", zorder=5)
            axes.axhline(0, color="0.3", linewidth=1)
            axes.set_xscale("log")
            _rate_axes(axes, rate, short(reference), symmetric_log(axes, "y", [us(case) * here["mean"]]))
            labels = [Label(_height(axes, y), marked(name, unsound), look(name), True) for name, y in ends.items()]
            labels_at_right(axes, labels, AXES_IN)
            _swept_values(comparison, axes, here, rate, swept)
        case_title(row[0], host)
    return cast("Figure", figure)


def _sweep_line(axes: Axes, line: pd.DataFrame, rate: str, scale: float, strategy: str) -> float:
    """The points of a strategy with lines between them; returns where the last one is."""
    color, marker = look(strategy)
    mean, low, high = (scale * line[column].to_numpy() for column in ("mean", "low", "high"))
    half = np.nan_to_num(np.array([mean - low, high - mean]))
    axes.errorbar(
        line[rate], mean, yerr=half, fmt=marker, capsize=2.5, markersize=5.5, color=color, label=short(strategy)
    )
    between = np.geomspace(line[rate].min(), line[rate].max(), 200)
    axes.plot(between, np.interp(between, line[rate], mean), color=color, linewidth=1.3, label="_")
    return float(mean[-1])


def _swept_values(comparison: Comparison, axes: Axes, points: pd.DataFrame, rate: str, swept: str) -> None:
    """Writes above the axes to which value of the sweep each point belongs, if there is room."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    low, high = axes.get_xlim()
    places: list[float] = []
    names: list[str] = []
    for case, at in sorted(dict(zip(points["case"], points[rate], strict=True)).items(), key=lambda each: each[1]):
        name = value_text(swept, comparison.results.case(case)["sweep"][swept])
        apart = np.log(at / places[-1]) / np.log(high / low) if places else 1.0
        if apart > CHARACTER * (len(name) + len(names[-1] if names else "") + 2):
            places.append(float(at))
            names.append(name)
    above = axes.secondary_xaxis("top")
    above.xaxis.set_major_locator(FixedLocator(places))
    above.xaxis.set_major_formatter(FixedFormatter(names))
    above.xaxis.set_minor_locator(NullLocator())
    above.tick_params(labelsize=9)
    above.set_xlabel(swept, fontsize=9)


CHARACTER: Final = 0.01
"""About half the width of a character of a tick, as a share of an axes beside another."""


def _rate_axes(axes: Axes, rate: str, reference: str, scale: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel(f"{NAMES[rate]} (log)", fontsize=10)
    axes.set_ylabel(f"us per vCPU-second more than {reference}{scale}", fontsize=9)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(tick_numbers())
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter(tick_numbers())
    axes.tick_params(labelsize=9)
