"""Strategies: ways of carrying a guest's state across vCPU switches, as data.

A strategy is a mechanism and the named points of the flow at which it saves and loads a carried state
(:mod:`sim.kernel.carried`).  The files in data/strategies contain everything that is specific to each; a new idea of
the same kind is a new file, shipped or given by its path.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from sim.errors import InputError
from sim.kernel.carried import CarriedState
from sim.kernel.datafile import STRICT, is_file, is_name, load, shipped, shortened, stamp
from sim.kinds import Kind, wanted

MECHANISMS: Final = ("none", "msr", "msr-list", "user-return", "fpstate", "independent", "instructions")
"""none: nothing is carried; msr: RDMSR/WRMSR by software; msr-list: the VMX MSR areas; user-return: MSRs whose host
value is restored on return to user mode; fpstate: an xfeature in fpstates; independent: an xfeature with a buffer of
its own; instructions: plain registers copied to memory of the vCPU; no guest fpstate then has them."""

SAVE_POINTS: Final = ("vm_exit", "loop_exit", "kvm_run_exit", "sched_out", "prepare_switch_to_host")
LOAD_POINTS: Final = ("vm_entry", "loop_entry", "kvm_run_entry", "sched_in", "prepare_switch_to_guest")

WITHOUT_POINTS: Final = ("none", "fpstate")
"""Mechanisms that have no points of their own for saving and loading: the second works wherever the kernel handles its
fpstates."""

BELONGS_TO: Final = {
    "zero": "msr",
    "lazy": "msr",
    "normal_fpstates": "fpstate",
    "guest_fpstates": "fpstate",
    "resident": "fpstate",
    "late": "independent",
    "sets_cache": "user-return",
    "always": "instructions",
    "restore": "user-return",
}
"""Keys that have a meaning only for one mechanism."""

MAX_LABEL: Final = 22

MOST_MSRS: Final = 64
"""No carried state has as many MSRs; whether one has ``zero`` or ``restore`` of them is checked when both are known."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way of carrying a guest's state.

    ``guard`` keeps a flag "the guest's values are in the registers", so that nothing is saved that was not loaded.
    ``zero`` is how many of the MSRs, from the first, are set to 0 after a save.  ``lazy`` does nothing until KVM has
    intercepted a non-zero write of one of the MSRs.  ``normal_fpstates`` and ``guest_fpstates`` say which fpstates have
    the xfeature; ``resident`` takes it out of the mask with which normal fpstates are restored.  ``late`` loads an
    independent feature after the guest fpstate instead of before.  ``sets_cache`` is False for a user-return strategy
    that does not record what it found in the MSRs at sched-out, and ``restore`` how many of the MSRs, from the first,
    get the host's value back on return to user mode; the others keep a guest's.  ``hypothetical`` and ``unsound`` say
    why, and are empty otherwise; ``unsound_with_host_shadow_stacks`` says why by the host's use of shadow stacks.
    ``always``: the instructions run whatever the guest's XCR0 is, instead of behind a test of it.  ``hardware_xcr0``:
    VM entry and exit switch XCR0, so that KVM runs no XSETBV. ``carries_only``: the carried states that it is for;
    empty: any.  In all texts {carried} stands for what is carried, {first} for its first MSR, {xfeature} for its
    component.
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
    restore: int = 1
    always: bool = False
    hardware_xcr0: bool = False
    guest_has_cet: bool = True
    carries_only: tuple[str, ...] = ()
    needs: str = ""
    label: str = ""
    hypothetical: str = ""
    unsound: str = ""
    unsound_with_host_shadow_stacks: dict[Literal["fpstate", "return-to-user"], str] = field(
        default_factory=dict, hash=False
    )

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InputError(f"strategy {shortened(self.name)}: {problem}")

    def _problems(self) -> Iterator[str]:
        if not is_name(self.name):
            yield "name is empty or not one line of text"
        if self.label and not (is_name(self.label) and len(self.label) <= MAX_LABEL):
            yield f"label = {shortened(self.label)} (allowed: one line of {MAX_LABEL} characters at most)"
        for value, allowed, key in (
            ((self.mechanism,), MECHANISMS, "mechanism"),
            (self.save_at, SAVE_POINTS, "save_at"),
            (self.load_at, LOAD_POINTS, "load_at"),
            ((self.needs,), ("", "vmx"), "needs"),
        ):
            for each in value:
                if each not in allowed:
                    yield f"{key} = {shortened(each)} (allowed: {', '.join(one or 'nothing' for one in allowed)})"
            if len(set(value)) < len(value):
                yield f"{key} has a point twice (allowed: each once)"
        for count, key in ((self.zero, "zero"), (self.restore, "restore")):
            if not 0 <= count <= MOST_MSRS:
                yield f"{key} = {shortened(count)} (allowed: 0 to {MOST_MSRS}, and no more than there are MSRs)"
        for points, allowed, key in ((self.save_at, SAVE_POINTS, "save_at"), (self.load_at, LOAD_POINTS, "load_at")):
            if points and self.mechanism in WITHOUT_POINTS:
                yield f"{key} does not go with mechanism {self.mechanism!r}, which has no points of its own"
            if not points and self.mechanism not in WITHOUT_POINTS:
                yield f"mechanism {self.mechanism!r} needs {key} (allowed: one or more of {', '.join(allowed)})"
        for own in fields(self):
            mechanism = BELONGS_TO.get(own.name, self.mechanism)
            if mechanism != self.mechanism and getattr(self, own.name) != own.default:
                yield f"{own.name} goes with mechanism {mechanism!r} only, and this one is {self.mechanism!r}"
        if self.mechanism == "fpstate" and not (self.normal_fpstates or self.guest_fpstates):
            yield "mechanism 'fpstate' needs normal_fpstates or guest_fpstates, or both"

    def why_unsound(self, host_shadow_stacks: str) -> str:
        """Why it is unsound on a host that uses shadow stacks of its own in this way; empty if it is not."""
        there = (why for host, why in self.unsound_with_host_shadow_stacks.items() if host == host_shadow_stacks)
        return next(there, self.unsound)

    def about(self, what: CarriedState) -> "Strategy":
        """The same with texts that name what is carried; unsound if an fpstate cannot hold it as Linux uses it."""
        names = {"{carried}": what.called, "{first}": next(iter(what.msrs), what.called), "{xfeature}": what.component}

        def named(text: str) -> str:
            for placeholder, name in names.items():
                text = text.replace(placeholder, name)
            return text

        texts = {key: named(getattr(self, key)) for key in ("title", "hypothetical", "unsound")}
        if self.mechanism == "fpstate" and what.cleared_by_xsaves is not None:
            texts["unsound"] = "XSAVES clears UINV, and nothing sets it again where the kernel skips XRSTORS"
        return replace(self, **texts)  # type: ignore[arg-type]  # three texts

    @property
    def is_merged(self) -> bool:
        """Whether it is what Linux does since v6.17: a guest-only xfeature of the FPU core."""
        return self.guest_fpstates and not self.normal_fpstates and not self.resident

    @property
    def carries(self) -> bool:
        """Whether the guest's values survive at all."""
        return self.mechanism != "none"


