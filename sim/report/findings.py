"""What figures say in their titles: sentences made from the numbers that they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pandas as pd

from sim.analysis.answers import Answers, Difference, Estimate
from sim.analysis.categories import CARRYING, CATEGORIES
from sim.analysis.contrasts import planned
from sim.analysis.estimates import CONFIDENCE
from sim.report.amounts import three_digits, with_half
from sim.report.figure_style import unsound_in, us
from sim.report.shown import XSS
from sim.report.summary import short
from sim.scenario.contrasts import Contrast

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

XSS_APART: Final = "IA32_XSS apart"
UNTESTED: Final = " (one replication: not tested)"


def asked_pair(comparison: Comparison, case: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first contrast within a case of which both strategies are sound there."""
    unsound = unsound_in(comparison, case["case"])
    pairs = [(a.strategy, b.strategy) for a, b in planned(comparison.results) if a.case == b.case == case["case"]]
    return next((pair for pair in pairs if unsound.isdisjoint(pair)), None)


def amount(cycles: Estimate, scale: float) -> str:
    """A mean with half its interval, both times ``scale``."""
    return with_half(scale * cycles.mean, scale * (cycles.high - cycles.mean)).replace("+-", "±")


def signed(value: float, text: str) -> str:
    """The text of a value, with a plus if it is positive."""
    return f"+{text}" if value > 0 else text


# Own operations.


def of_pair(found: Difference, scale: float, per: str) -> str:
    """One difference in a sentence; ``scale`` is microseconds per cycle."""
    one, other = short(found.a), short(found.b)
    mean = found.own_without_xss.mean
    apart = _apart(found)
    if mean == 0:
        return f"{one} and {other} cost the same{apart}"
    if mean < 0:
        one, other = other, one
    own = found.own_without_xss
    turned = Estimate(abs(mean), min(abs(own.low), abs(own.high)), max(abs(own.low), abs(own.high)), own.unit, own.n)
    if own.n < 2:
        amount_of_one = three_digits(scale * abs(mean))
        return f"{one} costs {amount_of_one} {per} more than {other}{apart}{UNTESTED}"
    if (found.p_without_xss if found.planned else found.p_without_xss_adjusted) > 1 - CONFIDENCE:
        said = amount(turned, scale)
        return f"no difference shown between {one} and {other}{apart} ({said} {per})"
    cheaper = found.cheaper_without_xss if mean < 0 else 1 - found.cheaper_without_xss
    draws = f", and costs more in {_share(cheaper)} of the draws of the costs"
    return f"{one} costs {amount(turned, scale)} {per} more than {other}{apart}{draws}"


def _apart(*found: Difference) -> str:
    """That writes of IA32_XSS are left out, if any of these differ in them by more than rounding."""
    left_out = any(not math.isclose(each.own.mean, each.own_without_xss.mean, abs_tol=1e-9) for each in found)
    return f", {XSS_APART}" if left_out else ""


def _share(share: float) -> str:
    return "> 99 %" if share > 0.99 else f"{100 * share:.0f} %"


class Own(NamedTuple):
    """Own operations in a case: each strategy's less the reference's, and of the pair that is asked about."""

    case: Mapping[str, Any]
    differences: Mapping[str, Difference]
    pair: Difference | None


def own_operations(comparison: Comparison, answers: Answers, case: Mapping[str, Any]) -> Own:
    """The numbers behind the figure of costs."""
    name = case["case"]
    reference, pair = comparison.references[name], asked_pair(comparison, case)
    others = [each for each in case["strategies"] if each != reference]
    return Own(
        case,
        {each: answers.difference(name, each, reference) for each in others},
        answers.difference(name, *pair) if pair else None,
    )


