"""One replication in the compiled loop: the same records as :func:`sim.host.simulation.simulate`, byte for byte."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from sim.costs.price import Prices
from sim.engine import layout as at
from sim.engine import loop
from sim.engine.asked import Asked, Point, Side
from sim.engine.build import POINTS, Built
from sim.engine.fragments import Unsupported
from sim.engine.plain import Callback
from sim.engine.queues import is_grouped
from sim.engine.signals import PutOff
from sim.engine.table import MOST, Table, table_of, zeros
from sim.host.accounts import ACCOUNTS, COUNTS, TIMES
from sim.host.clock import Clock
from sim.host.elapsed import shown
from sim.host.histogram import Histogram
from sim.host.population import populate
from sim.host.room import ran_out, size_text
from sim.host.simulation import PATIENCE_S, prices_of
from sim.host.vcpu import VcpuThread
from sim.host.warmup import warmup_seconds
from sim.kernel.operations import VCPU_LOAD, VMCLEAR
from sim.kernel.state import TASK_KINDS
from sim.kernel.walker import Walker
from sim.results import Record
from sim.scenario.cases import Case

SLICE: Final = 20_000
"""How many pieces of work the loop does before Python handles signals: some hundredths of a second."""

T = TypeVar("T")

_one_at_a_time = threading.Lock()


class Enough(Exception):
    """As many events have been logged as were asked for."""


class TooFar(Exception):
    """Virtual times do not fit in 64 bits: the replication has to begin again, with 128."""


@contextmanager
def _without_gc() -> Iterator[None]:
    """A host has many objects, which stay; the garbage collector would visit all of them again and again.

    At the end they are garbage that knows each other.  It is collected while all of it is young, and still in the
    processor's caches: of many short replications it would take an eighth of the time later.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if enabled:
            gc.enable()


def _collect_young(most: int) -> bool:
    """If more than ``most`` objects are young, collects garbage of the kernel model, which has been asked, and of other
    threads; returns whether it did.

    What has outlived one collection is looked at as often as the collector itself would; what has outlived two waits.
    """
    (young, old, _), (_, most_old, _) = gc.get_count(), gc.get_threshold()
    if young <= most:
        return False
    gc.collect(1 if old > most_old else 0)
    return True


