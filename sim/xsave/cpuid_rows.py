"""CPUID registers in texts of no particular tool: rows of numbers, and objects with a member for each register.

Rows are a line with a leaf, perhaps a sub-leaf, and four registers, whatever labels and punctuation stand between them:
what CPU-Z and HWiNFO report, what people write by hand or as CSV.  Objects are what programs print of a
kvm_cpuid_entry2 or of a structure of their own, as JSON, in Rust or in C.
"""

import re
from collections.abc import Iterator
from typing import Final

from sim.xsave.cpuid_decoded import LOW, Registers, Row, numbered

_LABELS: Final = re.compile(
    r"\b(?:(?:entry|cpuid)\[? ?\d{1,3}\]?\s*:|flags\s*[:=]?\s*(?:0x)?\d{1,2}\b[:,]?"  # of KVM's entries
    r"|cpuid|leaf|sub[-_ ]?leaf|sub|function|func|fn|index|idx|input|in|results?|output|raw|(?:[er][a-d]x)(?:_in)?"
    r"|cpu ?\d+)(?!\w)",
    re.ASCII | re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"(?:0x)?[0-9a-f]{1,8}h?", re.ASCII | re.IGNORECASE)
_REGISTER: Final = re.compile(r"[0-9a-f]{8}|0x.+|.+h", re.ASCII | re.IGNORECASE)
"""A number that may be a register or a leaf, and not a sub-leaf alone."""
_PADDED_LEAF: Final = re.compile(r"(?:0x)?0[0-9a-f]{7}h?", re.ASCII | re.IGNORECASE)
_DECIMAL: Final = re.compile(r"0|[1-9]\d*", re.ASCII)
_BETWEEN: Final = re.compile(r"[\s,;:|/\\()\[\]{}=>\"'`._#*+-]+", re.ASCII)
_LEAST_OF_ROW: Final = 20
_MOST_OF_ROW: Final = 200
_WITH_SUB_LEAF: Final = 6
"""Numbers of a row: a leaf, a sub-leaf and four registers."""
_DIGITS: Final = 8

# A register on a line of its own belongs to its leaf's line.  What stands between may be long, and is looked at once.
_NEXT_REGISTER: Final = re.compile(
    r"(?<![>|\s])[>| \t\r\f\v]*+\n[>|\s]*+(?=[er]?[a-d]x\s*[=:]\s*(?:0x)?[0-9a-f]{1,8}h?,?\s*$)",
    re.ASCII | re.IGNORECASE | re.MULTILINE,
)

_CELL_END: Final = re.compile(r"[,;\t|]")
_NO_LETTER: Final = re.compile(r"[^a-z]+")
_AROUND: Final = " \"'`"
_REGISTERS: Final = ("eax", "ebx", "ecx", "edx")
_HEADER_NAMES: Final = (
    {name: name for name in _REGISTERS}
    | dict.fromkeys(("leaf", "function", "func", "eaxin", "inputeax", "cpuid"), "leaf")
    | dict.fromkeys(("subleaf", "index", "idx", "sub", "ecxin", "inputecx"), "sub")
)


def rows(text: str) -> Iterator[Row]:
    """The rows of a table; one without a sub-leaf is the next of its leaf."""
    found = list(_tokens(_NEXT_REGISTER.sub(" ", text)))
    base = _base([number for row in found for number in row[1:-4]])

    def read(row: list[str]) -> tuple[int, int | None, Registers]:
        first, *inner = row[:-4]
        a, b, c, d = map(_value, row[-4:])
        return _value(first), _value(inner[0], base) if inner else None, (a, b, c, d)

    return numbered(map(read, found))


def _tokens(text: str) -> Iterator[list[str]]:
    """The numbers of the lines that have nothing but these and their labels."""
    for line in text.splitlines():
        if not _LEAST_OF_ROW <= len(line) <= _MOST_OF_ROW:
            continue
        row = [part for part in _BETWEEN.split(_LABELS.sub(" ", line)) if part]
        if len(row) not in (_WITH_SUB_LEAF - 1, _WITH_SUB_LEAF):
            continue
        if (
            all(map(_NUMBER.fullmatch, row))
            and all(map(_REGISTER.fullmatch, (row[0], *row[-4:])))
            and not _lacks_one(row)
        ):
            yield row


def _lacks_one(row: list[str]) -> bool:
    """Whether the line is cut off: its leaf has all eight digits, and what must be a register has fewer."""
    digits = [len(each.lower().removeprefix("0x").removesuffix("h")) for each in row[-4:]]
    return _PADDED_LEAF.fullmatch(row[0]) is not None and min(digits) < _DIGITS


def _base(sub_leaves: list[str]) -> int:
    """10 where no sub-leaf looks like a hexadecimal number, by 0x, a letter or a leading zero."""
    return 10 if all(map(_DECIMAL.fullmatch, sub_leaves)) else 16


def _value(number: str, base: int = 16) -> int:
    return int(number.rstrip("hH"), base)


def with_header(text: str) -> Iterator[Row]:
    """The rows of a table (CSV, TSV) whose first line names its columns: leaf, sub-leaf, the registers, and others.

    Numbers are hexadecimal where a column shows it, by 0x, a letter or a leading zero, and else decimal.
    """
    lines = iter(text.splitlines())
    for line in lines:
        named = [
            _HEADER_NAMES.get(_NO_LETTER.sub("", cell.lower()), "") for cell in _CELL_END.split(line[:_MOST_OF_ROW])
        ]
        if {"leaf", *_REGISTERS} <= set(named):
            break
    else:
        return
    width = len(named)
    cells = [[cell.strip(_AROUND) for cell in _CELL_END.split(line[:_MOST_OF_ROW])] for line in lines]
    rows_of = [dict(zip(named, row, strict=True)) for row in cells if len(row) == width]
    kept = [
        row for row in rows_of if all(_NUMBER.fullmatch(row[name]) or row[name].isdecimal() for name in row if name)
    ]
    bases = {name: _base([row[name] for row in kept]) for name in named}

    def read(row: dict[str, str]) -> tuple[int, int | None, Registers]:
        a, b, c, d = (_value(row[name], bases[name]) & LOW for name in _REGISTERS)
        sub = _value(row["sub"], bases["sub"]) if "sub" in row else None
        return _value(row["leaf"], bases["leaf"]), sub, (a, b, c, d)

    yield from numbered(map(read, kept))
