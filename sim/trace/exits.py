"""What KVM's events alone tell: KVM_RUN round trips, VM exits by reason with their times, and halts.

Most traces that people post have these events and no others.  What cannot be said without the scheduler's and the FPU's
events is listed in :attr:`Exits.unsaid`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from sim.errors import InputError
from sim.trace.following.known import Step
from sim.trace.reading.events import CODE, KVM_ENTRY, KVM_EXIT, KVM_FPU, USERSPACE_EXIT
from sim.trace.reading.reader import Reader, Report, steps

WAKEUP = CODE["kvm_vcpu_wakeup"]
HALTS = ("HLT", "hlt")
"""Exit reasons of HLT, on Intel and on AMD."""


@dataclass(slots=True)
class Reason:
    """Exits for one reason: how many went to user space, and times in ns that are complete in the trace.

    ``guest_ns`` are times in the guest before an exit, ``handler_ns`` from an exit to the next entry of those that KVM
    handled itself, ``outside_ns`` of those that went to user space.
    """

    exits: int = 0
    to_user: int = 0
    guest_ns: list[int] = field(default_factory=list)
    handler_ns: list[int] = field(default_factory=list)
    outside_ns: list[int] = field(default_factory=list)

    def document(self, seconds: float) -> dict[str, Any]:
        """For --json: counts, and of each kind of time its mean, median and 99th percentile in ns."""
        return {
            "exits": self.exits,
            "per_second": self.exits / seconds if seconds else None,
            "to_user_space": self.to_user,
            "guest_ns": _times(self.guest_ns),
            "handler_ns": _times(self.handler_ns),
            "outside_ns": _times(self.outside_ns),
        }


@dataclass(slots=True)
class _Vcpu:
    """A vCPU thread: when it entered its guest, and the exit that is being handled."""

    entered_ns: int | None = None
    exited_ns: int | None = None
    reason: str = ""
    user: bool = False


@dataclass(slots=True)
class Exits:
    """The exits of a trace; times are on the trace's clock."""

    report: Report
    seconds: float
    vcpus: int
    round_trips: int
    entries: int
    reasons: dict[str, Reason]
    user_reasons: Counter[str]
    waits_ns: dict[str, list[int]]
    """How long a halted vCPU waited, or was polled for, by "wait" and "poll"."""
    unsaid: list[str]

    @property
    def exits(self) -> int:
        """VM exits of all reasons."""
        return sum(each.exits for each in self.reasons.values())

    @property
    def halts(self) -> int:
        """Exits by HLT."""
        return sum(self.reasons[name].exits for name in HALTS if name in self.reasons)

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "seconds": self.seconds,
            "vcpus": self.vcpus,
            "round_trips": self.round_trips,
            "entries": self.entries,
            "exits": self.exits,
            "to_user_space": sum(each.to_user for each in self.reasons.values()),
            "reasons": {name: each.document(self.seconds) for name, each in self.by_count()},
            "user_space_reasons": dict(self.user_reasons.most_common()),
            "halts": self.halts,
            "halted_ns": {how: _times(values) for how, values in self.waits_ns.items()},
            "not_said": self.unsaid,
        }

    def by_count(self) -> list[tuple[str, Reason]]:
        """The reasons, the most frequent first."""
        return sorted(self.reasons.items(), key=lambda item: -item[1].exits)


def _times(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    ns = np.array(values)
    mean, median, late = float(ns.mean()), float(np.median(ns)), float(np.percentile(ns, 99))
    return {"count": len(values), "mean": mean, "median": median, "p99": late}


def exits(stream: IO[bytes], name: str) -> Exits:
    """The exits of the trace in ``stream``, which errors call ``name``; :class:`InputError` if it has none."""
    reader = Reader(stream, name)
    seen = _Seen()
    for chunk in reader.chunks():
        seen.follow(steps(chunk, reader.names))
        if chunk.gaps:
            seen.vcpus = {tid: _Vcpu() for tid in seen.vcpus}  # what spans a gap is not measured
    report = reader.report
    if not report.events["kvm_exit"]:
        raise InputError(f"{name} has no kvm:kvm_exit events; allowed: a trace with kvm:kvm_entry and kvm:kvm_exit")
    seconds = 0.0 if report.first_ns is None else (report.last_ns - report.first_ns) * 1e-9
    return Exits(
        report=report,
        seconds=seconds,
        vcpus=len(seen.vcpus),
        round_trips=seen.returns if report.events["kvm_userspace_exit"] else seen.unloads,
        entries=report.events["kvm_entry"],
        reasons=seen.reasons,
        user_reasons=seen.user_reasons,
        waits_ns=seen.waits_ns,
        unsaid=_unsaid(report),
    )


class _Seen:
    def __init__(self) -> None:
        self.vcpus: dict[int, _Vcpu] = {}
        self.reasons: dict[str, Reason] = {}
        self.user_reasons: Counter[str] = Counter()
        self.waits_ns: dict[str, list[int]] = {}
        self.returns = 0
        self.unloads = 0

    def follow(self, events: Iterable[Step]) -> None:
        for step in events:
            if step.event == KVM_ENTRY:
                self._entry(self.vcpus.setdefault(step.tid, _Vcpu()), step.time_ns)
            elif step.event == KVM_EXIT:
                self._exit(self.vcpus.setdefault(step.tid, _Vcpu()), step.time_ns, str(step.values[0]))
            elif step.event == USERSPACE_EXIT:
                self.returns += 1
                self.user_reasons[str(step.values[0])] += 1
                self._to_user(self.vcpus.setdefault(step.tid, _Vcpu()))
            elif step.event == KVM_FPU and step.values[0] == "unload":
                self.unloads += 1
            elif step.event == WAKEUP:
                self.waits_ns.setdefault(str(step.values[0]), []).append(int(step.values[1]))

    def _entry(self, vcpu: _Vcpu, now: int) -> None:
        if vcpu.exited_ns is not None and now >= vcpu.exited_ns:
            reason = self.reasons[vcpu.reason]
            (reason.outside_ns if vcpu.user else reason.handler_ns).append(now - vcpu.exited_ns)
        vcpu.entered_ns, vcpu.exited_ns, vcpu.user = now, None, False

    def _exit(self, vcpu: _Vcpu, now: int, why: str) -> None:
        reason = self.reasons.setdefault(why, Reason())
        reason.exits += 1
        if vcpu.entered_ns is not None and now >= vcpu.entered_ns:
            reason.guest_ns.append(now - vcpu.entered_ns)
        vcpu.entered_ns, vcpu.exited_ns, vcpu.reason, vcpu.user = None, now, why, False

    def _to_user(self, vcpu: _Vcpu) -> None:
        if vcpu.exited_ns is not None and not vcpu.user:
            vcpu.user = True
            self.reasons[vcpu.reason].to_user += 1


def _unsaid(report: Report) -> list[str]:
    """What the events of a trace leave open."""
    found = []
    if not report.events["sched_switch"]:
        found.append(
            "whether a vCPU was preempted between an exit and the next entry, and so load/put pairs and who shares "
            "its CPU (sched:sched_switch)"
        )
    if not any(report.events[event] for event in ("x86_fpu_regs_activated", "x86_fpu_regs_deactivated")):
        found.append("which FPU state was saved and restored, and so what a strategy costs (x86_fpu:*)")
    if not report.events["kvm_userspace_exit"]:
        found.append("which exits went to user space, and why (kvm:kvm_userspace_exit)")
    if not report.events["kvm_vcpu_wakeup"]:
        found.append("how long halted vCPUs waited or were polled for (kvm:kvm_vcpu_wakeup)")
    return found
