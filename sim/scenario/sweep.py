"""The points of a scenario's sweep: the scenario at each, and the point in words."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sim.costs.table import shown_name as shown_costs
from sim.errors import unknown
from sim.kernel.datafile import is_file
from sim.scenario.explain import ScenarioError, explain, path_text
from sim.scenario.host_schema import is_mask
from sim.scenario.schema import Scenario
from sim.scenario.units import FROM_FILE

Value = bool | int | float | str

MOST_CASES: Final = 1000

NOT_SWEPT: Final = (
    "title", "question", "sweep", "host.cpu", "host.kernel", "run.replications", "run.precision",
    "run.min_replications", "run.max_replications", "run.seed", "run.strategies", "run.reference", "run.timed_by",
    "run.contrasts", "run.feedback", "run.cases", "run.asks", "run.beside", "run.engine",
)  # fmt: skip
"""What is the same in all cases, or makes cases by itself."""


def points(scenario: Scenario) -> Iterator[dict[str, Value]]:
    """All combinations of the values of its sweep, by path, the last path's fastest; one without any if it has none.

    Raises :class:`~sim.scenario.explain.ScenarioError` for a path without values and for too many cases.
    """
    number = len(scenario.host.cpu) * len(scenario.host.kernel)
    for path, values in scenario.sweep.items():
        number *= len(values)
        if not values:
            raise ScenarioError(_swept(path), "found an empty list; allowed: one value or more")
    if number > MOST_CASES:
        raise ScenarioError("sweep", f"makes {number} cases; allowed: {MOST_CASES} at most")
    for values in product(*scenario.sweep.values()):
        yield dict(zip(scenario.sweep, values, strict=True))


def is_swept(path: str) -> bool:
    """Whether a key may differ between the points of a sweep or a design."""
    return not any(path == each or path.startswith(f"{each}.") for each in NOT_SWEPT)


def _swept(path: str) -> str:
    return path_text(("sweep", path))


def at_point(scenario: Scenario, point: Mapping[str, Value]) -> Scenario:
    """The scenario at a point of its sweep.

    Raises :class:`~sim.scenario.explain.ScenarioError` for a path that is not a key and for a value that is not
    allowed.
    """
    if not point:
        return scenario
    written = scenario.written()
    for path, value in point.items():
        _set(written, path, value)
    written["sweep"] = {}
    try:
        return Scenario.model_validate(written, context={FROM_FILE: True})
    except ValidationError as error:
        problem = explain(error, written)
        guilty = next((path for path in point if problem.path.startswith(path)), "")
        raise ScenarioError(_swept(guilty) if guilty else "sweep", f"{problem.path}: {problem.text}") from error


def _set(written: dict[str, Any], path: str, value: Value) -> None:
    """Puts a value where the path says; a last key that there is not is found when the scenario is checked."""
    if not is_swept(path):
        raise ScenarioError(_swept(path), f"{path} cannot be swept (nor can {', '.join(NOT_SWEPT)})")
    *parents, last = path.split(".")
    at: Any = written
    for depth, key in enumerate(parents):
        if not isinstance(at, dict) or key not in at:
            here = ".".join(parents[:depth]) or "the file"
            allowed = list(at) if isinstance(at, dict) else []
            raise ScenarioError(_swept(path), _no_such(key, here, allowed))
        at = at[key]
    if not isinstance(at, dict):
        raise ScenarioError(_swept(path), f"{'.'.join(parents)} is not a table, so it has no key {last!r}")
    at[last] = value


def _no_such(key: str, here: str, allowed: list[str]) -> str:
    return f"{unknown('key', key, allowed)} in {here}" if allowed else f"{here} has no key {key!r}, nor any other"


def point_text(point: Mapping[str, Value]) -> str:
    """The point as the name of its case has it."""
    return " ".join(f"{path}={value_text(path, value)}" for path, value in point.items())


def value_text(path: str, value: Value) -> str:
    """A value in the name of a case."""
    if isinstance(value, str) and is_file(value):  # where it lies says nothing
        return shown_costs(value) if path.startswith("host.costs.") else Path(value).stem
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:#x}" if isinstance(value, int) and is_mask(path) else str(value)