def of_cost(comparison: Comparison, answers: Answers, found: Sequence[Own]) -> str:
    """The finding of all cases together."""
    pairs = [(own.case, own.pair) for own in found if own.pair is not None]
    asks = comparison.results.manifest["resolved"]["run"].get("asks", ())
    if pairs and list(asks[:1]) == [XSS] and (said := _in_writes(pairs)):
        return sentence(said)
    if pairs and len({(pair.a, pair.b) for _, pair in pairs}) == 1:
        if len(pairs) == 1:
            return sentence(of_pair(pairs[0][1], us(pairs[0][0]), _per(pairs[0][0])))
        return sentence(_in_all_cases(pairs))
    between = [pair for pair in planned(comparison.results) if pair.a.case != pair.b.case]
    if between and not pairs:
        return sentence(_of_two_cases(comparison, answers, between[0]))
    return sentence(_extremes(comparison, found))


def _per(case: Mapping[str, Any]) -> str:
    return "us per vCPU-second" if case["vcpus"] else "us per CPU-second"


def _in_writes(pairs: Sequence[tuple[Mapping[str, Any], Difference]]) -> str:
    """How the first pair differs in the writes of IA32_XSS, in cases where that is shown; empty if it is in none."""
    first = pairs[0][1]
    amounts = [
        us(case) * pair.xss.mean
        for case, pair in pairs
        if (pair.a, pair.b) == (first.a, first.b) and pair.xss.mean and not pair.p_xss >= 1 - CONFIDENCE
    ]
    if not amounts:
        return ""
    low, high = signed_amount(min(amounts)), signed_amount(max(amounts))
    amount = low if low == high else f"{low} to {high}"
    return f"{short(first.a)} less {short(first.b)}, writes of IA32_XSS alone: {amount} {_per(pairs[0][0])}"


def _in_all_cases(pairs: Sequence[tuple[Mapping[str, Any], Difference]]) -> str:
    """A pair in several cases: the amounts in cases where a difference is shown."""
    first = pairs[0][1]
    names = short(first.a), short(first.b)
    apart = _apart(*(pair for _, pair in pairs))
    differing = [(case, pair) for case, pair in pairs if pair.own_without_xss.mean]
    if not differing:
        return f"{names[0]} and {names[1]} cost the same in all {len(pairs)} cases{apart}"
    shown = [(case, pair) for case, pair in differing if not pair.p_that_counts >= 1 - CONFIDENCE]
    if not shown:
        return f"no difference shown between {names[0]} and {names[1]} in any of {len(pairs)} cases{apart}"
    amounts = [us(case) * pair.own_without_xss.mean for case, pair in shown]
    apart += UNTESTED * (first.own.n < 2)
    if min(amounts) < 0 < max(amounts):
        return f"whether {names[0]} costs more than {names[1]} depends on the case{apart}"
    one, other = names if amounts[0] > 0 else names[::-1]
    where = (
        "in each case"
        if len(shown) == len(pairs)
        else f"in {len(shown)} of {len(pairs)} cases (no difference shown in others)"
    )
    return f"{one} costs {_between(sorted(map(abs, amounts)))} {_per(pairs[0][0])} more than {other} {where}{apart}"


def _of_two_cases(comparison: Comparison, answers: Answers, pair: Contrast) -> str:
    """The first contrast of two cases that is asked about."""
    a, b = (f"{short(each.strategy)} ({each.case})" for each in pair)
    if any(each.strategy in unsound_in(comparison, each.case) for each in pair):
        return f"{a} against {b}: one of them is unsound"
    found = answers.between(*pair)
    case = comparison.results.case(pair.a.case)
    scale = 1.0 if found.own.unit.startswith("us") else us(case)
    if found.own.mean < 0:
        a, b = b, a
    size = scale * abs(found.own.mean)
    half = scale * (found.own.high - found.own.mean)
    said = with_half(size, half).replace("+-", "±")
    if found.verdict == "not shown":
        return f"no difference shown between {a} and {b} ({said} {_per(case)})"
    untested = UNTESTED * (found.own.n < 2)
    return f"{a} costs {said} {_per(case)} more than {b}{untested}" if size else f"{a} and {b} cost the same"


