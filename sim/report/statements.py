"""Contrasts, and how the host reacts: the statements of a summary that are not about single strategies."""

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tabulate import tabulate

from sim.analysis.feedback import COSTS
from sim.analysis.metrics import latency_metric
from sim.report.amounts import si

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

WIDTH: Final = 72
Columns = Sequence[tuple[str, Callable[[str], str]]]
Table = Callable[[str, Columns], str]
"""Makes a table of a case from a title and columns: a head, and a function from strategy to cell."""

SHOWN: Final = (
    ("guest", "guest_cycles"),
    ("us/h-off", "us_per_handoff"),
    ("v p50", latency_metric("vcpu", "p50")),
    ("t p50", latency_metric("thread", "p50")),
)


def feedback(comparison: "Comparison", case: str, table: Table) -> list[str]:
    """How the host of a case reacts, from independent runs; empty without them."""
    found = comparison.df_feedback()
    found = found[found["case"] == case]
    rows = {(row["metric"], row["strategy"]): row for row in found.to_dict("records")}

    def cell(metric: str, strategy: str, column: str, form: Callable[[float], str]) -> str:
        row: dict[Any, Any] = rows.get((metric, strategy), {})
        value = float(row.get(column, math.nan))
        return form(value) if math.isfinite(value) else "-"

    def half(metric: str, strategy: str, ends: tuple[str, str], form: Callable[[float], str]) -> str:
        low, high = (float(rows.get((metric, strategy), {}).get(end, math.nan)) for end in ends)
        return form((high - low) / 2) if math.isfinite(high - low) else "-"

    if not rows:
        return []
    percent = partial(_fixed, decimals=2)
    return [
        table(
            "How the host reacts, from independent runs: the difference of the whole cost less that of own "
            "operations, with the writes of IA32_XSS (left) and without (right); most: the margin around 0 within "
            "which it is (two one-sided tests at 2.5 %, as with the 95 % interval):",
            [
                column
                for metric in COSTS
                for column in (
                    ("diff", partial(cell, metric, column="mean", form=partial(si, sign="+"))),
                    ("+-", partial(half, metric, ends=("low", "high"), form=si)),
                    ("most", partial(cell, metric, column="no_more_than", form=si)),
                )
            ],
        ),
        table(
            "Guest cycles, time per hand-off, and the median wake-up of vCPUs (v) and threads (t), from independent "
            "runs: paired differences in %, and the margin around 0 within which they are; a dash if half the "
            "interval is wider than the metric:",
            [
                column
                for head, metric in SHOWN
                for column in (
                    (head, partial(cell, metric, column="percent", form=partial(_fixed, decimals=2, sign="+"))),
                    ("most", partial(cell, metric, column="percent_no_more_than", form=percent)),
                )
            ],
        ),
    ]


def _fixed(value: float, decimals: int, sign: str = "") -> str:
    return f"{value:{sign}z.{decimals}f}"


def contrasts(comparison: "Comparison") -> str:
    """The planned contrasts, if there are any."""
    found = comparison.df_contrasts()
    if found.empty:
        return ""
    lines = [
        textwrap.fill(
            "What the scenario asks about: own operations of the first less those of the second, +- over replications, "
            "and the middle 95 % over draws of the costs; p is raw.",
            WIDTH,
        ),
        "",
    ]
    for row in found.to_dict("records"):
        where = f"{row['case']}: " if row["case"] else ""
        lines += textwrap.wrap(f"{where}{row['a']} less {row['b']}", WIDTH, subsequent_indent="  ")
        cells = [
            [f"  {name}", *_cells(row, of), f"{si(row[f'range_low{of}'])} to {si(row[f'range_high{of}'])}"]
            for name, of in (("with XSS", ""), ("without XSS", "_without_xss"))
        ]
        head = ["", row["unit"], "+-", "p", "over the costs"]
        lines += tabulate(
            [head, *cells], tablefmt="plain", disable_numparse=True, colalign=("left", *("right",) * 4)
        ).splitlines()
        lines += [f"  {VERDICTS[row['verdict']]}"]
    return "\n".join(lines)


VERDICTS: Final = {
    "lower": "the first is cheaper",
    "higher": "the first is more expensive",
    "same": "exactly the same",
    "not shown": "no difference shown",
    "not tested": "not tested: one replication",
}


def _cells(row: dict[Any, Any], suffix: str) -> list[str]:
    half = (row[f"high{suffix}"] - row[f"low{suffix}"]) / 2
    p = row[f"p{suffix}"]
    return [
        si(row[f"mean{suffix}"], sign="+"),
        si(half),
        "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}",
    ]
