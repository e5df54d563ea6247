"""One line of a trace at a time: slow, and right for every format; :mod:`sim.trace.reading.columns` is the fast way.

Formats: ``perf script`` (tools/perf/builtin-script.c perf_sample__fprintf_start()), the ftrace ``trace`` file
(kernel/trace/trace_output.c trace_print_context(), kernel/trace/trace.c print_trace_line()), and ``trace-cmd report``
(trace-cmd's tracecmd/trace-read.c show_data()).
"""

import re
from typing import Final, NamedTuple

from sim.trace.reading.events import CODE, TABLE_OF, Kind, Table

HEADER: Final = re.compile(
    # comm-tid, comm [pid/]tid, or tid alone; each run of blanks is taken once, as a whole
    rb" *+(?:(?P<comm>.*?)(?:-|(?<! ) ++(?:-?\d+/)?))?(?P<tid>-?\d+) *+(?:\( *[-\d]+\) *+)?"
    rb"(?:\[(?P<cpu>\d{3,5})\] +(?:[^\s:]{4,8} +|[A-Za-z]{1,3} +)?"  # ftrace's flags (irqs-off, ...), perf's -F +misc
    rb"|(?P<bare_cpu>\d{1,4})[^\s\d:][^\s:]{3,7} +)"  # the same with trace-cmd report -l
    rb"(?P<seconds>\d{1,12})\.(?P<fraction>\d{9}|\d{6}): +(?:\d+ +)?"  # perf script -F +period
    # perf: event modifiers; ftrace: sys_read(...) and sys_read -> 0x0
    rb"(?:\w+:)?(?P<event>\w+)(?::[A-Za-z]{1,8})? *(?:: *|(?=\(|->))(?P<payload>.*)",
    re.ASCII | re.DOTALL,
)

LOST: Final = re.compile(
    rb"CPU:(?P<cpu>\d+) \[(?:LOST )?(?P<number>\d{1,18})? ?EVENTS(?: DROPPED)?\]"
    rb"|.*\bPERF_RECORD_LOST(?:_SAMPLES)?\b:? lost (?P<perf>\d{1,18}\b)"
    rb"|[^:]*\b(?:LOST|lost) (?P<plain>\d{1,18}) (?:EVENTS|events|chunks)\b",
    re.ASCII,
)
"""Lost events: ftrace, trace-cmd, ``perf script --show-lost-events``, and perf's warning."""

FILLER: Final = re.compile(
    rb"\s*$|##### CPU \d+ buffer started ####|version = \d+\s*$|cpus=\d+\s*$|CPU \d+ is empty\s*$"
    rb"|\s+[0-9a-f]{1,16} \S.*\)\s*$|\s*=> \S|.*: <(?:user )?stack trace>\s*$"  # callchains of perf and of ftrace
    rb"|\s+[0-9a-f]{8,16} \S+\s*$|  [^\s:]+:\d+(?: \(inlined\))?\s*$"  # perf script -F -dso, +srcline
    rb"|\[ perf record: .*\]\s*$"
    rb"|.*: [\w.]+ <-[\w.]+\s*$"  # ftrace's functions
    rb"|.*: +\tmetric: "  # perf script -F +metric
    rb"|.*: PERF_RECORD_(?!LOST)[A-Z]",  # perf script --show-task-events and the like
    re.ASCII,
)
"""What the tools print between events: no event of a tracepoint, and nothing amiss."""


OF_TEXT: Final = ("tracing_mark_write", "print", "bprint", "bputs")
"""Events whose text, of trace_marker or trace_printk(), may go on in the next lines."""

NAMES_EVENT: Final = re.compile(rb"\b(?:sched_switch|x86_fpu_regs_(?:de)?activated|kvm_(?:entry|exit|fpu)): ", re.ASCII)
"""An event that is in every trace of use here."""


def printable(name: bytes) -> str:
    """A thread's name as text, without the blanks of its column; a control character in it is escaped.

    Any thread may call itself by a terminal's escape sequence (prctl(PR_SET_NAME)).
    """
    text = name.strip(b" ").decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Event(NamedTuple):
    """A line that holds an event: its common columns, and the values of its table's fields, names as bytes."""

    time_ns: int
    cpu: int
    tid: int
    comm: bytes
    event: int
    values: tuple[int | bytes, ...]


class Unread(NamedTuple):
    """A line that names an event and does not have its fields, at least not as the kernel prints them."""

    name: str
    payload: str


def parse(line: bytes) -> Event | str | Unread | None:
    """The event on a line; the name of an event that is not read here; or None for a line that holds none."""
    match = HEADER.match(line)
    if match is None:
        return None
    name = match["event"].decode()
    if name.startswith("sys_") and not name.startswith(("sys_enter", "sys_exit")):  # ftrace prints sys_read(...)
        name = ("sys_enter_" if match["payload"].startswith(b"(") else "sys_exit_") + name[4:]
    table = TABLE_OF.get(name)
    if table is None:
        return name
    payload = table.pattern.match(match["payload"])
    if payload is None and table.plugin is not None:
        payload = table.plugin.match(match["payload"])
    values = () if payload is None else _values(table, payload)
    tid, seconds = _number(match["tid"], _INT32), _number(match["seconds"], _INT64 // NS)
    if payload is None or tid is None or seconds is None or None in values:
        return Unread(name, match["payload"][:_SHOWN].decode("utf-8", "replace").strip())
    fraction = match["fraction"]
    time_ns = seconds * NS + int(fraction) * (1 if len(fraction) == 9 else 1000)
    cpu = int(match["cpu"] or match["bare_cpu"])
    return Event(time_ns, cpu, tid, match["comm"] or b"", CODE[name], values)  # type: ignore[arg-type]  # no None


NS: Final = 1_000_000_000
_INT32, _INT64 = 1 << 31, 1 << 63
_SHOWN: Final = 160


def _values(table: Table, payload: re.Match[bytes]) -> tuple[int | bytes | None, ...]:
    """The values of the table's fields; None for a number that is too large for its column."""
    return tuple(_value(kind, text) for (_, kind), text in zip(table.fields, payload.groups(), strict=True))


def _value(kind: Kind, text: bytes) -> int | bytes | None:
    match kind:
        case "name":
            return text
        case "letter":
            return ord(text)
        case "hex":
            return int(text, 16)
        case _:
            return _number(text, _INT64)


def _number(text: bytes, limit: int) -> int | None:
    value = int(text) if len(text) <= _DIGITS else limit
    return value if -limit <= value < limit else None


_DIGITS: Final = 20