def _extremes(comparison: Comparison, found: Sequence[Own]) -> str:
    for own in found:
        text = extremes(comparison, own)
        if text:
            return text + (f" ({own.case['case']})" if len(found) > 1 else "")
    return "nothing but references: no differences"


def extremes(comparison: Comparison, own: Own) -> str:
    """The cheapest and the most expensive strategy of a case; empty if only the reference is sound."""
    unsound = unsound_in(comparison, own.case["case"])
    means = {
        name: us(own.case) * each.own_without_xss.mean
        for name, each in own.differences.items()
        if name not in unsound and each.rows
    }
    if not means:
        return ""
    reference = short(comparison.references[own.case["case"]])
    least, most = (pick(means, key=lambda name: means[name]) for pick in (min, max))
    per = "us per vCPU-second" if own.case["vcpus"] else "us per CPU-second"
    if least == most:
        return of_pair(own.differences[least], us(own.case), per)
    return (
        f"own operations go from {signed_amount(means[least])} ({short(least)}) to {signed_amount(means[most])} "
        f"({short(most)}) {per} beside {reference}"
    )


def signed_amount(value: float) -> str:
    """A value with three digits and its sign."""
    return signed(value, three_digits(value))


def _between(amounts: Sequence[float]) -> str:
    low, high = three_digits(amounts[0]), three_digits(amounts[-1])
    return low if low == high else f"{low} to {high}"


WORDS: Final = ("no ", "nothing ", "own ", "whether ")
"""Words with which a sentence begins and that get a capital; a strategy's name stays as it is."""


def sentence(text: str) -> str:
    """The text with a capital at its beginning, unless it begins with a strategy's name."""
    return text[:1].upper() + text[1:] if text.startswith(WORDS) else text


# Categories.


def of_categories(comparison: Comparison, cases: Sequence[Mapping[str, Any]]) -> str:
    """The share of cycles that no strategy changes, and the category in which strategies differ most."""
    found = comparison.df_categories()
    shares, spreads = [], []
    for case in cases:
        here = found[found["case"] == case["case"]].pivot(index="strategy", columns="category", values="mean")
        here = here[list(CATEGORIES)]
        reference = here.loc[comparison.references[case["case"]]]
        shares.append(100 * float(1 - reference[list(CARRYING)].sum() / reference.sum()))
        spread = here[list(CARRYING)].max() - here[list(CARRYING)].min()
        if spread.max() > 0:
            spreads.append(str(spread.idxmax()))
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    share = low if low == high else f"{low} to {high}"
    text = f"{share} % of the operations' cycles are virtualisation and scheduling"
    if not spreads:
        return text
    most = " and ".join(dict.fromkeys(spreads))
    return f"{text}; strategies differ in the rest, most in {most}"


# Feedback.


def of_feedback(shown: pd.DataFrame, names: Mapping[str, str]) -> str:
    """The largest difference that is shown, relative to the reference; or that none is.

    ``shown`` has the columns of :meth:`~sim.analysis.comparison.Comparison.df_feedback`.
    """
    if (shown["verdict"] == "not tested").all():
        return "How the host reacts: one replication, not tested"
    found = shown[shown["verdict"].isin(("lower", "higher"))]
    if found.empty:
        most = float(shown["percent_no_more_than"].max())
        within = (
            f"; each is within ±{three_digits(most)} % (two one-sided tests at 2.5 %)" if math.isfinite(most) else ""
        )
        return f"No difference shown in how the host reacts{within}"
    row = found.iloc[int(found["percent"].abs().to_numpy().argmax())]
    mean, low, high = (float(row[end]) for end in ("percent", "percent_low", "percent_high"))
    longer = "longer" if mean > 0 else "shorter"
    low, high = (low, high) if mean > 0 else (-high, -low)
    return (
        f"With {short(str(row['strategy']))} {names[str(row['metric'])]} is {three_digits(abs(mean))} % {longer} "
        f"({three_digits(low)} to {three_digits(high)} %); {len(found)} of {len(shown)} differences are shown"
    )
