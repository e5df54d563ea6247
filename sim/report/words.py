"""The answer in words: what the contrasts show, which strategies are sound, and how the host reacts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sim.analysis.answers import Difference, Estimate
from sim.analysis.estimates import CONFIDENCE
from sim.analysis.feedback import Feedback, Response
from sim.report import names, schedule_answer
from sim.report.amounts import percent, three_digits, with_half
from sim.report.shown import CARRYING, SCHEDULE, SURVIVORS, XSS, Asked, Between, Line, Shown, ShownCase
from sim.scenario.checks import MASKS

SIGNIFICANT: Final = 1 - CONFIDENCE
MOST: Final = 3
"""The most contrasts that are described, and the most strategies that are named one by one."""


def in_words(screen: Shown) -> str:
    """The answer to what the scenario asks."""
    return " ".join(sentences(screen))


def sentences(screen: Shown, *, with_contrasts: bool = True) -> list[str]:
    """What the contrasts say of each quantity that is asked about; without any, the cheapest strategy and the most
    expensive one.  ``with_contrasts``: also what a table of strategies has in numbers."""
    said = list(_hand_offs(screen))
    for number, quantity in enumerate(screen.asks):
        if quantity == SURVIVORS:
            said += _survivors(screen)
        elif quantity == SCHEDULE:
            said += schedule_answer.sentences(screen)
        elif with_contrasts:
            said += _contrasts(screen, quantity)
        said += _in_size(screen) if number == 0 else []
    asked = {SURVIVORS, SCHEDULE} & set(screen.asks) or screen.between or any(case.asked for case in screen.cases)
    if with_contrasts and not asked:
        said += _extremes(screen)
    said += [_between(screen, each) for each in screen.between[:MOST]]
    return [sentence(each, screen) for each in (*said, *_beside(screen))]


def sentence(text: str, screen: Shown) -> str:
    """A text with a capital, unless it begins with the name of a user's strategy."""
    return text if any(text.startswith(f"{name} ") for name in screen.of_the_user) else text[0].upper() + text[1:]


def of_two_cases_alone(screen: Shown) -> bool:
    """Whether only cases are compared, and no strategies within a case."""
    return bool(screen.between) and all(len(case.document["strategies"]) == 1 for case in screen.cases)


def between(screen: Shown) -> list[str]:
    """What the contrasts of two cases say."""
    return [sentence(_between(screen, each), screen) for each in screen.between]


# Contrasts within a case.


@dataclass(frozen=True, slots=True)
class Told:
    """A contrast in one case: ``found`` in one quantity, and whether a difference is shown."""

    case: ShownCase
    found: Estimate
    p: float

    @property
    def is_shown(self) -> bool:
        """Whether the estimate is shown not to be 0; with one replication that is not tested."""
        return not self.p >= SIGNIFICANT

    def amount(self, sign: float = 1.0) -> str:
        """Microseconds with half the interval."""
        return with_half(sign * self.case.us(self.found.mean), self.case.us(self.found.high - self.found.mean))


def told(case: ShownCase, found: Difference, quantity: str) -> Told:
    """One quantity of a contrast: the writes of IA32_XSS, or all else."""
    return (
        Told(case, found.xss, found.p_xss)
        if quantity == XSS
        else Told(case, found.own_without_xss, found.p_that_counts)
    )


def pairs(screen: Shown) -> list[tuple[str, str]]:
    """The contrasts within a case that are described."""
    return list(dict.fromkeys((each.a, each.b) for case in screen.cases for each in case.asked))[:MOST]


def answered(screen: Shown, a: str, b: str) -> list[tuple[ShownCase, Difference]]:
    """A contrast in all cases in which both are sound."""
    return [
        (case, each.found)
        for case in screen.cases
        for each in case.asked
        if (each.a, each.b) == (a, b) and each.found is not None
    ]


def _contrasts(screen: Shown, quantity: str) -> Iterator[str]:
    for a, b in pairs(screen):
        case = next(case for case in screen.cases for each in case.asked if (each.a, each.b) == (a, b))
        yield _contrast(answered(screen, a, b), case.labels[a], case.labels[b], quantity, XSS in screen.asks)