def strategy(name: str | Strategy) -> Strategy:
    """The strategy called ``name``, shipped or a TOML file; a strategy is returned as it is.  A user's strategy with
    the name of a shipped one is called by both: "manual-load (mine.toml)".  Raises :class:`~sim.errors.InputError` if
    there is none.
    """
    return name if isinstance(name, Strategy) else _read(name, stamp(name))


@lru_cache(maxsize=256)
def _read(name: str, stamp: tuple[int, int] | None) -> Strategy:
    with wanted(name, Kind.STRATEGY):
        found = load(Strategy, "strategy", "strategies", name)
    if not is_file(name) or f"{found.name}.toml" not in shipped("strategies"):
        return found
    return replace(found, name=f"{found.name} ({Path(name).name})")


ORDER: Final = (
    "no-cet", "free-ssp", "manual-exit", "manual-run", "manual-run-guarded", "manual-load", "manual-load-nozero",
    "manual-lazy", "user-return", "msr-autoload", "xstate-all", "xstate-guest", "xstate-guest-resident",
    "xstate-all-resident", "independent", "guest-fpstate", "regs-entry-exit", "regs-outer-loop", "hardware-xcr0",
)  # fmt: skip


def names(carried: str = "cet-s") -> list[str]:
    """The strategies that are shipped for a carried state, from the reference to the hypothetical."""
    found = [Path(path).stem for path in shipped("strategies")]
    found = [name for name in found if carried in (about := _read(name, None).carries_only) or not about]
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
