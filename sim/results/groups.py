"""Finished replications that were run together, packed as an Arrow IPC file: a batch for each series, a row a record.

A row has the record's key, what it is of, its engine, and as lists its rows in each of the four tables.  A worker
packs, and says what a run has to know of each record; the driver keeps the bytes as they are, and unpacks them once, to
make tables of whole batches.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from operator import itemgetter
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sim.errors import InputError, RunError
from sim.kernel.datafile import shortened
from sim.kernel.integrity import VIOLATIONS
from sim.results.arrow import numbers, repeated, texts, values
from sim.results.columns import AMOUNTS, ROW_FIELDS, ROWS, RUN_FIELDS, SCHEMAS
from sim.results.keys import Series
from sim.results.record import Finished, Record
from sim.results.unpacked import size

MOST_REPLICATIONS: Final = 100_000
"""Of a scenario: what a run has in memory of a series grows with the number of its last one."""
MOST_RECORDS: Final = 100_000
"""In a group: those that are run together are 10,000, or the strategies of one replication."""
APART_TOGETHER: Final = 32
"""Records that are taken apart together."""
MOST_OF_RECORD: Final = 1_000_000
"""Bytes of a record, unpacked; with shipped scenarios and all strategies up to 8,800."""
MOST_OF_GROUP: Final = 256 << 20
"""Bytes of a group, unpacked; 10,000 records of rfc-question with all strategies have 70 million."""
MOST_OF_FILE: Final = 128 << 20
"""Bytes of a group, packed; the same have 19 million, and 62 million where each replication is of another case."""
AT_A_TIME: Final = 256
"""How many records become a group if they were not run together."""
SCHEMA: Final = pa.schema(
    [
        pa.field("same", pa.string(), nullable=False),
        *RUN_FIELDS,
        pa.field("engine", pa.string(), nullable=False),
        *(pa.field(name, pa.list_(pa.struct(fields)), nullable=False) for name, fields in ROW_FIELDS.items()),
    ]
)
"""``same`` and ``replication`` are the key."""
_WRITING: Final = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
"""Groups are unpacked soon: with zstd they are smaller by a third or more, and take four times as long for both."""
_READING: Final = pa.ipc.IpcReadOptions(use_threads=False)
_NUMBERS: Final = {pa.int64(): np.int64, pa.float64(): np.float64}
"""Of an amount's type, what numpy calls it."""


class Gathered:
    """Finished records that wait for others until they become a group.

    A record has hundreds of objects, far apart in memory, which the garbage collector would visit again and again.  Of
    its rows are kept what they are about, as a number that stands for the same in all records (few share their buckets
    of latency), and their amounts.  Some records are taken apart together: after a replication none of the code and
    tables for that are in the processor's caches.

    ``wrong`` is the error of the first record that cannot become rows, since a number is too large for a table.
    Nothing of such a record is there, and all others are.
    """

    def __init__(self) -> None:
        self.wrong: RunError | None = None
        self._waiting: deque[tuple[str, Record]] = deque()
        self._about: list[dict[tuple[Any, ...], int]] = [{} for _ in ROWS]
        self._series: dict[str, tuple[Series, list[_Apart]]] = {}
        self._number = 0

    def __len__(self) -> int:
        """How many there are."""
        return self._number

    def add(self, same: str, record: Record) -> None:
        """One more; ``same`` is what the keys of its series have in common."""
        self._waiting.append((same, record))
        self._number += 1
        if len(self._waiting) >= APART_TOGETHER:
            self._take_apart()

    def _take_apart(self) -> None:
        while self._waiting:
            same, record = self._waiting.popleft()
            self._number -= 1
            try:
                rows = [of(record) for of in ROWS.values()]
            except (ArithmeticError, TypeError, ValueError) as error:  # a number of more than 64 bits
                self.wrong = self.wrong or _wrong(record, error)
                continue
            of_rows = zip(self._about, rows, strict=True)
            about = tuple([numbered.setdefault(each, len(numbered)) for numbered, (each, *_) in of_rows])
            amounts = b"".join([amount.tobytes() for _, *of_table in rows for amount in of_table])
            apart = record.replication, record.engine, about, amounts
            self._series.setdefault(same, (record.part[:3], []))[1].append(apart)
            self._number += 1

    def packed(self) -> "Group":
        """All of them as a file."""
        self._take_apart()
        kinds = [_kinds(name, about) for name, about in zip(ROWS, self._about, strict=True)]
        batches = [_batch(same, *series, kinds) for same, series in self._series.items()]
        return Group(written(each.content for each in batches), tuple(each.summary() for each in batches))


_Apart = tuple[int, str, tuple[int, ...], bytes]
"""Of a record its replication, its engine, for each table the number of what its rows are about, and the amounts of
these: column by column, table by table, 8 bytes each."""


