"""Cost against the rate of VM exits and of context switches, and the rates at which strategies cost the same.

Where the scenario sweeps something, the points are simulated cases; otherwise the linear law of :mod:`sim.analysis.law`
is drawn around the rates of the case, and says that it is that.
"""

from collections.abc import Mapping
from dataclasses import astuple, fields
from typing import Any, Final

import numpy as np
import pandas as pd

from sim.analysis.compared import Compared
from sim.analysis.law import Law, break_even, law
from sim.analysis.metrics import CARRYING_COST, CARRYING_COST_WITHOUT_XSS, COST
from sim.analysis.pricing import with_tables
from sim.results.settings import settings_of
from sim.results.tables import Results

EVENTS: Final = ("exits", "switches")

_PRICES: Final = tuple(field.name for field in fields(Law))


def df_law(results: Results) -> pd.DataFrame:
    """The law of every strategy in every case with vCPUs.

    Columns: case, strategy, exit, switch, round_trip, in TSC cycles, and the same without_xss.
    """
    lines = []
    tables = with_tables(results)
    for case in results.cases:
        for strategy in case["strategies"] if case["vcpus"] else ():
            settings, table = settings_of(case, strategy), tables[case["case"]]
            found, without = (astuple(law(settings, table, with_xss=with_xss)) for with_xss in (True, False))
            lines.append((case["case"], strategy, *found, *without))
    columns = ["case", "strategy", *_PRICES, *(f"{name}_without_xss" for name in _PRICES)]
    return pd.DataFrame(lines, columns=columns)


def laws(comparison: Compared, *, with_xss: bool = True) -> dict[str, dict[str, Law]]:
    """The same, by case and strategy."""
    found: dict[str, dict[str, Law]] = {}
    for row in comparison.df_law().to_dict("records"):
        prices = (row[name if with_xss else f"{name}_without_xss"] for name in _PRICES)
        found.setdefault(row["case"], {})[row["strategy"]] = Law(*prices)
    return found


def df_rates(comparison: Compared) -> pd.DataFrame:
    """Rates per vCPU-second of each case's schedule, means over replications: case, exits, switches, round_trips."""
    names = {
        "vm_exits_per_second": "exits",
        "context_switches_per_second": "switches",
        "kvm_run_round_trips_per_second": "round_trips",
    }
    found = comparison.df_schedule()
    found = found[found["metric"].isin(names)]
    table = found.pivot(index="case", columns="metric", values="mean").rename(columns=names)
    vcpus = pd.Series({case["case"]: case["vcpus"] for case in comparison.results.cases})
    here = vcpus.loc[table.index].to_numpy()
    table = table[here > 0].div(here[here > 0], axis=0)
    return table.reset_index().rename_axis(columns=None)


MISS: Final = 0.1
"""The share of a simulated difference by which the law may be off."""


def df_law_check(comparison: Compared) -> pd.DataFrame:
    """The law's difference from the reference at the rates of the schedule, and the simulated one.

    Columns: case, strategy, law, mean, low, high (per vCPU-second; FPU, MSR and XSS operations priced warm, which is
    what the law is about), law_without_xss, mean_without_xss, holds.  The law holds if it is beside the mean by no more
    than a tenth of it, with the cycles of IA32_XSS, which are many, and without: lazy strategies do not do at every
    event what they do in a sequence of the model.  Both are of one schedule, so chance has little part in it.
    """
    moved = comparison.df_differences()
    warm, without = (
        {
            (row["case"], row["strategy"]): row
            for row in moved[moved["metric"] == f"{metric}_all_warm"].to_dict("records")
        }
        for metric in (CARRYING_COST, CARRYING_COST_WITHOUT_XSS)
    )
    rates = {row["case"]: row for row in df_rates(comparison).to_dict("records")}
    prices, prices_without = laws(comparison), laws(comparison, with_xss=False)
    lines = []
    for (case, strategy), row in warm.items():
        if case not in prices or case not in rates:
            continue
        at = {name: value for name, value in rates[case].items() if name in _RATES}
        of_law, of_law_without = (
            of[case][strategy].cost(**at) - of[case][comparison.references[case]].cost(**at)
            for of in (prices, prices_without)
        )
        mean, mean_without = row["mean"], without[case, strategy]["mean"]
        holds = _near(of_law, mean) and _near(of_law_without, mean_without)
        lines.append((case, strategy, of_law, mean, row["low"], row["high"], of_law_without, mean_without, holds))
    columns = ["case", "strategy", "law", "mean", "low", "high", "law_without_xss", "mean_without_xss", "holds"]
    return pd.DataFrame(lines, columns=columns)