class Replication:
    """A replication that runs: the arrays, the kernels' tables, and what the loop asks of Python.

    ``wide``: virtual times have 128 bits even if it is not known beforehand that they need them.
    """

    def __init__(
        self, case: Case, timed_by: str, others: Sequence[str], replication: int, *, wide: bool = False
    ) -> None:
        loop.compile_all()
        self.case = case
        self.names = (timed_by, *others)
        self.replication = replication
        self.prices: Prices = prices_of(case.table)
        self.tables = [
            table_of(case.settings(name), POINTS, integrity=case.scenario.run.integrity) for name in self.names
        ]
        batch = case.scenario.run.batch and all(table.model.batches for table in self.tables)
        run = case.scenario.run.model_copy(update={"batch": batch})
        populated = replace(case, scenario=case.scenario.model_copy(update={"run": run}))
        host = populate(populated, timed_by, (), replication, Clock(initial_time=0), self.prices)
        self.built = Built(case, host, len(self.tables), grouped=wide or is_grouped(case))
        self.a = self.built.a
        self._compared = 0
        self._compare_points()
        for table in self.tables:
            table.begin(self.prices, int(self.a.g[at.LEVEL]))
        self.error: BaseException | None = None
        self._signals = PutOff()
        self.callback = Callback(self._asked)
        # Not ctypes.cast(), whose result and argument keep each other alive.
        self.a.g[at.CALLBACK] = ctypes.c_void_p.from_address(ctypes.addressof(self.callback)).value
        for w, table in enumerate(self.tables):
            self._populate_kernel(w, table)
        self._most_young = 2 * gc.get_count()[0]  # the host's objects stay, and a collection would visit them all

    def _populate_kernel(self, w: int, table: Table) -> None:
        a, host = self.a, self.built.host
        shape, idle = table.model.idle
        a.kc[w, :, at.KC_SHAPE] = shape
        a.kt[w, : len(host.cpus), at.KT_FRAGMENT] = idle
        choices = [guest.choice for guest in self.case.scenario.guests.values() for _ in range(guest.vms * guest.vcpus)]
        for thread in self.built.threads:
            is_vcpu = isinstance(thread, VcpuThread)
            fragment = table.vcpu(choices[thread.number]) if is_vcpu else table.task(thread.task.kind)
            a.kt[w, self.built.number(thread), at.KT_FRAGMENT] = fragment
        tokens = a.kt[w, :, at.KT_TOKEN0 :]
        tokens[:] = np.arange(tokens.size).reshape(tokens.shape)
        a.kc[w, :, at.KC_TOKEN0 :] = -1
        a.kw[w, at.KW_NEXT_TOKEN] = tokens.size
        table.put_into(a.kw[w])

    def _compare_points(self) -> None:
        """Exits whose reasons make no difference to any of the kernels are looked up as one."""
        points = self.built.points
        while self._compared < len(points.all):
            point = points.all[self._compared]
            like = {table.model.like(point) for table in self.tables}
            self.a.alike[self._compared] = points.of(like.pop()) if len(like) == 1 else self._compared
            self._compared += 1

    # What the loop asks.

    def _asked(self, kind: int, first: int, second: int, third: int, fourth: int) -> int:
        try:
            self._signals.pass_on()
            match kind:
                case at.ASK_ROW:
                    return self._row(first, second, third, fourth)
                case at.ASK_EQUAL:
                    return self._equal(first, second, third, fourth)
                case at.ASK_PRICE:
                    if second:
                        self.a.call_prices[first] = self.prices[TASK_KINDS[first], VCPU_LOAD, VMCLEAR]
                    else:
                        self.tables[0].price(first)
                case at.ASK_DRAWS:
                    self.built.streams.refill(self.a.d, first, second)
                case at.ASK_DEVICES:
                    self.built.more_devices(first, second)
                case at.ASK_EXITS:
                    point = self.built.points.all[first]
                    number = self.built.points.of(Point(Walker.exits, (point.arguments[0], 1)))
                    self._compare_points()
                    return number
                case at.ASK_RENEW:
                    self._renew(first, second, third, fourth)
                case _:  # at.ASK_REFILL
                    return self.built.more_exits(self.built.threads[first - len(self.built.host.cpus)])
        except BaseException as error:
            self.error = self.error or error
            self.a.g[at.FAILED] = at.FAIL_PYTHON
            return -1
        return 0

    def _row(self, w: int, c: int, point: int, following: int) -> int:
        """A combination of states that is new, in the keys that the loop has looked for."""
        kw, table = self.a.kw[w], self.tables[w]
        key1, key2 = kw[at.KW_KEY1 : at.KW_KEY2 + 1].tolist()
        pattern, whom = key1 & (1 << at.SHAPE_SHIFT) - 1, []
        for _ in range(int(self.a.kc[w, c, at.KC_SLOTS])):
            pattern, digit = divmod(pattern, 3)
            whom.append(digit)
        shape = key1 >> at.SHAPE_SHIFT & MOST - 1
        asked = Asked(
            self.built.points.all[point],
            shape,
            tuple(reversed(whom)),
            Side(key2 >> at.FRAGMENT_SHIFT & MOST - 1, key2 >> 2 & 3, key2 & 3),
            None if following < 0 else Side(int(self.a.kt[w, following, at.KT_FRAGMENT]), key2 >> 6 & 3, key2 >> 4 & 3),
        )
        row = table.add(asked, key1, key2)
        if table.moved:
            table.put_into(kw)
        return row

    def _equal(self, w: int, shape: int, slot: int, tokens: int) -> int:
        """A task's contents have changed since a CPU saw it: the row that says which of them are the same as before."""
        kw, table = self.a.kw[w], self.tables[w]
        key1, key2 = int(kw[at.KW_KEY1]), int(kw[at.KW_KEY2])
        row = table.add_equal(shape, slot, tuple([(key2 >> 4 * i & 15) - 1 for i in range(tokens)]), key1, key2)
        if table.moved:
            table.put_into(kw)
        return row

    def _renew(self, w: int, n: int, c: int, current: int) -> None:
        """An area has been replaced: the new one has not been used, and the old one leaves all CPUs' XRSTOR_INFO."""
        a, table = self.a, self.tables[w]
        for whose, role in table.renewed[n]:
            assert whose == 0
            a.used[w, current * at.USED_OF_TASK + role, 0] = 0
            for other in range(len(self.built.host.cpus)):
                if other == c:
                    continue
                for i in range(a.kc[w, other, at.KC_SLOTS]):
                    if a.kc[w, other, at.KC_SLOT0 + i] == current:
                        shape = table.without_area(int(a.kc[w, other, at.KC_SHAPE]), i, role)
                        a.kc[w, other, at.KC_SHAPE] = shape
        if table.moved:
            table.put_into(a.kw[w])

    # Running.

    def run(self) -> None:
        """Warm-up and measurement."""
        a, warmup = self.a, self.case.cycles(warmup_seconds(self.case))
        end = warmup + self.case.cycles(self.case.scenario.run.measure)
        with shown(lambda: int(a.g[at.NOW]), end), self._signals:
            self._run(warmup, end)

    def _run(self, warmup: int, end: int) -> None:
        a, case = self.a, self.case
        nobody = len(self.built.host.cpus)
        for boundary, time in ((1, warmup), (2, end)):
            if time > a.g[at.NOW]:
                loop.schedule_event(a.handle, time, at.URGENT, at.STOP, nobody)
                self._until(at.STOP)
            loop.cross(a.handle, boundary)
        patience = case.cycles(max(PATIENCE_S, case.scenario.run.measure))
        loop.schedule_event(a.handle, int(a.g[at.NOW]) + patience, at.NORMAL, at.PATIENCE, nobody)
        self._until(at.OVER)
        if not a.g[at.ELAPSED]:
            raise Unsupported("a measurement during all of which every CPU was in the kernel")

    def _make_room(self) -> None:
        """Makes the event queue longer: each piece of work may begin a wait, whose time limit stays after its end."""
        a, n = self.a, len(self.a.heap)
        least = self.built.most_events + SLICE
        if self.built.has_timeouts and n - a.g[at.EVENTS] < least:
            heap = zeros(2 * n + least, at.HEAP_COLUMNS)
            heap[:n], heap[n:, at.HEAP_TIME] = a.heap, at.INF
            a.put("heap", heap)
            a.g[at.MOST_EVENTS] = len(heap)

    def _until(self, what: int) -> None:
        ended = at.PAUSED
        while ended == at.PAUSED:  # between two slices a signal can end it
            self._make_room()
            ended = loop.run(self.a.handle, SLICE)
            self._signals.pass_on()
            if ended == at.PAUSED and _collect_young(self._most_young):
                self._most_young = gc.get_threshold()[0]
        if self.error is not None:
            raise self.error
        failed = int(self.a.g[at.FAILED])
        if failed == at.FAIL_LOGGED:
            raise Enough
        if failed == at.FAIL_VRUNTIME:
            raise TooFar
        if failed:
            raise Unsupported(
                {
                    at.FAIL_EVENTS: "more events than there is room for",
                    at.FAIL_POSTED: "more interrupts waiting on a CPU than there is room for",
                    at.FAIL_QUEUE: "more threads on a CPU than there is room for",
                    at.FAIL_CHILDREN: "more forked threads at once than there is room for",
                    at.FAIL_TOUCHED: "more bytes through a CPU's caches at once than 61 bits count",
                    at.FAIL_EXITS: "exits whose operations depend on where a buffer is, counted together",
                }[failed]
            )
        if ended != what:
            raise Unsupported("a CPU that does not come out of the kernel")

    # What came of it.

    def records(self) -> list[Record]:
        """The records of all strategies, the one that timed the host first."""
        return [self._timing_record(), *(self._record(w) for w in range(1, len(self.tables)))]

    def _record(self, w: int) -> Record:
        calls = {(kind, VCPU_LOAD, VMCLEAR): n for kind, n in zip(TASK_KINDS, self.a.calls.tolist(), strict=True) if n}
        return Record(
            case=self.case.name,
            timed_by=self.names[0],
            strategy=self.names[w],
            replication=self.replication,
            ledger=self.tables[w].counted.ledger(calls),
            metrics={},
            latency={},
            integrity=self.tables[w].findings(),
        )

    def _timing_record(self) -> Record:
        record, a = self._record(0), self.a
        elapsed, totals = int(a.g[at.ELAPSED]), [int(each) for each in a.totals]
        accounted, priced = sum(totals[: len(ACCOUNTS)]), sum(cycles for *_, cycles in record.ledger)
        if accounted != elapsed or priced != totals[at.OPERATIONS]:
            raise AssertionError(
                f"{self.case.name}, {self.names[0]}: {elapsed} cycles elapsed, {accounted} are accounted for; "
                f"operations took {totals[at.OPERATIONS]}, the ledger says {priced}"
            )
        metrics: dict[str, tuple[int | float, str]] = {"elapsed_cycles": (elapsed, "TSC cycles")}
        names = {**ACCOUNTS, **COUNTS, **TIMES}
        for (name, metric), total in zip(names.items(), totals, strict=True):
            metrics[metric] = (total, "count" if name in COUNTS else "TSC cycles")
        return replace(
            record, metrics=metrics, latency={name: self._buckets(i) for i, name in enumerate(("vcpu", "thread"))}
        )

    def _buckets(self, i: int) -> dict[tuple[int, int], int]:
        histogram, row = Histogram(), self.a.histograms[i]
        used = np.flatnonzero(row)
        histogram._counts.update(dict(zip(used.tolist(), row[used].tolist(), strict=True)))
        return histogram.buckets()