def _contrast(
    found: Sequence[tuple[ShownCase, Difference]], one: str, other: str, quantity: str, tells_xss: bool
) -> str:
    """A pair in all cases, in one quantity."""
    if not found:
        return f"{one} against {other}: no answer, since one of them violates integrity."
    if all(not difference.rows for _, difference in found):
        return f"{one} and {other} do exactly the same."
    each = [told(case, difference, quantity) for case, difference in found]
    if not any(one_case.found.mean for one_case in each):
        same = "write IA32_XSS as often" if quantity == XSS else "do the same but for IA32_XSS"
        return f"{one} and {other} {same}."
    apart = ""
    if any(difference.xss.mean for _, difference in found):
        apart = ", in writes of IA32_XSS alone" if quantity == XSS else ", IA32_XSS apart (*)" if not tells_xss else ""
    more, less = ([e for e in each if e.is_shown and sign * e.found.mean > 0] for sign in (1, -1))
    unshown = [e for e in each if not e.is_shown]
    if not more and not less:
        return f"{one} less {other}{apart}: {_amounts(unshown, 1)}; no difference shown."
    shares = [e.case.percent(abs(e.found.mean)) for e in (*more, *less)]
    most = f"{'at most ' * (len(shares) > 1)}{percent(max(shares))} % of all CPUs"
    sign = 1
    if len(less) > len(more):
        one, other, more, less, sign = other, one, less, more, -1
    text = f"{one} cost {_amounts(more, sign)} more than {other}{apart}"
    if less:
        text += f", and {_amounts(less, -sign, goes_on=True)} less"
    if unshown:
        where = f"with {_titles(unshown)}" if len(unshown) <= MOST else f"in {len(unshown)} of {len(each)} cases"
        text += f"; no difference shown {where}"
    return f"{text}: {most}."


def _titles(found: Sequence[Told]) -> str:
    return " nor ".join([found[0].case.title, *(each.case.short for each in found[1:])])


def _amounts(found: Sequence[Told], sign: float, *, goes_on: bool = False) -> str:
    """The amounts of a contrast: in one or two cases each, in more from the least to the most.

    ``goes_on``: the sentence has already named the unit and what cases differ in.
    """
    unit = "" if goes_on else f" us per {found[0].case.per}-second"
    ordered = sorted(found, key=lambda each: sign * each.found.mean) if len(found) > 2 else list(found)
    least, most = ordered[0], ordered[-1]
    if len(found) == 1 and not least.case.one_of_many:
        return f"{least.amount(sign)}{unit}"
    text = f"{least.amount(sign)}{unit} ({least.case.short if goes_on else least.case.title})"
    joint = "and" if len(found) == 2 else "to"
    return text if len(found) == 1 else f"{text} {joint} {most.amount(sign)} ({most.case.short})"


def _in_size(screen: Shown) -> Iterator[str]:
    """If both quantities are asked about: how large the writes of IA32_XSS are beside all else."""
    if not {CARRYING, XSS} <= set(screen.asks):
        return
    for a, b in pairs(screen):
        sizes = [
            abs(found.xss.mean / found.own_without_xss.mean)
            for _, found in answered(screen, a, b)
            if found.xss.mean and found.own_without_xss.mean
        ]
        if sizes:
            label = screen.cases[0].labels
            yield f"of {label[a]} less {label[b]} the writes of IA32_XSS are {times(min(sizes), max(sizes))} the rest."


def times(low: float, high: float) -> str:
    """Factors: "17 to 23 times"."""
    first, last = (f"{each:.2g}" if each < 100 else f"{each:.0f}" for each in (low, high))
    return f"{first} times" if first == last else f"{first} to {last} times"


def _beside(screen: Shown) -> Iterator[str]:
    """What saving and loading other state costs, if the scenario asks for that comparison."""
    for name in screen.manifest["resolved"]["run"].get("beside", ()):
        for case in [case for case in screen.cases if case.lines][:1]:
            found, over = screen.answers.of_component(case.name, case.reference, MASKS[name])
            where = f" ({case.title})" if case.one_of_many else ""
            text = (
                f"saving and loading {name} cost {Told(case, found, 0.0).amount()} us per {case.per}-second{where} "
                f"with {case.labels[case.reference]}, over the range of the costs {three_digits(case.us(over.low))} to "
                f"{three_digits(case.us(over.high))}"
            )
            asked = next((each.found for each in case.asked if each.found and each.found.own_without_xss.mean), None)
            if asked and found.mean:
                share = abs(found.mean / asked.own_without_xss.mean)
                text += f": {times(share, share)} that difference"
            yield f"{text}."


