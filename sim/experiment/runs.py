"""An experiment: every replication of every strategy in every case of a scenario, in parallel, with what came out.

A replication is a pure function of case, strategy and number, so that neither the number of jobs nor the order in which
they end can be seen in the results.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import chain
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.costs.table import CostTable
from sim.costs.table import load as load_costs
from sim.errors import InputError, RunError
from sim.experiment import stopping
from sim.kernel.config import Settings
from sim.kernel.strategies import names, strategy
from sim.results import manifest as manifests
from sim.results.record import Part, Record
from sim.scenario.cases import Case, cases, contrasts
from sim.scenario.reading import read, vary
from sim.scenario.schema import Scenario
from sim.xsave import profiles

if TYPE_CHECKING:
    from tqdm import tqdm

    from sim.results.directory import ResultDirectory
    from sim.results.tables import Results

Simulate = Callable[[Case, str, Sequence[str], int], list[Record]]
"""Runs one replication of a case, timed by one strategy and walked by others (:func:`sim.host.simulation.simulate`)."""

Work = tuple[str, str, tuple[str, ...], int]
"""Arguments of :data:`Simulate`, with the name of the case."""

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
    tables = {name: load_costs(name) for name in dict.fromkeys(case.costs for case in of_scenario)}
    costs = {name: _cost_document(table) for name, table in tables.items()}
    manifest = _manifest(scenario, of_scenario, costs, source, command)
    rule = stopping.Rule(scenario, of_scenario)
    parts = _parts(of_scenario, rule.looks[-1])
    directory = ResultDirectory(out, manifest, costs) if out is not None else None
    done = {record.part: record for record in (directory.kept(parts) if directory else ())}
    for record in done.values():
        rule.take(record)
    jobs = min(jobs or _cpus(), len(_works([part for part in parts if part not in done])))
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
        for records in _records(of_scenario, works(), jobs, simulate):
            for record in records:
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
        manifest = _manifest(exact, exact_cases, costs, source, command)
        manifest |= {"stopping": stopping.document(scenario.run, stopped), "status": manifests.COMPLETE}
        kept = [record for record in done.values() if record.replication < n]
        results = Results.of(frames(kept, manifest["cases"]), manifest, costs)
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


def _cost_document(table: CostTable) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "derived_from": table.derived_from,
        "rows": [asdict(row) for row in table.rows.values()],
    }


def _manifest(
    scenario: Scenario, cases: Sequence[Case], costs: Mapping[str, Any], source: str, command: Sequence[str]
) -> dict[str, Any]:
    resolved = scenario.written()
    hashes = {name: manifests.sha256(document) for name, document in costs.items()}
    versions = manifests.versions()
    world = resolved | {"run": {k: v for k, v in resolved["run"].items() if k not in _NOT_OF_THE_WORLD}}
    same = {
        "scenario": world,
        "costs": hashes,
        "strategies": [asdict(strategy(name)) for name in _of_users(cases)],
        "cpus": [each for each in map(_cpu_document, cases) if each],
        "source": versions["source_sha256"],
    }
    return {
        "scenario": Path(source).stem if source else scenario.title,
        "scenario_file": source or None,
        "scenario_sha256": manifests.sha256(resolved),
        "fingerprint": manifests.sha256(same),
        "resolved": resolved,
        "seed": scenario.run.seed,
        "replications": scenario.run.replication_bounds[0],
        "contrasts": [[list(a), list(b)] for a, b in contrasts(scenario, cases)],
        "cases": [_case_document(case, hashes[case.costs]) for case in cases],
        "versions": versions,
        "command": list(command),
    }


_NOT_OF_THE_WORLD: Final = (
    "replications", "precision", "min_replications", "max_replications", "strategies", "reference", "contrasts",
    "cases", "feedback",
)  # fmt: skip
"""Settings that say what runs and how often, and not what happens in a replication."""


def _of_users(cases: Sequence[Case]) -> list[str]:
    """Strategies that are files of the user's, and so no part of our own source."""
    shipped = names()
    return sorted({name for case in cases for name in case.strategies if name not in shipped})


