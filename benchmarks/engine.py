"""The compiled engine against others, as ratios within one run of CPU time on one core: machines differ, ratios hold.

The same load, four threads on each CPU that compute and sleep, is run by

- textbook SimPy: a process per thread, a Resource per CPU, no kernel, no scheduler;
- lean SimPy: the same with callbacks instead of processes, and random numbers drawn in blocks;
- a bare loop in numba: the same once more, with an event heap in arrays;
- the reference engine: the full model, half of the threads vCPUs, with EEVDF, ledger and integrity;
- the compiled engine: the same, whose records are the same bytes.

Of the load later replications are measured, which find most of the tables filled; the making of the host counts, so 64
CPUs and 1,024 have the same simulated time.  ``rfc-question`` is measured with empty tables, in a second replication,
in a process that finds on the disk what eight replications of 10 s have asked, and with nothing left to ask.  All is
measured in turn in five rounds; the median of a ratio counts, and is printed with the lowest and the highest.
``python benchmarks/engine.py`` takes some minutes.
"""

import gc
import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import simpy
from numba import njit

from sim.engine import kept_tables, loop, table
from sim.engine import simulation as compiled
from sim.host import simulation as reference
from sim.scenario.cases import Case, cases
from sim.scenario.reading import read

SCENARIOS = Path(__file__).parent.parent / "scenarios"
STRATEGY = "xstate-guest"
THREADS = 4
BURST, SLEEP, SWITCH = 50e-6, 200e-6, 1e-6
"""Means in seconds; the last is what a context switch takes in the bare models, whose rates do not depend on it."""

ROUNDS = 5
EARLIER = 8
EMPTY = "tables empty"
SECOND = "second replication"
KEPT = f"new process and replication, tables kept of {EARLIER} others"
FULL = "the same once more, with nothing to ask"

LOAD = """
title = "four threads on each CPU"
[run]
measure = "{measure} ms"
warmup = "1 ms"
[host]
cpus = {cpus}
cpu = ["sapphire-rapids"]
tsc = "2.0 GHz"
[guests.halting]
vms = {pairs}
demand = {{ exponential = "50 us" }}
sleep = {{ exponential = "200 us" }}
task_switch = "2 kHz"
fpu = {{ components = ["SSE", "AVX"], share = 0.5 }}
[threads.daemon]
count = {pairs}
compute = {{ exponential = "50 us" }}
sleep = {{ exponential = "200 us" }}
fpu = {{ components = ["SSE", "AVX"] }}
"""


# Bare models: context switches in so many simulated seconds.


def textbook(cpus: int, seconds: float) -> int:
    """SimPy as its documentation has it."""
    env, rng = simpy.Environment(), np.random.default_rng(0)
    switches = 0

    def thread(cpu: simpy.Resource) -> Iterator[simpy.Event]:
        nonlocal switches
        while True:
            with cpu.request() as request:
                yield request
                switches += 1
                yield env.timeout(SWITCH)
                yield env.timeout(rng.exponential(BURST))
                switches += not cpu.queue  # to idle
            yield env.timeout(rng.exponential(SLEEP))

    for _ in range(cpus):
        cpu = simpy.Resource(env)
        for _ in range(THREADS):
            env.process(thread(cpu))  # type: ignore[arg-type]
    env.run(until=seconds)
    return switches


class _Drawn:
    """Exponential numbers, drawn in blocks."""

    def __init__(self, mean: float, seed: int) -> None:
        self._rng, self._mean, self._left = np.random.default_rng(seed), mean, iter(())

    def next(self) -> float:
        value = next(self._left, None)
        if value is None:
            self._left = iter(self._rng.exponential(self._mean, 4096).tolist())
            value = next(self._left)
        return float(value)


