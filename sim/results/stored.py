"""The four tables as they lie in files: read whole, a batch of rows at a time, or the rows of some replications.

A run may have millions of rows, of which no more than a batch need be in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sim.errors import InputError
from sim.kernel.datafile import shortened
from sim.results.columns import RUN_COLUMNS, SCHEMAS

if TYPE_CHECKING:
    import pandas as pd

MOST_OF_PART: Final = 10_000
"""Rows of a table that a record has at most; of a ledger it has some hundreds, and of the buckets of latencies."""
MOST_OF_ROW: Final = 1000
"""Bytes of a row."""
ROWS_OF_A_BATCH: Final = 1 << 13


class Stored:
    """Table ``name`` in the file at ``path``, as it is when this is made: a later run replaces the file.

    Without ``timed`` it is of version 0.1.0 and has no column "timed_by": each strategy timed its own schedule.
    """

    def __init__(self, name: str, path: Path, *, timed: bool = True) -> None:
        self.name, self.path, self.timed = name, path, timed
        self._schema = SCHEMAS[name] if timed else SCHEMAS[name].remove(RUN_COLUMNS.index("timed_by"))
        try:
            self._bytes: BinaryIO = path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        self._last: tuple[int, pa.Table] | None = None

    def close(self) -> None:
        """Gives the file up."""
        self._bytes.close()

    def _wrong(self, error: Exception) -> InputError:
        why = shortened(str(error).strip().partition("\n")[0])
        return InputError(f"{self.path}: not a Parquet file that can be read ({why})")

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """The file; :class:`InputError` for any error of the decoder with bytes that are not Parquet."""
        try:
            with pq.ParquetFile(self._bytes) as found:
                self._check_columns(found.schema_arrow)
                yield found
        except InputError:
            raise
        except Exception as error:
            raise self._wrong(error) from error

    def rows(self) -> int:
        """How many rows there are."""
        with self._opened() as found:
            return int(found.metadata.num_rows)

    def check_size(self, parts: int) -> int:
        """How many rows there are; :class:`InputError` if that is more than a run of this many parts can have. The rows
        of a file of a few megabytes may fill any memory.
        """
        with self._opened() as found:
            metadata = found.metadata
            size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            for number, what, most in (
                (metadata.num_rows, "rows", MOST_OF_PART * parts),
                (size, "bytes, unpacked,", MOST_OF_PART * MOST_OF_ROW * parts),
            ):
                if number > most:
                    raise InputError(
                        f"{self.path}: {number} {what} (allowed: up to {most}, for a run of {parts} parts)"
                    )
            return int(metadata.num_rows)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, some at a time, with the columns of the table; they are what their types say, and not empty."""
        with self._opened() as found:
            for batch in found.iter_batches(ROWS_OF_A_BATCH, use_threads=False):
                batch.validate(full=True)  # also that texts are UTF-8
                if any(column.null_count for column in batch.columns):
                    raise self._empty(found)
                yield pa.RecordBatch.from_arrays(self._columns(batch), schema=SCHEMAS[self.name])

    def _empty(self, found: pq.ParquetFile) -> InputError:
        numbers = dict.fromkeys(self._schema.names, 0)
        for batch in found.iter_batches(ROWS_OF_A_BATCH):
            for name in numbers:
                numbers[name] += batch.column(name).null_count
        column, number = next((name, number) for name, number in numbers.items() if number)
        return InputError(
            f"{self.path}: column {column} has {number} empty value{'' if number == 1 else 's'} (allowed: none)"
        )

    def frame(self) -> pd.DataFrame:
        """All rows."""
        batches = list(self.batches())
        found: pd.DataFrame = pa.Table.from_batches(batches, SCHEMAS[self.name]).to_pandas()
        return found

    def some(self, series: Sequence[str], begin: int, end: int) -> pd.DataFrame:
        """The rows of a series in these replications, or of all series that begin so; of groups of rows that have none
        of them none is read.
        """
        found = [SCHEMAS[self.name].empty_table()]
        with self._opened() as file:
            groups = _groups_with(file, series, begin, end)
            for batch in file.iter_batches(ROWS_OF_A_BATCH, row_groups=groups, use_threads=False):
                found.append(_of(self._table(batch), series, begin, end))
        return _frame(found)

    def few(self, series: Sequence[str], begin: int, end: int) -> pd.DataFrame:
        """The same where they are few, and others of the same group of rows are asked for next: it stays in memory."""
        found = [SCHEMAS[self.name].empty_table()]
        with self._opened() as file:
            for number in _groups_with(file, series, begin, end):
                if self._last is None or self._last[0] != number:
                    self._last = None  # before the next one is there
                    self._last = number, self._table(file.read_row_group(number, use_threads=False))
                found.append(_of(self._last[1], series, begin, end))
        return _frame(found)

    def _table(self, rows: pa.RecordBatch | pa.Table) -> pa.Table:
        return pa.Table.from_arrays(self._columns(rows), schema=SCHEMAS[self.name])

    def _columns(self, rows: pa.RecordBatch | pa.Table) -> list[Any]:
        """The columns that a table has today."""
        return [
            rows.column(name if self.timed or name != "timed_by" else "strategy") for name in SCHEMAS[self.name].names
        ]

    def _check_columns(self, found: pa.Schema) -> None:
        name, path, schema = self.name, self.path, self._schema
        for column, kind in zip(schema.names, schema.types, strict=True):
            if column not in found.names:
                raise InputError(f"{path}: no column {column!r}, which the {name} table has")
            if found.field(column).type != kind:
                raise InputError(f"{path}: column {column} is {found.field(column).type} (allowed: {kind})")
        if more := [shortened(column) for column in found.names if column not in schema.names]:
            raise InputError(f"{path}: column {more[0]}, which the {name} table does not have")
        if found.names != schema.names:
            raise InputError(f"{path}: columns in another order than {', '.join(schema.names)}")


def _frame(tables: Sequence[pa.Table]) -> pd.DataFrame:
    found: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return found


def _groups_with(file: pq.ParquetFile, series: Sequence[str], begin: int, end: int) -> list[int]:
    """The groups of rows that may have any of such series in these replications."""
    metadata = file.metadata
    return [i for i in range(metadata.num_row_groups) if _may_have(metadata.row_group(i), series, begin, end)]


def _may_have(group: pq.RowGroupMetaData, series: Sequence[str], begin: int, end: int) -> bool:
    """Whether a group of rows may have any of such series in these replications, by what the file says of it."""
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(len(RUN_COLUMNS))}
    wanted: Mapping[str, tuple[Any, Any]] = {
        **{name: (each, each) for name, each in zip(RUN_COLUMNS, series, strict=False)},
        RUN_COLUMNS[-1]: (begin, end - 1),
    }
    for name, column in columns.items():
        least, most = wanted.get(name, (None, None))
        known = column.statistics
        if least is not None and known is not None and known.has_min_max and (known.max < least or most < known.min):
            return False
    return True


def _of(table: pa.Table, series: Sequence[str], begin: int, end: int) -> pa.Table:
    wanted = pc.and_(pc.greater_equal(table["replication"], begin), pc.less(table["replication"], end))
    for name, each in zip(RUN_COLUMNS, series, strict=False):
        wanted = pc.and_(wanted, pc.equal(table[name], each))
    return table.filter(wanted)