def _near(of_law: float, mean: float) -> bool:
    return abs(of_law - mean) <= MISS * abs(mean)


_RATES: Final = (*EVENTS, "round_trips")


def missed_by_law(comparison: Compared, case: str) -> list[str]:
    """The strategies of ``case`` for which the law does not hold."""
    found = comparison.df_law_check()
    return [str(name) for name in found.loc[(found["case"] == case) & ~found["holds"].astype(bool), "strategy"]]


def df_break_even(comparison: Compared) -> pd.DataFrame:
    """Rates per vCPU-second at which a strategy costs what the reference costs; none if one violates integrity.

    Columns: case, strategy, rate (exits or switches), value, source.  Source "law": the linear law, the other rates
    being those of the case's schedule; none where the law does not hold (:func:`df_law_check`).  Source "sweep":
    between two simulated points of a sweep, by linear interpolation of the paired difference over the schedule's rate;
    case is then the first point's.
    """
    lines = [*_by_sweep(comparison), *_by_law(comparison)]
    return pd.DataFrame(lines, columns=["case", "strategy", "rate", "value", "source"])


def comparable(comparison: Compared, case: str, strategy: str) -> bool:
    """Whether neither the strategy nor the reference violates integrity."""
    return comparison.violating(case).isdisjoint((strategy, comparison.references[case]))


def _by_law(comparison: Compared) -> list[tuple[Any, ...]]:
    lines = []
    rates = {row["case"]: row for row in df_rates(comparison).to_dict("records")}
    for case, prices in laws(comparison).items():
        reference = comparison.references[case]
        if case not in rates:
            continue
        at = rates[case]
        missed = missed_by_law(comparison, case)
        for strategy, price in prices.items():
            if strategy in missed or not comparable(comparison, case, strategy):
                continue
            for rate in EVENTS:
                value = break_even(
                    price,
                    prices[reference],
                    round_trips=at["round_trips"],
                    exits=None if rate == "exits" else at["exits"],
                    switches=None if rate == "switches" else at["switches"],
                )
                if strategy != reference and value is not None:
                    lines.append((case, strategy, rate, value, "law"))
    return lines


def sweep_points(comparison: Compared) -> pd.DataFrame:
    """Simulated differences in cost along a sweep: host, case, strategy, exits, switches, mean, low, high.

    "host" is what the points of a line have in common (CPU and kernel); the rates are the schedule's.  Empty without a
    sweep of one quantity over at least two values that moves a rate.
    """
    cases = [case for case in comparison.results.cases if case["vcpus"] and _is_quantity(case["sweep"])]
    host = {case["case"]: f"{case['cpu']}, {case['kernel']}" for case in cases}
    moved = comparison.df_differences()
    moved = moved[(moved["metric"] == COST) & moved["case"].isin(host)]
    points = moved.merge(df_rates(comparison), on="case").assign(host=lambda frame: frame["case"].map(host))
    of_line = points.groupby(["host", "strategy"])
    moved_by_sweep = pd.Series(False, index=points.index)
    for rate in EVENTS:
        moved_by_sweep |= of_line[rate].transform("max") > LEAST * of_line[rate].transform("min")
    return points.loc[moved_by_sweep, ["host", "case", "strategy", "unit", *EVENTS, "mean", "low", "high"]]


LEAST: Final = 1.2
"""How much a sweep must change a rate, as a factor, for cost to be drawn over it."""


def _is_quantity(sweep: Mapping[str, Any]) -> bool:
    """Whether a point lies on a line: one parameter, and it is a number, perhaps with a unit."""
    values = list(sweep.values())
    return len(values) == 1 and not isinstance(values[0], bool) and str(values[0])[:1].isdigit()


def _by_sweep(comparison: Compared) -> list[tuple[Any, ...]]:
    lines = []
    points_of_all = sweep_points(comparison)
    sound = [comparable(comparison, *key) for key in zip(points_of_all["case"], points_of_all["strategy"], strict=True)]
    for (_, strategy), points in points_of_all[np.array(sound, dtype=bool)].groupby(["host", "strategy"], sort=False):
        for rate in EVENTS:
            ordered = points.sort_values(rate)
            x, y = ordered[rate].to_numpy(), ordered["mean"].to_numpy()
            if not varies(x):
                continue
            for i in np.flatnonzero(np.sign(y[:-1]) * np.sign(y[1:]) < 0):
                value = x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])
                lines.append((ordered["case"].iloc[i], strategy, rate, float(value), "sweep"))
    return lines


def varies(rates: Any) -> bool:
    """Whether a sweep moves this rate enough to be drawn over it."""
    return bool(np.max(rates) > LEAST * np.min(rates))
