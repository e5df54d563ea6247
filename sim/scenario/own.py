"""The user's own parts of a scenario, by value: strategies under the one name by which each is shown everywhere."""

from collections.abc import Mapping
from dataclasses import dataclass

from sim.kernel.datafile import is_file
from sim.kernel.strategies import Strategy, strategy
from sim.scenario.contrasts import operand
from sim.scenario.explain import ScenarioError
from sim.scenario.run_schema import Run


@dataclass(frozen=True, slots=True)
class OwnStrategies:
    """The strategies of a scenario that are files.

    ``values``: each by the name that is shown, which is also its own ``name``; ``files``: the file by that name.
    """

    values: Mapping[str, Strategy]
    files: Mapping[str, str]

    def name(self, given: str) -> str:
        """The name that is shown of what a scenario gives, a name or a file."""
        return strategy(given).name if is_file(given) else given

    def value(self, name: str) -> str | Strategy:
        """The strategy that is shown as ``name``; of a shipped one the name itself."""
        return self.values.get(name, name)

    def given(self, name: str) -> str:
        """What a scenario gives for the name that is shown."""
        return self.files.get(name, name)


def own_strategies(run: Run) -> OwnStrategies:
    """The strategies in files; :class:`ScenarioError` if two of them have one name.

    A copy of one of ``run.strategies`` may be the reference, or in a contrast, and is that strategy.
    """
    values: dict[str, Strategy] = {}
    files: dict[str, str] = {}
    for path, file in named(run):
        if not is_file(file):
            continue
        found = strategy(file)
        first = files.setdefault(found.name, file)
        if values.setdefault(found.name, found) != found or (path == "run.strategies" and file != first):
            both = f"{first} and {file}"
            raise ScenarioError(
                path, f"found two strategies called {found.name!r}, in {both}; allowed: a name for each"
            )
    return OwnStrategies(values, files)


def named(run: Run) -> list[tuple[str, str]]:
    """All strategies that a scenario names, each with the path of the key that does."""
    found = [("run.strategies", each) for each in run.strategies if run.strategies != "all"]
    found += [("run.reference", run.reference)]
    found += [("run.timed_by", each) for each in (run.timed_by,) if each is not None]
    return found + [("run.contrasts", operand(text).strategy) for pair in run.contrasts for text in pair]
