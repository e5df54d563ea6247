"""One replication in the compiled loop: the same records as :func:`sim.host.simulation.simulate`, byte for byte."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sim.costs.price import Prices
from sim.engine import layout as at
from sim.engine import loop
from sim.engine.build import Built
from sim.engine.fragments import Unsupported
from sim.engine.jit import Callback
from sim.engine.transitions import (
    CURRENT,
    ELSEWHERE,
    FRESH,
    HERE,
    NEXT,
    NOWHERE,
    OTHER,
    Answer,
    Asked,
    Point,
    Side,
    Transitions,
)
from sim.host.accounts import ACCOUNTS, COUNTS, TIMES
from sim.host.clock import Clock
from sim.host.exits import ExitCost
from sim.host.histogram import Histogram
from sim.host.population import populate
from sim.host.simulation import PATIENCE_S, prices_of
from sim.host.vcpu import VcpuThread
from sim.host.warmup import warmup_seconds
from sim.kernel.config import boot
from sim.kernel.operations import VCPU_LOAD, VMCLEAR, Key, Operation
from sim.kernel.state import TASK_KINDS
from sim.kernel.walker import Walker
from sim.results import Record
from sim.scenario.cases import Case

ROWS: Final = 1 << 15
"""The most transitions, fragments and shapes that one strategy may need in a replication."""
LEVELS: Final = ("L1", "L2", "memory")

_tables: dict[Any, Transitions] = {}
"""What has been asked of the kernel models so far, by configuration."""


def transitions_of(case: Case, strategy: str) -> Transitions:
    """The table of a strategy in a case, which lives as long as this process."""
    key = (case.settings(strategy), case.scenario.run.integrity)
    if key not in _tables:
        _tables[key] = Transitions(boot(key[0]), integrity=key[1])
    return _tables[key]


class Replication:
    """A replication that runs: the arrays, the kernels' tables, and what the loop asks of Python."""

    def __init__(self, case: Case, timed_by: str, others: Sequence[str], replication: int) -> None:
        self.case = case
        self.names = (timed_by, *others)
        self.replication = replication
        self.prices: Prices = prices_of(case.table)
        self.tables = [transitions_of(case, strategy) for strategy in self.names]
        batch = case.scenario.run.batch and all(table.batches for table in self.tables)
        run = case.scenario.run.model_copy(update={"batch": batch})
        populated = replace(case, scenario=case.scenario.model_copy(update={"run": run}))
        host = populate(populated, timed_by, (), replication, Clock(initial_time=0), self.prices)
        self.built = Built(case, host, len(self.tables), ROWS)
        self.a = self.built.a
        self.answers: list[list[Answer]] = [[] for _ in self.tables]
        self.level_keys: list[dict[Key, int]] = [{} for _ in self.tables]
        self.levels = [0 for _ in self.tables]
        self.error: BaseException | None = None
        self.callback = Callback(self._asked)
        self.a.g[at.CALLBACK] = ctypes.cast(self.callback, ctypes.c_void_p).value
        for w, table in enumerate(self.tables):
            self._populate_kernel(w, table)

    def _populate_kernel(self, w: int, table: Transitions) -> None:
        a, host = self.a, self.built.host
        shape, idle = table.idle
        cpus = len(host.cpus)
        a.kc[w, :, at.KC_SHAPE] = shape
        a.kt[w, :cpus, at.KT_FRAGMENT] = idle
        choices = [guest.choice for guest in self.case.scenario.guests.values() for _ in range(guest.vms * guest.vcpus)]
        found: dict[Any, int] = {}
        for thread in self.built.threads:
            if isinstance(thread, VcpuThread):
                kind: Any = choices[thread.number]
                make = table.vcpu
            else:
                kind, make = thread.task.kind, table.task  # type: ignore[assignment]
            if kind not in found:
                found[kind] = make(kind)
            a.kt[w, self.built.number(thread), at.KT_FRAGMENT] = found[kind]
        self._flags(w)

    def _flags(self, w: int) -> None:
        """What the loop wants to know of fragments and shapes."""
        table = self.tables[w]
        if max(len(table.fragments.values), len(table.shapes.values)) > ROWS:
            raise Unsupported("a kernel model with too many states")
        for flags, known in ((self.a.task_flags[w], table.fragment_flags), (self.a.in_guest[w], table.shape_flags)):
            flags[: len(known)] = known

    # What the loop asks.

    def _asked(self, kind: int, first: int, second: int, third: int, fourth: int) -> int:
        try:
            match kind:
                case at.ASK_ROW:
                    return self._row(first >> 32, second >> 32, second & 0xFFFFFFFF, third, fourth)
                case at.ASK_DRAWS:
                    self.built.streams.refill(self.a.d, first, second)
                case at.ASK_DEVICES:
                    self.built.more_devices(self.built.host.cpus[first], second)
                case at.ASK_EXITS:
                    point = self.built.points[first]
                    return self.built.point(Point(Walker.exits, (point.arguments[0], 1)))
                case at.ASK_LEARN:
                    self._learn(first, second, third, fourth)
                case at.ASK_RENEW:
                    self._renew(first, second, third, fourth)
                case at.ASK_REFILL:
                    thread = self.built.threads[first - len(self.built.host.cpus)]
                    thread._stream.next = int(self.a.t[first, at.S_NEXT])
                    thread._stream.refill()
                    self.built.lay_out(thread)
        except BaseException as error:
            self.error = self.error or error
            self.a.g[at.FAILED] = at.FAIL_PYTHON
            return -1
        return 0

    def _row(self, w: int, c: int, point: int, current: int, following: int) -> int:
        a, table = self.a, self.tables[w]
        whom = []
        for i in range(a.kc[w, c, at.KC_SLOTS]):
            task = a.slots[w, c, i]
            each = CURRENT if task == current else NEXT if task == following else OTHER
            fresh = a.stamps[w, c, i] == a.kt[w, task, at.KT_VERSION]
            whom.append(each + FRESH if each != OTHER and fresh else each)
        asked = Asked(
            table.points.of(self.built.points[point]),
            int(a.kc[w, c, at.KC_SHAPE]),
            tuple(whom),
            self._side(w, c, current),
            self._side(w, c, following) if following >= 0 else None,
        )
        answer = table.answer(asked)
        row = len(self.answers[w])
        if row == ROWS:
            raise Unsupported("a kernel model with too many states")
        self.answers[w].append(answer)
        self._flags(w)
        self._write(w, row, answer, self.built.points[point])
        return row

    def _side(self, w: int, c: int, task: int) -> Side:
        def place(where: int) -> int:
            return NOWHERE if where < 0 else HERE if where == c else ELSEWHERE

        row = self.a.kt[w, task]
        return Side(int(row[at.KT_FRAGMENT]), place(row[at.KT_LAST]), place(row[at.KT_VMCS]))

    def _write(self, w: int, n: int, answer: Answer, point: Point) -> None:
        """A row of the loop's table."""
        row, a = self.a.rows[w, n], self.a
        row[at.R_RESULT] = answer.result
        row[at.R_SHAPE], row[at.R_SLOTS] = answer.shape, len(answer.slots)
        row[at.R_SLOT0 : at.R_SLOT0 + len(answer.slots)] = answer.slots
        for side, columns, changed in (
            (answer.current, (at.R_FRAGMENT, at.R_LAST, at.R_VMCS, at.R_CHANGED), answer.changed[0]),
            (answer.next, (at.R_FRAGMENT2, at.R_LAST2, at.R_VMCS2, at.R_CHANGED2), answer.changed[1]),
        ):
            if side is not None:
                places = [{NOWHERE: 0, HERE: 1, ELSEWHERE: 2}[each] for each in (side.last, side.vmcs)]
                row[list(columns)] = side.fragment, *places, changed
        row[at.R_RENEWS] = bool(answer.renewed)
        row[at.R_FIRST_LEVEL] = self.levels[w]
        for use in answer.uses:
            if use.role < 0:
                if w == 0:
                    row[at.R_PRICE] += self.prices[use.key]
                continue
            if point.what is Walker.exits:
                raise Unsupported("exits whose operations depend on where a buffer is, counted together")
            number = self.level_keys[w].setdefault(use.key, len(self.level_keys[w]))
            a.levels[w, self.levels[w]] = use.task * 3 + use.role, number
            self.levels[w] += 1
            if w == 0:
                fixed = int(a.g[at.LEVEL])
                for i in range(3) if fixed < 0 else (fixed,):
                    a.level_prices[number, i] = self.prices[*use.key, LEVELS[i]]
        row[at.R_LEVELS] = self.levels[w] - row[at.R_FIRST_LEVEL]
        row[at.R_CALLED] = len(answer.called)
        if answer.called:
            assert answer.called == (("", VCPU_LOAD, VMCLEAR),)
            if w == 0:
                for i, kind in enumerate(TASK_KINDS):
                    a.call_prices[i] = self.prices[kind, VCPU_LOAD, VMCLEAR]

    def _learn(self, t: int, kind: int, out: int, back: int) -> None:
        """What an exit of a kind costs has become known; without rows, only the stream is laid out anew."""
        thread, a = self.built.threads[t - len(self.built.host.cpus)], self.a
        if out >= 0:
            for row in (out, back):
                if row >= 0 and a.rows[0, row, at.R_LEVELS]:
                    raise Unsupported("exits whose operations depend on where a buffer is, counted together")
            cycles = int(a.rows[0, out, at.R_PRICE])
            entry = int(a.rows[0, back, at.R_PRICE]) if back >= 0 else cycles
            total = cycles + entry if back >= 0 else cycles
            self.built.kinds[kind].cost = ExitCost((), total, entry, fastpath=back < 0)
            a.k[kind, [at.K_KNOWN, at.K_CYCLES, at.K_ENTRY]] = 1, total, entry
            a.k[kind, [at.K_FASTPATH, at.K_ROW, at.K_ROW2]] = back < 0, out, back
            if back < 0 or kind == a.t[t, at.INTERRUPT_KIND]:
                return  # a fastpath exit's stream is laid out once the exit is over
        thread._stream.next = int(a.t[t, at.S_NEXT])
        thread._stream.learn()
        self.built.lay_out(thread)

    def _renew(self, w: int, n: int, c: int, current: int) -> None:
        """An area has been replaced: nobody has used the new one, and the old one is in no CPU's XRSTOR_INFO."""
        a, table = self.a, self.tables[w]
        for whose, role in self.answers[w][n].renewed:
            assert whose == 0
            a.used[w, current * 3 + role, 0] = 0
            for other in range(len(self.built.host.cpus)):
                if other == c:
                    continue
                for i in range(a.kc[w, other, at.KC_SLOTS]):
                    if a.slots[w, other, i] == current:
                        shape = table.without_area(int(a.kc[w, other, at.KC_SHAPE]), i, role)
                        a.kc[w, other, at.KC_SHAPE] = shape
        self._flags(w)

    # Running.

    def run(self) -> None:
        """Warm-up and measurement."""
        a, case = self.a, self.case
        warmup = case.cycles(warmup_seconds(case))
        measure = case.cycles(case.scenario.run.measure)
        for boundary, time in ((1, warmup), (2, warmup + measure)):
            if time > a.g[at.NOW]:
                loop.schedule_event(a.handle, time, at.URGENT, at.STOP, 0)
                self._until(at.STOP)
            loop.cross(a.handle, boundary)
        patience = case.cycles(max(PATIENCE_S, case.scenario.run.measure))
        loop.schedule_event(a.handle, int(a.g[at.NOW]) + patience, at.NORMAL, at.PATIENCE, 0)
        self._until(at.OVER)
        if not a.g[at.ELAPSED]:
            raise Unsupported("a measurement during all of which every CPU was in the kernel")

    def _until(self, what: int) -> None:
        ended = loop.run(self.a.handle)
        if self.error is not None:
            raise self.error
        failed = int(self.a.g[at.FAILED])
        if failed:
            raise Unsupported(
                {
                    at.FAIL_EVENTS: "more events than there is room for",
                    at.FAIL_POSTED: "more interrupts waiting on a CPU than there is room for",
                    at.FAIL_QUEUE: "more threads on a CPU than there is room for",
                    at.FAIL_CHILDREN: "more forked threads at once than there is room for",
                    at.FAIL_VRUNTIME: "virtual times that grow too large",
                }[failed]
            )
        if ended != what:
            raise Unsupported("a CPU that does not come out of the kernel")

    # What came of it.

    def ledger(self, w: int) -> Counter[Key]:
        """The operations of a strategy in the measurement."""
        counts: Counter[Key] = Counter()
        a = self.a
        for row, answer in enumerate(self.answers[w]):
            if n := int(a.counts[w, row]):
                for use in answer.uses:
                    if use.role < 0:
                        counts[use.key] += n
        for key, number in self.level_keys[w].items():
            for i, level in enumerate(LEVELS):
                if n := int(a.level_counts[w, number, i]):
                    counts[*key, level] += n
        for i, kind in enumerate(TASK_KINDS):
            if n := int(a.calls[i]):
                counts[kind, VCPU_LOAD, VMCLEAR] += n
        return counts

    def records(self) -> list[Record]:
        """The records of all strategies, the one that timed the host first."""
        return [self._timing_record(), *(self._record(w) for w in range(1, len(self.tables)))]

    def _record(self, w: int) -> Record:
        found: Counter[str] = Counter()
        for row, answer in enumerate(self.answers[w]):
            for kind, n in answer.found:
                found[kind] += n * int(self.a.times[w, row])
        return Record(
            case=self.case.name,
            timed_by=self.names[0],
            strategy=self.names[w],
            replication=self.replication,
            ledger=tuple(sorted((Operation(*key), n, n * self.prices[key]) for key, n in self.ledger(w).items())),
            metrics={},
            latency={},
            integrity=dict(sorted(found.items())),
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
        histogram = Histogram()
        histogram._counts.update({index: int(n) for index, n in enumerate(self.a.histograms[i]) if n})
        return histogram.buckets()


def simulate(case: Case, timed_by: str, strategies: Sequence[str], replication: int) -> list[Record]:
    """Runs one replication; :class:`Unsupported` if this engine cannot, with what it is that it cannot."""
    run = Replication(case, timed_by, others_of(timed_by, strategies), replication)
    run.run()
    return run.records()


def others_of(timed_by: str, strategies: Sequence[str]) -> list[str]:
    """The strategies that walk the schedule which another one times."""
    return [strategy for strategy in dict.fromkeys(strategies) if strategy != timed_by]
