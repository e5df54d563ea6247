"""The run queues of a populated host as arrays, and what is queued there: threads, and groups of threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.engine import layout as at
from sim.engine.jit import Memory
from sim.engine.wide import low_word
from sim.host.cpu import HostCpu
from sim.host.eevdf import EevdfRunQueue
from sim.host.eevdf_groups import GroupedRunQueue, GroupEntity, TaskGroup
from sim.host.eevdf_v7_3 import EevdfRunQueueV73
from sim.host.host import Host
from sim.host.runqueue import Entity, RunQueue
from sim.host.thread import Thread
from sim.host.weights import inverse, load_weight
from sim.kernel.versions import version
from sim.scenario.cases import Case

FARTHEST: Final = 1 << 60
"""In 64 bits virtual times of a queue's entities differ by less than that."""


def is_grouped(case: Case) -> bool:
    """Whether run queues are those of :mod:`sim.engine.eevdf_groups`: for groups, and lags too large for 64 bits."""
    scenario, host = case.scenario, case.scenario.host
    if scenario.groups or host.scheduler != "eevdf":
        return bool(scenario.groups)
    assert host.base_slice is not None, "cases are complete"
    base, tick = case.cycles(host.base_slice), case.cycles(1 / host.hz)
    longest = base + tick if version(case.kernel).slice_rules == "v7.3" else max(2 * base, tick)
    weights = [load_weight(each.nice, each.weight) for each in scenario.guests.values()]
    weights += [load_weight(each.nice, each.weight) for each in scenario.threads.values()]
    return any(longest * inverse(weight) >= FARTHEST for weight in weights)


def groups_of(host: Host) -> list[TaskGroup]:
    """The groups, in the order in which a CPU goes through them."""
    rq = host.cpus[0].rq
    return list(rq._entities) if isinstance(rq, GroupedRunQueue) else []


def most_queued(threads: Iterable[Thread], children: int, groups: int) -> int:
    """The most entities in one queue: all of a group, or the threads without one and ``groups`` entities; and one more,
    since what runs is put back before the next one is taken out.  Forked ``children`` may all be of the same group."""
    of_groups = Counter(thread.group for thread in threads)
    of_root = of_groups.pop(None, 0) + groups
    return max(of_root, *of_groups.values(), 0) + children + 1


def put_entity(row: NDArray[np.int64], entity: Entity) -> None:
    """Writes what a run queue knows of an entity."""
    row[at.WEIGHT], row[at.INV_WEIGHT] = entity.weight, entity.inv_weight
    row[at.CUSTOM_SLICE], row[at.SLICE], row[at.EXEC_START] = entity.custom_slice, entity.slice, entity.exec_start
    row[at.LISTED] = entity.listed
    row[at.DELAYED], row[at.REL_DEADLINE], row[at.ON_RQ] = entity.sched_delayed, entity.rel_deadline, entity.on_rq
    for column, number in (
        (at.VRUNTIME, entity.vruntime), (at.DEADLINE, entity.deadline), (at.VPROT, entity.vprot),
        (at.VLAG, entity.vlag),
    ):  # fmt: skip
        row[column], row[at.HIGH[column]] = low_word(number), number >> 64


class Queues:
    """Writes the run queues of a host; there are ``threads`` rows of threads."""

    def __init__(self, host: Host, a: Memory, threads: int, *, grouped: bool) -> None:
        self._a = a
        self._cpus = len(host.cpus)
        self._entities = threads
        groups = groups_of(host)
        self._index = {group: i for i, group in enumerate(groups)}
        g = a.g
        g[at.GROUPED], g[at.GROUPS], g[at.ENTITIES] = grouped, len(groups), threads
        first = host.cpus[0].rq
        g[at.V7_3] = isinstance(first._root if isinstance(first, GroupedRunQueue) else first, EevdfRunQueueV73)
        g[at.MOST_QUEUED] = a.queue.shape[1]
        if groups:
            a.put("groups", np.array([(group.weight, group.load) for group in groups], np.int64))
        for cpu in host.cpus:
            self._cpu(cpu)

    def of_thread(self, thread: Thread) -> None:
        """Writes what the queues know of a thread."""
        row = self._a.t[self._cpus + thread.number]
        put_entity(row, thread)
        self._a.g[at.LISTINGS] = max(self._a.g[at.LISTINGS], thread.listed)
        row[at.GROUP] = -1 if thread.group is None else self._index[thread.group]

    def _cpu(self, cpu: HostCpu) -> None:
        a, c, rq = self._a, cpu.id, cpu.rq
        if not a.g[at.GROUPED]:
            self._queue(c, rq)
            return
        a.c[c, [at.CURRENT_ENTITY, at.BUDDY, at.RUNNING]] = -1, -1, rq.nr_running
        self._queue(self._cpus + c, rq._root if isinstance(rq, GroupedRunQueue) else rq)
        for entity in rq._entities.values() if isinstance(rq, GroupedRunQueue) else ():
            number = self._row(entity, c)
            put_entity(a.t[number], entity)
            a.t[number, at.CPU] = c
            self._queue(number - self._entities + 2 * self._cpus, entity.queue)

    def _row(self, entity: Entity, c: int) -> int:
        if isinstance(entity, GroupEntity):
            return self._entities + self._index[entity.of] * self._cpus + c
        assert isinstance(entity, Thread)
        return self._cpus + entity.number

    def _queue(self, q: int, rq: RunQueue) -> None:
        """Nothing runs yet."""
        assert rq.current is None
        row, queue = self._a.c[q], [self._row(entity, q % self._cpus) for entity in rq._queue]  # type: ignore[attr-defined]
        row[at.CURRENT_ENTITY], row[at.RUNNING], row[at.QUEUED] = -1, rq.nr_running, len(queue)
        row[at.RQ_RESCHED], row[at.BUDDY], row[at.FORCED_AT] = rq.need_resched, -1, -1
        row[at.LOAD] = rq.load if isinstance(rq, EevdfRunQueue) else 0
        self._a.queue[q, : len(queue)] = queue
