"""Hosts that meet the conditions of queueing theory, and their simulation compared with theory.

The service time in a formula is that of the replication: busy CPU time per burst, with switches, interrupts and exits.
So what is compared is how the host queues and shares.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import stats

from sim.host.simulation import simulate
from sim.processes import in_processes
from sim.scenario.cases import cases
from sim.scenario.schema import Scenario
from sim.scenario.units import FROM_FILE
from sim.verification.theory.formulas import busy_periods_hz, repairman, share

REPLICATIONS: Final = 20
MARGIN: Final = 0.005
"""A share of the value, for what formulas leave out, such as the time of an IPI to an idle CPU."""
WIDEST: Final = 0.02
"""An interval that is wider than this on each side would show nothing."""
LEVEL: Final = 0.95

SCENARIO: Final = """
title = "A host of queueing theory"
[run]
measure = "{measure}"
warmup = "500 ms"
strategies = ["no-cet"]
reference = "no-cet"
timed_by = "no-cet"
integrity = false
[host]
cpus = {cpus}
cpu = ["sapphire-rapids"]
kernel = ["{kernel}"]
{host}
{load}
"""

Counts = Mapping[str, float]
"""Metrics of a replication, by name; ``seconds`` is the measured time, ``cpu_s`` that of all CPUs together."""


class Value(NamedTuple):
    """One number of one replication."""

    simulated: float
    expected: float


@dataclass(frozen=True, slots=True)
class Claim:
    """A host, and what theory says about it; ``of`` computes both numbers from a replication."""

    theory: str
    what: str
    host: str
    of: Callable[[Counts], Value]
    load: str
    cpus: int = 1
    settings: str = ""
    measure: str = "10 s"
    kernel: str = "v6.18"

    def scenario(self, seed: int) -> Scenario:
        """The host as a scenario."""
        text = SCENARIO.format(
            measure=self.measure, cpus=self.cpus, kernel=self.kernel, host=self.settings, load=self.load
        )
        written = tomllib.loads(text)
        written["run"]["seed"] = seed
        return Scenario.model_validate(written, context={FROM_FILE: True})

    def values(self, replications: int, seed: int = 1) -> list[Value]:
        """Both numbers, by replication."""
        (case,) = cases(self.scenario(seed))
        found = []
        for n in range(replications):
            (record,) = simulate(case, case.timed_by, case.strategies, n)
            counts = {name: float(value) for name, (value, _) in record.metrics.items()}
            # elapsed_cycles is of all CPUs together.
            cpu_s = counts["elapsed_cycles"] / case.tsc_hz
            found.append(self.of(counts | {"cpu_s": cpu_s, "seconds": cpu_s / self.cpus}))
        return found


class Finding(NamedTuple):
    """A claim's numbers; ``low`` and ``high`` bound the mean of (simulated / expected) - 1."""

    theory: str
    what: str
    host: str
    simulated: float
    expected: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the interval is narrow enough, and reaches the value of theory to within the margin."""
        return self.high - self.low <= 2 * WIDEST and self.low <= MARGIN and self.high >= -MARGIN


def finding(claim: Claim, values: Sequence[Value], claims: int = 1) -> Finding:
    """Replications against theory; the interval allows for the number of claims (Bonferroni)."""
    ratios = np.array([each.simulated / each.expected - 1 for each in values])
    half = stats.t.ppf(1 - (1 - LEVEL) / claims / 2, len(ratios) - 1) * ratios.std(ddof=1) / np.sqrt(len(ratios))
    simulated, expected = (float(np.mean([each[i] for each in values])) for i in range(2))
    low, high = float(ratios.mean() - half), float(ratios.mean() + half)
    return Finding(claim.theory, claim.what, claim.host, simulated, expected, low, high)


def _busy_s(counts: Counts) -> float:
    return counts["cpu_s"] * (1 - counts["idle_cycles"] / counts["elapsed_cycles"])


def _throughput(cpus: int, sources: int, sleep_s: float, done: str) -> Callable[[Counts], Value]:
    def of(counts: Counts) -> Value:
        service_s = _busy_s(counts) / counts[done]
        return Value(counts[done] / counts["seconds"], repairman(cpus, sources, service_s, sleep_s).throughput_hz)

    return of


def _response(sources: int, sleep_s: float, done: str) -> Callable[[Counts], Value]:
    """Little's law: of the time from one burst to the next, all that is not sleep."""

    def of(counts: Counts) -> Value:
        service_s = _busy_s(counts) / counts[done]
        return Value(
            sources * counts["seconds"] / counts[done] - sleep_s, repairman(1, sources, service_s, sleep_s).response_s
        )

    return of