def simulate(case: Case, timed_by: str, strategies: Sequence[str], replication: int) -> list[Record]:
    """Runs one replication; raises :class:`Unsupported`, which says what is lacking, if this engine cannot.

    Threads of one process run one after the other, since they share its tables.
    """

    def run(wide: bool) -> list[Record]:
        try:
            run = Replication(case, timed_by, others, replication, wide=wide)
        except MemoryError:
            raise Unsupported(f"memory for the arrays of {size_text(case)}") from None
        try:
            run.run()
            for table in run.tables:
                table.keep()
            return run.records()
        except MemoryError:
            raise Unsupported(f"memory: {ran_out(case, 1 + len(others), replication)}") from None
        finally:
            del run.callback  # the arrays go at once, and not when the garbage collector finds the cycle

    others = others_of(timed_by, strategies)
    with _one_at_a_time, _without_gc():
        return as_wide_as_it_takes(run)


def as_wide_as_it_takes(run: Callable[[bool], T]) -> T:
    """What ``run`` returns, which simulates: with virtual times of 128 bits where those of 64 are not enough."""
    try:
        return run(False)
    except TooFar:
        return run(True)


def others_of(timed_by: str, strategies: Sequence[str]) -> list[str]:
    """The strategies that walk the schedule which another one times."""
    return [strategy for strategy in dict.fromkeys(strategies) if strategy != timed_by]
