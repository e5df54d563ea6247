"""Measures the machine on which it runs, and writes a cost table with `measured` rows.

User mode: XSAVE, XSAVEC, XSAVEOPT and XRSTOR, timed by C programs that the system's compiler makes when they are
needed, in the manner of nanoBench (Abel and Reineke, "nanoBench: A Low-Overhead Tool for Running Microbenchmarks on x86
Systems", ISPASS 2020).  Ring 0 by difference: calls in which the kernel executes XSAVES and XRSTORS of the caller,
hand-offs between two processes, and KVM_RUN round trips.
``docs/measuring.md`` has the method.
"""

import datetime
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import numpy as np

from sim.calibrate import calls, differences, guest, guest_rows, rounds, rows, samples, writing
from sim.calibrate.machine import Machine, components, refuse_other_machines, this_machine
from sim.calibrate.plan import COLD_REPETITIONS, WARM_REPETITIONS, plan
from sim.calibrate.programs import Programs, compiled
from sim.calibrate.rounds import Measured, Progress, Stage, Unavailable
from sim.calibrate.rows import Line
from sim.costs.table import names
from sim.errors import InputError, unknown

BUDGET_S: Final = 120.0
QUICK_BUDGET_S: Final = 8.0
BUDGET_MOST_S: Final = 280.0
"""The whole command is to end within five minutes."""
SHARES: Final = {"xsave": 0.4, "urandom": 0.2, "switch": 0.15, "hand-off": 0.1, "vm": 0.15, "guest": 0.4}
"""The part of the time that each stage has; the guest is a stage only on request."""
STAGES: Final = {
    "xsave": "XSAVE instructions",
    "urandom": "XSAVES and XRSTORS in a write to /dev/urandom",
    "switch": "XSAVES and XRSTORS in a switch between threads",
    "hand-off": "hand-offs over pipes",
    "vm": "KVM_RUN",
    "guest": "CPL 0 of a guest",
    "exits": "VM exits from that guest",
}
PASSES: Final = 9
"""Blocks of each row in a process."""
QUICK_PASSES: Final = 5
"""With this many, two blocks of a row may be disturbed and the process still says something about it."""
OTHER_CPU_SPREAD: Final = 0.3
"""Of rows that come from the table of another CPU: a choice, as in the shipped tables."""

Bar = Callable[[float], AbstractContextManager[Progress]]
"""Opens a progress bar for this many seconds."""


@dataclass(frozen=True, slots=True)
class Result:
    """The texts to write, and what to tell the user.

    By kind of call, in TSC cycles: ``widest`` is half of the widest interval of a difference, and ``between_runs`` by
    how much the two halves of the processes differ at most.
    """

    table: str
    measurements: str
    machine: Machine
    derived_from: str
    rows: int
    processes: dict[str, int]
    rejected: dict[str, float]
    misfit: dict[tuple[str, str], float]
    spans_zero: tuple[int, int]
    left_out: dict[str, str]
    widest: dict[str, float]
    between_runs: dict[str, float]


def calibrate(cpu: int, budget_s: float, quick: bool, derived_from: str, bar: Bar, in_guest: bool = False) -> Result:
    """Measures this machine on CPU number ``cpu`` for at most ``budget_s`` seconds.

    ``derived_from`` names the table for what cannot be measured, or is empty: the one that is nearest to the CPU.
    ``in_guest``: also at CPL 0 of a guest of its own.
    Raises :class:`~sim.errors.InputError` if there is no compiler, if the CPU lacks XSAVE, for an unknown table, and if
    a guest is wanted that KVM cannot run here or interprets.
    """
    refuse_other_machines()
    if derived_from and derived_from not in names():
        raise unknown("cost table", derived_from, names())
    with compiled() as made:
        machine = this_machine(made)
        return _Calibration(made, machine, cpu, budget_s, quick, bar, _offered(made, cpu, in_guest)).result(
            derived_from
        )


def _offered(made: Programs, cpu: int, in_guest: bool) -> guest.About | None:
    """What a guest would have, if one is wanted; asked before minutes of measuring."""
    if not in_guest:
        return None
    try:
        return guest.about(made, cpu)
    except Unavailable as reason:
        raise InputError(f"calibrate --guest: {reason}") from reason


