"""When a run has enough replications.

``run.replications``, where given, is exact.  Otherwise a run ends when each difference that is asked about is known to
+- ``run.precision`` of the largest of its case, at 95 %: own operations on one schedule, the cycles of IA32_XSS among
them.  Asked about are the planned contrasts, and in a case that has none the differences from the reference.  A
strategy that is documented as unsound, or was caught, has no comparable cost and does not count.

The rule looks at replications 0 to n-1, for certain n one after the other, and at nothing else; so n is the same
whatever the number of workers, and whichever replication ended first.

A sequential rule stops too early rather than too late: it ends where the standard deviation happens to look small, and
then the interval, which is made from it, is too narrow (Y. S. Chow and H. Robbins, Ann. Math. Statist. 36, 1965, pp.
457-462: right in the limit only).  Two things keep the loss small: few looks, each a fifth further than the last, and
a standard deviation taken at its upper 70 % limit.  docs/statistics.md has the coverage that is left.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, Final

from sim.kernel.config import strategy_of
from sim.results.record import Finished
from sim.scenario.cases import Case, contrasts
from sim.scenario.contrasts import Contrast, Operand
from sim.scenario.run_schema import Run
from sim.scenario.schema import Scenario

LEVEL: Final = 0.95
GROWTH: Final = 1.2
"""From one look to the next."""
CAUTION: Final = 0.8
"""The upper limit at which the standard deviation is taken."""
UNLIKELY: Final = 0.01
"""How likely it is that the standard deviation is so small that the rule stops before what runs next is done."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where the rule stopped: ``replications`` in each case.

    ``reached``: the largest half-width of a 95 % interval, as a share of the largest difference of its case; ``widest``
    is the difference it belongs to.  None if nothing was asked about, or a number of replications was.
    """

    replications: int
    reached: float | None = None
    widest: Contrast | None = None


class Rule:
    """The rule of one run; it receives finished replications in any order, and says whether they are enough."""

    def __init__(self, scenario: Scenario, cases: Sequence[Case]) -> None:
        self.run = scenario.run
        self.looks = _looks(*scenario.run.replication_bounds)
        self._cases = {case.name: case for case in cases}
        self._groups = [group for group in _asked(scenario, cases) if group]
        self._precision = scenario.run.precision or math.inf
        self._cycles: dict[tuple[str, str], array[int]] = {}
        self._caught: dict[tuple[str, str], int] = {}

    def take(self, finished: Finished) -> None:
        """A replication is finished; those on a strategy's own schedule say nothing here."""
        if finished.timed_by != self._cases[finished.case].timed_by:
            return
        of, n = (finished.case, finished.strategy), finished.replication
        cycles = self._cycles.setdefault(of, array("q"))
        if n >= len(cycles):
            cycles.extend(array("q", [0]) * (n + 1 - len(cycles)))
        cycles[n] = finished.cycles
        if finished.caught:
            self._caught[of] = min(n, self._caught.get(of, n))

    def cycles(self, case: str, strategy: str) -> Sequence[int]:
        """What has been taken of a strategy, by replication."""
        return self._cycles[case, strategy]

    def look(self, there: int) -> Stopped | int:
        """Where the rule stops within replications 0 to ``there`` - 1, all of which have been taken.

        If it does not, the number of replications that it wants to see next.
        """
        ratio, n = 0.0, 0
        for n in (n for n in self.looks if n <= there):
            ratio, stopped = self._seen(n)
            if n == self.looks[-1] or stopped.reached is None or ratio * _caution(n) <= self._precision:
                return stopped
        more = [n for n in self.looks if n > there]
        least = _limit(n, UNLIKELY) * ratio * _caution(n) if n > 1 else 0.0
        needed = n * min((least / self._precision) ** 2, float(self.looks[-1]))
        return max([n for n in more if n <= needed], default=more[0])

    def _seen(self, n: int) -> tuple[float, Stopped]:
        """The largest half-width as a share of the largest difference of its group; infinite for one replication."""
        worst: tuple[float, Contrast] | None = None
        for group in self._groups if self.run.precision is not None else ():
            found = {pair: self._differences(pair, n) for pair in group if self._compared(pair, n)}
            largest = max((abs(fmean(each)) for each in found.values()), default=0.0)
            for pair, each in found.items():
                half = _half_width(each)
                ratio = half / largest if largest else math.inf if half else 0.0
                worst = max(worst or (-1.0, pair), (ratio, pair), key=lambda each: each[0])
        return (0.0, Stopped(n)) if worst is None else (worst[0], Stopped(n, *worst))

    def _compared(self, pair: Contrast, n: int) -> bool:
        """Whether both are sound, as far as has been seen in replications 0 to n-1."""
        return not any(
            self._caught.get((each.case, each.strategy), n) < n or _documented(self._cases[each.case], each.strategy)
            for each in pair
        )

    def _differences(self, pair: Contrast, n: int) -> list[float]:
        """``a`` less ``b`` by replication: TSC cycles per second, or seconds where their clocks differ."""
        clocks = {self._cases[each.case].tsc_hz for each in pair}
        scale_a, scale_b = (self._scale(each, in_seconds=len(clocks) > 1) for each in pair)
        of_a, of_b = (self._cycles[each.case, each.strategy] for each in pair)
        return [of_a[i] * scale_a - of_b[i] * scale_b for i in range(n)]

    def _scale(self, of: Operand, *, in_seconds: bool) -> float:
        case = self._cases[of.case]
        per = sum(guest.vms * guest.vcpus for guest in case.scenario.guests.values()) or case.scenario.host.cpus
        return 1 / (per * case.scenario.run.measure * (case.tsc_hz if in_seconds else 1.0))


