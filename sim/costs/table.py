"""Cost tables: one TOML file per CPU, one row per cost, and for each row where its number comes from.

A row is one term of the composition in :mod:`sim.costs.price`.  Beside those there are rows that are never priced:
``total``, a whole instruction as it was measured, against which the composition is tested; ``reference``, a number
as somebody published or measured it, from which other rows are derived; and ``difference``, what something costs more
with some components in use than with none, which may be negative.

A table may be derived from another (``derived_from``): it has the rows of that one, except those of the same key that
it has itself.  An inherited row says where it was written; what was measured or published for the other CPU is no more
than "derived" for this one, and its range is widened by ``inherited_spread``; an assumption stays what it is.
Measured rows that are not priced stay with the CPU on which they were measured.  ``stand_ins`` name an instruction
whose rows are used for another that nobody has measured; those rows, too, say so.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from sim.bounded import MOST_TOML, content, toml
from sim.costs.check import ALL, check, known_terms
from sim.costs.document import read
from sim.costs.rows import STRICT, UNPRICED, CostRow, CostTable, Number, usual_distribution
from sim.errors import InputError, unknown
from sim.kernel.datafile import shortened, wrong
from sim.kinds import Kind, wanted

MOST_TEXT: Final = 4000
"""The most characters of a text with its {names} replaced; the longest shipped one has 400."""
MOST_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class _RawRow:
    """A row as it is written in the file."""

    __pydantic_config__ = STRICT

    operation: str
    term: str
    value: Number
    low: Number
    high: Number
    grade: str
    source: str
    conditions: str
    component: str = ""
    level: str = ""
    requested: str = ""
    clock: str = "core"
    distribution: str = ""
    date: str = ""
    origin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _RawTable:
    """A file as it is written."""

    __pydantic_config__ = STRICT

    title: str
    date: str
    rows: tuple[_RawRow, ...]
    derived_from: str = ""
    inherited_spread: float = 0.0
    inherited_because: str = ""
    stand_ins: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def names() -> list[str]:
    """The tables that are shipped."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def load(name: str | Path, *, checked: bool = True) -> CostTable:
    """The shipped table ``name``, or the one in the file ``name`` (anything that ends in .toml).

    FILE.json#NAME is the table called NAME of a result directory's costs.json, complete as it was.

    Raises :class:`InputError` for a table that is not there, a file that is not TOML, an unknown or missing key, a
    value of the wrong type; and, unless ``checked`` is False, for the first thing that :func:`sim.costs.check.check`
    finds.
    """
    kept, name_there = _in_document(str(name))
    if kept:
        return replace(read(kept, name_there), name=shown_name(name_there))
    with wanted(name, Kind.COSTS):
        table = _load(str(name))
    if checked and (problems := check(table)):
        more = f" (and {len(problems) - 1} more: fpswitch costs check)" if len(problems) > 1 else ""
        raise InputError(f"cost table {name}: {problems[0]}{more}")
    return table


def load_for(cpu: str, name: str | None = None) -> CostTable:
    """The table called ``name``, with whose costs a CPU is priced, or that CPU's own.

    Raises :class:`InputError` for a CPU that has none, and for all that :func:`load` refuses.
    """
    if name is None and cpu not in names():
        raise InputError(
            f"{cpu} has no cost table of its own; allowed: --costs with another CPU's ({', '.join(names())}) or with a "
            "file, such as fpswitch calibrate writes"
        )
    return current(name or cpu)


