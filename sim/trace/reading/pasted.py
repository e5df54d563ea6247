"""The text of a trace that went through a mail program, a web page or a terminal, as bytes, line for line.

Each transformation is recognised in a sample of the text, and undone so that lines keep their numbers.
(:mod:`sim.mailed` does that for logs of a few lines, and does not keep them.)
"""

import re
from collections.abc import Callable
from html import unescape
from typing import Final, NamedTuple

_SOFT: Final = re.compile(rb"=[ \t]*\r?$", re.MULTILINE)
_CODE: Final = re.compile(rb"=([0-9A-F]{2})")
_REFERENCE: Final = re.compile(rb"&(?:#\d{1,5}|#x[0-9a-fA-F]{1,4}|[a-z]{2,6});")
_TAG: Final = re.compile(rb"</?(?:pre|code|span|div|p|td|tr|li|ol|font|b)(?:\s[^<>\n]{0,200})?>")
_COLOUR: Final = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
_BLANK: Final = re.compile(rb"\xc2\xa0|\xe2\x80[\x80-\x8a\xaf]|(?<![\x80-\xff])\xa0|\t")


class Way(NamedTuple):
    """What was done to a text: what shows that, and what undoes it."""

    told: Callable[[bytes], object]
    undo: Callable[[bytes], bytes]


def _is_quoted_printable(text: bytes) -> bool:
    return b"=3D" in text and _SOFT.search(text) is not None


def _from_quoted_printable(text: bytes) -> bytes:
    rows = text.split(b"\n")
    at = -1
    for row, line in enumerate(rows):
        rest = at >= 0
        soft = _SOFT.search(line)
        part = line[: soft.start()] if soft else line
        if rest:
            rows[at] += part
            rows[row] = b""
        elif soft:
            at, rows[row] = row, part
        if not soft:
            at = -1
    return _CODE.sub(lambda match: bytes.fromhex(match[1].decode()), b"\n".join(rows))


def _from_html(text: bytes) -> bytes:
    return _REFERENCE.sub(lambda match: unescape(match[0].decode()).encode(), _TAG.sub(b"", text))


WAYS: Final = (
    Way(_is_quoted_printable, _from_quoted_printable),
    Way(re.compile(rb"=&gt; next_comm|&lt;(?:idle|\.\.\.)&gt;-|<pre[ >]|&nbsp;").search, _from_html),
    # Around an event's name, as grep puts them; within a thread's name they are that name.
    Way(
        re.compile(rb"\x1b\[[0-9;]*m(?:\x1b\[K)?(?:\w+:)?(?:sched_|kvm_|x86_fpu)").search,
        lambda text: _COLOUR.sub(b"", text),
    ),
    Way(re.compile(rb"\xa0|\xe2\x80[\x80-\x8a\xaf]|\]\t|\d:\t|-\d+\t").search, lambda text: _BLANK.sub(b" ", text)),
)
"""In the order in which they are undone."""


def undone(text: bytes, ways: tuple[Way, ...]) -> bytes:
    """The text with all of ``ways`` undone."""
    for way in ways:
        text = way.undo(text)
    return text


def ways(sample: bytes) -> tuple[Way, ...]:
    """What was done to a sample of the text."""
    found: list[Way] = []
    for way in WAYS:
        if way.told(sample):
            found.append(way)
            sample = way.undo(sample)
    return tuple(found)
