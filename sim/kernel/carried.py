"""A carried state: register contents of a guest that the hardware leaves in place at a VM exit, as data.

The state says what there is to carry; a strategy (:mod:`sim.kernel.strategies`) says where in the flow and how.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from sim.errors import InputError
from sim.kernel.datafile import STRICT, is_name, load, shipped, shortened, stamp
from sim.kinds import Kind, wanted
from sim.xsave.components import COMPONENTS

CET_S_NUMBER = 12
XFEATURES = (CET_S_NUMBER, 14, 15, 19)
"""State components that a strategy can carry: CET_S (three MSRs in 24 bytes), UINTR, LBR and APX.  Linux handles the
others by itself or never enables them."""

IN_COMPONENTS = {0x6A0: 11, 0x6A4: 12, 0x6A5: 12, 0x6A6: 12, 0x6A7: 11, 0xD93: 10}
"""MSRs, by number, that XSAVES and XRSTORS move with a state component (Intel SDM vol. 1, section 13.5)."""
SWITCHED_BY_KVM = {0x1C4: "IA32_XFD", 0x1C5: "IA32_XFD_ERR", 0xDA0: "IA32_XSS", 0xC0000102: "IA32_KERNEL_GS_BASE"}
"""MSRs that KVM, and so the model, switches by itself wherever guest and host differ."""

UINTR_NUMBER, UINTR_MISC = 14, 0x988
"""IA32_UINTR_MISC has UINV in bits 39:32, which XSAVES of UINTR clears, so that no user interrupt is recognized until
an XRSTORS or a WRMSR sets it again (intel/uintr-linux-kernel @ 2100ffbe5f6d, arch/x86/kernel/uintr_core.c,
switch_uintr_return())."""

INSTRUCTIONS = ("PUSH2", "POP2", "PUSH", "POP", "MOV", "XOR")
"""Instructions by which software may copy plain registers to memory and back; the cost tables have a row for each."""
MOST_INSTRUCTIONS = 1024


@dataclass(frozen=True, slots=True)
class CarriedState:
    """What is carried.

    ``short`` is what texts call it; without it, the names of its MSRs.  ``msrs`` maps names to MSR numbers, in the
    order in which software accesses them.  ``xfeature`` is the state component that holds them all, or None; without
    MSRs it is carried as an xfeature only.  ``per_task_msr``: the host has a value
    per task, which it writes on return to user mode if the CPU's cached value differs, as fred_update_rsp0()
    (arch/x86/include/asm/fred.h) does.  ``size_bytes`` is the size of the component, or of the MSRs.
    ``cpu_feature`` is the CPU feature without which the MSRs do not exist.  ``save_by``, ``load_by`` and ``clear_by``
    are the instructions, and how many of each, by which software copies plain registers to memory of the vCPU, loads
    them, and clears them after a save so that no guest's value is left to speculation.
    """

    __pydantic_config__ = STRICT

    name: str
    title: str
    msrs: dict[str, int] = field(hash=False)
    size_bytes: int
    per_task_msr: bool
    source: str
    xfeature: int | None = None
    cpu_feature: str = ""
    short: str = ""
    save_by: dict[str, int] = field(default_factory=dict, hash=False)
    load_by: dict[str, int] = field(default_factory=dict, hash=False)
    clear_by: dict[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InputError(f"carried state {shortened(self.name)}: {problem}")

    def _problems(self) -> Iterator[str]:
        if not is_name(self.name):
            yield "name is empty or not one line of text"
        if not is_name(self.short or "-"):
            yield "short is not one line of text"
        if not self.msrs and self.xfeature is None and not self.save_by:
            yield "msrs is empty (allowed without an xfeature: one MSR or more, or save_by and load_by)"
        for key in ("save_by", "load_by", "clear_by"):
            for instruction, count in getattr(self, key).items():
                if instruction not in INSTRUCTIONS:
                    yield f"{key} has {shortened(instruction)} (allowed: {', '.join(INSTRUCTIONS)})"
                if not 1 <= count <= MOST_INSTRUCTIONS:
                    yield f"{key}.{instruction} = {shortened(count)} (allowed: 1 to {MOST_INSTRUCTIONS})"
        if bool(self.save_by) != bool(self.load_by):
            yield "save_by without load_by, or load_by without it (allowed: both or neither)"
        if self.clear_by and not self.save_by:
            yield "clear_by without save_by"
        if self.save_by and self.msrs:
            yield "save_by with msrs (allowed: for plain registers, which are no MSRs)"
        names: dict[int, str] = {}
        for name, number in self.msrs.items():
            if not is_name(name):
                yield f"msrs has the name {shortened(name)}, which is empty or not one line of text"
            if not 0 <= number <= 0xFFFFFFFF:
                yield f"msrs.{name} = {shortened(number)} (allowed: 0 to 0xffffffff)"
            if number in names:
                yield f"msrs.{name} and msrs.{names[number]} are both {number:#x} (allowed: each MSR once)"
            names[number] = name
            if number in SWITCHED_BY_KVM:
                yield f"msrs.{name} = {number:#x} is {SWITCHED_BY_KVM[number]}, which KVM switches by itself"
            component = IN_COMPONENTS.get(number)
            if component is not None and component != self.xfeature:
                allowed = (
                    "allowed: with xfeature = 12" if component == CET_S_NUMBER else "which Linux handles by itself"
                )
                where = f"state component {component}, {COMPONENTS[component].name}"
                yield f"msrs.{name} = {number:#x} is in {where} ({allowed})"
        if self.size_bytes <= 0:
            yield f"size_bytes = {shortened(self.size_bytes)} (allowed: 1 or more)"
        if self.xfeature not in (None, *XFEATURES):
            known = ", ".join(f"{i} ({COMPONENTS[i].name})" for i in XFEATURES)
            yield (
                f"xfeature = {shortened(self.xfeature)} (allowed: {known}, or no xfeature at all; Linux handles the "
                "others by itself or never enables them)"
            )
        if self.xfeature == CET_S_NUMBER and (len(self.msrs) != 3 or self.size_bytes != 24):
            yield (
                f"{len(self.msrs)} MSRs and {shortened(self.size_bytes)} bytes (allowed with xfeature {CET_S_NUMBER}: "
                "3 MSRs and 24 bytes)"
            )
        if self.xfeature is not None and self.per_task_msr:
            yield "per_task_msr = true with an xfeature (allowed: for MSRs that belong to none)"

    @property
    def called(self) -> str:
        """Its name in texts."""
        return self.short or ", ".join(self.msrs) or (self.name if self.xfeature is None else self.component)

    @property
    def component(self) -> str:
        """The name of its state component, or its name in texts if it has none."""
        return COMPONENTS[self.xfeature].name if self.xfeature is not None else self.called

    @property
    def mask(self) -> int:
        """The xfeature as a mask, 0 if there is none."""
        return 0 if self.xfeature is None else 1 << self.xfeature

    @property
    def cleared_by_xsaves(self) -> int | None:
        """Which of its MSRs XSAVES clears after it has saved them; only that of UINV is known."""
        found = self.xfeature == UINTR_NUMBER and UINTR_MISC in self.msrs.values()
        return list(self.msrs.values()).index(UINTR_MISC) if found else None


def carried_state(name: str | CarriedState) -> CarriedState:
    """The carried state called ``name``, shipped or a TOML file; a carried state is returned as it is.

    Raises :class:`~sim.errors.InputError` if there is none.
    """
    return name if isinstance(name, CarriedState) else _read(name, stamp(name))


@lru_cache(maxsize=64)
def _read(name: str, stamp: tuple[int, int] | None) -> CarriedState:
    with wanted(name, Kind.CARRIED):
        return load(CarriedState, "carried state", "carried", name)


def names() -> list[str]:
    """The carried states that are shipped."""
    return [Path(path).stem for path in shipped("carried")]
