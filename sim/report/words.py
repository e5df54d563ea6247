"""The answer in words: what the contrasts say, and how the host reacts."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from sim.analysis.answers import Difference
from sim.analysis.estimates import CONFIDENCE
from sim.analysis.feedback import Feedback, Response
from sim.report import names
from sim.report.amounts import percent, three_digits, with_half
from sim.report.shown import Asked, Between, Shown, ShownCase

SIGNIFICANT: Final = 1 - CONFIDENCE
MOST: Final = 3
"""Contrasts that are told."""


def in_words(screen: Shown) -> str:
    """What the contrasts say; without any, the cheapest and the most expensive strategy."""
    pairs = list(dict.fromkeys((each.a, each.b) for case in screen.cases for each in case.asked))
    said = [_contrast(screen, a, b) for a, b in pairs[:MOST]]
    said += between(screen)[: MOST - len(said)]
    return " ".join(map(_sentence, (*_hand_offs(screen), *(said or _extremes(screen)))))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def between(screen: Shown) -> list[str]:
    """What the contrasts of two cases say."""
    return [_sentence(_between(screen, each)) for each in screen.between]


def _contrast(screen: Shown, a: str, b: str) -> str:
    """A pair in all cases."""
    found = [(case, each) for case in screen.cases for each in case.asked if (each.a, each.b) == (a, b)]
    answered = [(case, each.found) for case, each in found if each.found is not None]
    one, other = (found[0][0].labels[name] for name in (a, b))
    if not answered:
        return f"{one} against {other}: no answer, since one of them violates integrity."
    means = [difference.own_without_xss.mean for _, difference in answered]
    if all(not difference.rows for _, difference in answered):
        return f"{one} and {other} do exactly the same."
    if not any(means):
        return f"{one} and {other} do the same but for IA32_XSS."
    signs = {math.copysign(1, mean) for mean in means if mean}
    if len(signs) > 1:
        return f"{one} less {other}: {_amounts(answered, 1)}."
    sign = signs.pop()
    if sign < 0:
        one, other = other, one
    verdict = ""
    if all(_not_shown(difference) for _, difference in answered):
        verdict = " (no difference shown)"
    apart = ", IA32_XSS apart (*)" if any(difference.xss.mean for _, difference in answered) else ""
    shares = [case.percent(abs(found.own_without_xss.mean)) for case, found in answered]
    most = "at most " * (len(answered) > 1) + f"{percent(max(shares))} % of all CPUs"
    return f"{one} cost {_amounts(answered, sign)} more than {other}{verdict}{apart}: {most}."


def _not_shown(found: Difference) -> bool:
    return found.p_without_xss >= SIGNIFICANT


def _amounts(answered: Sequence[tuple[ShownCase, Difference]], sign: float) -> str:
    """The amounts of a contrast: in one or two cases each, in more from the least to the most."""
    per = answered[0][0].per

    def amount(case: ShownCase, found: Difference) -> str:
        own = found.own_without_xss
        return with_half(sign * case.us(own.mean), case.us(own.high - own.mean))

    if len(answered) == 1:
        return f"{amount(*answered[0])} us per {per}-second"
    if len(answered) == 2:
        (one, first), (other, second) = answered
        return f"{amount(one, first)} us per {per}-second ({one.title}) and {amount(other, second)} ({other.title})"
    ordered = sorted(answered, key=lambda each: sign * each[1].own_without_xss.mean)
    low, high = amount(*ordered[0]), amount(*ordered[-1])
    return f"{low} ({ordered[0][0].title}) to {high} us per {per}-second ({ordered[-1][0].title})"


def _extremes(screen: Shown) -> Iterator[str]:
    case = next((case for case in screen.cases if case.lines), None)
    if case is None:
        return
    ordered = sorted(case.lines, key=lambda line: line.found.own_without_xss.mean)
    where = f" ({case.title})" if len(screen.cases) > 1 else ""

    def amount(found: Difference) -> str:
        own = found.own_without_xss
        share = percent(case.percent(own.mean))
        return f"{with_half(case.us(own.mean), case.us(own.high - own.mean))} us ({share} % of all CPUs)"

    beside = f"more than {case.labels[case.reference]}{where}"
    if len(ordered) == 1:
        yield f"{ordered[0].label} cost {amount(ordered[0].found)} per {case.per}-second {beside}."
        return
    yield (
        f"Per {case.per}-second {beside}: {ordered[0].label} cost {amount(ordered[0].found)}, the least; "
        f"{ordered[-1].label} {amount(ordered[-1].found)}, the most."
    )


def _between(screen: Shown, between: Between) -> str:
    """A contrast of two cases: all that one runs more than the other."""
    (a, b), found = between.contrast, between.found
    cases = [screen.comparison.results.case(each.case) for each in (a, b)]
    titles = names.titles(screen.comparison.results.cases).full
    one, other = (names.labels(case)[each.strategy] for case, each in zip(cases, (a, b), strict=True))
    sides = [f"{one} with {titles[a.case]}", f"{other} with {titles[b.case]}"]
    if found is None:
        return f"{sides[0]} against {sides[1]}: no answer, since one of them violates integrity, or has no replication."
    if not found.rows:
        return f"{sides[0]} and {sides[1]} do exactly the same."
    if found.own.mean < 0:
        sides.reverse()
    if a.strategy == b.strategy:
        sides[1] = sides[1].removeprefix(f"{other} ")
    scale = math.copysign(1.0 if found.own.unit.startswith("us") else 1e6 / cases[0]["tsc_hz"], found.own.mean)
    own, xss = ((scale * each.mean, abs(scale) * (each.high - each.mean)) for each in (found.own, found.xss))
    of_xss = f", {with_half(*xss)} of it by IA32_XSS" if abs(xss[0]) > xss[1] else ""
    shown = {"not shown": " (no difference shown)", "not tested": " (not tested)"}.get(found.verdict, "")
    low, high = sorted((scale * found.range.low, scale * found.range.high))
    per = found.own.unit.partition("/")[2].removesuffix("-s")
    return (
        f"{sides[0]} cost {with_half(*own)} us per {per}-second more than {sides[1]}{shown}{of_xss}; over the range of "
        f"the costs {three_digits(low)} to {three_digits(high)}."
    )


# How the host reacts.


def reactions(screen: Shown) -> list[tuple[ShownCase, Asked, Feedback]]:
    """The feedback of the contrasts, from independent runs; of at most so many, each in the first case that has it."""
    found: dict[tuple[str, str], tuple[ShownCase, Asked, Feedback]] = {}
    for case in screen.cases:
        for each in case.asked:
            feedback = screen.answers.feedback(case.name, each.a, each.b) if each.found else None
            if feedback:
                found.setdefault((each.a, each.b), (case, each, feedback))
    return list(found.values())[:MOST]


def _hand_offs(screen: Shown) -> Iterator[str]:
    """What a hand-off of a pipe takes: where there are pipes, that is what one asks about."""
    than: dict[str, list[str]] = {}
    for case, each, feedback in reactions(screen):
        for response in feedback.host:
            if response.metric == "us_per_handoff" and response.percent is not None:
                said = f"{_percent(response)} longer with {case.labels[each.a]}{_no_more(response)}"
                than.setdefault(case.labels[each.b], []).append(said)
    for other, all_said in than.items():
        yield f"A hand-off takes {' and '.join(all_said)} than with {other}."


def host(screen: Shown) -> list[str]:
    """How the host reacts, in throughput or latency, and in what all operations cost beside own ones; by contrast."""
    said = []
    for case, each, feedback in reactions(screen):
        parts = [
            f"{METRICS[response.metric]} {_percent(response)}{_no_more(response)}"
            for response in feedback.host
            if response.metric in METRICS and response.percent is not None
        ]
        cost = feedback.cost
        half = case.us(cost.high - cost.mean)
        beside = f"cost beside own operations {with_half(case.us(cost.mean), half)} us per {case.per}-second"
        said.append(f"{case.labels[each.a]} less {case.labels[each.b]}: {', '.join([*parts[:1], beside])}")
    return said


METRICS: Final = {
    "guest_cycles": "guest cycles", "requests_per_second": "requests", "bursts_per_second": "bursts",
    "vcpu_wakeup_p50": "median wake-up of vCPUs", "thread_wakeup_p50": "median wake-up of threads",
}  # fmt: skip


def _percent(response: Response) -> str:
    """A difference in % of what it is without."""
    half = 100 * (response.high - response.mean) / response.of if response.of else math.nan
    return f"{with_half(response.percent or 0.0, half)} %"


def _no_more(response: Response) -> str:
    most = response.percent_no_more_than
    return f" (no more than {percent(most)} %)" if most is not None and math.isfinite(most) else ""
