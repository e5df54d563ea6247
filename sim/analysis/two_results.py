"""Two results side by side: kernels, CPUs, loads or versions of the tool, with an interval for each difference.

Where two cases are the same world (:func:`world`: seed, load and so the random streams), replication n of one is paired
with replication n of the other.  Otherwise they are independent samples, and Welch's test compares them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from sim.analysis import estimates, student
from sim.analysis.answers import Answers, Estimate, Load
from sim.analysis.uncertainty.coefficients import Array
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

What = Literal["cost", "own", "own_without_xss"]
"""All operations of the reference; a strategy's own operations, compared with its result's reference; and those without
IA32_XSS."""
WHATS: Final[tuple[What, ...]] = ("cost", "own", "own_without_xss")

NOT_OF_THE_LOAD: Final = (
    "replications", "precision", "min_replications", "max_replications", "strategies", "reference", "contrasts",
    "cases", "feedback", "timed_by", "batch", "integrity", "seed",
)  # fmt: skip
"""Keys of [run] that change nothing in what the host is asked to do."""
LOAD: Final = ("guests", "threads", "interrupts")


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of a strategy in two results; ``difference`` is b less a.

    Cycles per vCPU-second (CPU-second), or microseconds where the clocks differ.  ``p_adjusted`` is Holm's over all of
    the same quantity; ``verdict`` goes by it: "lower", "higher", "same", "not shown" or "not tested".
    """

    what: What
    strategy: str
    a: Estimate
    b: Estimate
    difference: Estimate
    p: float
    p_adjusted: float
    verdict: str


@dataclass(frozen=True, slots=True)
class CasePair:
    """A case of each result; ``n``: replications of each.

    ``differs``: keys of the scenario with both values; ``not_paired``: those of the worlds, where they are not the
    same.  ``unsound``: strategies that violate integrity in one of them, or are known to.
    """

    a: str
    b: str
    paired: bool
    n: tuple[int, int]
    differs: tuple[tuple[str, Any, Any], ...]
    load_a: Load
    load_b: Load
    not_paired: tuple[tuple[str, Any, Any], ...]
    unsound: tuple[str, ...]
    found: tuple[Compared, ...]


@dataclass(frozen=True, slots=True)
class TwoResults:
    """All pairs of cases; ``alone``: names of cases that only a has, and only b.  ``tool``: versions that differ."""

    pairs: tuple[CasePair, ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]
    tool: tuple[tuple[str, str, str], ...]


def two_results(a: "Comparison", b: "Comparison") -> TwoResults:
    """Compares ``b`` with ``a``.

    Raises :class:`~sim.errors.InputError` if no case of one goes with a case of the other, or if they have no strategy
    in common.
    """
    matched = list(match(a.results.cases, b.results.cases))
    if not matched:
        names = [", ".join(repr(case["case"]) for case in each.results.cases[:3]) for each in (a, b)]
        raise InputError(
            f"nothing to compare: the first result has {names[0]}, the second {names[1]} (allowed: the same cases, but "
            "for the CPU or the kernel where each result has one of these; or a single case in each)"
        )
    of_a, of_b = Answers(a), Answers(b)
    raw = [_pair(a, b, of_a, of_b, one, other) for one, other in matched]
    if not any(pair.found for pair in raw):
        raise InputError("nothing to compare: the results have no strategy in common")
    alone = [
        tuple(case["case"] for case in each.results.cases if case not in [pair[i] for pair in matched])
        for i, each in enumerate((a, b))
    ]
    tool = tuple(_tool(a.results.manifest, b.results.manifest))
    return TwoResults(tuple(_adjusted(raw)), (alone[0], alone[1]), tool)


Case = Mapping[str, Any]


def match(a: Sequence[Case], b: Sequence[Case]) -> Iterator[tuple[Case, Case]]:
    """Cases that go together: of one CPU, kernel and point of the sweep, as far as both results have more than one."""
    if len(a) == len(b) == 1:
        yield a[0], b[0]
        return
    keys: list[str] = []
    for key in ("cpu", "kernel"):
        values = [{case[key] for case in cases} for cases in (a, b)]
        if not len(values[0]) == len(values[1]) == 1:
            keys.append(key)

    def place(case: Case) -> tuple[Any, ...]:
        return (*(case[key] for key in keys), tuple(sorted(case["sweep"].items())))

    there = {place(case): case for case in b}
    for case in a:
        if place(case) in there:
            yield case, there[place(case)]


