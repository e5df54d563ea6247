"""How sure the answer is: over replications, over the costs, and on which rows it rests."""

import math
from collections.abc import Iterator
from typing import Final

from sim.analysis.answers import DRAWS
from sim.analysis.estimates import ENOUGH
from sim.costs.rows import CostRow, CostTable
from sim.kernel.operations import WRMSR_XSS
from sim.kernel.strategies import Strategy
from sim.report import words
from sim.report.layout import Part, part, whole
from sim.report.names import config_of, cost_row, cpu
from sim.report.shown import CARRYING, SCHEDULE, SURVIVORS, Line, Shown, ShownCase

LEAST: Final = 0.1
"""A cost row is named if it makes up at least this share of a difference."""
MOST_ROWS: Final = 3
MOST_LINES: Final = 9


def part_of(screen: Shown) -> Part:
    """The part of the first screen."""
    lines = [whole("HOW SURE", each, MOST_LINES) for each in texts(screen)]
    return part(*lines, losses=[1.5, 5.0, 8.0]) if lines else part([])


def texts(screen: Shown) -> list[list[str]]:
    """How sure the answer is, in sentences: all of them, then shorter selections; empty if there is no answer."""
    needed = [*_tested(screen), *_over_costs(screen)]
    if not needed:
        return []
    rows, no_rows = ([*_assumed(screen, with_rows=with_rows), *_same_rows(screen)] for with_rows in (True, False))
    return [[*needed, *rows, *_next(screen)], [*needed, *rows], [*needed, *no_rows], [*needed[:1], *no_rows]]


def _tested(screen: Shown) -> Iterator[str]:
    if SCHEDULE in screen.asks:
        few = f"; fewer than {ENOUGH} say little" if screen.n < ENOUGH else ""
        yield (
            f"+-: 95 % interval over {screen.n} replications{few}. Latencies are of all replications together, known "
            "to a sixteenth. Each cost is at its value."
            if screen.n > 1
            else "NOT TESTED: one replication says nothing about another."
        )
        return
    if not (any(case.lines or case.asked for case in screen.cases) or screen.between):
        return
    if screen.n == 1:
        yield "NOT TESTED: one replication says nothing about another."
        return
    few = f"; fewer than {ENOUGH} say little" if screen.n < ENOUGH else ""
    ranges = f"ranges: 95 % of {DRAWS:,} draws of the costs"
    paired = ", those of two cases paired by their random streams" if screen.between else ""
    yield f"+-: 95 % interval over {screen.n} replications{paired}{few}; {ranges}.{_tests(screen)}"
    asked_about = [line for case in screen.cases for line in _asked_about(case)]
    tails = [line.names[0] for line in asked_about if line.found.heavy_tails]
    if tails:
        named = ", ".join(list(dict.fromkeys(tails))[:MOST_ROWS])
        yield f"HEAVY TAILS ({named}): few replications make most of the variance; run more, or longer ones."
    rule = screen.manifest.get("stopping")
    if rule and rule["reached"] is not None and rule["reached"] > rule["precision"]:
        reached, wanted = (f"{100 * rule[key]:.2g} %" for key in ("reached", "precision"))
        yield f"PRECISION NOT REACHED: +- {reached}, where {wanted} was asked for."


def _tests(screen: Shown) -> str:
    """The p of each contrast, in the order of the answer; in several cases, the smallest and the largest."""
    quantity = next((each for each in screen.asks if each not in (SURVIVORS, SCHEDULE)), CARRYING)
    found = []
    for a, b in words.pairs(screen):
        tested = [words.told(case, each, quantity).p for case, each in words.answered(screen, a, b)]
        found.append([p for p in tested if not math.isnan(p)])
    found += [[each.found.p] for each in screen.between if each.found and not math.isnan(each.found.p)]
    said = [
        _p(min(each)) if _p(min(each)) == _p(max(each)) else f"{_p(min(each))} to {_p(max(each))}"
        for each in found
        if each
    ]
    if not said:
        return ""
    many = any(len(each) > 1 for each in found)
    order = ", in the order of the answer" * (len(said) > 1)
    return f" p{' by case' * many}{order}: {'; '.join(said)}."


