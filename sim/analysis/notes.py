"""What a reader has to know of the estimates of a run before trusting them."""

from collections.abc import Iterator

import numpy as np

from sim.analysis import contrasts, estimates, metrics
from sim.analysis.compared import Compared


def notes(comparison: Compared) -> list[str]:
    """Sentences: a precision that was not reached, and heavy tails."""
    return [*_precision(comparison), *_heavy_tails(comparison)]


def _precision(comparison: Compared) -> Iterator[str]:
    manifest = comparison.results.manifest
    rule = manifest.get("stopping")
    if rule and rule["reached"] is not None and rule["reached"] > rule["precision"]:
        a, b = rule["widest"]
        yield (
            f"Precision not reached: after {manifest['replications']} replications, the most that were allowed, {a} "
            f"less {b} is known to +- {rule['reached']:.1%} of the largest difference that is asked about in its case; "
            f"{rule['precision']:.1%} was asked for."
        )


def _heavy_tails(comparison: Compared) -> Iterator[str]:
    found = comparison.by_replication(metrics.COST)
    cost = found.pivot(index=["case", "replication"], columns="strategy", values="value")
    asked = [(a.case, a.strategy, b.strategy) for a, b in contrasts.planned(comparison.results) if a.case == b.case]
    asked += [
        (case["case"], strategy, reference)
        for case in comparison.results.cases
        for strategy in case["strategies"]
        if strategy != (reference := comparison.references[case["case"]])
    ]
    violating = {case["case"]: comparison.violating(case["case"]) for case in comparison.results.cases}
    pairs = [pair for pair in dict.fromkeys(asked) if violating[pair[0]].isdisjoint(pair[1:])]
    for case, a, b in pairs:
        here = cost.loc[case] if case in cost.index else cost.head(0)
        values = (here[a] - here[b]).dropna().to_numpy()
        if estimates.has_heavy_tails(values, len(pairs)):
            deviations = (values - values.mean()) ** 2
            few = int(np.searchsorted(np.cumsum(np.sort(deviations)[::-1]), deviations.sum() / 2)) + 1
            yield (
                f"Heavy tails: in {case}, {few} of {len(values)} replications make half of the variance of {a} less "
                f"{b}. Mean and interval rest on how many such replications there happen to be: run more of them, or "
                "longer ones."
            )
