"""What hosts do that are scheduled by different rules: preemptions, interrupts, wake-up latency, overhead."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from sim.report.amounts import fixed, three_digits
from sim.report.layout import Part, part
from sim.report.shown import Shown

RULES: Final = ("host.preemption", "host.hrtick")
"""Keys of a sweep by which the same load is scheduled otherwise."""

LABEL: Final = 24
COLUMN: Final = 9
HEAD: Final = ("preempt.", "interr.", "wake p50", "p99", "% CPU")
RATES: Final = ("preemptions_per_second", "interrupts_per_second")
QUANTILES: Final = ("p50", "p99")


def part_of(screen: Shown) -> Part:
    """A line for each case, where a sweep has one of :data:`RULES`."""
    swept = {path for case in screen.cases for path in case.document["sweep"]}
    if not swept & set(RULES):
        return part([])
    title = "SCHEDULE (per s of a CPU; us from wake-up to VM entry; operations)"
    return part([title, _row(f"  {screen.heading}", HEAD), *_rows(screen)], gap=False)


def _rows(screen: Shown) -> Iterator[str]:
    schedule, latency = screen.comparison.df_schedule(), screen.comparison.df_latency()
    shares = screen.comparison.df_metrics()
    shares = shares[shares["metric"] == "cpu_share"]
    operations = dict(zip(zip(shares["case"], shares["strategy"], strict=True), shares["mean"], strict=True))
    for case in screen.cases:
        here = schedule[schedule["case"] == case.name].set_index("metric")["mean"].to_dict()
        of_vcpus = latency[(latency["case"] == case.name) & (latency["histogram"] == "vcpu")]
        waits = of_vcpus.set_index("quantile")["us"].to_dict()
        cells = [fixed(here.get(metric, math.nan) / case.document["cpus"], 0) for metric in RATES]
        cells += [three_digits(waits.get(quantile, math.nan)) for quantile in QUANTILES]
        share = operations.get((case.name, case.document["timed_by"]), math.nan)
        yield _row(f"  {case.short}", [*cells, fixed(share, 3)])


def _row(label: str, cells: Sequence[str]) -> str:
    return label[: LABEL - 1].ljust(LABEL) + "".join(cell.rjust(COLUMN) for cell in cells)
