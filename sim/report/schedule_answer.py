"""The answer about the schedule itself: the least and the most of each quantity, and a line for each case."""

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sim.analysis.outcomes import Outcome, outcomes
from sim.report.amounts import si, three_digits, with_half
from sim.report.layout import WIDTH, wrapped
from sim.report.markup import Cell, Markup, Number, joined, table
from sim.report.names import key_name, titles
from sim.report.shown import SCHEDULE, Shown


class Column(NamedTuple):
    """A quantity: its attribute of an outcome, the heads of its column, and what it is called in a sentence."""

    name: str
    head: str
    below: str
    called: str


COLUMNS: Final = (
    Column("work", "work", "%", "guests' own work"),
    Column("polling", "polls", "%", "polling"),
    Column("spinning", "spins", "%", "spinning for locks"),
    Column("steal", "steal", "%", "steal"),
    Column("busy", "CPUs", "% busy", "busy CPUs"),
    Column("mean", "wake-up", "mean us", "mean wake-up"),
    Column("p50", "wake-up", "p50 us", "median wake-up"),
    Column("p99", "wake-up", "p99 us", "p99 of the wake-up"),
    Column("requests", "request", "/s", "requests"),
)
SHARES: Final = ("polling", "spinning", "steal")
TOLD: Final = (*SHARES, "p99")
ROOM: Final = 1.0
"""Shares below this, in %, have no column in plain text."""
LEFT_OUT: Final = ("work", "p50")
"""Quantities for which plain text has no room; work is shown if there are no requests."""
WIDE: Final = 8
CAPTION: Final = "% of vCPU time, but % busy of CPUs; requests per vCPU-second"
LEAST: Final = 0.005
"""Anything below this counts as 0: in %, half a ten-thousandth of the time; in us, 5 ns."""
FACTOR: Final = 2.0
"""A p99 that has grown by this factor is mentioned."""


def is_asked(screen: Shown) -> bool:
    """Whether the scenario asks about its schedule."""
    return SCHEDULE in screen.asks


def sentences(screen: Shown) -> Iterator[str]:
    """From where to where each quantity goes, and from which value of a numeric key on the p99 has doubled."""
    found = outcomes(screen.comparison)
    full = titles(screen.comparison.results.cases).full
    yield from _doublings(found)
    told = TOLD if any(math.isfinite(each.p99) for each in found) else (*SHARES, "mean", "busy")
    for column in COLUMNS:
        there = [each for each in found if math.isfinite(getattr(each, column.name))]
        if column.name not in told or not there:
            continue
        low, high = (f(there, key=lambda each: getattr(each, column.name)) for f in (min, max))
        if getattr(high, column.name) > (ROOM if column.name in SHARES else 0):
            amounts = [_amount(each, column.name) for each in (low, high)]
            unit = "% of vCPU time" if column.name in SHARES else "%" if column.name == "busy" else "us"
            if amounts[0] == amounts[1] or len(there) == 1:
                yield f"{column.called}: {amounts[1]} {unit}."
            else:
                ends = [f"{text} ({full[each.case['case']]})" for text, each in zip(amounts, (low, high), strict=True)]
                yield f"{column.called}: {ends[0]} to {ends[1]} {unit}."


def _amount(outcome: Outcome, name: str) -> str:
    value = getattr(outcome, name)
    return with_half(value, outcome.half[name]) if name in SHARES else cell(value)


def numbers(found: Sequence[Outcome]) -> str:
    """The swept key whose values are integers (of several, the one with the most values), or an empty string."""
    values: dict[str, set[int]] = {}
    for each in found:
        for path, value in each.case["sweep"].items():
            if isinstance(value, int) and not isinstance(value, bool):
                values.setdefault(path, set()).add(value)
    several = [path for path in values if len(values[path]) > 1]
    return max(several, key=lambda path: len(values[path]), default="")


def _doublings(found: Sequence[Outcome]) -> Iterator[str]:
    path = numbers(found)
    groups: dict[tuple[tuple[str, object], ...], list[Outcome]] = {}
    for each in found if path else ():
        rest = {name: value for name, value in each.case["sweep"].items() if name != path}
        groups.setdefault(tuple(rest.items()), []).append(each)
    told: dict[tuple[object, object], list[str]] = {}
    for others, members in groups.items():
        members.sort(key=lambda each: each.case["sweep"][path])
        first = members[0]
        if beyond := [each for each in members if each.p99 > FACTOR * first.p99]:
            where = ", ".join(f"{key_name(name)} = {value}" for name, value in others)
            told.setdefault((first.case["sweep"][path], beyond[0].case["sweep"][path]), []).append(where)
    for (first_value, value), where_all in told.items():
        where = "" if len(where_all) == len(groups) else f" with {' or '.join(where_all)}"
        key = key_name(path)
        yield f"p99 is more than twice that of {key} = {first_value} from {key} = {value} on{where}."


def columns_of(found: Sequence[Outcome]) -> list[Column]:
    """The quantities that are not 0 in every case."""
    return [each for each in COLUMNS if any(getattr(one, each.name) > 0 for one in found)]


def lines(screen: Shown, *, most: int | None = None) -> list[str]:
    """The table; ``most``: with the lines of at most this many cases, evenly spaced."""
    found = outcomes(screen.comparison)
    if not found:
        return []
    short, heading, _ = _names(screen)
    columns = [
        each
        for each in columns_of(found)
        if each.name not in LEFT_OUT
        and (each.name not in SHARES or max(getattr(one, each.name) for one in found) >= ROOM)
    ]
    if not any(each.name == "requests" for each in columns):
        columns = [COLUMNS[0], *columns]
    n = len(found) if most is None else min(most, len(found))
    shown_rows = [found[round(i * (len(found) - 1) / max(n - 1, 1))] for i in range(n)]
    width = WIDTH - WIDE * len(columns)
    last_line = f"  {heading}"[: width - 1].ljust(width)
    head = [" " * width, last_line]
    for column in columns:
        head = [line + text.rjust(WIDE) for line, text in zip(head, (column.head, column.below), strict=True)]
    rows = []
    for each in shown_rows:
        label = f"  {short[each.case['case']]}"[: width - 1].ljust(width)
        rows.append(label + "".join(cell(getattr(each, column.name)).rjust(WIDE) for column in columns))
    left_out = [f"  {len(shown_rows)} of {len(found)} cases"] if n < len(found) else []
    return [*(line.rstrip() for line in head), *rows, *left_out, *wrapped(CAPTION, "  ", "  ")]


def _names(screen: Shown) -> tuple[dict[str, str], str, dict[str, str]]:
    named = titles(screen.comparison.results.cases)
    return named.short, named.heading, named.full


def cell(value: float) -> str:
    """A number in its column."""
    if abs(value) < LEAST:
        return "0"
    return si(value) if abs(value) >= 1000 else three_digits(value)


def html(screen: Shown) -> Markup:
    """The same as a table that can be sorted."""
    found = outcomes(screen.comparison) if is_asked(screen) else []
    if not found:
        return joined([])
    _, _, full = _names(screen)
    columns = columns_of(found)
    rows: list[list[Cell]] = [
        [full[each.case["case"]], *(Number(value := getattr(each, c.name), cell(value)) for c in columns)]
        for each in found
    ]
    return table(("case", *(f"{c.head} {c.below}" for c in columns)), rows, caption=CAPTION)
