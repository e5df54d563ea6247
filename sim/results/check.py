"""Whether the tables of a result directory are those of its manifest: known names, ranges, and nothing missing.

Tables are read a batch of rows at a time; what stays of a record are some thirty bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
from sim.results.repeated import KEY_BITS, Codes, Repeated, second
from sim.results.schema import shorter
from sim.results.stored import Stored

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
    hashes = {name: manifests.sha256(each) for name, each in costs.items()}
    for case in manifest["cases"]:
        if case["cost_table"] not in tables:
            names = ", ".join(map(_name, tables))
            raise InputError(
                f"{where}: lacks the cost table {shortened(case['cost_table'])} of case {shortened(case['case'])} "
                f"(it has {names or 'none'})"
            )
        if hashes[case["cost_table"]] != case["cost_table_sha256"]:
            raise InputError(
                f"{where}: {_name(case['cost_table'])}: is not the table of the run (another sha256 than in "
                f"{manifests.NAME})"
            )
    return tables


def _name(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else shortened(name)


def check(
    stored: Mapping[str, Stored], manifest: Mapping[str, Any], costs: Mapping[str, CostTable], path: Path
) -> None:
    """Raises :class:`InputError` for the first thing in the tables that cannot be of the run in the manifest.

    ``path`` is the directory.
    """
    expected = _Parts(manifest)
    number = {name: table.check_size(len(expected)) for name, table in stored.items()}
    seen = _Seen(len(expected))
    for name, table in stored.items():
        for problem in _problems(table, number[name], expected, seen):
            raise InputError(f"{table.path}: {problem}")
    for problem in _incomplete(stored["metrics"], expected, seen):
        raise InputError(f"{path}: {problem}")
    of_case = {case["case"]: costs[case["cost_table"]] for case in manifest["cases"]}
    for problem in _mispriced(stored["ledger"], number["ledger"], of_case):
        raise InputError(f"{stored['ledger'].path}: {problem}")


class _Parts:
    """The parts of a run by number: those of a series together, by replication."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self.replications = int(manifest["replications"])
        self.series = list(parts.series(manifest))
        self._number = {series: i for i, series in enumerate(self.series)}
        timing = {series[:2]: i for i, series in enumerate(self.series) if series[1] == series[2]}
        self.timed_by = np.array([timing[series[:2]] for series in self.series])
        """Of each series the number of that which times its schedule."""

    def __len__(self) -> int:
        return len(self.series) * self.replications

    def of(self, batch: pa.RecordBatch) -> Codes:
        """The part of each row; -1 for one that is none."""
        code, series = _distinct([batch.column(name) for name in RUN_COLUMNS[:-1]])
        number = np.array([self._number.get(each, -1) for each in series], dtype=np.int64)[code]
        replication = batch.column(RUN_COLUMNS[-1]).to_numpy()
        there = (number >= 0) & (replication >= 0) & (replication < self.replications)
        return np.where(there, number * self.replications + np.where(there, replication, 0), -1)

    def who(self, part: int) -> str:
        """Which part this is, in words."""
        number, replication = divmod(part, self.replications)
        case, timed_by, strategy = self.series[number]
        walked = "" if strategy == timed_by else f", timed by {_name(timed_by)}"
        return f"{_name(case)}, {_name(strategy)}{walked}, replication {replication}"

    @property
    def timing(self) -> Codes:
        """The parts that time a schedule."""
        own = np.flatnonzero(self.timed_by == np.arange(len(self.series)))
        return (own[:, None] * self.replications + np.arange(self.replications)).ravel()


