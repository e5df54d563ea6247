"""Cost against the rates of VM exits and of context switches, with the rates at which strategies cost the same."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pandas as pd

from sim.analysis import rates
from sim.analysis.law import Law
from sim.report import figures
from sim.report.summary import marked, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sim.analysis.comparison import Comparison

NAMES: Final = {"exits": "VM exits per vCPU-second", "switches": "context switches per vCPU-second"}
DECADES: Final = 1.5
"""How far from the simulated rate the law is drawn, on both sides."""


Style = tuple[Any, str, str]
"""Colour, line and marker of a strategy."""


def _styles(comparison: Comparison, palette: Sequence[Any]) -> dict[str, Style]:
    """A style for every strategy, the same in all panels."""
    names = list(dict.fromkeys(name for case in comparison.results.cases for name in case["strategies"]))
    return {
        name: (palette[i % len(palette)], ("-", "--", "-.", ":")[i % 4], "osD^v<>PX*"[i % 10])
        for i, name in enumerate(names)
    }


def against_rates(comparison: Comparison) -> Figure:
    """The difference in cost from the reference against the rate of VM exits (left) and of context switches (right).

    Simulated points where the scenario sweeps something that moves the rates; the linear law of
    :mod:`sim.analysis.law` otherwise, for the strategies for which it holds.
    """
    points = rates.sweep_points(comparison)
    with figures.style() as sns:
        palette = [color for i, color in enumerate(sns.color_palette("colorblind")) if i != 8]  # no yellow lines
        styles = _styles(comparison, palette)
        if not points.empty:
            return _sweep(comparison, points, styles)
        return _laws(comparison, styles)


def _laws(comparison: Comparison, styles: Mapping[str, Style]) -> Figure:
    figure, cases, panels = figures.panels_of(
        comparison,
        "cost against rates, by the linear law",
        "a law, not a simulation: prices of the model's sequences x rates, warm buffers, other rates as simulated;\n"
        "dotted: the simulated rate; open circles: rates at which two strategies cost the same; marks with bars on the "
        "dotted line: simulated, FPU, MSR and XSS operations priced warm" + _not_drawn(comparison),
        2,
        per_strategy=False,
    )
    found = {row["case"]: row for row in rates.df_rates(comparison).to_dict("records")}
    laws = rates.laws(comparison)
    for case, axes_of_case in zip(cases, panels, strict=False):
        name = case["case"]
        at = found.get(name)
        for axes, rate in zip(axes_of_case, NAMES, strict=True):
            if case["strategies"] == [comparison.references[name]]:
                figures.nothing(axes, figures.ONLY_THE_REFERENCE)
            elif at is None or not at[rate]:
                figures.nothing(axes, f"no {NAMES[rate].split(' per')[0]} of vCPUs")
            else:
                _law_panel(axes, rate, at, laws.get(name, {}), comparison, name, styles)
        axes_of_case[0].set_title(name, loc="left", fontsize=11)
        if axes_of_case[1].lines:
            axes_of_case[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return cast("Figure", figure)


def _not_drawn(comparison: Comparison) -> str:
    """Strategies without a line, since the law misses what was simulated."""
    cases: dict[str, list[str]] = {}
    for case in comparison.results.cases:
        names = ", ".join(map(short, rates.missed_by_law(comparison, case["case"])))
        cases.setdefault(names, []).append(case["case"])
    cases.pop("", None)
    lines = [f"{names} ({'; '.join(of)})" for names, of in cases.items()]
    if not lines:
        return ""
    return "\n" + textwrap.fill(f"no line, since the law does not hold (it misses the mark): {'; '.join(lines)}", 150)


def _same_laws(laws: Mapping[str, Law], reference: str) -> dict[Law, list[str]]:
    """Strategies by the difference of their law from the reference's; those with the same one share a line."""
    groups: dict[Law, list[str]] = {}
    base = laws[reference]
    for name, law in laws.items():
        difference = Law(law.exit - base.exit, law.switch - base.switch, law.round_trip - base.round_trip)
        groups.setdefault(difference, []).append(name)
    return groups


