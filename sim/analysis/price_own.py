"""The own operations of a strategy: how much more than another it runs in one event, in operations and in cycles.

An event (:class:`~sim.analysis.price_load.Event`) is a sequence of the kernel model from a stated starting point
(:mod:`sim.kernel.flows`); what rates do not say about it is an assumption.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, NamedTuple

from sim.analysis.categories import XSS, category
from sim.analysis.price_load import Event
from sim.costs.check import RESTORES, SAVES
from sim.costs.price import terms
from sim.costs.rows import RATIO, CostTable
from sim.kernel import flows
from sim.kernel.config import Settings
from sim.kernel.flows import FlowRun
from sim.kernel.operations import Operation
from sim.kernel.scene import USED, GuestUse, SspUse
from sim.xsave.components import names

GuestSsp = Literal["none", "constant", "rewritten"]
"""What guests do with the carried MSRs: never write them, write them once, or new ones each time they run."""
SSP_USE: Final[Mapping[GuestSsp, SspUse]] = {"none": "none", "constant": "wrmsr", "rewritten": "rewritten"}

Buffer = Literal["L1", "L2", "memory"]
"""Where all fpstates are when they are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What rates do not say.  ``registers``: the components that guests and user tasks write whenever they run."""

    guest_ssp: GuestSsp = "constant"
    registers: int = USED
    buffer: Buffer = "L1"


COMMON: Final = Assumptions()


class Own(NamedTuple):
    """What one strategy runs more (or, negative, less) than another, per event, without the switching of IA32_XSS.

    ``operations``: how often, by operation; of XSAVES and XRSTORS also by component, as "XSAVES written CET_KERNEL".
    ``cycles``: TSC cycles, not rounded, each cost row at its value; ``low`` and ``high``: each row at the end of its
    range that makes it least and most.  ``rows``: how often each cost row counts.  ``xss``: the cycles of IA32_XSS
    switching, which are not in the others.
    """

    operations: Mapping[str, float]
    cycles: float
    low: float
    high: float
    xss: float
    rows: Mapping[str, float]


@cache
def run(event: Event, settings: Settings, guest_ssp: GuestSsp, registers: int) -> FlowRun:
    """The flow that is ``event.times`` of the event."""
    use = GuestUse(ssp=SSP_USE[guest_ssp], registers=registers, fastpath_exit=event.reason)
    return flows.run(event.flow, settings, use)


def per_second(
    events: Mapping[Event, float], settings: Settings, assumed: Assumptions = COMMON
) -> dict[Operation, float]:
    """Operations per second for events per second."""
    found: dict[Operation, float] = {}
    for event, rate in events.items():
        flow = run(event, settings, assumed.guest_ssp, assumed.registers)
        for op, count in Counter(flow.operations).items():
            if op.operation in (*SAVES, *RESTORES):
                op = op._replace(level=assumed.buffer)
            found[op] = found.get(op, 0.0) + rate * count / event.times
    return found


def switches_xss(op: Operation) -> bool:
    """Whether the operation changes IA32_XSS between the host's value and the guest's."""
    return category(op.phase, op.operation) == XSS


def own(
    settings: Settings,
    reference: Settings,
    table: CostTable,
    events: Mapping[Event, float],
    assumed: Assumptions = COMMON,
) -> Own:
    """What the strategy of ``settings`` runs more than that of ``reference``, per event, priced with ``table``.

    ``events``: how often each is there, by which they are weighed: ``{ROUND_TRIP: 1}``, or all kinds of load/put pairs
    by :meth:`Load.pair_events <sim.analysis.price_load.Load.pair_events>`.
    """
    total = sum(events.values())
    weights = {event: rate / total for event, rate in events.items()}
    net = per_second(weights, settings, assumed)
    for op, count in per_second(weights, reference, assumed).items():
        net[op] = net.get(op, 0.0) - count
    carrying = {op: count for op, count in net.items() if count and not switches_xss(op)}
    cycles, low, high = cost(carrying, table)
    xss, _, _ = cost({op: count for op, count in net.items() if switches_xss(op)}, table)
    return Own(_by_name(carrying), cycles, low, high, xss, by_row(carrying, table))


def _by_name(counts: Mapping[Operation, float]) -> dict[str, float]:
    """How often each operation runs; a save or restore also by what it does with each component."""
    found: dict[str, float] = {}
    for op, count in counts.items():
        for part in (op.operation, *_parts(op)):
            found[part] = found.get(part, 0.0) + count
    return {part: n for part, n in found.items() if abs(n) > NOTHING}


NOTHING: Final = 1e-12
"""Operations per event, for the rounding of floats."""


def _parts(op: Operation) -> list[str]:
    if op.operation in SAVES:
        rest = op.rfbm & ~op.components & ~op.initialised
        done = {"written": op.components, "initial": op.initialised, "unmodified": rest}
    elif op.operation in RESTORES:
        done = {"loaded": op.components, "initialised": op.initialised}
    else:
        return []
    return [f"{op.operation} {what} {name}" for what, mask in done.items() if mask for name in names(mask).split()]


def by_row(counts: Mapping[Operation, float], table: CostTable) -> dict[str, float]:
    """How often each row of the table counts."""
    net: dict[str, float] = {}
    for op, count in counts.items():
        for name, n in terms(op, table).items():
            net[name] = net.get(name, 0.0) + n * count
    return net


def cost(counts: Mapping[Operation, float], table: CostTable) -> tuple[float, float, float]:
    """TSC cycles, not rounded: each row of the table at its value, and at the ends that make it least and most.

    The ratio of the clocks is a row, too.  :class:`~sim.errors.InputError` for an operation without a price.
    """
    value, low, high = ({"core": 0.0, "tsc": 0.0} for _ in range(3))
    for name, weight in by_row(counts, table).items():
        row = table.rows[name]
        value[row.clock] += weight * row.value
        low[row.clock] += weight * (row.low if weight > 0 else row.high)
        high[row.clock] += weight * (row.high if weight > 0 else row.low)
    ratio = table.rows[RATIO]
    return (
        value["tsc"] + value["core"] / table.ratio,
        low["tsc"] + low["core"] / (ratio.high if low["core"] > 0 else ratio.low),
        high["tsc"] + high["core"] / (ratio.low if high["core"] > 0 else ratio.high),
    )
