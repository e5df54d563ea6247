"""Both engines on one replication, event for event: the flow points of all CPUs, in order, with each CPU's clock.

Each engine has a rolling fingerprint of each CPU's events, and one of all, which it keeps as marks: at most 1,024,
closer together in a short replication and farther apart in a long one, so that memory does not grow with simulated
time.  Between the last mark that is the same and the next both engines run again, with marks there, until a window is
left whose events fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from sim.engine import layout as at
from sim.engine.asked import Point
from sim.engine.simulation import Enough, Replication, as_wide_as_it_takes, others_of
from sim.engine.table import Points, zeros
from sim.host import simulation as reference
from sim.host.host import Host
from sim.kernel.walker import FlowPoint, Walker
from sim.results.record import Record
from sim.scenario.cases import Case


@dataclass(frozen=True, slots=True)
class Seen:
    """An event: a flow point on a CPU whose clock was at ``clock``, and the thread, or how often it came, or -1."""

    cpu: int
    clock: int
    point: Point
    thread: int

    def __str__(self) -> str:
        arguments = [*map(str, self.point.arguments), *([str(self.thread)] if self.thread >= 0 else [])]
        return f"{self.point.what.__name__}({', '.join(arguments)}) at cycle {self.clock} on CPU {self.cpu}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many events the engines have in common from the beginning, and the first in which they differ, if any.

    ``fingerprints`` are those of the CPUs, if all events are the same; ``differ``: the strategies whose records
    differ although the events do not.
    """

    events: int
    fingerprints: tuple[int, ...] = ()
    of_simpy: Seen | None = None
    of_compiled: Seen | None = None
    differ: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return self.of_simpy is None and self.of_compiled is None and not self.differ


@dataclass(frozen=True, slots=True)
class Window:
    """Which events of a replication are looked at closely: all, or ``length`` from event ``begin`` on."""

    begin: int = 0
    length: int | None = None

    @property
    def until(self) -> int:
        """The event before which both engines end."""
        return at.INF if self.length is None else self.begin + self.length


@dataclass(slots=True)
class Trail:
    """What an engine keeps of a replication's events: the first of a window, and a mark after each ``every`` of them.

    ``records`` are None if the engine stopped at the end of the window, or found its own accounts to be wrong.
    """

    fingerprints: list[int]
    fingerprint: int = 0
    events: int = 0
    every: int = 1
    marks: list[int] = field(default_factory=list)
    kept: list[Seen] = field(default_factory=list)
    records: list[Record] | None = None

    def thin(self) -> None:
        """Drops every other mark."""
        self.marks = self.marks[1::2]
        self.every *= 2

    def note(self, seen: Seen, number: int, begin: int) -> None:
        """One more event, whose point has this number."""
        for each in (seen.cpu, seen.clock, number, seen.thread):
            self.fingerprint = (self.fingerprint * at.FACTOR + each) % at.PRIME
            own = self.fingerprints[seen.cpu]
            self.fingerprints[seen.cpu] = (own * at.FACTOR + each) % at.PRIME
        i = self.events - begin
        self.events += 1
        if 0 <= i < at.MOST_MARKS:
            self.kept.append(seen)
        if i >= 0 and (i + 1) % self.every == 0:
            self.marks.append(self.fingerprint)
            if len(self.marks) == at.MOST_MARKS:
                self.thin()


class _Log(list[Any]):
    """A schedule's points, each of which is noted as an event when it is appended."""

    def __init__(self, host: Host, numbers: Points, window: Window) -> None:
        super().__init__()
        self._host = host
        self._numbers = numbers
        self._window = window
        self._first_child = host.schedule.number()
        self.trail = Trail([0] * len(host.cpus))

    def append(self, point: FlowPoint) -> None:
        """Notes a flow point."""
        super().append(point)
        what, cpu, _, arguments = point
        if what is Walker.free:
            return
        thread = -1
        if what is Walker.exits:
            thread, arguments = arguments[1], ()
        elif what is Walker.schedule:
            (number,) = arguments
            thread = ~number if number < 0 else len(self._host.cpus) + number
            if number >= self._first_child:
                thread = at.NOBODY
            arguments = ()
        elif what is Walker.fork:
            arguments = ()
        known = Point(what, arguments)
        seen = Seen(cpu, self._host.cpus[cpu].clock, known, thread)
        self.trail.note(seen, self._numbers.of(known), self._window.begin)
        if self.trail.events >= self._window.until:
            raise Enough


