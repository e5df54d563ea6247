"""Writing a scenario as a file that :func:`sim.scenario.reading.read` reads as the same scenario again."""

from collections.abc import Mapping
from typing import Any

import tomlkit
from tomlkit.items import Integer, Item, Trivia

from sim.scenario.distribution import is_distribution
from sim.scenario.host_schema import is_mask
from sim.scenario.schema import Scenario


def toml_text(scenario: Scenario) -> str:
    """The scenario with all its defaults, as TOML; empty tables are left out."""
    return written_text(scenario.written())


def written_text(values: Mapping[str, Any]) -> str:
    """The same for a scenario as a manifest keeps it."""
    document = tomlkit.document()
    _fill(document, values)
    return tomlkit.dumps(document)


def _fill(table: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():  # tomlkit puts plain values before tables, as TOML needs it
        if not _is_table(value):
            table.add(key, _plain(key, value))
        elif value:
            inner = tomlkit.table(is_super_table=all(_is_table(each) for each in value.values()))
            _fill(inner, value)
            table.add(key, inner)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and not is_distribution(value)


def _plain(key: str, value: Any) -> Item:
    if isinstance(value, Mapping):
        inline = tomlkit.inline_table()
        inline.update(value)
        return inline
    if isinstance(value, list) and is_mask(key):
        array = tomlkit.array()
        array.extend(_plain(key, each) for each in value)
        return array
    if isinstance(value, int) and not isinstance(value, bool) and is_mask(key):
        return Integer(value, Trivia(), f"{value:#x}")
    item: Item = tomlkit.item(value)
    return item
