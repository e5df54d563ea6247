"""Finished replications as fpswitch 0.2.0 kept them: each strategy of a replication is a JSON file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from sim.bounded import content
from sim.errors import InputError
from sim.kernel.datafile import STRICT
from sim.kernel.operations import Operation
from sim.results.keys import Key
from sim.results.record import Record

_NAME: Final = re.compile(r"([0-9a-f]{32})-(0|[1-9]\d{0,6})", re.ASCII)

_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A record whose numbers fit the columns of a group."""

    __pydantic_config__ = STRICT | {"allow_inf_nan": False}

    case: str
    timed_by: str
    strategy: str
    replication: int
    ledger: list[tuple[str, str, str, _Int64, _Int64, _Int64, str, _Int64, _Int64]]
    metrics: dict[str, tuple[float, str]]
    latency: dict[str, list[tuple[_Int64, _Int64, _Int64]]]
    integrity: dict[str, _Int64]
    engine: str = ""


_ADAPTER: Final = TypeAdapter(_Kept)


def record(path: Path) -> tuple[Key, Record]:
    """The record in a file, with its key; :class:`InputError` for a file that has none that can be packed.

    Nothing tells that a number or a text was changed to another that a record can have.
    """
    name = _NAME.fullmatch(path.stem)
    if name is None:
        raise InputError(f"{path}: not the name of a replication's file")
    try:
        found = _ADAPTER.validate_json(content(path))
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"]
        raise InputError(f"{path}: not a replication that can be read ({why})") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: not a replication that can be read ({why})") from error
    key = name[1], int(name[2])
    if found.replication != key[1]:
        raise InputError(f"{path}: has replication {found.replication} (allowed: that of its name)")
    return key, Record(
        case=found.case,
        timed_by=found.timed_by,
        strategy=found.strategy,
        replication=found.replication,
        ledger=tuple((Operation(*row[:-2]), row[-2], row[-1]) for row in found.ledger),
        metrics=found.metrics,
        latency={name: {(low, high): count for low, high, count in buckets} for name, buckets in found.latency.items()},
        integrity=found.integrity,
        engine=found.engine,
    )
