"""Which replications go out when: in groups that are worth a message, and alone once a worker has died of one.

A group takes a second or more, by what replications of its case took so far, so that messages cost little beside it;
what is in flight, and would be lost with the driver, is two groups for each worker.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Protocol

from sim.experiment.pool import Outcome, Pool, Say
from sim.experiment.workers import GROUP_S, MOST_OF_GROUP, Refused, Simulate, Task, Work, pickled, versions
from sim.processes import TRIES
from sim.results.groups import Group
from sim.results.keys import Series
from sim.scenario.cases import Case

IN_FLIGHT: Final = 2
"""Groups for each worker: one that runs, and one that waits."""
LOOK_S: Final = 1.0
"""How often it is looked whether there are more workers."""


class Works(Protocol):
    """Replications to be run, which are counted, and need not be in memory."""

    def __iter__(self) -> Iterator[Work]: ...

    def __len__(self) -> int: ...


class _Waiting:
    """Works that are yet to be sent, which need not all be there."""

    def __init__(self, works: Works) -> None:
        self._works, self._left = iter(works), len(works)

    def __len__(self) -> int:
        return self._left

    def take(self) -> Iterator[Work]:
        """The next one; none where all that are left have been finished meanwhile."""
        for work in self._works:
            self._left -= 1
            yield work
            return
        self._left = 0

    def put_back(self, works: Sequence[Work]) -> None:
        self._left += len(works)
        self._works = chain(works, self._works)


@dataclass(slots=True)
class Dispatcher:
    """Sends replications of ``cases`` to a pool; ``failed`` are those of which workers died :data:`TRIES` times."""

    cases: Sequence[Case]
    keys: Mapping[Series, str]
    pool: Pool
    say: Say
    tick: Callable[[], None]
    """Called every second or so, whatever happens."""
    simulate: Simulate | None = None
    failed: list[Work] = field(default_factory=list)
    _contents: dict[str, bytes] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _refusals: set[str] = field(default_factory=set)
    _tries: dict[Work, int] = field(default_factory=dict)
    _flying: "dict[Future[Outcome], tuple[Work, ...]]" = field(default_factory=dict)

    def groups(self, works: Works) -> Iterator[Group]:
        """The records of all works, in any order, and as they come; those that fail are left out."""
        waiting, suspects = _Waiting(works), deque[Work]()
        while waiting or suspects or self._flying:
            if suspects and not self._flying and self.pool.workers():
                self._send((suspects.popleft(),))
            while waiting and not suspects and len(self._flying) < IN_FLIGHT * self.pool.workers():
                self._send(self._group(waiting))
            self.tick()
            if not self._flying and (waiting or suspects):  # there is no worker
                time.sleep(LOOK_S)
            alone = len(self._flying) == 1
            done, _ = wait(self._flying, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            for future in [each for each in self._flying if each in done]:  # in the order in which they were sent
                group = self._flying.pop(future)
                error = None if future.cancelled() else future.exception()
                if error is not None or future.cancelled():
                    suspects.extend(self._again(future, group, alone=alone))
                elif isinstance(outcome := future.result(), Refused):
                    self.pool.refuse(outcome.why)
                    if outcome.why not in self._refusals:  # a pool may ask such a worker again and again
                        self._refusals.add(outcome.why)
                        self.say(outcome.why)
                    waiting.put_back(group)
                else:
                    for (case, *_), seconds in zip(group, outcome.seconds, strict=True):
                        self._seconds[case] = (self._seconds.get(case, seconds) + seconds) / 2
                    yield outcome.group

    def in_flight(self) -> Iterator[Work]:
        """What is with the workers."""
        return chain.from_iterable(self._flying.values())

    def _group(self, waiting: "_Waiting") -> tuple[Work, ...]:
        """What goes out next, without leaving other workers idle at the end."""
        most = max(1, len(waiting) // (IN_FLIGHT * max(1, self.pool.workers())))
        group: list[Work] = []
        seconds, records = 0.0, 0
        while waiting and len(group) < most and seconds < GROUP_S and records < MOST_OF_GROUP:
            for work in waiting.take():
                group.append(work)
                records += len(work[2])
                seconds += self._seconds.get(work[0], GROUP_S)
        return tuple(group)

    def _send(self, group: tuple[Work, ...]) -> None:
        if not group:
            return
        if not self._contents:
            self._contents = pickled(self.cases)
        cases = {case: self._contents[case] for case, *_ in group}
        series = {(case, by, name) for case, by, names, _ in group for name in names}
        keys = {each: self.keys[each] for each in series}
        self._flying[self.pool.submit(Task(group, cases, keys, versions(), self.simulate))] = group

    def _again(self, future: "Future[Outcome]", group: tuple[Work, ...], *, alone: bool) -> Iterator[Work]:
        """What of a group that failed is tried again; raises what it raised if no worker died of it."""
        try:
            future.result()
        except BaseException as error:
            deaths = self.pool.deaths(error)
            if not deaths:
                raise
        for work in group:
            sure = alone and len(group) == 1
            self._tries[work] = self._tries.get(work, 0) + (deaths if sure else 1)
            if sure and self._tries[work] >= TRIES:
                self.failed.append(work)
            else:
                yield work
