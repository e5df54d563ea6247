"""`fpswitch costs`: the cost tables, their rows with a source each, and what is wrong with one."""

import sys
import textwrap
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import emit, json_option, table

if TYPE_CHECKING:
    from sim.costs.rows import CostRow, CostTable

WIDTH = 110
DRAWN = (
    "cycles of clock core or tsc; drawn from a triangle, or uniformly for assumed rows, unless the grade says otherwise"
)


@click.group()
def costs() -> None:
    """Show and check what operations cost, and where each number comes from.

    \b
    Examples:
      fpswitch costs list
      fpswitch costs show zen4
    """


@costs.command("list")
@json_option
def list_tables(as_json: bool) -> None:
    """List the shipped tables, with the number of rows of each grade.

    Grades: measured on that CPU; published by others for it; derived from other rows (or from those of another CPU);
    assumed, if nobody has published it. Rows that are evidence and never priced are counted as well.

    With --json: {"tables": [{"name", "title", "derived_from", "grades": {GRADE: N}}]}.

    \b
    Example:
      fpswitch costs list
    """
    from sim.costs.check import GRADES
    from sim.costs.table import load, names

    rows, documents = [], []
    for name in names():
        costs = load(name)
        grades = Counter(row.grade for row in costs.rows.values())
        rows.append((name, costs.derived_from or "-", *(grades[grade] for grade in GRADES), costs.title))
        documents.append(
            {
                "name": name,
                "title": costs.title,
                "derived_from": costs.derived_from or None,
                "grades": {grade: grades[grade] for grade in GRADES},
            }
        )
    emit({"tables": documents}, table(rows, ("table", "derived from", *GRADES, "CPU")), as_json)


@costs.command(short_help="Show every row of a table, with its source.")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show every row of the table NAME (shipped, or a file that ends in .toml).

    A row is a term of a price: fpswitch adds the base of an instruction, a term for each component that it wrote,
    loaded, initialised or skipped, and the rows at @L2 or @memory if the buffer is there. Rows with the term "total",
    "reference" or "difference" are evidence and never priced. The number in the last column refers to the source and
    the conditions below the table.

    With --json: {"name", "rows": [{"id", "operation", "term", "component", "level", "requested", "value", "low",
    "high", "distribution", "clock", "grade", "source", "conditions", "date", "origin", "table", "factor"}]}. Rows
    with the same "factor" share their uncertainty; "table" is where the row was written.

    \b
    Examples:
      fpswitch costs show zen4
      fpswitch costs show my-machine.toml --json
    """
    from sim.costs.table import load

    costs = load(name, checked=False)
    document = {"name": costs.name, "rows": [{"id": row.id, **asdict(row)} for row in costs.rows.values()]}
    emit(document, _shown(costs), as_json)


@costs.command(short_help="List what is wrong with a table.")
@click.argument("file")
@json_option
def check(file: str, as_json: bool) -> None:
    """Check the table FILE (or a shipped one) and list its errors; exit status 1 if there are any.

    A row needs a source, a value inside its range, an operation and a component that exist, and a grade that its
    conditions do not contradict.

    With --json: {"name", "rows", "problems"}.

    \b
    Example:
      fpswitch costs check my-machine.toml
    """
    from sim.costs.check import check as find_problems
    from sim.costs.table import load

    costs = load(file, checked=False)
    problems = find_problems(costs)
    text = "\n".join(problems) or f"{costs.name}: {len(costs.rows)} rows, nothing found"
    emit({"name": costs.name, "rows": len(costs.rows), "problems": problems}, text, as_json)
    sys.exit(1 if problems else 0)


@costs.command(short_help="Show the rows in which two tables differ.")
@click.argument("a")
@click.argument("b")
@json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """Show the rows in which the tables A and B differ in value, range, clock or grade, or that only one has.

    With --json: {"a", "b", "rows": [{"id", "a", "b"}]}, where a row is {"value", "low", "high", "clock", "grade"} or
    null.

    \b
    Example:
      fpswitch costs diff zen4 zen5
    """
    from sim.costs.table import load

    left, right = load(a, checked=False), load(b, checked=False)
    ids = [*left.rows, *(each for each in right.rows if each not in left.rows)]
    pairs = [(each, _numbers(left.rows.get(each)), _numbers(right.rows.get(each))) for each in ids]
    changed = [pair for pair in pairs if pair[1] != pair[2]]
    rows = [(each, _briefly(left.rows.get(each)), _briefly(right.rows.get(each))) for each, _, _ in changed]
    text = table(rows, ("row", left.name, right.name)) if rows else f"{left.name} and {right.name}: no difference"
    emit(
        {"a": left.name, "b": right.name, "rows": [{"id": each, "a": x, "b": y} for each, x, y in changed]},
        text,
        as_json,
    )


def _numbers(row: "CostRow | None") -> dict[str, Any] | None:
    return None if row is None else {key: getattr(row, key) for key in ("value", "low", "high", "clock", "grade")}


def _briefly(row: "CostRow | None") -> str:
    return "-" if row is None else f"{row.value:g} [{row.low:g}, {row.high:g}] {row.clock} {row.grade}"


def _shown(costs: "CostTable") -> str:
    notes: dict[str, int] = {}
    from sim.costs.rows import usual_distribution as usual

    derived = any(row.table != costs.name for row in costs.rows.values())
    rows = []
    for row in costs.rows.values():
        note = notes.setdefault(f"{row.source}. {row.conditions}", len(notes) + 1)
        grade = row.grade if row.distribution == usual(row.grade) else f"{row.grade}, {row.distribution}"
        line = (_shortened(row.id), f"{row.value:g}", f"{row.low:g} - {row.high:g}", row.clock, grade, str(note))
        rows.append((*line, row.table) if derived else line)
    headers = ("row", " value", "        range", "clock", "grade", "note", *(("written in",) if derived else ()))
    head = f"{costs.name}: {costs.title}" + (f", derived from {costs.derived_from}" if costs.derived_from else "")
    below = (
        textwrap.fill(f"{number}. {text}", WIDTH, subsequent_indent=" " * len(f"{number}. "), break_long_words=False)
        for text, number in notes.items()
    )
    return "\n\n".join((head, table(rows, headers), "\n".join(below), DRAWN))


def _shortened(text: str) -> str:
    """AVX-512's three components, the longest names, as one word."""
    return text.replace("OPMASK ZMM_Hi256 Hi16_ZMM", "AVX512")
