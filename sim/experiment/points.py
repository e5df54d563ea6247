"""The points of a design, as they are run: side by side as far as there are workers for them, and each kept when it
is finished.

A point that fails is noted, and the others run.
"""

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.errors import InputError, Interrupted, RunError
from sim.experiment.dataset import Dataset
from sim.experiment.described import NAME, POINTS
from sim.experiment.design import Design
from sim.experiment.dispatch import Dispatcher, Lane, Works
from sim.experiment.finished import Finished
from sim.experiment.inputs import gathered
from sim.experiment.keeping import Experiment
from sim.experiment.pool import Gone, Pool
from sim.experiment.progress import Progress
from sim.experiment.running import Running, Unwritten, Where
from sim.experiment.workers import Simulate, old_objects_aside
from sim.results import files
from sim.results import manifest as manifests
from sim.results.progress import EVERY_S
from sim.results.siblings import Siblings
from sim.scenario.cases import Case
from sim.scenario.schema import Scenario

if TYPE_CHECKING:
    import pandas as pd

    from sim.analysis.by_point import Cycles
    from sim.results.tables import Results

POINTS_TABLE: Final = "points.parquet"
POINT: Final = "point"
"""The column with the number of a point, from 1."""
FINISHED: Final = "finished"
MOST_TOLD: Final = 8
"""Points of which it is written in each second how far they are."""
MOST_NOTES: Final = 10
MOST_LISTED: Final = 100
"""Failed points that design.json names."""


def point_name(number: int) -> str:
    """The folder of a point, from 0."""
    return f"{number + 1:06d}"