def lean(cpus: int, seconds: float) -> int:
    """SimPy's event queue with callbacks only."""
    env, bursts, sleeps = simpy.Environment(), _Drawn(BURST, 1), _Drawn(SLEEP, 2)
    switches = 0

    def on_cpu(queue: deque[int]) -> Callable[[], None]:
        busy = False

        def wakes(event: Any) -> None:
            if busy:
                queue.append(1)
            else:
                runs()

        def runs() -> None:
            nonlocal busy, switches
            busy = True
            switches += 1
            env.timeout(SWITCH + bursts.next()).callbacks.append(ends)

        def ends(event: Any) -> None:
            nonlocal busy, switches
            env.timeout(sleeps.next()).callbacks.append(wakes)
            if queue:
                queue.popleft()
                runs()
            else:
                busy = False
                switches += 1

        return lambda: wakes(None)

    for _ in range(cpus):
        wakes = on_cpu(deque())
        for _ in range(THREADS):
            wakes()
    env.run(until=seconds)
    return switches


@njit
def bare(cpus: int, seconds: float) -> int:
    """The same in numba: a heap of (time, CPU, what), counted queues, numba's random numbers."""
    heap = [(0.0, i % cpus, 0) for i in range(cpus * THREADS)]
    waiting, busy = np.zeros(cpus, np.int64), np.zeros(cpus, np.int64)
    switches = 0
    while True:
        now, cpu, ends = heapq.heappop(heap)
        if now > seconds:
            return switches
        if ends:
            heapq.heappush(heap, (now + np.random.exponential(SLEEP), cpu, 0))
            busy[cpu] = 0
            if not waiting[cpu]:
                switches += 1
                continue
            waiting[cpu] -= 1
        elif busy[cpu]:
            waiting[cpu] += 1
            continue
        busy[cpu] = 1
        switches += 1
        heapq.heappush(heap, (now + SWITCH + np.random.exponential(BURST), cpu, 1))


# The full model.


def with_run(case: Case, **changes: Any) -> Case:
    """The case with other settings in [run]."""
    run = case.scenario.run.model_copy(update=changes)
    return replace(case, scenario=case.scenario.model_copy(update={"run": run}))


