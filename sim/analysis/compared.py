"""What is needed of a comparison by the files that it is made of."""

from collections.abc import Container, Mapping
from typing import Protocol

import pandas as pd

from sim.analysis.feedback import Values
from sim.results.tables import Results


class Compared(Protocol):
    """A :class:`~sim.analysis.comparison.Comparison`, which says what each of these is."""

    results: Results

    @property
    def references(self) -> Mapping[str, str]:
        """The reference of each case."""

    @property
    def planned(self) -> Container[tuple[str, str]]:
        """Differences to references that were planned: a case, and a strategy."""

    @property
    def feedback_by_replication(self) -> Values | None:
        """What the independent runs show, if there are any."""

    def df_schedule(self) -> pd.DataFrame: ...
    def by_replication(self, metric: str) -> pd.DataFrame: ...
    def df_differences(self) -> pd.DataFrame: ...
    def df_law(self) -> pd.DataFrame: ...
    def df_law_check(self) -> pd.DataFrame: ...
    def violating(self, case: str) -> frozenset[str]: ...
