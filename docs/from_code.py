"""A Sphinx extension: pages that are made of the code's own data when the site is built."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import click

from sim.cli import COMMANDS, cli
from sim.costs.rows import CostRow
from sim.costs.table import load
from sim.xsave.profiles import names, profile

REFERENCE = Path(__file__).parent / "reference"
WIDTH = 72
"""Columns of a command's help, which a page of the site and a man page have."""
_SECTIONS: Final = {
    "Usage": "Synopsis",
    "Example": "Examples",
    "Examples": "Examples",
    "Commands": "Commands",
    "Options": "Options",
}
"""What click calls a part of a command's help, and what it is called in a man page (man-pages(7))."""
_BEGINS: Final = re.compile(rf"^ *({'|'.join(_SECTIONS)}):\s", re.MULTILINE)
HEAD = """\
# Cost rows and their sources

All rows of all shipped tables, as `fpswitch costs show CPU` has them. Cycles are those of the row's clock: of the
core, or of the TSC. "Inherited" rows were written for the CPU that is named, and have a wider range here.
"""


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _line(row: CostRow) -> str:
    cells = (f"`{row.id}`", f"{row.value:g}", f"{row.low:g} to {row.high:g}", row.clock, row.grade, row.source)
    return "| " + " | ".join(map(_cell, cells)) + " |\n"


def costs() -> str:
    """The page of all cost tables, as Markdown."""
    parts = [HEAD]
    for name in names():
        table = load(name)
        parts.append(f"\n## {name}\n\n{_cell(profile(name).title)}\n\n")
        parts.append("| row | value | range | clock | grade | source |\n|---|---|---|---|---|---|\n")
        parts += map(_line, table.rows.values())
    return "".join(parts)


def _helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    with click.Context(
        command, info_name=name, parent=parent, max_content_width=WIDTH, terminal_width=WIDTH
    ) as context:
        yield context.command_path, command.get_help(context).rstrip()
        if isinstance(command, click.Group):
            for each in command.list_commands(context):
                found = command.get_command(context, each)
                assert found is not None
                yield from _helps(found, each, context)


def _sections(text: str, level: int) -> str:
    """A command's help as Markdown, with the sections of a man page; what follows the usage is the description."""
    parts: list[str] = []
    _, *found = _BEGINS.split(text)
    for name, body in zip(found[::2], found[1::2], strict=True):
        if name == "Usage":
            usage, _, description = body.partition("\n\n")
            sections = [("Synopsis", usage), ("Description", description)]
        else:
            sections = [(_SECTIONS[name], body)]
        for title, content in sections:
            if shown := dedent(content.strip("\n")).rstrip():
                parts.append(f"{'#' * level} {title}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


def commands() -> dict[str, str]:
    """A page for each command, by its name: what --help prints of it and of the commands below it."""
    pages = {}
    for name in COMMANDS:
        with click.Context(cli, info_name="fpswitch") as context:
            found = cli.get_command(context, name)
            assert found is not None
            helps = list(_helps(found, name, context))
        (_, first), *below = helps
        parts = [f"## {path}\n\n{_sections(text, 3)}" for path, text in below]
        pages[f"fpswitch-{name}"] = "\n".join([f"# fpswitch {name}\n", _sections(first, 2), *parts])
    return pages


def _write(_app: object) -> None:
    (REFERENCE / "costs.md").write_text(costs(), encoding="utf-8")
    folder = REFERENCE / "commands"
    folder.mkdir(exist_ok=True)
    for name, page in commands().items():
        (folder / f"{name}.md").write_text(page, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
