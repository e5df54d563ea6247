"""Hosts for tests: cases from a scenario's text, whole runs, and hosts that a test steps through by hand."""

import functools
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from sim.costs.price import Prices
from sim.costs.table import current
from sim.host import simulation
from sim.host.clock import Clock
from sim.host.population import populate
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.scenario.schema import Scenario
from sim.scenario.units import FROM_FILE

SHIPPED = sorted((Path(__file__).parent.parent / "scenarios").glob("*.toml"))
FEWER = {"fleet": {"host.cpus": 8, "guests.web.vms": 8, "threads.worker.count": 8}}
"""Keys of shipped scenarios that are too large for a test."""
MS = 1e-3
US = 1e-6

RICH = """
title = "all that a host can have, at once"
[run]
measure = "25 ms"
warmup = "10 ms"
[host]
cpus = 3
cpu = ["sapphire-rapids", "zen4"]
tsc = "2.0 GHz"
hz = 1000
[guests.busy]
vms = 2
vcpus = 2
task_switch = "300 us"
shadow_stacks = "rewritten"
posted_interrupts = false
fpu = { components = ["SSE", "AVX"], every = "50 us" }
[guests.busy.exits.msr]
every = "20 kHz"
time = "300 ns"
kernel_fpu = 0.02
[guests.busy.exits.ipi]
every = "2 kHz"
effect = "ipi"
time = "300 ns"
reason = "wrmsr-icr"
[guests.busy.exits.deadline]
every = "5 kHz"
time = "300 ns"
reason = "wrmsr-tsc-deadline"
[guests.web]
vms = 2
vcpus = 2
demand = { exponential = "50 us" }
sleep = { exponential = "300 us" }
shadow_stacks = "constant"
[guests.web.exits.io]
every = "10 kHz"
time = "1 us"
handled = "userspace"
vmm = { exponential = "5 us" }
[guests.web.exits.cpuid]
every = { exponential = "30 us" }
time = { lognormal = "1 us", sigma = 0.5 }
[guests.open]
vcpus = 2
demand = { exponential = "50 us" }
arrivals = { exponential = "300 us" }
[threads.batch]
count = 2
compute = { exponential = "2 ms" }
sleep = { exponential = "4 ms" }
syscall = "2 us"
fpu = { components = ["SSE", "AVX"], share = 0.5 }
[threads.pipes]
kind = "pipe"
compute = "1 us"
syscall = "1 us"
[threads.kernel]
kind = "kthread"
compute = { exponential = "20 us" }
sleep = { exponential = "1 ms" }
[threads.make]
kind = "fork"
compute = { exponential = "500 us" }
sleep = { exponential = "3 ms" }
[interrupts.net]
every = "3 kHz"
time = { exponential = "2 us" }
kernel_fpu = 0.1
"""
"""Halts, polling, IPIs, guest task switches, kernel FPU use in interrupts, pipes, forks, devices, fastpath exits."""


def from_text(text, **strategies):
    """The cases of a scenario that is given as text; ``strategies = [...]`` chooses them."""
    written = tomllib.loads(text)
    written["run"] |= strategies
    return cases(Scenario.model_validate(written, context={FROM_FILE: True}))


def only(text, **strategies):
    """The one case of such a scenario."""
    (case,) = from_text(text, **strategies)
    return case


def changed(case, **run):
    """The same case with other values under [run]."""
    return replace(case, scenario=case.scenario.model_copy(update={"run": case.scenario.run.model_copy(update=run)}))


def on_host(case, **host):
    """The same case with other values under [host]."""
    return replace(case, scenario=case.scenario.model_copy(update={"host": case.scenario.host.model_copy(update=host)}))


@functools.cache
def shipped(path, measure="8 ms", warmup="3 ms"):
    """The cases of a shipped scenario with a short measurement."""
    return cases(read(path, {"run.measure": measure, "run.warmup": warmup} | FEWER.get(path.stem, {})))


def simulate(case, strategy, replication):
    """The record of a strategy that times its own host, with nobody else on its schedule."""
    (record,) = simulation.simulate(case, strategy, (), replication)
    return record


SEVERAL_SECONDS = ("context-switch1", "fleet", "idle-fleet", "ipi-storm", "overcommit")
"""What runs of all strategies of these shipped scenarios take."""
CASES = [
    pytest.param(
        path,
        number,
        id=f"{path.stem}: {case.name}",
        marks=[] if number == 0 and path.stem not in SEVERAL_SECONDS else pytest.mark.slow,
    )
    for path in SHIPPED
    for number, case in enumerate(shipped(path))
]
"""Each case of each shipped scenario; the first of each is quick, but for the above."""


@functools.cache
def short(path, number, strategy, batch=True):
    """A short replication of case ``number`` of a shipped scenario."""
    return simulate(changed(shipped(path)[number], batch=batch), strategy, 0)


def differences(a, b):
    """In what two records differ: ledger keys, metrics and histograms."""
    ledgers = [{operation: (count, cycles) for operation, count, cycles in each.ledger} for each in (a, b)]
    found = [key for key in ledgers[0].keys() | ledgers[1].keys() if ledgers[0].get(key) != ledgers[1].get(key)]
    found += [name for name in a.metrics.keys() | b.metrics.keys() if a.metrics.get(name) != b.metrics.get(name)]
    found += [name for name in a.latency if a.latency[name] != b.latency[name]]
    return found + [
        kind for kind in a.integrity.keys() | b.integrity.keys() if a.integrity.get(kind) != b.integrity.get(kind)
    ]


def value(record, metric):
    """A metric's value."""
    return record.metrics[metric][0]


def hosted(case, strategy=None, replication=0, others=()):
    """A host at time 0, and its clock; ``env.run(until=...)`` and ``env.step()`` move it."""
    env = Clock(initial_time=0)
    host = populate(case, strategy or case.reference, others, replication, env, Prices(current(case.costs)))
    return env, host


def threads(host):
    """All threads that are runnable or running, by name."""
    found = {}
    for cpu in host.cpus:
        for thread in [cpu.thread, *cpu.rq.waiting()]:
            if thread is not cpu.idle_thread:
                found[thread.name] = thread
    return found


def with_little(title, measure, cpu="sapphire-rapids"):
    """The text of a host with two CPUs and nothing on it yet; what follows first goes into ``[host]``."""
    return f"""
title = "{title}"
[run]
measure = "{measure}"
warmup = "1 ms"
strategies = ["xstate-guest"]
reference = "xstate-guest"
[host]
cpus = 2
cpu = ["{cpu}"]
"""
