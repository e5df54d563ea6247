"""Reading a scenario file: TOML, with ``extends``, checked and complete, or one message that says what is wrong."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from sim import bounded
from sim.errors import InputError, unknown
from sim.kernel.datafile import is_file
from sim.kinds import Kind, wanted
from sim.results import manifest as manifests
from sim.scenario import shipped
from sim.scenario.cases import Case, cases
from sim.scenario.contrasts import operand
from sim.scenario.distribution import is_distribution
from sim.scenario.explain import ScenarioError, explain, keys, missing, shown
from sim.scenario.run_schema import PRECISION
from sim.scenario.schema import Scenario
from sim.scenario.shipped import is_path
from sim.scenario.units import FROM_FILE

EXTENDS: Final = "extends"

NAMED: Final = ("guests", "threads", "interrupts", "exits")
"""Tables whose keys are names that the user gives."""

INSTEAD: Final = {"replications": tuple(PRECISION), **dict.fromkeys(PRECISION, ("replications",))}
"""Keys of [run] that take the place of others, so that a variant or an option may use either."""

NAMING_FILES: Final = (
    ("run", "strategies"), ("run", "reference"), ("run", "timed_by"), ("run", "contrasts"), ("host", "cpu"),
    ("host", "costs"), ("host", "tsc"), ("kernel", "carried"),
)  # fmt: skip
"""Keys whose values may be files, which are relative to the file that names them; keys of tables by CPU, too."""

Table = dict[str, Any]
Files = list[tuple[str, Table]]
"""A file's name and what it says, from the one that was asked for to the one at the root of its ``extends``."""


def read(
    path: str | Path, overrides: Mapping[str, Any] | None = None, options: Mapping[str, str] | None = None
) -> Scenario:
    """The scenario of that name, in that file, or of the run with that manifest (.json), checked in all of its cases.

    A text is a path if it has a / or ends in .toml or .json, and else the name of a shipped scenario.  ``overrides``
    maps dotted paths to values that take the place of the file's, such as {"run.seed": 7}, as those of a file that
    extends it would, but a key of a guest or thread that is not there makes no new one; ``options`` says what the user
    calls such a path, such as --seed.  A file that a scenario names (a base, a cost table, a strategy, a CSV file) lies
    relative to the scenario file that names it, one of ``overrides`` to the current directory; in the result its path
    is absolute.

    Raises :class:`InputError` with one line: the file, the path in it, what was found and what is allowed.
    """
    return Source.of(path).read(overrides or {}, options or {})[0]


@dataclass(frozen=True, slots=True)
class Source:
    """A scenario as its files were when this was made, from which others are made with other values."""

    path: str | Path
    _files: Files
    _data: Table

    @classmethod
    def of(cls, path: str | Path) -> "Source":
        """What is at ``path``, as :func:`read` takes it; :class:`InputError` if that cannot be read."""
        with _wanted(path):
            if str(path).endswith(".json"):
                files = _of_run(str(path))
            else:
                files = _files(str(path), isinstance(path, Path) or is_path(path), ())
            data: Table = {}
            for _, raw in reversed(files):
                data = _varied(data, raw)
            if not data:
                raise InputError(
                    f"{files[0][0]}: the file is empty; allowed: a scenario with title, run, host and guests or threads"
                )
        return cls(path, files, data)

    def read(self, overrides: Mapping[str, Any], options: Mapping[str, str]) -> tuple[Scenario, tuple[Case, ...]]:
        """What :func:`read` gives, and the cases of that."""
        with _wanted(self.path):
            return _read(deepcopy(self._data), self._files, overrides, options)


def _wanted(path: str | Path) -> AbstractContextManager[None]:
    return nullcontext() if path in shipped.names() else wanted(path, Kind.SCENARIO)


def _read(
    data: Table, files: Files, overrides: Mapping[str, Any], options: Mapping[str, str]
) -> tuple[Scenario, tuple[Case, ...]]:
    try:
        return _checked(_overridden(data, overrides))
    except ScenarioError as error:
        if option := _option(error.path, overrides, options):
            raise InputError(f"{option}: {error.text}") from error
        if not any(_has(raw, error.path) for _, raw in files):
            for dotted in overrides:
                if dotted.startswith(f"{error.path}."):
                    raise InputError(f"{options.get(dotted, dotted)}: {error}") from error
        raise InputError(f"{_whose(error.path, files)}: {error}") from error