def load(folder: str, cpus: int, measure_s: float) -> Case:
    """The load on so many CPUs."""
    path = Path(folder) / f"{cpus}.toml"
    text = LOAD.format(cpus=cpus, pairs=cpus * THREADS // 2, measure=round(measure_s * 1e3, 3))
    path.write_text(text, encoding="utf-8")
    return cases(read(path))[0]


def seconds_of(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the CPU time that it takes."""
    gc.collect()
    begin = process_time()
    result = run()
    return result, process_time() - begin


def bare_rate(model: Callable[[int, float], int], cpus: int, seconds: float) -> float:
    """Context switches per second of CPU time."""
    model(cpus, seconds / 100)
    switches, took = seconds_of(lambda: model(cpus, seconds))
    return switches / took


def full_rate(engine: Any, case: Case, metric: str, replication: int) -> float:
    """A metric, warm-up left out, per second of CPU time."""
    records, took = seconds_of(lambda: engine.simulate(case, STRATEGY, (), replication))
    value: float = records[0].metrics[metric][0] / took
    return value


def load_rates(cases_: dict[int, Case], few: Case, replication: int) -> dict[str, float]:
    """Context switches per second of CPU time, of a round."""

    def full(engine: Any, case: Case) -> float:
        return full_rate(engine, case, "context_switches", replication)

    return {
        "textbook SimPy, 4 CPUs": bare_rate(textbook, 4, 2.0),
        "compiled engine, 4 CPUs": full(compiled, cases_[4]),
        "lean SimPy, 4 CPUs": bare_rate(lean, 4, 4.0),
        "bare numba loop, 4 CPUs": bare_rate(bare, 4, 100.0),
        "reference engine, 4 CPUs": full(reference, few),
        "textbook SimPy, 64 CPUs": bare_rate(textbook, 64, 0.15),
        "compiled engine, 64 CPUs": full(compiled, cases_[64]),
        "compiled engine, 1,024 CPUs": full(compiled, cases_[1024]),
    }


def of_question(short: Case, long: Case) -> dict[str, float]:
    """Simulated cycles per second of CPU time: of the reference, and of the compiled engine by what was asked before.

    Tables are kept on the disk; a new process is one that has none in memory, and reads them in the time that counts.
    """
    timed_by, strategies = long.timed_by, long.strategies

    def rate(engine: Any, case: Case, replication: int) -> float:
        records, took = seconds_of(lambda: engine.simulate(case, timed_by, strategies, replication))
        elapsed: float = records[0].metrics["elapsed_cycles"][0]
        return elapsed / took

    with TemporaryDirectory() as folder:
        kept_tables.directory = lambda: Path(folder)
        table._tables.clear()
        found = {
            "reference": rate(reference, short, 1),
            EMPTY: rate(compiled, long, 0),
            SECOND: rate(compiled, long, 1),
        }
        for replication in range(2, EARLIER):
            compiled.simulate(long, timed_by, strategies, replication)
        table._tables.clear()
        return found | {KEPT: rate(compiled, long, EARLIER), FULL: rate(compiled, long, EARLIER)}


def main() -> int:
    """Prints rates, then ratios, then which of the limits do not hold; exit status 1 if one does not."""
    loop.compile_all()
    with TemporaryDirectory() as folder:
        loads = {cpus: load(folder, cpus, measure_s) for cpus, measure_s in ((4, 10.0), (64, 0.6), (1024, 0.6))}
        few = load(folder, 4, 0.5)
    storm = with_run(cases(read(SCENARIOS / "exit-storm.toml"))[0], measure=20.0, warmup=0.2)
    for case in (*loads.values(), storm):
        compiled.simulate(case, STRATEGY, (), 0)
    rounds = [load_rates(loads, few, replication) for replication in range(1, ROUNDS + 1)]
    for what in rounds[0]:
        print(f"{what}: {median(each[what] for each in rounds):,.0f} context switches/s", flush=True)
    exits = [full_rate(compiled, storm, "vm_exits", replication) for replication in range(1, ROUNDS + 1)]
    question = with_run(cases(read(SCENARIOS / "rfc-question.toml"))[0], measure=10.0, warmup=0.0)
    short = with_run(question, measure=0.3)
    simulated = [of_question(short, question) for _ in range(ROUNDS)]

    def of(a: str, b: str) -> list[float]:
        return [each[a] / each[b] for each in rounds]

    four = "compiled engine, 4 CPUs"
    ratios = [
        ("4 CPUs, compiled / textbook SimPy", of(four, "textbook SimPy, 4 CPUs"), 8.0),
        ("4 CPUs, compiled / lean SimPy", of(four, "lean SimPy, 4 CPUs"), 0.0),
        ("4 CPUs, compiled / bare numba loop", of(four, "bare numba loop, 4 CPUs"), 1 / 20),
        ("4 CPUs, compiled / reference engine", of(four, "reference engine, 4 CPUs"), 0.0),
        ("64 CPUs, compiled / textbook SimPy", of("compiled engine, 64 CPUs", "textbook SimPy, 64 CPUs"), 5.0),
        ("compiled, 1,024 CPUs / 64 CPUs", of("compiled engine, 1,024 CPUs", "compiled engine, 64 CPUs"), 0.5),
        ("exit-storm, millions of VM exits/s", [each / 1e6 for each in exits], 20.0),
        *((f"rfc-question, {len(question.strategies)} strategies, simulated time, compiled / reference, {what}",
           [each[what] / each["reference"] for each in simulated], 50.0 if what == SECOND else 0.0)
          for what in (EMPTY, SECOND, KEPT, FULL)),
    ]  # fmt: skip
    for what, found, limit in ratios:
        spread = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
        print(f"{what}: {median(found):.2f}{spread}{f', at least {limit:g}' if limit else ''}", flush=True)
    missed = [what for what, found, limit in ratios if median(found) < limit]
    for what in missed:
        print(f"MISSED: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
