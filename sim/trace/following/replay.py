"""Replays a trace: reads it, boots the kernel model as the recorded machine, and leads it and what-if models along."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final

import numpy as np

from sim.errors import InputError
from sim.kernel.config import Config, boot
from sim.trace.following import machine
from sim.trace.following.follow import Follower
from sim.trace.following.known import Clock, Step
from sim.trace.following.replica import Replica
from sim.trace.following.told import Told, told
from sim.trace.following.verdict import AT_LIFE, ELSEWHERE, Verdict
from sim.trace.reading.chunks import Chunk, steps
from sim.trace.reading.events import DEACTIVATED, RECORD, full_name
from sim.trace.reading.others import SCRIPT
from sim.trace.reading.reader import Reader
from sim.trace.reading.report import Report
from sim.xsave.components import CET_S, COMPACTED, FP, SSE, decode

REGS: Final = ("x86_fpu_regs_activated", "x86_fpu_regs_deactivated")

SIMULATED: Final = (
    "a run of fpswitch export: guests use their shadow stacks, and components are written, as they were there, and "
    "only its measurement is counted"
)

TELLING: Final = 10
"""So many contradictions or assumptions show that an event was not recorded."""


@dataclass(slots=True)
class Recorded:
    """The machine of a trace, as far as its first events and its comments tell."""

    header: machine.Header
    config: Config
    partial: bool
    notes: list[str] = field(default_factory=list)
    told: Told | None = None
    """What the trace of a simulated run says beside events."""
    standard: int = 0
    """The mask of fpstates that are in the standard format, where xcomp_bv is 0; 0 on a machine with XSAVES."""
    left_out: int = 0
    """Components of the trace's fpstates that the model has in none."""


@dataclass(slots=True)
class Replayed:
    """A replay that has ended: the verdict, what the trace held, and the machine; times in ns of the trace's clock."""

    recorded: Recorded
    verdict: Verdict
    report: Report
    replicas: Sequence[Replica]
    measured_ns: int = 0

    @property
    def seconds(self) -> float:
        """From the first event to the last; of a simulated run, what was measured of it."""
        if self.measured_ns:
            return self.measured_ns * 1e-9
        return 0.0 if self.report.first_ns is None else (self.report.last_ns - self.report.first_ns) * 1e-9


class KvmAlone(InputError):
    """A trace with KVM's events alone, which tell of VM exits and nothing else."""


Progress = Callable[[Iterator[Step]], Iterable[Step]]
MakeReplicas = Callable[[Recorded], Sequence[Replica]]


class Replay:
    """A replay under way; :meth:`steps` drives it, and :attr:`result` is there when that has ended.

    ``as_recorded``: what the trace of a simulated run says in comment lines is left out, as if a real host had run.
    ``most``: only this many events are followed; those after them are only read.
    """

    def __init__(
        self,
        stream: IO[bytes],
        name: str,
        *,
        make_replicas: MakeReplicas = lambda recorded: (),
        clock: Clock | None = None,
        as_recorded: bool = False,
        most: int | None = None,
    ) -> None:
        self.reader = Reader(stream, name)
        self._as_recorded = as_recorded
        self._left = most
        self.result: Replayed | None = None
        self._make_replicas = make_replicas
        self._clock = clock

    def chunks(self) -> Iterator[tuple[Chunk, Follower]]:
        """The chunks of the trace, and the follower that is to follow them."""
        reader, follower, recorded = self.reader, None, None
        replicas: Sequence[Replica] = ()
        of_guests = 0
        for chunk in reader.chunks():
            if follower is None or recorded is None:
                if "x86_fpu" not in chunk.tables:
                    continue  # before the first event that says anything about registers
                recorded = _recorded(reader, chunk, as_recorded=self._as_recorded)
                replicas = self._make_replicas(recorded)
                follower = Follower(
                    recorded.config, replicas, partial=recorded.partial, clock=self._clock, told=recorded.told
                )
            if "x86_fpu" in chunk.tables:
                if recorded.left_out:
                    _leave_out(chunk, recorded.left_out)
                if recorded.standard:
                    _as_compacted(chunk, recorded.standard)
                of_guests += int(np.count_nonzero(chunk.tables["x86_fpu"][1]["xcomp_bv"] & np.uint64(CET_S)))
            yield chunk, follower
        report = reader.report
        if missing := _missing(report):
            raise missing_events(reader.name, missing, report)
        assert follower is not None
        assert recorded is not None
        follower.finish()
        # A guest runs on for many events; one alone is a broken line, and contradicts.
        if follower.verdict.unswapped > 1 and of_guests > 1 and not report.events["kvm_fpu"]:
            raise missing_events(reader.name, ["kvm_fpu"], report)
        if missing := _missed(follower.verdict, report):
            raise missing_events(reader.name, missing, report)
        recorded.notes += [*of_dialect(reader), *_notes(report)]
        begun, ended = follower.measured
        measured_ns = max(ended) - min(begun) if begun and ended else 0
        self.result = Replayed(recorded, follower.verdict, report, replicas, measured_ns)

    def steps(self) -> Iterator[Step]:
        """Each event of the trace, when it has been followed."""
        for chunk, follower in self.chunks():
            gaps = deque(chunk.gaps)
            for row, step in enumerate(steps(chunk, self.reader.names)):
                while gaps and gaps[0].row <= row:
                    gaps.popleft()
                    follower.gap()
                if self._left is None:
                    follower.follow(step)
                elif self._left:
                    self._left -= 1
                    follower.follow(step)
                yield step
            if gaps:
                follower.gap()


