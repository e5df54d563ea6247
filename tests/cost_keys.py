"""Keys and prices of single operations."""

from sim.calibrate import calls
from sim.costs.rows import COMPONENT_NAMES
from sim.costs.table import current
from sim.errors import InputError
from sim.kernel import flows
from sim.kernel.scene import GuestUse

E7 = 0xE7


def key(operation, rfbm=0, components=0, initialised=0, level=""):
    return ("vcpu", "switch", operation, rfbm, components, initialised, level)


def of_all_flows(settings):
    keys = set()
    use = GuestUse(xrstors=settings.kernel != "v6.18", ssp=settings.kernel != "rfc")
    for flow in flows.FLOWS:
        try:
            keys.update(tuple(op) for op in flows.run(flow, settings, use).operations)
        except InputError:  # a pair that makes no sense
            return set()
    return keys


MEASURED_ALONE = {"intel-amx": "sapphire-rapids"}
"""A table that is no CPU's own, and a CPU that it may be."""


ZEN4 = current("zen4")


def in_place(kind, where, level=""):
    """The difference rows, by what was in use."""
    rows = ZEN4.rows.values()
    return [row for row in rows if row.operation == calls.name(kind, where) and row.level == level]


def mask_of(row):
    return sum(1 << COMPONENT_NAMES.index(name) for name in row.component.split())
