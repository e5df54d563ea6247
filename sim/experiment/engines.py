"""Whether both engines give the same, before a run relies on one of them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from sim.errors import RunError
from sim.scenario.cases import cases
from sim.scenario.reading import read

SHOWN: Final = 4
"""Of how many CPUs a sentence has the fingerprint."""


def check_engines(
    scenario: str, overrides: Mapping[str, Any], options: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[str]:
    """Runs the first replication of each case with both engines; a sentence about each case.

    Raises :class:`~sim.errors.RunError` with the first event in which they differ.
    """
    from sim.engine.check import check
    from sim.engine.choice import prepare, refusal
    from sim.engine.fragments import Unsupported

    of_scenario = cases(read(scenario, overrides, options))
    prepare(of_scenario, say, asked=True)
    for case in of_scenario:
        if reason := refusal():
            yield f"case {case.name}: not checked, since the compiled engine lacks {reason}"
            continue
        try:
            found = check(case, case.timed_by, case.strategies, 0)
        except Unsupported as error:
            yield f"case {case.name}: not checked, since the compiled engine lacks {error}"
            continue
        if not found.same:
            where = f"case {case.name}, replication 0: the engines differ after {found.events} events"
            if found.differ:
                raise RunError(f"{where}, in the records of {', '.join(found.differ)}")
            raise RunError(
                f"{where}: simpy has {found.of_simpy or 'no more'}, compiled {found.of_compiled or 'no more'}"
            )
        cpus = ", ".join(f"CPU {i} {each:010x}" for i, each in enumerate(found.fingerprints[:SHOWN]))
        more = ", ..." if len(found.fingerprints) > SHOWN else ""
        yield (
            f"case {case.name}: both engines give the same {found.events} events, and the same records "
            f"(fingerprints: {cpus}{more})"
        )