def _busy_periods(arrivals_hz: float) -> Callable[[Counts], Value]:
    def of(counts: Counts) -> Value:
        service_s = _busy_s(counts) / counts["requests"]
        return Value(counts["halts"] / counts["seconds"], busy_periods_hz(arrivals_hz, service_s))

    return of


def _share(weights: tuple[float, ...]) -> Callable[[Counts], Value]:
    def of(counts: Counts) -> Value:
        return Value(counts["guest_cycles"] / (counts["guest_cycles"] + counts["user_cycles"]), share(weights))

    return of


def _threads(count: int, compute: str, sleep: str) -> str:
    return f"[threads.t]\ncount = {count}\ncompute = {compute}\nsleep = {sleep}"


def _guests(count: int, demand: str, idle: str) -> str:
    return f'[guests.g]\nvms = {count}\nshadow_stacks = "none"\ndemand = {demand}\n{idle}'


REPAIRMAN, SHARED, BUSY, WEIGHTS = "machine repairman", "processor sharing", "M/G/1 busy periods", "EEVDF shares"
MS1, MS3, SKEWED = '{ exponential = "1 ms" }', '{ exponential = "3 ms" }', '{ lognormal = "5 ms", sigma = 1.5 }'
QUANTUM: Final = 'base_slice = "100 us"\nhz = 1000'
NICE: Final = {-5: 3121, 0: 1024, 5: 335, 10: 110}
"""sched_prio_to_weight[], kernel/sched/core.c, Linux v6.18."""

CLAIMS: Final = (
    *(
        Claim(REPAIRMAN, "bursts/s", f"{n} threads, {cpus} CPU{'s' * (cpus > 1)}, {scheduler}",
              _throughput(cpus, n, 3e-3, "bursts"), _threads(n, MS1, MS3), cpus, f'scheduler = "{scheduler}"')
        for scheduler in ("eevdf", "round-robin")
        for cpus, n in ((1, 4), (2, 8), (8, 24))
    ),
    Claim(REPAIRMAN, "requests/s", "8 vCPUs, 2 CPUs, eevdf", _throughput(2, 8, 3e-3, "requests"),
          _guests(8, MS1, f"sleep = {MS3}"), 2),
    *(
        Claim(SHARED, "response, s", f"8 threads, lognormal bursts, 1 CPU, {scheduler}",
              _response(8, 20e-3, "bursts"), _threads(8, SKEWED, '{ exponential = "20 ms" }'),
              settings=f'scheduler = "{scheduler}"\n{QUANTUM}', measure="60 s")
        for scheduler in ("eevdf", "round-robin")
    ),
    Claim(BUSY, "halts/s", "1 vCPU, lognormal requests", _busy_periods(200.0),
          _guests(1, '{ lognormal = "2 ms", sigma = 1.0 }', 'arrivals = { exponential = "5 ms" }'), measure="60 s"),
    *(
        Claim(WEIGHTS, "share of the vCPU", f"a vCPU and a thread of nice {nice}, v6.18", _share((NICE[0], NICE[nice])),
              f'[guests.g]\nshadow_stacks = "none"\n[threads.t]\ncompute = "10 ms"\nnice = {nice}')
        for nice in NICE
    ),
)  # fmt: skip


def study(replications: int, jobs: int, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """All claims, in ``jobs`` processes."""
    if jobs == 1:
        values = [claim.values(replications) for claim in claims]
    else:
        values = in_processes(_values, [(number, replications) for number in map(CLAIMS.index, claims)], jobs)
    return [finding(claim, each, len(claims)) for claim, each in zip(claims, values, strict=True)]


def _values(work: tuple[int, int]) -> list[Value]:
    """Of one of :data:`CLAIMS`, whose functions cannot be sent to another process."""
    number, replications = work
    return CLAIMS[number].values(replications)


def document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """As JSON."""
    return [{**each._asdict(), "holds": each.holds} for each in findings]
