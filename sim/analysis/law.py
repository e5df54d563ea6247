"""A linear law: what a VM exit, a preemption and a KVM_RUN round trip cost under each strategy.

The three prices are those of whole sequences of the kernel model (:mod:`sim.kernel.flows`), priced warm with the case's
cost table: an exit that KVM handles, a preemption of a vCPU by a user task and back, an exit to user space.  With rates
of each, cost = exit price x exits/s + switch price x context switches/s + round-trip price x round trips/s.  It is an
idealisation, not a simulation: it knows no migrations, no halts and no caches.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

from sim.analysis.categories import XSS, category
from sim.costs.price import Prices
from sim.costs.table import CostTable
from sim.kernel import flows
from sim.kernel.config import Settings
from sim.kernel.operations import Operation


@dataclass(frozen=True, slots=True)
class Law:
    """TSC cycles per VM exit, per context switch (half a preemption and back) and per KVM_RUN round trip."""

    exit: float
    switch: float
    round_trip: float

    def cost(self, exits: float, switches: float, round_trips: float) -> float:
        """Cycles per second for rates per second; ``exits`` are all exits, those of the other two among them."""
        return self.exit * exits + self.switch * switches + self.round_trip * round_trips


SEQUENCES: Final = ("in-kernel-exit", "preempt", "userspace-exit")


def law(settings: Settings, table: CostTable, *, with_xss: bool = True) -> Law:
    """The law of a strategy on a kernel; an exit belongs to its own price, so the other two are without theirs."""
    prices = Prices(table)
    exit_, preempt, round_trip = (
        sum(prices[operation] for operation in _operations(name, settings) if with_xss or not _is_xss(operation))
        for name in SEQUENCES
    )
    return Law(exit_, (preempt - exit_) / 2, round_trip - exit_)


@cache
def _operations(name: str, settings: Settings) -> tuple[Operation, ...]:
    return flows.run(name, settings).operations


def _is_xss(operation: Operation) -> bool:
    return category(operation.phase, operation.operation) == XSS


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
