"""The two estimates that results may hold: strategies on one schedule, and independent runs of each.

In each replication of a case one strategy times the host, and all follow its schedule: they differ only in their own
operations.  In an independent run a strategy times a host of its own: what differs besides is how the host reacts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from sim.errors import InputError
from sim.results.manifest import COMPLETE
from sim.results.tables import Lazy, Results


def walked(results: Results) -> Results:
    """The records of the schedules that all strategies walked.

    Results of version 0.1.0 have none (the case's "timed_by" is None): there each strategy timed its own.
    """
    timed_by = {case["case"]: case["timed_by"] for case in results.cases}

    def wanted(frame: pd.DataFrame) -> pd.Series:
        of_case = frame["case"].map(timed_by)
        return (frame["timed_by"] == of_case) | of_case.isna()

    return _only(results, wanted)


def independent(results: Results) -> Results:
    """The records of strategies that timed a host of their own."""
    return _only(results, lambda frame: frame["timed_by"] == frame["strategy"])


def has_feedback(results: Results) -> bool:
    """Whether there are independent runs of all strategies that are compared."""
    found = next(independent(results).pieces()).metrics  # which has them, if any has
    there = set(zip(found["case"], found["strategy"], strict=True))
    return all((case["case"], strategy) in there for case in results.cases for strategy in case["strategies"])


def finished(results: Results, case: Mapping[str, Any]) -> tuple[Iterator[pd.DataFrame], int]:
    """The ledger of a case (an entry of the manifest), some replications at a time, and how many it has of every
    strategy.

    What an incomplete run has for some strategies only is left out, and the rest is numbered from 0.  Raises
    :class:`~sim.errors.InputError` if nothing is left.
    """
    if results.manifest["status"] == COMPLETE:
        pieces = (piece.ledger for piece in results.pieces(case["case"]))
        return (ledger[ledger["case"] == case["case"]] for ledger in pieces), int(results.manifest["replications"])
    ledger = results.ledger[results.ledger["case"] == case["case"]]
    names = set(case["strategies"])
    there = ledger[ledger["strategy"].isin(names)].groupby("replication")["strategy"].nunique()
    numbers = {old: new for new, old in enumerate(there.index[there == len(names)])}
    if not numbers:
        raise InputError(f"case {case['case']}: no replication was finished for every strategy")
    ledger = ledger[ledger["replication"].isin(numbers)]
    return iter([ledger.assign(replication=ledger["replication"].map(numbers))]), len(numbers)


def _only(results: Results, wanted: Callable[[pd.DataFrame], pd.Series]) -> Results:
    return replace(results, tables=_rows(results.tables, wanted))


def _rows(
    tables: Mapping[str, pd.DataFrame], wanted: Callable[[pd.DataFrame], pd.Series]
) -> Mapping[str, pd.DataFrame]:
    def make(name: str) -> pd.DataFrame:
        return tables[name][wanted(tables[name])].reset_index(drop=True)

    if not isinstance(tables, Lazy):
        return {name: make(name) for name in tables}
    some = tables.some
    return Lazy(make, lambda *which: _rows(some(*which), wanted))