class _Seen:
    """What is known of the parts when all rows have been read: sums, totals, and how often each metric is there."""

    def __init__(self, number: int) -> None:
        self.cycles = np.zeros(number, dtype=np.int64)
        self.has_operations = np.zeros(number, dtype=bool)
        self.totals = {name: np.full(number, np.nan) for name in TOTALS}
        self.metrics: dict[str, int] = {}

    def take(self, name: str, batch: pa.RecordBatch, part: Codes) -> None:
        """Rows of a table, each of a part."""
        if name == "ledger":
            np.add.at(self.cycles, part, batch.column("cycles").to_numpy())
            self.has_operations[part] = True
        elif name == "metrics":
            code, metrics = _distinct([batch.column("metric")])
            for (metric,), number in zip(metrics, np.bincount(code, minlength=len(metrics)).tolist(), strict=True):
                self.metrics[metric] = self.metrics.get(metric, 0) + number
            for (metric,), values in zip(metrics, range(len(metrics)), strict=True):
                if metric in self.totals:
                    rows = code == values
                    self.totals[metric][part[rows]] = batch.column("value").to_numpy()[rows]


def _distinct(columns: Sequence[pa.Array]) -> tuple[Codes, list[tuple[Any, ...]]]:
    """Which distinct tuple of values each row has, and these tuples."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        coded = column.dictionary_encode()
        code = code * len(coded.dictionary) + coded.indices.to_numpy()
        _, first, code = np.unique(code, return_index=True, return_inverse=True)
    rows = pa.array(first)
    return code, list(zip(*(column.take(rows).to_pylist() for column in columns), strict=True))


def _problems(table: Stored, number: int, expected: _Parts, seen: _Seen) -> Iterator[str]:
    """Sentences about the first row of each kind that is wrong, the worst kind first; ``number``: of all rows."""
    found: dict[int, str] = {}
    keys: dict[tuple[Any, ...], int] = {}
    repeated, begin = Repeated(len(expected)), 0
    for batch in table.batches():
        part = expected.of(batch)
        for kind, (wrong, text, column) in enumerate(_wrong(table.name, batch, part)):
            if kind not in found and wrong.any():
                found[kind] = _said(batch, int(np.argmax(wrong)), begin, number, text, column)
        code = _key(table, batch, keys)
        if not found:
            seen.take(table.name, batch, part)
            repeated.take(part, code)
        begin += len(batch)
    yield from (text for _, text in sorted(found.items()))
    row = repeated.row if repeated.is_known or found else _second(table, expected, keys)
    if row is not None:
        yield next(_row(table, row, number, f"a second row of this {KEYS[table.name][0]}"))


def _key(table: Stored, batch: pa.RecordBatch, known: dict[tuple[Any, ...], int]) -> Codes:
    """The number of what each row says that a record has once; ``known`` are those of earlier rows."""
    code, some = _distinct([batch.column(name) for name in KEYS[table.name]])
    numbers = np.array([known.setdefault(each, len(known)) for each in some], dtype=np.int64)
    if len(known) >> KEY_BITS:
        raise InputError(f"{table.path}: over {1 << KEY_BITS} different rows (allowed: those of a run)")
    found: Codes = numbers[code]
    return found


def _second(table: Stored, expected: _Parts, keys: dict[tuple[Any, ...], int]) -> int | None:
    """The first row of a table that was there before, in any order of its rows: eight bytes stay of each."""
    rows = [expected.of(batch) << KEY_BITS | _key(table, batch, keys) for batch in table.batches()]
    return second(np.concatenate(rows)) if rows else None


def _wrong(name: str, batch: pa.RecordBatch, part: Codes) -> Iterator[tuple[NDArray[np.bool_], str, str]]:
    """Which rows are wrong in each way, how that is said, and the column that is shown."""
    yield part < 0, "no replication of this strategy in this case is in the manifest", ""
    for column, words in WORDS[name].items():
        text = f"{column} is none of {', '.join(word or 'nothing' for word in words)}"
        code, some = _distinct([batch.column(column)])
        yield np.array([each not in words for (each,) in some], dtype=bool)[code], text, column
    for column, (least, most) in RANGES[name].items():
        values = batch.column(column).to_numpy()
        text = f"{column} is not in its range (allowed: {least} to {most})"
        yield ~((values >= least) & (values <= most)), text, column  # NaN is in none
    if name == "latency":
        yield batch.column("low").to_numpy() >= batch.column("high").to_numpy(), "low is not below high", "low"


def _row(table: Stored, row: int, number: int, text: str) -> Iterator[str]:
    begin = 0
    for batch in table.batches():
        if row < begin + len(batch):
            yield _said(batch, row - begin, begin, number, text)
        begin += len(batch)


def _said(batch: pa.RecordBatch, row: int, begin: int, number: int, text: str, column: str = "") -> str:
    """A sentence about a row of a batch that begins with row ``begin`` of ``number``."""
    values = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    found = f", found {shortened(values[column])}" if column else ""
    who = ", ".join(shortened(values[each]) for each in RUN_COLUMNS)
    return f"row {begin + row + 1} of {number} ({who}): {text}{found}"


def _incomplete(metrics: Stored, expected: _Parts, seen: _Seen) -> Iterator[str]:
    """What the host counted is there for each schedule, and the ledger has the operations that it counted."""
    timing = expected.timing
    for metric, number in seen.metrics.items():
        if number < len(timing):
            there = np.concatenate([expected.of(each)[_is(each, metric)] for each in metrics.batches()])
            lacking = expected.who(int(timing[~np.isin(timing, there)][0]))
            how_often = f"is there {number} of {len(timing)} times, and not for {lacking}"
            yield f"metrics.parquet: {shortened(metric)} {how_often}"
    if not seen.metrics:
        yield f"metrics.parquet: nothing of {expected.who(int(timing[0]))}"
    for metric in (OPERATIONS, ELAPSED):
        if metric not in seen.metrics:
            yield f"metrics.parquet: no {metric!r}"
    operations, elapsed = (seen.totals[name][timing] for name in TOTALS)
    if (elapsed <= 0).any():
        yield f"metrics.parquet: {ELAPSED} of {expected.who(int(timing[np.argmax(elapsed <= 0)]))} is 0"
    cycles = seen.cycles[timing]
    if (cycles != operations).any():
        at = int(np.argmax(cycles != operations))
        yield (
            f"ledger.parquet: the operations of {expected.who(int(timing[at]))} took {cycles[at]} cycles, and by "
            f"metrics.parquet {operations[at]:.0f}"
        )
    did_something = (seen.totals[OPERATIONS] > 0).reshape(-1, expected.replications)[expected.timed_by].ravel()
    gone = np.flatnonzero(~seen.has_operations & did_something)
    if len(gone):
        yield f"ledger.parquet: nothing of {expected.who(int(gone[0]))}"


def _is(batch: pa.RecordBatch, metric: str) -> NDArray[np.bool_]:
    code, some = _distinct([batch.column("metric")])
    return np.array([each == metric for (each,) in some], dtype=bool)[code]


def _mispriced(ledger: Stored, number: int, of_case: Mapping[str, CostTable]) -> Iterator[str]:
    """Rows that their cost table has no price for, or another one."""
    prices = {case: Prices(table) for case, table in of_case.items()}
    unpriced: dict[str, str] = {}
    wrong: dict[str, str] = {}
    begin = 0
    for batch in ledger.batches():
        code, keys = _distinct([batch.column(name) for name in ("case", *KEY_COLUMNS)])
        price = np.zeros(len(keys))
        first = np.unique(code, return_index=True)[1]
        for i in np.argsort(first).tolist():
            case, *key = keys[i]
            try:
                price[i] = prices[case][tuple(key)]
            except InputError as error:
                unpriced.setdefault(case, f"row {begin + first[i] + 1} of {number}: {shorter(error)}")
        count, cycles = (batch.column(name).to_numpy().astype(float) for name in ("count", "cycles"))
        of_table = count * price[code]
        other = np.abs(cycles - of_table) > HALF_A_CYCLE * count + 1e-9 * cycles
        for row in np.flatnonzero(other).tolist() if len(wrong) + len(unpriced) < len(of_case) else ():
            if (case := keys[code[row]][0]) not in wrong:
                wrong[case] = (
                    f"row {begin + row + 1} of {number}: {batch.column('operation')[row]}, {count[row]:.0f} times, is "
                    f"{cycles[row]:.0f} cycles, and by {manifests.COSTS} {of_table[row]:.0f}"
                )
        begin += len(batch)
    for case in of_case:
        yield from (found[case] for found in (unpriced, wrong) if case in found)