def _wrong(record: Record, error: Exception) -> RunError:
    case, timed_by, strategy, replication = record.part
    which = f"case {case}, timed by {timed_by}, replication {replication}, strategy {strategy}"
    return RunError(f"{which}: {type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class _Kinds:
    """What rows of a table are about, in their order, as ``columns``.

    By the number of what the rows of a record are about: how many they are (``sizes``), which of them is the first,
    the second and so on (``orders``), and where in the columns that is (``places``).
    """

    columns: list[pa.Array]
    sizes: NDArray[np.int64]
    orders: list[NDArray[np.int64]]
    places: list[NDArray[np.int64]]


def _kinds(name: str, about: Iterable[tuple[Any, ...]]) -> _Kinds:
    """That of table ``name``, of what the rows of records are about, by its number."""
    found = sorted({kind for rows in about for kind in rows})
    place = {kind: n for n, kind in enumerate(found)}
    fields = ROW_FIELDS[name][: -AMOUNTS[name]]
    columns = [_array(field.type, [kind[i] for kind in found]) for i, field in enumerate(fields)]
    places = [np.array([place[kind] for kind in rows], np.int64) for rows in about]
    orders = [np.argsort(each, kind="stable") for each in places]
    in_order = [each[order] for each, order in zip(places, orders, strict=True)]
    return _Kinds(columns, np.array([len(each) for each in orders], np.int64), orders, in_order)


def _batch(same: str, series: Series, apart: Iterable[_Apart], kinds: Sequence[_Kinds]) -> "Batch":
    """Records of one series and their rows, by replication, and in the order of the tables."""
    replications, engines, about, joined = zip(*sorted(apart, key=itemgetter(0)), strict=True)
    amounts = np.frombuffer(b"".join(joined), np.int64)
    of_tables = list(zip(ROWS, kinds, np.array(about).T, strict=True))
    sizes = {name: of_table.sizes[numbered] for name, of_table, numbered in of_tables}
    words = sum(AMOUNTS[name] * rows for name, rows in sizes.items())
    begins, lists = np.cumsum(words) - words, {}
    for name, of_table, numbered in of_tables:
        lists[name] = _lists(name, of_table, numbered, amounts, begins)
        begins = begins + AMOUNTS[name] * sizes[name]
    return Batch(same, series, batch_of(same, series, replications, engines, lists))


def _lists(
    name: str, kinds: _Kinds, about: NDArray[np.int64], amounts: NDArray[np.int64], begins: NDArray[np.int64]
) -> pa.ListArray:
    """Rows of a table as a list for each record; ``begins``: where in ``amounts`` those of its first column are."""
    sizes = kinds.sizes[about]
    rows = np.concatenate([kinds.orders[number] for number in about]) + np.repeat(begins, sizes)
    wanted = numbers(np.concatenate([kinds.places[number] for number in about]), pa.int64())
    columns = [kind.take(wanted) for kind in kinds.columns]
    for n, field in enumerate(ROW_FIELDS[name][-AMOUNTS[name] :]):
        of_column = amounts[rows + np.repeat(n * sizes, sizes)]
        columns.append(numbers(of_column.view(_NUMBERS[field.type]), field.type))
    return lists_of(name, columns, np.append(0, np.cumsum(sizes)))


def _array(kind: pa.DataType, column: Sequence[Any]) -> pa.Array:
    return texts(column) if kind == pa.string() else numbers(np.array(column, np.int64), kind)


def written(batches: Iterable[pa.RecordBatch]) -> bytes:
    """A file of these batches."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA, options=_WRITING) as file:
        for batch in batches:
            file.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def lists_of(name: str, columns: Sequence[pa.Array], bounds: NDArray[np.int64]) -> pa.ListArray:
    """Rows of a table as a list for each record; the first of its rows is at its bound, the first bound is 0."""
    rows = pa.StructArray.from_arrays(columns, fields=ROW_FIELDS[name])
    return pa.ListArray.from_arrays(numbers(bounds.astype(np.int32), pa.int32()), rows, type=SCHEMA.field(name).type)


def batch_of(
    same: str, series: Series, replications: Sequence[int], engines: Sequence[str], lists: Mapping[str, pa.ListArray]
) -> pa.RecordBatch:
    """Records of one series, with their rows in each table (:func:`lists_of`)."""
    of_all = [repeated(text, len(replications)) for text in (same, *series)]
    plain = [*of_all, numbers(np.array(replications, np.int64), pa.int64()), texts(engines)]
    return pa.RecordBatch.from_arrays([*plain, *(lists[name] for name in ROW_FIELDS)], schema=SCHEMA)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run has to know of records of one series that it does not unpack, in their order in the batch."""

    same: str
    series: Series
    replications: Sequence[int]
    cycles: Sequence[int]
    caught: Sequence[bool]
    engines: Sequence[str]

    def finished(self) -> Iterator[Finished]:
        """The same of each record."""
        columns = (self.replications, self.cycles, self.caught, self.engines)
        for n, cycles, caught, engine in zip(*columns, strict=True):
            yield Finished(*self.series, n, self.same, cycles, caught, engine)


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one series in a group."""

    same: str
    series: Series
    content: pa.RecordBatch

    @property
    def replications(self) -> list[int]:
        """The number of each."""
        numbers: list[int] = self.content.column("replication").to_pylist()
        return numbers

    def summary(self) -> Summary:
        """What a run has to know of them."""
        kinds = self.content.column("integrity")
        caught = [bool(any(map(_violates, each))) for each in kinds.to_pylist()] if len(kinds.flatten()) else ()
        return Summary(
            self.same,
            self.series,
            self.replications,
            self._sums("ledger", "cycles"),
            caught or [False] * len(kinds),
            self.content.column("engine").to_pylist(),
        )

    def _sums(self, name: str, column: str) -> list[int]:
        """The sum of a column over the rows of each record."""
        lists = self.content.column(name)
        summed = np.cumsum(np.append(0, values(lists.flatten().field(column))))
        sums: list[int] = np.diff(summed[_offsets(lists)]).tolist()
        return sums

    def tables(self, begin: int, end: int) -> dict[str, pa.Table]:
        """The rows of some of its records, by table."""
        some = self.content.slice(begin, end - begin)
        found = {}
        for name, schema in SCHEMAS.items():
            lists = some.column(name)
            of_rows = np.repeat(values(some.column("replication")), np.diff(_offsets(lists)))
            run = [*(repeated(each, len(of_rows)) for each in self.series), numbers(of_rows, pa.int64())]
            found[name] = pa.Table.from_arrays([*run, *lists.flatten().flatten()], schema=schema)
        return found


def _offsets(lists: pa.ListArray) -> NDArray[Any]:
    """Where the rows of each record begin in those of all, which begin at 0."""
    offsets = values(lists.offsets)
    found: NDArray[Any] = offsets - offsets[:1]
    return found


def _violates(found: Mapping[str, Any]) -> bool:
    return bool(found["kind"] in VIOLATIONS and found["count"])


class Group:
    """A file of records; ``content`` are its bytes, which somebody here has packed.

    ``summaries`` are what is known of each of its series without unpacking it, in their order.
    """

    def __init__(self, content: bytes, summaries: Sequence[Summary] | None = None) -> None:
        self.content, self._summaries = content, summaries

    def __reduce__(self) -> tuple[Any, ...]:
        return Group, (self.content, self._summaries)

    @cached_property
    def _file(self) -> pa.ipc.RecordBatchFileReader:
        return pa.ipc.open_file(pa.py_buffer(self.content), options=_READING)

    def __len__(self) -> int:
        """How many series it has."""
        number: int = self._file.num_record_batches
        return number

    def batch(self, number: int) -> Batch:
        """The records of one of its series."""
        content = self._file.get_batch(number)
        same, *series = (content.column(i)[0].as_py() for i in range(len(RUN_FIELDS)))
        return Batch(same, (series[0], series[1], series[2]), content)

    def batches(self) -> Iterator[Batch]:
        """Those of all."""
        return (self.batch(number) for number in range(len(self)))

    def summaries(self) -> Sequence[Summary]:
        """What a run has to know of the records of each of its series."""
        return [batch.summary() for batch in self.batches()] if self._summaries is None else self._summaries

    @property
    def name(self) -> str:
        """What it is called: the hash of its bytes."""
        return name_of(self.content)


def name_of(content: bytes) -> str:
    """The hash of a group's bytes."""
    return sha256(content).hexdigest()[:32]


def checked(content: bytes, where: str) -> Group:
    """The group in a file that may be anything; :class:`InputError` if it is not one that can be read."""
    try:
        group = Group(content)
        if group._file.schema != SCHEMA:
            raise ValueError("other columns")
        _check_size(content)
        for number in range(len(group)):
            _check(group._file.get_batch(number))
    except Exception as error:  # whatever a decoder says of bytes that were never Arrow
        why = shortened(str(error).strip().partition("\n")[0])
        raise InputError(f"{where}: not replications that can be read ({why})") from error
    return group


def _check_size(content: bytes) -> None:
    """A file of a few kilobytes may have records that fill any memory; such are not unpacked."""
    records, unpacked = size(content)
    if records > MOST_RECORDS:
        raise ValueError(f"{records} records; allowed: up to {MOST_RECORDS}")
    most = min(MOST_OF_GROUP, MOST_OF_RECORD * records)
    if unpacked > most:
        raise ValueError(f"{unpacked} bytes, unpacked; allowed: up to {most}")


def _check(content: pa.RecordBatch) -> None:
    content.validate(full=True)  # also that texts are UTF-8
    columns = {name: content.column(name) for name in SCHEMA.names}
    rows = {name: columns[name].flatten() for name in ROW_FIELDS}
    fields = [each for lists in rows.values() for each in (lists, *lists.flatten())]
    if any(each.null_count for each in (*columns.values(), *fields)):
        raise ValueError("empty values")
    if any(len(columns[name].unique()) != 1 for name in ("same", *(field.name for field in RUN_FIELDS[:-1]))):
        raise ValueError("records of more than one series together, or none")
    if not all(0 <= n < MOST_REPLICATIONS for n in columns["replication"].to_pylist()):
        raise ValueError("a number that no replication has")
