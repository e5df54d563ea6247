"""Whether the tables of a result directory are those of its manifest: known names, ranges, and nothing missing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sim.costs import document as cost_documents
from sim.costs.price import Prices
from sim.costs.rows import CostTable
from sim.errors import InputError
from sim.kernel.datafile import shortened
from sim.kernel.integrity import RESIDUE, VIOLATIONS
from sim.kernel.state import IDLE_TASK, KTHREAD, USER_TASK, VCPU_TASK
from sim.results import manifest as manifests
from sim.results import parts
from sim.results.columns import KEY_COLUMNS, RUN_COLUMNS
from sim.results.schema import shorter

MOST: Final = 2**53
"""Whole numbers up to this are exact in all tables."""
MOST_MASK: Final = 2**63 - 1

OPERATIONS: Final = "operations_cycles"
ELAPSED: Final = "elapsed_cycles"
TOTALS: Final = (OPERATIONS, ELAPSED)
HALF_A_CYCLE: Final = 0.5
"""What rounding may take from or add to the price of one operation."""

RANGES: Final[Mapping[str, Mapping[str, tuple[int, int]]]] = {
    "ledger": {
        "rfbm": (0, MOST_MASK),
        "components": (0, MOST_MASK),
        "initialised": (0, MOST_MASK),
        "count": (0, MOST),
        "cycles": (0, MOST),
    },
    "metrics": {"value": (0, MOST)},
    "latency": {"low": (0, MOST), "high": (0, MOST), "count": (0, MOST)},
    "integrity": {"count": (0, MOST)},
}
WORDS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "ledger": {
        "thread_kind": (USER_TASK, VCPU_TASK, KTHREAD, IDLE_TASK),
        "level": ("", "L1", "L2", "memory"),
    },
    "metrics": {},
    "latency": {"histogram": ("vcpu", "thread")},
    "integrity": {"kind": (*VIOLATIONS, RESIDUE)},
}
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "ledger": KEY_COLUMNS,
    "metrics": ("metric",),
    "latency": ("histogram", "low"),
    "integrity": ("kind",),
}
"""What is there once in each replication."""


def cost_tables(costs: Any, manifest: Mapping[str, Any], where: str) -> dict[str, CostTable]:
    """The cost tables of a costs.json; :class:`InputError` if they are not those of the manifest's cases."""
    if not isinstance(costs, Mapping):
        raise InputError(f"{where}: not the cost tables of a run (allowed: tables by name)")
    tables = {name: cost_documents.from_document(each, f"{where}: {_name(name)}") for name, each in costs.items()}
    for case in manifest["cases"]:
        if case["cost_table"] not in tables:
            names = ", ".join(map(_name, tables))
            raise InputError(
                f"{where}: lacks the cost table {shortened(case['cost_table'])} of case {shortened(case['case'])} "
                f"(it has {names or 'none'})"
            )
        if manifests.sha256(costs[case["cost_table"]]) != case["cost_table_sha256"]:
            raise InputError(
                f"{where}: {_name(case['cost_table'])}: is not the table of the run (another sha256 than in "
                f"{manifests.NAME})"
            )
    return tables