def replay(stream: IO[bytes], name: str, *, progress: Progress = iter, **options: Any) -> Replayed:
    """Replays the trace in ``stream``, which errors call ``name``; ``progress`` counts the events as they go by.

    ``make_replicas`` makes what-if models when the machine is known, ``clock`` shows the time of the event that is
    judged.  Raises :class:`~sim.errors.InputError` if the trace lacks the events that this needs.
    """
    run = Replay(stream, name, **options)
    for _ in progress(run.steps()):
        pass
    assert run.result is not None
    return run.result


def _recorded(reader: Reader, chunk: Chunk, *, as_recorded: bool) -> Recorded:
    head = machine.header(reader.comments, reader.name)
    without = 0
    if (simulated := told(reader.comments, reader.name)) is not None:
        try:
            config = boot(simulated.chosen())
        except InputError as error:
            raise InputError(f"{reader.name}: {error}") from error
        if not as_recorded:
            return Recorded(head, config, partial=False, notes=[SIMULATED], told=simulated)
        without = config.masks.host_default & CET_S  # where normal fpstates have it, it does not tell those of guests
    rows, columns = chunk.tables["x86_fpu"]
    seen = set(columns["xcomp_bv"].tolist())
    standard = 0
    if not any(mask & COMPACTED for mask in seen):
        standard = int(np.bitwise_or.reduce(columns["xfeatures"])) | FP | SSE
    elif head.log is not None and head.log.format == "standard":
        raise InputError(f"{reader.name}: the boot lines say 'standard' format, and events have an xcomp_bv")
    saves = columns["load"][chunk.event[rows] == DEACTIVATED]
    # A drop shows 0 on every kernel; a save 1 since v6.16.
    near = machine.nearest_kernel(head, int(saves.max()) if len(saves) else None)
    without |= machine.left_out(head, (*seen, standard), near.kernel)
    found, notes = machine.masks(head, seen, standard, without)
    if without:
        notes.append(
            f"fpstates have {', '.join(decode(without))} where those of the model of Linux {near.kernel} have not: "
            "left out of all masks, and what it costs is in no figure"
        )
    if near.says:
        notes.append(f"{near.says}; followed as {near.kernel}")
    if head.has_backports:
        notes.append("a distribution's kernel with parts of later releases, which ones is not known here")
    try:
        config = machine.config(found, head, near.kernel)
    except InputError as error:
        raise InputError(f"{reader.name}: {error}") from error
    report = reader.report
    unseen = report.named_cpus - report.cpus
    partial = bool(unseen) or (head.cpus or 0) > len(report.cpus)
    return Recorded(head, config, partial, notes, standard=found.normal if standard else 0, left_out=without)


def _leave_out(chunk: Chunk, components: int) -> None:
    """Takes components out of the masks of fpstates and of what they hold."""
    for name in ("xcomp_bv", "xfeatures"):
        chunk.tables["x86_fpu"][1][name] &= np.uint64(~components & (1 << 64) - 1)


def _as_compacted(chunk: Chunk, mask: int) -> None:
    """Gives the fpstates of the standard format the xcomp_bv that they would have in the compacted one."""
    column = chunk.tables["x86_fpu"][1]["xcomp_bv"]
    column[column == 0] = mask | COMPACTED


