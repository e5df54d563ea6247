"""A stand-in for the simulated host: records that are plausible, at once, and a pure function of their arguments.

The operations are those of the kernel model's own sequences; how often each sequence runs is drawn per replication, the
same for all strategies.
"""

from collections import Counter
from functools import cache

import numpy as np

from sim.costs.price import Prices
from sim.kernel import flows
from sim.kernel.strategies import strategy as strategy_named
from sim.results import Record

RATES = {"in-kernel-exit": 20_000, "preempt": 400, "userspace-exit": 300, "halt": 250}
"""Sequences per vCPU-second."""


@cache
def _operations(name, settings):
    return Counter(flows.run(name, settings).operations)


@cache
def _prices(table):
    return Prices(table)


def simulate(case, timed_by, strategies, replication):
    names = dict.fromkeys((timed_by, *strategies))
    return [_record(case, timed_by, strategy, replication) for strategy in names]


def altered(change):
    """The same, with each record as ``change(case, record)`` makes it."""

    def simulate_altered(case, timed_by, strategies, replication):
        return [change(case, record) for record in simulate(case, timed_by, strategies, replication)]

    return simulate_altered


class Counted:
    """Simulates as above, and knows what it was asked for."""

    def __init__(self):
        self.works = []

    def __call__(self, case, timed_by, names, replication):
        self.works.append((case.name, timed_by, tuple(names), replication))
        return simulate(case, timed_by, names, replication)

    @property
    def walked(self):
        return [name for _, _, names, _ in self.works for name in names]


def breaks_at(replication):
    """The same, up to this replication, which fails."""

    def simulate_some(*work):
        if work[-1] == replication:
            raise RuntimeError("broken")
        return simulate(*work)

    return simulate_some


def _histogram(waits):
    """Counts by bucket, of which there are 16 or more for each power of two."""
    cycles = np.floor(waits).astype(int)
    lows, counts = np.unique(cycles >> _shift(cycles) << _shift(cycles), return_counts=True)
    highs = lows + (1 << _shift(lows))
    return dict(zip(zip(lows.tolist(), highs.tolist(), strict=True), counts.tolist(), strict=True))


def _shift(cycles):
    return np.maximum(np.ceil(np.log2(cycles + 1)).astype(int) - 5, 0)


def _record(case, timed_by, strategy, replication):
    world = np.random.default_rng(np.random.SeedSequence([case.scenario.run.seed, replication, len(case.name)]))
    scenario = case.scenario
    vcpus = sum(guest.vms * guest.vcpus for guest in scenario.guests.values())
    busy = scenario.run.measure * max(vcpus, 1)
    rates = RATES if vcpus else {"ping-pong": 5_000}
    times = {name: int(world.poisson(rate * busy)) for name, rate in rates.items()}
    settings, prices = case.settings(strategy), _prices(case.table)
    ledger = Counter()
    for name, n in times.items():
        for operation, each in _operations(name, settings).items():
            if operation.operation in ("XSAVES", "XRSTORS"):
                cold = n // 4
                ledger[operation._replace(level="memory")] += each * cold
                ledger[operation._replace(level="L1")] += each * (n - cold)
            else:
                ledger[operation] += each * n
    rows = tuple((op, count, count * prices[op]) for op, count in ledger.items() if count)
    operations = sum(cycles for _, _, cycles in rows)
    elapsed = case.cycles(scenario.run.measure) * scenario.host.cpus
    parts = dict.fromkeys(("user", "vmm", "exit_handler", "syscall", "interrupt", "wakeup", "halt_poll"), elapsed // 50)
    parts["idle"] = elapsed // 5
    parts["guest"] = elapsed - operations - sum(parts.values())
    switches = 2 * (times.get("preempt", 0) + times.get("halt", 0) + times.get("ping-pong", 0))
    counts = {
        "context_switches": switches,
        "preemptions": times.get("preempt", 0),
        "migrations": 0,
        "wakeups": times.get("halt", 0),
        "vm_exits": sum(times.values()) if vcpus else 0,
        "kvm_run_round_trips": times.get("userspace-exit", 0),
        "vcpu_loads": sum(times.get(name, 0) for name in ("userspace-exit", "preempt", "halt")),
        "halts": times.get("halt", 0),
        "halts_polled": 0,
        "requests": times.get("halt", 0),
        "handoffs": switches if not vcpus else 0,
        "bursts": 0,
        "forks": 0,
        "guest_task_switches": 0,
        "ticks": round(scenario.run.measure * 250),
        "interrupts": 0,
        "kernel_fpu_uses": 0,
    }
    waits = world.exponential(40_000, size=times.get("halt", 0))
    caught = {"wrong-value": int(world.integers(1, 9))} if strategy_named(settings.strategy).unsound else {}
    return Record(
        case=case.name,
        timed_by=timed_by,
        strategy=strategy,
        replication=replication,
        ledger=rows,
        metrics={
            "elapsed_cycles": (elapsed, "cycles"),
            "operations_cycles": (operations, "cycles"),
            **{f"{name}_cycles": (value, "cycles") for name, value in parts.items()},
            **{name: (value, "count") for name, value in counts.items()},
        }
        if strategy == timed_by
        else {},
        latency={"vcpu": _histogram(waits)} if vcpus and strategy == timed_by else {},
        integrity=caught | ({"residue": 3} if strategy == "manual-load-nozero" else {}),
    )
