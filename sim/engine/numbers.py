"""The numbers of fragments, shapes and operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Numbers:
    """Values by number, in the order in which they were first met."""

    values: list[Any] = field(default_factory=list)
    _of: dict[Any, int] = field(init=False)

    def __post_init__(self) -> None:
        self._of = {value: number for number, value in enumerate(self.values)}

    def of(self, value: Any) -> int:
        """The number of a value."""
        number = self._of.get(value)
        if number is None:
            number = self._of[value] = len(self.values)
            self.values.append(value)
        return number
