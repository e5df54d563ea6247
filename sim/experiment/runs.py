"""An experiment: every replication of every strategy in every case of a scenario, in parallel, with what came out."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.errors import InputError, RunError
from sim.experiment import stopping
from sim.experiment.inputs import gathered
from sim.experiment.provenance import costs_of, document, name_of, other_versions
from sim.experiment.workers import Simulate, Work, cpus, records
from sim.results import manifest as manifests
from sim.results.record import Part
from sim.scenario.cases import Case, cases
from sim.scenario.reading import read, vary
from sim.scenario.schema import Scenario

if TYPE_CHECKING:
    from tqdm import tqdm

    from sim.results.directory import ResultDirectory
    from sim.results.tables import Results

MOST_JOBS: Final = 1024


class Interrupted(RunError):
    """The user ended the run."""


def run(
    scenario: Scenario | str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    strategies: Sequence[str] | None = None,
    replications: int | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    reference: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    command: Sequence[str] = (),
    simulate: Simulate | None = None,
) -> Results:
    """Runs a scenario, a shipped one by its name, or the one in a file, and returns its results.

    ``overrides`` maps the paths of keys to what takes the place of the scenario's values, such as {"host.cpus": 64},
    and ``options`` to what an error calls them; ``strategies`` (a list, or "all"), ``replications``, ``seed`` and
    ``reference`` are short for those of [run]. A reference that is not among the strategies is run, too. ``jobs`` is
    the number of processes, by default one per CPU that this process may use; with 1 everything runs in this process.
    ``out`` is the result directory; without it the results are in memory only. An unfinished run of the same scenario,
    costs, seed and code in ``out`` is continued. ``progress`` shows a bar on standard error. ``command`` goes into the
    manifest. ``simulate`` takes the place of :func:`sim.host.simulation.simulate`.

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
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    command: Sequence[str] = (),
    simulate: Simulate | None = None,
) -> Results:
    """Runs the cases ``of_scenario``; the rest is as in :func:`run`."""
    from sim.results.directory import ResultDirectory  # here, since workers import this module and need no pandas
    from sim.results.tables import Results, frames

    if jobs is not None and not 1 <= jobs <= MOST_JOBS:
        raise InputError(f"jobs {jobs} (allowed: 1 to {MOST_JOBS})")
    inputs, costs = gathered(scenario, of_scenario), costs_of(of_scenario)
    name = name_of(source, scenario.title)
    manifest = document(scenario, of_scenario, inputs, name, source, command)
    rule = stopping.Rule(scenario, of_scenario)
    parts = _parts(of_scenario, rule.looks[-1])
    directory = ResultDirectory(out, manifest, costs, inputs.contents) if out is not None else None
    done = {record.part: record for record in (directory.kept(parts) if directory else ())}
    for record in done.values():
        rule.take(record)
    jobs = min(jobs or cpus(), len(_works([part for part in parts if part not in done])))
    bar = _progress_bar(len(_parts(of_scenario, rule.looks[0])), len(done), progress)
    stopped = rule.look(0)

    def works() -> Iterator[list[Work]]:
        """What is to be run next, until the rule stops."""
        nonlocal stopped
        while isinstance(stopped, int):
            wanted = _parts(of_scenario, stopped)
            bar.total = len(done.keys() | wanted)
            if directory:
                directory.manifest["replications"] = stopped
            yield _works([part for part in wanted if part not in done])
            stopped = rule.look(stopped)

    try:
        for finished in records(of_scenario, works(), jobs, simulate):
            for record in finished:
                if record.part in done:
                    continue
                done[record.part] = record
                rule.take(record)
                if directory:
                    directory.keep(record)
                bar.update()
        bar.close()
        assert isinstance(stopped, stopping.Stopped)
        n = stopped.replications
        exact, exact_cases = stopping.exactly(scenario, n), [stopping.exact_case(case, n) for case in of_scenario]
        manifest = document(exact, exact_cases, inputs, name, source, command)
        manifest |= {"stopping": stopping.document(scenario.run, stopped), "status": manifests.COMPLETE}
        kept = [record for record in done.values() if record.replication < n]
        notes = tuple(filter(None, [other_versions(source)]))
        results = Results.of(frames(kept, manifest["cases"]), manifest, costs, notes=notes)
        if directory:
            directory.manifest |= manifest
        return directory.complete(results) if directory else results
    except KeyboardInterrupt:
        bar.close()
        if directory:
            directory.end(manifests.INTERRUPTED)
        raise Interrupted(f"interrupted after {len(done)} of {bar.total} replications{_how_on(directory)}") from None
    except BaseException as error:
        bar.close()
        if directory:
            directory.end(manifests.FAILED, "".join(traceback.format_exception(error)))
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                f"a worker process died (killed, or out of memory?) after {len(done)} of {bar.total} "
                f"replications{_how_on(directory)}"
            ) from error
        raise
    finally:
        if directory:
            directory.close()


def _parts(cases: Sequence[Case], replications: int) -> list[Part]:
    """The parts of so many replications."""
    return [
        (case.name, timed_by, strategy, replication)
        for case in cases
        for timed_by, strategies in _schedules(case)
        for strategy in strategies
        for replication in range(replications)
    ]


def _schedules(case: Case) -> list[tuple[str, tuple[str, ...]]]:
    """The schedules of a case: which strategy times each, and which are wanted on it.

    With run.feedback each strategy also times a schedule of its own, on which nobody else is.
    """
    everybody = tuple(dict.fromkeys((case.timed_by, *case.strategies)))
    alone = [name for name in case.strategies if name != case.timed_by] if case.scenario.run.feedback else []
    return [(case.timed_by, everybody), *((name, (name,)) for name in alone)]


def _works(parts: Sequence[Part]) -> list[Work]:
    """What has to be run for these parts: each schedule once, walked by all that lack it."""
    walking: dict[tuple[str, str, int], list[str]] = {}
    for case, timed_by, name, replication in parts:
        walking.setdefault((case, timed_by, replication), []).append(name)
    return [(case, timed_by, tuple(names), replication) for (case, timed_by, replication), names in walking.items()]


def _how_on(directory: ResultDirectory | None) -> str:
    if directory is None:
        return ""
    aside = f"; what was there before is in {directory.set_aside}" if directory.set_aside else ""
    return f"; {directory.path} keeps them, and the same command continues from there{aside}"


def _progress_bar(total: int, done: int, shown: bool) -> tqdm[Any]:
    in_notebook = "ipykernel" in sys.modules
    if not (shown and in_notebook):
        from tqdm import tqdm

        hidden = None if shown else True  # None: only where standard error is a terminal
        return tqdm(
            total=total, initial=done, disable=hidden, file=sys.stderr, unit="rep", desc="replications", ncols=72
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no widgets: then it is a bar of text
        from tqdm.auto import tqdm as tqdm_auto

        bar: tqdm[Any] = tqdm_auto(total=total, initial=done, unit="rep", desc="replications")
    return bar
