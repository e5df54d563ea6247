"""Records that are packed in groups are the same records, and tables do not depend on what was packed with what."""

import pickle
import random
from dataclasses import replace
from itertools import chain

import fake_host
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import worlds
from packing import frames_of, group_of, records, same_of, shelf_of

from sim import experiment
from sim.errors import InputError
from sim.kernel.integrity import RESIDUE, VIOLATIONS
from sim.results import groups, parts, tables, unpacked
from sim.results.groups import SCHEMA, Group, checked
from sim.results.keys import Keys
from sim.results.record import Columns, Finished
from sim.results.shelf import Shelf
from sim.results.stored import Stored
from sim.results.tables import SCHEMAS

SMALL = worlds.small(["free-ssp", "manual-load-nozero", "xstate-guest"], replications=9)


@pytest.fixture
def results(scenario):
    return experiment.run(scenario, jobs=1, simulate=fake_host.simulate)


@pytest.fixture
def held(results):
    return records(results.tables)


def test_what_a_run_knows_of_a_packed_record_is_what_the_record_says(held):
    some = [
        replace(held[0], integrity={VIOLATIONS[0]: 0, RESIDUE: 2}, engine="compiled"),
        replace(held[1], integrity={VIOLATIONS[-1]: 1}, ledger=()),
        *held[2:],
    ]
    packed = group_of(some)
    for group in (packed, pickle.loads(pickle.dumps(packed)), Group(packed.content)):
        found = {each.key: each for summary in group.summaries() for each in summary.finished()}
        assert found == {(same_of(record), record.replication): Finished.of(record, same_of(record)) for record in some}
        assert len({each.caught for each in found.values()}) == 2
    assert Group(packed.content).summaries() == list(packed.summaries())


@pytest.mark.parametrize("at_a_time", [1, 5, 18, 100])
def test_tables_do_not_depend_on_which_records_come_together_nor_in_what_order(results, held, at_a_time):
    chosen = random.Random(at_a_time)
    again = frames_of(chosen.sample(held, len(held)), results.cases, at_a_time)
    for name, schema in SCHEMAS.items():
        there = getattr(results, name)[schema.names]
        assert again[name].equals(there)
        assert (again[name].dtypes == there.dtypes).all()


@pytest.mark.parametrize("order", ["that of a run", "another"])
def test_tables_become_groups_of_which_the_same_tables_are_made(results, held, monkeypatch, tmp_path, order):
    monkeypatch.setattr(tables, "AT_A_TIME", 4)
    monkeypatch.setattr(tables, "READ_TOGETHER", 6)
    keys = parts.keys(results.manifest, 9)
    shelf, found = Shelf(), []
    for name, schema in SCHEMAS.items():
        frame = results.tables[name][schema.names]
        frame = frame if order == "that of a run" else frame.sample(frac=1, random_state=1)
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=50)
    for group in tables.groups({name: Stored(name, tmp_path / f"{name}.parquet") for name in SCHEMAS}, keys):
        found += shelf.add(group)
    assert set(found) == {Finished.of(record, keys[record.part][0]) for record in held}
    order = tables.in_order(keys, results.cases)
    again = tables.frames(chain.from_iterable(shelf.tables(same, 9) for same in order))
    for name, schema in SCHEMAS.items():
        assert again[name].equals(results.tables[name][schema.names])


def test_a_record_that_is_there_already_is_not_taken_again(held):
    shelf = shelf_of(held, 7)
    assert shelf.add(group_of(held)) == []
    new = replace(held[0], replication=9)
    assert shelf.add(group_of([new, *held])) == [Finished.of(new, same_of(new))]


def test_what_lies_beside_some_keys_is_found_with_its_groups(held):
    shelf = shelf_of(held)
    shelf.add(group_of([extra := replace(held[0], replication=12)]))
    series = {record.part[:3]: same_of(record) for record in held}
    assert list(shelf.beside(Keys(series, 9))) == [(extra.part[:3], extra.replication)]
    assert [len(group) for group in shelf.groups_beside(Keys(series, 9))] == [1]
    left = dict(list(series.items())[1:])
    assert {of for of, _ in shelf.beside(Keys(left, 13))} == {next(iter(series))}
    assert list(shelf.groups_beside(Keys(series, 13))) == []


