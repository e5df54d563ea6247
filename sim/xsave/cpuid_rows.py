"""CPUID registers in texts of no particular tool: rows of numbers, and objects with a member for each register.

Rows are a line with a leaf, perhaps a sub-leaf, and four registers, whatever labels and punctuation stand between them:
what CPU-Z and HWiNFO report, what people write by hand or as CSV.  Objects are what programs print of a
kvm_cpuid_entry2 or of a structure of their own, as JSON, in Rust or in C.
"""

import re
from collections.abc import Iterator
from typing import Final

from sim.xsave.cpuid_decoded import LOW, Registers

_LABELS: Final = re.compile(
    r"\b(?:cpuid|leaf|sub[-_ ]?leaf|sub|function|func|fn|index|idx|input|in|results?|output|raw|(?:[er][a-d]x)(?:_in)?"
    r"|cpu ?\d+)\b",
    re.ASCII | re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"(?:0x)?[0-9a-f]{1,8}h?", re.ASCII | re.IGNORECASE)
_BETWEEN: Final = re.compile(r"[\s,;:|/\\()\[\]{}=>\"'._#*+-]+", re.ASCII)
_LEAST_OF_ROW: Final = 20
_MOST_OF_ROW: Final = 200
_WITH_SUB_LEAF: Final = 6
"""Numbers of a row: a leaf, a sub-leaf and four registers."""
_DIGITS: Final = 8

# A register on a line of its own belongs to the line of its leaf.
_NEXT_REGISTER: Final = re.compile(
    r"\s*\n[>|\s]*(?=[er]?[a-d]x\s*[=:]\s*(?:0x)?[0-9a-f]{1,8}h?,?\s*$)", re.ASCII | re.IGNORECASE | re.MULTILINE
)

_OBJECT: Final = re.compile(r"\{([^{}]{20,600})(?:\{[^{}]{0,80}\}\s*)?\}")  # gdb prints the padding in braces
_MEMBER: Final = re.compile(r"\b(\w{2,12})[\"']?\s*[:=]\s*[\"']?(0x[0-9a-f]{1,8}|\d{1,10})\b", re.ASCII | re.IGNORECASE)
_LEAF_NAMES: Final = ("function", "leaf", "eax_in", "func")
_SUB_NAMES: Final = ("index", "subleaf", "sub_leaf", "ecx_in", "idx")

Row = tuple[int, int, Registers]
"""Leaf, sub-leaf and its registers."""


def rows(text: str) -> Iterator[Row]:
    """The rows of a table; one without a sub-leaf is the next of its leaf."""
    found = list(_tokens(_NEXT_REGISTER.sub(" ", text)))
    base = _base([row[1] for row in found if len(row) == _WITH_SUB_LEAF])
    leaf, sub = -1, -1
    for row in found:
        first, *inner = row[:-4]
        number = _value(first)
        sub = _value(inner[0], base) if inner else sub + 1 if number == leaf else 0
        leaf = number
        a, b, c, d = map(_value, row[-4:])
        yield leaf, sub, (a, b, c, d)


def _tokens(text: str) -> Iterator[list[str]]:
    """The numbers of the lines that have nothing but these and their labels."""
    for line in text.splitlines():
        if not _LEAST_OF_ROW <= len(line) <= _MOST_OF_ROW:
            continue
        row = [part for part in _BETWEEN.split(_LABELS.sub(" ", line)) if part]
        if len(row) not in (_WITH_SUB_LEAF - 1, _WITH_SUB_LEAF):
            continue
        if all(map(_NUMBER.fullmatch, row)) and all(map(_is_register, (row[0], *row[-4:]))) and not _lacks_one(row):
            yield row


def _is_register(number: str) -> bool:
    return len(number) >= _DIGITS or number[:2].lower() == "0x" or number[-1].lower() == "h"


def _lacks_one(row: list[str]) -> bool:
    """Whether the line is cut off: its leaf has all eight digits, and what must be a register has fewer."""
    digits = [len(each.lower().removeprefix("0x").removesuffix("h")) for each in (row[0], *row[-4:])]
    return digits[0] == _DIGITS and row[0].lower().removeprefix("0x").startswith("0") and min(digits) < _DIGITS


def _base(sub_leaves: list[str]) -> int:
    """10 where no sub-leaf looks like a hexadecimal number, by 0x, a letter or a leading zero."""
    decimal = all(each.isdigit() and (len(each) == 1 or each[0] != "0") for each in sub_leaves)
    return 10 if decimal else 16


def _value(number: str, base: int = 16) -> int:
    return int(number.rstrip("hH"), base)


def objects(text: str) -> Iterator[Row]:
    """The objects with members for a leaf, perhaps a sub-leaf, and the four registers; decimal without 0x."""
    for match in _OBJECT.finditer(text):
        members = {name.lower(): int(value, 0) & LOW for name, value in _plain(match[1])}
        leaf = next((members[name] for name in _LEAF_NAMES if name in members), None)
        if leaf is not None and members.keys() >= {"eax", "ebx", "ecx", "edx"}:
            sub = next((members[name] for name in _SUB_NAMES if name in members), 0)
            yield leaf, sub, (members["eax"], members["ebx"], members["ecx"], members["edx"])


def _plain(text: str) -> Iterator[tuple[str, str]]:
    for name, value in _MEMBER.findall(text):
        yield name, value if value[:2].lower() == "0x" else str(int(value))


FORMS: Final = {"a program": objects, "a table": rows}
"""Who prints them, as a message says it."""
