"""What stands before each line of a trace: time stamps, line numbers, names of files, machines and ftrace's instances.

The tools print a thread's name right-aligned in 16 columns, of which the first is always blank.  So where these columns
begin, what stands before them ends, whatever it is.  Where blanks were lost, only what is known here is found.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

Undo = Callable[[bytes], bytes]
"""Makes of a text what it was."""

_MOST: Final = 0.9
"""The share of events that begin alike where each line has something before it."""
_ENOUGH: Final = 1000
_COLUMNS: Final = 16

_EVENT: Final = re.compile(rb"^(?!#)[^\n]*\[\d{3,5}\] [^\n]*$", re.MULTILINE)
_THREAD: Final = re.compile(
    rb"^(?!#)(?P<comm>[^\n]{0,250}?\S)(?:-\d+| +(?:-?\d+/ *)?-?\d+) +(?:\( *[-\d]+\) +)?\[\d{3,5}\] [^\n]*$",
    re.MULTILINE,
)
_FILE: Final = re.compile(rb" *(?:[^:\n]*\.dat[^\s:]*|trace[^\s:]*): +")
_NAME: Final = re.compile(rb" *(?P<name>[\w.-]*[A-Za-z][\w.-]*): +")
_NAMED: Final = re.compile(rb"^" + _NAME.pattern + rb"(?=\S[^\n]*\[\d{3,5}\] [^\n]*\bsched_switch: )", re.MULTILINE)

_KNOWN: Final = tuple(
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


def _before(sample: bytes) -> list[bytes]:
    """What stands before the columns of the name, event by event."""
    names = [match["comm"] for match in islice(_THREAD.finditer(sample), _ENOUGH)]
    ends = [max(0, len(name) - _COLUMNS) for name in names]
    return [name[:end] if name[end : end + 1] == b" " else b"" for name, end in zip(names, ends, strict=True)]


def machines(sample: bytes) -> tuple[bytes, ...]:
    """Names before lines of which several have switches: of as many machines, as of a merged report of their files."""
    found = Counter(match["name"] for match in _NAMED.finditer(sample))
    return tuple(found) if len(found) > 1 else ()


def of_columns(sample: bytes) -> Undo | None:
    """Drops what stands before the columns, if that is alike but for numbers."""
    found = _before(sample)
    if not any(map(bytes.strip, found)) or any(map(_FILE.fullmatch, found)) or machines(sample):
        return None
    if any(map(_NAME.fullmatch, found)):
        return None
    usual, count = Counter(map(_with_other_numbers, found)).most_common(1)[0]
    return _dropping(re.compile(rb"^" + usual, re.MULTILINE)) if count > _MOST * len(found) else None


def of_instances(sample: bytes) -> Undo | None:
    """Drops the names of ftrace's instances, as trace-cmd prints them, and that of a machine alone."""
    found = [each for each in _before(sample) if each.strip()]
    names = {match["name"] for match in map(_NAME.fullmatch, found) if match}
    if not names or any(map(_FILE.fullmatch, found)) or machines(sample):
        return None
    if sum(_NAME.fullmatch(each) is not None for each in found) < _MOST * len(found):
        return None
    return _dropping(re.compile(rb"^ *(?:" + b"|".join(map(re.escape, sorted(names))) + rb"): ", re.MULTILINE))


def known(sample: bytes) -> Iterator[Undo]:
    """Drops those that are known, one after the other."""
    for pattern in _KNOWN:
        events = [match[0] for match in islice(_EVENT.finditer(sample), _ENOUGH)]
        if events and sum(pattern.match(line) is not None for line in events) > _MOST * len(events):
            undo = _dropping(pattern)
            sample = undo(sample)
            yield undo


def _dropping(pattern: re.Pattern[bytes]) -> Undo:
    return lambda text: pattern.sub(b"", text)


def _with_other_numbers(text: bytes) -> bytes:
    """A pattern of ``text`` in which numbers, and blanks, may be others."""
    parts = re.split(rb"(\d+|[ \t]+)", text.rstrip(b" "))
    shown = b"".join(
        rb"\d+" if part[:1].isdigit() else rb"[ \t]+" if part.isspace() else re.escape(part) for part in parts
    )
    return shown + rb" {0,%d}" % (len(text) - len(text.rstrip(b" ")))
