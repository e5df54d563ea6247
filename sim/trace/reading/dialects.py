"""What else people paste: merged, wrapped and differently printed traces, as the tools themselves print them.

Known are merged reports of host and guests (``trace-cmd report -i HOST -i GUEST``), lines that a mail program quoted
and wrapped, times in cycles (``trace_clock`` x86-tsc), a second time in parentheses (``perf script --deltatime``), and
perf-prof's date in front.  Each is told by the first lines that hold an event, and undone so that lines keep their
numbers.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from sim.trace.reading import lines

SAMPLE: Final = 256 << 10
"""Bytes of the first text with an event in which its dialect is looked for."""

_FILE: Final = re.compile(rb"^ *([^\s:]*\.dat[^\s:]*|trace[^\s:]*): ", re.ASCII | re.MULTILINE)
_OF_KVM: Final = re.compile(rb": (?:kvm:)?kvm_(?:fpu|entry|exit|userspace_exit)\b", re.ASCII)

_FLAGS = rb"(?:[^\s:\[\]]{4,8} +)?"
_CYCLES: Final = re.compile(rb"(\[\d{3,5}\] +" + _FLAGS + rb")(\d{6,19}): (?=\S)", re.ASCII)
_DELTA: Final = re.compile(rb"(\d\.\d{6,9}) \( *\+?\d+\.\d+\): ", re.ASCII)
_PERF_PROF: Final = re.compile(
    rb"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ ( *\S.*? +-?\d+) +[^\s:\[\]]{4,8} +(\[\d{3,5}\])", re.ASCII | re.MULTILINE
)
_QUOTED: Final = re.compile(rb"^(?:[>|] ?)+", re.MULTILINE)

_BEGINS: Final = re.compile(
    rb"[^\n]*\[\d{3,5}\] +"
    + _FLAGS
    + rb"(?:\d{1,12}\.\d{6,9}|\d{6,19})(?: \([ .+\d]*\))?: *(?:\d+ +)?(?:\w+:)?(?P<event>\w+)",
    re.ASCII,
)
"""The beginning of an event, up to its name."""

_MOST_JOINED: Final = 6
"""Lines in which a mail program may have wrapped an event."""

CYCLES_PER_SECOND: Final = 1e9
"""Where the TSC's frequency is not known, cycles are shown as nanoseconds."""


@dataclass(slots=True)
class Dialect:
    """How a trace is printed; :meth:`plain` makes of its text what the tools print.

    ``host`` is the file of a merged report that is followed, and ``left_out`` the number of lines of each other file.
    ``cycles`` are counted of a TSC of ``tsc_hz``; 0 if that is not known.
    """

    host: bytes = b""
    left_out: Counter[str] = field(default_factory=Counter)
    quoted: bool = False
    wrapped: bool = False
    cycles: bool = False
    tsc_hz: float = 0.0
    delta: bool = False
    perf_prof: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to be undone."""
        return not (self.host or self.quoted or self.wrapped or self.cycles or self.delta or self.perf_prof)

    def plain(self, text: bytes) -> bytes:
        """Whole lines, as the tools print them; each keeps its number."""
        if self.quoted:
            text = _QUOTED.sub(b"", text)
        if self.host:
            text = _FILE.sub(self._host_line, text)
            text = _LEFT_OUT.sub(b"", text)
        if self.wrapped:
            text = _joined(text)
        if self.perf_prof:
            text = _PERF_PROF.sub(rb"\1 \2", text)
        if self.delta:
            text = _DELTA.sub(rb"\1: ", text)
        return _CYCLES.sub(self._seconds, text) if self.cycles else text

    def _host_line(self, match: re.Match[bytes]) -> bytes:
        if match[1] == self.host:
            return b""
        self.left_out[match[1].decode("utf-8", "replace")] += 1
        return _MARK

    def _seconds(self, match: re.Match[bytes]) -> bytes:
        nanoseconds = round(int(match[2]) * 1e9 / (self.tsc_hz or CYCLES_PER_SECOND)) if self.tsc_hz else int(match[2])
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        return match[1] + b"%d.%09d: " % (seconds, rest)


_MARK: Final = b"\x01"
_LEFT_OUT: Final = re.compile(rb"^\x01.*$", re.MULTILINE)


def told(text: bytes, tsc_hz: float = 0.0) -> Dialect | None:
    """The dialect of a text of whole lines; None if it holds no event that would tell it."""
    sample = text[: text.rfind(b"\n", 0, SAMPLE) + 1]
    found = Dialect(tsc_hz=tsc_hz)
    rows = sample.split(b"\n")
    texts = [row for row in rows if row.strip() and not row.startswith(b"#")]
    found.quoted = bool(texts) and sum(row.startswith((b">", b"|")) for row in texts) > 0.9 * len(texts)
    if found.quoted:
        sample = _QUOTED.sub(b"", sample)
        rows = sample.split(b"\n")
    files = _files(rows)
    if files:
        found.host = files
        rows = Dialect(host=files).plain(sample).split(b"\n")
        sample = b"\n".join(rows)
    if not any(map(_BEGINS.match, rows)) and not _PERF_PROF.search(sample):
        return None
    found.wrapped = _is_wrapped(rows)
    found.perf_prof = _PERF_PROF.search(sample) is not None
    found.delta = _DELTA.search(sample) is not None
    found.cycles = _CYCLES.search(sample) is not None
    return found


def _files(rows: list[bytes]) -> bytes:
    """The file of a merged report whose lines are the host's: that with KVM's events, or else the first; or nothing."""
    seen: dict[bytes, int] = {}
    events = 0
    for row in rows:
        match = _FILE.match(row)
        if match is None or not _BEGINS.match(row):
            continue
        events += 1
        seen[match[1]] = seen.get(match[1], 0) + bool(_OF_KVM.search(row))
    return max(seen, key=lambda name: seen[name]) if seen else b""


def _is_wrapped(rows: list[bytes]) -> bool:
    """Whether many events that cannot be read become some that can by the lines behind them."""
    begins = [row for row, line in enumerate(rows) if _BEGINS.match(line)]
    mended = 0
    for row, after in zip(begins, [*begins[1:], len(rows)], strict=True):
        behind = [line.strip() for line in rows[row + 1 : min(after, row + 1 + _MOST_JOINED)]]
        if not behind or not behind[0] or behind[0].startswith(b"#") or _is_event(rows[row]):
            continue
        mended += any(_is_event(b" ".join((rows[row], *behind[:end]))) for end in range(1, len(behind) + 1))
    return mended > _MANY * len(begins)


_MANY: Final = 0.1
"""The share of wrapped events above which a trace is a wrapped one, and its other lines are not damaged."""


def _is_event(line: bytes) -> bool:
    return isinstance(lines.parse(_in_seconds(line)), lines.Event)


def _in_seconds(line: bytes) -> bytes:
    return _CYCLES.sub(Dialect()._seconds, line)


def _joined(text: bytes) -> bytes:
    """Lines that begin no event appended to the one that does; an empty line stays in the place of each."""
    rows = text.split(b"\n")
    at = -1
    for row, line in enumerate(rows):
        if line.startswith(b"#") or not line.strip() or lines.LOST.match(line):
            at = -1
        elif _BEGINS.match(line) is not None:
            at = row
        elif at >= 0 and row - at <= _MOST_JOINED:
            rows[at] = rows[at].rstrip() + b" " + line.strip()
            rows[row] = b""
    return b"\n".join(rows)
