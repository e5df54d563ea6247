"""Both engines on one replication, event for event: the flow points of all CPUs, in order, with each CPU's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.engine import layout as at
from sim.engine.build import zeros
from sim.engine.simulation import Replication, others_of
from sim.engine.table import Points
from sim.engine.transitions import Point
from sim.host import simulation as reference
from sim.host.host import Host
from sim.kernel.walker import FlowPoint, Walker
from sim.results.record import Record
from sim.scenario.cases import Case

MOST_MARKS: Final = 1 << 20


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

    ``differ``: the strategies whose records differ where all events are the same.
    """

    events: int
    of_simpy: Seen | None = None
    of_compiled: Seen | None = None
    differ: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether there is no difference."""
        return self.of_simpy is None and self.of_compiled is None and not self.differ


class _Log(list[Any]):
    """A schedule's points, each of which is noted as an event when it is appended."""

    def __init__(self, host: Host, numbers: Points, begin: int) -> None:
        super().__init__()
        self._host = host
        self._numbers = numbers
        self._begin = begin
        self._first_child = host.schedule.number()
        self.fingerprint = 0
        self.logged = 0
        self.marks: list[int] = []
        self.kept: list[Seen] = []

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
        point_number = self._numbers.of(Point(what, arguments))
        clock = self._host.cpus[cpu].clock
        for each in (cpu, clock, point_number, thread):
            self.fingerprint = (self.fingerprint * 1000003 + each) % at.PRIME
        if 0 <= self.logged - self._begin < at.MARK_EVERY:
            self.kept.append(Seen(cpu, clock, Point(what, arguments), thread))
        self.logged += 1
        if self.logged % at.MARK_EVERY == 0:
            self.marks.append(self.fingerprint)


def check(case: Case, timed_by: str, strategies: Sequence[str], replication: int) -> Outcome:
    """Runs both engines; where they differ, once more to find the first event in which they do.

    Raises :class:`~sim.engine.fragments.Unsupported` for what the compiled engine cannot do.
    """
    compiled, records = _compiled(case, timed_by, strategies, replication, 0)
    log, wanted = _reference(case, timed_by, strategies, replication, compiled, 0)
    a = compiled.a
    if records == wanted and (log.logged, log.fingerprint) == (a.g[at.LOGGED], a.g[at.FINGERPRINT]):
        return Outcome(log.logged)
    alike = next(
        (i for i, mark in enumerate(log.marks) if a.g[at.LOGGED] <= at.MARK_EVERY * (i + 1) or mark != a.marks[i]),
        len(log.marks),
    )
    begin = alike * at.MARK_EVERY
    compiled, _ = _compiled(case, timed_by, strategies, replication, begin)
    log, _ = _reference(case, timed_by, strategies, replication, compiled, begin)
    found = _kept(compiled, begin)
    for i in range(max(len(found), len(log.kept))):
        one = log.kept[i] if i < len(log.kept) else None
        other = found[i] if i < len(found) else None
        if one != other:
            return Outcome(begin + i, one, other)
    differ = [one.strategy for one, other in zip(wanted, records, strict=True) if one != other]
    return Outcome(begin + len(found), differ=tuple(differ))


def _reference(
    case: Case, timed_by: str, strategies: Sequence[str], replication: int, compiled: Replication, begin: int
) -> tuple[_Log, list[Record]]:
    logs: list[_Log] = []

    def watch(host: Host) -> None:
        logs.append(_Log(host, compiled.built.points, begin))
        host.schedule.points = logs[0]

    records = reference.simulate(case, timed_by, strategies, replication, watch)
    return logs[0], records


def _compiled(
    case: Case, timed_by: str, strategies: Sequence[str], replication: int, begin: int
) -> tuple[Replication, list[Record]]:
    run = Replication(case, timed_by, others_of(timed_by, strategies), replication)
    run.a.put("log", zeros(at.MARK_EVERY, at.L_COLUMNS))
    run.a.put("marks", zeros(MOST_MARKS))
    run.a.g[at.LOGS], run.a.g[at.LOG_FROM] = MOST_MARKS, begin
    run.run()
    return run, run.records()


def _kept(run: Replication, begin: int) -> list[Seen]:
    n = max(0, min(int(run.a.g[at.LOGGED]) - begin, at.MARK_EVERY))
    return [
        Seen(int(row[at.L_CPU]), int(row[at.L_CLOCK]), run.built.points.all[row[at.L_POINT]], int(row[at.L_THREAD]))
        for row in run.a.log[:n]
    ]