def _looks(fewest: int, most: int) -> tuple[int, ...]:
    found = [fewest]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, math.floor(GROWTH * found[-1]))))
    return tuple(found)


def _asked(scenario: Scenario, cases: Sequence[Case]) -> list[list[Contrast]]:
    """The differences that are asked about, those of a case (or of a pair of cases) together."""
    planned = contrasts(scenario, cases)
    by_cases: dict[tuple[str, str], list[Contrast]] = {}
    for pair in planned:
        by_cases.setdefault((pair.a.case, pair.b.case), []).append(pair)
    named = {each.case for pair in planned for each in pair}
    unplanned = [
        [
            Contrast(Operand(name, case.name), Operand(case.reference, case.name))
            for name in case.strategies
            if name != case.reference
        ]
        for case in cases
        if case.name not in named
    ]
    return [*by_cases.values(), *unplanned]


def _documented(case: Case, name: str) -> bool:
    settings = case.settings(name)
    return bool(strategy_of(settings).why_unsound(settings.host_shadow_stacks))


def _half_width(differences: Sequence[float]) -> float:
    from scipy.special import stdtrit  # here, since not every run needs it

    n = len(differences)
    if n < 2:
        return math.inf
    return float(stdtrit(n - 1, (1 + LEVEL) / 2)) * stdev(differences) / math.sqrt(n)


def _limit(n: int, probability: float) -> float:
    """The factor to a standard deviation of n values below which the true one is with this probability."""
    from scipy.special import gammaincinv

    chi_squared = float(2 * gammaincinv((n - 1) / 2, 1 - probability))
    return math.sqrt((n - 1) / chi_squared)


def _caution(n: int) -> float:
    return _limit(n, CAUTION) if n > 1 else math.inf


def exactly(scenario: Scenario, n: int) -> Scenario:
    """The scenario with exactly ``n`` replications."""
    rule = dict.fromkeys(("precision", "min_replications", "max_replications"))
    return scenario.model_copy(update={"run": scenario.run.model_copy(update={"replications": n, **rule})})


def exact_case(case: Case, n: int) -> Case:
    """The case with exactly ``n`` replications."""
    return replace(case, scenario=exactly(case.scenario, n))


def document(run: Run, stopped: Stopped) -> Mapping[str, Any] | None:
    """What the manifest says of the rule: what was asked for and how far it came; None where replications are exact.

    {"precision", "min_replications", "max_replications", "reached", "widest": [A, B]}: shares of the largest difference
    of a case, and STRATEGY@CASE; the last two are null if nothing was asked about, or there is one replication.
    """
    if run.replications is not None:
        return None
    return {
        "precision": run.precision,
        "min_replications": run.min_replications,
        "max_replications": run.max_replications,
        "reached": stopped.reached if stopped.reached is not None and math.isfinite(stopped.reached) else None,
        "widest": [str(each) for each in stopped.widest] if stopped.widest else None,
    }
