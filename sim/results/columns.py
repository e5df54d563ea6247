"""The columns of the four tables, and how a record becomes their rows; without pandas, which workers need not have."""

from array import array
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import pyarrow as pa
from numpy.typing import NDArray

from sim.results.record import Columns, Record

RUN_COLUMNS: Final = ("case", "timed_by", "strategy", "replication")
"""What identifies a record: a case, the strategy that timed its schedule, the one that walked it, the replication; the
first columns of every table."""

KEY_COLUMNS: Final = ("thread_kind", "phase", "operation", "rfbm", "components", "initialised", "level")
"""What identifies an operation; the fields of :class:`sim.kernel.operations.Operation`."""


def _fields(**columns: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in columns.items()]


RUN_FIELDS: Final = _fields(**{name: pa.int64() if name == "replication" else pa.string() for name in RUN_COLUMNS})

ROW_FIELDS: Final[Mapping[str, list[pa.Field]]] = {
    "ledger": _fields(
        thread_kind=pa.string(),
        phase=pa.string(),
        operation=pa.string(),
        rfbm=pa.int64(),
        components=pa.int64(),
        initialised=pa.int64(),
        level=pa.string(),
        count=pa.int64(),
        cycles=pa.int64(),
    ),
    "metrics": _fields(metric=pa.string(), unit=pa.string(), value=pa.float64()),
    "latency": _fields(histogram=pa.string(), low=pa.int64(), high=pa.int64(), count=pa.int64()),
    "integrity": _fields(kind=pa.string(), count=pa.int64()),
}
"""What a row of each table says of its record."""

SCHEMAS: Final[Mapping[str, pa.Schema]] = {
    name: pa.schema([*RUN_FIELDS, *fields]) for name, fields in ROW_FIELDS.items()
}
"""Columns and types of each table.  Values of metrics are 64-bit floats: whole numbers up to 2^53 are exact."""


AMOUNTS: Final = {"ledger": 2, "metrics": 1, "latency": 1, "integrity": 1}
"""How many of these columns, the last ones, say how much; those before say of what, and a record says it once."""

Amounts: TypeAlias = "array[Any] | NDArray[Any]"

Rows = tuple[tuple[Any, ...], *tuple[Amounts, ...]]
"""What each row is about, and after that each column of amounts."""

NO_LEDGER: Final[Rows] = (), array("q"), array("q")
NO_METRICS: Final[Rows] = (), array("d")
NO_COUNTS: Final[Rows] = (), array("q")


def _ledger_rows(record: Record) -> Rows:
    if not record.ledger:
        return NO_LEDGER
    if isinstance(record.ledger, Columns):
        return record.ledger.operations, record.ledger.counts, record.ledger.cycles
    operations, counts, cycles = zip(*record.ledger, strict=True)
    return operations, array("q", counts), array("q", cycles)


def _metric_rows(record: Record) -> Rows:
    if not record.metrics:
        return NO_METRICS
    about = [(name, unit) for name, (_, unit) in record.metrics.items()]
    return tuple(about), array("d", [value for value, _ in record.metrics.values()])


def _latency_rows(record: Record) -> Rows:
    if not record.latency:
        return NO_COUNTS
    found = [
        (histogram, low, high, count)
        for histogram, buckets in record.latency.items()
        for (low, high), count in buckets.items()
        if count
    ]
    return tuple([each[:3] for each in found]), array("q", [each[3] for each in found])


def _integrity_rows(record: Record) -> Rows:
    if not record.integrity:
        return NO_COUNTS
    found = {kind: count for kind, count in record.integrity.items() if count}
    return tuple([(kind,) for kind in found]), array("q", found.values())


ROWS: Final[Mapping[str, Callable[[Record], Rows]]] = {
    "ledger": _ledger_rows,
    "metrics": _metric_rows,
    "latency": _latency_rows,
    "integrity": _integrity_rows,
}
"""The rows of a record in each table, in no order, as columns."""
