"""The files that a scenario names, by content, so that a result directory needs nothing that is not in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sim.bounded import content
from sim.costs.table import shown_name
from sim.errors import InputError
from sim.kernel.carried import carried_state
from sim.kernel.datafile import is_file
from sim.kernel.strategies import strategy
from sim.results.manifest import COSTS, INPUTS
from sim.scenario.cases import Case
from sim.scenario.contrasts import operand
from sim.scenario.own import named, own_strategies
from sim.scenario.schema import Scenario
from sim.xsave import profiles

Place = Callable[[str], str]
"""What takes the place of a file's path."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of a scenario.

    ``contents``: by path in the result directory; ``places``: that path by the one that the scenario has;
    ``documents``: what the manifest says of each: kind, name (as it is shown), path and sha256.
    """

    contents: Mapping[str, bytes]
    places: Mapping[str, str]
    documents: Sequence[Mapping[str, str]]

    def placed(self, scenario: Scenario) -> dict[str, Any]:
        """The scenario as it is written in the manifest: its files, and its cost tables, are beside that."""
        return placed(scenario, lambda path: self.places[path])


def gathered(scenario: Scenario, cases: Sequence[Case]) -> Inputs:
    """The files of a scenario as they are now, which must be as they were when its ``cases`` were made.

    Raises :class:`InputError` for one that has changed since.
    """
    contents: dict[str, bytes] = {}
    places: dict[str, str] = {}
    documents = []
    for kind, name, path in dict.fromkeys(_files(scenario, cases)):
        content = _content(path)
        place = next(p for p in _free(Path(path).name) if contents.get(p, content) == content)
        contents[place], places[path] = content, place
        documents.append({"kind": kind, "name": name, "path": place, "sha256": sha256(content).hexdigest()})
    own = own_strategies(scenario.run)
    for file in (each for _, each in named(scenario.run) if is_file(each)):
        places[file] = places[own.given(own.name(file))]  # of a copy, the file that it is a copy of
    return Inputs(contents, places, documents)


def _free(name: str) -> Iterator[str]:
    """Places for a file; its name stays, since it may be shown."""
    yield f"{INPUTS}/{name}"
    number = 2
    while True:
        yield f"{INPUTS}/{number}/{name}"
        number += 1


def _content(path: str) -> bytes:
    try:
        return content(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read any more ({why})") from error


def _files(scenario: Scenario, cases: Sequence[Case]) -> Iterator[tuple[str, str, str]]:
    """Kind, name and path of each file; cost tables are not among them, since they are kept complete."""
    for name, file in own_strategies(scenario.run).files.items():
        used = {case.own[name] for case in cases if name in case.own}
        if used - {strategy(file)}:
            raise _changed(file)
        yield "strategy", name, file
    for file in scenario.host.cpu:
        if file in profiles.names():
            continue
        profile = profiles.profile(file)
        if any(case.scenario.host.cpu == (file,) and case.profile != profile.without_path() for case in cases):
            raise _changed(file)
        yield "CPU", profile.label, file
    swept = (str(value) for value in scenario.sweep.get("kernel.carried", ()))
    for file in filter(is_file, (scenario.kernel.carried, *swept)):
        state = carried_state(file)
        if any(case.scenario.kernel.carried == file and case.carried != state for case in cases):
            raise _changed(file)
        yield "carried state", state.name, file
    for samples in _samples(scenario.written()):
        if sha256(_content(samples["empirical"])).hexdigest() != samples["sha256"]:
            raise _changed(samples["empirical"])
        yield "samples", Path(samples["empirical"]).name, samples["empirical"]


def _changed(file: str) -> InputError:
    return InputError(f"{file}: has changed since the scenario was read")


def _samples(node: Any) -> Iterator[Mapping[str, str]]:
    """The empirical distributions of a scenario as it is written."""
    for value in node.values() if isinstance(node, Mapping) else ():
        if isinstance(value, Mapping) and "empirical" in value:
            yield value
        else:
            yield from _samples(value)


def placed(scenario: Scenario, place: Place) -> dict[str, Any]:
    """The scenario as a file would have it, with ``place`` of each path, and each cost table in costs.json."""
    written: dict[str, Any] = _with_samples(scenario.written(), place)
    run, host, kernel = written["run"], written["host"], written["kernel"]
    run.pop("engine", None)  # what simulates is no part of what is simulated: the results are the same

    def there(name: str) -> str:
        return place(name) if is_file(name) else name

    def cpu_there(name: str) -> str:
        return name if name in profiles.names() else place(name)

    if run["strategies"] != "all":
        run["strategies"] = list(map(there, run["strategies"]))
    run["contrasts"] = [
        [str(each._replace(strategy=there(each.strategy))) for each in map(operand, pair)] for pair in run["contrasts"]
    ]
    for section, key in ((run, "reference"), (run, "timed_by"), (kernel, "carried")):
        if key in section:
            section[key] = there(section[key])
    host["costs"] = {cpu_there(cpu): _in_costs(host["costs"].get(cpu, cpu)) for cpu in host["cpu"]}
    if isinstance(host.get("tsc"), Mapping):
        host["tsc"] = {cpu_there(cpu): tsc for cpu, tsc in host["tsc"].items() if cpu in host["cpu"]}
    host["cpu"] = list(map(cpu_there, host["cpu"]))
    for path, values in written["sweep"].items():
        if path.startswith("host.costs."):
            written["sweep"][path] = list(map(_in_costs, values))
        elif path == "kernel.carried":
            written["sweep"][path] = list(map(there, values))
    return written


def _in_costs(name: str) -> str:
    return f"{COSTS}#{shown_name(name)}"


def _with_samples(node: Any, place: Place) -> Any:
    if not isinstance(node, Mapping):
        return node
    if "empirical" in node:
        return {**node, "empirical": place(node["empirical"])}
    return {key: _with_samples(value, place) for key, value in node.items()}
