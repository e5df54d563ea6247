"""Writing a cost table, row by row, and the list of all that was measured beside it."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.calibrate.machine import components
from sim.calibrate.rows import STANDS_IN, Instructions, Line
from sim.calibrate.samples import Interval
from sim.errors import InputError
from sim.results import files


@dataclass(frozen=True, slots=True)
class Header:
    """What is written above the rows; ``texts`` are the replacements for {name} in a row."""

    comment: Sequence[str]
    title: str
    date: str
    derived_from: str
    spread: float
    because: str
    texts: Mapping[str, str]


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raises :class:`InputError` for a file that is there already, or whose directory is not."""
    for path in paths:
        if path.exists():
            raise InputError(f"calibrate: {path} already exists; --force overwrites it")
    refuse_unwritable(paths)


def refuse_unwritable(paths: Sequence[Path]) -> None:
    """Raises :class:`InputError` where a file cannot be made: better now than after minutes of measuring."""
    for path in paths:
        if path.is_dir():
            raise InputError(f"calibrate: {path} is a directory; the name of a file is wanted")
        if not path.parent.is_dir():
            raise InputError(f"calibrate: {path}: there is no directory {path.parent}")
        try:
            # os.access() says of root that it may write anywhere, to /proc and a read-only file system as well.
            files.try_directory(path)
        except OSError as error:
            where = Path(os.path.realpath(path)).parent
            raise InputError(
                f"calibrate: {path}: the directory {where} cannot be written to ({error.strerror or error})"
            ) from error


def table(header: Header, lines: Sequence[Line]) -> str:
    """The text of the table."""
    out = [f"# {line}".rstrip() for line in header.comment]
    out += ["", f"title = {_quoted(header.title)}", f"date = {_quoted(header.date)}"]
    stand_ins = ", ".join(f"{supervisor} = {_quoted(user)}" for supervisor, user in STANDS_IN.items())
    out.append(f"stand_ins = {{ {stand_ins} }}")
    if header.derived_from:
        out.append(f"derived_from = {_quoted(header.derived_from)}")
    if header.spread:
        out += [f"inherited_spread = {header.spread}", f"inherited_because = {_quoted(header.because)}"]
    out += ["", "# What {name} in a row stands for.", *(f"texts.{k} = {_quoted(v)}" for k, v in header.texts.items())]
    out += ["", "rows = ["]
    for line in lines:
        if line.heading:
            out += ["" if out[-1] == "rows = [" else "\n", f"  # {line.heading}"]
        out.append(f"  {{ {_row(line, header.texts.get('all', ''))} }},")
    text = "\n".join([*out, "]", ""])
    return text.replace("rows = [\n\n", "rows = [\n").replace("\n\n\n", "\n\n")


def measurements(found: Instructions) -> str:
    """All that was measured of the XSAVE instructions, as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["operation", "area", "touched", "level", "in_use", "components", "value", "low", "high", "clock", "processes"]
    )
    for timing, number in found.intervals.items():
        v = timing.variant
        area = "same" if v.same else "other"
        processes = found.measured.processes
        key = [v.operation, area, "yes" if v.touched else "no", v.level or "L1", f"{timing.in_use:#x}"]
        numbers = [f"{x:.1f}" for x in (number.value, number.low, number.high)] if number else ["", "", ""]
        writer.writerow([*key, components(timing.in_use), *numbers, "core", processes])
    return text.getvalue()


def _row(line: Line, everything: str) -> str:
    exact = line.number.value, line.number.low, line.number.high
    value, low, high = exact if line.term == "ratio" else rounded(line.number)
    all_ = "{all}" if everything and line.component == everything else line.component
    keys = {
        "operation": line.operation, "term": line.term, "component": all_, "level": line.level,
        "requested": line.requested,
    }  # fmt: skip
    parts = [f"{key} = {_quoted(text)}" for key, text in keys.items() if text]
    parts += [f"value = {value:.12g}", f"low = {low:.12g}", f"high = {high:.12g}", f'clock = "{line.clock}"']
    parts += [f'grade = "{line.grade}"', 'source = "{own}"', f"conditions = {_quoted(line.conditions)}"]
    if line.origin:
        parts.append(f"origin = [{', '.join(_quoted(each) for each in dict.fromkeys(line.origin))}]")
    return ", ".join(parts)


def rounded(number: Interval) -> tuple[float, float, float]:
    """To whole cycles, to tenths below a hundred; the value stays in its range."""
    digits = 1 if abs(number.value) < 100 else 0
    value, low, high = (round(each, digits) + 0.0 for each in (number.value, number.low, number.high))  # no -0
    return value, min(low, value), max(high, value)


def _quoted(text: str) -> str:
    """A basic string of TOML, which a JSON string is, too."""
    return json.dumps(text, ensure_ascii=False)
