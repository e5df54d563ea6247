"""How far a design is: all points that are there, in any order, by their manifests alone."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sim.bounded import content
from sim.errors import InputError
from sim.experiment.described import POINTS, described
from sim.experiment.points import POINT, POINTS_TABLE, point_name
from sim.results import lock, progress
from sim.results import manifest as manifests
from sim.results.lock import Driver
from sim.results.progress import Progress

STARTED_S: Final = 1.0
"""A manifest says in whole seconds when its run began."""

OfResult = Callable[[str, list[str]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Point:
    """A point that has begun, from 1; ``ended`` is a time of day in seconds, or 0."""

    number: int
    status: str
    ended: float = 0.0
    error: str = ""


def document(path: Path, of_result: OfResult, notes: list[str]) -> dict[str, Any]:
    """How far the design in a directory is; ``of_result`` says that of a result directory, and ``notes`` gets sentences
    on files that are ignored.

    The time left is by what the points took that this driver has finished, with those that run in part.  Raises
    :class:`InputError` for a directory without a ``design.json`` that can be read.
    """
    about = described(path)
    n = about["design"]["n"]
    holder = lock.holder(Path(os.path.realpath(path)))
    is_seen = holder is not None and holder.state == lock.RUNNING  # before points are looked at, which it finishes
    points = list(_points(path, n, (about.get("resolved") or {}).get("run", {})))
    of = {status: [each for each in points if each.status == status] for status in manifests.STATUSES}
    finished = len(of[manifests.COMPLETE])
    said = dict(_said(path, of[manifests.RUNNING], notes))
    process = holder if is_seen else _driver(holder, points, said.values())
    why = {each.number: each.error for each in of[manifests.FAILED]}
    why |= {each["point"]: each.get("error", "") for each in about.get("failed", ())}
    failed = sorted(why)
    if about.get("status") == manifests.COMPLETE and finished == n and _has_table(path, n):
        status, process = manifests.COMPLETE, None
    elif process is not None:
        status = process.state
    else:
        status = _how_it_ended(of, failed, about.get("status"))
    running = said if process is not None else {}
    in_flight = sum(_share(each, each.finished + each.in_flight) for each in running.values() if each)
    elapsed_s = max(0.0, time.time() - holder.at) if holder is not None and process is not None else None
    return {
        "directory": str(path),
        "scenario": about["scenario"],
        "status": status,
        "silent_s": round(process.silent_s) if process is not None and status == lock.SILENT else None,
        "points": n,
        "finished": finished,
        "in_flight": in_flight,
        "elapsed_s": elapsed_s,
        "left_s": _left_s(n, of, running, in_flight, elapsed_s),
        "workers": max((each.workers for each in running.values() if each), default=None),
        "dashboard": next((each.dashboard for each in running.values() if each and each.dashboard), None),
        "process": {"pid": process.pid, "host": process.host} if process is not None else None,
        "running": [
            {"point": number, "finished": each.finished if each else None, "total": each.total if each else None}
            for number, each in running.items()
        ],
        "failed": failed,
        "error": next((f"point {number}: {why[number]}" for number in failed if why[number]), None),
        "last": _last(path, points, of_result, notes),
    }


def _last(path: Path, points: Sequence[_Point], of_result: OfResult, notes: list[str]) -> dict[str, Any] | None:
    try:
        return of_result(str(path / POINTS / point_name(points[-1].number - 1)), notes) if points else None
    except InputError:
        return None


def _points(path: Path, n: int, asked: Mapping[str, Any]) -> Iterator[_Point]:
    """Those that have begun; a complete one with less than is ``asked`` for now has not.

    Reading a manifest as JSON takes 0.06 ms, and checking it 0.9 ms, which is left to those that use its numbers.
    """
    try:
        there = set(os.listdir(path / POINTS))
    except OSError:
        return
    for number in range(n):
        if point_name(number) not in there:
            continue
        file = path / POINTS / point_name(number) / manifests.NAME
        try:
            found = json.loads(content(file))
            status, error = found["status"], str(found.get("error") or "").strip()
            ended = datetime.fromisoformat(found["started"]).timestamp() + float(found["wall_s"] or 0)
            if status not in manifests.STATUSES or not math.isfinite(ended):
                raise ValueError("not the manifest of a run")
            if status == manifests.COMPLETE and not _is_enough(found["resolved"]["run"], asked):
                continue
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            yield _Point(number + 1, manifests.FAILED, error=f"{file}: cannot be read")
        else:
            yield _Point(number + 1, status, ended, error.rpartition("\n")[2].strip())


def _is_enough(run: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a run has the replications and strategies that are asked for."""
    n, strategies = asked.get("replications"), asked.get("strategies", ())
    enough = n is None or (run.get("replications") or n) >= n
    return enough and (run["strategies"] == strategies or {*strategies} <= {*run["strategies"]})


