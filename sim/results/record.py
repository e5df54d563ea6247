"""One replication of one strategy in one case, as the simulated host gives it."""

from collections.abc import Mapping
from dataclasses import dataclass

from sim.kernel.operations import Operation

Part = tuple[str, str, int]
"""What is one replication: case, strategy and number."""


@dataclass(frozen=True, slots=True)
class Record:
    """One replication of one strategy in one case, over the measurement phase only.

    ``ledger``: every operation that ran, with its count and the TSC cycles that it took (count x price).
    ``metrics``: by name, a value and its unit.  ``latency``: by name of the histogram, the number of samples by bucket;
    a bucket is [low, high) in TSC cycles.  ``integrity``: what the check found, by kind, also
    during warm-up.
    """

    case: str
    strategy: str
    replication: int
    ledger: tuple[tuple[Operation, int, int], ...]
    metrics: Mapping[str, tuple[int | float, str]]
    latency: Mapping[str, Mapping[tuple[int, int], int]]
    integrity: Mapping[str, int]
