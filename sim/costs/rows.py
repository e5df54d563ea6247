"""A cost table as it is used: rows by their keys, each with its range and where its number comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sim.errors import InputError
from sim.xsave.components import COMPONENTS

Number = int | float
STRICT: Final[dict[str, Any]] = {"extra": "forbid", "strict": True}

COMPONENT_NAMES: Final = tuple(component.name for component in COMPONENTS)
ANY: Final = "*"
"""The component of a row for every component, or the MSR of a row for every MSR, that has no row of its own."""

RATIO: Final = "core cycles per TSC cycle/ratio"
UNPRICED: Final = ("total", "reference", "difference")


@dataclass(frozen=True, slots=True)
class CostRow:
    """One cost.

    ``component`` is one of Linux's names (:data:`COMPONENT_NAMES`), "*" or empty; in a ``total`` or ``reference``
    row the list of all that were in use, of ``requested`` ones. ``level`` is empty, or L2 or memory for what is
    added when the buffer is there; or L3 in a ``difference`` or ``reference`` row. ``clock`` is core or tsc, in a
    reference row also ns. ``origin`` are the rows from which a derived one comes, as ids of this table or as
    TABLE:ID. ``factor`` is the row whose uncertainty this one shares; ``table`` the file in which the row was
    written.
    """

    __pydantic_config__ = STRICT

    operation: str
    term: str
    component: str
    level: str
    requested: str
    value: Number
    low: Number
    high: Number
    distribution: str
    clock: str
    grade: str
    source: str
    conditions: str
    date: str
    origin: tuple[str, ...]
    table: str
    factor: str

    @property
    def id(self) -> str:
        """The key as text: operation/term, then component and level if there are any."""
        return row_id(self.operation, self.term, self.component, self.level)

    @property
    def priced(self) -> bool:
        """Whether the composition may use the row."""
        return self.term not in UNPRICED and self.id != RATIO


@dataclass(frozen=True, slots=True)
class CostTable:
    """A table as it is used: complete, by the ids of the rows, in the order of the files.

    Its ``name`` is that of a shipped one, or of the file, without the folder and the ending.
    """

    name: str
    title: str
    derived_from: str
    rows: Mapping[str, CostRow] = field(hash=False)
    duplicates: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Core cycles per TSC cycle."""
        if RATIO not in self.rows:
            raise InputError(f"cost table {self.name}: no row {RATIO!r}, so core cycles cannot be converted")
        return float(self.rows[RATIO].value)

    def scale(self, row: CostRow, ratio: float | None = None) -> float:
        """What a value of the row is multiplied by to be in TSC cycles."""
        return 1.0 / (self.ratio if ratio is None else ratio) if row.clock == "core" else 1.0


def usual_distribution(grade: str) -> str:
    """The distribution of a row that names none."""
    return "uniform" if grade == "assumed" else "triangular"


def row_id(operation: str, term: str, component: str = "", level: str = "") -> str:
    """The id of a row with this key."""
    return f"{operation}/{term}" + (f"/{component}" if component else "") + (f"@{level}" if level else "")