class _Calibration:
    def __init__(
        self, made: Programs, machine: Machine, cpu: int, budget_s: float, quick: bool, bar: Bar,
        offered: guest.About | None,
    ) -> None:  # fmt: skip
        self.machine, self.offered = machine, offered
        self.timings = plan(machine, quick)
        shares = {name: share for name, share in SHARES.items() if name != "guest" or offered}
        budgets = {name: budget_s * share / sum(shares.values()) for name, share in shares.items()}
        stages = {
            "xsave": self._xsave_stage(made, budgets["xsave"], quick),
            "urandom": calls.call_stage(made, machine, "urandom", budgets["urandom"], quick),
            "switch": calls.call_stage(made, machine, "switch", budgets["switch"], quick),
            "hand-off": differences.switch_stage(made, machine, budgets["hand-off"], quick),
            "vm": differences.vm_stage(made, machine, budgets["vm"], quick),
        }
        if offered:
            self.guest_plan = guest.guest_plan(offered, machine.sets)
            stages["guest"] = guest.guest_stage(made, self.guest_plan, budgets["guest"], quick)
        with bar(budget_s) as progress:
            found = rounds.measure(stages, cpu, progress)
        self.measured = {name: each for name, each in found.items() if isinstance(each, Measured)}
        self.left_out = {name: str(each) for name, each in found.items() if isinstance(each, Unavailable)}
        if "xsave" in self.left_out:
            raise InputError(f"calibrate: the XSAVE instructions could not be timed: {self.left_out['xsave']}")

    def _xsave_stage(self, made: Programs, budget_s: float, quick: bool) -> Stage:
        reduce = rounds.by_row(len(self.timings), [each.variant.repetitions for each in self.timings], core=True)
        passes = str(QUICK_PASSES if quick else PASSES)
        in_use = np.array([each.in_use for each in self.timings], np.uint64)
        text = "".join(f"{each.line}\n" for each in self.timings)
        arguments = (passes, str(self.machine.l1d_bytes))
        return Stage(made.xsave, arguments, text, in_use, reduce, budget_s, 6 if quick else 16, rounds.small)

    def result(self, derived_from: str) -> Result:
        found = rows.Instructions(self.machine, self.timings, self.measured["xsave"])
        xsave = rows.of_instructions(found)
        called = [each for where in ("switch", "urandom") if (each := self._called(where))]
        usable = [each for each in called if each.shows_writing]
        ratio = float(np.median(self.measured["xsave"].ratios))
        in_guest = self._in_guest()
        nothing = (
            (in_guest.restore_of_nothing, "XRSTORS/total") if in_guest else (xsave.restore_of_nothing, "XRSTOR/base")
        )
        terms = calls.term_lines(usable, ratio, *nothing) if usable else []
        terms = rows.first_of_each([*terms, *(in_guest.terms if in_guest else ())])
        apart = [line for each in called for line in each.lines]
        apart += [*self._apart("hand-off"), *self._apart("vm"), *(in_guest.lines if in_guest else ())]
        lines = [rows.clock(self.measured["xsave"]), *xsave.lines, *rows.supervisor_forms(xsave.lines, terms), *apart]
        nearest, own = self.machine.nearest
        parent = derived_from or nearest
        header = self._header(parent, own and parent == nearest)
        shown = [each.number.spans_zero for each in apart if each.term == "difference"]
        return Result(
            writing.table(header, lines), writing.measurements(found), self.machine, parent, len(lines),
            {name: each.processes for name, each in self.measured.items()},
            {name: each.rejected / each.samples for name, each in self.measured.items()},
            {**xsave.misfit, **(in_guest.misfit if in_guest else {})}, (sum(shown), len(shown)), self.left_out,
            {each.where: each.widest for each in called}, {each.where: each.between_runs for each in called},
        )  # fmt: skip

    def _called(self, where: str) -> calls.Found | None:
        """What one kind of call has shown; None if it could not be measured, and then ``left_out`` has the reason."""
        if where not in self.measured:
            return None
        try:
            return calls.of_calls(where, calls.call_sets(self.machine), self.measured[where])
        except Unavailable as reason:
            self._leave_out(where, reason)
            return None

    def _apart(self, stage: str) -> list[Line]:
        """The rows of a stage in ring 0; none if it could not be measured, and then ``left_out`` has the reason."""
        if stage not in self.measured:
            return []
        measured = self.measured[stage]
        try:
            if stage == "vm":
                return differences.of_vm(differences.vm_plan(self.machine), measured)
            return differences.of_switches(differences.switch_sets(self.machine), measured)
        except Unavailable as reason:
            self._leave_out(stage, reason)
            return []

    def _in_guest(self) -> guest_rows.Found | None:
        """What ran at CPL 0 of a guest, if that was asked for; else None, with the reason in ``left_out``."""
        if self.offered is None or "guest" not in self.measured:
            return None
        try:
            found = guest_rows.of_guest(self.offered, self.guest_plan, self.measured["guest"])
        except Unavailable as reason:
            self._leave_out("guest", reason)
            return None
        if found.exits_left_out:
            self.left_out["exits"] = found.exits_left_out
        return found

    def _leave_out(self, stage: str, reason: Unavailable) -> None:
        self.left_out[stage] = str(reason)
        del self.measured[stage]

    def _header(self, parent: str, own: bool) -> writing.Header:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        machine = self.machine
        because = "" if own else f"a row of {parent}, +-30 % (a choice: this CPU has no table of its own)"
        comment = [
            f"{machine.name} (family {machine.family:x}h, model {machine.model:x}h), written by `fpswitch calibrate`.",
            "",
            f"Measured rows are of this machine; what it cannot measure comes from {parent}.  docs/measuring.md has",
            "the method.  Rows of term total, reference and difference are evidence and never priced.",
            *(f"No rows of {STAGES[name]}: {reason}." for name, reason in self.left_out.items()),
        ]
        return writing.Header(
            comment, machine.name, today, parent, 0.0 if own else OTHER_CPU_SPREAD, because, self._texts(today)
        )

    def _texts(self, today: str) -> dict[str, str]:
        where = f"{self.machine.where}; measured {today}; method: "
        processes = {name: each.processes for name, each in self.measured.items()}
        counted = {name: f"{count} processes" for name, count in processes.items()}
        interval = "median of the medians of {} and the 95 % interval of that median (order statistics)"
        epochs = f"median of the medians of {{}} and the range of such medians in {samples.EPOCHS} parts of the time"
        xsave = interval.format(counted["xsave"])
        mask = f"RFBM {self.machine.xcr0:#x}"
        texts = {
            "all": components(self.machine.xcr0),
            "own": f"{rows.SOURCE}, {self.machine.name}, Linux {self.machine.kernel}, {today}",
            "clocks": f"{where}{2 * samples.CHAIN_ADDS} dependent adds against the TSC beside each block; "
            f"range: that of {counted['xsave']}, and down to 1, no boost at all, as on a busy machine",
            "warm": f"{where}user mode, {mask}, area in L1, {WARM_REPETITIONS} repetitions with LFENCE less as many of "
            f"nothing, core cycles by chains of adds before and after; {xsave}",
        }
        cold = f"user mode, {mask}, {COLD_REPETITIONS} single shots, each after"
        by = f"less as many of nothing, core cycles by chains of adds; {xsave}"
        texts["l2"] = f"{where}{cold} reading four times L1d, {by}"
        texts["cold"] = f"{where}{cold} CLFLUSH of every line of the area and MFENCE, {by}"
        for call in calls.WHERE:
            if call in counted:
                texts[call] = (
                    f"{where}{calls.WHERE[call]}, by difference of in-use sets, the shorter half of {calls.CALLS} "
                    f"calls in a block; {epochs.format(counted[call])}"
                )
        if "hand-off" in counted:
            texts["switches"] = (
                f"{where}two processes on one CPU, a byte over a pipe and back, per context switch "
                f"(the shorter half of {differences.SWITCHES} in a block); {epochs.format(counted['hand-off'])}"
            )
        if "vm" in counted:
            texts["vm"] = (
                f"{where}KVM by {self.machine.kvm or 'an unnamed module'}, a guest in real mode that does OUT, "
                f"the shorter half of {differences.ROUND_TRIPS} round trips in a block; {epochs.format(counted['vm'])}"
            )
        if "guest" in counted:
            texts["guest"] = (
                f"{where}CPL 0 of a guest by {self.machine.kvm or 'KVM'}, 2 MiB pages, area in L1, {guest.REPETITIONS} "
                "repetitions with LFENCE less as many of nothing, no exit in a block by KVM's count but those that are "
                f"timed; {interval.format(counted['guest'])}"
            )
        return texts
