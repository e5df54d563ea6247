"""Typed reading of the small TOML files that describe carried states and strategies, shipped or of the user."""

import json
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from sim.bounded import MOST_TOML, content, toml
from sim.errors import InputError

T = TypeVar("T")

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}
"""For a dataclass that is read by :func:`load`: ``__pydantic_config__ = STRICT``."""


_SHOWN = 60
"""The most characters of a value that an error repeats."""


def shortened(value: object) -> str:
    """A value of the user, shortened for an error message of one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


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
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
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
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        where = where if where.isprintable() else repr(where)
        if first["type"] == "unexpected_keyword_argument":
            raise InputError(f"{name}: {_unknown('key', where, (f.name for f in fields(kind)))}") from error  # type: ignore[arg-type]
        if first["type"] == "missing":
            raise InputError(f"{name}: missing key {where!r}") from error
        raise InputError(f"{name}: {where}: {first['msg']}, found {shortened(first.get('input'))}") from error
    except (OSError, ValueError) as error:  # not there, not UTF-8, not TOML
        raise InputError(f"{what} file {name}: {getattr(error, 'strerror', None) or error}") from error