def _name(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else shortened(name)


def check(
    tables: Mapping[str, pd.DataFrame], manifest: Mapping[str, Any], costs: Mapping[str, CostTable], path: Path
) -> None:
    """Raises :class:`InputError` for the first thing in the tables that cannot be of the run in the manifest.

    ``tables`` have their documented columns and types; ``path`` is the directory.
    """
    expected = pd.MultiIndex.from_tuples(parts.expected(manifest), names=list(RUN_COLUMNS))
    for name, frame in tables.items():
        for problem in _problems(name, frame, expected):
            raise InputError(f"{path / f'{name}.parquet'}: {problem}")
    for problem in _incomplete(tables, expected):
        raise InputError(f"{path}: {problem}")
    of_case = {case["case"]: costs[case["cost_table"]] for case in manifest["cases"]}
    for problem in _mispriced(tables["ledger"], of_case):
        raise InputError(f"{path / 'ledger.parquet'}: {problem}")


def _problems(name: str, frame: pd.DataFrame, expected: pd.MultiIndex) -> Iterator[str]:
    run = pd.MultiIndex.from_frame(frame[list(RUN_COLUMNS)])
    yield from _first(frame, ~run.isin(expected), "no replication of this strategy in this case is in the manifest")
    for column, words in WORDS[name].items():
        text = f"{column} is none of {', '.join(word or 'nothing' for word in words)}"
        yield from _first(frame, ~frame[column].isin(words).to_numpy(), text, column)
    for column, (least, most) in RANGES[name].items():
        values = frame[column].to_numpy()
        text = f"{column} is not in its range (allowed: {least} to {most})"
        yield from _first(frame, ~((values >= least) & (values <= most)), text, column)  # NaN is in none
    if name == "latency":
        wrong = (frame["low"] >= frame["high"]).to_numpy()
        yield from _first(frame, wrong, "low is not below high", "low")
    keys = [*RUN_COLUMNS, *KEYS[name]]
    yield from _first(frame, frame.duplicated(keys).to_numpy(), f"a second row of this {KEYS[name][0]}")


def _first(frame: pd.DataFrame, wrong: "np.ndarray[Any, Any]", text: str, column: str = "") -> Iterator[str]:
    """A sentence about the first row that is wrong, if there is one."""
    if not wrong.any():
        return
    number = int(np.argmax(wrong))
    row = frame.iloc[number]
    found = f", found {shortened(_plain(row[column]))}" if column else ""
    who = ", ".join(shortened(_plain(row[each])) for each in RUN_COLUMNS)
    yield f"row {number + 1} of {len(frame)} ({who}): {text}{found}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _incomplete(tables: Mapping[str, pd.DataFrame], expected: pd.MultiIndex) -> Iterator[str]:
    """What the host counted is there for each schedule, and the ledger has the operations that it counted."""
    metrics, ledger = tables["metrics"], tables["ledger"]
    timing = expected[expected.get_level_values("timed_by") == expected.get_level_values("strategy")]
    counted = metrics.groupby("metric", sort=False)["value"].count()
    for metric, number in counted[counted < len(timing)].items():
        there = pd.MultiIndex.from_frame(metrics.loc[metrics["metric"] == metric, list(RUN_COLUMNS)])
        lacking = _who(timing[~timing.isin(there)][0])
        yield f"metrics.parquet: {shortened(metric)} is there {number} of {len(timing)} times, and not for {lacking}"
    if metrics.empty:
        yield f"metrics.parquet: nothing of {_who(timing[0])}"
    for metric in (OPERATIONS, ELAPSED):
        if metric not in counted:
            yield f"metrics.parquet: no {metric!r}"
    operations, elapsed = (
        metrics[metrics["metric"] == name].set_index(list(RUN_COLUMNS))["value"].reindex(timing) for name in TOTALS
    )
    if (elapsed <= 0).any():
        yield f"metrics.parquet: {ELAPSED} of {_who(timing[int(np.argmax(elapsed <= 0))])} is 0"
    by_part = ledger.groupby(list(RUN_COLUMNS), sort=False)["cycles"].sum()
    cycles = by_part.reindex(timing, fill_value=0)
    if (cycles != operations).any():
        at = int(np.argmax(cycles != operations))
        yield (
            f"ledger.parquet: the operations of {_who(timing[at])} took {cycles.iloc[at]} cycles, and by "
            f"metrics.parquet {operations.iloc[at]:.0f}"
        )
    did_something = timing[(operations > 0).to_numpy()].droplevel("strategy")
    gone = expected[~expected.isin(by_part.index) & expected.droplevel("strategy").isin(did_something)]
    if len(gone):
        yield f"ledger.parquet: nothing of {_who(gone[0])}"


def _who(part: Any) -> str:
    case, timed_by, strategy, replication = part
    walked = "" if strategy == timed_by else f", timed by {_name(timed_by)}"
    return f"{_name(case)}, {_name(strategy)}{walked}, replication {replication}"


def _mispriced(ledger: pd.DataFrame, of_case: Mapping[str, CostTable]) -> Iterator[str]:
    """Rows that their cost table has no price for, or another one."""
    for case, table in of_case.items():
        prices = Prices(table)
        rows = ledger[ledger["case"] == case]
        keys = rows[list(KEY_COLUMNS)].drop_duplicates()
        for row, key in zip(keys.index, keys.itertuples(index=False, name=None), strict=True):
            try:
                prices[key]
            except InputError as error:
                yield f"row {row + 1} of {len(ledger)}: {shorter(error)}"
        all_keys = rows[list(KEY_COLUMNS)].itertuples(index=False, name=None)
        price = np.array([prices[key] for key in all_keys], dtype=float)
        count, cycles = (rows[column].to_numpy(dtype=float) for column in ("count", "cycles"))
        wrong = np.abs(cycles - count * price) > HALF_A_CYCLE * count + 1e-9 * cycles
        if wrong.any():
            at = int(np.argmax(wrong))
            row = rows.index[at]
            yield (
                f"row {row + 1} of {len(ledger)}: {rows['operation'][row]}, {count[at]:.0f} times, is {cycles[at]:.0f} "
                f"cycles, and by {manifests.COSTS} {count[at] * price[at]:.0f}"
            )
