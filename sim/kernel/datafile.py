"""Typed reading of the small TOML files that describe carried states and strategies, shipped or the user's own."""

import json
import tomllib
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from sim.errors import InputError, unknown

T = TypeVar("T")

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True}
"""For a dataclass that is read by :func:`load`: ``__pydantic_config__ = STRICT``."""


def shipped(folder: str) -> list[str]:
    """File names in a folder of sim/kernel/data, in order."""
    return sorted(item.name for item in (resources.files("sim.kernel") / "data" / folder).iterdir())


def load(kind: type[T], what: str, folder: str, name: str) -> T:
    """An instance of the dataclass ``kind`` from the shipped file ``name``.toml or from the path ``name``.

    Raises :class:`InputError` for a name that is neither, a file that is not TOML, an unknown or missing key, or a
    value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError  # a tenth of a second, which --help need not wait for

    if name.endswith(".toml"):
        source = Path(name)
    elif f"{name}.toml" in shipped(folder):
        source = Path(str(resources.files("sim.kernel"))) / "data" / folder / f"{name}.toml"
    else:
        raise unknown(what, name, (file.removesuffix(".toml") for file in shipped(folder)))
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
        # By way of JSON because only there does pydantic's strict mode take a list for a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "unexpected_keyword_argument":
            raise InputError(f"{name}: {unknown('key', where, (f.name for f in fields(kind)))}") from error  # type: ignore[arg-type]
        raise InputError(f"{name}: {where}: {first['msg']}, found {first.get('input')!r}") from error
    except (OSError, ValueError) as error:  # not there, not UTF-8, not TOML
        raise InputError(f"{what} file {name}: {error}") from error
