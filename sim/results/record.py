"""One strategy on one replication's schedule of one case, as the simulated host gives it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.kernel.integrity import VIOLATIONS
from sim.kernel.operations import Operation

Part = tuple[str, str, str, int]
"""What is one record: case, the strategy that times the schedule, the strategy that walks it, replication."""


Row = tuple[Operation, int, int]
"""An operation, its count, and the TSC cycles that it took."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns(Sequence[Row]):
    """Rows of a ledger that are made when they are read; equal to a tuple of them."""

    operations: tuple[Operation, ...]
    counts: NDArray[np.int64]
    cycles: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Row]:
        return zip(self.operations, self.counts.tolist(), self.cycles.tolist(), strict=True)

    def __getitem__(self, which: Any) -> Any:
        return tuple(self)[which]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)


@dataclass(frozen=True, slots=True)
class Record:
    """One strategy on one schedule, over the measurement phase only.

    ``timed_by`` is the strategy whose operations took the host's time.  Only the record in which that is the strategy
    itself has metrics and latencies, which are the schedule's.

    ``ledger``: every operation that ran, with its count and the TSC cycles that it took (count x price).
    ``metrics``: by name, a value and its unit.  ``latency``: by name of the histogram, the number of samples by bucket;
    a bucket is [low, high) in TSC cycles.  ``integrity``: what the check found, by kind, also
    during warm-up.  ``engine`` is which one simulated it, and why if it is not the one that was wanted; nothing else
    depends on it.
    """

    case: str
    timed_by: str
    strategy: str
    replication: int
    ledger: Sequence[Row]
    metrics: Mapping[str, tuple[int | float, str]]
    latency: Mapping[str, Mapping[tuple[int, int], int]]
    integrity: Mapping[str, int]
    engine: str = field(default="", compare=False)

    @property
    def part(self) -> Part:
        """What identifies it."""
        return (self.case, self.timed_by, self.strategy, self.replication)


class Finished(NamedTuple):
    """What a run has to know of a record that it no longer has in memory.

    ``same``: what the keys of its series have in common, where it has one.  ``cycles``: TSC cycles of all its
    operations.  ``caught``: the integrity check found a violation.
    """

    case: str
    timed_by: str
    strategy: str
    replication: int
    same: str
    cycles: int
    caught: bool
    engine: str

    @classmethod
    def of(cls, record: Record, same: str = "") -> "Finished":
        """That of a record which is in memory."""
        cycles = sum([cycles for _, _, cycles in record.ledger])
        caught = any(record.integrity.get(kind) for kind in VIOLATIONS)
        return cls(*record.part, same, cycles, caught, record.engine)

    @property
    def series(self) -> tuple[str, str, str]:
        """What it is of, without its replication."""
        return (self.case, self.timed_by, self.strategy)

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from all that have another content (:data:`sim.results.keys.Key`)."""
        return (self.same, self.replication)
