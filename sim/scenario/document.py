"""The JSON Schema and the manual of scenario files, made of the model.

``python -m sim.scenario.document`` writes scenario.schema.json beside this module, and what follows the marker in
docs/reference/scenario-keys.md.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from sim.scenario.distribution import Intervals, Times
from sim.scenario.host_schema import Host, KernelSettings, Mask
from sim.scenario.run_schema import Run
from sim.scenario.schema import Exit, FpuUse, Group, Guest, Interrupt, Lock, Scenario, Thread, Waits
from sim.scenario.units import Flow, Percent, Rate, Size, Time

SCHEMA_FILE: Final = Path(__file__).with_name("scenario.schema.json")
PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "scenario-keys.md"
MARKER: Final = "<!-- what follows is made by: make docs -->\n"

_QUANTITIES: Final = {
    "Time": Time, "Rate": Rate, "Size": Size, "Flow": Flow, "Percent": Percent, "Duration": Times,
    "Interval": Intervals, "Mask": Mask,
}  # fmt: skip
"""What the schema has once, under $defs, and the manual by a word."""

_TABLES: Final[Mapping[str, type[BaseModel]]] = {
    "The file": Scenario,
    "[run]": Run,
    "[host]": Host,
    "[kernel]": KernelSettings,
    "[guests.NAME]": Guest,
    "[guests.NAME.exits.NAME]": Exit,
    "[guests.NAME.lock]": Lock,
    "[guests.NAME.waits] and [threads.NAME.waits]": Waits,
    "[guests.NAME.fpu] and [threads.NAME.fpu]": FpuUse,
    "[threads.NAME]": Thread,
    "[groups.NAME]": Group,
    "[interrupts.NAME]": Interrupt,
}
"""The tables of a scenario file, in the order of the manual."""

_EXTENDS: Final = {
    "type": "string",
    "description": "another scenario file, relative to this one, from which this one starts: tables are merged, "
    "everything else is replaced",
}

Schema = dict[str, Any]


def schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a scenario file.

    A file with ``extends`` may leave out what its base has, and one with a sweep what that sets, so that keys are
    required only without them.
    """
    full = _tidy(Scenario.model_json_schema())
    definitions = full.pop("$defs") | {name: TypeAdapter(kind).json_schema() for name, kind in _QUANTITIES.items()}
    required = _required(full, definitions)
    for each in (full, *(definitions[name] for name in definitions if name not in _QUANTITIES)):
        each.pop("required", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fpswitch scenario",
        **{key: value for key, value in full.items() if key not in ("title", "properties")},
        "properties": {"extends": _EXTENDS, **full["properties"]},
        "if": {"anyOf": [{"required": ["extends"]}, {"required": ["sweep"]}]},
        "else": required,
        "$defs": definitions,
    }


def _tidy(node: Any) -> Any:
    """Without what pydantic adds and TOML has not: titles and null; quantities by reference; prose without markup."""
    if isinstance(node, list):
        return [_tidy(each) for each in node]
    if not isinstance(node, dict):
        return node
    if {"type": "null"} in node.get("anyOf", ()):
        node = node | {"anyOf": [each for each in node["anyOf"] if each != {"type": "null"}]}
    for name, kind in _QUANTITIES.items():
        plain = TypeAdapter(kind).json_schema()
        alone = node["anyOf"][0] if len(node.get("anyOf", ())) == 1 else {}
        if all((node | alone).get(key) == value for key, value in plain.items()):
            rest = {key: value for key, value in node.items() if key not in (*plain, "anyOf")}
            if isinstance(rest.get("default"), float):
                rest["default"] = TypeAdapter(kind).dump_python(rest["default"], mode="json")
            return _tidy({"$ref": f"#/$defs/{name}", **rest})
    tidy = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if tidy.get("default", "") is None:
        del tidy["default"]
    options = tidy.get("anyOf", [])
    if options and all("enum" in each for each in options):
        tidy = {"enum": [value for each in options for value in each["enum"]]} | tidy
        del tidy["anyOf"]
    elif len(options) == 1:
        tidy = tidy.pop("anyOf")[0] | tidy
    if isinstance(tidy.get("description"), str):
        tidy["description"] = re.sub(r":\w+:`~?([^`]*)`", r"\1", tidy["description"])
    return tidy


def _required(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """A schema that says only which keys are required, in all the tables below this one."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return {} if name in _QUANTITIES else _required(definitions[name], definitions)
    says: Schema = {"required": node["required"]} if "required" in node else {}
    inner = {key: _required(each, definitions) for key, each in node.get("properties", {}).items()}
    if inner := {key: each for key, each in inner.items() if each}:
        says["properties"] = inner
    for key, each in node.get("patternProperties", {}).items():
        if below := _required(each, definitions):
            says.setdefault("patternProperties", {})[key] = below
    return says


def page() -> str:
    """The part of the manual that lists every key."""
    whole = schema()
    return "\n".join(line for title, kind in _TABLES.items() for line in _section(title, kind, whole))


def _section(title: str, kind: type[BaseModel], whole: Schema) -> Iterator[str]:
    here = whole if kind is Scenario else whole["$defs"][kind.__name__]
    yield f"## {title if kind is Scenario else ', '.join(f'`{each}`' for each in title.split(' and '))}"
    yield ""
    if kind is not Scenario:
        yield from textwrap.wrap(here["description"], 118)
        yield ""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, each in here["properties"].items():
        field = kind.model_fields.get(key)
        default = "required" if field is not None and field.is_required() else _default(each)
        yield f"| `{key}` | {_value(each, whole)} | {default or '–'} | {each.get('description', '')} |"
    yield ""


def _default(node: Schema) -> str:
    default = node.get("default", "")
    return "" if default in ("", []) or isinstance(default, dict) else f"`{json.dumps(default)}`"


def _value(node: Schema, whole: Schema) -> str:
    """The kind of value, in a word or two."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return name.lower() if name in _QUANTITIES else "table"
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_value(each, whole) for each in node["anyOf"]))
    if "enum" in node or "const" in node:
        return ", ".join(f"`{json.dumps(each)}`" for each in node.get("enum", [node.get("const")]))
    if node["type"] == "array":
        items = node["items"]
        if items.get("type") == "array":
            return f"list of {_value(items, whole).replace('list', 'lists', 1)}"
        if "enum" in items:
            return "list of components" if "SSE" in items["enum"] else f"list of {_value(items, whole)}"
        return f"list of {_value(items, whole)}s"
    if node["type"] == "object":
        return "tables" if "patternProperties" in node else "table"
    word = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}[node["type"]]
    return f"{word}, {node['minimum']:g} to {node['maximum']:g}" if "maximum" in node else word


def main() -> None:
    """Writes both files."""
    SCHEMA_FILE.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
    prose = PAGE.read_text(encoding="utf-8").partition(MARKER)[0]
    PAGE.write_text(prose + MARKER + "\n" + page(), encoding="utf-8")


if __name__ == "__main__":
    main()
