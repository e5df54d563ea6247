"""What KVM's events alone tell: KVM_RUN round trips, VM exits by reason with their times, and halts.

Most traces that people post have these events and no others.  What cannot be said without the scheduler's and the FPU's
events is listed in :attr:`Exits.unsaid`.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

import numpy as np

from sim.errors import InputError
from sim.trace.following import machine
from sim.trace.following.known import Step
from sim.trace.following.replay import of_dialect
from sim.trace.reading.chunks import steps
from sim.trace.reading.events import CODE, KVM_ENTRY, KVM_EXIT, KVM_FPU, USERSPACE_EXIT
from sim.trace.reading.reader import Reader
from sim.trace.reading.report import Report

WAKEUP = CODE["kvm_vcpu_wakeup"]
HALTS = ("HLT", "hlt", "idle-halt")
"""Exit reasons of HLT, on Intel and on AMD; with Idle HLT a processor exits if no interrupt is pending."""

_times_ns = partial(array, "q")


@dataclass(slots=True)
class Reason:
    """Exits for one reason: how many went to user space, and times in ns that are complete in the trace.

    ``guest_ns`` are times in the guest before an exit, ``handler_ns`` from an exit to the next entry of those that KVM
    handled itself, ``outside_ns`` of those that went to user space.
    """

    exits: int = 0
    to_user: int = 0
    guest_ns: "array[int]" = field(default_factory=_times_ns)
    handler_ns: "array[int]" = field(default_factory=_times_ns)
    outside_ns: "array[int]" = field(default_factory=_times_ns)

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
class Kind:
    """Exits of one vCPU for one reason that one side handles, KVM or user space, in ns.

    ``at_ns`` is when they came, ``guest_ns`` when on a clock that runs while the guest runs, ``number`` how many exits
    of any kind the vCPU had had with them.  ``after_ns`` are the times until the guest was entered again.
    """

    at_ns: "array[int]" = field(default_factory=_times_ns)
    guest_ns: "array[int]" = field(default_factory=_times_ns)
    number: "array[int]" = field(default_factory=_times_ns)
    after_ns: "array[int]" = field(default_factory=_times_ns)


@dataclass(slots=True)
class Vcpu:
    """A vCPU thread: its exits by reason and whether they went to user space, and how long its guest has run.

    ``entered_ns`` is when it entered, ``exited_ns`` when the exit came that is being handled; ``numbers`` are
    the vCPUs that it entered, by their number.
    """

    name: str
    numbers: set[int] = field(default_factory=set)
    kinds: dict[tuple[str, bool], Kind] = field(default_factory=dict)
    guest_ns: int = 0
    exits: int = 0
    entered_ns: int | None = None
    exited_ns: int | None = None
    reason: str = ""
    user: bool = False

    def settle(self, now: int | None) -> None:
        """The exit that is being handled is over, or the trace is."""
        if self.exited_ns is None:
            return
        kind = self.kinds.setdefault((self.reason, self.user), Kind())
        kind.at_ns.append(self.exited_ns)
        kind.guest_ns.append(self.guest_ns)
        kind.number.append(self.exits)
        if now is not None:
            kind.after_ns.append(now - self.exited_ns)
        self.exited_ns = None


@dataclass(slots=True)
class Exits:
    """The exits of a trace; times are on the trace's clock.

    ``header`` is what its comments say of the machine; ``returns_ns`` are when KVM_RUN went back to user space, and
    ``entries_ns`` when a guest was entered.
    """

    report: Report
    header: machine.Header
    seconds: float
    vcpus: Sequence[Vcpu]
    returns_ns: "array[int]"
    entries_ns: "array[int]"
    reasons: dict[str, Reason]
    user_reasons: Counter[str]
    waits_ns: "dict[str, array[int]]"
    """How long a halted vCPU waited, or was polled for, by "wait" and "poll"."""
    unsaid: list[str]
    notes: list[str]
    """What was amiss with the text, or done to it before it was read."""

    @property
    def round_trips(self) -> int:
        """Returns of KVM_RUN to user space."""
        return len(self.returns_ns)

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
            "vcpus": len(self.vcpus),
            "round_trips": self.round_trips,
            "entries": len(self.entries_ns),
            "exits": self.exits,
            "to_user_space": sum(each.to_user for each in self.reasons.values()),
            "reasons": {name: each.document(self.seconds) for name, each in self.by_count()},
            "user_space_reasons": dict(self.user_reasons.most_common()),
            "halts": self.halts,
            "halted_ns": {how: _times(values) for how, values in self.waits_ns.items()},
            "not_said": self.unsaid,
            "notes": self.notes,
        }

    def by_count(self) -> list[tuple[str, Reason]]:
        """The reasons, the most frequent first."""
        return sorted(self.reasons.items(), key=lambda item: -item[1].exits)


def _times(values: "array[int]") -> dict[str, float] | None:
    if not values:
        return None
    ns = np.array(values)
    mean, median, late = float(ns.mean()), float(np.median(ns)), float(np.percentile(ns, 99))
    return {"count": len(values), "mean": mean, "median": median, "p99": late}


def exits(stream: IO[bytes], name: str, progress: Callable[[Iterator[Step]], Iterable[Step]] = iter) -> Exits:
    """The exits of the trace in ``stream``, which errors call ``name``; :class:`InputError` if it has none.

    ``progress`` counts the events as they go by.
    """
    reader = Reader(stream, name)
    seen = _Seen()
    for step in progress(_steps(reader, seen)):
        seen.follow(step)
    for vcpu in seen.vcpus.values():
        vcpu.settle(None)
    report = reader.report
    if not report.events["kvm_exit"]:
        if kind := report.is_another_kind:
            raise InputError(f"{name}: {kind}")
        lacking = (
            f"; {report.headless} lines have an event but not its task, CPU or time (perf script -F "
            f"comm,tid,cpu,time,event,trace), the first: {report.first_foreign!r}"
        )
        raise InputError(
            f"{name} has no kvm:kvm_exit events; allowed: a trace with kvm:kvm_entry and kvm:kvm_exit"
            + (lacking if report.headless else "")
        )
    seconds = 0.0 if report.first_ns is None else (report.last_ns - report.first_ns) * 1e-9
    return Exits(
        report=report,
        header=machine.header(reader.comments, name),
        seconds=seconds,
        vcpus=list(seen.vcpus.values()),
        returns_ns=seen.returns_ns if report.events["kvm_userspace_exit"] else seen.unloads_ns,
        entries_ns=seen.entries_ns,
        reasons=seen.reasons,
        user_reasons=seen.user_reasons,
        waits_ns=seen.waits_ns,
        unsaid=_unsaid(report),
        notes=[*of_dialect(reader), *report.amiss(), *_of_threads(seen.vcpus)],
    )


def _steps(reader: Reader, seen: "_Seen") -> Iterator[Step]:
    """Each event of the trace; what spans a gap is not measured."""
    for chunk in reader.chunks():
        gaps = [gap.row for gap in chunk.gaps]
        for row, step in enumerate(steps(chunk, reader.names)):
            while gaps and gaps[0] <= row:
                gaps.pop(0)
                seen.gap()
            yield step
        if gaps:
            seen.gap()


class _Seen:
    def __init__(self) -> None:
        self.vcpus: dict[int, Vcpu] = {}
        self.reasons: dict[str, Reason] = {}
        self.user_reasons: Counter[str] = Counter()
        self.waits_ns: dict[str, array[int]] = {}
        self.returns_ns = _times_ns()
        self.unloads_ns = _times_ns()
        self.entries_ns = _times_ns()

    def gap(self) -> None:
        for vcpu in self.vcpus.values():
            vcpu.settle(None)
            vcpu.entered_ns = None

    def follow(self, step: Step) -> None:
        if step.event == KVM_ENTRY:
            self.entries_ns.append(step.time_ns)
            vcpu = self._vcpu(step)
            vcpu.numbers.add(int(step.values[0]))
            self._entry(vcpu, step.time_ns)
        elif step.event == KVM_EXIT:
            self._exit(self._vcpu(step), step.time_ns, str(step.values[0]))
        elif step.event == USERSPACE_EXIT:
            self.returns_ns.append(step.time_ns)
            self.user_reasons[str(step.values[0])] += 1
            self._to_user(self._vcpu(step))
        elif step.event == KVM_FPU and step.values[0] == "unload":
            self.unloads_ns.append(step.time_ns)
        elif step.event == WAKEUP:
            self.waits_ns.setdefault(str(step.values[0]), _times_ns()).append(int(step.values[1]))

    def _vcpu(self, step: Step) -> Vcpu:
        vcpu = self.vcpus.get(step.tid)
        if vcpu is None:
            vcpu = self.vcpus[step.tid] = Vcpu(step.comm)
        return vcpu

    def _entry(self, vcpu: Vcpu, now: int) -> None:
        if vcpu.exited_ns is not None:
            known = now >= vcpu.exited_ns
            if known:
                reason = self.reasons[vcpu.reason]
                (reason.outside_ns if vcpu.user else reason.handler_ns).append(now - vcpu.exited_ns)
            vcpu.settle(now if known else None)
        vcpu.entered_ns, vcpu.user = now, False

    def _exit(self, vcpu: Vcpu, now: int, why: str) -> None:
        vcpu.settle(None)
        reason = self.reasons.setdefault(why, Reason())
        reason.exits += 1
        vcpu.exits += 1
        if vcpu.entered_ns is not None and now >= vcpu.entered_ns:
            reason.guest_ns.append(now - vcpu.entered_ns)
            vcpu.guest_ns += now - vcpu.entered_ns
        vcpu.entered_ns, vcpu.exited_ns, vcpu.reason, vcpu.user = None, now, why, False

    def _to_user(self, vcpu: Vcpu) -> None:
        if vcpu.exited_ns is not None and not vcpu.user:
            vcpu.user = True
            self.reasons[vcpu.reason].to_user += 1


def _of_threads(vcpus: Mapping[int, Vcpu]) -> Iterator[str]:
    """A thread that is several vCPUs: a process, in whose place their threads would be."""
    several = [(tid, len(vcpu.numbers)) for tid, vcpu in vcpus.items() if len(vcpu.numbers) > 1]
    if several:
        tid, number = several[0]
        yield (
            f"thread {tid} enters {number} vCPUs, whose times are mixed: process IDs in place of thread IDs? (perf "
            "script -F comm,tid,cpu,time,event,trace)"
        )


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
