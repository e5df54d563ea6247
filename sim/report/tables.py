"""The table of the first screen: of each case, with a line for each strategy; of many, with a line for each case."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from sim.analysis.answers import Difference
from sim.report.amounts import fixed, percent, short_spread, si, spread, three_digits, with_half
from sim.report.layout import WIDTH, at_most, wrapped
from sim.report.names import config_of
from sim.report.shown import Line, Shown, ShownCase

BLOCKS: Final = 2
"""The most cases that have a table each; more of them, and those of a sweep, share one with a line each."""
LABEL: Final = 26
COLUMN: Final = 13
"""Width of a strategy's column if the lines are cases."""


def of(screen: Shown, most: int) -> Iterator[str]:
    """The table, with at most this many strategies of a case."""
    blocks = len(screen.cases) <= BLOCKS and not any(case.document["sweep"] for case in screen.cases)
    return _blocks(screen, most) if blocks else _by_case(screen, most)


def reference_text(case: ShownCase) -> str:
    """With what the strategies of a case are compared."""
    same = " = ".join((case.reference, *case.same))
    if config_of(case.document, case.reference).strategy.carries:
        return f"beside {case.labels[case.reference]} ({same})"
    return f"beside carrying nothing ({same})"


def _blocks(screen: Shown, most: int) -> Iterator[str]:
    """A table for each case, whose lines are strategies."""
    first = screen.cases[0]
    one_reference = len({reference_text(case) for case in screen.cases}) == 1
    yield from _head(reference_text(first) if one_reference else "", first.per, first)
    for case in screen.cases:
        if len(screen.cases) > 1:
            beside = "" if one_reference else f", {reference_text(case)}"
            yield from at_most(wrapped(f"{case.title}{beside}", "  ", "    "), 2)
        yield from _block(case, most)
    labels = [line.label for case in screen.cases for line in case.in_order(case.lines[:most])]
    yield from by_name(screen, labels)


def _head(text: str, per: str, case: ShownCase) -> Iterator[str]:
    beside = at_most(_narrow(text, LABEL - 2), 2) if text else []
    beside += [""] * (2 - len(beside))
    amount = ("cycles/", f"{per}-s") if case.document["vcpus"] else ("cycles/", "switch")
    heads = (("us per", f"{per}-second"), ("% of", "all CPUs"), amount, ("over the range", "of the costs"))
    for i in range(2):
        yield _row(f"  {beside[i]}", [head[i] for head in heads])


