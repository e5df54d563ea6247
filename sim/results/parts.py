"""Finished replications as files, from which a later run goes on."""

import json
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.bounded import content
from sim.errors import InputError
from sim.kernel.datafile import STRICT
from sim.kernel.operations import Operation
from sim.results import files
from sim.results import manifest as manifests
from sim.results.keys import KEY, Keys, Series
from sim.results.record import Part, Record

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FOLDER: Final = "parts"


def schedules(case: Mapping[str, Any], *, feedback: bool) -> list[tuple[str, tuple[str, ...]]]:
    """The schedules of a case, an entry of the manifest: the strategy that times each, and all that walk it.

    With ``feedback`` each strategy also has one of its own.  In results of 0.1.0, where "timed_by" is None, it has no
    other.
    """
    strategies, timed_by = tuple(case["strategies"]), case["timed_by"]
    own: list[tuple[str, tuple[str, ...]]] = [(each, (each,)) for each in strategies if each != timed_by]
    if timed_by is None:
        return own
    return [(timed_by, tuple(dict.fromkeys((timed_by, *strategies)))), *(own if feedback else ())]


def expected(manifest: Mapping[str, Any]) -> list[Part]:
    """All that the run of a manifest consists of."""
    feedback = bool(manifest["resolved"]["run"].get("feedback"))
    return [
        (case["case"], timed_by, strategy, replication)
        for case in manifest["cases"]
        for timed_by, strategies in schedules(case, feedback=feedback)
        for strategy in strategies
        for replication in range(manifest["replications"])
    ]


def keys(manifest: Mapping[str, Any], replications: int) -> Keys:
    """What tells each part of a run, of so many replications, from all that have another content.

    Two parts with one key are one record: their worlds are the same, and so are the strategies that time and walk the
    schedule, those in files by their contents.
    """
    feedback = bool(manifest["resolved"]["run"].get("feedback"))
    found: dict[Series, str] = {}
    for case in manifest["cases"]:
        settings = case["settings"]
        for timed_by, strategies in schedules(case, feedback=feedback):
            for strategy in strategies:
                same = manifests.sha256([case["fingerprint"], settings[timed_by], settings[strategy]])[:32]
                found[case["case"], timed_by, strategy] = same
    return Keys(found, replications)


def path_of(key: str, directory: Path) -> Path:
    """The file of a part in a result directory."""
    return directory / FOLDER / f"{key}.json"


def kept(directory: Path, problems: list[str]) -> Iterator[tuple[str, Record]]:
    """The records that lie in a result directory as files, by their keys, in no order.

    ``problems`` gets a sentence about each damaged file.
    """
    for path in _files(directory / FOLDER):
        if path.suffix != ".json" or path.name.startswith("."):
            continue
        try:
            if not KEY.fullmatch(path.stem):
                raise InputError(f"{path}: not the name of a replication's file")
            yield path.stem, read(path)
        except InputError as error:
            problems.append(f"{error}: it is simulated again if asked for")
    problems.sort()


def remove_all_but(wanted: Container[str], directory: Path) -> None:
    """Removes the files of all other parts, and the folder if none is left."""
    folder = directory / FOLDER
    for path in _files(folder):
        if path.stem not in wanted:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder, which may be a hundred thousand, one by one."""
    try:
        with os.scandir(folder) as found:
            yield from (Path(each.path) for each in found)
    except FileNotFoundError:
        return


def write(record: Record, path: Path) -> None:
    """Keeps a record."""
    files.write(path, json.dumps(_as_json(record)).encode())


def _as_json(record: Record) -> dict[str, Any]:
    return {
        "case": record.case,
        "timed_by": record.timed_by,
        "strategy": record.strategy,
        "replication": record.replication,
        "ledger": [[*operation, count, cycles] for operation, count, cycles in record.ledger],
        "metrics": {name: [value, unit] for name, (value, unit) in record.metrics.items()},
        "latency": {
            name: [[low, high, count] for (low, high), count in buckets.items()]
            for name, buckets in record.latency.items()
        },
        "integrity": dict(record.integrity),
        "engine": record.engine,
    }


def read(path: Path) -> Record:
    """The record in a file; :class:`InputError` for a file that is none, or not whole."""
    from pydantic import ValidationError

    try:
        found = _adapter().validate_json(content(path))
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"]
        raise InputError(f"{path}: not a replication that can be read ({why})") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: not a replication that can be read ({why})") from error
    return Record(
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


@dataclass(frozen=True, slots=True)
class _Kept:
    __pydantic_config__ = STRICT

    case: str
    timed_by: str
    strategy: str
    replication: int
    ledger: list[tuple[str, str, str, int, int, int, str, int, int]]
    metrics: dict[str, tuple[int | float, str]]
    latency: dict[str, list[tuple[int, int, int]]]
    integrity: dict[str, int]
    engine: str = ""


@cache
def _adapter() -> "TypeAdapter[_Kept]":
    from pydantic import TypeAdapter

    return TypeAdapter(_Kept)