def _p(p: float) -> str:
    return "< 1e-4" if p < 1e-4 else f"{p:.2g}"


def _over_costs(screen: Shown) -> Iterator[str]:
    """Which of a contrast is cheaper in the draws of the costs, and what would reverse that."""
    pairs = list(dict.fromkeys((each.a, each.b) for case in screen.cases for each in case.asked))
    for a, b in pairs[:2]:
        found = [
            (case, each.found)
            for case in screen.cases
            for each in case.asked
            if (each.a, each.b) == (a, b) and each.found and each.found.own_without_xss.mean
        ]
        if not found:
            continue
        first, difference = found[0]
        a_is_cheaper = difference.own_without_xss.mean < 0
        if len({(each.own_without_xss.mean < 0) for _, each in found}) > 1:
            yield f"Which of {first.labels[a]} and {first.labels[b]} is cheaper depends on the case."
            continue
        cheaper, other = (a, b) if a_is_cheaper else (b, a)
        share = min(each.cheaper_without_xss if a_is_cheaper else 1 - each.cheaper_without_xss for _, each in found)
        turn = max(_turning(screen, case, cheaper, other) for case, _ in found)
        label = first.labels[cheaper]
        text = f"{label} {_is(label)} cheaper in {_share(share)} of the draws"
        text = words.sentence(text, screen)
        if not strategy_of(first, cheaper).carries:
            continue  # carrying nothing is always cheaper
        rows = _more(screen, first, cheaper, other)
        if 0 < turn < 1 and rows:
            its = "cost < {} % of their values" if " and " in rows else "costs < {} % of its value"
            text += f"; the order is reversed only if {rows} {its.format(_percent_up(turn))}"
        yield f"{text}."


def strategy_of(case: ShownCase, name: str) -> Strategy:
    """A strategy of a case, as data."""
    return config_of(case.document, name).strategy


def _is(label: str) -> str:
    return "are" if label.startswith("MSRs") or label.endswith(("MSRs", "lists")) else "is"


def _share(share: float) -> str:
    if share > 0.99:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def _percent_up(share: float) -> str:
    return f"{max(math.ceil(100 * share), 1)}"


def _of_rows(screen: Shown, case: ShownCase, a: str, b: str) -> dict[str, float]:
    """What each cost row contributes to a less b, without those of IA32_XSS."""
    rows = screen.answers.table(case.name).rows
    return {
        row: cycles
        for row, cycles in screen.answers.by_row(case.name, a, b).items()
        if rows[row].operation != WRMSR_XSS
    }


def _turning(screen: Shown, case: ShownCase, cheaper: str, other: str) -> float:
    """The factor on the rows that the more expensive one runs more, at which both cost the same."""
    cycles = _of_rows(screen, case, other, cheaper).values()
    more, less = sum(each for each in cycles if each > 0), -sum(each for each in cycles if each < 0)
    return less / more if more else 1.0


def _more(screen: Shown, case: ShownCase, cheaper: str, other: str) -> str:
    """The operations that the more expensive one runs more of, those with the most cycles first."""
    table = screen.answers.table(case.name)
    cycles = _of_rows(screen, case, other, cheaper)
    total = sum(each for each in cycles.values() if each > 0)
    rows = [row for row, each in sorted(cycles.items(), key=lambda item: -item[1]) if each > LEAST * total]
    found = list(dict.fromkeys(table.rows[row].operation for row in rows))[:MOST_ROWS]
    return " and ".join(found)


def _asked_about(case: ShownCase) -> list[Line]:
    """The strategies of the contrasts; without any, the two most important ones."""
    asked = {name for each in case.asked for name in (each.a, each.b)}
    return [line for line in case.lines if asked & set(line.names)] or list(case.lines[:2])


