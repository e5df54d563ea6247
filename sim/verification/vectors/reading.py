"""Reading vector files: the first violation of the schema is one error, which says where it is."""

import codecs
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from sim import packed
from sim.errors import InputError
from sim.verification.vectors.schema import (
    Cpuid,
    Expected,
    Header,
    Image,
    Ldmxcsr,
    Meta,
    Msrs,
    Reinit,
    Restore,
    Save,
    State,
    Touch,
    Touch1,
    Vector,
    Wrmsr,
)

MOST: Final = 32 << 20
"""The most bytes of a file, unpacked; all shipped files together have 3 MB."""
_FOUND_LENGTH = 60


@dataclass(frozen=True, slots=True)
class VectorFile:
    """One file: its vectors, and the CPUID registers of its meta lines by source."""

    path: Path
    vectors: list[Vector] = field(default_factory=list)
    cpuid_0d: dict[str, Mapping[str, list[int]]] = field(default_factory=dict)


def read(path: Path) -> VectorFile:
    """The vectors of a file, packed or not; raises :class:`InputError` for the first violation of the schema.

    "-" is standard input.  A byte order mark and blank lines are ignored.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        if str(path) == "-":
            raw = packed.content(packed.unpacked(sys.stdin.buffer, name), name, MOST)
        else:
            with path.open("rb") as stream:
                raw = packed.content(packed.unpacked(stream, name), name, MOST)
    except packed.DAMAGED as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read ({why}), allowed: a file of test vectors") from error
    result = VectorFile(path)
    for number, line in enumerate(raw.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = _parse(line)
        except ValueError as error:
            raise InputError(f"{name}:{number}: {error}") from error
        if isinstance(value, Meta):
            result.cpuid_0d[value.src] = value.cpuid_0d
        else:
            result.vectors.append(value)
    if not result.vectors:
        raise InputError(f"{name}:1: no vector found, allowed: at least one, as a JSON object on a line of its own")
    return result


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the JSON text, without repeated names, of which json.loads would silently drop the first."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice}: found twice in one object, allowed: once")
    return result


def _parse(line: bytes) -> Vector | Meta:
    try:
        value = json.loads(line.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start}: found bytes that are not UTF-8, allowed: text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"column {error.colno}: found no JSON ({error.msg}), allowed: one object per line") from error
    except RecursionError as error:
        raise ValueError("found JSON that is nested too deeply, allowed: one object of the schema") from error
    model = Meta if isinstance(value, dict) and value.get("cat") == "meta" else Vector
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError(_explain(error)) from error


_OPERATIONS = {
    op: model
    for model in (Touch, Touch1, Reinit, Ldmxcsr, Wrmsr, Cpuid, Save, Restore)
    for op in model.model_fields["op"].annotation.__args__  # type: ignore[union-attr]
}
_OBJECTS: dict[str, type[BaseModel]] = {
    **_OPERATIONS,
    "exp": Expected,
    "image": Image,
    "hdr": Header,
    "msrs": Msrs,
    "emulator_state_after_fault": State,
}


def _explain(error: ValidationError) -> str:
    """The first error as "where: found what, allowed: what"."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    message = first["msg"][:1].lower() + first["msg"][1:]
    location = [part for part in first["loc"] if part != "[key]"]
    found = f"found {_shortened(first['input'])}"
    if kind == "missing":
        found, message = "found nothing", "this field is required"
    elif kind == "extra_forbidden":
        inside = [part for part in location[:-1] if part in _OBJECTS]
        model = _OBJECTS[str(inside[-1])] if inside else (Meta if error.title == "Meta" else Vector)
        message = "unknown field, allowed: " + ", ".join(model.model_fields)
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        location.append("op")
        found = f"found {context['tag']!r}" if "tag" in context else "found nothing"
        message = "allowed: " + ", ".join(_OPERATIONS)
    elif kind == "value_error":
        message = str(context["error"])
    where = ""
    for index, part in enumerate(location):
        if isinstance(part, int):
            where += f"[{part}]"
        elif index != 2 or location[0] != "steps":  # there pydantic names the branch of the union
            where += f".{part}" if where else part
        elif part == "op" and index == len(location) - 1:
            where += ".op"
    return f"{where or 'the object'}: {found}, {message}"


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _FOUND_LENGTH else text[: _FOUND_LENGTH - 3] + "..."
