"""A comparison as text, JSON, figures (``plot_*``) and in Jupyter."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sim.analysis import comparison
from sim.analysis.answers import Answers
from sim.report import (
    answer,
    contrast_figure,
    document,
    figures,
    html_answer,
    mail,
    rate_figure,
    schedule_figure,
    summary,
    units,
    words,
)
from sim.report import html as page
from sim.report.layout import item
from sim.report.markup import element
from sim.report.shown import SCHEDULE, Shown, shown
from sim.report.uncertainty import Uncertainty
from sim.results import load
from sim.results.tables import Results, described

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(results: Results | str | os.PathLike[str], reference: str | None = None) -> Comparison:
    """Compares the strategies of each case with ``reference``, by default the scenario's.

    ``results`` may also be a result directory.  Raises :class:`~sim.errors.InputError` if a case has no results for
    that strategy, and for a directory without complete results.
    """
    return Comparison(load(results) if isinstance(results, str | os.PathLike) else results, reference)


class Comparison(comparison.Comparison):
    """A comparison of strategies; printing it gives the first screen of ``fpswitch run``."""

    @cached_property
    def answers(self) -> Answers:
        """What the strategies' own operations cost, in each case, and how sure that is."""
        return Answers(self)

    @cached_property
    def screen(self) -> Shown:
        """What the first screen, the mail and the report show."""
        return shown(self, self.answers)

    def __str__(self) -> str:
        return self.answer()

    def __repr__(self) -> str:
        return f"<Comparison of {self.results!r}; print() it, or see its df_* and plot_* methods>"

    def _repr_html_(self) -> str:
        """What Jupyter shows: the first screen, its tables with all strategies."""
        return element("div", html_answer.heading(self.screen), html_answer.body(self.screen))

    def answer(self) -> str:
        """The answer, how sure it is and what it rests on, as plain text: at most 40 lines of 72 columns."""
        return answer.text(self.screen)

    def mail(self) -> str:
        """The answer for a mail: at most 15 lines of 72 columns."""
        return mail.text(self.screen)

    def report(self) -> str:
        """The comparison as one HTML page that needs nothing else."""
        return page.page(self.screen, self._figures())

    def rates(self) -> pd.DataFrame:
        """The load that was simulated, by case, per vCPU-second (per CPU-second on a host without vCPUs).

        Columns: case, per, exits, switches, kvm_runs, halts, load_puts, busy (the share of all CPU time), and the
        columns that describe the case.
        """
        lines = [
            {"case": case["case"], "per": "vCPU" if case["vcpus"] else "CPU", **asdict(self.answers.load(case["case"]))}
            for case in self.results.cases
        ]
        return described(pd.DataFrame(lines), self.results.cases)

    def uncertainty(self, draws: int = 10_000, seed: int = 1) -> Uncertainty:
        """How sure the ranking is over ``draws`` draws of the costs, which cost decides it, what to measure next."""
        return Uncertainty(self.whole, draws, seed)

    def summary(self) -> str:
        """All tables as plain text, at most 72 columns wide unless a word of a command is longer."""
        return summary.text(self, item(units.LABEL, " ".join(units.sentences(self.screen)), break_words=False))

    def document(self) -> dict[str, Any]:
        """The comparison as ``fpswitch run --json`` prints it."""
        return document.document(self, self.answers)

    def plot_cost(self) -> Figure:
        """Own operations by strategy: with intervals over the replications and, separately, ranges over the costs."""
        return figures.cost(self, self.answers)

    def plot_categories(self) -> Figure:
        """Where the cycles go."""
        return figures.categories(self)

    def plot_rates(self) -> Figure:
        """Cost against the rates of VM exits and of context switches, with break-even points."""
        return rate_figure.against_rates(self, self.answers)

    def plot_latency(self) -> Figure:
        """How the host reacts: latencies in independent runs, compared with the reference.

        Raises :class:`~sim.errors.InputError` without such runs: on one schedule all strategies have the same
        latencies.
        """
        return figures.latency(self)

    def plot_contrasts(self) -> Figure:
        """How much more one case costs than another, for the contrasts of two cases that are asked about."""
        return contrast_figure.of_pairs(self.screen)

    def plot_schedule(self) -> Figure:
        """What the schedule shows: polling, steal, latency and throughput, over the keys that the scenario sweeps."""
        return schedule_figure.outcome(self)

    def _figures(self) -> dict[str, Callable[[], Figure]]:
        """The functions that draw the figures for which the results have data, by name."""
        drawn = {
            "cost": self.plot_cost,
            "categories": self.plot_categories,
            "rates": self.plot_rates,
            "latency": self.plot_latency,
            "schedule": self.plot_schedule,
            "contrasts": self.plot_contrasts,
        }
        if not words.of_two_cases_alone(self.screen):
            del drawn["contrasts"]
        if SCHEDULE not in self.results.manifest["resolved"]["run"].get("asks", ()):
            del drawn["schedule"]
        if all(len(case["strategies"]) == 1 for case in self.results.cases):  # there is nothing to compare
            del drawn["cost"], drawn["rates"]
        if not any(case["vcpus"] for case in self.results.cases):
            drawn.pop("rates", None)
        if not figures.has_latency(self):
            del drawn["latency"]
        return drawn

    def write_figures(self, directory: Path) -> list[Path]:
        """Draws all figures that the results have data for into ``directory``, as PNG and SVG; returns the files."""
        from matplotlib import rc_context

        directory.mkdir(parents=True, exist_ok=True)
        written = []
        for name, draw in self._figures().items():
            figure = draw()
            png, svg = directory / f"{name}.png", directory / f"{name}.svg"
            figure.savefig(png, dpi=130)
            with rc_context({"svg.hashsalt": "fpswitch"}):  # the same figure is the same file
                figure.savefig(svg, metadata={"Date": None})
            written += [png, svg]
        return written
