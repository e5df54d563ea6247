"""Runs of a design: an ordinary result directory for each point, and beside them tables of all points.

``DIR/design.json`` says what was asked for, with what, and which points failed; ``DIR/points/000001`` and so on are
what ``fpswitch run`` writes; ``DIR/finished/000001.json`` and so on are what is told of the finished ones
(:mod:`sim.experiment.finished`); ``DIR/dataset/TABLE/point=000001/part.parquet`` are the tables as a partitioned
dataset, by links where the file system has them; ``DIR/points.parquet`` has a row for each point, case and strategy.
Only the tables of one point are in memory at a time.

Points never mix what two versions or inputs gave: a directory is that of one design.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.engine.choice import prepare
from sim.errors import InputError
from sim.experiment.described import FORMAT, NAME, check_no_point, described
from sim.experiment.design import Design
from sim.experiment.points import Points
from sim.experiment.pool import Pool
from sim.experiment.pools import cpus, pool_of
from sim.experiment.progress import Progress
from sim.experiment.provenance import name_of, other_versions
from sim.experiment.same import had_by, made_of, other_than
from sim.experiment.workers import Simulate
from sim.processes import check_jobs
from sim.results import files
from sim.results import manifest as manifests
from sim.results.lock import Lock
from sim.scenario.reading import Source

if TYPE_CHECKING:
    import pandas as pd


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

    Arguments are those of :func:`sim.experiment.run`.  Finished points of the same design are used again; more
    replications or strategies than it had are run in addition.

    Raises :class:`~sim.errors.InputError` for a scenario that is wrong at a point, before anything runs, and for a
    directory that holds something else, which may be the same design of other inputs or of another version.  If points
    fail the others run, and ``points.parquet`` has these; then it raises :class:`~sim.errors.RunError`, or InputError
    if nothing but input is wrong.  Otherwise it raises what :func:`sim.experiment.run` does.
    """
    check_jobs(jobs)
    check_no_point(out)
    path = files.resolved(out)  # the lock is beside what it leads to
    given, values = dict(overrides or {}), list(design.points())
    source, named = Source.of(scenario), options or {}
    base, _ = source.read(given, named)
    design.check_alone(named, given, base.sweep)
    told, name = Progress(shown=progress), name_of(str(scenario), base.title)
    points = Points(
        path,
        design,
        values,
        lambda point: source.read({**given, **point}, named),
        name,
        str(scenario),
        command,
        simulate,
        told,
    )
    made = made_of(points.experiment(0))
    points.document = json.loads(
        json.dumps(
            {
                "format": FORMAT,
                "status": manifests.RUNNING,
                "scenario": name,
                "design": design.document(),
                **made,
                "command": list(command),
            }
        )
    )
    told.say(*filter(None, [other_versions(str(scenario))]))
    with Lock(path):
        status = _status(path, points.document)
        missing = points.missing()
        for number in missing:
            points.check(number)
        pool: Pool | None = None
        if missing and (executor is not None or cluster is not None or jobs != 1):
            pool = pool_of(executor, cluster, jobs or cpus(), told.say)
        at_once = True
        try:
            points.begin(missing, status)
            with points.ending():
                if missing and simulate is None:
                    prepare(points.experiment(missing[0]).cases, told.say, here=pool is None)
                told.start(design.n, design.n - len(missing), unit="point")
                points.run(missing, pool)
                at_once = False
                return points.table()
        finally:
            told.close()
            if pool is not None:
                pool.close(at_once=at_once)


def _status(path: Path, document: dict[str, Any]) -> str | None:
    """How an earlier command of the same design has ended there, if there was one, whose strategies ``document`` gets.

    Raises :class:`InputError` for a directory that is not that of the design, or of other inputs or versions.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: not a directory")
    if not path.is_dir() or not files.has_contents(path, NAME):
        return None
    there = described(path)
    try:
        other = ["the design"] if there["design"] != document["design"] else other_than(there, document)
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path / NAME}: damaged, or of an earlier fpswitch ({error!r})") from error
    if other:
        raise InputError(
            f"{path}: holds another design or scenario: other than here are {', '.join(other)}; points of both are not "
            "mixed (allowed: another directory, or in this one the same with other replications or strategies)"
        )
    document["had"] = had_by(there, document)
    status: str | None = there.get("status")
    return status
