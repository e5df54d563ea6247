"""What a worker does: some replications, with the code and the libraries that the driver has, or none.

A replication is a pure function of its arguments, so that neither the number of workers, nor where they are, nor the
order in which they end can be seen in the results.
"""

import gc
import os
import pickle
import platform
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from itertools import pairwise
from typing import Final

from sim.costs.rows import CostTable
from sim.errors import InputError, RunError
from sim.host.elapsed import fraction
from sim.results import manifest as manifests
from sim.results.groups import Gathered, Group
from sim.results.keys import Series
from sim.results.record import Record
from sim.results.world import WORLDS_VERSIONS
from sim.scenario.cases import Case

Simulate = Callable[[Case, str, Sequence[str], int], list[Record]]
"""Runs one replication of a case, timed by one strategy and walked by others (:func:`sim.host.simulation.simulate`)."""

Work = tuple[str, str, tuple[str, ...], int]
"""Arguments of :data:`Simulate`, with the name of the case."""

GROUP_S: Final = 1.0
"""Seconds of work that are sent and kept together."""
LONGEST_S: Final = 2 * GROUP_S
"""Seconds after which a worker sends what it has of a group whose replications take longer than others did."""
MOST_OF_GROUP: Final = 10_000
"""Records that are sent and kept together, however little they take; up to ten times as many are read again."""

SAME = (*WORLDS_VERSIONS, "pyarrow")
"""Versions that workers share with their driver, since numbers may depend on them."""


@dataclass(frozen=True, slots=True)
class Task:
    """Some replications for one worker.

    ``cases`` are by name, each packed; ``keys`` are what the keys of each series have in common, and ``versions`` are
    those of the driver.
    """

    works: tuple[Work, ...]
    cases: Mapping[str, "Packed"]
    keys: Mapping[Series, str]
    versions: Mapping[str, str]
    simulate: Simulate | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The records of a task, packed (:mod:`sim.results.groups`), and the seconds that each work took, in its order.

    If it took longer than was thought, this is the beginning of it, and the rest has not been done.
    """

    group: Group
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker that may not work for this driver, and why, in a sentence."""

    why: str


@cache
def versions() -> Mapping[str, str]:
    """What a worker must have in common with its driver."""
    found = manifests.versions()
    return {name: found[name] for name in SAME}


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """In what a worker differs from its driver; empty if in nothing."""
    return ", ".join(
        f"{name} {theirs.get(name, 'none')[:12]} (here {value[:12]})"
        for name, value in ours.items()
        if theirs.get(name) != value
    )


def work(task: Task) -> Done | Refused:
    """Does a task; :class:`RunError` names the replication that failed."""
    if other := differences(versions(), task.versions):
        return Refused(f"the worker {platform.node()}, process {os.getpid()}, is refused: it has {other}")
    model, found = task.simulate or simulated(), Gathered()
    ends = [time.perf_counter()]
    try:
        with old_objects_aside():
            for case, timed_by, strategies, replication in task.works:
                records = replicate(model, _case(task.cases[case]), timed_by, strategies, replication)
                _gather(found, records, strategies, task.keys)
                ends.append(time.perf_counter())
                _here.finished += len(strategies)
                if ends[-1] - ends[0] >= LONGEST_S:
                    break
    finally:
        _here.finished = 0
    group = found.packed()
    if found.wrong is not None:
        raise found.wrong
    return Done(group, tuple(end - begin for begin, end in pairwise(ends)))


def here(
    works: Iterable[Work], cases: Sequence[Case], keys: Mapping[Series, str], simulate: Simulate
) -> Iterator[Group]:
    """The records of all works, which are done in this process.

    What is not in a group yet is less than a second of finished work, and the replication that runs.

    Where one of them raises, or somebody interrupts it, those before it come first.
    """
    by_name, error = {case.name: case for case in cases}, None
    found = Gathered()
    began = time.monotonic()
    with old_objects_aside():
        for case, timed_by, strategies, replication in works:
            try:
                records = replicate(simulate, by_name[case], timed_by, strategies, replication)
                _gather(found, records, strategies, keys)
                _here.finished = finished = len(found)
                is_due = time.monotonic() - began >= GROUP_S or finished >= MOST_OF_GROUP
                group = found.packed() if is_due or found.wrong else None
            except BaseException as raised:
                error = raised
                break
            if group is not None:
                error, found, _here.finished = found.wrong, Gathered(), 0
                yield group
                if error is not None:
                    break
                began = time.monotonic()
    _here.finished = 0
    try:
        group = found.packed()
    except KeyboardInterrupt as raised:
        group, error = found.packed(), error or raised
    if len(group):
        yield group
    if error := error or found.wrong:
        raise error


@contextmanager
def old_objects_aside() -> Iterator[None]:
    """Meanwhile the garbage collector does not visit what is there already: half a million objects of libraries."""
    if gc.get_freeze_count():  # somebody else has put some aside
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _gather(found: Gathered, records: Iterable[Record], strategies: Container[str], keys: Mapping[Series, str]) -> None:
    """Adds the records of the strategies that were asked for; the one that times a schedule is there in any case."""
    for record in records:
        if record.strategy in strategies:
            found.add(keys[record.case, record.timed_by, record.strategy], record)


class _Here:
    """What this process has finished of its task, and what its replication will be, in parts."""

    finished = running = 0


_here: Final = _Here()


def in_flight() -> float:
    """How many parts (a strategy in a replication) this process has done that nobody has taken yet, as another thread
    of it sees them: of the replication that runs by its simulated time."""
    return _here.finished + _here.running * fraction()


Packed = tuple[bytes, bytes]
"""The pickles of a case without its cost table, and of that, which is fifty times as large and has many cases."""


def packed(cases: Iterable[Case]) -> dict[str, Packed]:
    """The cases as tasks carry them."""
    found: dict[str, Packed] = {}
    for case in cases:
        content = BytesIO()
        _Packer(content).dump(case)
        found[case.name] = content.getvalue(), _packed_table(case.table)
    return found


class _Packer(pickle.Pickler):
    """Leaves cost tables out."""

    def persistent_id(self, found: object) -> str | None:
        return "costs" if isinstance(found, CostTable) else None


class _Unpacker(pickle.Unpickler):
    """Puts a cost table in."""

    def __init__(self, content: bytes, table: CostTable) -> None:
        super().__init__(BytesIO(content))
        self._table = table

    def persistent_load(self, _: object) -> CostTable:
        return self._table


@lru_cache(maxsize=8)
def _packed_table(table: CostTable) -> bytes:
    return pickle.dumps(table)


@lru_cache(maxsize=64)
def _case(content: Packed) -> Case:
    case: Case = _Unpacker(content[0], _table(content[1])).load()
    return case


@lru_cache(maxsize=8)
def _table(content: bytes) -> CostTable:
    table: CostTable = pickle.loads(content)
    return table


def simulated() -> Simulate:
    """The simulated host, by the engine that its scenario names; it is imported where it is used."""
    from sim.engine.choice import simulate

    return simulate


def replicate(model: Simulate, case: Case, timed_by: str, strategies: Sequence[str], replication: int) -> list[Record]:
    """The records of one replication; :class:`RunError` for a defect of the model."""
    _here.running = len(strategies)
    try:
        return model(case, timed_by, strategies, replication)
    except InputError:
        raise
    except Exception as error:
        raise RunError(f"{named(case.name, timed_by, replication)}: {type(error).__name__}: {error}") from error
    finally:
        _here.running = 0


def named(case: str, timed_by: str, replication: int) -> str:
    """Which replication this is."""
    return f"case {case}, timed by {timed_by}, replication {replication}"
