"""One run going on: what is finished, what is missing, and what is kept of it."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress, islice
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.engine.choice import prepare
from sim.errors import Interrupted, RunError
from sim.experiment import keeping, stopping
from sim.experiment.dispatch import Dispatcher, Lane, Works
from sim.experiment.keeping import Experiment
from sim.experiment.pool import Gone
from sim.experiment.pools import pool_of
from sim.experiment.progress import Progress, every
from sim.experiment.workers import Simulate, Work, here, in_flight, named, simulated
from sim.processes import TRIES
from sim.results import manifest as manifests
from sim.results import parts
from sim.results.groups import Group
from sim.results.keys import Keys
from sim.results.progress import EVERY_S, MOST_LISTED
from sim.results.progress import Progress as How
from sim.results.shelf import Shelf
from sim.results.siblings import Siblings

if TYPE_CHECKING:
    import pyarrow as pa

    from sim.results.directory import ResultDirectory
    from sim.results.tables import Results


@dataclass(frozen=True, slots=True)
class Where:
    """Where replications run: in ``jobs`` processes of this machine, by an executor, or by a cluster at an address."""

    jobs: int
    executor: Executor | None = None
    cluster: str | None = None
    simulate: Simulate | None = None


class Unwritten(RunError):
    """A run whose results cannot be kept, through no fault of a replication."""


class _Died(RunError):
    """Replications of which workers died; everything else is finished."""


class Running:
    """A run of ``asked``, in memory or in the directory ``out``, whose finished replications are used again.

    ``siblings`` is what that has in common with the directories of other runs.
    """

    def __init__(
        self,
        asked: Experiment,
        out: str | os.PathLike[str] | None,
        told: Progress,
        siblings: Siblings | None = None,
    ) -> None:
        self._asked, self._told = asked, told
        self._manifest = asked.manifest
        self._rule = stopping.Rule(asked.scenario, asked.cases)
        self._keys = parts.keys(self._manifest, self._rule.looks[-1])
        self._there = Shelf()
        self._ran: dict[str, set[str]] = {}
        self._sent_by: tuple[Dispatcher, Lane] | None = None
        self._failed: list[Work] = []
        self._telling = Lock()
        self._began, self._told_at, self._count, self._before = time.monotonic(), 0.0, 0, 0
        self._directory = _opened(out, self._manifest, siblings) if out is not None else None
        if self._directory is not None:
            try:
                self._ran = self._directory.engines()
                notes = self._directory.mend(asked.contents)
                for group in self._directory.finished(notes):
                    for finished in self._there.add(group):
                        self._ran.setdefault(finished.case, set()).add(finished.engine)
                        if self._keys.have(finished.key):
                            self._rule.take(finished)
            except BaseException:
                self.close()
                raise
            told.say(*notes)

    def close(self) -> None:
        """Lets others use the directory."""
        self._there.close()
        if self._directory is not None:
            self._directory.close()

    def results(self, where: Where) -> Results:
        """Runs what is missing, and gives what was asked for."""
        before = self._there.end
        with self._ending():
            self._start()
            with closing(self._groups(where)) as groups:
                for group in groups:
                    self.take(group)
                    self.tell()
            return self._ended(before)

    def cycles(self, case: str, strategy: str) -> Sequence[int]:
        """Of a strategy's operations on the schedule of a case: in each of its replications that are finished."""
        return self._rule.cycles(case, strategy)

    def lane(self, works: Generator[Works, None, object], simulate: Simulate | None, dispatcher: Dispatcher) -> Lane:
        """Its replications, for the dispatcher."""
        lane = Lane(self._asked.cases, self._keys.series, works, self.take, simulate, self._failed)
        self._sent_by = dispatcher, lane
        return lane

    def works(self) -> Generator[Missing, None, Results]:
        """The same as :meth:`results` where others run what is missing: what that is, for its :meth:`lane`."""
        before = self._there.end
        with self._ending():
            self._start()
            yield from self._sent()
            return self._ended(before)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """An error meanwhile ends the run, of which the directory says so, and the message how far it is."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted):  # or of another run that shares the pool
            self._fails(manifests.INTERRUPTED)
            raise Interrupted(f"interrupted after {self._how_far()}") from None
        except (Gone, _Died) as error:
            self._fails(manifests.FAILED, str(error))
            raise type(error)(f"{error}, after {self._how_far()}") from error
        except OSError as error:  # the disk is full, read-only, or gone
            self._fails(manifests.FAILED, str(error))
            file = f"{error.filename}: " if error.filename else ""
            raise Unwritten(f"{file}cannot be written ({error.strerror or error}) after {self._how_far()}") from error
        except BaseException as error:
            self._fails(manifests.FAILED, "".join(traceback.format_exception(error)))
            raise

    def _start(self) -> None:
        self._count = self._before = self._finished()
        self._told.start(len(self._keys.up_to(self._rule.looks[0])), self._count)

    def take(self, group: Group) -> None:
        """Keeps what has been run."""
        if self._directory is not None:
            self._directory.keep(group)
        new = self._there.add(group)
        for finished in new:
            self._rule.take(finished)
        for case, engine in dict.fromkeys((finished.case, finished.engine) for finished in new):
            self._note_engine(case, engine)
        self._count += len(new)
        self._told.step(len(new))

    def tell(self, every_s: float = EVERY_S) -> None:
        """Says on the bar and in the directory how far the run is, but not all the time, nor in two threads at once."""
        with self._telling:
            now = time.monotonic()
            if now - self._told_at < every_s:
                return
            self._told_at = now
            self._tell_now(now)

    def _tell_now(self, now: float) -> None:
        sent, lane = self._sent_by or (None, None)
        done = sent.done(lane) if sent and lane else in_flight()
        works = sent.in_flight(lane) if sent and lane else ()
        self._told.move(done)
        if self._directory is None or not self._directory.begun:
            return
        self._directory.tell(
            How(
                finished=self._count,
                total=max(self._told.total, self._count),
                before=self._before,
                elapsed_s=round(now - self._began, 3),
                at=time.time(),
                in_flight=round(done, 6),
                fixed=self._asked.scenario.run.replications is not None,
                workers=sent.pool.workers() if sent else 1,
                dashboard=sent.pool.dashboard if sent else "",
                running=[(case, by, n) for case, by, _, n in islice(works, MOST_LISTED)],
                failed=[(case, by, n) for case, by, _, n in self._failed],
            )
        )

    def _groups(self, where: Where) -> Generator[Group, None, None]:
        """The records of all replications, in any order; those of the next look come when all before are taken."""
        jobs = min(where.jobs, len(Missing(self._keys, self._there)))
        elsewhere = where.executor is not None or (where.cluster is not None and self._lacks_some())
        alone = jobs <= 1 and not elsewhere
        if where.simulate is None:
            prepare(self._asked.cases, self._told.say, here=alone)
        if alone:
            with every(EVERY_S / 2, self.tell):
                for works in self._works():
                    yield from here(works, self._asked.cases, self._keys.series, where.simulate or simulated())
            return
        pool, at_once = pool_of(where.executor, where.cluster, jobs, self._told.say), True
        try:
            dispatcher = Dispatcher(pool, self._told.say, self.tell)
            lane = self.lane(self._sent(), where.simulate, dispatcher)
            yield from (group for _, group in dispatcher.groups(iter([lane])))
            at_once = False
        finally:
            pool.close(at_once=at_once)

    def _sent(self) -> Generator[Missing, None, None]:
        """What is to be run by a pool, next."""
        for works in self._works():
            yield works
            if self._failed:
                raise self._died(self._failed)

    def _lacks_some(self) -> bool:
        """Whether anything has to be simulated."""
        stopped = self._rule.look(0)
        while isinstance(stopped, int) and not Missing(self._keys.up_to(stopped), self._there):
            stopped = self._rule.look(stopped)
        return isinstance(stopped, int)

    def _died(self, works: Sequence[Work]) -> _Died:
        """What is said of replications of which workers died, when everything else is finished."""
        if self._directory is not None:
            keys = ("case", "timed_by", "strategies", "replication")
            self._directory.manifest["failed"] = [dict(zip(keys, work, strict=True)) for work in works]
        case, timed_by, _, replication = works[0]
        first = named(case, timed_by, replication)
        more = f" and {len(works) - 1} more" if len(works) > 1 else ""
        return _Died(f"a worker process died {TRIES} times in {first}{more} (killed, or out of memory?)")

    def _works(self) -> Iterator[Missing]:
        """What is to be run next, until the rule stops."""
        stopped = self._rule.look(0)
        while isinstance(stopped, int):
            wanted = self._keys.up_to(stopped)
            works = Missing(wanted, self._there)
            self._told.total = len(wanted) + self._finished(stopped)
            if works and self._directory is not None:
                if not self._directory.begun:
                    self._begin(self._asked)
                self._directory.manifest["replications"] = stopped
            yield works
            stopped = self._rule.look(stopped)
        self._stopped = stopped

    def _begin(self, experiment: Experiment) -> None:
        assert self._directory is not None
        self._told.say(*self._directory.begin(experiment.manifest, experiment.contents))

    def _finished(self, begin: int = 0) -> int:
        """How many parts are, from that replication on."""
        return self._there.number(self._keys, begin)

    def _ended(self, before: int) -> Results:
        from sim.results.tables import Results, frames

        self._told.close()
        n = self._stopped.replications
        exact = self._asked.exactly(n)
        stopped = {"stopping": stopping.document(self._asked.scenario.run, self._stopped), "engines": self._engines()}
        manifest = {**exact.manifest, **stopped, "status": manifests.COMPLETE}
        wanted, costs = self._keys.up_to(n), exact.costs
        if used := self._there.number(wanted, before=before):
            self._told.say(f"{used} of {len(wanted)} replications were finished already, and are used again")
        path = self._directory.path if self._directory is not None else None
        if path is not None and self._keep(exact, stopped):
            results = Results.on_disk(path, manifest, costs)
        else:
            tables = frames(self._pieces(wanted, manifest["cases"]))
            results = replace(Results.of(tables, manifest, costs), directory=path)
        return replace(results, notes=tuple(self._told.notes))

    def _keep(self, exact: Experiment, stopped: Mapping[str, Any]) -> bool:
        """Leaves the directory with all that is finished, and says whether its tables have just what was asked for."""
        from sim.results.directory import hashes_of
        from sim.results.writing import write

        directory = self._directory
        assert directory is not None
        whole = directory.whole()
        shown = keeping.shown(exact, whole, self._there)
        contents = shown.experiment.contents
        n = shown.manifest["replications"]
        earlier = directory.found or {}
        if n != exact.scenario.run.replications:
            stopped = {**stopped, "stopping": (manifests.read(whole) if whole else {}).get("stopping")}
        manifest = {**shown.manifest, **stopped}
        is_asked = shown.experiment is exact
        stays = not directory.begun and whole == directory.path and keeping.keys_of(earlier).same_parts(shown.keys)
        if stays and hashes_of(contents).items() <= earlier["files"].items():
            if any(manifest[key] != earlier.get(key) for key in ("resolved", "scenario")):
                directory.restate(manifest)
            directory.tidy(contents)
            self._told.say(*filter(None, [keeping.words(exact, self._there, directory.path)]))
            return is_asked
        if not directory.begun:
            self._begin(shown.experiment)
        tables = partial(write, self._pieces(shown.keys, manifest["cases"]))
        self._told.say(*directory.complete(tables, manifest, contents, self._there.groups_beside(shown.keys)))
        self._told.say(*filter(None, [keeping.words(exact, self._there, directory.path)]))
        return is_asked

    def _pieces(self, keys: Keys, cases: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, pa.Table]]:
        """The rows of the tables, in their order."""
        from sim.results.tables import in_order

        return chain.from_iterable(self._there.tables(same, keys.replications) for same in in_order(keys, cases))

    def _note_engine(self, case: str, engine: str) -> None:
        """What a run says of replications that another engine simulated than the one that was wanted, once a case."""
        self._ran.setdefault(case, set()).add(engine)
        if " (" in engine and (note := f"case {case}: {engine}") not in self._told.notes:
            self._told.say(note)

    def _engines(self) -> dict[str, list[str]]:
        """The engines that simulated what is there, by case."""
        return {case: sorted(engines - {""}) for case, engines in sorted(self._ran.items())}

    def _fails(self, status: str, error: str | None = None) -> None:
        self._told.close()
        if self._directory is not None and self._directory.begun:
            with suppress(OSError):  # the disk is full, read-only, or gone: what ended the run says more
                self._directory.end(status, error)

    def _how_far(self) -> str:
        finished = self._finished()
        text = f"{finished} of {max(self._told.total, finished)} replications"
        if self._directory is None:
            return text
        aside = f"; what was there before is in {self._directory.previous}" if self._directory.has_set_aside else ""
        if not self._directory.begun:
            return f"{text}{aside}"
        path, is_complete = self._directory.path, self._directory.manifest["status"] == manifests.COMPLETE
        whole = (path / manifests.NAME).exists()
        folder = path / parts.FOLDER  # which a complete result need not have
        if not whole or not (is_complete or folder.exists()):
            return f"{text}; {folder if whole else path} is gone, with everything that it kept"
        return f"{text}; {self._directory.path} keeps them, and the same command continues from there{aside}"


def _opened(out: str | os.PathLike[str], manifest: Mapping[str, Any], siblings: Siblings | None) -> ResultDirectory:
    from sim.results.directory import ResultDirectory  # here, since workers import this module and need no pandas

    worlds = {case["fingerprint"] for case in manifest["cases"]}
    return ResultDirectory(out, worlds, siblings)


class Missing:
    """What has to be run for the keys that are not ``there``: each schedule once, walked by all that lack it."""

    def __init__(self, wanted: Keys, there: Shelf) -> None:
        self._there, self._replications = there, wanted.replications
        self._walking: dict[tuple[str, str], dict[str, str]] = {}
        for (case, timed_by, name), same in wanted.series.items():
            self._walking.setdefault((case, timed_by), {})[name] = same
        self._number = sum(int(self._lacking(names).any(axis=0).sum()) for names in self._walking.values())

    def _lacking(self, names: Mapping[str, str]) -> NDArray[np.bool_]:
        """Which replications each of these lacks: a row for each."""
        return np.array([~self._there.has(same, self._replications) for same in names.values()])

    def __iter__(self) -> Iterator[Work]:
        for (case, timed_by), names in self._walking.items():
            lacking, everyone = self._lacking(names), tuple(names)
            by_all: NDArray[np.bool_] = np.all(lacking, axis=0)
            for n in np.flatnonzero(lacking.any(axis=0)).tolist():
                yield case, timed_by, everyone if by_all[n] else tuple(compress(names, lacking[:, n])), n

    def __len__(self) -> int:
        return self._number
