"""A simulated run as records of a timeline: the host tells what happens, in cycles; the timeline shows it in ns."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from sim.cli.common import overrides
from sim.errors import InputError, unknown
from sim.host.warmup import warmup_seconds
from sim.host.watching import State, watch, window
from sim.kernel.operations import Operation
from sim.kernel.strategies import strategy as find_strategy
from sim.scenario.cases import Case, cases
from sim.scenario.possible import refused
from sim.scenario.reading import read
from sim.scenario.units import parsed_time
from sim.trace.timeline import Ran, Record, Runs, VcpuState

USUAL_STRATEGY = "xstate-guest"


class Shown(NamedTuple):
    """What is drawn: one replication of one strategy in one case."""

    case: Case
    strategy: str
    replication: int


def choose(
    scenario: str,
    settings: Sequence[str],
    case: str | None,
    strategy: str | None,
    replication: int,
    duration: str | None,
    *,
    timed: bool = False,
) -> Shown:
    """The part of a scenario that the options name; its measurement is ``duration``, after the scenario's warm-up.

    Without a duration it is the scenario's own.  ``timed``: the strategy is by default the one that times the case.

    Raises :class:`~sim.errors.InputError` for an option that does not go with the scenario.
    """
    try:
        seconds = None if duration is None else parsed_time(duration)
    except ValueError as error:
        raise InputError(f"--duration: found {duration!r}; allowed: {error}") from error
    if seconds == 0:
        raise InputError(f"--duration: found {duration!r}; allowed: a time above 0")
    if replication < 0:
        raise InputError(f"--replication: found {replication}; allowed: 0 (the first of fpswitch run) or more")
    found = {each.name: each for each in cases(read(scenario, *overrides({"settings": settings})))}
    if case is not None and case not in found:
        raise InputError(f"--case: {unknown('case', case, found)}")
    chosen = found[case] if case is not None else next(iter(found.values()))
    if strategy is None and timed:
        strategy = chosen.timed_by
    measure = chosen.scenario.run.measure if seconds is None else seconds
    run = chosen.scenario.run.model_copy(update={"warmup": warmup_seconds(chosen), "measure": measure})
    return Shown(
        replace(chosen, scenario=chosen.scenario.model_copy(update={"run": run})),
        _strategy(chosen, strategy),
        replication,
    )


def _strategy(case: Case, name: str | None) -> str:
    if name is None:
        return USUAL_STRATEGY if USUAL_STRATEGY in case.strategies else case.reference
    try:
        find_strategy(name)
    except InputError as error:
        raise InputError(f"--strategy: {error}") from error
    if name not in case.strategies and (why := refused(case.settings(name))):
        raise InputError(f"--strategy: {why.text} (case {case.name!r})")
    return name


def begin_ns(shown: Shown) -> int:
    """When the measurement begins, since the simulation began."""
    return _ns(window(shown.case)[0], shown.case)


def end_ns(shown: Shown) -> int:
    """When the measurement ends, since the simulation began."""
    return _ns(window(shown.case)[1], shown.case)


def records(shown: Shown) -> Iterator[Record]:
    """The records of the run, as it goes on."""
    recorder = _Recorder(shown.case)
    for _ in watch(*shown, recorder):
        yield from recorder.records
        recorder.records.clear()


def _ns(cycles: int, case: Case) -> int:
    return round(cycles * 1e9 / case.tsc_hz)


class _Recorder:
    """A :class:`sim.host.watching.Watcher` that makes records."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.records: deque[Record] = deque()

    def runs(self, time: int, cpu: int, thread: str) -> None:
        self.records.append(Runs(_ns(time, self._case), cpu, thread))

    def vcpu(self, time: int, thread: str, state: State) -> None:
        self.records.append(VcpuState(_ns(time, self._case), thread, state))

    def ran(self, time: int, cpu: int, operation: Operation, cycles: int) -> None:
        # Both ends are rounded, so that what follows at once does not overlap.
        begin = _ns(time, self._case)
        self.records.append(Ran(begin, cpu, operation, _ns(time + cycles, self._case) - begin))