def _said(path: Path, running: Iterable[_Point], notes: list[str]) -> Iterator[tuple[int, Progress | None]]:
    """What the driver said last of each point that runs."""
    for each in running:
        try:
            yield each.number, progress.read(path / POINTS / point_name(each.number - 1))
        except InputError as error:
            notes.append(f"{error}; it is ignored")
            yield each.number, None


def _driver(holder: Driver | None, points: Iterable[_Point], said: Iterable[Progress | None]) -> Driver | None:
    """The process that may still be there, of which a point that has ended is a sign of life, too."""
    drivers = [each.driver for each in said if each]
    if holder is not None:
        drivers.append(replace(holder, at=max(holder.at, *(each.ended for each in points), 0.0)))
    there = [each for each in drivers if each.state != lock.KILLED]
    return max(there, key=lambda each: lock.STATES.index(each.state), default=None)


def _has_table(path: Path, n: int) -> bool:
    """Whether the table of all points is there, and has the last one: an earlier one may have fewer.

    The numbers are read, and not what the file says of the largest: of some damage to that the decoder ends the process
    (std::terminate, pyarrow 26.0).
    """
    from pyarrow import compute, parquet

    try:
        with parquet.ParquetFile(path / POINTS_TABLE) as table:
            numbers = (rows.column(POINT) for rows in table.iter_batches(columns=[POINT], use_threads=False))
            return any(compute.max(each).as_py() == n for each in numbers)
    except Exception:  # whatever a decoder says of bytes that are not Parquet
        return False


def _how_it_ended(of: Mapping[str, list[_Point]], failed: list[int], said: str | None) -> str:
    """Without a process: it was killed if nothing says otherwise, which ``design.json`` does of late."""
    if said in (manifests.FAILED, manifests.INTERRUPTED):
        return said
    if said == manifests.RUNNING or of[manifests.RUNNING]:
        return lock.KILLED
    if failed:
        return manifests.FAILED
    return manifests.INTERRUPTED if of[manifests.INTERRUPTED] else lock.KILLED


def _share(said: Progress, parts: float) -> float:
    """So many parts of a point, as a part of the point."""
    return min(1.0, parts / max(said.total, 1))


def _left_s(
    n: int,
    of: Mapping[str, list[_Point]],
    running: Mapping[int, Progress | None],
    in_flight: float,
    elapsed_s: float | None,
) -> float | None:
    """Seconds to the end of all points; None as long as nothing tells."""
    if elapsed_s is None:
        return None
    begun = time.time() - elapsed_s - STARTED_S
    over, failed = (sum(each.ended > begun for each in of[status]) for status in (manifests.COMPLETE, manifests.FAILED))
    before = sum(_share(each, each.before) for each in running.values() if each)
    done = over + failed + in_flight - before
    left = n - len(of[manifests.COMPLETE]) - failed - in_flight
    return max(0.0, left) * elapsed_s / done if done > 0 else None
