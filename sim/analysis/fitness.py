"""Whether a fitted scenario shows what its trace shows: the two side by side, with what may lie between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.trace.fit.estimate import Figures

ENOUGH: Final = 100
"""Counts below this are shown and not compared."""
RATE: Final = 0.15
SKIPPED: Final = 0.02
BUSY: Final = 0.05


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of trace and simulation in ``unit``; ``low`` and ``high`` bound what holds, None: too few samples."""

    what: str
    unit: str
    trace: float
    simulated: float
    low: float | None
    high: float | None
    samples: int

    @property
    def holds(self) -> bool | None:
        """None if there were too few samples to say."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.simulated <= self.high

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "figure": self.what,
            "unit": self.unit,
            "trace": self.trace,
            "simulated": self.simulated,
            "low": self.low,
            "high": self.high,
            "samples": self.samples,
            "holds": self.holds,
        }


def side_by_side(trace: Figures, simulated: Figures) -> list[Compared]:
    """Rates within 15 % or the 95 % interval of the trace's own count, whichever is wider; the rest in points."""
    found = [
        _rate("context switches", trace.switches, trace.seconds, simulated.switches / simulated.seconds),
        _rate("KVM_RUN round trips", trace.round_trips, trace.seconds, simulated.round_trips / simulated.seconds),
    ]
    restores = round(trace.restored + trace.skipped)
    for what, value, other, points, samples in (
        ("skipped restores", _share(trace), _share(simulated), SKIPPED, restores),
        ("CPU utilisation", trace.busy, simulated.busy, BUSY + trace.unsure, ENOUGH),
    ):
        enough = samples >= ENOUGH
        low, high = (max(0.0, value - points), min(1.0, value + points)) if enough else (None, None)
        found.append(Compared(what, "share", value, other, low, high, samples))
    return found


def _share(figures: Figures) -> float:
    total = figures.restored + figures.skipped
    return figures.skipped / total if total else 0.0


def _rate(what: str, count: float, seconds: float, simulated: float) -> Compared:
    """The interval of a count is that of a Poisson variable's mean, by its exact relation to chi-squared."""
    from scipy.stats import chi2

    rate, samples = count / seconds, round(count)
    low = high = None
    if samples >= ENOUGH:
        low = min((1 - RATE) * rate, float(chi2.ppf(0.025, 2 * count)) / 2 / seconds)
        high = max((1 + RATE) * rate, float(chi2.ppf(0.975, 2 * count + 2)) / 2 / seconds)
    return Compared(what, "1/s", rate, simulated, low, high, samples)


def figures(metrics: Mapping[str, float], restored: float, skipped: float, cpus: int, tsc_hz: float) -> Figures:
    """Those of simulated replications, from sums of their metrics and ledgers."""
    elapsed = metrics["elapsed_cycles"]
    return Figures(
        seconds=elapsed / cpus / tsc_hz,
        switches=metrics["context_switches"],
        round_trips=metrics["kvm_run_round_trips"],
        restored=restored,
        skipped=skipped,
        busy=1 - metrics["idle_cycles"] / elapsed,
    )


def holds(compared: Sequence[Compared]) -> bool:
    """Whether nothing that could be compared misses."""
    return all(each.holds is not False for each in compared)
