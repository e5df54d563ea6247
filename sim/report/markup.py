"""HTML from elements: text is escaped, always, unless it is markup already."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

VOID: Final = ("meta",)
"""Elements without an end."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


class Number(NamedTuple):
    """A cell that is sorted by its value and shows a text; values that are not numbers come last."""

    value: float
    text: str


Cell = str | Number


def element(tag: str, *content: str, **attributes: str) -> Markup:
    """An element; a trailing underscore of an attribute's name is dropped ("class_"), others become hyphens."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    if tag in VOID:
        return Markup(f"<{tag}{given}>")
    return Markup(f"<{tag}{given}>{joined(content)}</{tag}>")


def joined(content: Iterable[str], between: str = "") -> Markup:
    """Markup as it is, and any other text escaped."""
    return Markup(between.join(each if isinstance(each, Markup) else html.escape(each) for each in content))


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str = "") -> Markup:
    """A table that a click on a heading sorts."""
    heads = element("tr", *(element("th", each, scope="col") for each in head))
    lines = [element("tr", *map(_cell, row)) for row in rows]
    parts = [element("caption", caption)] if caption else []
    return element("table", *parts, element("thead", heads), element("tbody", *lines), class_="sortable")


def _cell(cell: Cell) -> Markup:
    if isinstance(cell, Number):
        value = repr(cell.value) if math.isfinite(cell.value) else ""
        return element("td", cell.text, class_="number", data_value=value)
    return element("td", cell)


def details(summary: str, *content: str) -> Markup:
    """Content that is folded until the reader opens it."""
    return element("details", element("summary", summary), *content)
