"""Events of a trace as columns, some thousands at a time, and the same events one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.trace.following.known import Step
from sim.trace.reading.events import TABLES
from sim.trace.reading.payloads import Columns


@dataclass(slots=True)
class Gap:
    """Events are missing before ``row`` of a chunk: lost, or because another recording begins."""

    row: int
    why: str


@dataclass(slots=True)
class Chunk:
    """Events in the order of the trace.

    ``line`` counts from 1; ``time_ns`` is the trace's clock; ``comm`` and columns of names hold codes into the reader's
    ``names``; ``event`` are codes of :data:`sim.trace.reading.events.EVENTS`.  ``tables`` holds, by table, the rows
    that its events have in this chunk, and their fields.
    """

    line: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    cpu: NDArray[np.int32]
    tid: NDArray[np.int32]
    comm: NDArray[np.int32]
    event: NDArray[np.int8]
    tables: dict[str, tuple[NDArray[np.int64], Columns]]
    gaps: list[Gap] = field(default_factory=list)


def steps(chunk: Chunk, names: list[str]) -> Iterator[Step]:
    """The events of a chunk one by one, with names as text."""
    values: list[tuple[Any, ...]] = [()] * len(chunk.line)
    for table in TABLES:
        if table.name not in chunk.tables:
            continue
        rows, columns = chunk.tables[table.name]
        lists = []
        for name, kind in table.fields:
            column = columns[name].tolist()
            lists.append([names[code] for code in column] if kind == "name" else column)
        for row, payload in zip(rows.tolist(), zip(*lists, strict=True), strict=True):
            values[row] = payload
    common = (chunk.line, chunk.time_ns, chunk.cpu, chunk.tid)
    comms = [names[code] for code in chunk.comm.tolist()]
    return map(
        Step._make,
        zip(*(column.tolist() for column in common), comms, chunk.event.tolist(), values, strict=True),
    )
