"""The columns of the four tables, and how a record becomes their rows; without pandas, which workers need not have."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pyarrow as pa

from sim.results.record import Record

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


def _ledger_rows(record: Record) -> Iterator[tuple[Any, ...]]:
    return ((*operation, count, cycles) for operation, count, cycles in record.ledger)


def _metric_rows(record: Record) -> Iterator[tuple[Any, ...]]:
    return ((metric, unit, float(value)) for metric, (value, unit) in record.metrics.items())


def _latency_rows(record: Record) -> Iterator[tuple[Any, ...]]:
    return (
        (histogram, low, high, count)
        for histogram, buckets in record.latency.items()
        for (low, high), count in buckets.items()
        if count
    )


def _integrity_rows(record: Record) -> Iterator[tuple[Any, ...]]:
    return ((kind, count) for kind, count in record.integrity.items() if count)


ROWS: Final[Mapping[str, Callable[[Record], Iterator[tuple[Any, ...]]]]] = {
    "ledger": _ledger_rows,
    "metrics": _metric_rows,
    "latency": _latency_rows,
    "integrity": _integrity_rows,
}
"""The rows of a record in each table, in no order."""
