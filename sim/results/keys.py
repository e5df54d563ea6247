"""What tells each part of a run from all that have another content, without a list of them: there may be a million."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sim.results.record import Part

Series = tuple[str, str, str]
"""A part without its replication: case, the strategy that times the schedule, the one that walks it."""

Key = tuple[str, int]
"""What the parts of a series have in common, 32 hexadecimal digits, and the replication."""


@dataclass(frozen=True, slots=True)
class Keys(Mapping[Part, Key]):
    """The key of each part: those of ``series``, by what their parts have in common, in replications from 0."""

    series: Mapping[Series, str]
    replications: int
    _hashes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hashes", frozenset(self.series.values()))

    def __getitem__(self, part: Part) -> Key:
        *series, replication = part
        if not 0 <= replication < self.replications:
            raise KeyError(part)
        return self.series[tuple(series)], replication  # type: ignore[index]

    def __iter__(self) -> Iterator[Part]:
        return ((*series, n) for series in self.series for n in range(self.replications))

    def __len__(self) -> int:
        return len(self.series) * self.replications

    def have(self, key: Key) -> bool:
        """Whether a part has this key."""
        same, n = key
        return same in self._hashes and n < self.replications

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keys) and (self.series, self.replications) == (other.series, other.replications)

    def same_parts(self, other: "Keys") -> bool:
        """Whether both have the same keys."""
        return (self._hashes, self.replications) == (other._hashes, other.replications)

    def is_within(self, other: "Keys") -> bool:
        """Whether the other one has all keys."""
        return self._hashes <= other._hashes and self.replications <= other.replications

    def shared(self, other: "Keys") -> int:
        """How many keys both have."""
        return len(self._hashes & other._hashes) * min(self.replications, other.replications)

    @property
    def distinct(self) -> int:
        """How many keys there are; parts with one key are one record."""
        return len(self._hashes) * self.replications

    def up_to(self, replications: int) -> "Keys":
        """Those of the first replications."""
        return Keys(self.series, min(replications, self.replications))


def count(parts: Iterable[object]) -> int:
    """How many there are."""
    return sum(1 for _ in parts)