def _law_panel(
    axes: Axes,
    rate: str,
    at: Mapping[Any, Any],
    laws: Mapping[str, Law],
    comparison: Comparison,
    case: str,
    styles: Mapping[str, Style],
) -> None:
    reference, violating = comparison.references[case], comparison.violating(case)
    missed = rates.missed_by_law(comparison, case)
    check = comparison.df_law_check()
    simulated = check[check["case"] == case].set_index("strategy")
    x = np.geomspace(at[rate] / 10**DECADES, at[rate] * 10**DECADES, 400)
    curves, sound = [], []
    for law, names in _same_laws({name: law for name, law in laws.items() if name not in missed}, reference).items():
        exits, switches = (x if rate == name else np.full_like(x, at[name]) for name in NAMES)
        y = law.exit * exits + law.switch * switches + law.round_trip * at["round_trips"]
        color, line, mark = ("0.2", "-", "") if reference in names else styles[names[0]]
        label = ",\n".join(marked(name, violating) for name in names)
        axes.plot(x, y, line, color=color, linewidth=2.2 if reference in names else 1.6, label=label)
        curves.append(y)
        if not violating.issuperset(names):
            sound.append(y)
        _marks(axes, at[rate], simulated[simulated.index.isin(names)], color, mark or "o")
    for name in missed:
        color, _, mark = styles[name]
        _marks(axes, at[rate], simulated.loc[[name]], color, mark, f"{marked(name, violating)}: no line")
    for i, one in enumerate(sound):
        for other in sound[:i]:
            for j in np.flatnonzero((one[:-1] - other[:-1]) * (one[1:] - other[1:]) < 0):
                part = (one[j] - other[j]) / (one[j] - other[j] - one[j + 1] + other[j + 1])
                at_x, at_y = (each[j] + part * (each[j + 1] - each[j]) for each in (x, one))
                axes.plot(at_x, at_y, "o", markersize=6, markerfacecolor="white", markeredgecolor="0.2", zorder=5)
    axes.axvline(at[rate], color="0.4", linestyle=":", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(x[0], x[-1])
    _label(axes, rate, reference, figures.symmetric_log(axes, "y", [*curves, simulated["mean"]]))


def _marks(axes: Axes, rate: float, simulated: pd.DataFrame, color: Any, mark: str, label: str = "") -> None:
    """What was simulated, on the line of the simulated rate."""
    mean = simulated["mean"].to_numpy()
    half = np.nan_to_num(simulated["high"].to_numpy() - mean)
    axes.errorbar(
        np.full_like(mean, rate), mean, yerr=half, fmt=mark, color=color, markersize=5, capsize=2, elinewidth=1,
        label=label or "_", zorder=4,
    )  # fmt: skip


def _sweep(comparison: Comparison, points: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    from matplotlib.figure import Figure

    hosts = list(dict.fromkeys(points["host"]))
    figure = Figure(figsize=(figures.WIDTH_IN, 1.0 + 4.6 * len(hosts)), layout="constrained")
    swept = next(iter(comparison.results.cases[0]["sweep"]))
    name = comparison.results.manifest["scenario"]
    figure.suptitle(f"{name}: cost against rates, over the sweep of {swept}", fontsize=13, fontweight="bold")
    figure.supxlabel(
        "simulated: means with 95 % intervals of the paired difference; rates are the reference's;\n"
        "lines: linear between the points; open circles: break-even" + figures.violation_note(comparison),
        fontsize=9,
        color="0.25",
    )
    crossings = rates.df_break_even(comparison)
    crossings = crossings[crossings["source"] == "sweep"]
    moved = [rate for rate in NAMES if any(rates.varies(line) for _, line in points.groupby("host")[rate])]
    panels = figure.subplots(len(hosts), len(moved), squeeze=False)
    for host, axes_of_host in zip(hosts, panels, strict=True):
        here = points[points["host"] == host]
        reference = comparison.references[here["case"].iloc[0]]
        violating = frozenset().union(*(comparison.violating(case) for case in here["case"].unique()))
        for axes, rate in zip(axes_of_host, moved, strict=True):
            if not rates.varies(here[rate]):
                figures.nothing(axes, f"{NAMES[rate]}:\nthe sweep does not move them")
                continue
            for strategy, line in here.groupby("strategy", sort=False):
                line = line.sort_values(rate)
                half = np.nan_to_num(np.array([line["mean"] - line["low"], line["high"] - line["mean"]]))
                color, dashes, mark = styles[str(strategy)]
                axes.errorbar(
                    line[rate], line["mean"], yerr=half, fmt=mark, capsize=3, markersize=5, color=color,
                    label=marked(str(strategy), violating),
                )  # fmt: skip
                between = np.geomspace(line[rate].min(), line[rate].max(), 400)
                axes.plot(between, np.interp(between, line[rate], line["mean"]), dashes, color=color, linewidth=1.4)
            at = crossings[(crossings["rate"] == rate) & crossings["case"].isin(here["case"])]["value"]
            axes.plot(at, [0] * len(at), "o", markersize=8, markerfacecolor="white", markeredgecolor="0.2", zorder=5)
            axes.axhline(0, color="0.3", linewidth=1)
            axes.set_xscale("log")
            _label(axes, rate, reference, figures.symmetric_log(axes, "y", [here["mean"]]))
        handles, labels = next(axes for axes in axes_of_host if axes.has_data()).get_legend_handles_labels()
        axes_of_host[-1].legend(handles, labels, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        axes_of_host[0].set_title(host, loc="left", fontsize=11)
    return figure


def _label(axes: Axes, rate: str, reference: str, scale: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axes.set_xlabel(f"{NAMES[rate]} (log)", fontsize=10)
    axes.set_ylabel(f"cycles per vCPU-second more than {short(reference)}{scale}", fontsize=9)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=9)
