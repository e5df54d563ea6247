"""The four tables as files, a group of rows at a time: all of them need not be in memory."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from sim.results.columns import SCHEMAS

ROWS_OF_A_GROUP: Final = 1 << 16


class _Writer:
    """Writes a table as Parquet, a group of rows at a time, so that no more is in memory.

    Equal tables give equal bytes (with the same version of pyarrow), however they come in pieces.  Raises OSError with
    the name of the file.
    """

    def __init__(self, name: str, path: Path) -> None:
        self._path, self._rows, self._is_empty = path, 0, True
        self._waiting = [pa.Table.from_batches([], SCHEMAS[name])]  # empty_table() imports pandas
        with self._named():  # of a path pyarrow would take "~" for somebody's home and "a:b" for an address
            self._file = path.open("wb")
            try:
                self._writer = pq.ParquetWriter(self._file, SCHEMAS[name], compression="zstd")
            except BaseException:
                self._file.close()
                raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # which does not name the file
            why = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(error.errno, why, str(self._path)) from error

    def add(self, rows: pa.Table) -> None:
        """Adds rows after the earlier ones."""
        self._waiting.append(rows)
        self._rows += rows.num_rows
        while self._rows >= ROWS_OF_A_GROUP:
            table = pa.concat_tables(self._waiting)
            self._write(table.slice(0, ROWS_OF_A_GROUP))
            self._waiting, self._rows = [table.slice(ROWS_OF_A_GROUP)], self._rows - ROWS_OF_A_GROUP

    def _write(self, rows: pa.Table) -> None:
        self._is_empty = False
        with self._named():
            self._writer.write_table(rows.combine_chunks())

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._named(), self._file:  # whose buffer holds all of a small table until it is closed
            if kind is None and (self._rows or self._is_empty):
                self._write(pa.concat_tables(self._waiting))
            self._writer.close()


def write(pieces: Iterable[Mapping[str, pa.Table]], paths: Mapping[str, Path]) -> None:
    """Writes the tables of :func:`sim.results.tables.frames` to files, by name.

    Raises OSError with the name of the file.
    """
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_Writer(name, paths[name])) for name in SCHEMAS}
        for piece in pieces:
            for name, rows in piece.items():
                writers[name].add(rows)
