"""A trace and its twin side by side, as text."""

from typing import TYPE_CHECKING

from sim.cli.common import table
from sim.report.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sim.analysis.fitness import Compared


def compared_text(compared: "list[Compared]", replications: int) -> str:
    """The table of what is compared, and which assumptions are likely wrong."""
    words = {True: "holds", False: "MISSES", None: "too few samples"}
    alike = [each for each in compared if each.is_cost and each.holds]
    rows = []
    for each in compared:
        if each in alike:
            continue
        show = "{:.1%}".format if each.unit == "share" else "{:.0f}".format
        allowed = "-" if each.low is None or each.high is None else f"{show(each.low)} to {show(each.high)}"
        unit = "" if each.unit == "share" else "/s"
        rows.append([each.what + unit, show(each.trace), show(each.simulated), allowed, words[each.holds]])
    costs = " (costs in cycles)" if any(each.unit == "cycles/s" for each in compared) else ""
    text = f"The trace, and {counted(replications, 'replication')} of the scenario{costs}:\n"
    text += table(rows, ["", "trace", "simulated", "allowed", ""])
    if alike:
        ratios = [each.simulated / each.trace - 1 for each in alike]
        who = "the strategy costs" if len(alike) == 1 else f"{len(alike)} strategies cost"
        low, high = (f"{ratio:+.1%}" for ratio in (min(ratios), max(ratios)))
        off = low if low == high else f"{low} to {high}"
        text += f"\nwhat {who} in all is {off} off what it is on the trace: holds"
    return "\n".join([text, *_likely([each for each in compared if each.holds is False])])


def _likely(missing: "Iterable[Compared]") -> "Iterator[str]":
    """Which assumptions are likely wrong, each with the figures that say so; what strategies cost is one."""
    figures: dict[str, dict[str, None]] = {}
    for each in missing:
        figures.setdefault(each.likely, {})["costs" if each.unit == "cycles/s" else each.what] = None
    for likely, names in figures.items():
        yield f"likely wrong, of {', '.join(names)}: {likely}"
