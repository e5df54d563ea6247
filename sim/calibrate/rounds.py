"""Rounds of measuring: one process each, until the intervals are small or the time is used up."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.calibrate import samples
from sim.calibrate.samples import Floats

LEAST_ROUNDS: Final = 6
"""The fewest processes whose range is a 95 % interval for their median."""
NARROW: Final = 0.02
"""Half an interval is small when it is at most this part of the value, or :data:`NARROW_CYCLES`."""
NARROW_CYCLES: Final = 2.0
NARROW_SHARE: Final = 0.98
"""Measuring ends when this part of the rows has a small interval; the last few may be bimodal for ever."""
HANGS: Final = 120.0
FEWEST: Final = 3
"""Processes of a stage for which it may take twice its time: a busy machine would leave rows without a sample."""


class Progress(Protocol):
    """Receives the number of seconds spent; tqdm is one."""

    def update(self, n: float) -> object:
        """``n`` more seconds."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One measuring program and how its samples become one number per row.

    ``in_use`` is what the rows are to have in use; ``reduce`` gets the samples that count (all others are masked out),
    with the mask, and returns a number for each of its rows, NaN for what the process did not measure.  ``sample`` is
    what the program writes: :data:`~sim.calibrate.samples.SAMPLE`, or that and more.
    """

    program: Path
    arguments: tuple[str, ...]
    plan: str
    in_use: NDArray[np.uint64]
    reduce: Callable[[NDArray[np.void], NDArray[np.bool_]], Floats]
    budget_s: float
    least_rounds: int
    settled: Callable[[Floats], bool]
    sample: np.dtype[np.void] = samples.SAMPLE


@dataclass(frozen=True, slots=True)
class Measured:
    """Numbers by row and process, core cycles per TSC cycle by process.

    Of all ``samples``, ``rejected`` changed the CPU or met two core clocks.
    """

    values: Floats
    ratios: Floats
    samples: int
    rejected: int

    @property
    def processes(self) -> int:
        return len(self.ratios)


class Unavailable(Exception):
    """What the program needs is not there; the message is its reason."""


class _Rounds:
    """The rounds of one stage so far."""

    def __init__(self, stage: Stage, cpu: int) -> None:
        self.stage, self.cpu = stage, cpu
        self.budget_s = stage.budget_s
        self.columns: list[Floats] = []
        self.ratios: list[float] = []
        self.samples = self.rejected = 0
        self.spent_s = 0.0
        self.run = 0
        self.unavailable: Unavailable | None = None

    @property
    def done(self) -> bool:
        over = self.spent_s / self.budget_s
        if self.unavailable or over >= 2 or (over >= 1 and self.run >= FEWEST):
            return True
        return len(self.columns) >= self.stage.least_rounds and self.stage.settled(np.array(self.columns).T)

    def step(self) -> None:
        """One process more."""
        self.run += 1
        begun = time.monotonic()
        try:
            found = _run(self.stage, self.cpu)
        except Unavailable as reason:
            self.unavailable = reason
            return
        calm = samples.undisturbed(found, self.cpu)
        counts = calm & samples.as_wanted(found, self.stage.in_use)
        self.samples += len(found)
        self.rejected += len(found) - int(calm.sum())
        if counts.any():
            self.columns.append(self.stage.reduce(found, counts))
            self.ratios.append(float(np.median(samples.clock_ratio(found[counts]))))
        self.spent_s += time.monotonic() - begun

    def result(self) -> "Measured | Unavailable":
        if self.unavailable or not self.columns:
            return self.unavailable or Unavailable("every sample was disturbed")
        return Measured(np.array(self.columns).T, np.array(self.ratios), self.samples, self.rejected)


def measure(stages: Mapping[str, Stage], cpu: int, progress: Progress) -> "dict[str, Measured | Unavailable]":
    """Runs the stages in turns until each has settled or used its budget.

    In turns, so that what changes on the machine in the course of a minute (a neighbour, a frequency) meets them all
    and shows in their intervals.  What a stage leaves of its budget goes to those that have not settled, in proportion
    to theirs.  A stage that cannot run has its reason in place of numbers.
    """
    running = {name: _Rounds(stage, cpu) for name, stage in stages.items()}
    waiting = dict(running)
    while waiting:
        name, rounds = min(waiting.items(), key=lambda each: each[1].spent_s / each[1].budget_s)
        before = rounds.spent_s
        rounds.step()
        progress.update(max(min(rounds.spent_s, rounds.budget_s) - before, 0))
        if not rounds.done:
            continue
        del waiting[name]
        left_s = max(rounds.budget_s - rounds.spent_s, 0)
        whole_s = sum(each.budget_s for each in waiting.values())
        for each in waiting.values():
            each.budget_s += left_s * each.budget_s / whole_s
        if not waiting:
            progress.update(left_s)
    return {name: each.result() for name, each in running.items()}


def small(values: Floats) -> bool:
    """Whether nearly all rows have a small interval, of those that every process measured."""
    complete = np.sort(values[~np.isnan(values).any(axis=1)], axis=1)
    if not len(complete):
        return False
    below = samples.order_below(complete.shape[1])
    half = (complete[:, -1 - below] - complete[:, below]) / 2
    narrow = half <= np.maximum(NARROW * np.abs(np.median(complete, axis=1)), NARROW_CYCLES)
    return float(np.mean(narrow)) >= NARROW_SHARE


def by_row(count: int, divisors: Sequence[int], core: bool) -> Callable[[NDArray[np.void], NDArray[np.bool_]], Floats]:
    """Reduces samples to the cycles of one repetition of each row, of the core clock or of the TSC."""
    per = np.array(divisors, float)

    def reduce(found: NDArray[np.void], counts: NDArray[np.bool_]) -> Floats:
        mine = found[counts]
        rows = mine["row"].astype(int)
        cycles = samples.ticks(mine) / per[rows] * (samples.clock_ratio(mine) if core else 1.0)
        return samples.medians_by_row(rows, cycles, count)

    return reduce


def beside_the_first(count: int, per: int) -> Callable[[NDArray[np.void], NDArray[np.bool_]], Floats]:
    """Reduces samples that come in passes over all rows: the TSC cycles of each row, then what it has over row 0.

    The difference is taken within a pass, so that what changes from pass to pass drops out.
    """

    def reduce(found: NDArray[np.void], counts: NDArray[np.bool_]) -> Floats:
        cycles = np.where(counts, samples.ticks(found) / per, np.nan)
        passes = np.full((len(found) // count, count), np.nan)
        passes[np.arange(len(found)) // count, found["row"].astype(int)] = cycles
        return np.concatenate([_medians(passes), _medians(passes - passes[:, :1])])

    return reduce


def _medians(passes: Floats) -> Floats:
    known = [column[~np.isnan(column)] for column in passes.T]
    least = samples.LEAST_BLOCKS
    return np.array([np.median(samples.without_outliers(c)) if len(c) >= least else np.nan for c in known])


def _run(stage: Stage, cpu: int) -> NDArray[np.void]:
    command = [str(stage.program), str(cpu), *stage.arguments]
    return np.frombuffer(output(command, stage.plan), stage.sample)


def output(command: Sequence[str], plan: str = "") -> bytes:
    """What a measuring program writes; :class:`Unavailable` with its reason if it ends otherwise, or not at all."""
    try:
        done = subprocess.run(command, input=plan.encode(), capture_output=True, timeout=HANGS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{Path(command[0]).name} did not end within {HANGS:.0f} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise Unavailable(said)
    return done.stdout
