"""Records as groups, shelves and tables, as a run makes them."""

import hashlib
from itertools import chain

from sim.kernel.operations import Operation
from sim.results import Record, tables
from sim.results.columns import RUN_COLUMNS, SCHEMAS
from sim.results.groups import Gathered
from sim.results.keys import Keys
from sim.results.shelf import Shelf


def same_of(record):
    """What the keys of its series have in common; another for each series."""
    return hashlib.sha256(repr(record.part[:3]).encode()).hexdigest()[:32]


def group_of(records):
    found = Gathered()
    for record in records:
        found.add(same_of(record), record)
    return found.packed()


def shelf_of(records, at_a_time=1000):
    shelf = Shelf()
    for i in range(0, len(records), at_a_time):
        shelf.add(group_of(records[i : i + at_a_time]))
    return shelf


def frames_of(records, cases, at_a_time=1000):
    """The tables of records, which come in groups."""
    shelf = shelf_of(records, at_a_time)
    keys = Keys(
        {record.part[:3]: same_of(record) for record in records}, 1 + max(record.replication for record in records)
    )
    order = tables.in_order(keys, cases)
    return tables.frames(chain.from_iterable(shelf.tables(same, keys.replications) for same in order))


def records(tables):
    """The records of four tables, which have all but their engines."""
    by_part = {name: {} for name in SCHEMAS}
    for name, frame in tables.items():
        for row in frame[SCHEMAS[name].names].itertuples(index=False, name=None):
            by_part[name].setdefault(row[: len(RUN_COLUMNS)], []).append(row[len(RUN_COLUMNS) :])
    found = []
    for part in dict.fromkeys(part for rows in by_part.values() for part in rows):
        latency = {}
        for histogram, low, high, count in by_part["latency"].get(part, ()):
            latency.setdefault(histogram, {})[low, high] = count
        found.append(
            Record(
                *part,
                ledger=tuple(
                    (Operation(*row[:-2]), count, cycles)
                    for row in by_part["ledger"].get(part, ())
                    for count, cycles in (row[-2:],)
                ),
                metrics={metric: (value, unit) for metric, unit, value in by_part["metrics"].get(part, ())},
                latency=latency,
                integrity=dict(by_part["integrity"].get(part, ())),
            )
        )
    return found
