"""One replication on one host: built from a case, run once, timed by one strategy, walked by all, and measured."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from sim.costs.price import Prices
from sim.costs.rows import CostTable
from sim.errors import InputError
from sim.host.accounts import ACCOUNTS, COUNTS, TIMES
from sim.host.clock import Clock
from sim.host.cpu import HostCpu
from sim.host.elapsed import shown
from sim.host.host import Host
from sim.host.population import populate
from sim.host.room import ran_out, too_large
from sim.host.warmup import warmup_seconds
from sim.kernel.operations import operation
from sim.kernel.walker import Walker
from sim.results import Record
from sim.scenario.cases import Case
from sim.scenario.units import time_text

PATIENCE_S: Final = 0.02
"""A CPU that is still in the kernel so long after the measurement, or as long as that took, does not get out of it."""


class Measurement:
    """What the CPUs have counted between the end of warm-up and the end of the measurement.

    Each CPU's window begins and ends where that CPU is between two pieces of its work, at the first such instant that
    is not before the nominal one; so its accounts add up to its window exactly.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._begun: dict[int, int] = {}
        self._left = len(host.cpus)
        self.over = host.env.event()
        self.elapsed = 0
        self.totals: Counter[str] = Counter()

    def begin(self, cpu: HostCpu) -> None:
        """Warm-up is over on this CPU."""
        cpu.restart()
        cpu.passes(Walker.begin)
        cpu.measuring = True
        self._begun[cpu.id] = cpu.clock

    def end(self, cpu: HostCpu) -> None:
        """The measurement is over on this CPU; it may have been in the kernel during all of it."""
        if cpu.id not in self._begun:
            self.begin(cpu)
        cpu.measuring = False
        self.elapsed += cpu.clock - self._begun[cpu.id]
        for name in (*ACCOUNTS, *COUNTS, *TIMES):
            self.totals[name] += getattr(cpu, name)
        cpu.passes(Walker.end)
        self._left -= 1
        if not self._left:
            self.over.succeed()

    def finish(self, case: Case) -> None:
        """Runs the host until the measurement is over on all CPUs, the nominal end of which is now.

        Raises :class:`~sim.errors.InputError` if a CPU does not leave the kernel, or none has measured a cycle.
        """
        env, measure = self._host.env, case.scenario.run.measure
        patience = env.timeout(case.cycles(max(PATIENCE_S, measure)))
        patience.callbacks.append(lambda event: self._refuse(case))
        env.run(until=self.over)
        if not self.elapsed:
            raise InputError(
                f"run.measure: found {time_text(measure)!r}, during all of which every CPU was in the kernel; "
                f"allowed: a longer time (case {case.name!r})"
            )

    def _refuse(self, case: Case) -> None:
        """The measurement should have been over long ago."""
        if self._left:
            busy = next(cpu.id for cpu in self._host.cpus if cpu.boundary)
            raise InputError(
                f"run.measure: found {time_text(case.scenario.run.measure)!r}, after which CPU {busy} did not come out "
                "of the kernel; allowed: interrupts, wake-ups and system calls that leave a CPU time for something "
                f"else (case {case.name!r})"
            )


def simulate(
    case: Case, timed_by: str, strategies: Sequence[str], replication: int, watch: Callable[[Host], None] | None = None
) -> list[Record]:
    """Runs one replication; the same arguments give the same records.

    The host is timed by the strategy ``timed_by``, whose record comes first and has the metrics and latencies of the
    schedule.  The others of ``strategies`` walk the same schedule; their records have a ledger and what the integrity
    check found.  No record depends on which others there are.  ``watch`` gets the host before anything runs.

    Time and costs are in TSC cycles.  Raises :class:`~sim.errors.InputError` for what only shows when the host is
    built or runs: a cost table that lacks the price of an operation, a strategy that the CPU cannot have, a CPU that
    gets nothing done but interrupts, a host that does not fit into memory.
    """
    env = Clock(initial_time=0)
    prices = prices_of(case.table)
    others = [strategy for strategy in dict.fromkeys(strategies) if strategy != timed_by]
    try:
        host = populate(case, timed_by, others, replication, env, prices)
    except MemoryError:
        raise too_large(case) from None
    if watch is not None:
        watch(host)
    try:
        return _run(case, timed_by, others, replication, host, prices)
    except MemoryError:
        raise InputError(ran_out(case, 1 + len(others), replication)) from None


def _run(
    case: Case, timed_by: str, others: Sequence[str], replication: int, host: Host, prices: Prices
) -> list[Record]:
    env = host.env
    measurement = Measurement(host)
    run = case.scenario.run
    warmup = case.cycles(warmup_seconds(case))
    end = warmup + case.cycles(run.measure)
    with shown(lambda: env.now, end):
        for at, what in ((warmup, measurement.begin), (end, measurement.end)):
            if at > env.now:
                env.run(until=at)
            cross(host, what)
        measurement.finish(case)
    host.schedule.walk()
    return [
        _timing_record(case, timed_by, replication, host, measurement, prices),
        *(
            _record(case, timed_by, strategy, replication, walker, prices)
            for strategy, walker in zip(others, host.schedule.others, strict=True)
        ),
    ]


def cross(host: Host, what: Callable[[HostCpu], None]) -> None:
    """The nominal end of warm-up or measurement is now: ``what`` happens on each CPU once that is between two pieces
    of its work."""
    for cpu in host.cpus:
        cpu.on_boundary = what
        cpu.boundary = True
        cpu.kick()


@lru_cache(maxsize=16)
def prices_of(table: CostTable) -> Prices:
    """The prices of a cost table, which are composed once in a process."""
    return Prices(table)


def _timing_record(
    case: Case, timed_by: str, replication: int, host: Host, measurement: Measurement, prices: Prices
) -> Record:
    """The record of the strategy that timed the host, whose accounts add up to the time that passed."""
    record = _record(case, timed_by, timed_by, replication, host.schedule.timing, prices)
    totals = measurement.totals
    accounted, priced = sum(totals[name] for name in ACCOUNTS), sum(cycles for *_, cycles in record.ledger)
    if accounted != measurement.elapsed or priced != totals["operations"]:
        raise AssertionError(
            f"{case.name}, {record.strategy}: {measurement.elapsed} cycles elapsed, {accounted} are accounted for; "
            f"operations took {totals['operations']}, the ledger says {priced}"
        )
    metrics: dict[str, tuple[int | float, str]] = {"elapsed_cycles": (measurement.elapsed, "TSC cycles")}
    metrics |= {metric: (totals[name], "TSC cycles") for name, metric in (*ACCOUNTS.items(), *TIMES.items())}
    metrics |= {metric: (totals[name], "count") for name, metric in COUNTS.items()}
    return replace(
        record, metrics=metrics, latency={name: histogram.buckets() for name, histogram in host.latency.items()}
    )


def _record(case: Case, timed_by: str, strategy: str, replication: int, walker: Walker, prices: Prices) -> Record:
    integrity = walker.kernel.integrity
    return Record(
        case=case.name,
        timed_by=timed_by,
        strategy=strategy,
        replication=replication,
        ledger=tuple(sorted((operation(key), n, n * prices[key]) for key, n in walker.measured.items())),
        metrics={},
        latency={},
        integrity=dict(sorted(integrity.counts.items())) if integrity else {},
    )