def current(name: str) -> CostTable:
    """:func:`load`, which reads a user's file again only when it has changed."""
    file = _in_document(name)[0] or name
    if file == name and not name.endswith(".toml"):
        return _loaded(name, None)
    try:
        stat = Path(file).stat()
    except (OSError, ValueError) as error:  # the latter for a null character
        raise InputError(f"cost table {name}: there is no such file (allowed: a shipped table, or a file)") from error
    return _loaded(name, (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _loaded(name: str, stamp: tuple[int, int] | None) -> CostTable:
    return load(name)


def _in_document(name: str) -> tuple[str, str]:
    """The file and the name of a table that is given as FILE.json#NAME, or nothing."""
    file, mark, name_there = name.partition(".json#")
    return (f"{file}.json", name_there) if mark else ("", "")


def shown_name(name: str) -> str:
    """The name of the table ``name``: a user's table with the name of a shipped one is shown with its file."""
    name = _in_document(name)[1] or name
    if not name.endswith(".toml"):
        return name
    stem = Path(name).stem
    return f"{stem} ({Path(name).name})" if stem in names() else stem


def _folder() -> Path:
    return Path(str(files("sim.costs") / "tables"))


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A file and all that it is derived from, before stand-ins and factors."""

    raw: _RawTable
    rows: dict[str, CostRow]
    stand_ins: dict[str, str]
    duplicates: tuple[str, ...]


def _load(name: str) -> CostTable:
    resolved = _resolve(name, ()) if name.endswith(".toml") else _shipped(name)
    rows = dict(resolved.rows)
    for missing, measured in resolved.stand_ins.items():
        for each in (missing, measured):
            if not known_terms(each):
                raise InputError(f"cost table {name}: stand_ins: {unknown('operation', each, ALL)}")
        for row in resolved.rows.values():
            if row.operation == measured and row.priced:
                stand_in = _stand_in(row, missing)
                rows.setdefault(stand_in.id, stand_in)
    rows = {key: replace(row, factor=_factor(row, rows)) for key, row in rows.items()}
    # A root that was not inherited gives its name to the first row that it has here.
    named: dict[str, str] = {}
    for key, row in rows.items():
        named.setdefault(row.factor, row.factor if row.factor in rows else key)
    rows = {key: replace(row, factor=named[row.factor]) for key, row in rows.items()}
    return CostTable(shown_name(name), resolved.raw.title, resolved.raw.derived_from, rows, resolved.duplicates)


@lru_cache(maxsize=64)
def _shipped(name: str) -> _Resolved:
    """A file that is shipped, read once: most are derived from a few."""
    return _resolve(name, ())


def _resolve(name: str, children: tuple[str, ...]) -> _Resolved:
    if name in children:
        raise InputError(f"cost table {children[0]}: derived from itself ({' from '.join((*children, name))})")
    raw = _read(name)
    rows: dict[str, CostRow] = {}
    stand_ins: dict[str, str] = {}
    if not 0 <= raw.inherited_spread <= 1:
        raise InputError(
            f"cost table {name}: inherited_spread: found {raw.inherited_spread}; allowed: 0 to 1, where 0.3 is 30 %"
        )
    if raw.derived_from:
        beside = _beside(name, raw.derived_from)
        parent = _resolve(beside, (*children, name)) if beside.endswith(".toml") else _shipped(beside)
        kept = (row for row in parent.rows.values() if row.grade != "measured" or row.term not in UNPRICED)
        rows.update((row.id, _inherited(row, raw, _factor(row, parent.rows))) for row in kept)
        stand_ins.update(parent.stand_ins)
    stand_ins.update(raw.stand_ins)
    duplicates: list[str] = []
    own: set[str] = set()
    for number, each in enumerate(raw.rows, 1):
        row = _complete(each, raw, _own_name(name), f"cost table {name}: row {number}")
        if row.id in own:
            duplicates.append(row.id)
        own.add(row.id)
        rows[row.id] = row
    return _Resolved(raw, rows, stand_ins, tuple(duplicates))


def _beside(name: str, parent: str) -> str:
    """The table from which ``name`` is derived: a shipped one, or a file whose path is relative to that of ``name``."""
    if not parent.endswith(".toml"):
        if parent not in names():
            raise InputError(f"cost table {name}: derived_from: {unknown('cost table', parent, names())}")
        return parent
    file = Path(name).parent / parent if name.endswith(".toml") else _folder() / parent
    if not file.is_file():
        raise InputError(f"cost table {name}: derived_from: {shortened(parent)}: there is no such file beside it")
    return str(file)


def _own_name(name: str) -> str:
    return Path(name).stem if name.endswith(".toml") else name


def _complete(raw: _RawRow, table: _RawTable, name: str, where: str) -> CostRow:
    """The row with its texts filled in and what it leaves to the table and the house."""
    given = {each.name: getattr(raw, each.name) for each in fields(raw)}
    for key in ("component", "requested", "source", "conditions"):
        given[key] = _expand(given[key], table.texts, f"{where}, {key}")
    given["date"] = raw.date or table.date
    given["distribution"] = raw.distribution or usual_distribution(raw.grade)
    return CostRow(**given, table=name, factor="")


def _expand(text: str, texts: Mapping[str, str], where: str) -> str:
    """Replaces ``{name}`` by the entry of ``texts``."""

    def entry(match: re.Match[str]) -> str:
        if match[1] not in texts:
            raise InputError(f"{where}: {unknown('text', match[1], texts)}")
        return texts[match[1]]

    expanded = re.sub(r"\{([^{}]*)\}", entry, text) if len(text) <= MOST_TEXT else text
    if len(expanded) > MOST_TEXT:
        raise InputError(f"{where}: {len(expanded)} characters (allowed: up to {MOST_TEXT})")
    return expanded


def _inherited(row: CostRow, child: _RawTable, factor: str) -> CostRow:
    """The row in a table for another CPU; rows that were one factor stay one."""
    if row.term == "reference":
        return row  # what somebody published stays what it is
    if row.grade == "assumed":
        return replace(row, origin=(f"{row.table}:{row.id}",), factor=factor)
    spread = child.inherited_spread
    low, high = row.low, row.high
    if spread:
        low, high = min(low, round(row.value * (1 - spread), 2)), max(high, round(row.value * (1 + spread), 2))
    return replace(
        row,
        low=low,
        high=high,
        grade="derived",
        conditions=f"{child.inherited_because}: {row.conditions}" if child.inherited_because else row.conditions,
        origin=(f"{row.table}:{row.id}",),
        factor=factor,
    )


def _stand_in(row: CostRow, operation: str) -> CostRow:
    """The row for an instruction that nobody has measured, for which ``row`` is used."""
    return replace(
        row,
        operation=operation,
        grade="derived" if row.grade in ("measured", "published") else row.grade,
        conditions=f"{row.operation} stands in for {operation}: {row.conditions}",
        origin=(row.id,),
        factor="",
    )


def _factor(row: CostRow, rows: Mapping[str, CostRow]) -> str:
    """The row at the root of a chain of rows that have one origin each; a row with several is a factor by itself."""
    seen = [row.id]
    while not row.factor and len(row.origin) == 1 and row.origin[0] in rows and row.origin[0] not in seen:
        row = rows[row.origin[0]]
        seen.append(row.id)
    return row.factor or seen[-1]


def _read(name: str) -> _RawTable:
    from pydantic import TypeAdapter, ValidationError  # a tenth of a second, which --help need not wait for

    if name.endswith(".toml"):
        source = Path(name)
    elif name in names():
        source = _folder() / f"{name}.toml"
    elif Path(name).exists():
        raise InputError(f"cost table {name}: the name of a file must end in .toml")
    else:
        raise unknown("cost table", name, names())
    try:
        data = toml(content(source, MOST_TOML))
        # By way of JSON because only there does pydantic's strict mode take a list for a tuple.
        return TypeAdapter(_RawTable).validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        # A key that is wrong makes another missing: the wrong one is the one to name.
        first = min(error.errors(), key=lambda each: each["type"] != "unexpected_keyword_argument")
        raise InputError(f"cost table {name}: {_explain(dict(first), data)}") from error
    except (OSError, ValueError) as error:  # not there, not UTF-8, not TOML
        raise InputError(f"cost table {name}: {getattr(error, 'strerror', None) or error}") from error


def _explain(error: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """What pydantic found, with the row that has it and the nearest key that there is."""
    place = list(error["loc"])
    in_row = len(place) > 1 and place[0] == "rows"
    where = ""
    if in_row:
        row = data["rows"][place[1]]
        key = (
            " ".join(str(row[k]) for k in ("operation", "term", "component") if k in row) if type(row) is dict else row
        )
        key = key if isinstance(key, str) and len(key) <= MOST_NAME else shortened(key)
        where = f"row {place[1] + 1} ({key}): "
    last = str(place[2 if in_row and len(place) > 2 else -1])
    last = last if len(last) <= MOST_NAME else shortened(last)
    if error["type"] == "unexpected_keyword_argument":
        allowed: Iterable[str] = (each.name for each in fields(_RawRow if in_row else _RawTable))
        return f"{where}{unknown('key', last, allowed)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{where}key {last!r} is missing"
    # A number may be an integer or not; pydantic says of which of the two it was told last, or first.
    number = "int" in error["type"] or "float" in error["type"]
    return f"{where}{last}: {wrong({**error, 'type': 'float_type'} if number else error)}"