def _case_document(case: Case, cost_table_sha256: str) -> dict[str, Any]:
    scenario = case.scenario
    return {
        "case": case.name,
        "cpu": case.cpu,
        "cpu_profile": _cpu_document(case),
        "kernel": case.kernel,
        "sweep": dict(case.sweep),
        "cost_table": case.costs,
        "cost_table_sha256": cost_table_sha256,
        "tsc_hz": case.tsc_hz,
        "cpus": scenario.host.cpus,
        "vcpus": sum(guest.vms * guest.vcpus for guest in scenario.guests.values()),
        "pipes": sum(thread.count for thread in scenario.threads.values() if thread.kind == "pipe"),
        "measure_s": scenario.run.measure,
        "timed_by": case.timed_by,
        "strategies": list(case.strategies),
        "reference": case.reference,
        "resolved": scenario.written(),
        "settings": {
            name: _settings_document(case.settings(name)) for name in dict.fromkeys((case.timed_by, *case.strategies))
        },
    }


def _cpu_document(case: Case) -> dict[str, Any] | None:
    """What a CPU is that is a file of the user's, and so no part of our own source."""
    if case.cpu in profiles.names():
        return None
    document = asdict(profiles.profile(case.cpu))
    return document | {"features": sorted(document["features"])}


def _settings_document(settings: Settings) -> dict[str, Any]:
    """What the kernel is booted with, without what has its default."""
    chosen = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {key: value for key, value in chosen.items() if value != getattr(_DEFAULTS, key)}


_DEFAULTS: Final = Settings()


def _progress_bar(total: int, done: int, shown: bool) -> tqdm[Any]:
    from tqdm import tqdm

    return tqdm(
        total=total, initial=done, disable=not shown, file=sys.stderr, unit="rep", desc="replications", ncols=72
    )


# Where replications run.


def _records(
    cases: Sequence[Case], works: Iterable[Sequence[Work]], jobs: int, simulate: Simulate | None
) -> Iterator[list[Record]]:
    """The records of each of ``works``, in any order; those of the next come when all before have been given."""
    if jobs <= 1:
        model = simulate or _model()
        by_name = {case.name: case for case in cases}
        for case, timed_by, strategies, replication in chain.from_iterable(works):
            yield _replicate(model, by_name[case], timed_by, strategies, replication)
        return
    earlier = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(cases, simulate)
    )
    try:
        for some in works:
            with _without_main():
                futures: list[Future[list[Record]]] = [executor.submit(_replicate_work, work) for work in some]
            for future in as_completed(futures):
                yield future.result()
    except BaseException:
        # Nobody waits for what is running: a replication may take minutes.
        executor.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - earlier:
            process.terminate()
        raise
    executor.shutdown()


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _model() -> Simulate:
    from sim.host.simulation import simulate

    model: Simulate = simulate
    return model


def _replicate(model: Simulate, case: Case, timed_by: str, strategies: Sequence[str], replication: int) -> list[Record]:
    try:
        return model(case, timed_by, strategies, replication)
    except InputError:
        raise
    except Exception as error:
        where = f"case {case.name}, timed by {timed_by}, replication {replication}"
        raise RunError(f"{where}: {type(error).__name__}: {error}") from error


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides ``__main__`` from the processes that are started meanwhile.

    They need nothing of it, and would run a script again that calls :func:`run` without a guard.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_worker: dict[str, Any] = {}
"""What a worker process was started with."""


def _start_worker(cases: Sequence[Case], simulate: Simulate | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _worker["cases"] = {case.name: case for case in cases}
    _worker["model"] = simulate or _model()


def _end_with(sentinel: int) -> None:
    """A worker does not outlive a parent that was killed."""
    wait([sentinel])
    os._exit(1)


def _replicate_work(work: Work) -> list[Record]:
    case, timed_by, strategies, replication = work
    return _replicate(_worker["model"], _worker["cases"][case], timed_by, strategies, replication)
