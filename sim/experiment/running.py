"""One run going on: what is finished, what is missing, and what is kept of it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sim.errors import RunError
from sim.experiment import keeping, stopping
from sim.experiment.keeping import Experiment
from sim.experiment.progress import Progress
from sim.experiment.workers import Simulate, Work, records
from sim.results import manifest as manifests
from sim.results import parts
from sim.results.record import Part, Record

if TYPE_CHECKING:
    from sim.results.directory import ResultDirectory
    from sim.results.tables import Results


class Interrupted(RunError):
    """The user ended the run."""


class Running:
    """A run of ``asked``, in memory or in the directory ``out``, whose finished replications are used again."""

    def __init__(self, asked: Experiment, out: str | os.PathLike[str] | None, told: Progress) -> None:
        self._asked, self._told = asked, told
        self._manifest = asked.manifest()
        self._rule = stopping.Rule(asked.scenario, asked.cases)
        self._keys = parts.keys(self._manifest, self._rule.looks[-1])
        self._there: dict[str, Record] = {}
        self._directory = _opened(out, self._manifest) if out is not None else None
        if self._directory is not None:
            try:
                self._there, notes = self._directory.finished()
            except BaseException:
                self.close()
                raise
            told.say(*notes)

    def close(self) -> None:
        """Lets others use the directory."""
        if self._directory is not None:
            self._directory.close()

    def results(self, jobs: int, simulate: Simulate | None) -> Results:
        """Runs what is missing, and gives what was asked for."""
        again = [part for part, key in self._keys.items() if key in self._there]
        for part in again:
            self._rule.take(self._there[self._keys[part]])
        try:
            self._simulate(jobs, simulate)
            return self._ended(set(again))
        except KeyboardInterrupt:
            self._fails(manifests.INTERRUPTED)
            raise Interrupted(f"interrupted after {self._how_far()}") from None
        except OSError as error:  # the disk is full, read-only, or gone
            with suppress(OSError):
                self._fails(manifests.FAILED, str(error))
            file = f"{error.filename}: " if error.filename else ""
            raise RunError(f"{file}cannot be written ({error.strerror or error}) after {self._how_far()}") from error
        except BaseException as error:
            self._fails(manifests.FAILED, "".join(traceback.format_exception(error)))
            if isinstance(error, BrokenProcessPool):
                raise RunError(f"a worker process died (killed, or out of memory?) after {self._how_far()}") from error
            raise

    def _simulate(self, jobs: int, simulate: Simulate | None) -> None:
        self._told.start(len(self._wanted(self._rule.looks[0])), len(self._finished()))
        jobs = min(jobs, len(missing(self._keys, self._finished())))
        for finished in records(self._asked.cases, self._works(), jobs, simulate):
            for record in finished:
                key = self._keys[record.part]
                if key in self._there:
                    continue
                self._there[key] = record
                self._rule.take(record)
                if self._directory is not None:
                    self._directory.keep(key, record)
                self._told.step()
        self._told.close()

    def _works(self) -> Iterator[list[Work]]:
        """What is to be run next, until the rule stops."""
        stopped = self._rule.look(0)
        while isinstance(stopped, int):
            wanted, finished = self._wanted(stopped), self._finished()
            self._told.total = len(finished | set(wanted))
            works = missing(wanted, finished)
            if works and self._directory is not None:
                if not self._directory.begun:
                    self._begin(self._asked)
                self._directory.manifest["replications"] = stopped
            yield works
            stopped = self._rule.look(stopped)
        self._stopped = stopped

    def _begin(self, experiment: Experiment) -> None:
        assert self._directory is not None
        self._told.say(*self._directory.begin(experiment.manifest(), experiment.costs(), experiment.inputs.contents))

    def _wanted(self, replications: int) -> list[Part]:
        return [part for part in self._keys if part[-1] < replications]

    def _finished(self) -> set[Part]:
        return {part for part, key in self._keys.items() if key in self._there}

    def _ended(self, again: set[Part]) -> Results:
        from sim.results.tables import Results, frames

        n = self._stopped.replications
        exact = self._asked.exactly(n)
        stopped = {"stopping": stopping.document(self._asked.scenario.run, self._stopped)}
        manifest = exact.manifest() | stopped | {"status": manifests.COMPLETE}
        wanted = self._wanted(n)
        if used := len(again.intersection(wanted)):
            self._told.say(f"{used} of {len(wanted)} replications were there already, and are used again")
        found = [self._there[self._keys[part]] for part in wanted]
        results = Results.of(frames(found, manifest["cases"]), manifest, exact.costs())
        if self._directory is not None:
            self._keep(exact, stopped)
            results = replace(results, directory=self._directory.path)
        return replace(results, notes=tuple(self._told.notes))

    def _keep(self, exact: Experiment, stopped: Mapping[str, Any]) -> None:
        """Leaves the directory with all that is finished."""
        from sim.results.directory import contents_of, hashes_of
        from sim.results.tables import Results, frames

        directory = self._directory
        assert directory is not None
        whole = directory.whole()
        shown = keeping.shown(exact, whole, self._there)
        inputs, costs = shown.experiment.inputs.contents, shown.experiment.costs()
        n = shown.manifest["replications"]
        earlier = directory.found or {}
        if n != exact.scenario.run.replications:
            stopped = {"stopping": (manifests.read(whole) if whole else {}).get("stopping")}
        manifest = {**shown.manifest, **stopped}
        shown_keys = set(shown.keys.values())
        if not directory.begun and whole == directory.path and same_parts(earlier, shown_keys):
            hashes = hashes_of(contents_of(costs, inputs))
            if hashes.items() <= earlier["files"].items():
                if any(manifest[key] != earlier.get(key) for key in ("resolved", "scenario")):
                    directory.restate(manifest)
                self._told.say(*filter(None, [keeping.words(exact, self._there, directory.path)]))
                return
        if not directory.begun:
            self._begin(shown.experiment)
        of_tables = [self._there[key] for key in shown_keys]
        others = {key: record for key, record in self._there.items() if key not in shown_keys}
        results = Results.of(frames(of_tables, manifest["cases"]), manifest, costs)
        directory.complete(results, manifest, inputs, others)
        self._told.say(*filter(None, [keeping.words(exact, self._there, directory.path)]))

    def _fails(self, status: str, error: str | None = None) -> None:
        self._told.close()
        if self._directory is not None and self._directory.begun:
            self._directory.end(status, error)

    def _how_far(self) -> str:
        finished = self._finished()
        text = f"{len(finished)} of {max(self._told.total, len(finished))} replications"
        if self._directory is None or not self._directory.begun:
            return text
        aside = f"; what was there before is in {self._directory.previous}" if self._directory.has_set_aside else ""
        return f"{text}; {self._directory.path} keeps them, and the same command continues from there{aside}"


def _opened(out: str | os.PathLike[str], manifest: Mapping[str, Any]) -> ResultDirectory:
    from sim.results.directory import ResultDirectory  # here, since workers import this module and need no pandas

    worlds = {case["fingerprint"] for case in manifest["cases"]}
    return ResultDirectory(out, worlds)


def same_parts(manifest: Mapping[str, Any], keys: set[str]) -> bool:
    """Whether the tables of a manifest have the parts with these keys, and no others."""
    return keeping.keys_of(manifest) == keys


def missing(wanted: Iterable[Part], finished: set[Part]) -> list[Work]:
    """What has to be run for the parts that are not finished: each schedule once, walked by all that lack it."""
    walking: dict[tuple[str, str, int], list[str]] = {}
    for part in wanted:
        if part not in finished:
            case, timed_by, name, replication = part
            walking.setdefault((case, timed_by, replication), []).append(name)
    return [(case, timed_by, tuple(names), replication) for (case, timed_by, replication), names in walking.items()]
