"""An experiment: every replication of every strategy in every case of a scenario, in parallel, and its results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import InputError
from sim.experiment.described import check_no_point
from sim.experiment.inputs import gathered
from sim.experiment.keeping import Experiment
from sim.experiment.pools import cpus
from sim.experiment.progress import Progress
from sim.experiment.provenance import name_of, other_versions
from sim.experiment.running import Running, Where
from sim.experiment.workers import Simulate
from sim.processes import check_jobs
from sim.scenario.cases import Case, cases
from sim.scenario.reading import read, vary
from sim.scenario.schema import Scenario

if TYPE_CHECKING:
    from sim.results.tables import Results


def run(
    scenario: Scenario | str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    strategies: Sequence[str] | None = None,
    replications: int | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    cluster: str | None = None,
    reference: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    command: Sequence[str] = (),
    simulate: Simulate | None = None,
) -> Results:
    """Runs a scenario, given by its name or as a file, and returns its results.

    ``overrides`` maps the paths of keys to new values, such as {"host.cpus": 64}, and ``options`` maps them to their
    names in error messages; ``strategies`` (a list, or "all"), ``replications``, ``seed`` and ``reference`` are short
    for those of [run].  A reference that is not among the strategies is also run.  ``jobs`` is the number of processes,
    by default one per CPU that this process may use; with 1 everything runs in this process.  ``executor`` is a
    :class:`concurrent.futures.Executor` that runs replications instead, and is not shut down; if it does not tell how
    many workers it has, ``jobs`` does.  ``cluster`` is the address of a Dask scheduler, or "local:N"
    (:class:`sim.experiment.cluster.Cluster`).  The tables are byte-identical, wherever replications run.  ``out`` is
    the result directory; without it the results are in memory only.  Whatever is finished there for the same cases,
    costs, seed and code is used again, and none of it is dropped; the ``notes`` of the results say how much was.
    ``progress`` shows a bar and these notes on standard error.  ``command`` goes into the manifest.  ``simulate``
    replaces :func:`sim.host.simulation.simulate`.

    Raises :class:`~sim.errors.InputError` for a wrong scenario or option, :class:`~sim.errors.RunError` for a run that
    could not be finished, and :class:`Interrupted` for one that got a KeyboardInterrupt.
    """
    short = {
        "strategies": strategies if strategies is None or isinstance(strategies, str) else list(strategies),
        "replications": replications,
        "seed": seed,
        "reference": reference,
    }
    keywords = {f"run.{name}": name for name, value in short.items() if value is not None}
    given = {**(overrides or {}), **{path: short[name] for path, name in keywords.items()}}
    named = {**keywords, **(options or {})}
    if isinstance(scenario, Scenario):
        asked, source = vary(scenario, given, named) if given else scenario, ""
    else:
        path = scenario if isinstance(scenario, str) else Path(scenario)
        asked, source = read(path, given, named), str(path)
    return run_cases(
        asked,
        cases(asked),
        source=source,
        jobs=jobs,
        executor=executor,
        cluster=cluster,
        out=out,
        progress=progress,
        command=command,
        simulate=simulate,
    )


def run_cases(
    scenario: Scenario,
    of_scenario: Sequence[Case],
    *,
    source: str = "",
    jobs: int | None = None,
    executor: Executor | None = None,
    cluster: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    command: Sequence[str] = (),
    simulate: Simulate | None = None,
) -> Results:
    """Runs the cases ``of_scenario``; the rest is as in :func:`run`."""
    check_jobs(jobs)
    if executor is not None and cluster is not None:
        raise InputError(f"cluster {cluster!r} beside an executor (allowed: one of them)")
    if out is not None:
        check_no_point(out)
    asked = experiment_of(scenario, of_scenario, source, command)
    told = Progress(shown=progress)
    if note := other_versions(source):
        told.say(note)
    running = Running(asked, out, told)
    try:
        return running.results(Where(jobs or cpus(), executor, cluster, simulate))
    finally:
        running.close()


def experiment_of(scenario: Scenario, of_scenario: Sequence[Case], source: str, command: Sequence[str]) -> Experiment:
    """The scenario with its cases, and its files as they are now."""
    name = name_of(source, scenario.title)
    return Experiment(scenario, of_scenario, gathered(scenario, of_scenario), name, source, command)
