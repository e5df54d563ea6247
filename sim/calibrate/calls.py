"""Calls in which the kernel executes one XSAVES and one XRSTORS of the caller at CPL 0, timed by in_place.c.

A write to /dev/urandom needs no privilege; a switch between two SCHED_FIFO threads needs CAP_SYS_NICE.  Differences
between in-use sets, and between what was written since the last restore or not, are those of the two instructions:
all else is the same in each call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.calibrate import in_place, samples
from sim.calibrate.machine import Machine, components
from sim.calibrate.plan import ladder
from sim.calibrate.programs import Programs
from sim.calibrate.rounds import Measured, Stage, Unavailable
from sim.calibrate.rows import Line
from sim.calibrate.samples import Floats, Interval, epoch_interval
from sim.costs.rows import row_id

CALLS: Final = 48
"""Calls in a sample of in_place.c."""
NARROW: Final = 2.0
"""TSC cycles: half an interval of a difference that is small enough."""

WHERE: Final = {"urandom": "a write to /dev/urandom", "switch": "a switch between threads"}
"""What is called, by the argument of in_place.c."""
WRITTEN: Final = "XSAVES, written less skipped"
TOUCHED: Final = "XSAVES, touched less skipped"
LOADED: Final = "XRSTORS, loaded less initialised"
CONTROL: Final = "XSAVES and XRSTORS, control"
"""Nothing in use on both sides: what the method takes for a difference where there is none."""
KINDS: Final = (LOADED, WRITTEN, TOUCHED)


@dataclass(frozen=True, slots=True)
class CallRow:
    """One line of the plan of in_place.c.

    ``touched``: a register of each component is written before each call; ``lost``: an XRSTOR of another area is run.
    """

    in_use: int
    touched: bool = False
    lost: bool = False


def name(kind: str, where: str) -> str:
    """The operation of a difference row."""
    return f"{kind}, {WHERE[where]}"


def call_sets(machine: Machine) -> tuple[int, ...]:
    """The in-use sets beside nothing: the ladder."""
    return ladder(machine.xcr0, machine.sets)[1:]


def call_plan(sets: Sequence[int]) -> tuple[CallRow, ...]:
    """Nothing in use, twice and with the tracking lost, and then three rows for each set."""
    rows = [CallRow(0), CallRow(0), CallRow(0, lost=True)]
    for each in sets:
        rows += [CallRow(each), CallRow(each, lost=True), CallRow(each, touched=True)]
    return tuple(rows)


def call_stage(programs: Programs, machine: Machine, where: str, budget_s: float, quick: bool) -> Stage:
    """Calls of one kind; :func:`_by_process` says what a process measures."""
    plan = call_plan(call_sets(machine))
    text = "".join(f"{row.in_use:x} {row.touched:d} {row.lost:d}\n" for row in plan)
    in_use = np.array([row.in_use for row in plan], np.uint64)
    arguments = (where, "20" if quick else "100")
    least = 6 if quick else 12
    return Stage(programs.in_place, arguments, text, in_use, _by_process(len(plan)), budget_s, least, _settled)


def _by_process(count: int) -> Callable[[NDArray[np.void], NDArray[np.bool_]], Floats]:
    """Reduces the samples of a process to TSC cycles: of a call with nothing in use, of the control, and for each set.

    For each set: loaded less initialised, written less skipped, touched less skipped.  Each row is first taken less one
    with nothing in use within its pass, so that what changes from pass to pass drops out.
    """

    def reduce(found: NDArray[np.void], counts: NDArray[np.bool_]) -> Floats:
        cycles = np.where(counts, samples.ticks(found) / CALLS, np.nan).reshape(-1, count)
        passes = np.full_like(cycles, np.nan)
        np.put_along_axis(passes, found["row"].astype(int).reshape(-1, count), cycles, axis=1)
        plain, lost = passes - passes[:, :1], passes - passes[:, 2:3]
        kept = [_median(plain[:, row]) for row in range(3, count, 3)]
        written = [_median(lost[:, row]) - each for row, each in zip(range(4, count, 3), kept, strict=True)]
        touched = [_median(plain[:, row]) - each for row, each in zip(range(5, count, 3), kept, strict=True)]
        by_set = np.array([kept, written, touched]).T.ravel()
        return np.concatenate([[_median(passes[:, 0]), _median(plain[:, 1])], by_set])

    return reduce


def _median(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(samples.without_outliers(known))) if len(known) >= samples.LEAST_BLOCKS else float("nan")


def _settled(values: Floats) -> bool:
    intervals = [epoch_interval(row) for row in values[1:]]
    return all(each is None or (each.high - each.low) / 2 <= NARROW for each in intervals)


@dataclass(frozen=True, slots=True)
class Found:
    """What one kind of call has shown.

    ``series`` are the differences by kind (:data:`KINDS`) and in-use set, in TSC cycles.  ``between_runs`` is by how
    much the first half of the processes and the second differ at most, ``noise`` how far the control is from nothing.
    """

    where: str
    lines: tuple[Line, ...]
    series: Mapping[str, Mapping[int, Interval]]
    between_runs: float
    noise: float

    @property
    def widest(self) -> float:
        """Half of the widest interval, in TSC cycles: :data:`NARROW`, or more if the time was up before."""
        return max((each.high - each.low for some in self.series.values() for each in some.values()), default=0.0) / 2

    @property
    def shows_writing(self) -> bool:
        """Whether writing everything was seen to cost more than skipping it, and there are sets enough for the terms.

        If not, the kernel does not use the FPU in this call, or the processor skips nothing.
        """
        written = self.series[WRITTEN]
        if not written or len(written) <= max(written).bit_count():
            return False
        return written[max(written)].low > max(self.noise, NARROW)


def of_calls(where: str, sets: Sequence[int], measured: Measured) -> Found:
    """The rows of one kind of call, and what the terms are made of.

    Raises :class:`~sim.calibrate.rounds.Unavailable` if no sample with nothing in use counts.
    """
    method = f"{{{where}}}"
    whole, control = (epoch_interval(row) for row in measured.values[:2])
    if whole is None or control is None:
        raise Unavailable(f"every sample of {WHERE[where]} was disturbed, or left other components in use")
    heading = f"XSAVES and XRSTORS in {WHERE[where]}, by difference.  Not priced."
    lines = [
        Line(WHERE[where].removeprefix("a "), "reference", whole, "measured", method, clock="tsc", heading=heading),
        Line(name(CONTROL, where), "difference", control, "measured", method, clock="tsc"),
    ]
    series: dict[str, dict[int, Interval]] = {kind: {} for kind in KINDS}
    between_runs = 0.0
    for i, in_use in enumerate(sets):
        for j, kind in enumerate(KINDS):
            values = measured.values[2 + len(KINDS) * i + j]
            number = epoch_interval(values)
            if number is None:
                continue
            series[kind][in_use] = number
            between_runs = max(between_runs, _between_halves(values))
            said = method + ("; the interval spans zero: no difference was seen" if number.spans_zero else "")
            lines.append(
                Line(name(kind, where), "difference", number, "measured", said, components(in_use), clock="tsc")
            )
    return Found(where, tuple(lines), series, between_runs, max(-control.low, control.high))


def _between_halves(values: Floats) -> float:
    known = values[~np.isnan(values)]
    halves = [np.median(half) for half in np.array_split(known, 2) if len(half)]
    return float(abs(halves[-1] - halves[0]))


def term_lines(found: Sequence[Found], ratio: float, nothing: Interval, whole: str) -> list[Line]:
    """The terms of XSAVES and XRSTORS; the values are those of the first kind of call in ``found``.

    ``nothing`` and ``whole``: a restore with nothing in use, and the id of its row.
    """
    first = found[0]
    saves = in_place.of_saves([each.series[kind] for kind in (WRITTEN, TOUCHED) for each in found if each.series[kind]])
    restores = in_place.of_restores([each.series[LOADED] for each in found])
    calls = " and ".join(WHERE[each.where] for each in found)

    def how(terms: in_place.Terms) -> str:
        fitted = f"least squares over {terms.sets} in-use sets, largest misfit {terms.misfit:.1f} TSC cycles"
        return f"in {WHERE[first.where]}, {fitted}; range: all that was measured in {calls}"

    def origin(kind: str) -> tuple[str, ...]:
        widest = [(each.where, components(max(each.series[kind]))) for each in found]
        return tuple(row_id(name(kind, where), "difference", in_use) for where, in_use in widest)

    lines = in_place.save_lines(saves, ratio, how(saves), origin(WRITTEN))
    return lines + in_place.restore_lines(restores, ratio, nothing, how(restores), origin(LOADED), whole)
