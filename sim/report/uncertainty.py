"""How sure a ranking is, as an object to look at: what `fpswitch uncertainty` prints, and its numbers as frames."""

import html
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from sim.analysis.uncertainty.report import CaseReport, as_document, read_cases, report
from sim.report.uncertainty_text import as_text, heading

if TYPE_CHECKING:
    from sim.results.tables import Results

RANKING: Final = (
    "case", "strategy", "xss", "mean", "costs_low", "costs_high", "joint_low", "joint_high", "cheapest",
)  # fmt: skip


class Uncertainty:
    """All cases of ``results`` priced with ``draws`` draws of their cost tables; printed, it is the command's text.

    Differences are to the reference of each case, in TSC cycles per vCPU-second (CPU-second); ``xss`` is whether the
    switching of IA32_XSS is in them.  :attr:`documents` is what ``fpswitch uncertainty --json`` has of each case.

    Raises :class:`~sim.errors.InputError` for a case with a single strategy, which has no ranking.
    """

    def __init__(self, results: "Results", draws: int, seed: int) -> None:
        self.documents: list[dict[str, Any]] = []
        texts = [heading(draws, seed)]
        for coefficients in read_cases(results):  # one at a time, to keep the draws of one case only
            each: CaseReport = report(coefficients, draws=draws, seed=seed)
            self.documents.append(as_document(each))
            texts.append(as_text(each))
        self._text = "\n\n".join(texts)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        cases = ", ".join(each["case"] for each in self.documents)
        return f"<Uncertainty of {cases}; print() it, or see its df_* methods>"

    def _repr_html_(self) -> str:
        """What Jupyter shows: the ranking, and what to measure next."""
        tables = (("How sure the ranking is", self.df_ranking()), ("What to measure next", self.df_measure_next()))
        return "".join(f"<h4>{html.escape(title)}</h4>{frame.to_html(index=False)}" for title, frame in tables)

    def df_ranking(self) -> pd.DataFrame:
        """By case, strategy and xss: the difference, its ranges, and the probability that no other is cheaper.

        mean: each cost row at its value; costs_low, costs_high: the middle 95 % of the draws; joint_low, joint_high: of
        draws and replications together; cheapest: a probability, absent for strategies that carry nothing.
        """
        lines = []
        for document, view in self._views():
            for strategy, found in view["strategies"].items():
                moved = found["difference"]
                ends = [moved[which][end] for which in ("costs", "joint") for end in ("low", "high")]
                at_values = moved["replications"]["mean"]
                lines.append((document["case"], strategy, view["xss"], at_values, *ends, found["cheapest"]))
        return pd.DataFrame(lines, columns=list(RANKING))

    def df_cheaper(self) -> pd.DataFrame:
        """By case, xss and every two strategies: the probability that ``a`` costs less than ``b``."""
        lines = [
            (document["case"], view["xss"], a, b, probability)
            for document, view in self._views()
            for a, others in view["cheaper"].items()
            for b, probability in others.items()
        ]
        return pd.DataFrame(lines, columns=["case", "xss", "a", "b", "probability"])

    def df_measure_next(self) -> pd.DataFrame:
        """By case and xss: what would make the ranking most certain if it were known, and by how much."""
        lines = [
            (document["case"], view["xss"], gain["factor"], gain["reduction"], gain["doubt"])
            for document, view in self._views()
            for gain in view["measure_next"]
        ]
        return pd.DataFrame(lines, columns=["case", "xss", "factor", "reduction", "doubt"])

    def df_break_even(self) -> pd.DataFrame:
        """By case, xss and cost row: the value, in the row's clock, at which two strategies cost the same."""
        keys = ("xss", "cheaper", "more_expensive", "row", "value", "now", "low", "high")
        lines = [
            {"case": document["case"], **{key: turn[key] for key in keys}}
            for document in self.documents
            for turn in document["break_even"]
        ]
        return pd.DataFrame(lines, columns=["case", *keys])

    def _views(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The views with the distributions of the table."""
        return [
            (document, view)
            for document in self.documents
            for view in document["views"]
            if view["distributions"] == "table"
        ]
