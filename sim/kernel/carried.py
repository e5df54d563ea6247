"""A carried state: register contents of a guest that the hardware leaves in place at a VM exit, as data.

The state says what there is to carry; a strategy (:mod:`sim.kernel.strategies`) says where in the flow and how.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sim.kernel.datafile import STRICT, load, shipped


@dataclass(frozen=True, slots=True)
class CarriedState:
    """What is carried.

    ``msrs`` maps names to MSR numbers, in the order in which software accesses them.  ``xfeature`` is the state
    component that holds them all (in that order, one quadword each), or None.  ``per_task_msr``: the host has a value
    per task, which it writes on return to user mode if the CPU's cached value differs, as fred_update_rsp0()
    (arch/x86/include/asm/fred.h) does.  ``size_bytes`` is the size of the component, or of the MSRs.
    """

    __pydantic_config__ = STRICT

    name: str
    title: str
    msrs: dict[str, int]
    size_bytes: int
    per_task_msr: bool
    source: str
    xfeature: int | None = None

    @property
    def mask(self) -> int:
        """The xfeature as a mask, 0 if there is none."""
        return 0 if self.xfeature is None else 1 << self.xfeature


@cache
def carried_state(name: str) -> CarriedState:
    """The carried state called ``name``, shipped or a TOML file; :class:`~sim.errors.InputError` if there is none."""
    return load(CarriedState, "carried state", "carried", name)


def names() -> list[str]:
    """The carried states that are shipped."""
    return [Path(path).stem for path in shipped("carried")]