def vary(scenario: Scenario, overrides: Mapping[str, Any], options: Mapping[str, str] | None = None) -> Scenario:
    """The scenario with other values at these paths, as :func:`read` would have read it with them."""
    try:
        return _checked(_overridden(scenario.written(), overrides))[0]
    except ScenarioError as error:
        if option := _option(error.path, overrides, options or {}):
            raise InputError(f"{option}: {error.text}") from error
        raise


def _checked(data: Table) -> tuple[Scenario, tuple[Case, ...]]:
    try:
        scenario = Scenario.model_validate(data, context={FROM_FILE: True})
    except ValidationError as error:
        if not _swept_only(data, missing(error, data)):
            raise explain(error, data) from error
        return _checked(data)
    return scenario, cases(scenario)


def _swept_only(data: Table, paths: Iterable[str]) -> bool:
    """Gives required keys that only the sweep sets the first of their values there; False if there is none."""
    sweep = data.get("sweep")
    found = False
    for path in paths:
        values = sweep.get(path) if isinstance(sweep, dict) else None
        if isinstance(values, list) and values:
            *parents, last = keys(path)
            table = data
            for key in parents:
                table = table[key]
            table[last] = values[0]
            found = True
    return found


def _of_run(name: str) -> Files:
    """The resolved scenario of a manifest, with the files and cost tables that lie beside that."""
    manifest = manifests.read_file(Path(name))
    hashes = manifest.get("files", {})
    manifests.check_files(Path(name).parent, {each: hashes[each] for each in hashes if not each.endswith(".parquet")})
    resolved: Table = manifest["resolved"]
    if manifest["format"] == manifests.FORMAT_OF_0_1:  # has the cost tables beside it, and does not say so
        tables = {case["cpu"]: f"{manifests.COSTS}#{case['cost_table']}" for case in manifest["cases"]}
        swept = {path.removeprefix("host.costs.") for path in resolved["sweep"]}
        resolved["host"]["costs"] = {cpu: table for cpu, table in tables.items() if cpu not in swept}
        if resolved["kernel"].get("mitigations") is True:  # what they were, and what its cost tables have
            resolved["kernel"]["mitigations"] = ["ibpb", "vmscape"]
    _settle(resolved, os.path.dirname(os.path.abspath(name)))
    return [(name if name.isprintable() else repr(name), resolved)]


def _files(name: str, by_path: bool, children: tuple[str, ...]) -> Files:
    file = name if by_path else str(shipped.file(name))
    here = os.path.abspath(file)
    shown_name = name if name.isprintable() else repr(name)
    if here in children:
        chain = " extends ".join(os.path.basename(each) for each in (*children, here))
        raise InputError(f"{shown_name}: {EXTENDS}: the file extends itself ({chain})")
    raw = _toml(file, shown_name)
    base = raw.pop(EXTENDS, None)
    folder = os.path.dirname(here)
    _settle(raw, folder)
    if base is None:
        return [(shown_name, raw)]
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{shown_name}: {EXTENDS}: found {shown(base)}; allowed: the path of a scenario file, in quotes"
        )
    if not is_path(base):
        try:
            shipped.file(base)
        except InputError as error:
            raise InputError(f"{shown_name}: {EXTENDS}: {error}") from error
        return [(shown_name, raw), *_files(base, False, (*children, here))]
    beside = os.path.join(os.path.dirname(file), base)
    if not os.path.isfile(beside):
        raise InputError(f"{shown_name}: {EXTENDS}: found {shown(base)}; there is no file {shown(beside)}")
    return [(shown_name, raw), *_files(beside, True, (*children, here))]


def _toml(name: str, shown_name: str) -> Table:
    try:
        content = bounded.content(name, bounded.MOST_TOML)
    except (OSError, ValueError) as error:  # the latter for a null character
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise InputError(f"{shown_name}: cannot be read: {why}; allowed: a scenario file (TOML)") from error
    try:
        return bounded.toml(content)
    except ValueError as error:
        raise InputError(f"{shown_name}: {error}; allowed: a scenario file (TOML)") from error