def written(content, schema, packing=None):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=packing)) as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("replication", -1, "a number that no replication has"),
        ("replication", 10**12, "a number that no replication has"),
        ("case", "another", "more than one series"),
        ("case", None, "empty values"),
        ("ledger", None, "empty values"),
        ("integrity", [{"kind": None, "count": 1}], "empty values"),
        ("engine", 5, "other columns"),
    ],
)
def test_a_file_with_something_that_no_run_writes_is_refused(held, column, value, why):
    batch = group_of(held).batch(0).content
    rows = batch.to_pylist()
    assert len(rows) > 1
    rows[-1][column] = value
    fields = [pa.field(each.name, pa.int64() if each.name == "engine" == column else each.type) for each in SCHEMA]
    kind = pa.schema(fields) if column == "engine" else SCHEMA
    if column == "engine":
        rows = [row | {"engine": 5} for row in rows]
    content = written(pa.Table.from_pylist(rows, schema=kind), kind)
    with pytest.raises(InputError, match=f"^somewhere: not replications that can be read .*{why}"):
        checked(content, "somewhere")
    assert checked(group_of(held).content, "somewhere").name == group_of(held).name


@pytest.mark.parametrize("packing", ["zstd", "lz4", None])
def test_what_a_group_takes_unpacked_is_known_before_it_is_unpacked(held, packing):
    batches = [batch.content for batch in group_of(held).batches()]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression=packing)) as file:
        for batch in batches:
            file.write_batch(batch)
    content = sink.getvalue().to_pybytes()
    read = [pa.ipc.open_file(content).get_batch(i) for i in range(len(batches))]
    taken = sum(buffer.size for batch in read for column in batch.columns for buffer in column.buffers() if buffer)
    rows, size = unpacked.size(content)
    assert rows == sum(map(len, read)) > 0
    assert taken <= size <= taken + (0 if packing else 64 * 100 * len(batches))


def test_a_group_that_would_fill_the_memory_is_refused_before_it_is_unpacked(held):
    (row, *_) = group_of(held).batch(0).content.slice(0, 1).to_pylist()
    bombs = {
        "150000 records; allowed: up to 100000": [row | {name: [] for name in groups.ROW_FIELDS}] * 150_000,
        r"\d{9} bytes, unpacked; allowed: up to 1000000": [row | {"engine": "x" * 100_000_000}],
    }
    bombs[r"\d{8} bytes, unpacked"] = [row | {"integrity": [{"kind": RESIDUE, "count": 0}] * 1_000_000}]
    for why, rows in bombs.items():
        content = written(pa.Table.from_pylist(rows, SCHEMA), SCHEMA, "zstd")
        assert len(content) < 3_000_000
        with pytest.raises(InputError, match=f"^x: not replications that can be read .*{why}"):
            checked(content, "x")


def test_whatever_bytes_a_file_has_it_is_a_group_or_refused(held):
    content, chosen = group_of(held[:3]).content, random.Random(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(chosen.randint(1, 4)):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        try:
            assert isinstance(checked(bytes(damaged[: chosen.randint(1, 2 * len(damaged))]), "x"), Group)
        except InputError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("together", [1, groups.APART_TOGETHER])
def test_a_record_in_whose_middle_somebody_interrupts_is_not_in_the_group_and_all_others_are(
    held, monkeypatch, together
):
    class Interrupting(dict):
        def items(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(groups, "APART_TOGETHER", together)
    found, interrupts = groups.Gathered(), 0
    middle = [replace(record, integrity=Interrupting({RESIDUE: 1})) for record in (held[0], held[-1])]
    for record in (*held[:2], *middle, *held[2:4]):  # of a series that is there, and of another
        try:
            found.add(same_of(record), record)
        except KeyboardInterrupt:
            interrupts += 1
    for _ in range(2 - interrupts):
        with pytest.raises(KeyboardInterrupt):
            found.packed()
    assert len(found) == 4
    assert found.packed().content == group_of(held[:4]).content


def test_a_record_with_a_number_that_no_table_can_have_is_named_and_all_others_are_there(held):
    found = groups.Gathered()
    operation, _, _ = held[1].ledger[0]
    for record in (held[0], replace(held[1], ledger=((operation, 1, 1 << 63),)), held[2]):
        found.add(same_of(record), record)
    assert found.packed().content == group_of([held[0], held[2]]).content
    assert len(found) == 2
    case, timed_by, strategy, replication = held[1].part
    which = f"case {case}, timed by {timed_by}, replication {replication}, strategy {strategy}: OverflowError: "
    assert str(found.wrong).startswith(which)


def test_a_ledger_of_columns_is_that_of_its_rows(held):
    rows = held[0].ledger
    operations, counts, cycles = zip(*rows, strict=True)
    columns = Columns(operations, np.array(counts), np.array(cycles))
    assert columns == rows
    assert rows == columns
    assert columns[1:3] == rows[1:3]
    assert columns != Columns(operations, np.array(counts), 1 + np.array(cycles))
    of_columns = [replace(record, ledger=columns if record is held[0] else record.ledger) for record in held]
    assert group_of(of_columns).content == group_of(held).content
