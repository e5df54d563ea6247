"""Guests that are known by their VM exits alone, as entries of a scenario: from KVM's events, or from perf's table."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np

from sim.costs.price import Prices
from sim.costs.table import load_for
from sim.errors import InputError
from sim.kernel.config import Settings
from sim.kernel.flows import run as run_flow
from sim.kernel.operations import Operation
from sim.trace.fit.entries import ExitEntry, Times
from sim.xsave.profiles import CpuProfile, profile

DEFAULT_CPU: Final = {"vmx": "sapphire-rapids", "svm": "zen4"}
"""By vendor, which exit reasons tell."""

REASONS: Final = {
    "external_interrupt": "external-interrupt", "interrupt": "external-interrupt", "cpuid": "cpuid",
    "io_instruction": "io", "io": "io", "ept_violation": "ept-violation", "npf": "ept-violation",
    "ept_misconfig": "ept-misconfig", "msr_read": "msr-read", "msr_write": "msr-write", "msr": "msr-write",
    "pause_instruction": "pause", "pause": "pause", "vmcall": "vmcall", "hypercall": "vmcall",
    "apic_access": "apic-access", "apic_write": "apic-access", "avic_unaccelerated_access": "apic-access",
    "cr_access": "cr-access", "read_cr0": "cr-access", "write_cr0": "cr-access", "cr0_sel_write": "cr-access",
    "read_cr3": "cr-access", "write_cr3": "cr-access", "read_cr4": "cr-access", "write_cr4": "cr-access",
    "read_cr8": "cr-access", "write_cr8": "cr-access",
    "wrmsr_icr": "wrmsr-icr", "preemption_timer": "preemption-timer", "invd": "invd", "hlt": "hlt",
    "idle-halt": "hlt",
}  # fmt: skip
"""What a scenario calls an exit reason of arch/x86/include/uapi/asm/{vmx,svm}.h, in small letters; else ``other``.

SVM's msr does not say whether it is a read; a nested page fault is what VMX calls an EPT violation.
"""

HALT: Final = "hlt"
INTERRUPT: Final = "external-interrupt"
HZ: Final = (250, 100)
"""CONFIG_HZ of the scenario: the default, or less if external interrupts are rarer than that."""
LEAST_NS: Final = 100.0
"""The least time between exits (docs/scenarios.md)."""


def reason_of(name: str) -> str:
    """What a scenario calls an exit reason; HLT is ``hlt``, which is not a kind of exit there."""
    return REASONS.get(name.lower(), "other")


@dataclass(frozen=True, slots=True)
class GuestEntry:
    """vCPUs that are alike; ``demand`` is the guest time between two halts, ``sleep`` how long a halt lasts."""

    name: str
    vcpus: int
    exits: Sequence[ExitEntry]
    demand: Times | None = None
    sleep: Times | None = None
    comments: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class FittedExits:
    """A scenario of guests that are known by their exits, before it is written.

    ``comments`` head the file; ``tsc_hz`` 0: that of the CPU profile; ``interrupt_ns`` None: the default.
    """

    name: str
    seconds: float
    cpus: int
    cpu: str
    costs: str | None
    kernel: str
    tsc_hz: float
    hz: int
    interrupt_ns: float | None
    polls: bool
    guests: Sequence[GuestEntry]
    notes: Sequence[str]
    per_second: float
    """Exits of all guests."""


class Exited(Protocol):
    """Exits of a vCPU: ``guest_ns`` is when, on a clock that runs while the guest runs; ``number`` how many of any
    kind it had had by then; ``after_ns`` the times until the guest was entered again."""

    guest_ns: "array[int]"
    number: "array[int]"
    after_ns: "array[int]"


def spaced(kinds: Sequence[Exited], guest_ns: float, charge: float) -> Times:
    """Guest time between exits, including that after the last one.  ``charge`` is what the model itself charges before
    and after each exit, in ns.
    """
    at = np.concatenate([np.array(kind.guest_ns, np.int64) for kind in kinds])
    number = np.concatenate([np.array(kind.number, np.int64) for kind in kinds])
    order = np.argsort(number)
    gaps = np.diff(at[order], prepend=0) - charge * np.diff(number[order], prepend=0)
    return Times(guest_ns / len(gaps)).with_samples(np.maximum(gaps, 1.0))


def taken(kinds: Sequence[Exited], charge: float) -> Times:
    """Times until the next entry, less what the model itself charges."""
    after = np.concatenate([np.array(kind.after_ns, np.int64) for kind in kinds])
    own = np.maximum(after - charge, 0.0)
    return Times(float(own.mean()) if len(own) else 0.0).with_samples(own)


class Charges(NamedTuple):
    """What the simulated host itself charges, in ns.  ``guest``: for an exit, before kvm_exit and after kvm_entry;
    between the two, ``handler`` if KVM handles it, ``user`` if KVM_RUN returns, ``halt`` if the vCPU sleeps and the
    CPU idles.
    """

    guest: float
    handler: float
    user: float
    halt: float


def charges(cpu: str, kernel: str, costs: str | None, tsc_hz: float) -> Charges:
    """The charges of the strategy that times a scenario by default."""
    chosen = profile(cpu)
    prices = Prices(load_for(chosen.name, costs))
    inside = {}
    outside = 0.0
    for flow in ("in-kernel-exit", "userspace-exit", "halt"):
        before, between, behind = _cycles(flow, _settings(chosen, kernel), prices)
        inside[flow] = between
        if flow == "in-kernel-exit":
            outside = before + behind
    ns = 1e9 / (tsc_hz or chosen.tsc_hz)
    return Charges(outside * ns, *(inside[flow] * ns for flow in ("in-kernel-exit", "userspace-exit", "halt")))


def _settings(cpu: CpuProfile, kernel: str) -> Settings:
    try:
        settings = Settings(cpu=cpu, kernel=kernel, strategy="free-ssp")
        run_flow("in-kernel-exit", settings)
    except InputError:
        return Settings(cpu=cpu, kernel=kernel, strategy="no-cet")
    return settings


def _cycles(flow: str, settings: Settings, prices: Prices) -> tuple[float, float, float]:
    """Cycles before kvm_exit, from it to kvm_entry, and after that."""
    found = [0.0, 0.0, 0.0]
    part = 0
    for step in run_flow(flow, settings).steps:
        for _, event in step.events:
            if isinstance(event, Operation):
                found[part] += prices[event]
            elif event.event == ("kvm:kvm_exit", "kvm:kvm_entry", "")[part]:
                part += 1
    return found[0], found[1], found[2]


def ticks(per_guest_second: float, entries: Sequence[ExitEntry]) -> tuple[int, list[ExitEntry], float | None]:
    """CONFIG_HZ, the exits other than those of the host's tick, and the time of an interrupt in ns.

    The simulated host has ticks of its own, which are exits, so they are subtracted from the external interrupts.
    """
    interrupts = [each for each in entries if each.reason == INTERRUPT and not each.userspace]
    if not interrupts:
        return HZ[-1], list(entries), None
    hz = next((each for each in HZ if each <= per_guest_second), HZ[-1])
    rest = per_guest_second - hz
    kept = [each for each in entries if each not in interrupts]
    mean = sum(each.time.mean * each.counted for each in interrupts) / sum(each.counted for each in interrupts)
    if rest > 0.02 * per_guest_second:
        thinner = per_guest_second / rest
        for each in interrupts:
            every = Times(each.every.mean * thinner, [ns * thinner for ns in each.every.samples])
            kept.append(ExitEntry(each.name, each.reason, each.counted, every, each.time))
    return hz, kept, mean
