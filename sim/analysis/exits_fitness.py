"""Whether a scenario that was fitted to VM exits alone has the exits of its trace: the two side by side.

The simulated host is recorded with KVM's events, and its recording goes through the code that the trace went through.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.analysis.fitness import BLOCKS, BUSY, ENOUGH, EXITS_BY, RATE, Compared, half_of
from sim.analysis.recorded_run import RecordedRun
from sim.host.watching import window
from sim.processes import in_processes
from sim.scenario.cases import Case, cases
from sim.scenario.reading import read
from sim.trace.exits import Exits, exits
from sim.trace.fit.exits_writing import measure
from sim.trace.fit.guests import HALT, FittedExits, reason_of
from sim.trace.fit.tally import ENTRIES, ROUND_TRIPS
from sim.trace.reading.events import EVENTS

VM_EXITS: Final = "VM exits"
HALTS: Final = "halts"
GUEST: Final = "time in the guest"
RECORDED: Final = frozenset(each for each in EVENTS if each.startswith("kvm_"))
MOST_EXITS: Final = 5_000
"""A replication of the check is as long as this many exits of the trace, or as the scenario measures."""

Instants = NDArray[np.int64]


def side_by_side(fitted: FittedExits, trace: Exits, scenario: Path, replications: int, jobs: int,
                 step: Callable[[], None] = lambda: None) -> list[Compared]:  # fmt: skip
    """What the trace and ``replications`` replications of its scenario have per second, and how far they may differ.

    ``jobs`` are processes; ``step`` is called after each replication.
    """
    (case,) = cases(read(scenario))
    seconds = min(measure(fitted), max(0.02, MOST_EXITS / max(1.0, fitted.per_second)))
    run = case.scenario.run.model_copy(update={"measure": seconds})
    case = replace(case, scenario=case.scenario.model_copy(update={"run": run}))
    simulated = in_processes(_counted, [(case, number) for number in range(replications)], jobs, step)
    instants, guest_ns = _instants(trace), sum(vcpu.guest_ns for vcpu in trace.vcpus)
    begin, end = trace.report.first_ns or 0, trace.report.last_ns
    found = []
    for name in dict.fromkeys([*instants, *(name for rates, _ in simulated for name in rates)]):
        rate = sum(rates.get(name, 0.0) for rates, _ in simulated) / len(simulated)
        found.append(_compared(name, instants.get(name, np.empty(0, np.int64)), rate, begin, end))
    share = guest_ns / ((end - begin) * len(trace.vcpus))
    there = sum(each for _, each in simulated) / len(simulated)
    enough = trace.exits >= ENOUGH
    low, high = (max(0.0, share - BUSY), min(1.0, share + BUSY)) if enough else (None, None)
    return [*found, Compared(GUEST, "share", share, there, low, high, trace.exits)]


def _compared(name: str, at_ns: Instants, simulated: float, begin: int, end: int) -> Compared:
    seconds = (end - begin) * 1e-9
    rate = len(at_ns) / seconds
    if len(at_ns) < ENOUGH:
        return Compared(name, "1/s", rate, simulated, None, None, len(at_ns))
    blocks = np.histogram(at_ns, np.linspace(begin, end, BLOCKS + 1))[0].astype(np.float64)
    half = max(RATE * rate, half_of(blocks) * BLOCKS / seconds)
    return Compared(name, "1/s", rate, simulated, rate - half, rate + half, len(at_ns))


def _instants(found: Exits) -> Mapping[str, Instants]:
    """By figure, when it happened."""
    by_reason: dict[str, list[Instants]] = {}
    for vcpu in found.vcpus:
        for (reason, _), kind in vcpu.kinds.items():
            by_reason.setdefault(reason_of(reason), []).append(np.array(kind.at_ns, np.int64))
    halts = by_reason.pop(HALT, [])
    all_of_them = _together([*halts, *(each for several in by_reason.values() for each in several)])
    instants = {
        VM_EXITS: all_of_them,
        ENTRIES: np.array(found.entries_ns, np.int64),
        ROUND_TRIPS: np.array(found.returns_ns, np.int64),
        HALTS: _together(halts),
        **{EXITS_BY + reason: _together(several) for reason, several in sorted(by_reason.items())},
    }
    return {name: at for name, at in instants.items() if len(at)}


def _together(several: Sequence[Instants]) -> Instants:
    return np.concatenate(several) if several else np.empty(0, np.int64)


def _counted(work: tuple[Case, int]) -> tuple[dict[str, float], float]:
    """Rates of a replication by figure, and the share of their time that its vCPUs were in the guest."""
    case, replication = work
    text = "\n".join(RecordedRun(case, case.timed_by, replication, only=RECORDED).lines()) + "\n"
    found = exits(io.BytesIO(text.encode()), f"replication {replication}")
    begin, end = (round(cycles * 1e9 / case.tsc_hz) for cycles in window(case))
    seconds = (end - begin) * 1e-9
    rates = {name: float(((begin < at) & (at < end)).sum()) / seconds for name, at in _instants(found).items()}
    guest_ns = 0.0
    for vcpu in found.vcpus:
        at = np.concatenate([np.array(kind.at_ns, np.int64) for kind in vcpu.kinds.values()])
        clock = np.concatenate([np.array(kind.guest_ns, np.int64) for kind in vcpu.kinds.values()])
        order = np.argsort(at)
        guest_ns += float(np.diff(np.interp((begin, end), at[order], clock[order]))[0])
    vcpus = sum(guest.vms * guest.vcpus for guest in case.scenario.guests.values())
    return rates, guest_ns / (vcpus * (end - begin))
