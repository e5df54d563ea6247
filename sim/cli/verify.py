"""``fpswitch verify``: the model against what was recorded elsewhere."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.anchors import anchors
from sim.cli.common import emit, json_option, table
from sim.cli.statistics import statistics
from sim.cli.verify_fuzz import fuzz
from sim.cli.verify_kill import kill
from sim.cli.verify_record import record
from sim.cli.verify_theory import theory

if TYPE_CHECKING:
    from sim.verification.vectors.drive import FileResult

SHOWN = 20


@click.group()
def verify() -> None:
    """Check the model against what others recorded and published.

    \b
    Examples:
      fpswitch verify vectors tests/data/vectors/*.jsonl
      fpswitch verify anchors
      fpswitch verify statistics
      fpswitch verify theory
      fpswitch verify kill
      fpswitch verify fuzz
      fpswitch verify record mine.jsonl
    """


verify.add_command(anchors)
verify.add_command(statistics)
verify.add_command(theory)
verify.add_command(kill)
verify.add_command(fuzz)
verify.add_command(record)


@verify.command(short_help="Compare the processor model with recorded instructions.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE.jsonl ...")
@click.option("--all", "show_all", is_flag=True, help=f"Print every departure, not only the first {SHOWN}.")
@click.option("--free", metavar="CPU", help="Follow this CPU's profile, and not the recorded XINUSE.")
@json_option
def vectors(files: tuple[Path, ...], show_all: bool, free: str | None, as_json: bool) -> None:
    """Run recorded XSAVE instructions and compare all that the recordings guarantee.

    A departure names a vector, a step (from 0) and a field; "expected" is the recorded value, "got" the model's. A
    difference that the architecture permits is not a departure. Fields of disputed steps are not compared.

    Without --free, the model's XINUSE is set to the recorded one after each step. With it, XINUSE and what a save
    skips are the model's own; a difference from the record in which a processor may choose is counted as left open, not
    as a departure.

    A file has one JSON object per line and may be gzipped; - is standard input. Exit status 1 if anything departs.

    With --json: {"files": [{"file", "vectors", "steps", "disputed" (steps), "departures": [{"id", "step", "field",
    "expected", "got"}], "left_open" (likewise)}], "vectors", "disputed", "departures", "left_open"}; the last four are
    totals.

    \b
    Examples:
      fpswitch verify vectors tests/data/vectors/*.jsonl tests/data/vectors/ring0/*.jsonl
      fpswitch verify vectors --free zen4 tests/data/vectors/ring0/*.jsonl
      zcat recorded.jsonl.gz | fpswitch verify vectors - --json
    """
    from sim.verification.vectors.drive import (
        verify as run_file,  # here, since the schema's library takes long to import
    )
    from sim.xsave.profiles import profile

    freedoms = profile(free).freedoms if free is not None else None
    results = [run_file(path, freedoms) for path in files]
    departures = sum(len(result.departures) for result in results)
    document = {
        "files": [_as_document(result) for result in results],
        "vectors": sum(result.vectors for result in results),
        "disputed": sum(result.disputed for result in results),
        "departures": departures,
        "left_open": sum(len(result.left_open) for result in results),
    }
    emit(document, _as_text(results, free is not None, None if show_all else SHOWN), as_json)
    sys.exit(1 if departures else 0)


def _as_document(result: "FileResult") -> dict[str, Any]:
    return {
        "file": str(result.path),
        "vectors": result.vectors,
        "steps": result.steps,
        "disputed": result.disputed,
        "departures": [departure._asdict() for departure in result.departures],
        "left_open": [difference._asdict() for difference in result.left_open],
    }


def _as_text(results: "list[FileResult]", free: bool, limit: int | None) -> str:
    header: tuple[str, ...] = ("file", "vectors", "steps", "disputed", "departures")
    rows: list[tuple[Any, ...]] = [(str(r.path), r.vectors, r.steps, r.disputed, len(r.departures)) for r in results]
    if free:
        header = (*header, "left open")
        rows = [(*row, len(result.left_open)) for row, result in zip(rows, results, strict=True)]
    text = table(rows, header)
    left = limit
    for result in results:
        for title, differences in (("", result.departures), (", left open", result.left_open)):
            if found := differences[:left]:
                rows_found = [(d.id, d.step, d.field, json.dumps(d.expected), json.dumps(d.got)) for d in found]
                text += f"\n\n{result.path}{title}:\n" + table(rows_found, ("id", "step", "field", "expected", "got"))
                left = None if left is None else left - len(found)
    total = sum(len(result.departures) + len(result.left_open) for result in results)
    if limit is not None and total > limit:
        text += f"\n\n{total - limit} more {'differences' if free else 'departures'}: --all prints them."
    return text
