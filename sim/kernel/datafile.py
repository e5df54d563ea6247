"""Typed reading of the small TOML files that describe carried states and strategies, shipped or of the user."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

from sim.bounded import MOST_TOML, content, toml
from sim.errors import InputError, nearest

T = TypeVar("T")

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}
"""For a dataclass that is read by :func:`load`: ``__pydantic_config__ = STRICT``."""


TYPES: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "tuple_type": "a list in [ ]",
    "dict_type": "a table",
}
"""What TOML calls the type that a value should have, by pydantic's type of error."""

_SHOWN = 60
"""The most characters of a value that an error repeats."""


def shortened(value: object) -> str:
    """A value of the user, as TOML has it, shortened for an error message of one line."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def wrong(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors found, and what is allowed."""
    allowed = TYPES.get(error["type"]) or error.get("ctx", {}).get("expected") or error["msg"]
    return f"found {shortened(error['input'])}; allowed: {allowed}"


def path_text(place: Sequence[str | int]) -> str:
    """The path of a key, as a person would write it; pydantic marks a key that is wrong itself by [key]."""
    text = ""
    for each in place:
        if each != "[key]":
            text += f"[{each}]" if isinstance(each, int) else f".{each}" if text else each
    return text if text.isprintable() else repr(text)


def is_name(text: str) -> bool:
    """Whether a text can be the name of something: one line, and not empty."""
    return bool(text.strip()) and text.isprintable()


def is_file(name: str) -> bool:
    """Whether a name is the path of a user's file: it has a slash or ends in .toml."""
    return "/" in name or name.endswith(".toml")


def stamp(name: str) -> tuple[int, int] | None:
    """A stamp that changes when a user's file does; None for shipped data, and if there is no file."""
    if not is_file(name):
        return None
    try:
        found = Path(name).stat()
    except (OSError, ValueError):  # the latter for a null character
        return None
    return found.st_mtime_ns, found.st_size


def _unknown(kind: str, name: str, allowed: Iterable[str]) -> InputError:
    names = sorted(allowed)
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    return InputError(f"unknown {kind} {shortened(name)}{hint} (allowed: {', '.join(names)})")


def shipped(folder: str) -> list[str]:
    """File names in a folder of sim/kernel/data, in order."""
    return sorted(item.name for item in (resources.files("sim.kernel") / "data" / folder).iterdir())


def load(kind: type[T], what: str, folder: str, name: str) -> T:
    """An instance of the dataclass ``kind`` from the shipped file ``name``.toml or from the path ``name``.

    Raises :class:`InputError`, in one line, for a name that is neither, a
    file that is not TOML, an unknown or missing key, a value of the wrong type, and what ``kind`` itself refuses.
    """
    from pydantic import TypeAdapter, ValidationError  # a tenth of a second, which --help need not wait for

    if is_path := is_file(name):
        source = Path(name)
    elif f"{name}.toml" in shipped(folder):
        source = Path(str(resources.files("sim.kernel"))) / "data" / folder / f"{name}.toml"
    else:
        raise _unknown(what, name, (file.removesuffix(".toml") for file in shipped(folder)))
    try:
        table = toml(content(source, MOST_TOML))
        # By way of JSON because only there does pydantic's strict mode take a list for a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(table, default=str))
    except InputError as error:
        raise InputError(f"{name}: {error}" if is_path else str(error)) from error
    except ValidationError as error:
        # A key that is wrong makes another missing: the wrong one is the one to name.
        first = min(error.errors(include_url=False), key=lambda each: each["type"] != "unexpected_keyword_argument")
        where = path_text(first["loc"])
        if first["type"] == "unexpected_keyword_argument":
            raise InputError(f"{name}: {_unknown('key', where, (f.name for f in fields(kind)))}") from error  # type: ignore[arg-type]
        if first["type"] == "missing":
            raise InputError(f"{name}: missing key {where!r}") from error
        raise InputError(f"{name}: {where}: {wrong(dict(first))}") from error
    except (OSError, ValueError) as error:  # not there, not UTF-8, not TOML
        raise InputError(f"{what} file {name}: {getattr(error, 'strerror', None) or error}") from error