def _settle(raw: Table, folder: str) -> None:
    """Makes the paths absolute that a file names, since they are relative to it."""
    for table in _tables(raw):
        if isinstance(table.get("empirical"), str):
            table["empirical"] = os.path.abspath(os.path.join(folder, table["empirical"]))
    guests = raw.get("guests")
    for guest in guests.values() if isinstance(guests, dict) else ():
        if (
            isinstance(guest, dict)
            and isinstance(model := guest.get("cpu_model"), str)
            and model.endswith((".json", ".xml"))
        ):
            guest["cpu_model"] = os.path.abspath(os.path.join(folder, model))
    for section, key in NAMING_FILES:
        there = raw.get(section)
        if isinstance(there, dict) and key in there:
            there[key] = _settled(there[key], folder, _settled_operand if key == "contrasts" else _settled_name)
    swept = raw.get("sweep")
    if isinstance(swept, dict):
        for path in swept:
            if path == "kernel.carried" or path.startswith("host.costs."):
                swept[path] = _settled(swept[path], folder, _settled_name)


def _settled(value: Any, folder: str, settle: Callable[[str, str], str]) -> Any:
    if isinstance(value, list):
        return [_settled(each, folder, settle) for each in value]
    if isinstance(value, dict):
        return {settle(key, folder): _settled(each, folder, settle) for key, each in value.items()}
    return settle(value, folder) if isinstance(value, str) else value


def _settled_name(name: str, folder: str) -> str:
    beside = is_file(name) or name.startswith(f"{manifests.COSTS}#")
    return os.path.abspath(os.path.join(folder, name)) if beside else name


def _settled_operand(text: str, folder: str) -> str:
    each = operand(text)
    return str(each._replace(strategy=_settled_name(each.strategy, folder)))


def _tables(value: Any) -> Iterator[Table]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _tables(each)


def _merged(base: Table, over: Table) -> Table:
    """``over`` on top of ``base``: tables are merged, all else is replaced, and so is a distribution as a whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not is_distribution(value):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged


def _varied(base: Table, over: Table) -> Table:
    """What a file says on top of ``base``, which it extends."""
    below, above = base.get("run"), over.get("run")
    if isinstance(below, dict) and isinstance(above, dict):
        replaced = {key for said in above for key in INSTEAD.get(said, ())} - above.keys()
        base = base | {"run": {key: value for key, value in below.items() if key not in replaced}}
    return _merged(base, over)


def _overridden(data: Table, overrides: Mapping[str, Any]) -> Table:
    for dotted in overrides:
        at: Any = data
        *parents, _ = keys(dotted)
        for depth, (parent, key) in enumerate(pairwise(parents)):
            at = at.get(parent) if isinstance(at, dict) else None
            if depth in (0, 2) and parent in NAMED and isinstance(at, dict) and key not in at:
                raise ScenarioError(dotted, str(unknown(f"name in {parent}", key, at)))
    return _varied(data, _as_file(overrides))


def _as_file(overrides: Mapping[str, Any]) -> Table:
    """What a file in the current directory would say in order to have these values at these paths."""
    raw: Table = {}
    for dotted, value in overrides.items():
        *parents, last = keys(dotted)
        table = raw
        for key in parents:
            table = table.setdefault(key, {})
        table[last] = value
    _settle(raw, "")
    return raw


def _option(path: str, overrides: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """What the user calls the override from which the value at a path comes, or nothing."""
    for dotted in overrides:
        if path == dotted or path.startswith((f"{dotted}.", f"{dotted}[")):
            return options.get(dotted, dotted)
    return ""


def _whose(path: str, files: Files) -> str:
    """The file that has the key at a path, or the one that was asked for."""
    for name, raw in files:
        if _has(raw, path):
            return name
    return files[0][0]


def _has(raw: Table, path: str) -> bool:
    table: Any = raw
    for key in path.split("[")[0].split("."):
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True
