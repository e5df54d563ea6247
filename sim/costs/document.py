"""Cost tables as a result directory keeps them (costs.json): complete, with what they have from other tables."""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from sim.bounded import content
from sim.costs.check import GRADES, number_defects
from sim.costs.rows import RATIO, CostRow, CostTable
from sim.errors import InputError, unknown

if TYPE_CHECKING:
    from pydantic import TypeAdapter


COLUMNS: Final = tuple(field.name for field in fields(CostRow))


def document(table: CostTable) -> dict[str, Any]:
    """A cost table as a JSON document; :func:`from_document` gives it back."""
    return {
        "name": table.name,
        "title": table.title,
        "derived_from": table.derived_from,
        "rows": [_row(row) for row in table.rows.values()],
    }


def copied(document: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of what :func:`document` gives, of which nothing is shared; :mod:`copy` takes a hundred times as long."""
    return {**document, "rows": [{**row, "origin": [*row["origin"]]} for row in document["rows"]]}


def _row(row: CostRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS} | {"origin": list(row.origin)}


def from_document(found: Any, where: str) -> CostTable:
    """The table in a document; :class:`InputError` with ``where`` for one that cannot be priced with.

    What is asked of a source is not checked again: it may be more today than when the table was used.
    """
    keys = ("name", "title", "derived_from")
    if not isinstance(found, Mapping) or not all(isinstance(found.get(key), str) for key in keys):
        raise InputError(f"{where}: not a cost table (allowed: {', '.join(keys)} as texts, and rows)")
    rows: dict[str, CostRow] = {}
    for number, row in enumerate(_rows(found.get("rows"), where), 1):
        at = f"{where}: row {number} ({row.id[:60]!r})"
        if row.id in rows:
            raise InputError(f"{at} is there twice")
        if defect := next(number_defects(row), ""):
            raise InputError(f"{at}: {defect}")
        if row.grade not in GRADES:
            raise InputError(f"{at}: {unknown('grade', row.grade[:60], GRADES)}")
        rows[row.id] = row
    if RATIO not in rows:
        raise InputError(f"{where}: no row {RATIO!r}, so core cycles cannot be converted")
    for row in rows.values():
        if row.factor not in rows:
            raise InputError(
                f"{where}: row {row.id[:60]!r} has the factor {row.factor[:60]!r}, which is not one of its rows"
            )
    return CostTable(found["name"], found["title"], found["derived_from"], rows)


def _rows(found: Any, where: str) -> tuple[CostRow, ...]:
    from pydantic import ValidationError  # a tenth of a second, which --help need not wait for

    try:
        return _parsed(json.dumps(found))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        number, *keys = first["loc"] or ("",)
        at = f"row {number + 1}" if isinstance(number, int) else "rows"
        raise InputError(f"{where}: {', '.join([at, *map(str, keys[:1])])}: {first['msg']}") from error


@lru_cache(maxsize=32)  # each statement about results asks for their tables
def _parsed(rows: str) -> tuple[CostRow, ...]:
    return _adapter().validate_json(rows)


@cache
def _adapter() -> "TypeAdapter[tuple[CostRow, ...]]":
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[CostRow, ...])


def read(file: str, name: str) -> CostTable:
    """The table called ``name`` of a costs.json; :class:`InputError` if there is none."""
    try:
        found = json.loads(content(file))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if not isinstance(found, Mapping) or name not in found:
        raise unknown(f"cost table of {file}", name, map(str, found) if isinstance(found, Mapping) else ())
    return from_document(found[name], f"{file}: {name}")