def _extremes(screen: Shown) -> Iterator[str]:
    case = next((case for case in screen.cases if case.lines), None)
    if case is None:
        return
    ordered = sorted(case.lines, key=lambda line: line.found.own_without_xss.mean)
    where = f" ({case.title})" if case.one_of_many else ""

    def amount(line: Line) -> str:
        one = told(case, line.found, CARRYING)
        shown = "" if one.is_shown else ", no difference shown"
        share = percent(case.percent(abs(one.found.mean)))
        return f"{one.amount(-1 if is_less(line) else 1)} us ({share} % of all CPUs{shown})"

    def is_less(line: Line) -> bool:
        return line.found.own_without_xss.mean < 0

    least, most = ordered[0], ordered[-1]
    more, more_at_most = ("less" if is_less(line) else "more" for line in (least, most))
    reference = f"{case.labels[case.reference]}{where}"
    if len(ordered) == 1:
        yield f"{least.label} cost {amount(least)} per {case.per}-second {more} than {reference}."
    elif is_less(least):
        yield (
            f"per {case.per}-second, beside {reference}: {least.label} cost {amount(least)} less, the least; "
            f"{most.label} {amount(most)} {more_at_most}, the most."
        )
    else:
        yield (
            f"per {case.per}-second more than {reference}: {least.label} cost {amount(least)}, the least; "
            f"{most.label} {amount(most)}, the most."
        )


# Which strategies survive.


def _survivors(screen: Shown) -> Iterator[str]:
    """Which carrying strategies are sound, by cases with the same ones; those with the fewest come first."""
    groups: dict[tuple[str, ...], list[ShownCase]] = {}
    for case in screen.cases:
        carrying = [name for name in case.labels if names.config_of(case.document, name).strategy.carries]
        groups.setdefault(tuple(name for name in carrying if name in case.unsound), []).append(case)
    for unsound, cases in sorted(groups.items(), key=lambda each: -len(each[0])):
        where = f" with {' or '.join([cases[0].title, *(case.short for case in cases[1:])])}" if len(groups) > 1 else ""
        lost = f"; unsound: {', '.join(cases[0].labels[name] for name in unsound)}" if unsound else ""
        yield f"sound{where}: {_sound(cases) or 'none that carries'}{lost}."


def _carries(case: ShownCase, line: Line) -> bool:
    return any(names.config_of(case.document, name).strategy.carries for name in line.names)


def _sound(cases: Sequence[ShownCase]) -> str:
    """Strategies with their cost in the first case: each, or of many the cheapest and the most expensive one."""
    first = cases[0]
    found = [(told(first, line.found, CARRYING), line.label) for line in first.lines if _carries(first, line)]
    ordered = [f"{label} at {one.amount()}" for one, label in sorted(found, key=lambda each: each[0].found.mean)]
    free = [name for name in first.same if names.config_of(first.document, name).strategy.carries]
    ordered = [f"{first.labels[name]} at 0" for name in free] + ordered
    if not ordered:
        return ""
    ordered[0] += f" us per {first.per}-second more than {first.labels[first.reference]}"
    if len(ordered) <= MOST:
        return ", ".join(ordered)
    return f"all {len(ordered)}, from {ordered[0]} to {ordered[-1]}"


# Contrasts of two cases.


def scale(screen: Shown, between: Between) -> float:
    """Microseconds per unit of a contrast of two cases, which is a cycle, or a microsecond if clocks differ."""
    in_us = between.found is not None and between.found.own.unit.startswith("us")
    return 1.0 if in_us else 1e6 / float(screen.comparison.results.case(between.contrast[0].case)["tsc_hz"])


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
    to_us = math.copysign(scale(screen, between), found.own.mean)
    own, xss = ((to_us * each.mean, abs(to_us) * (each.high - each.mean)) for each in (found.own, found.xss))
    of_xss = f", {with_half(*xss)} of it by IA32_XSS" if abs(xss[0]) > xss[1] else ""
    shown = {"not shown": " (no difference shown)", "not tested": " (not tested)"}.get(found.verdict, "")
    low, high = sorted((to_us * found.range.low, to_us * found.range.high))
    per = found.own.unit.partition("/")[2].removesuffix("-s")
    drawn = ", drawn apart for each CPU" if cases[0]["cpu"] != cases[1]["cpu"] else ""
    return (
        f"{sides[0]} cost {with_half(*own)} us per {per}-second more than {sides[1]}{shown}{of_xss}; over the range of "
        f"the costs{drawn} {three_digits(low)} to {three_digits(high)}."
    )