def world(manifest: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """What decides which random numbers a replication meets: seed, load, CPUs, times, and the generator."""
    resolved = case["resolved"]
    run = {key: value for key, value in resolved["run"].items() if key not in NOT_OF_THE_LOAD}
    found = {"run": run, "cpus": case["cpus"], "seed": manifest["seed"], "numpy": manifest["versions"].get("numpy")}
    return found | {key: resolved.get(key, {}) for key in LOAD}


def differing(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two documents differ, with both values; None where one lacks it."""
    for key in dict.fromkeys((*a, *b)):
        one, other = a.get(key), b.get(key)
        here = f"{path}{key}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differing(one, other, f"{here}.")
        elif one != other:
            yield here, one, other


def _tool(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in ("fpswitch", "source_sha256"):
        one, other = a["versions"][name], b["versions"][name]
        if one != other:
            yield name, one, other


def _scenario(case: Case) -> dict[str, Any]:
    """What a case is, without what only says how often and with which strategies it runs."""
    resolved = dict(case["resolved"])
    resolved["run"] = {key: value for key, value in resolved["run"].items() if key not in NOT_OF_THE_LOAD}
    costs = {"cost table": case["cost_table_sha256"]}
    return {key: value for key, value in resolved.items() if key not in ("title", "question", "sweep")} | costs


def _pair(a: "Comparison", b: "Comparison", of_a: Answers, of_b: Answers, one: Case, other: Case) -> CasePair:
    not_paired = tuple(differing(world(a.results.manifest, one), world(b.results.manifest, other)))
    paired = not not_paired
    unsound = {**a.unsound(one["case"]), **b.unsound(other["case"])}
    common = [name for name in one["strategies"] if name in other["strategies"]]
    same_clock = one["tsc_hz"] == other["tsc_hz"]
    per = "vCPU" if one["vcpus"] else "CPU"
    unit = f"cycles/{per}-s" if same_clock else f"us/{per}-s"
    scales = (1.0, 1.0) if same_clock else (1e6 / one["tsc_hz"], 1e6 / other["tsc_hz"])
    found = []
    sound = [name for name in common if name not in unsound]
    reference = next((name for name in sound if name == a.references[one["case"]]), *sound[:1]) if sound else ""
    for strategy in sound:
        # What the others cost in all is that and their own operations.
        for what in WHATS if strategy == reference else WHATS[1:]:
            samples = [
                _sample(answers, case["case"], strategy, comparison.references[case["case"]], what)
                for comparison, answers, case in ((a, of_a, one), (b, of_b, other))
            ]
            x, y = (None if sample is None else sample * scale for sample, scale in zip(samples, scales, strict=True))
            if x is not None and y is not None:
                found.append(_compared(what, strategy, x, y, unit, paired=paired))
    n = tuple(answers.replications(case["case"]) for answers, case in ((of_a, one), (of_b, other)))
    return CasePair(
        one["case"],
        other["case"],
        paired,
        (n[0], n[1]),
        tuple(differing(_scenario(one), _scenario(other))),
        of_a.load(one["case"]),
        of_b.load(other["case"]),
        not_paired,
        tuple(sorted(unsound)),
        tuple(found),
    )


def _sample(answers: Answers, case: str, strategy: str, reference: str, what: What) -> Array | None:
    """Values by replication; None for own operations of the reference itself."""
    if what == "cost":
        return answers.by_replication(case, strategy)[0]
    if strategy == reference:
        return None
    return answers.by_replication(case, strategy, reference)[1 if what == "own_without_xss" else 0]


def _compared(what: What, strategy: str, x: Array, y: Array, unit: str, *, paired: bool) -> Compared:
    moved, p = paired_difference(x, y, unit) if paired else welch_difference(x, y, unit)
    one, other = (estimate(each, unit) for each in (x, y))
    return Compared(what, strategy, one, other, moved, p, np.nan, "")


def estimate(values: Array, unit: str) -> Estimate:
    """Mean and t interval of a sample."""
    n, mean = len(values), float(values.mean())
    half = float(student.quantile(_UPPER, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    return Estimate(mean, mean - half, mean + half, unit, n)


_UPPER: Final = (1 + estimates.CONFIDENCE) / 2


def paired_difference(x: Array, y: Array, unit: str) -> tuple[Estimate, float]:
    """Mean of y - x over the replications that both have, its t interval, and the p-value of a paired t test."""
    n = min(len(x), len(y))
    moved = y[:n] - x[:n]
    spread = moved.std(ddof=1) if n > 1 else np.nan
    p = estimates.p_values(np.array([moved.mean()]), np.array([spread]), np.array([n]))
    return estimate(moved, unit), float(p[0])


def welch_difference(x: Array, y: Array, unit: str) -> tuple[Estimate, float]:
    """Difference of the means with Welch's interval and p-value; ``n`` is the smaller number of replications."""
    n, mean = min(len(x), len(y)), float(y.mean() - x.mean())
    constant = max(np.ptp(x), np.ptp(y)) <= estimates.ROUNDING * max(abs(x).max(), abs(y).max())
    if n < 2 or constant:
        half = 0.0 if n > 1 else np.nan
        return Estimate(mean, mean - half, mean + half, unit, n), np.nan
    from scipy.stats import ttest_ind  # half a second that others need not wait for

    found = ttest_ind(y, x, equal_var=False)
    interval = found.confidence_interval(estimates.CONFIDENCE)
    return Estimate(mean, float(interval.low), float(interval.high), unit, n), float(found.pvalue)


def _adjusted(pairs: Sequence[CasePair]) -> Iterator[CasePair]:
    """The pairs with p-values adjusted over all of one quantity, and verdicts."""
    adjusted: dict[tuple[int, int], float] = {}
    for what in WHATS:
        places = [(i, j) for i, pair in enumerate(pairs) for j, each in enumerate(pair.found) if each.what == what]
        p = estimates.holm(np.array([pairs[i].found[j].p for i, j in places], dtype=np.float64))
        adjusted.update(zip(places, p.tolist(), strict=True))
    for i, pair in enumerate(pairs):
        found = [_judged(each, adjusted[i, j]) for j, each in enumerate(pair.found)]
        yield replace(pair, found=tuple(found))


def _judged(each: Compared, p: float) -> Compared:
    moved = each.difference
    size = max(abs(each.a.mean), abs(each.b.mean))
    if moved.n < 2:
        verdict = "not tested"
    elif abs(moved.mean) <= estimates.ROUNDING * size and not moved.high - moved.low > 2 * estimates.ROUNDING * size:
        verdict = "same"
    elif p < 1 - estimates.CONFIDENCE or (np.isnan(p) and moved.low == moved.high):
        verdict = "lower" if moved.mean < 0 else "higher"
    else:
        verdict = "not shown"
    return replace(each, p_adjusted=p, verdict=verdict)
