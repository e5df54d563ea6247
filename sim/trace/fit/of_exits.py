"""A fit of KVM's events alone: the exits, round trips and halts of each vCPU, as entries of a scenario."""

from itertools import groupby
from typing import IO, Final

import numpy as np

from sim.errors import InputError
from sim.trace.exits import HALTS, Exits, Vcpu, exits
from sim.trace.fit.entries import ExitEntry
from sim.trace.fit.guests import (
    DEFAULT_CPU,
    HALT,
    LEAST_NS,
    Charges,
    FittedExits,
    GuestEntry,
    charges,
    reason_of,
    spaced,
    taken,
    ticks,
)
from sim.trace.following.machine import nearest_kernel
from sim.trace.following.replay import Progress
from sim.trace.reading.exit_reasons import vendor_of
from sim.xsave.profiles import profile

LONGEST_S: Final = 3600.0
"""The longest run.measure of a scenario."""

ASSUMED: Final = "which components guests and the VMM write, and when vCPUs are preempted, are the scenario's defaults"


def fit(
    stream: IO[bytes],
    name: str,
    *,
    cpu: str | None = None,
    costs: str | None = None,
    progress: Progress = iter,
) -> tuple[FittedExits, Exits]:
    """Estimates from the trace in ``stream``, which errors call ``name``, and what was found in it.

    ``cpu`` is by default a CPU of the vendor that the exit reasons show.  Raises :class:`~sim.errors.InputError` for a
    trace without VM exits, or without the times between them.
    """
    found = exits(stream, name, progress)
    notes = []
    if not 0 < found.seconds <= LONGEST_S:
        raise InputError(f"{name} covers {found.seconds:g} s; allowed: more than 0 and at most {LONGEST_S:g} s")
    ran = [vcpu for vcpu in found.vcpus if vcpu.guest_ns and vcpu.kinds]
    if not ran:
        raise InputError(
            f"{name} shows no time in a guest: no kvm:kvm_entry is followed by a kvm:kvm_exit of the same thread; "
            "allowed: a trace with both"
        )
    if cpu is None:
        cpu = DEFAULT_CPU[vendor_of(found.reasons)]
        notes.append(f"the trace does not name its CPU: {cpu} is assumed, by the vendor of its exit reasons (--cpu)")
    near = nearest_kernel(found.header, None)
    if found.header.kernel is None:
        notes.append(f"the trace does not name its kernel: Linux {near.kernel} is assumed")
    elif near.says:
        notes.append(f"{near.says}; simulated as {near.kernel}")
    chosen = profile(cpu)
    tsc_hz = found.header.tsc_hz or 0.0
    own = charges(chosen.name, near.kernel, costs, tsc_hz)
    entries, hz, interrupt = [], None, []
    for n, vcpu in enumerate(ran):
        entry, its_hz, its_interrupt = _guest(f"vcpu{n}", vcpu, own)
        entries.append(entry)
        hz = its_hz if hz is None else max(hz, its_hz)
        if its_interrupt is not None:
            interrupt.append(its_interrupt)
    assert hz is not None
    if len(ran) > len(found.report.cpus):
        notes.append(f"{len(ran)} vCPUs on {len(found.report.cpus)} CPUs: times until entry contain waits for a CPU")
    notes += found.notes
    if found.report.lost_times:
        notes.append("what spans lost events is left out")
    notes.append(ASSUMED)
    return FittedExits(
        name=name,
        seconds=found.seconds,
        cpus=len(found.report.cpus),
        cpu=cpu,
        costs=costs,
        kernel=near.kernel,
        tsc_hz=tsc_hz,
        hz=hz,
        interrupt_ns=max(0.0, float(np.mean(interrupt))) if interrupt else None,
        polls=not found.waits_ns or "poll" in found.waits_ns,
        guests=entries,
        notes=notes,
        per_second=found.exits / found.seconds,
    ), found


def _guest(name: str, vcpu: Vcpu, own: Charges) -> tuple[GuestEntry, int, float | None]:
    """The entry of one vCPU, CONFIG_HZ according to its external interrupts, and the time of one of these in ns."""
    guest_ns = max(vcpu.guest_ns - vcpu.exits * own.guest, vcpu.exits * LEAST_NS)
    entries: list[ExitEntry] = []
    demand = sleep = None
    rates = {}
    by_reason = sorted(vcpu.kinds.items(), key=lambda item: (reason_of(item[0][0]), item[0][1]))
    for (reason, user), several in groupby(by_reason, key=lambda item: (reason_of(item[0][0]), item[0][1])):
        kinds = [kind for _, kind in several]
        every = spaced(kinds, guest_ns, own.guest)
        count = sum(len(kind.at_ns) for kind in kinds)
        if reason == HALT and not user:
            demand, sleep = every, taken(kinds, own.halt)
            continue
        charge = own.user if user else own.handler
        label = ("io" if reason == "io" else f"{reason}-to-user") if user else reason if reason != "io" else "io-kernel"
        shown = "other" if reason == HALT else reason
        entries.append(ExitEntry(label, shown, count, every, taken(kinds, charge), userspace=user))
        rates[label] = count * 1e9 / guest_ns
    per_second = sum(rates[each.name] for each in entries if each.reason == "external-interrupt" and not each.userspace)
    hz, kept, interrupt = ticks(per_second, entries)
    halts = sum(len(kind.at_ns) for (reason, user), kind in vcpu.kinds.items() if reason in HALTS and not user)
    comments = (
        f"{vcpu.name}: {vcpu.exits} VM exits in {vcpu.guest_ns * 1e-9:.6f} s of guest time"
        + (f", {halts} of them halts" if halts else ""),
    )
    return GuestEntry(name, 1, tuple(kept), demand, sleep, comments), hz, interrupt
