"""Strategies: ways of carrying a guest's state across vCPU switches, as data.

A strategy is a mechanism and the named points of the flow at which it saves and loads a carried state
(:mod:`sim.kernel.carried`).  The files in data/strategies are the whole of what is specific to each; a new idea of the
same kind is a new file, shipped or given by its path.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from sim.errors import InputError
from sim.kernel.datafile import STRICT, load, shipped

MECHANISMS: Final = ("none", "msr", "msr-list", "user-return", "fpstate", "independent")
"""none: nothing is carried; msr: RDMSR/WRMSR by software; msr-list: the VMX MSR areas; user-return: MSRs whose host
value is restored on return to user mode; fpstate: an xfeature in fpstates; independent: an xfeature with a buffer of
its own."""

SAVE_POINTS: Final = ("vm_exit", "kvm_run_exit", "sched_out", "prepare_switch_to_host")
LOAD_POINTS: Final = ("vm_entry", "kvm_run_entry", "sched_in", "prepare_switch_to_guest")


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way of carrying a guest's state.

    ``guard`` keeps a flag "the guest's values are in the registers", so that nothing is saved that is not loaded.
    ``zero`` is how many of the MSRs, from the first, get 0 after a save.  ``lazy`` does nothing until KVM has
    intercepted a non-zero write of one of the MSRs.  ``normal_fpstates`` and ``guest_fpstates`` say which fpstates have
    the xfeature; ``resident`` takes it out of the mask with which normal fpstates are restored.  ``late`` loads an
    independent feature after the guest fpstate instead of before.  ``sets_cache`` is False for a user-return strategy
    that forgets to note what it found in the MSRs at deschedule.  ``hypothetical`` and ``unsound`` say why,
    and are empty otherwise.
    """

    __pydantic_config__ = STRICT

    name: str
    title: str
    mechanism: str
    source: str
    save_at: tuple[str, ...] = ()
    load_at: tuple[str, ...] = ()
    guard: bool = False
    zero: int = 0
    lazy: bool = False
    normal_fpstates: bool = False
    guest_fpstates: bool = False
    resident: bool = False
    late: bool = False
    sets_cache: bool = True
    guest_has_cet: bool = True
    needs: str = ""
    hypothetical: str = ""
    unsound: str = ""

    def __post_init__(self) -> None:
        for value, allowed, key in (
            ((self.mechanism,), MECHANISMS, "mechanism"),
            (self.save_at, SAVE_POINTS, "save_at"),
            (self.load_at, LOAD_POINTS, "load_at"),
            ((self.needs,), ("", "vmx"), "needs"),
        ):
            for each in value:
                if each not in allowed:
                    raise InputError(f"strategy {self.name}: {key} = {each!r} (allowed: {', '.join(allowed)})")

    @property
    def carries(self) -> bool:
        """Whether the guest's values survive at all."""
        return self.mechanism != "none"

    @property
    def by_software(self) -> bool:
        """Whether software copies the MSRs one by one."""
        return self.mechanism in ("msr", "user-return", "msr-list")


@cache
def strategy(name: str) -> Strategy:
    """The strategy called ``name``, shipped or a TOML file; :class:`~sim.errors.InputError` if there is none."""
    return load(Strategy, "strategy", "strategies", name)


ORDER: Final = (
    "no-cet", "free-ssp", "manual-exit", "manual-run", "manual-run-guarded", "manual-load", "manual-load-nozero",
    "manual-lazy", "user-return", "msr-autoload", "xstate-all", "xstate-guest", "xstate-guest-resident",
    "xstate-all-resident", "independent",
)  # fmt: skip


def names() -> list[str]:
    """The strategies that are shipped, from the reference to the hypothetical."""
    found = [Path(path).stem for path in shipped("strategies")]
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