def _narrow(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _row(label: str, cells: Sequence[str]) -> str:
    """A line of the table of a case; a label gives way to cells that are wider than their columns."""
    numbers = "".join(cell.rjust(width) for cell, width in zip(cells, (12, 9, 8, 17), strict=True))
    return (label[: WIDTH - len(numbers)].ljust(LABEL)[: WIDTH - len(numbers)] + numbers).rstrip()


def _block(case: ShownCase, most: int) -> Iterator[str]:
    if case.incomplete:
        yield from at_most(wrapped(case.incomplete, "    ", "    "), 2)
        return
    if case.reference in case.unsound:
        yield from wrapped(
            f"{case.labels[case.reference]} ({case.reference}) violates integrity: there is no cost to compare with",
            "    ",
            "    ",
        )
        return
    shown_lines = case.in_order(case.lines[:most])
    marked = {line.names for line in shown_lines if _moves_xss(line.found)}
    for line in shown_lines:
        mark = "*" if line.names in marked else ""
        yield _row(f"   {line.label}{mark}", _cells(case, line.found, "own_without_xss"))
    for found in _distinct_xss([line.found for line in shown_lines]):
        verb = "saves" if found.xss.mean < 0 else "adds"
        yield _row(f"   * and IA32_XSS {verb}", _cells(case, found, "xss"))
    if not case.lines:
        same = f"{case.reference} alone was run" if len(case.document["strategies"]) == 1 else "all do the same"
        yield f"    {same}: there is nothing to compare"
    yield from _others([(case, line) for line in case.lines[most:]], "    ")


def _moves_xss(found: Difference) -> bool:
    return found.xss.mean != 0


def _distinct_xss(found: Sequence[Difference]) -> list[Difference]:
    """One difference for each amount of IA32_XSS switching, at most two."""
    by_amount = {round(each.xss.mean): each for each in found if _moves_xss(each)}
    return list(by_amount.values())[:2]


def _cells(case: ShownCase, found: Difference, which: str) -> list[str]:
    """Amount with its interval, share of the host, cycles, range of the costs; IA32_XSS without its sign."""
    estimate = getattr(found, which)
    over = {"own_without_xss": found.range_without_xss, "xss": found.range_xss}[which]
    mean, half, low, high = estimate.mean, estimate.high - estimate.mean, over.low, over.high
    if which == "xss" and mean < 0:
        mean, low, high = -mean, -high, -low
    scale = 1.0 if case.document["vcpus"] else 1 / case.load.switches if case.load and case.load.switches else math.nan
    return [
        with_half(case.us(mean), case.us(half)),
        percent(case.percent(mean)),
        si(scale * mean),
        spread(scale * low, scale * high),
    ]


def _others(lines: Sequence[tuple[ShownCase, Line]], indent: str) -> Iterator[str]:
    """The strategies that have no line, in one line: from the least that one adds in a case to the most."""
    if not lines:
        return
    number = len({name for _, line in lines for name in line.names})
    ordered = sorted((case.us(line.found.own_without_xss.mean), line.names[0]) for case, line in lines)
    (least, cheapest), (most, most_expensive) = ordered[0], ordered[-1]
    low, high = three_digits(least), three_digits(most)
    head = f"{indent}{number} other{'s' * (number > 1)}: {low}"
    if cheapest == most_expensive:
        full = f"{head}{f' to {high}' if high != low else ''} us ({cheapest})"
    else:
        full = f"{head} us ({cheapest}) to {high} ({most_expensive})"
    yield full if len(full) <= WIDTH else f"{head} to {high} us"


def _by_case(screen: Shown, most: int) -> Iterator[str]:
    """One table, whose lines are cases and whose columns are strategies."""
    sound = [case for case in screen.cases if case.lines]
    per = screen.cases[0].per
    width = min(max([len(case.short) for case in screen.cases] + [18]) + 3, 30)
    with_xss = [case for case in sound if any(_moves_xss(line.found) for line in case.lines)]
    columns = columns_of(sound, min(most, (WIDTH - width) // COLUMN - bool(with_xss)))
    references = list(dict.fromkeys(reference_text(case) for case in screen.cases))
    beside = references[0] if len(references) == 1 else "beside carrying nothing"
    yield from wrapped(f"us per {per}-second, {beside}:", "  ", "  ")
    heads = [_narrow(label, COLUMN - 1)[:3] for label in columns]
    heads += [["IA32_XSS", "(*)"]] if with_xss else []
    depth = max((len(head) for head in heads), default=1)
    heads = [[""] * (depth - len(head)) + head for head in heads]
    for i in range(depth):
        label = f"  {screen.heading}"[: width - 1] if i == depth - 1 else ""
        yield (label.ljust(width) + "".join(head[i].rjust(COLUMN) for head in heads)).rstrip()
    for case in screen.cases:
        yield _line_of_case(case, columns, bool(with_xss), width)
    yield from _footer(screen, sound, columns, width, with_xss)


def columns_of(cases: Sequence[ShownCase], most: int) -> list[str]:
    """Labels of the strategies that are most important in the cases, in the order of the scenario."""
    rank: dict[str, int] = {}
    for case in cases:
        for i, line in enumerate(case.lines):
            rank[line.label] = min(i, rank.get(line.label, i))
    best = sorted(rank, key=lambda label: rank[label])[:most]
    order = list(dict.fromkeys(label for case in cases for label in case.labels.values()))
    return sorted(best, key=order.index)


def line_called(case: ShownCase, label: str) -> Line | None:
    """The line of a case that has a strategy with this label."""
    here = [name for name, own in case.labels.items() if own == label]
    return next((line for line in case.lines if set(here) & set(line.names)), None)


def _at_right(cell: str) -> str:
    """A cell in its column, with a blank before it; a long one loses those around its "+-" or "-"."""
    for blanks, without in ((" +- ", "+-"), (" - ", "-")):
        cell = cell if len(cell) < COLUMN else cell.replace(blanks, without)
    return cell.rjust(COLUMN)


def _line_of_case(case: ShownCase, columns: Sequence[str], with_xss: bool, width: int) -> str:
    title = f"  {case.short}"
    title = title if len(title) < width else f"{title[: width - 4]}..."
    if case.incomplete or case.reference in case.unsound:
        why = "no replication of all" if case.incomplete else f"{case.reference} is unsound"
        return f"{title.ljust(width)} {why}"[:WIDTH]
    if len(case.document["strategies"]) == 1:
        return f"{title.ljust(width)} {case.reference} alone"[:WIDTH]
    cells = []
    for label in columns:
        line = line_called(case, label)
        cells.append(_amount(case, line.found, "own_without_xss") if line else _absent(case, label))
    if with_xss:
        moved = _distinct_xss([line.found for line in case.lines])
        cells.append(" / ".join(_amount(case, found, "xss") for found in moved[:1]) or "0")
    return (title.ljust(width) + "".join(map(_at_right, cells))).rstrip()[:WIDTH]


def _absent(case: ShownCase, label: str) -> str:
    names = [name for name, own in case.labels.items() if own == label]
    if any(name in case.unsound for name in names):
        return "unsound"
    return "0" if any(name in case.same for name in names) else "-"


def _amount(case: ShownCase, found: Difference, which: str) -> str:
    estimate = getattr(found, which)
    return with_half(case.us(estimate.mean), case.us(estimate.high - estimate.mean))


def _footer(
    screen: Shown, cases: Sequence[ShownCase], columns: Sequence[str], width: int, with_xss: Sequence[ShownCase]
) -> Iterator[str]:
    """Below a table of cases: the ranges of the costs, relative to the value, and the share of all CPUs."""
    ranges, shares, cycles = [], [], []
    for label in columns:
        found = [(case, line) for case in cases if (line := line_called(case, label))]
        ends = [
            sorted((line.found.range_without_xss.low / mean, line.found.range_without_xss.high / mean))
            for _, line in found
            if (mean := line.found.own_without_xss.mean)
        ]
        low, high = (min(end[0] for end in ends), max(end[1] for end in ends)) if ends else (math.nan, math.nan)
        ranges.append(f"x {fixed(low, 1)} - {fixed(high, 1)}")
        means = [line.found.own_without_xss.mean for _, line in found]
        cycles.append(si(means[0]) if len(means) == 1 else short_spread(min(means), max(means)))
        shares.append(
            percent(max((abs(case.percent(line.found.own_without_xss.mean)) for case, line in found), default=0))
        )
    if with_xss:
        of_xss = [line.found for case in with_xss for line in case.lines if _moves_xss(line.found)]
        factors = [end / each.xss.mean for each in of_xss for end in (each.range_xss.low, each.range_xss.high)]
        ranges.append(f"x {fixed(min(factors), 1)} - {fixed(max(factors), 1)}")
    if columns:
        yield f"  cycles/{cases[0].per}-s".ljust(width) + "".join(map(_at_right, cycles))
        yield "  range of the costs".ljust(width) + "".join(map(_at_right, ranges))
        yield "  % of all CPUs <=".ljust(width) + "".join(map(_at_right, shares))
    if with_xss:
        case = max(with_xss, key=lambda each: max(abs(line.found.xss.mean) for line in each.lines))
        moved = [line for line in case.lines if _moves_xss(line.found)]
        who = ", ".join(name for line in moved for name in line.names)
        yield from at_most(wrapped(f"(*) beside it, by writes of IA32_XSS ({case.title}): {who}", "  ", "  "), 2)
    yield from by_name(screen, columns)
    if screen.of > len(screen.cases):
        yield f"  {len(screen.cases)} of {screen.of} cases; fpswitch compare --full has all"
    hidden = []
    for case in cases:
        there = [line_called(case, label) for label in columns]
        hidden += [(case, line) for line in case.lines if line not in there]
    yield from _others(hidden, "  ")


def by_name(screen: Shown, labels: Sequence[str]) -> list[str]:
    """What the strategies of a table are called in commands, in the order of its lines or columns."""
    found: dict[str, str] = {}
    for label in labels:
        lines = [line_called(case, label) for case in screen.cases]
        found[label] = next((line.names[0] for line in lines if line), label)
    return wrapped(f"by name: {', '.join(found.values())}", "  ", "    ") if found else []