# How the host reacts.


def reactions(screen: Shown) -> list[tuple[ShownCase, Asked, Feedback]]:
    """The feedback of the contrasts, from independent runs; of at most this many, each in the first case that has
    it."""
    found: dict[tuple[str, str], tuple[ShownCase, Asked, Feedback]] = {}
    for case in screen.cases:
        for each in case.asked:
            feedback = screen.answers.feedback(case.name, each.a, each.b) if each.found else None
            if feedback:
                found.setdefault((each.a, each.b), (case, each, feedback))
    return list(found.values())[:MOST]


def _hand_offs(screen: Shown) -> Iterator[str]:
    """What a hand-off of a pipe takes, if there are pipes."""
    than: dict[str, list[str]] = {}
    for case, each, feedback in reactions(screen):
        for response in feedback.host:
            if response.metric == HAND_OFF and response.percent is not None:
                said = f"{_percent(response)} longer with {case.labels[each.a]}{_within(response)}"
                than.setdefault(case.labels[each.b], []).append(said)
    for other, all_said in than.items():
        yield f"a hand-off takes {' and '.join(all_said)} than with {other}."


def host(screen: Shown) -> list[str]:
    """How the host reacts, by contrast: throughput, latency, and the cost of all operations beside own ones."""
    said = []
    for case, each, feedback in reactions(screen):
        known = {response.metric: response for response in feedback.host if response.percent is not None}
        parts = [
            f"{NAMES[metric]} {_percent(known[metric])}{_within(known[metric])}"
            for metrics in (THROUGHPUT, LATENCY)
            for metric in [metric for metric in metrics if metric in known][:1]
        ]
        cost = feedback.cost
        half = case.us(cost.high - cost.mean)
        beside = f"all operations beside own ones {with_half(case.us(cost.mean), half)} us per {case.per}-second"
        if (rate := known.get("handoffs_per_second")) and rate.mean < 0 > cost.mean:
            beside += f", as there are {with_half(-(rate.percent or 0.0), _half(rate))} % fewer hand-offs"
        where = f" ({case.title})" if case.one_of_many else ""
        said.append(f"{case.labels[each.a]} less {case.labels[each.b]}{where}: {', '.join([*parts, beside])}")
    return said


def unknown_reactions(screen: Shown) -> str:
    """Which throughputs and latencies have too few samples in independent runs."""
    found = [
        {response.metric for response in feedback.host if response.percent is not None}
        for _, _, feedback in reactions(screen)
    ]
    if found and not all(each & set(LATENCY) for each in found):
        return "wake-up latency (too few wake-ups to know it by its own size)"
    return ""


HAND_OFF: Final = "us_per_handoff"
THROUGHPUT: Final = ("guest_cycles", "requests_per_second", "bursts_per_second")
LATENCY: Final = ("vcpu_wakeup_p50", "thread_wakeup_p50")
NAMES: Final = {
    "guest_cycles": "guest cycles", "requests_per_second": "requests", "bursts_per_second": "bursts",
    "vcpu_wakeup_p50": "median wake-up of vCPUs", "thread_wakeup_p50": "median wake-up of threads",
}  # fmt: skip


def _half(response: Response) -> float:
    return 100 * (response.high - response.mean) / response.of if response.of else math.nan


def _percent(response: Response) -> str:
    """A difference in % of what it is without."""
    return f"{with_half(response.percent or 0.0, _half(response))} %"


def _within(response: Response) -> str:
    """The margin on both sides of 0 within which the response is shown to be, rounded up."""
    most = response.percent_no_more_than
    if most is None or not math.isfinite(most) or most == 0:
        return ""
    half = _half(response)
    step = 10.0 ** math.floor(math.log10(half)) if half > 0 else 10.0 ** (math.floor(math.log10(most)) - 1)
    decimals = max(0, -math.floor(math.log10(step)))
    return f" (within +-{math.ceil(most / step - 1e-9) * step:.{decimals}f} %)"
