"""The uncertainty of a run in plain text of at most 72 columns, for a mailing list."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from tabulate import tabulate

from sim.analysis.uncertainty.breakeven import together
from sim.analysis.uncertainty.counted import Counted
from sim.analysis.uncertainty.pricing import Interval
from sim.analysis.uncertainty.report import CaseReport, View, factor_rows
from sim.analysis.uncertainty.resimulation import departure
from sim.costs.rows import RATIO
from sim.report.amounts import three_digits

WIDTH: Final = 72
MOST_COLUMNS: Final = 16
LITTLE: Final = 0.01
NAME: Final = 22
LEAST_PAIRS: Final = 0.001


def heading(draws: int, seed: int) -> str:
    """The heading above all cases."""
    return _fill(
        f"{draws} draws of the cost tables (seed {seed}): each row from its own range, rows derived from one "
        "another together. Joint intervals and probabilities are about costs and replications together."
    )


def as_text(each: CaseReport, pairs: Sequence[tuple[str, str]] = ()) -> str:
    """One case; ``pairs`` are shown with the break-even value of every row, where the case has both strategies."""
    return "\n\n".join(_case(each, pairs))


def _case(each: CaseReport, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    case, view = each.coefficients, each.views[0]
    yield _fill(
        f"== {case.case}: costs {case.table.name}, {case.replications} replications, 1000 TSC cycles per {case.per}; "
        f"difference from {case.reference}"
    )
    yield (
        "How sure the ranking is\n\n"
        + _ranking(view)
        + "\n\n"
        + _fill(
            "'at values': each row at its value, '+-' half of the t interval over the replications "
            "alone. 'joint': the middle 95 % of the draws. 'first': probability, in %, that no sound "
            "strategy that carries the state is cheaper. =: does the same as the one above." + _unsound(case)
        )
    )
    if case.switch_alike:
        yield "The switching of IA32_XSS costs the same in all strategies."
    else:
        yield "The ranking without the switching of IA32_XSS\n\n" + _ranking(each.views[2])
    yield "Probability, in %, that the row is cheaper than the column\n\n" + _matrix(view)
    yield "Probability, in %, that each is cheaper than the next\n\n" + _neighbours(each)
    yield "What explains the variance of the difference from the reference\n\n" + _shares(view)
    yield "Where an order is reversed\n\n" + _turns(view)
    for a, b in (pair for pair in pairs if set(pair) <= set(case.strategies)):
        yield f"Break-even of {a} and {b}, row by row\n\n" + _pair(
            view, case.strategies.index(a), case.strategies.index(b)
        )
    yield "What to measure next\n\n" + _next(view)
    yield "Repricing compared with simulating again\n\n" + _feedback(each)


def _unsound(case: Counted) -> str:
    if not case.violating:
        return ""
    names = [name for name in case.strategies if name in case.violating]
    return f" Violates integrity, so its cost is not comparable: {', '.join(names)}."


def _ranking(view: View) -> str:
    names = view.pricing.coefficients.strategies
    rows: list[tuple[str, ...]] = []
    for place, (i, *same) in enumerate(view.groups, 1):
        found = view.versus_reference(i)
        first = _percent(view.pricing.cheapest(i, view.carrying)) if i in view.carrying else "-"
        noise = _thousands(found.replications.high - found.replications.mean)
        numbers = (_thousands(found.replications.mean), noise, *_ends(found.joint), first)
        rows.append((str(place), _short(names[i]), *numbers))
        rows += [("=", _short(names[j]), *[""] * len(numbers)) for j in same]
    headers = ("#", "strategy", "at values", "+-", "joint", "to", "first")
    return _table(rows, headers, "right left right right right right right")


def _matrix(view: View) -> str:
    firsts = [group[0] for group in view.groups]
    if len(firsts) > MOST_COLUMNS:
        return f"  {len(firsts)} columns do not fit here: --json has them"
    lines = [["", *(str(place) for place in range(1, len(firsts) + 1))]]
    for place, a in enumerate(firsts, 1):
        lines.append([str(place), *("" if a == b else _cheaper(view, a, b) for b in firsts)])
    return "\n".join("".join(cell.rjust(3 if i == 0 else 4) for i, cell in enumerate(line)).rstrip() for line in lines)


def _cheaper(view: View, a: int, b: int) -> str:
    under, over = view.pricing.cheaper(a, b), view.pricing.cheaper(b, a)
    return "=" if under == over == 0 else _percent(under)


def _neighbours(each: CaseReport) -> str:
    view = each.views[0]
    names = view.pricing.coefficients.strategies
    firsts = [group[0] for group in view.groups]
    rows = [
        (str(place), _short(names[a]), f"{place + 1}", *(_cheaper(other, a, b) for other in each.views))
        for place, (a, b) in enumerate(pairwise(firsts), 1)
    ]
    headers = ("#", "strategy", "than", "as is", "uniform", "no XSS", "both")
    notes = "'uniform': every row uniform; 'no XSS': without the switching of IA32_XSS."
    return _table(rows, headers, "right left right right right right right") + "\n\n" + _fill(notes)


def _shares(view: View) -> str:
    case = view.pricing.coefficients
    reference = case.strategies.index(case.reference)
    found = {frozenset(pair): share for pair, share in zip(view.pairs, view.shares, strict=True)}
    lines = []
    for i, *_ in view.groups:
        share = found.get(frozenset((i, reference)))
        if share is None or share.deviation == 0:
            continue
        parts = [*share.factors.items(), ("replications", share.replications)]
        parts.append(("the ratio with others", share.interaction))
        shown = [f"{part:.0%} {name}" for name, part in sorted(parts, key=lambda p: -p[1]) if part >= LITTLE][:4]
        lines.append(_item(case.strategies[i], f"s.d. {_thousands(share.deviation)}: " + ", ".join(shown)))
    return "\n".join(lines) or "  no difference from the reference has any"


def _turns(view: View) -> str:
    """For each strategy against the best that carries the state: the row that is nearest to reversing their order."""
    case = view.pricing.coefficients
    best = view.carrying[0]
    firsts = [i for i, *_ in view.groups if i in view.carrying and i != best]
    head = _fill(
        f"Compared with {case.strategies[best]}, the cheapest that carries the state: the value of one row at which "
        "the strategy would be cheaper, with all others at their values. Of the rows that count more often in the "
        "same one of the two in every replication, the one nearest to its range is shown."
    )
    return "\n".join([head, *(_item(case.strategies[i], _turn(view, best, i)) for i in firsts)])


def _turn(view: View, best: int, other: int) -> str:
    case = view.pricing.coefficients
    share = together(view.pricing, best, other).share
    if share == 0:
        return f"never: it does all that {case.strategies[best]} does, and more"
    left = f"all rows in which it costs more would have to cost {share:.1%} of their values"
    # A ratio of the clocks far from any real one is no answer, nor a row that counts differently by chance.
    turns = [turn for turn in view.break_even(best, other) if turn.steady and (turn.row != RATIO or turn.within)]
    if not turns or turns[0].value is None:
        return f"no row reverses it; {left}"
    turn, value = turns[0], turns[0].value
    row = case.table.rows[turn.row]
    clock = "" if turn.row == RATIO else f" {row.clock} cycles"
    where = "inside" if turn.within else "outside"
    text = f"{turn.row} {turn.wins} {_number(value)}{clock} ({row.value:g}, {where} {row.low:g} to {row.high:g})"
    return text if turn.within else f"{text}; or {left}"


def _pair(view: View, a: int, b: int) -> str:
    table = view.pricing.coefficients.table
    turns = view.break_even(a, b)
    if not turns:
        return "  they do the same"
    rows = []
    for turn in turns:
        row = table.rows[turn.row]
        value = "never" if turn.value is None else f"{turn.wins} {_number(turn.value)}"
        rows.append((turn.row, value, f"{row.value:g}", f"{row.low:g}-{row.high:g}", "yes" if turn.within else "no"))
    first = turns[0]
    head = _fill(
        f"{first.more_expensive} would be cheaper than {first.cheaper} if this row alone were (in its own clock):"
    )
    share = together(view.pricing, a, b).share
    foot = _fill(f"All rows in which {first.more_expensive} costs more, together: {share:.1%} of their values.")
    headers = ("row", "break-even", "value", "range", "in it")
    return "\n\n".join((head, _table(rows, headers, "left right right right left"), foot))


def _next(view: View) -> str:
    gains = view.gains
    if not gains:
        return "  nothing: no order of two strategies is in doubt"
    before = gains[0].before
    lines = [
        _fill(
            f"Of all pairs, {_few(before)} are expected to be in the wrong order. If this were known exactly, so much "
            "of that would remain:"
        )
    ]
    table = view.pricing.coefficients.table
    for place, gain in enumerate((g for g in gains if g.reduction >= LITTLE * before), 1):
        if place > 5:
            break
        (first, second), _ = next(iter(gain.pairs.items()))
        rows = factor_rows(table, gain.factor)
        together = f" ({len(rows)} rows)" if len(rows) > 1 else ""
        left = _percent((before - gain.reduction) / before)
        text = f"{left}%: {gain.factor}{together}, first of all for {first} and {second}"
        lines.append(_item(f"{place}.", text, 4))
    return "\n".join(lines)


def _few(pairs: float) -> str:
    """An expected number of pairs, however small."""
    return three_digits(pairs) if pairs >= LEAST_PAIRS else f"less than {LEAST_PAIRS}"


def _feedback(each: CaseReport) -> str:
    if not each.feedback:
        return _fill(
            "Not asked for (--resimulate N): costs take simulated time, so that with other costs the counts of "
            "operations would change; this report keeps the counts of the run."
        )
    rows = [
        (
            one.draw,
            _short(one.strategy),
            _thousands(one.difference_repriced),
            _thousands(one.difference_simulated),
            _thousands(one.departure.mean),
            *_ends(one.departure),
        )
        for one in each.feedback
        if one.strategy != each.coefficients.reference
    ]
    headers = ("draw", "strategy", "repriced", "simulated", "departs", "low", "high")
    found = departure(each.feedback)
    notes = (
        "Differences from the reference; 'departs': simulated less repriced, with its 95 % t interval. The largest "
        f"departure is {found.largest_difference_percent:.1f}% of its difference, and of a whole cost "
        f"{found.largest_cost_percent:.2f}%. {found.clear} of {found.differences} departures have an interval without "
        f"0: the others may be noise. {found.turned} of {found.pairs} pairs of strategies are in another order when "
        "simulated."
    )
    return _table(rows, headers, "right left right right right right right") + "\n\n" + _fill(notes)


def _ends(interval: Interval) -> tuple[str, str]:
    return _thousands(interval.low), _thousands(interval.high)


def _thousands(cycles: float) -> str:
    """Thousands of cycles with three digits or more."""
    value = cycles / 1000
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{0.0 if abs(value) < 5e-4 else value:.{digits}f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _percent(probability: float) -> str:
    if 0 < probability < 0.005:
        return "<1"
    if 0.995 <= probability < 1:
        return ">99"
    return f"{100 * probability:.0f}"


def _short(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 1] + "~"


def _table(rows: Sequence[Sequence[object]], headers: Sequence[str], align: str) -> str:
    return tabulate(rows, headers=headers, tablefmt="plain", disable_numparse=True, colalign=align.split())


def _item(label: str, text: str, width: int = 2) -> str:
    return _fill(f"{label} {text}" if width == 4 else f"{label}: {text}", "  ", " " * (width + 2))


def _fill(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
