"""What pydantic found in a scenario, as one line: the path in the file, what was found and what is allowed."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import GenericAlias, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from sim.errors import InputError, nearest, one_line, unknown
from sim.kernel.datafile import TYPES, shortened
from sim.scenario.schema import Scenario

Key = str | int

_ALLOWED: Final = {
    **TYPES,
    "model_type": "a table",
    "model_attributes_type": "a table",
    "string_too_short": "a text that is not empty",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "greater_than": "above {gt:g}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of up to {max_length}",
    "string_too_long": "up to {max_length} characters",
    "string_pattern_mismatch": "a name of letters, digits, - and _ that begins with a letter or a digit",
}
"""By pydantic's type of error."""

_TABLES: Final[Mapping[tuple[Key, ...], str]] = {("host", "costs"): '{ PROFILE = "NAME or FILE" }'}
"""What the entries of a table are whose keys the user chooses, by its path."""

_NUMBERS: Final[Mapping[tuple[Key, ...], str]] = {("host", "cpu"): "cpus"}
"""The key that is a number, beside one that is a list of names."""

MOST_SHOWN: Final = 100
"""Characters of a table that an error repeats."""

_LITERAL: Final = re.compile(r"'([^']*)'|\b(\d+)\b")
"""A value in pydantic's text for what a Literal allows."""


class ScenarioError(InputError):
    """What is wrong with a scenario: the path of the key, and the rest of the sentence."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(one_line(f"{path}: {text}" if path else text))
        self.path = path
        self.text = one_line(text)


def path_text(keys: Iterable[Key]) -> str:
    """The path as a person would write it: guests.web.exits.io, host.cpu[1]."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else shortened(key)
            text += f".{name}" if text else name
    return text


def keys(path: str) -> tuple[str, ...]:
    """The keys of a path that a person wrote, as TOML has them: guests.web, sweep."host.cpus"."""
    table: Any = tomllib.loads(f"{path} = 0")
    found: list[str] = []
    while isinstance(table, dict):
        ((key, table),) = table.items()
        found.append(key)
    return tuple(found)


def shown(value: Any) -> str:
    """A value as the file has it, in short."""
    if isinstance(value, Mapping):
        plain = value and not any(isinstance(each, Mapping | list) for each in value.values())
        text = ", ".join(f"{key} = {shown(each)}" for key, each in value.items()) if plain else ""
        return f"{{{text}}}" if 0 < len(text) <= MOST_SHOWN and text.isprintable() else "a table"
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping | list) for each in value):
        return "a list of tables or lists"
    return shortened(value) if isinstance(value, str | int | float | list | tuple) else shortened(str(value))


def explain(error: ValidationError, data: Any, model: type[BaseModel] = Scenario) -> ScenarioError:
    """The first thing that is wrong in ``data``; an unknown key before the key that is missing because of it."""
    groups: dict[tuple[Key, ...], list[Mapping[str, Any]]] = {}
    for each in error.errors(include_url=False):
        groups.setdefault(_keys(each, data), []).append(dict(each))
    # Of a value that may be a list, it is the wrong item that is named, and not that the list is no text either.
    deepest = [keys for keys in groups if not any(keys == other[: len(keys)] != other for other in groups)]
    keys = min(deepest, key=lambda keys: (not _lacks_name(keys, model), groups[keys][0]["type"] != "extra_forbidden"))
    return ScenarioError(path_text(keys), _text(keys, groups[keys], model))


def missing(error: ValidationError, data: Any) -> list[str]:
    """The paths of keys that are required and not there."""
    return [path_text(_keys(dict(each), data)) for each in error.errors() if each["type"] == "missing"]


def _keys(error: Mapping[str, Any], data: Any) -> tuple[Key, ...]:
    """The part of pydantic's location that is in the file; it also names members of unions and validators."""
    keys: list[Key] = []
    for each in error["loc"]:
        inside = each in data if isinstance(data, Mapping) else isinstance(data, list) and each in range(len(data))
        if inside:
            data = data[each]
        elif error["type"] == "missing" and each == error["loc"][-1]:
            pass
        else:
            continue
        keys.append(each)
    return tuple(keys)