def check(case: Case, timed_by: str, strategies: Sequence[str], replication: int) -> Outcome:
    """Runs both engines.  If they differ, runs them again on smaller and smaller windows to find the first event.

    Raises :class:`~sim.engine.fragments.Unsupported` for what the compiled engine cannot do.
    """
    window = Window()
    while True:
        compiled, points = _compiled(case, timed_by, strategies, replication, window)
        wanted = _reference(case, timed_by, strategies, replication, points, window)
        alike = (wanted.events, wanted.fingerprint) == (compiled.events, compiled.fingerprint)
        if alike and window.length is None and wanted.records is not None:
            pairs = zip_longest(wanted.records, compiled.records or ())
            differ = tuple(one.strategy for one, other in pairs if one != other)
            return Outcome(wanted.events, tuple(wanted.fingerprints), differ=differ)
        for i, (one, other) in enumerate(zip_longest(wanted.kept, compiled.kept)):
            if one != other:
                return Outcome(window.begin + i, of_simpy=one, of_compiled=other)
        assert window.length is None or window.length > at.MOST_MARKS, "both engines are deterministic"
        window = _narrowed(window, wanted, compiled)


def _narrowed(window: Window, one: Trail, other: Trail) -> Window:
    """The window from the last mark that is the same in both to the next."""
    while one.every != other.every:
        min(one, other, key=lambda trail: trail.every).thin()
    alike = 0
    while alike < min(len(one.marks), len(other.marks)) and one.marks[alike] == other.marks[alike]:
        alike += 1
    return Window(window.begin + alike * one.every, one.every)


def _reference(
    case: Case, timed_by: str, strategies: Sequence[str], replication: int, points: Points, window: Window
) -> Trail:
    logs: list[_Log] = []

    def watch(host: Host) -> None:
        logs.append(_Log(host, points, window))
        host.schedule.points = logs[0]

    records = None
    with suppress(Enough):
        records = reference.simulate(case, timed_by, strategies, replication, watch)
    logs[0].trail.records = records
    return logs[0].trail


def _compiled(
    case: Case, timed_by: str, strategies: Sequence[str], replication: int, window: Window
) -> tuple[Trail, Points]:
    return as_wide_as_it_takes(lambda wide: _in_loop(case, timed_by, strategies, replication, window, wide))


def _in_loop(
    case: Case, timed_by: str, strategies: Sequence[str], replication: int, window: Window, wide: bool
) -> tuple[Trail, Points]:
    run = Replication(case, timed_by, others_of(timed_by, strategies), replication, wide=wide)
    a, points = run.a, run.built.points
    a.put("log", zeros(at.MOST_MARKS, at.L_COLUMNS))
    a.put("marks", zeros(at.MOST_MARKS))
    a.g[[at.LOGS, at.LOG_FROM, at.LOG_UNTIL, at.MARK_EVERY]] = 1, window.begin, window.until, 1
    records = None
    with suppress(Enough, AssertionError):
        run.run()
        records = run.records()
    kept = max(0, min(int(a.g[at.LOGGED]) - window.begin, at.MOST_MARKS))
    trail = Trail(
        a.c[: len(run.built.host.cpus), at.CPU_FINGERPRINT].tolist(),
        int(a.g[at.FINGERPRINT]),
        int(a.g[at.LOGGED]),
        int(a.g[at.MARK_EVERY]),
        a.marks[: a.g[at.MARKS]].tolist(),
        [Seen(cpu, clock, points.all[point], thread) for cpu, clock, point, thread in a.log[:kept].tolist()],
        records,
    )
    return trail, points