def deciding(screen: Shown, case: ShownCase) -> list[tuple[CostRow, float]]:
    """Cost rows behind the lines of a case, with the largest share of a line that each has; the largest first."""
    table = screen.answers.table(case.name)
    best: dict[str, float] = {}
    for line in _asked_about(case):
        cycles = _of_rows(screen, case, line.names[0], case.reference)
        total = sum(map(abs, cycles.values()))
        for row, each in cycles.items():
            best[row] = max(best.get(row, 0.0), abs(each) / total)
    found = [(table.rows[row], share) for row, share in best.items() if share >= LEAST]
    return sorted(found, key=lambda each: -each[1])


def _assumed(screen: Shown, *, with_rows: bool) -> Iterator[str]:
    case = next((case for case in screen.cases if case.lines), None)
    if case is None:
        return
    share = assumed_share(screen)
    rows = [row for row, _ in deciding(screen, case) if row.grade == "assumed"][:MOST_ROWS]
    named = ", ".join(f"{cost_row(row)} {row.value:g} ({row.low:g} to {row.high:g})" for row in rows)
    if share:
        yield f"{share} ASSUMED, not measured" + (f": {named}." if named and with_rows else ".")
    else:
        yield "No part of it rests on an assumed cost row."


def assumed_share(screen: Shown) -> str:
    """How much of what is asked about rests on assumed cost rows, in whole %; empty if none does."""
    of_lines = [line.found.assumed for case in screen.cases for line in _asked_about(case)]
    shares = [*of_lines, *(each.found.assumed for each in screen.between if each.found)] or [0.0]
    low, high = math.floor(100 * min(shares)), math.floor(100 * max(shares))
    return "" if high == 0 else f"{low} %" if low == high else f"{low} to {high} %"


def _same_rows(screen: Shown) -> Iterator[str]:
    """Assumed rows that CPUs of the run share; they show nothing about how these CPUs differ."""
    by_cpu = {case.document["cpu"]: case for case in screen.cases if case.lines}
    if len(by_cpu) < 2:
        return
    cases = list(by_cpu.values())
    first = [row for row, _ in deciding(screen, cases[0])]
    shared = [row for row in first if all(is_shared(row, screen.answers.table(case.name)) for case in cases[1:])]
    if shared:
        named = ", ".join(list(dict.fromkeys(row.operation for row in shared))[:MOST_ROWS])
        cpus = " and ".join(cpu(name) for name in by_cpu) if len(by_cpu) == 2 else f"All {len(by_cpu)} CPUs"
        yield f"{cpus} have the same assumed {named}: comparing them says nothing about these."


def is_shared(row: CostRow, table: CostTable) -> bool:
    """Whether another CPU's table has the same assumption: the same row inherited, or written again."""
    other = table.rows.get(row.id)
    if other is None or not row.grade == other.grade == "assumed":
        return False
    return row.table == other.table or (row.value, row.low, row.high, row.source) == (
        other.value,
        other.low,
        other.high,
        other.source,
    )


def _next(screen: Shown) -> Iterator[str]:
    """The assumed row whose range moves the answer most."""
    case = next((case for case in screen.cases if case.lines), None)
    if case is None:
        return
    pair = next(((each.a, each.b) for each in case.asked if each.found and each.found.rows), None)
    a, b = pair or (case.lines[0].names[0], case.reference)
    table = screen.answers.table(case.name)
    widths = {
        row: abs(cycles) * (table.rows[row].high - table.rows[row].low) / table.rows[row].value
        for row, cycles in _of_rows(screen, case, a, b).items()
        if table.rows[row].grade == "assumed" and table.rows[row].value
    }
    if widths:
        row = table.rows[max(widths, key=lambda each: widths[each])]
        yield f"Measure next: {cost_row(row)} (docs/calibrate.md)."
