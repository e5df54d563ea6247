"""What rates do not say of a load/put pair, and how much it changes what a strategy adds to one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal, NamedTuple, get_args

from sim.analysis.price_load import ROUND_TRIP, SWITCHED_OUT, Between, Event, Load
from sim.analysis.price_own import Assumptions, GuestSsp, own
from sim.costs.rows import CostTable
from sim.kernel.config import Settings

Option = Literal["guest_ssp", "between"]

LEAST: Final = 0.01
"""The share of the pair's cycles by which an answer must move them to be worth naming."""


class Unsaid(NamedTuple):
    """What one load/put pair costs a strategy more than the reference, by what the rates leave open.

    ``per_pair``: TSC cycles without IA32_XSS, each cost row at its value, by the value of ``option``, all else alike.
    """

    strategy: str
    option: Option
    per_pair: Mapping[str, float]


def unsaid(
    load: Load, settings: Mapping[str, Settings], reference: str, table: CostTable, assumed: Assumptions
) -> list[Unsaid]:
    """For each strategy of ``settings`` but the reference, what an option that describes no rate changes."""
    pairs = load.pair_events()
    others = {ROUND_TRIP: load.kvm_run} if load.kvm_run else {}
    choices: list[tuple[Option, str, Mapping[Event, float], Assumptions]] = []
    if pairs:
        choices += [("guest_ssp", use, pairs, replace(assumed, guest_ssp=use)) for use in get_args(GuestSsp)]
    if load.switched_out:
        out = load.switched_out
        choices += [("between", who, {**others, SWITCHED_OUT[who]: out}, assumed) for who in get_args(Between)]
    found = []
    for name in (name for name in settings if name != reference):
        by_option: dict[Option, dict[str, float]] = {}
        for option, value, events, how in choices:
            cycles = own(settings[name], settings[reference], table, events, how).cycles
            by_option.setdefault(option, {})[value] = cycles
        for option, per_pair in by_option.items():
            low, high = min(per_pair.values()), max(per_pair.values())
            if high - low > LEAST * max(abs(low), abs(high)):
                found.append(Unsaid(name, option, per_pair))
    return found
