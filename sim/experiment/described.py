"""``design.json``: what a directory of a design says of it."""

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from sim.bounded import content
from sim.errors import InputError
from sim.experiment.design import MOST_POINTS
from sim.kernel.datafile import shortened
from sim.results import schema
from sim.results.schema import Name, Part, Sha256, Text

NAME: Final = "design.json"
FORMAT: Final = "fpswitch design 1"
POINTS: Final = "points"
"""The folder of the points' directories."""

_End = Annotated[float, Field(allow_inf_nan=False)]


class _Range(Part):
    path: Name
    low: _End
    high: _End
    unit: Text
    log: bool
    whole: bool


class _Design(Part):
    kind: Literal["lhs", "sobol", "factorial"]
    n: Annotated[int, Field(ge=1, le=MOST_POINTS)]
    ranges: Annotated[list[_Range], Field(min_length=1)]
    seed: int
    levels: Annotated[int, Field(ge=0, le=MOST_POINTS)] = 0


class _Run(Part):
    replications: int | None = None
    strategies: str | list[str] = ""


class _Resolved(Part):
    run: _Run


class _Failed(Part):
    point: Annotated[int, Field(ge=1, le=MOST_POINTS)]
    error: str = ""


class _Document(Part):
    scenario: Text
    scenario_sha256: Sha256 | None = None
    design: _Design
    resolved: _Resolved | None = None
    status: Literal["running", "complete", "failed", "interrupted"] | None = None
    failed: list[_Failed] = Field(default_factory=list)


def described(path: Path) -> dict[str, Any]:
    """What ``design.json`` says; :class:`InputError` for a directory that is not that of a design."""
    file = path / NAME
    try:
        found = schema.parsed(content(file))
    except FileNotFoundError as error:
        raise InputError(f"{path}: holds something other than a design; nothing in it is overwritten") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({schema.shorter(error)})") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        found = found.get("format") if isinstance(found, dict) else None
        raise InputError(f"{file}: not a design of this version (format {shortened(found)}, allowed: {FORMAT})")
    schema.fits(_Document, found, str(file))
    return found


def check_no_point(directory: str | os.PathLike[str]) -> None:
    """Raises :class:`InputError` for the directory of a point of a design: its tables are those of its design."""
    folder = Path(os.path.realpath(directory)).parent
    if folder.name == POINTS and (folder.parent / NAME).exists():
        raise InputError(
            f"{directory}: a point of the design in {folder.parent}, whose tables would no longer be those of its "
            "points (allowed: another directory, also a copy of the point, or the command of the design)"
        )
