"""What else people paste: merged, wrapped and differently printed traces, as the tools themselves print them.

Known are merged reports of host and guests (``trace-cmd report -i HOST -i GUEST``), lines that a mail program quoted
and wrapped, and what else is pasted (:mod:`sim.trace.reading.pasted`), times in cycles (``trace_clock`` x86-tsc), a
second time in parentheses (``perf script --deltatime``), perf-prof's date in front, ftrace's ``latency-format`` (also
that of ftrace_dump_on_oops), and the raw fields of ``trace-cmd report -R``.  Each is told by the first lines that hold
an event, and undone so that lines keep their numbers.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from sim.trace.reading import lines, pasted

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
    + rb"(?:\d{1,12}\.\d{6,9}|\d{6,19})(?: \([ .+\d]*\))?: *(?:(?:\d+ +)?(?:\w+:)?\w+|$)",
    re.ASCII,
)
"""The beginning of an event, up to its name, or to where a mail program wrapped the line before it."""

# kernel/trace/trace_output.c, trace_print_lat_context(); on a console the line has the log's time before it.
_LATENCY: Final = re.compile(
    rb"^(?:\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? +)?( *\S[^\n]*?-\d+) +(\d{1,4})([^\s\d:][^\s:]{3,7}) +(\d{1,16})us"
    rb"[ +!#*@$]?: ",
    re.ASCII | re.MULTILINE,
)

_RAW: Final = tuple(
    (re.compile(pattern, re.ASCII), replacement)
    for pattern, replacement in (
        (rb"( prev_state=)(\d{1,10})( next_comm=)", lambda m: m[1] + _state(int(m[2])) + b" ==>" + m[3]),
        (
            rb"(: +)fpu=(0x[0-9a-f]+) load_fpu=(\d) xfeatures=0x([0-9a-f]+) xcomp_bv=0x([0-9a-f]+)",
            rb"\1x86/fpu: \2 load: \3 xfeatures: \4 xcomp_bv: \5",
        ),
        (rb"(\bkvm_fpu: +)load=(?:0x)?([01])\b", lambda m: m[1] + (b"load" if m[2] == b"1" else b"unload")),
        (
            rb"(\bkvm_userspace_exit: +)reason=(?:0x)?(\d+) errno=(-?\d+)",
            lambda m: m[1] + b"reason %s (%d)" % (_why(int(m[2]), int(m[3])), abs(int(m[3])) or int(m[2])),
        ),
        (rb"(\bkvm_entry: +)vcpu_id=(?:0x)?(\d+)", rb"\1vcpu \2"),
    )
)
"""Fields as trace-cmd report -R prints them, in the order of TP_STRUCT__entry, and how the kernel prints them."""

_STATES: Final = b"SDTtXZPI"


_REASONS: Final = (
    "UNKNOWN", "EXCEPTION", "IO", "HYPERCALL", "DEBUG", "HLT", "MMIO", "IRQ_WINDOW_OPEN", "SHUTDOWN", "FAIL_ENTRY",
    "INTR",
)  # fmt: skip
"""KVM_EXIT_* of include/uapi/linux/kvm.h from 0 on; of the others the number is shown."""


def _why(reason: int, errno: int) -> bytes:
    if errno < 0:
        return b"restart" if errno == -4 else b"error"
    return b"KVM_EXIT_" + (_REASONS[reason].encode() if reason < len(_REASONS) else b"%d" % reason)


def _state(bits: int) -> bytes:
    """The letter of sched_switch's prev_state; from 100H on a thread was preempted (TASK_REPORT_MAX)."""
    found = next((_STATES[k : k + 1] for k in range(len(_STATES)) if bits >> k & 1), b"R")
    return found + (b"+" if bits >= 0x100 else b"")


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
    latency: bool = False
    raw: bool = False
    ways: tuple[pasted.Way, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to be undone."""
        mailed = self.host or self.quoted or self.wrapped or self.ways
        return not (mailed or self.cycles or self.delta or self.perf_prof or self.latency or self.raw)

    def plain(self, text: bytes) -> bytes:
        """Whole lines, as the tools print them; each keeps its number."""
        text = self._unpasted(text)
        if self.host:
            text = _FILE.sub(self._host_line, text)
            text = _LEFT_OUT.sub(b"", text)
        if self.latency:
            text = _LATENCY.sub(_with_seconds, text)
        if self.wrapped:
            text = _joined(text)
        if self.raw:
            for pattern, replacement in _RAW:
                text = pattern.sub(replacement, text)
        if self.perf_prof:
            text = _PERF_PROF.sub(rb"\1 \2", text)
        if self.delta:
            text = _DELTA.sub(rb"\1: ", text)
        return _CYCLES.sub(self._seconds, text) if self.cycles else text

    def _unpasted(self, text: bytes) -> bytes:
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


def _with_seconds(match: re.Match[bytes]) -> bytes:
    seconds, micros = divmod(int(match[4]), 1_000_000)
    return b"%s [%03d] %s %d.%06d: " % (match[1], int(match[2]), match[3], seconds, micros)


_MARK: Final = b"\x01"
_LEFT_OUT: Final = re.compile(rb"^\x01.*$", re.MULTILINE)


def told(text: bytes, tsc_hz: float = 0.0) -> Dialect | None:
    """The dialect of a text of whole lines; None if it holds no event that would tell it."""
    sample = text[: text.rfind(b"\n", 0, SAMPLE) + 1]
    found = Dialect(tsc_hz=tsc_hz, ways=pasted.ways(sample))
    sample = found._unpasted(sample)
    texts = [row for row in sample.split(b"\n") if row.strip() and not row.startswith(b"#")]
    found.quoted = bool(texts) and sum(row.startswith((b">", b"|")) for row in texts) > 0.9 * len(texts)
    if found.quoted:
        sample = _QUOTED.sub(b"", sample)
    found.latency = _LATENCY.search(sample) is not None
    if found.latency:
        sample = _LATENCY.sub(_with_seconds, sample)
    rows = sample.split(b"\n")
    files = _files(rows)
    if files:
        found.host = files
        rows = Dialect(host=files).plain(sample).split(b"\n")
        sample = b"\n".join(rows)
    if not any(map(_BEGINS.match, rows)) and not _PERF_PROF.search(sample):
        return None
    found.raw = any(pattern.search(sample) for pattern, _ in _RAW)
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
    """Whether many events that cannot be read become readable with the lines after them."""
    begins = [row for row, line in enumerate(rows) if _BEGINS.match(line)]
    mended = 0
    for row, after in pairwise([*begins, len(rows)]):
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
            joined = rows[at].rstrip() + b" " + line.strip()
            if _is_event(rows[at]) and not _is_event(joined):  # what the mail says behind it
                at = -1
            else:
                rows[at], rows[row] = joined, b""
    return b"\n".join(rows)
