"""Runs of a design: an ordinary result directory for each point, and beside them tables of all points.

``DIR/design.json`` says what was asked for; ``DIR/points/000001`` and so on are what ``fpswitch run`` writes;
``DIR/dataset/TABLE/point=000001/part.parquet`` are the same tables as a partitioned dataset, by links where the file
system has them; ``DIR/points.parquet`` has a row for each point, case and strategy.  Only the tables of one point are
in memory at a time.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.errors import InputError
from sim.experiment.described import FORMAT, NAME, described
from sim.experiment.design import Design, extremes
from sim.experiment.pool import Pool
from sim.experiment.pools import cpus, pool_of
from sim.experiment.progress import Progress
from sim.experiment.provenance import name_of
from sim.experiment.runs import run_cases
from sim.experiment.workers import Simulate
from sim.processes import check_jobs
from sim.results import files
from sim.results import manifest as manifests
from sim.results.lock import Lock
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.scenario.schema import Scenario

if TYPE_CHECKING:
    import pandas as pd

POINTS: Final = "points"
POINTS_TABLE: Final = "points.parquet"
DATASET: Final = "dataset"
TABLES: Final = ("ledger", "metrics", "latency", "integrity")


def run_design(
    scenario: str | Path,
    design: Design,
    out: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    cluster: str | None = None,
    progress: bool = False,
    command: Sequence[str] = (),
    simulate: Simulate | None = None,
) -> "pd.DataFrame":
    """Runs the scenario at every point of the design, in ``out``, and returns the rows of ``points.parquet``.

    Arguments are those of :func:`sim.experiment.run`.  Finished points of the same design are used again.  Raises
    :class:`~sim.errors.InputError` for a scenario that is wrong at an end of a range (before anything runs) or at
    another point (when its turn comes), and for a directory that holds something else; otherwise what
    :func:`sim.experiment.run` raises.
    """
    check_jobs(jobs)
    path, given = Path(out), dict(overrides or {})
    source = str(scenario)
    points = list(design.points())

    def at(number: int) -> Scenario:
        try:
            return read(scenario, given | points[number], options)
        except InputError as error:
            values = ", ".join(f"{key} {value}" for key, value in points[number].items())
            raise InputError(f"point {number + 1} of {design.n} ({values}): {error}") from error

    base = read(scenario, given, options)
    design.check_alone(options or {}, given, base.sweep)
    for number in extremes(design, points):
        cases(at(number))
    document = {
        "format": FORMAT,
        "scenario": name_of(source, base.title),
        "scenario_sha256": manifests.sha256(base.written()),
        "design": design.document(),
        "versions": manifests.versions(),
        "command": list(command),
    }
    told = Progress(shown=progress)
    with Lock(path):
        _begin(path, document)
        pool: Pool | None = None
        at_once = True
        try:
            pool = pool_of(executor, cluster, jobs or cpus(), told.say) if executor or cluster or jobs != 1 else None
            told.start(design.n, 0, unit="point")
            for number in range(design.n):
                _run_point(at(number), source, path, number, pool, command, simulate)
                told.step()
            at_once = False
        finally:
            told.close()
            if pool is not None:
                pool.close(at_once=at_once)
        return _points_table(path, design, points)


def point_name(number: int) -> str:
    """The folder of a point, from 0."""
    return f"{number + 1:06d}"


def _begin(path: Path, document: Mapping[str, Any]) -> None:
    """Makes the directory that of the design, or checks that it is."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: not a directory")
    if path.is_dir() and files.has_contents(path, NAME):
        there = described(path)
        for key in ("scenario", "scenario_sha256", "design"):
            if there[key] != document[key]:
                raise InputError(
                    f"{path}: holds another design or scenario ({key} differs; allowed: another directory)"
                )
    files.make_directory(path)
    for name in (NAME, POINTS_TABLE):
        files.remove_left(path / name)
    files.write_kept(path / NAME, (json.dumps(document, indent=1) + "\n").encode())
    files.sync(path)


def _run_point(
    scenario: Scenario,
    source: str,
    path: Path,
    number: int,
    pool: Pool | None,
    command: Sequence[str],
    simulate: Simulate | None,
) -> None:
    name = point_name(number)
    out = path / POINTS / name
    run_cases(
        scenario, cases(scenario), source=source, jobs=1, pool=pool, out=out, command=command, simulate=simulate
    )  # fmt: skip
    for table in TABLES:
        _link(out / f"{table}.parquet", path / DATASET / table / f"point={name}" / "part.parquet")


def _link(file: Path, place: Path) -> None:
    """Puts a file in a second place, if it is not there already."""
    if place.exists() and (place.samefile(file) or files.sha256(place) == files.sha256(file)):
        return
    files.make_directory(place.parent)
    temporary = place.with_name(f".{place.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(file, temporary)
        files.sync(temporary)
    os.replace(temporary, place)
    files.sync(place.parent)


def _points_table(path: Path, design: Design, points: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """A row for each point, case and strategy; one point is in memory at a time."""
    import pandas as pd

    from sim.analysis.by_point import own_costs
    from sim.results import load

    rows = []
    for number, point in enumerate(points):
        for row in own_costs(load(path / POINTS / point_name(number))):
            values = {each.path: each.number(point[each.path]) for each in design.ranges}
            rows.append({"point": number + 1, **values, **row})
    frame = pd.DataFrame(rows)
    temporary = path / f".{POINTS_TABLE}"
    frame.to_parquet(temporary, index=False)
    files.sync(temporary)
    os.replace(temporary, path / POINTS_TABLE)
    files.sync(path)
    return frame
