"""What else people paste: merged, wrapped and differently printed traces, as the tools themselves print them.

Known are merged reports of host and guests (``trace-cmd report -i HOST -i GUEST``), lines that a mail program quoted
and wrapped or a terminal broke (:mod:`sim.trace.reading.wrapped`), and what else is pasted
(:mod:`sim.trace.reading.pasted`), times in cycles (``trace_clock`` x86-tsc), differences of times (``perf script
--deltatime``) and a second time in parentheses, perf-prof's date in front, ftrace's ``latency-format`` (also that of
ftrace_dump_on_oops), and raw fields (:mod:`sim.trace.reading.raw_fields`).  Each is told by the first lines that hold
an event, and undone so that lines keep their numbers.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from sim.trace.reading import pasted, prefixes, raw_fields, wrapped
from sim.trace.reading.wrapped import BEGINS, CYCLES

SAMPLE: Final = 256 << 10
"""Bytes of the first text with an event in which its dialect is looked for."""

_FILE: Final = re.compile(rb"^ *([^:\n]*\.dat[^\s:]*|trace[^\s:]*): ", re.ASCII | re.MULTILINE)
_OF_KVM: Final = re.compile(rb": (?:kvm:)?kvm_(?:fpu|entry|exit|userspace_exit)\b", re.ASCII)

_DELTA: Final = re.compile(rb"(\d\.\d{6,9}) \( *\+?\d+\.\d+\): ", re.ASCII)
_PERF_PROF: Final = re.compile(
    rb"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ ( *\S.*? +-?\d+) +[^\s:\[\]]{4,8} +(\[\d{3,5}\])", re.ASCII | re.MULTILINE
)
_QUOTED: Final = re.compile(rb"^(?:[>|] ?)+", re.MULTILINE)

# kernel/trace/trace_output.c, trace_print_lat_context(); on a console the line has the log's time before it.
_LATENCY: Final = re.compile(
    rb"^(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? +)?( *\S[^\n]*?-\d+) +(\d{1,4})([^\s\d:][^\s:]{3,7}) +(\d{1,16})us"
    rb"[ +!#*@$]?: ",
    re.ASCII | re.MULTILINE,
)

_TIME: Final = re.compile(
    rb"^(?P<head>(?!#)[^\n]*?\[\d{3,5}\] +" + wrapped.FLAGS + rb")(?P<seconds>\d{1,9})\.(?P<fraction>\d{9}|\d{6}): ",
    re.MULTILINE,
)
_TSC: Final = re.compile(rb"^#.*TSC (\d{1,6}(?:\.\d{1,6})?) MHz", re.ASCII | re.MULTILINE)

_MOST_BACK: Final = 0.2
"""The share of times that are smaller than the one before, above which they are differences."""

CYCLES_PER_SECOND: Final = 1e9
"""Where the TSC's frequency is not known, cycles are shown as nanoseconds."""