@dataclass(slots=True)
class Points:
    """The points of a design in the directory ``path``, by their number from 0.

    ``document`` becomes ``design.json``; ``read`` gives the scenario at values of the ranges, and its cases; ``name``
    is the scenario's, ``source`` its file.
    """

    path: Path
    design: Design
    values: Sequence[Mapping[str, Any]]
    read: Callable[[Mapping[str, Any]], tuple[Scenario, Sequence[Case]]]
    name: str
    source: str
    command: Sequence[str]
    simulate: Simulate | None
    told: Progress
    document: dict[str, Any] = field(default_factory=dict)
    _dataset: Dataset = field(init=False)
    _siblings: Siblings = field(init=False)
    _done: int = 0
    _said: int = 0
    _at_once: list[Running] = field(default_factory=list)
    _failed: dict[int, Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dataset = Dataset(self.path)

    def experiment(self, number: int) -> Experiment:
        """What is run at a point; :class:`InputError`, which names it, if that cannot be."""
        with self._naming(number):
            scenario, cases = self.read(self.values[number])
            return Experiment(scenario, cases, gathered(scenario, cases), self.name, self.source, self.command)

    def check(self, number: int) -> None:
        """Raises :class:`InputError` if the scenario is wrong at a point."""
        with self._naming(number):
            self.read(self.values[number])

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"{self._name(number)}: {error}") from error

    def _name(self, number: int) -> str:
        values = ", ".join(f"{key} {value}" for key, value in self.values[number].items())
        return f"point {number + 1} of {self.design.n} ({values})"

    def _directory(self, number: int) -> Path:
        return self.path / POINTS / point_name(number)

    @property
    def _finished(self) -> Finished:
        """Files of the same points: of the same inputs, with the same strategies and replications."""
        of = {key: self.document[key] for key in ("design", "seed", "resolved", "inputs", "cases")}
        return Finished(self.path / FINISHED, manifests.sha256(of))

    def missing(self) -> list[int]:
        """The points that are not finished."""
        finished = self._finished
        return [n for n in range(self.design.n) if finished.rows(self._directory(n)) is None]

    def begin(self, missing: Sequence[int], status: str | None) -> None:
        """Makes the directory that of the design; what points have already is told.

        ``status`` is that of an earlier command there.
        """
        if not files.make_directory(self.path):
            files.sync(self.path.parent)  # who made it before need not have done so
        for name in (NAME, POINTS_TABLE):
            files.remove_left(self.path / name)
        self._finished.tidy()
        self._write(manifests.RUNNING)
        for number in sorted(set(range(self.design.n)) - set(missing)):
            self._dataset.add(self._directory(number), is_synced=status == manifests.COMPLETE)
        self._siblings = Siblings(self.path / POINTS)
        self._done = self.design.n - len(missing)
        if self._done:
            self.told.say(f"{self._done} of {self.design.n} points were finished already, and are used again")

    def _write(self, status: str) -> None:
        """Writes ``design.json``."""
        failed = sorted(self._failed.items())[:MOST_LISTED]
        self.document |= {
            "status": status,
            "failed_points": len(self._failed),
            "failed": [{"point": number + 1, "error": str(error)} for number, error in failed],
        }
        files.write_kept(self.path / NAME, (json.dumps(self.document, indent=1) + "\n").encode())
        files.sync(self.path)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Says in ``design.json`` how the design ended, and in an error how far it is."""
        try:
            yield
        except (KeyboardInterrupt, Interrupted):
            self._fails(manifests.INTERRUPTED)
            raise Interrupted(f"interrupted after {self._how_far()}") from None
        except (Gone, Unwritten) as error:
            self._fails(manifests.FAILED)
            raise type(error)(f"{error}; {self._how_far()}") from error
        except OSError as error:
            self._fails(manifests.FAILED)
            file = f"{error.filename}: " if error.filename else ""
            why = error.strerror or error
            raise Unwritten(f"{file}cannot be written ({why}) after {self._how_far()}") from error
        except BaseException:
            self._fails(manifests.FAILED)
            raise
        self._write(manifests.FAILED if self._failed else manifests.COMPLETE)
        if self._failed:
            raise self._error()

    def _fails(self, status: str) -> None:
        with suppress(OSError):  # the disk is full, read-only, or gone: what ended the design says more
            self._write(status)

    def _how_far(self) -> str:
        return f"{self._done} of {self.design.n} points; {self.path} keeps them, and the same command continues"

    def _error(self) -> Exception:
        """What is said at the end of points that failed."""
        (first, error), *others = sorted(self._failed.items())
        more = f"; and {len(others)} more, of which {NAME} has the errors" if others else ""
        left = self.design.n - len(self._failed)
        kind = InputError if all(isinstance(each, InputError) for each in self._failed.values()) else RunError
        return kind(
            f"{len(self._failed)} of {self.design.n} points failed, which the same command tries again; {POINTS_TABLE} "
            f"has {f'the other {left}' if left else 'none'}: {self._name(first)}: {error}{more}"
        )

    def run(self, missing: Sequence[int], pool: Pool | None) -> None:
        """Runs points: at once as far as a pool has workers for them, or else one after the other."""
        if pool is None:
            for number in missing:
                with self._noting(number):
                    with closing(self._running(number)) as running:
                        results = running.results(Where(1, simulate=self.simulate))
                    self._keep(number, results, running.cycles)
            return
        dispatcher = Dispatcher(pool, self.told.say, self._tell)
        try:
            with old_objects_aside():
                for lane, group in dispatcher.groups(self._lanes(missing, dispatcher), len(missing)):
                    try:
                        lane.take(group)
                    except Exception as error:
                        lane.fail(error)
        except BaseException as error:
            dispatcher.fail(error)
            raise

    def _tell(self) -> None:
        """All together write a few files a second."""
        every_s = EVERY_S * max(1.0, len(self._at_once) / MOST_TOLD)
        for running in self._at_once:
            with suppress(OSError):  # as what a run without a pool says of itself
                running.tell(every_s)

    def _lanes(self, missing: Sequence[int], dispatcher: Dispatcher) -> Iterator[Lane]:
        for number in missing:
            running: Running | None = None
            with self._noting(number):
                running = self._running(number)
            if running is not None:
                yield running.lane(self._works(number, running), self.simulate, dispatcher)

    def _works(self, number: int, running: Running) -> Generator[Works, None, None]:
        """What is to be run at a point, which is kept at the end."""
        with self._noting(number):
            self._at_once.append(running)
            with closing(running):
                try:
                    results = yield from running.works()
                finally:
                    self._at_once.remove(running)
            self._keep(number, results, running.cycles)

    def _running(self, number: int) -> Running:
        experiment = self.experiment(number)
        if _files(experiment.manifest) != _files(self.document):
            raise InputError(f"{self._name(number)}: files that the scenario names have changed since the design began")
        return Running(experiment, self._directory(number), Progress(shown=False), self._siblings)

    @contextmanager
    def _noting(self, number: int) -> Iterator[None]:
        """An error of this point alone is noted, so that the others run."""
        try:
            yield
        except (Interrupted, Gone, Unwritten):
            raise
        except (InputError, RunError) as error:
            self._failed[number] = error
            if len(self._failed) <= MOST_LISTED:
                self._write(manifests.RUNNING)

    def _keep(self, number: int, results: "Results", cycles: "Cycles") -> None:
        """A point is finished."""
        from sim.analysis.by_point import own_costs

        self._say(results.notes)
        directory, point = self._directory(number), self.values[number]
        self._dataset.add(directory)
        values = {each.path: each.number(point[each.path]) for each in self.design.ranges}
        own = own_costs(results.cases, results.manifest["replications"], cycles)
        self._finished.keep(directory, [{POINT: number + 1, **values, **row} for row in own])
        self._done += 1
        self.told.step()

    def _say(self, notes: Sequence[str]) -> None:
        """Sentences on points, of which thousands may say the same."""
        new = [note for note in notes if note not in self.told.notes]
        self.told.say(*new[: max(0, MOST_NOTES - self._said)])
        if self._said < MOST_NOTES <= self._said + len(new):
            self.told.say("more such notes on points are left out")
        self._said += len(new)

    def table(self) -> "pd.DataFrame":
        """A row for each point, case and strategy, of the points that are finished."""
        import pandas as pd

        finished = self._finished
        frame = pd.DataFrame(
            row
            for n in range(self.design.n)
            for row in finished.rows(self._directory(n)) or ()
            if n not in self._failed
        )
        if len(frame):
            temporary = self.path / f".{POINTS_TABLE}"
            # of a path pandas would take "~" for a home
            with files.naming(temporary), temporary.open("wb") as file:
                frame.to_parquet(file, index=False)
            files.sync(temporary)
            os.replace(temporary, self.path / POINTS_TABLE)
            files.sync(self.path)
        self._dataset.sync()
        return frame


def _files(made: Mapping[str, Any]) -> list[str]:
    """The hashes of what a scenario has from files."""
    return [*(each["sha256"] for each in made["inputs"]), *(case["cost_table_sha256"] for case in made["cases"])]
