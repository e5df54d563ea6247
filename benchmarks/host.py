"""The speed of the simulated host, as ratios within one run: machines differ and are noisy, ratios hold.

- exits per second of the batched engine over those of ``batch = false``, on scenarios/exit-storm.toml;
- time per context switch on 256 CPUs over that on 4, with the same load on each CPU;
- peak memory of four times the simulated time over that of once;
- time with the integrity check over time without it.

Each pair is run in turn several times, and the median ratio counts.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from sim.host.clock import Clock
from sim.host.population import populate
from sim.host.simulation import prices_of, simulate
from sim.results import Record
from sim.scenario.cases import Case, cases
from sim.scenario.reading import read

SCENARIOS = Path(__file__).parent.parent / "scenarios"
STRATEGY = "xstate-guest"

LOAD = """
title = "the same load on each CPU"
[run]
measure = "{measure} ms"
warmup = "1 ms"
[host]
cpus = {cpus}
cpu = ["sapphire-rapids"]
tsc = "2.0 GHz"
hz = 1000
[guests.busy]
vms = {cpus}
[guests.busy.exits.cpuid]
every = "{exits} kHz"
[guests.halting]
vms = {cpus}
demand = {{ exponential = "100 us" }}
sleep = {{ exponential = "400 us" }}
[threads.daemon]
count = {cpus}
compute = {{ exponential = "50 us" }}
sleep = {{ exponential = "500 us" }}
"""


def with_run(case: Case, **changes: Any) -> Case:
    """The case with other settings in [run]."""
    run = case.scenario.run.model_copy(update=changes)
    return replace(case, scenario=case.scenario.model_copy(update={"run": run}))


def timed(case: Case) -> tuple[Record, float]:
    """The record, and the seconds of CPU time that it took."""
    gc.collect()
    start = process_time()
    (record,) = simulate(case, STRATEGY, (), 0)
    return record, process_time() - start


def batch_ratio(rounds: int) -> float:
    """Simulated exits per second, batched over one by one; both with the same share of warm-up."""
    case = cases(read(SCENARIOS / "exit-storm.toml"))[0]
    batched = with_run(case, warmup=0.2, measure=1.0)
    single = with_run(case, warmup=0.04, measure=0.2, batch=False)
    simulate(with_run(case, measure=0.01), STRATEGY, (), 0)

    def rate(case: Case) -> float:
        record, seconds = timed(case)
        return record.metrics["vm_exits"][0] / seconds

    return median(rate(batched) / rate(single) for _ in range(rounds))


def load(folder: str, cpus: int, measure_ms: float, exits_khz: int = 5) -> Case:
    """The synthetic load on so many CPUs."""
    path = Path(folder) / f"{cpus}.toml"
    path.write_text(LOAD.format(cpus=cpus, measure=measure_ms, exits=exits_khz), encoding="utf-8")
    return cases(read(path))[0]


class Progress:
    """A host that is run piece by piece, and what it takes per context switch."""

    def __init__(self, case: Case) -> None:
        self.env = Clock(initial_time=0)
        self.host = populate(case, STRATEGY, (), 0, self.env, prices_of(case.table))
        self.case = case

    def per_switch(self, piece_s: float) -> float:
        """Simulates so much more; seconds of CPU time per context switch."""
        before = sum(cpu.count_switches for cpu in self.host.cpus)
        until = self.env.now + self.case.cycles(piece_s)
        start = process_time()
        self.env.run(until=until)
        return (process_time() - start) / (sum(cpu.count_switches for cpu in self.host.cpus) - before)


def scaling_ratio(pieces: int, folder: str) -> float:
    """Seconds per context switch on 256 CPUs over those on 4, piece by piece in turn, from where nothing is new."""
    many, few = Progress(load(folder, 256, 1.0)), Progress(load(folder, 4, 1.0))
    many.per_switch(20e-3)
    few.per_switch(1280e-3)
    return median(many.per_switch(4e-3) / few.per_switch(256e-3) for _ in range(pieces))


def memory_ratio(folder: str) -> float:
    """Peak of allocated memory with four times the simulated time over that with once.

    In the first half of a second the blocks in which random numbers are drawn ahead grow to their full size.
    """

    def peak(measure: float) -> int:
        case = with_run(load(folder, 1, 100.0, exits_khz=50), measure=measure)
        gc.collect()
        tracemalloc.start()
        simulate(case, STRATEGY, (), 0)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(0.01)
    return peak(8.0) / peak(2.0)


def integrity_ratio(rounds: int, folder: str) -> float:
    """Time with the integrity check over time without it."""
    case = load(folder, 4, 300.0)
    without = with_run(case, integrity=False)
    return median(timed(case)[1] / timed(without)[1] for _ in range(rounds))


def main() -> int:
    """Prints the ratios and their limits; exit status 1 if one does not hold."""
    held = True
    with TemporaryDirectory() as folder:
        checks: list[tuple[str, Callable[[], float], float, bool]] = [
            ("exits per second, batched / one by one", lambda: batch_ratio(5), 20.0, True),
            ("time per context switch, 256 CPUs / 4", lambda: scaling_ratio(15, folder), 1.5, False),
            ("peak memory, four times the simulated time / once", lambda: memory_ratio(folder), 1.1, False),
            ("time, with the integrity check / without", lambda: integrity_ratio(7, folder), 1.1, False),
        ]
        for what, measure, limit, at_least in checks:
            ratio = measure()
            holds = ratio >= limit if at_least else ratio <= limit
            held &= holds
            print(
                f"{what}: {ratio:.2f} ({'at least' if at_least else 'at most'} {limit:g}{'' if holds else ': MISSED'})"
            )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
