"""No file of a room imports, in whatever way, a file that imports it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SIM = Path(__file__).parent.parent / "sim"
OPEN = ("analysis", "calibrate", "cli", "costs", "report", "results", "scenario", "trace", "verification", "xsave")
"""Rooms without a circle, also of imports for types and of those inside functions."""


def imported(path: Path) -> Iterator[str]:
    """All modules that a file may import: at its top, for types, and inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)


def circle(room: str) -> list[str]:
    """One circle among the files of a room, or nothing."""
    files = {".".join(path.relative_to(SIM.parent).with_suffix("").parts): path for path in (SIM / room).rglob("*.py")}
    graph = {name: files.keys() & set(imported(path)) - {name} for name, path in files.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("room", OPEN)
def test_a_room_has_no_circle_of_imports(room):
    assert circle(room) == []
