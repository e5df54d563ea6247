"""Which engine simulates a replication: the reference in SimPy, or the compiled loop, which gives the same records."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Final

from sim.engine import cache
from sim.errors import InputError
from sim.results.record import Record
from sim.scenario.cases import Case

SIMPY: Final = "simpy"
COMPILED: Final = "compiled"
AUTO: Final = "auto"

DISABLED: Final = "NUMBA_DISABLE_JIT"


def refusal() -> str:
    """Why the compiled engine cannot run here, as far as that is known before it does; empty if it can."""
    if find_spec("numba") is None:
        return "numba, which is not installed (the extra fast: pip install 'fpswitch[fast]')"
    return ""


def _compiler_is_off() -> str:
    """Why numba would run the loop as plain Python, which is far slower than SimPy; empty if it would not.

    The variable is read here, since importing numba only to ask it takes longer than a small run.
    """
    with suppress(ValueError):
        if int(os.environ.get(DISABLED, "0")):
            return f"numba's compiler, which {DISABLED} turns off"
    return ""


def wanted(case: Case) -> bool:
    """Whether the compiled engine is to be tried."""
    engine = case.scenario.run.engine
    return engine == COMPILED or (engine == AUTO and not (refusal() or _compiler_is_off()))


def simulate(case: Case, timed_by: str, strategies: Sequence[str], replication: int) -> list[Record]:
    """Runs one replication with the engine of ``run.engine``; otherwise as :func:`sim.host.simulation.simulate`.

    If the compiled engine cannot simulate the case, ``auto`` takes the reference, and ``compiled`` raises
    :class:`~sim.errors.InputError`, which says what is lacking.
    """
    engine = case.scenario.run.engine
    reason = ""
    if engine != SIMPY:
        reason = refusal() or (_compiler_is_off() if engine == AUTO else "")
        if not reason:
            from sim.engine import simulation
            from sim.engine.fragments import Unsupported

            try:
                return _named(simulation.simulate(case, timed_by, strategies, replication), COMPILED)
            except Unsupported as error:
                reason = str(error)
        if engine == COMPILED:
            raise InputError(
                f"run.engine: found 'compiled', which lacks {reason} (case {case.name!r}); allowed: auto, simpy"
            )
    from sim.host import simulation as reference

    records = reference.simulate(case, timed_by, strategies, replication)
    return _named(records, f"{SIMPY} (compiled lacks {reason})" if reason else SIMPY)


def _named(records: list[Record], engine: str) -> list[Record]:
    return [replace(record, engine=engine) for record in records]


def prepare(cases: Sequence[Case], say: Callable[[str], None], *, asked: bool = False, here: bool = True) -> None:
    """Compiles the loop, before workers start, if any case wants it and this machine has not compiled it yet.

    ``asked``: compile whatever the cases say.  ``here``: this process simulates; if it does not, and machine code
    cannot be kept, each worker compiles for itself.
    """
    if not (asked or any(map(wanted, cases))) or find_spec("numba") is None or cache.is_complete():
        return
    kept = cache.directory()
    if kept is None:
        outdated = cache.is_outdated()
        why = "sources have changed since this process began" if outdated else "no cache directory can be written"
        say(f"compiling the loop in memory: about 15 s in each process ({why})")
    elif cache.is_being_made():
        say(f"waiting for another process that compiles the loop (kept in {kept})")
    elif damaged := cache.damaged():
        say(f"compiling the loop again, about 15 s: {damaged} is not as it was made (kept in {kept})")
    else:
        say(f"compiling the loop, once per machine and version: about 15 s (kept in {kept})")
    if kept is not None or here:
        from sim.engine import loop

        loop.compile_all()
