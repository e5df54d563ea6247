"""A linear law: what a VM exit, a preemption and a KVM_RUN round trip cost under each strategy.

The three prices are those of whole sequences of the kernel model (:mod:`sim.kernel.flows`), priced warm with the case's
cost table: an exit that KVM handles, a preemption of a vCPU by a user task and back, an exit to user space.  With rates
of each, cost = exit price x exits/s + switch price x context switches/s + round-trip price x round trips/s.  It is an
idealisation, not a simulation: it knows no migrations, no halts and no caches.  :mod:`sim.analysis.price` is the same
with more kinds of events, all assumptions stated, and the range of the costs.
"""

from dataclasses import dataclass
from typing import Final

from sim.analysis.price_load import EXIT, ROUND_TRIP, SWITCHED_OUT
from sim.analysis.price_own import per_second, switches_xss
from sim.costs.price import Prices
from sim.costs.rows import CostTable
from sim.kernel.config import Settings


@dataclass(frozen=True, slots=True)
class Law:
    """TSC cycles per VM exit, per context switch (half a preemption and back) and per KVM_RUN round trip."""

    exit: float
    switch: float
    round_trip: float

    def cost(self, exits: float, switches: float, round_trips: float) -> float:
        """Cycles per second for rates per second; ``exits`` are all exits, those of the other two among them."""
        return self.exit * exits + self.switch * switches + self.round_trip * round_trips


EVENTS: Final = (EXIT, SWITCHED_OUT["user"], ROUND_TRIP)
"""The events whose sequences the law prices."""


def law(settings: Settings, table: CostTable, *, with_xss: bool = True) -> Law:
    """The law of a strategy on a kernel; an exit belongs to its own price, so the other two are without theirs."""
    prices = Prices(table)
    exit_, preempt, round_trip = (
        sum(n * prices[op] for op, n in per_second({event: 1.0}, settings).items() if with_xss or not switches_xss(op))
        for event in EVENTS
    )
    return Law(exit_, (preempt - exit_) / 2, round_trip - exit_)


def break_even(
    one: Law, other: Law, *, round_trips: float, exits: float | None, switches: float | None
) -> float | None:
    """The rate at which two laws cost the same, the other rates given; None if there is no positive one.

    The rate that is sought, of exits or of switches, is None.
    """
    difference = Law(one.exit - other.exit, one.switch - other.switch, one.round_trip - other.round_trip)
    slope = difference.exit if exits is None else difference.switch
    rest = difference.cost(exits or 0.0, switches or 0.0, round_trips)
    if slope == 0 or (rate := -rest / slope) <= 0:
        return None
    return rate
