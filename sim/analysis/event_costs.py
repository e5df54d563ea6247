"""What one strategy runs more than another in one event of a case: a load/put pair, a VM exit, a context switch.

These are sequences of the kernel model (:mod:`sim.analysis.price_own`), at the mix of events of the case's schedule.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sim.analysis.answers import Load as Realised
from sim.analysis.guest_settings import for_all
from sim.analysis.metrics import settings_of
from sim.analysis.price_load import EXIT, TASK_SWITCH, Event, Load
from sim.analysis.price_own import COMMON, Assumptions, Buffer, GuestSsp, Own, own
from sim.costs.rows import CostTable
from sim.errors import InputError

EXIT_AND_ENTRY: Final = "VM exit + entry"

NOTHING: Final = 1e-6
"""Cycles per event, for the rounding of floats."""

USES: Final[tuple[GuestSsp, ...]] = ("none", "constant", "rewritten")
"""From the guest that does least with its SSPs to the one that does most."""


class EventCost(NamedTuple):
    """What ``a`` runs more than ``b`` in one event; ``event``: how it is called."""

    event: str
    own: Own


def guest_ssp(case: Mapping[str, Any]) -> GuestSsp:
    """What the guests of a case do with their SSPs, of several kinds the one that does most."""
    guests = case["resolved"].get("guests", {}).values()
    return max((guest.get("shadow_stacks", "none") for guest in guests), key=USES.index, default="none")


def buffers(case: Mapping[str, Any]) -> Buffer:
    """Where the fpstates of a case are; L1 where that depends on what ran."""
    return "memory" if case["resolved"]["host"]["buffer_level"] == "memory" else COMMON.buffer


def event_costs(case: Mapping[str, Any], a: str, b: str, table: CostTable, load: Realised) -> list[EventCost]:
    """What ``a`` runs more than ``b`` in each kind of event in which they differ.

    ``case`` is an entry of the manifest, ``load`` its schedule's.
    """
    assumed = Assumptions(guest_ssp=guest_ssp(case), buffer=buffers(case))
    ours, theirs = (for_all(case, each) or each for each in (settings_of(case, a), settings_of(case, b)))
    kinds: dict[str, Mapping[Event, float]] = {"context switch": {TASK_SWITCH: 1.0}}
    if case["vcpus"]:
        kinds = {"vcpu load + put": rates(load).pair_events(), EXIT_AND_ENTRY: {EXIT: 1.0}}
    found = [EventCost(kind, own(ours, theirs, table, events, assumed)) for kind, events in kinds.items() if events]
    # Each pair has an exit of its own: what costs no more than that is told by the exit.
    if len(found) == 2 and abs(found[0].own.cycles - found[1].own.cycles) < NOTHING:
        del found[0]
    return [each for each in found if max(abs(each.own.cycles), abs(each.own.xss)) > NOTHING]


def rates(load: Realised) -> Load:
    """What a schedule realised, as ``fpswitch price`` has it; per the same time."""
    kvm_run = load.kvm_runs
    pairs = max(load.load_puts, kvm_run)  # at the ends of the measurement one is counted without the other
    exits = max(0.0, load.exits - pairs)
    try:
        switches = max(load.switches, pairs - kvm_run)
        return Load(exits=exits, load_put=pairs, kvm_run=kvm_run, switches=switches)
    except InputError:
        return Load(exits=exits, load_put=pairs, kvm_run=kvm_run)
