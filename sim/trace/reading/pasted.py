"""The text of a trace that went through a mail program, a web page or a terminal, as bytes, line for line.

Each transformation is recognised in a sample of the text, and undone so that lines keep their numbers.
(:mod:`sim.mailed` does that for logs of a few lines, and does not keep them.)
"""

import re
from collections.abc import Callable
from html import unescape
from itertools import islice
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


_EVENT: Final = re.compile(rb"^(?!#).*\[\d{3,5}\] .*$", re.MULTILINE)
_MOST: Final = 0.9
"""The share of events that begin alike where each line has something before it."""

_ENOUGH: Final = 1000

_PREFIXES: Final = tuple(
    re.compile(rb"^" + pattern, re.MULTILINE)
    for pattern in (
        rb"[+-] ",  # of a patch
        rb" *\d+(?:: ?|\t)",  # cat -n, grep -n
        rb"[^\s:]+\.(?:txt|log|out|trace)(?:\.gz)?:(?:\d+:)?",  # grep in several files
        rb"\t+",
        rb"(?:<\d{1,3}>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ",  # the kernel's log
        rb"(?:<\d{1,3}>)?[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)? "  # syslog
        rb"\S+ [^\s:\[]+(?:\[\d+\])?: ",
        rb"\d{4}-\d\d-\d\dT[\d:.,]+(?:Z|[+-]\d\d:?\d\d)? "  # a container's log, or syslog
        rb"(?:(?:stdout|stderr) F )?(?:[^\s:\[]+ [^\s:\[]+(?:\[\d+\])?: )?",
    )
)


def _begin_alike(prefix: re.Pattern[bytes]) -> Callable[[bytes], bool]:
    def told(text: bytes) -> bool:
        events = [match[0] for match in islice(_EVENT.finditer(text), _ENOUGH)]
        return bool(events) and sum(prefix.match(line) is not None for line in events) > _MOST * len(events)

    return told


def _without(pattern: re.Pattern[bytes], replacement: bytes = b"") -> Way:
    return Way(pattern.search, lambda text: pattern.sub(replacement, text))


def _prefixed(prefix: re.Pattern[bytes]) -> Way:
    return Way(_begin_alike(prefix), lambda text: prefix.sub(b"", text))


WAYS: Final = (
    Way(_is_quoted_printable, _from_quoted_printable),
    Way(re.compile(rb"=&gt; next_comm|&lt;(?:idle|\.\.\.)&gt;-|<pre[ >]|&nbsp;").search, _from_html),
    # Around an event's name, as grep puts them; within a thread's name they are that name.
    Way(
        re.compile(rb"\x1b\[[0-9;]*m(?:\x1b\[K)?(?:\w+:)?(?:sched_|kvm_|x86_fpu)").search,
        lambda text: _COLOUR.sub(b"", text),
    ),
    _without(re.compile(rb"\\n\\(?=\r?$)", re.MULTILINE)),  # systrace writes a string of JavaScript
    _without(
        re.compile(rb"(?<=\]) +\[?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\]? +(?=\d+\.\d{6})"), b" "
    ),  # perf's -F +tod
    _without(re.compile(rb"(?<=\d:) +\([+-]?\d+(?:\.\d+)?\) +(?=\w+: )"), b" "),  # trace-cmd report --ts-diff
    *map(_prefixed, _PREFIXES),
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
