"""Lines of a trace that a mail program wrapped between words, or a terminal at its edge, put together again."""

import re
from collections import Counter
from itertools import pairwise
from typing import Final

from sim.trace.reading import lines

MOST_JOINED: Final = 6
"""Lines in which an event may have been wrapped."""
MANY: Final = 0.1
"""The share of wrapped events above which a trace is a wrapped one, and its other lines are not damaged."""
FLAGS: Final = rb"(?:[^\s:\[\]]{4,8} +)?"
CYCLES: Final = re.compile(rb"(\[\d{3,5}\] +" + FLAGS + rb")(\d{1,19}): (?=\S)", re.ASCII)
"""A time of trace_clock x86-tsc, or a number of trace_clock counter."""

BEGINS: Final = re.compile(
    rb"[^\n]*\[\d{3,5}\] +"
    + FLAGS
    + rb"(?:\d{1,12}\.\d{6,9}|\d{1,19})(?: \([ .+\d]*\))?: *(?:(?:\d+ +)?(?:\w+:)?\w+|$)",
    re.ASCII,
)
"""The beginning of an event, up to its name, or to where a mail program wrapped the line before it."""


def is_wrapped(rows: list[bytes]) -> bool:
    """Whether many events that cannot be read become readable with the lines after them."""
    begins = [row for row, line in enumerate(rows) if BEGINS.match(line)]
    return sum(_mended(rows[row:after], b" ") for row, after in pairwise([*begins, len(rows)])) > MANY * len(begins)


def width(rows: list[bytes]) -> int:
    """The columns of a terminal at whose edge lines end, and go on in the next, also within a word; 0 if there is none.

    Most lines that go on are then equally long, and none is longer.
    """
    begins = [row for row, line in enumerate(rows) if BEGINS.match(line)]
    broken = [row for row, after in pairwise([*begins, len(rows)]) if _mended(rows[row:after], b"")]
    if len(broken) <= MANY * len(begins):
        return 0
    usual, count = Counter(len(rows[row]) for row in broken).most_common(1)[0]
    return usual if count > 0.9 * len(broken) and max(map(len, rows)) == usual else 0


def _mended(rows: list[bytes], between: bytes) -> bool:
    """Whether the first row is no event, and with some of those behind it becomes one."""
    first, *behind = rows[: 1 + MOST_JOINED]
    if between:
        behind = [line.strip() for line in behind]
    if not behind or not behind[0] or behind[0].startswith(b"#") or _is_event(first):
        return False
    return any(_is_event(between.join((first, *behind[:end]))) for end in range(1, len(behind) + 1))


def _is_event(line: bytes) -> bool:
    return isinstance(lines.parse(CYCLES.sub(rb"\g<1>1.000000: ", line)), lines.Event)


def joined(text: bytes) -> bytes:
    """Lines that begin no event appended to the one that does; an empty line stays in the place of each."""
    rows = text.split(b"\n")
    at = -1
    for row, line in enumerate(rows):
        if line.startswith(b"#") or not line.strip() or lines.LOST.match(line):
            at = -1
        elif BEGINS.match(line) is not None:
            at = row
        elif at >= 0 and row - at <= MOST_JOINED:
            whole = rows[at].rstrip() + b" " + line.strip()
            if _is_event(rows[at]) and not _is_event(whole):  # what the mail says behind it
                at = -1
            else:
                rows[at], rows[row] = whole, b""
    return b"\n".join(rows)


def unbroken(text: bytes, columns: int) -> bytes:
    """The same for lines that a terminal of so many columns broke."""
    rows = [line.rstrip(b"\r") for line in text.split(b"\n")]
    at = -1
    for row, line in enumerate(rows):
        if at >= 0 and row - at <= MOST_JOINED and not BEGINS.match(line):
            rows[at] += line
            rows[row] = b""
        else:
            at = row
        at = at if len(line) == columns else -1
    return b"\n".join(rows)