def _missing(report: Report) -> list[str]:
    missing = [] if report.events["sched_switch"] else ["sched_switch"]
    return missing + ([] if any(report.events[event] for event in REGS) else list(REGS))


def _missed(verdict: Verdict, report: Report) -> list[str]:
    """Events whose absence shows in what had to be found or assumed; a short trace may rightly have none of them."""
    activated, deactivated = (report.events[event] for event in REGS)
    unsaved = verdict.assumed[ELSEWHERE] + verdict.assumed[AT_LIFE]
    missing = [REGS[0]] if not activated and verdict.found > TELLING else []
    return missing + ([REGS[1]] if not deactivated and unsaved > TELLING else [])


def missing_events(name: str, events: Sequence[str], report: Report) -> InputError:
    """The error for a trace that lacks events, or in which they cannot be told, because lines lack what is needed."""
    listed = ", ".join(map(full_name, events))
    if old := _old_wording(report):
        return InputError(f"{name} has {old}; only those with load: can be read, which Linux prints since v5.2")
    if kind := report.is_another_kind:
        return InputError(f"{name}: {kind}" + (f"; this records one:\n  {RECORD}" if SCRIPT in kind else ""))
    unread = ""
    if report.unread:
        shown, number = next(iter(report.first_unread.values())), report.unread.total()
        unread = (
            f"\nOn {number} line{'s' * (number != 1)} {', '.join(report.unread)} is without the fields that the kernel "
            f"prints (wrapped, or cut off?), the first: {shown!r}" + ("" if shown else " (perf script -F +trace)")
        )
    elif not any(report.events[event] for event in REGS) and report.events["kvm_exit"]:
        unread = "\nIts KVM events are enough for VM exits: fpswitch replay --exits, fpswitch fit --exits"
        if not report.events["sched_switch"]:
            return KvmAlone(f"{name} has no {listed} events; this records them:\n  {RECORD}{unread}")
    elif not report.events and report.headless:
        return InputError(
            f"{name}: its events lack their task, CPU or time, as in {report.first_foreign!r}; allowed: all of them, "
            "as perf script -F comm,tid,cpu,time,event,trace prints them"
        )
    elif report.foreign:
        unread = (
            f"\n{report.foreign} of its {report.lines} lines are not events as perf script, ftrace or trace-cmd report "
            f"print them (task, CPU, time, event), the first: {report.first_foreign!r}"
            + ("; perf script -F comm,tid,cpu,time,event,trace prints all of these" if report.headless else "")
        )
    return InputError(f"{name} has no {listed} events; this records them:\n  {RECORD}{unread}")


def _old_wording(report: Report) -> str:
    """Events of a kernel before v5.2, named as such; empty if there are none."""
    for payload in report.first_unread.values():
        if match := _OLD_FIELD.match(payload):
            kernels = "v4.14 to v5.1" if match[1] == "initialized" else "v4.6 to v4.13"
            return f"x86_fpu events in the format of Linux {kernels} ({match[1]}:)"
    return ""


_OLD_FIELD: Final = re.compile(r"x86/fpu: \S+ (initialized|fpregs_active): ", re.ASCII)


def of_dialect(reader: Reader) -> Iterator[str]:
    """What was done to the text before it was read, as notes."""
    dialect = reader.dialect
    if dialect.left_out:
        others = ", ".join(f"{count} of {name}" for name, count in dialect.left_out.items())
        host = dialect.host.decode("utf-8", "replace")
        yield f"a merged report: the lines of {host} are followed; lines left out: {others}"
    if dialect.wrapped:
        yield "lines that a mail program wrapped are joined"
    if dialect.width:
        yield f"lines that were broken at column {dialect.width} are joined"
    if dialect.differences:
        yield "times are those since the event before (perf script --deltatime): added up, from 0 on"
    if dialect.cycles and not dialect.tsc_hz:
        yield (
            "times are cycles (trace_clock x86-tsc), or numbers of events (counter), and no comment says the TSC's "
            "frequency (# TSC 2400 MHz): each is shown as a nanosecond, so a rate per second here is one per 1000 "
            "million cycles"
        )


def _notes(report: Report) -> Iterator[str]:
    """Events whose absence makes a replay weaker, not wrong."""
    if report.events["x86_fpu_copy_dst"] and not report.events["sched_process_fork"]:
        yield "no sched:sched_process_fork events: children are known from their first event on only"
    if report.events["x86_fpu_dropped"] and not report.events["sched_process_exec"]:
        yield "no sched:sched_process_exec events: an execve() looks like a restore of something that was never saved"
