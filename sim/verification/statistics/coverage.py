"""How often 95 % intervals contain the truth, with the stopping rule on.

A short scenario is run again and again, each time with another seed, and each run ends by its own rule.  From each run
come the three intervals that an answer prints: own operations of a strategy beside the reference, the cost of a
strategy, and a planned contrast.  The truth is the mean of all replications of all runs: the sum of all values over the
number of all replications, which the stopping rule does not bias (Wald's identity).
"""

import tomllib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sim.analysis.estimates import CONFIDENCE, with_intervals
from sim.analysis.uncertainty.coefficients import Array
from sim.experiment.stopping import Rule, Stopped
from sim.host.simulation import simulate
from sim.processes import in_processes
from sim.results import Record
from sim.results.record import Finished
from sim.scenario.cases import cases
from sim.scenario.schema import Scenario
from sim.scenario.units import FROM_FILE

REPETITIONS: Final = 2000
ALLOWED: Final = (0.93, 0.97)

SCENARIO: Final = """
title = "A vCPU that halts, exits and shares its CPU, for 2 ms"
[run]
measure = "2 ms"
warmup = "200 us"
precision = "6 %"
strategies = ["free-ssp", "manual-load", "xstate-guest"]
contrasts = [["manual-load", "xstate-guest"]]
integrity = false
[host]
cpus = 1
cpu = ["sapphire-rapids"]
hz = 1000
[guests.g]
demand = { exponential = "30 us" }
sleep = { exponential = "30 us" }
shadow_stacks = "rewritten"
task_switch = { exponential = "30 us" }
[guests.g.exits.io]
every = { exponential = "30 us" }
reason = "io"
handled = "userspace"
time = "500 ns"
vmm = { exponential = "2 us" }
[threads.daemon]
compute = { exponential = "20 us" }
sleep = { exponential = "100 us" }
"""
"""Short, so that some thirty replications are needed for a precision of 6 %."""

KINDS: Final = ("own", "cost", "contrast")
OWN, REFERENCE, CONTRAST = "xstate-guest", "free-ssp", ("manual-load", "xstate-guest")
COST: Final = "manual-load"


class Coverage(NamedTuple):
    """``covered`` of ``repetitions`` intervals contain ``truth``; ``low`` and ``high`` bound the share, at 95 %.

    ``replications``: the mean of their numbers in a run.
    """

    covered: int
    repetitions: int
    truth: float
    low: float
    high: float
    replications: float

    @property
    def share(self) -> float:
        """The coverage."""
        return self.covered / self.repetitions

    @property
    def holds(self) -> bool:
        """Whether the coverage is as promised, give or take (:data:`ALLOWED`)."""
        return ALLOWED[0] <= self.share <= ALLOWED[1]


def scenario(seed: int) -> Scenario:
    """The scenario of the study."""
    written = tomllib.loads(SCENARIO)
    written["run"]["seed"] = seed
    return Scenario.model_validate(written, context={FROM_FILE: True})


def replications(seed: int) -> dict[str, Array]:
    """One run: the values of which each kind of interval is made, by replication, in cycles per vCPU-second."""
    asked = scenario(seed)
    (case,) = cases(asked)
    rule = Rule(asked, [case])
    done: list[dict[str, float]] = []
    verdict = rule.look(0)
    while not isinstance(verdict, Stopped):
        for n in range(len(done), verdict):
            records = simulate(case, case.timed_by, case.strategies, n)
            for record in records:
                rule.take(Finished.of(record))
            seconds = records[0].metrics["elapsed_cycles"][0] / case.tsc_hz
            done.append({record.strategy: _cycles(record) / seconds for record in records})
        verdict = rule.look(verdict)
    cost = {name: np.array([each[name] for each in done[: verdict.replications]]) for name in case.strategies}
    a, b = CONTRAST
    return {"own": cost[OWN] - cost[REFERENCE], "cost": cost[COST], "contrast": cost[a] - cost[b]}


def _cycles(record: Record) -> int:
    return sum(cycles for _, _, cycles in record.ledger)


def coverage(runs: Sequence[Array]) -> Coverage:
    """How many of the intervals of runs contain the mean of all replications."""
    frame = pd.DataFrame({"run": np.repeat(np.arange(len(runs)), [len(each) for each in runs])})
    found = with_intervals(frame.assign(value=np.concatenate(runs)), ["run"])
    truth = float(np.concatenate(runs).mean())
    covered = int(((found["low"] <= truth) & (truth <= found["high"])).sum())
    share = stats.binomtest(covered, len(found)).proportion_ci(CONFIDENCE, method="wilson")
    return Coverage(covered, len(found), truth, float(share.low), float(share.high), float(found["n"].mean()))


def study(repetitions: int, jobs: int) -> dict[str, Coverage]:
    """The coverage of each kind of interval, over runs with the seeds 1 to ``repetitions``."""
    found = in_processes(replications, range(1, repetitions + 1), jobs)
    return {kind: coverage([each[kind] for each in found]) for kind in KINDS}


def document(found: dict[str, Coverage]) -> dict[str, Any]:
    """As JSON."""
    return {kind: {**each._asdict(), "share": each.share, "holds": each.holds} for kind, each in found.items()}
