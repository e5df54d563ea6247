"""Which replications go out when: in groups that are worth a message, and alone once a worker has died of one.

A group takes a second or more, by what replications of its case took so far, so that messages cost little beside it;
what is in flight, and would be lost with the driver, is two groups for each worker.  Several runs share a pool: the
first one goes first, and what it leaves of the workers the next one has.  So only the last one has to be cut into small
groups at its end.

A worker may hang for reasons that nobody sees (stopped, or waiting for a file system that is gone).  So where workers
have nothing else to do, one does what another has had for much too long, and the first answer counts: they are equal.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from typing import Final, Protocol

from sim.experiment.pool import Outcome, Pool, Say
from sim.experiment.workers import (
    GROUP_S,
    MOST_OF_GROUP,
    Packed,
    Refused,
    Simulate,
    Task,
    Work,
    named,
    packed,
    versions,
)
from sim.processes import TRIES
from sim.results.groups import Group
from sim.results.keys import Series
from sim.scenario.cases import Case

IN_FLIGHT: Final = 2
"""Groups for each worker: one that runs, and one that waits."""
LOOK_S: Final = 1.0
"""How often it is looked whether there are more workers."""
LATE_S: Final = 60.0
LATE: Final = 10
"""A group is late if both have passed since it was sent: LATE_S, and LATE times what IN_FLIGHT such groups take, since
it may have waited for another one."""
MOST_LANES: Final = 128
"""Runs that share a pool at a time: each has files open."""


class Works(Protocol):
    """Replications to be run, which are counted, and need not be in memory."""

    def __iter__(self) -> Iterator[Work]: ...

    def __len__(self) -> int: ...


class _Waiting:
    """Works that are yet to be sent, which need not all be there."""

    def __init__(self, works: Works) -> None:
        self._works, self._left = iter(works), len(works)
        self._back: deque[Work] = deque()

    def __len__(self) -> int:
        return self._left

    def take(self) -> Work | None:
        """The next one; None where all that are left have been finished meanwhile."""
        work = self._back.popleft() if self._back else next(self._works, None)
        self._left = 0 if work is None else self._left - 1
        return work

    def put_back(self, works: Sequence[Work]) -> None:
        """These are the next ones."""
        self._left += len(works)
        self._back.extendleft(reversed(works))


@dataclass(slots=True, eq=False)
class Lane:
    """What one run sends to a pool: replications of ``cases``; ``failed`` are those of which workers died
    :data:`TRIES` times.

    ``works`` gives what is to be run, and more when all of that has been taken.  What a replication raises is raised
    there.
    """

    cases: Sequence[Case]
    keys: Mapping[Series, str]
    works: Generator[Works, None, object]
    take: Callable[[Group], None]
    """What keeps the records that come back."""
    simulate: Simulate | None = None
    failed: list[Work] = field(default_factory=list)
    out: int = 0
    """Groups that are with workers."""
    has_ended: bool = False
    _waiting: _Waiting = field(default_factory=lambda: _Waiting(()))
    _contents: dict[str, Packed] = field(default_factory=dict)

    def goes_on(self) -> bool:
        """Whether there is something to send at present."""
        while not (self._waiting or self.out or self.has_ended):
            self.has_ended = True  # also if that raises
            if (works := next(self.works, None)) is not None:
                self.has_ended, self._waiting = False, _Waiting(works)
        return bool(self._waiting)

    def fail(self, error: BaseException) -> None:
        """Ends it; raises the error, or what its ``works`` make of it, if they do."""
        self.has_ended, self._waiting = True, _Waiting(())
        with suppress(StopIteration):
            self.works.throw(error)

    def put_back(self, works: Sequence[Work]) -> None:
        """These go out again."""
        self._waiting.put_back(works)

    def group(self, workers: int, seconds: Mapping[str, float], *, is_last: bool) -> tuple[Work, ...]:
        """What goes out next, if this is the last lane without leaving other workers idle at the end; ``seconds`` are
        what a replication of a case takes, as far as that is known.
        """
        most = max(1, len(self._waiting) // (IN_FLIGHT * workers)) if is_last else len(self._waiting)
        group: list[Work] = []
        taken, records = 0.0, 0
        while self._waiting and len(group) < most and taken < GROUP_S and records < MOST_OF_GROUP:
            if (work := self._waiting.take()) is not None:
                group.append(work)
                records += len(work[2])
                taken += seconds.get(work[0], GROUP_S)
        return tuple(group)

    def task(self, group: tuple[Work, ...]) -> Task:
        """These replications as a worker gets them."""
        if not self._contents:
            self._contents = packed(self.cases)
        cases = {case: self._contents[case] for case, *_ in group}
        series = {(case, by, name) for case, by, names, _ in group for name in names}
        return Task(group, cases, {each: self.keys[each] for each in series}, versions(), self.simulate)


@dataclass(slots=True, eq=False)
class _Sent:
    """A group that is with a worker, or with two where the first one is late; ``alone`` if nothing may go out beside
    it.
    """

    lane: Lane
    group: tuple[Work, ...]
    futures: "list[Future[Outcome]]"
    alone: bool = False
    at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Dispatcher:
    """Sends replications to a pool."""

    pool: Pool
    say: Say
    tick: Callable[[], None]
    """Called every second or so, whatever happens."""
    _seconds: MutableMapping[str, float] = field(default_factory=dict)
    _refusals: set[str] = field(default_factory=set)
    _tries: dict[tuple[Lane, Work], int] = field(default_factory=dict)
    _lanes: list[Lane] = field(default_factory=list)
    _follow: int = 0
    _suspects: deque[tuple[Lane, Work]] = field(default_factory=deque)
    _flying: "dict[Future[Outcome], _Sent]" = field(default_factory=dict)
    _left: "set[Future[Outcome]]" = field(default_factory=set)
    """Groups that nobody wants any more, and which cannot be taken from the worker that has them."""
    _has_told: bool = False

    def groups(self, lanes: Iterator[Lane], most: int = 1) -> Iterator[tuple[Lane, Group]]:
        """The records of all works of all lanes, in any order, and as they come; those that fail are left out.

        A lane is asked for when the earlier ones have nothing to send at present; there are up to ``most``.
        """
        self._follow = most
        while not (self._send_some(lanes) and not self._flying):
            self.tick()
            if not self._flying:  # there is no worker
                time.sleep(LOOK_S)
            alone = len(set(self._flying.values())) == 1
            done, _ = wait([*self._flying, *self._left], timeout=LOOK_S, return_when=FIRST_COMPLETED)
            for future in self._left & done:
                self._left.remove(future)
                if not future.cancelled() and (error := future.exception()) is not None:
                    self.pool.deaths(error)
            for future in [each for each in self._flying if each in done]:  # in the order in which they were sent
                if (sent := self._flying.pop(future, None)) is None:  # the other one that had it has answered
                    continue
                sent.futures.remove(future)
                if (found := self._found(future, sent, alone=alone)) is not None:
                    yield sent.lane, found
            for sent in set(self._flying.values()):
                if sent.lane.has_ended:
                    self._forget(sent)
            if not done:
                self._send_late_again()

    def _found(self, future: "Future[Outcome]", sent: _Sent, *, alone: bool) -> Group | None:
        """The records that a worker has sent, if it has, and anybody wants them."""
        lane, group = sent.lane, sent.group
        if future.cancelled() or future.exception() is not None:
            self._has_failed(future, sent, alone=alone)
            return None
        self._forget(sent)
        if isinstance(outcome := future.result(), Refused):
            self.pool.refuse(outcome.why)
            if outcome.why not in self._refusals:  # a pool may ask such a worker again and again
                self._refusals.add(outcome.why)
                self.say(outcome.why)
            lane.put_back(() if lane.has_ended else group)
        elif not lane.has_ended:
            for (case, *_), seconds in zip(group, outcome.seconds, strict=False):
                self._seconds[case] = (self._seconds.get(case, seconds) + seconds) / 2
            lane.put_back(group[len(outcome.seconds) :])
            return outcome.group
        return None

    def fail(self, error: BaseException) -> None:
        """Ends all lanes."""
        for lane in self._lanes:
            if not lane.has_ended:
                with suppress(Exception):
                    lane.fail(error)

    def in_flight(self, lane: Lane) -> Iterator[Work]:
        """What of a lane is with the workers."""
        return chain.from_iterable(sent.group for sent in dict.fromkeys(self._flying.values()) if sent.lane is lane)

    def done(self, lane: Lane) -> float:
        """How many parts of a lane workers have done that the driver has not taken yet, as far as that is known."""
        return self.pool.in_flight() * lane.out / max(len(self._flying), 1)

    def _send_some(self, lanes: Iterator[Lane]) -> bool:
        """Sends as much as workers need, a suspect only if nothing else is with them, and nothing beside one that has
        its last try; whether that is all there is.
        """
        while self._suspects and not self._flying and self.pool.workers():
            lane, work = self._suspects.popleft()
            if not lane.has_ended:
                self._send(lane, (work,), alone=self._tries[lane, work] >= TRIES - 1)
        if self._suspects or any(sent.alone for sent in self._flying.values()):
            return False
        while (following := self._next(lanes)) is not None:
            workers = self.pool.workers()
            if len(self._flying) >= IN_FLIGHT * workers:
                return False
            if group := following.group(workers, self._seconds, is_last=self._follow <= 0):
                self._send(following, group)
        return True

    def _next(self, lanes: Iterator[Lane]) -> Lane | None:
        """The first lane that has something to send."""
        for lane in self._lanes:
            if lane.goes_on():
                return lane
        self._lanes = [lane for lane in self._lanes if not lane.has_ended]
        while len(self._lanes) < MOST_LANES and (new := next(lanes, None)) is not None:
            self._follow -= 1
            self._lanes.append(new)
            if new.goes_on():
                return new
            if new.has_ended:
                self._lanes.pop()
        return None

    def _send(self, lane: Lane, group: tuple[Work, ...], *, alone: bool = False) -> None:
        future = self.pool.submit(lane.task(group))
        self._flying[future] = _Sent(lane, group, [future], alone)
        lane.out += 1

    def _send_late_again(self) -> None:
        """Sends groups that are late once more, as far as there is room for them beside one worker that hangs."""
        if len(self._flying) > (room := IN_FLIGHT * (self.pool.workers() - 1)):
            return
        for sent in list(self._flying.values()):
            if len(sent.futures) == 1 and self._is_late(sent) and len(self._flying) <= room:
                sent.futures.append(self.pool.submit(sent.lane.task(sent.group)))
                self._flying[sent.futures[-1]] = sent
                if not self._has_told:
                    self._has_told = True
                    case, timed_by, _, replication = sent.group[0]
                    self.say(
                        f"the worker that has {named(case, timed_by, replication)} has not answered for "
                        f"{time.monotonic() - sent.at:.0f} s; another one does it, too"
                    )
                sent.at = time.monotonic()

    def _is_late(self, sent: _Sent) -> bool:
        """Whether a group is out for much longer than others of its cases were."""
        seconds = sum(self._seconds.get(case, inf) for case, *_ in sent.group)
        return time.monotonic() - sent.at > max(LATE_S, LATE * IN_FLIGHT * seconds)

    def _forget(self, sent: _Sent) -> None:
        """Nobody waits for those that still have it."""
        sent.lane.out -= 1
        for each in sent.futures:
            del self._flying[each]
            if not each.cancel():
                self._left.add(each)

    def _has_failed(self, future: "Future[Outcome]", sent: _Sent, *, alone: bool) -> None:
        """What of a group that failed is tried again, if the other one that has it, if any, does not answer; its lane
        fails if no worker died of it.
        """
        lane, group = sent.lane, sent.group
        try:
            future.result()
        except BaseException as error:
            if not (deaths := self.pool.deaths(error)):
                self._forget(sent)
                if not lane.has_ended:
                    lane.fail(error)
                return
        sure = alone and len(group) == 1
        for work in group:
            self._tries[lane, work] = self._tries.get((lane, work), 0) + (deaths if sure else 1)
        if sent.futures and self._tries[lane, group[0]] < TRIES:
            return
        self._forget(sent)
        for work in () if lane.has_ended else group:
            if sure and self._tries[lane, work] >= TRIES:
                lane.failed.append(work)
            else:
                self._suspects.append((lane, work))