@dataclass(slots=True)
class Dialect:
    """How a trace is printed; :meth:`plain` makes of its text what the tools print.

    ``host`` is the file of a merged report that is followed, and ``left_out`` the number of lines of each other file.
    ``cycles`` are counted of a TSC of ``tsc_hz``; 0 if that is not known.  ``width`` is that of a terminal that broke
    lines, or 0.  ``differences``: each time is that since the event before.
    """

    host: bytes = b""
    files: re.Pattern[bytes] = _FILE
    left_out: Counter[str] = field(default_factory=Counter)
    quoted: bool = False
    wrapped: bool = False
    width: int = 0
    cycles: bool = False
    tsc_hz: float = 0.0
    delta: bool = False
    differences: bool = False
    perf_prof: bool = False
    latency: bool = False
    raw: bool = False
    ways: tuple[prefixes.Undo, ...] = ()
    _now_ns: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to be undone."""
        mailed = self.host or self.quoted or self.wrapped or self.width or self.ways
        timed = self.cycles or self.delta or self.differences
        return not (mailed or timed or self.perf_prof or self.latency or self.raw)

    def plain(self, text: bytes) -> bytes:
        """Whole lines, as the tools print them; each keeps its number."""
        text = self._unpasted(text)
        if self.host:
            text = self.files.sub(self._host_line, text)
            text = _LEFT_OUT.sub(b"", text)
        if self.latency:
            text = _LATENCY.sub(_with_seconds, text)
        if self.wrapped:
            text = wrapped.joined(text)
        if self.raw:
            for pattern, replacement in raw_fields.FIELDS:
                text = pattern.sub(replacement, text)
        if self.perf_prof:
            text = _PERF_PROF.sub(rb"\1 \2", text)
        if self.delta:
            text = _DELTA.sub(rb"\1: ", text)
        if self.differences:
            text = _TIME.sub(self._since_the_first, text)
        return CYCLES.sub(self._seconds, text) if self.cycles else text

    def _unpasted(self, text: bytes) -> bytes:
        if self.width:
            text = wrapped.unbroken(text, self.width)
        text = pasted.undone(text, self.ways)
        return _QUOTED.sub(b"", text) if self.quoted else text

    def _host_line(self, match: re.Match[bytes]) -> bytes:
        if match[1] == self.host:
            return b""
        self.left_out[match[1].decode("utf-8", "replace")] += 1
        return _MARK

    def _seconds(self, match: re.Match[bytes]) -> bytes:
        nanoseconds = round(int(match[2]) * 1e9 / (self.tsc_hz or CYCLES_PER_SECOND)) if self.tsc_hz else int(match[2])
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        return match[1] + b"%d.%09d: " % (seconds, rest)

    def _since_the_first(self, match: re.Match[bytes]) -> bytes:
        self._now_ns += int(match["seconds"]) * 1_000_000_000 + int(match["fraction"].ljust(9, b"0"))
        return match["head"] + b"%d.%09d: " % divmod(self._now_ns, 1_000_000_000)


def _with_seconds(match: re.Match[bytes]) -> bytes:
    seconds, micros = divmod(int(match[4]), 1_000_000)
    return b"%s [%03d] %s %d.%06d: " % (match[1], int(match[2]), match[3], seconds, micros)


_MARK: Final = b"\x01"
_LEFT_OUT: Final = re.compile(rb"^\x01.*$", re.MULTILINE)


def told(text: bytes) -> Dialect | None:
    """The dialect of a text of whole lines; None if it holds no event that would tell it."""
    sample = text[: text.rfind(b"\n", 0, SAMPLE) + 1]
    found = Dialect(tsc_hz=_tsc_hz(text), width=wrapped.width([row.rstrip(b"\r") for row in sample.split(b"\n")]))
    sample = found._unpasted(sample)
    found.ways = pasted.ways(sample)
    sample = pasted.undone(sample, found.ways)
    texts = [row for row in sample.split(b"\n") if row.strip() and not row.startswith(b"#")]
    found.quoted = bool(texts) and sum(row.startswith((b">", b"|")) for row in texts) > 0.9 * len(texts)
    if found.quoted:
        sample = _QUOTED.sub(b"", sample)
    found.latency = _LATENCY.search(sample) is not None
    if found.latency:
        sample = _LATENCY.sub(_with_seconds, sample)
    rows = sample.split(b"\n")
    if machines := prefixes.machines(sample):
        found.files = re.compile(rb"^ *(" + b"|".join(map(re.escape, machines)) + rb"): ", re.MULTILINE)
    found.host = _host(rows, found.files)
    if found.host:
        sample = Dialect(host=found.host, files=found.files).plain(sample)
        rows = sample.split(b"\n")
    if not any(map(BEGINS.match, rows)) and not _PERF_PROF.search(sample):
        return None
    found.raw = any(pattern.search(sample) for pattern, _ in raw_fields.FIELDS)
    found.wrapped = wrapped.is_wrapped(rows)
    found.perf_prof = _PERF_PROF.search(sample) is not None
    found.delta = _DELTA.search(sample) is not None
    events = [row for row in rows if BEGINS.match(row)]
    found.cycles = 2 * sum(CYCLES.search(row) is not None for row in events) > len(events)
    found.differences = _are_differences(sample)
    return found


def _tsc_hz(text: bytes) -> float:
    """The TSC's frequency by the comments of a text; 0 if they do not say it."""
    match = _TSC.search(text)
    return 0.0 if match is None else float(match[1]) * 1e6


def _are_differences(sample: bytes) -> bool:
    """Whether times begin with 0 and go back again and again, as only differences do."""
    times = [float(match["seconds"] + b"." + match["fraction"]) for match in _TIME.finditer(sample)]
    return times[:1] == [0.0] and sum(b < a for a, b in pairwise(times)) > _MOST_BACK * len(times)


def _host(rows: list[bytes], files: re.Pattern[bytes]) -> bytes:
    """The file of a merged report whose lines are the host's: that with KVM's events, or else the first; or nothing."""
    seen: dict[bytes, int] = {}
    events = 0
    for row in rows:
        match = files.match(row)
        if match is None or not BEGINS.match(row):
            continue
        events += 1
        seen[match[1]] = seen.get(match[1], 0) + bool(_OF_KVM.search(row))
    return max(seen, key=lambda name: seen[name]) if seen else b""
