"""How hosts differ that schedule by different rules: preemptions, interrupts, wake-up latency, overhead."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from sim.report.amounts import fixed, three_digits
from sim.report.layout import Part, part
from sim.report.markup import Cell, Markup, Number, joined, table
from sim.report.shown import Shown, ShownCase

RULES: Final = ("host.preemption", "host.hrtick")
"""Keys of a sweep that change how the same load is scheduled."""

LABEL: Final = 24
COLUMN: Final = 9
HEAD: Final = ("preempt.", "interr.", "wake p50", "p99", "% CPU")
CAPTION: Final = "per s of a CPU; us from wake-up to VM entry; operations"


class Scheduled(NamedTuple):
    """A case: preemptions and interrupts per second of a CPU, quantiles of the time from the wake-up of a vCPU to its
    VM entry in microseconds, and the share of all CPUs that the listed operations take, in %; NaN: none."""

    case: ShownCase
    preemptions: float
    interrupts: float
    p50: float
    p99: float
    operations: float

    @property
    def cells(self) -> list[Number]:
        """What is in each column."""
        rates = [Number(each, fixed(each, 0)) for each in (self.preemptions, self.interrupts)]
        waits = [Number(each, three_digits(each)) for each in (self.p50, self.p99)]
        return [*rates, *waits, Number(self.operations, fixed(self.operations, 3))]


def scheduled(screen: Shown) -> list[Scheduled]:
    """All cases, if the sweep has one of :data:`RULES`; otherwise none."""
    swept = {path for case in screen.cases for path in case.document["sweep"]}
    if not swept & set(RULES):
        return []
    comparison = screen.comparison
    rates = comparison.df_schedule().set_index(["case", "metric"])["mean"].to_dict()
    latency = comparison.df_latency()
    waits = latency[latency["histogram"] == "vcpu"].set_index(["case", "quantile"])["us"].to_dict()
    metrics = comparison.df_metrics()
    shares = metrics[metrics["metric"] == "cpu_share"].set_index(["case", "strategy"])["mean"].to_dict()
    return [
        Scheduled(
            case,
            rates.get((case.name, "preemptions_per_second"), math.nan) / case.document["cpus"],
            rates.get((case.name, "interrupts_per_second"), math.nan) / case.document["cpus"],
            waits.get((case.name, "p50"), math.nan),
            waits.get((case.name, "p99"), math.nan),
            shares.get((case.name, case.document["timed_by"]), math.nan),
        )
        for case in screen.cases
    ]


def part_of(screen: Shown) -> Part:
    """A line for each case."""
    found = scheduled(screen)
    if not found:
        return part([])
    lines = [_row(f"  {each.case.short}", [cell.text for cell in each.cells]) for each in found]
    return part([f"SCHEDULE ({CAPTION})", _row(f"  {screen.heading}", HEAD), *lines], gap=False)


def _row(label: str, cells: Sequence[str]) -> str:
    return label[: LABEL - 1].ljust(LABEL) + "".join(cell.rjust(COLUMN) for cell in cells)


def html(screen: Shown) -> Markup:
    """The same as a table that can be sorted."""
    found = scheduled(screen)
    if not found:
        return joined([])
    rows: list[list[Cell]] = [[each.case.title, *each.cells] for each in found]
    return table(("case", *HEAD), rows, caption=CAPTION)
