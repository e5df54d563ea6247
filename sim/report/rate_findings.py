"""What figures of rates and of a sweep say in their titles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sim.analysis import rates
from sim.analysis.answers import Answers
from sim.analysis.law import Law, break_even
from sim.analysis.metrics import settings_of
from sim.kernel.config import strategy_of
from sim.report.amounts import three_digits
from sim.report.figure_style import unsound_in, us
from sim.report.findings import asked_pair, sentence, signed_amount
from sim.report.summary import short

if TYPE_CHECKING:
    import pandas as pd

    from sim.analysis.comparison import Comparison


class Crossing(NamedTuple):
    """A rate at which two strategies cost the same by the law; ``above`` costs more above it."""

    case: str
    rate: str
    value: float
    here: float
    above: str
    below: str


def crossings(comparison: Comparison, case: str, strategies: Sequence[str], within: float) -> list[Crossing]:
    """All crossings of laws in a case at rates from its schedule's over ``within`` to its schedule's times that."""
    at = next((row for row in rates.df_rates(comparison).to_dict("records") if row["case"] == case), None)
    of_case = rates.laws(comparison).get(case, {})
    if at is None:
        return []
    found = []
    for i, one in enumerate(strategies):
        for other in strategies[:i]:
            for rate in rates.EVENTS:
                value = break_even(
                    of_case[one],
                    of_case[other],
                    round_trips=at["round_trips"],
                    exits=None if rate == "exits" else at["exits"],
                    switches=None if rate == "switches" else at["switches"],
                )
                if value is not None and at[rate] and at[rate] / within <= value <= at[rate] * within:
                    more = _slope(of_case[one], rate) > _slope(of_case[other], rate)
                    above, below = (one, other) if more else (other, one)
                    found.append(Crossing(case, rate, value, float(at[rate]), above, below))
    return found


def _slope(law: Law, rate: str) -> float:
    return law.exit if rate == "exits" else law.switch


EVENT_NAMES: Final = {"exits": "VM exits", "switches": "context switches"}


def of_rates(comparison: Comparison, found: Sequence[Crossing], within: float) -> str:
    """The crossing nearest to the schedule: of a pair that is asked about, or else of sound and posted strategies.

    If a pair that is asked about does not cross, the sentence says so.
    """
    asked = {case["case"]: pair for case in comparison.results.cases if (pair := asked_pair(comparison, case))}
    crossing = [each for each in found if {each.above, each.below} == set(asked.get(each.case, ()))]
    if asked and not crossing and (text := _same_order(comparison, asked, within)):
        return sentence(text)
    if not found:
        return f"Within {within:g} times the simulated rates no two strategies with a line change places"

    def rank(each: Crossing) -> tuple[int, float]:
        case = comparison.results.case(each.case)
        strategies = [strategy_of(settings_of(case, name)) for name in (each.above, each.below)]
        remote = sum(not one.carries or bool(one.hypothetical or one.unsound) for one in strategies)
        return remote, abs(math.log(each.value / each.here))

    best = min(crossing or found, key=rank)
    where = f", {best.case}" if len(comparison.results.cases) > 1 else ""
    return sentence(
        f"{short(best.above)} costs more than {short(best.below)} above {three_digits(best.value)} "
        f"{EVENT_NAMES[best.rate]} per vCPU-second ({three_digits(best.here)} here{where})"
    )


def _same_order(comparison: Comparison, asked: Mapping[str, tuple[str, str]], within: float) -> str:
    """Which of the pair costs more at all drawn rates, or that the law does not hold for one of them; or empty."""
    at = {row["case"]: row for row in rates.df_rates(comparison).to_dict("records")}
    signs: set[tuple[str, ...]] = set()
    there: list[str] = []
    missed: dict[str, None] = {}
    for case, pair in asked.items():
        misses = [name for name in pair if name in rates.missed_by_law(comparison, case)]
        missed |= dict.fromkeys(misses)
        if case not in at or misses:
            continue
        a, b = (
            rates.laws(comparison)[case][name].cost(at[case]["exits"], at[case]["switches"], at[case]["round_trips"])
            for name in pair
        )
        there.append(case)
        if a != b:
            signs.add(pair if a > b else pair[::-1])
    if not signs and missed:
        left_out = " and ".join(map(short, missed))
        return f"cost at other rates of VM exits and context switches, without {left_out}: prices x rates miss the mark"
    if len(signs) != 1:
        return ""
    one, other = map(short, signs.pop())
    where = "" if len(there) == len(asked) else f" ({', '.join(there)})"
    return f"{one} costs more than {other} at all rates within {within:g} times the simulated ones{where}"


def of_sweep(comparison: Comparison, answers: Answers, points: pd.DataFrame, swept: str) -> str:
    """How far the sweep moves the pair that is asked about, or a break-even in it, or what it moves most."""
    host = points[points["host"] == points["host"].iloc[0]]
    cases = [comparison.results.case(host["case"].iloc[place]) for place in (0, -1)]
    unsound = unsound_in(comparison, cases[0]["case"])
    pair = asked_pair(comparison, cases[0])
    if pair is None:
        inside = comparison.df_break_even()
        inside = inside[(inside["source"] == "sweep") & inside["case"].isin(points["case"])]
        for row in inside.to_dict("records"):
            reference = short(comparison.references[row["case"]])
            return sentence(
                f"{short(row['strategy'])} costs what {reference} does at {three_digits(row['value'])} "
                f"{EVENT_NAMES[row['rate']]} per vCPU-second"
            )
        ends = host[~host["strategy"].isin(unsound)].groupby("strategy", sort=False)["mean"].agg(["first", "last"])
        if ends.empty:
            return f"The sweep of {swept} moves the rates"
        pair = str((ends["last"] - ends["first"]).abs().idxmax()), comparison.references[cases[0]["case"]]
    found = [answers.difference(case["case"], *pair) for case in cases]
    one, other = map(short, pair)
    said = []
    for case, each in zip(cases, found, strict=True):
        mean = us(case) * each.own.mean
        not_shown = "" if each.verdict != "not shown" else " (no difference shown)"
        said.append((mean, f"{three_digits(abs(mean))} us{not_shown}", f"with {swept} = {case['sweep'][swept]}"))
    (first, amount, where), (last, other_amount, other_where) = said
    if first * last > 0:
        more = "more" if first > 0 else "less"
        return sentence(
            f"{one} costs {amount} per vCPU-second {more} than {other} {where}, and {other_amount} {other_where}"
        )
    return sentence(
        f"{one} less {other}: {signed_amount(first)} us per vCPU-second {where}, "
        f"and {signed_amount(last)} {other_where}"
    )