def _text(keys: Sequence[Key], errors: Sequence[Mapping[str, Any]], model: type[BaseModel]) -> str:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        fields = list(_model_at(keys[:-1], model).model_fields)
        said = str(unknown("key", str(keys[-1]), [*fields, "extends"] if len(keys) == 1 else fields))
        places = _places(str(keys[-1]), model)
        return f"{said}; {keys[-1]} is a key of {' and '.join(places)}" if places else said
    if first["type"] == "missing":
        about = _model_at(keys[:-1], model).model_fields[str(keys[-1])].description
        return f"the key is missing; allowed: {about}"
    if _lacks_name(keys, model):
        return f"found {shown(first['input'])}; {keys[-1]} is a key of [{path_text(keys[:-1])}.NAME]"
    names: list[str] = []
    pieces: list[str] = []
    for each in errors:
        if each["type"] == "literal_error":
            names += [quoted or number for quoted, number in _LITERAL.findall(each["ctx"]["expected"])]
        elif each["type"] == "value_error":
            pieces.append(str(each["ctx"]["error"]))
        elif each["type"] == "dict_type" and tuple(keys) in _TABLES:
            pieces.append(_TABLES[tuple(keys)])
        elif bounds := _bounds(keys, each["type"], model):
            pieces.append(bounds)
        elif each["type"] == "tuple_type" and isinstance(each["input"], int) and tuple(keys) in _NUMBERS:
            meant = _NUMBERS[tuple(keys)]
            return f"found {shown(each['input'])}; did you mean {meant!r}? {keys[-1]} is {_ALLOWED['tuple_type']}"
        elif each["type"] == "tuple_type" and isinstance(each["input"], str | float):
            items = [item.strip() for item in str(each["input"]).split(",")]
            such = f", such as {shortened(items)}" if _fits(keys, items, model) else ""
            pieces.append(f"{_ALLOWED['tuple_type']}{such}")
        else:
            pieces.append(_ALLOWED.get(each["type"], each["msg"]).format(**each.get("ctx", {})))
    found = f"found {shown(first['input'])}"
    if not names and pieces[0].startswith("unknown "):
        return f"{found}; {pieces[0]}"
    near = nearest(str(first["input"]), names)
    hint = f"; did you mean {near!r}?" if near else ""
    if isinstance(first["input"], float) and "kernel" in keys:
        pieces[-1] += " (without quotes, TOML reads 6.10 as 6.1)"
    allowed = " or ".join([*([", ".join(dict.fromkeys(names))] if names else []), *dict.fromkeys(pieces)])
    return f"{found}{hint}; allowed: {allowed}"


def _lacks_name(keys: Sequence[Key], model: type[BaseModel]) -> bool:
    """Whether a table of named tables, such as [guests], has a key of those tables at this path."""
    if len(keys) < 2 or isinstance(keys[-1], int) or not isinstance(parent := _kind_at(keys[:-1], model), GenericAlias):
        return False
    kind = get_args(parent)[-1]
    return isinstance(kind, type) and issubclass(kind, BaseModel) and keys[-1] in kind.model_fields


def _fits(keys: Sequence[Key], value: list[str], model: type[BaseModel]) -> bool:
    """Whether a list could stand at this path."""
    try:
        TypeAdapter(_kind_at(keys, model)).validate_python(value)
    except ValidationError:
        return False
    return True


def _places(key: str, model: type[BaseModel]) -> list[str]:
    """The tables of a scenario file that have a key of this name, which may be where it was meant to be."""
    if model is not Scenario:
        return []
    if key in (*Scenario.model_fields, "extends"):
        return ["the file itself, before its first [table]"]
    found = []
    for name, field in Scenario.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            kind, table = field.annotation, f"[{name}]"
        elif isinstance(kind := (get_args(field.annotation) or (None,))[-1], type) and issubclass(kind, BaseModel):
            table = f"[{name}.NAME]"
        else:
            continue
        if key in kind.model_fields:
            found.append(table)
    return found


def _bounds(keys: Sequence[Key], kind: str, model: type[BaseModel]) -> str:
    """Both bounds of a number of which only one is violated."""
    if kind not in ("greater_than_equal", "less_than_equal") or isinstance(keys[-1], int):
        return ""
    field = _model_at(keys[:-1], model).model_fields[keys[-1]]
    optional = [info for each in get_args(field.annotation) for info in getattr(each, "__metadata__", ())]
    bounds = [*field.metadata, *(bound for info in optional for bound in info.metadata)]
    low, high = (next((getattr(each, key) for each in bounds if hasattr(each, key)), None) for key in ("ge", "le"))
    return "" if low is None or high is None else f"{low:g} to {high:g}"


def _model_at(keys: Sequence[Key], model: type[BaseModel]) -> type[BaseModel]:
    """The model of the table at a path; the path exists."""
    kind = _without_none(_kind_at(keys, model))
    assert isinstance(kind, type)
    return kind


def _kind_at(keys: Sequence[Key], model: type[BaseModel]) -> Any:
    """What a value at a path should be."""
    kind: Any = model
    for key in keys:
        kind = _without_none(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(key)].annotation
        else:
            kind = get_args(kind)[0 if get_origin(kind) is tuple else -1]  # dict[Name, Guest], tuple[Pair, ...]
    return kind


def takes_whole(path: str) -> bool:
    """Whether the key at this path takes whole numbers, and no others; False where there is no such key."""
    try:
        kinds = set(_members(_kind_at(keys(path), Scenario)))
    except (AttributeError, IndexError, KeyError, ValueError):
        return False
    return int in kinds and float not in kinds


def _members(kind: Any) -> Iterator[Any]:
    """The types of which a value may be, without what pydantic wants of them."""
    if get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _members(each)
    else:
        yield get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _without_none(kind: Any) -> Any:
    """The first member of a union."""
    optional = get_origin(kind) in (Union, UnionType)
    return next(each for each in get_args(kind) if each is not type(None)) if optional else kind
