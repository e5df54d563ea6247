"""The text of a trace that went through a mail program, a web page or a terminal, as bytes, line for line.

Each transformation is recognised in a sample of the text, and undone so that lines keep their numbers.
(:mod:`sim.mailed` does that for logs of a few lines, and does not keep them.)
"""

import re
from collections.abc import Callable
from html import unescape
from typing import Final

from sim.trace.reading import prefixes
from sim.trace.reading.prefixes import Undo

_SOFT: Final = re.compile(rb"=[ \t]*\r?$", re.MULTILINE)
_CODE: Final = re.compile(rb"=([0-9A-F]{2})")
_REFERENCE: Final = re.compile(rb"&(?:#\d{1,5}|#x[0-9a-fA-F]{1,4}|[a-z]{2,6});")
_TAG: Final = re.compile(rb"</?(?:pre|code|span|div|p|td|tr|li|ol|font|b)(?:\s[^<>\n]{0,200})?>")
_COLOUR: Final = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
_COLOURED: Final = re.compile(rb"^\x1b\[[0-9;]*m|\x1b\[[0-9;]*m(?:\[\d{3,5}\]|\s*$)")
_PART: Final = re.compile(rb"(?P<head>\S{20,40} std(?:out|err) )(?P<tag>[PF])(?: |$)")
# kernel/trace/trace_functions_graph.c, print_graph_comment(), with the options funcgraph-abstime and funcgraph-proc
_GRAPH: Final = re.compile(
    rb"^ *(?P<time>\d+\.\d{6}) +\| +(?P<cpu>\d{1,4})\) +(?P<thread>\S[^\n|]{0,40}?-\d+) +\|[^\n/]*"
    rb"/\* (?P<event>\w+: [^\n]*?) *\*/ *$",
    re.MULTILINE,
)
# tools/perf/builtin-script.c, perf_sample__fprintf_start(), with --Latency
_PERF_LATENCY: Final = re.compile(
    rb"^(?P<thread>[^\n]{8} +-?\d+(?:/-?\d+ *)?) (?P<cpu>[ \d]{2}\d) +(?P<rest>\d{1,12}\.(?:\d{9}|\d{6}): )",
    re.MULTILINE,
)
# kernel/trace/trace_output.c, trace_print_lat_context() and lat_print_timestamp(), with the option verbose
_VERBOSE: Final = re.compile(
    rb"^(?P<comm> *\S[^\n]*?) +(?P<tid>\d+) +(?P<cpu>\d{1,4}) \d+ [0-9a-f]{8} [0-9a-f]{8,16} "
    rb"\[(?P<us>[0-9a-f]{8,16})\] -?\d+\.\d{3}ms \(\+-?\d+\.\d{3}ms\): ",
    re.MULTILINE,
)
# The columns of KernelShark's list: a number, CPU, time, task, its ID, ftrace's flags, event, fields.
_KERNELSHARK: Final = re.compile(
    rb"^[ \t]*\d+[ \t]+(?P<cpu>\d{1,4})[ \t]+(?P<time>\d{1,9}\.(?:\d{9}|\d{6}))[ \t]+(?P<comm>\S[^\t\n]*?)[ \t]+"
    rb"(?P<tid>\d+)[ \t]+[^\s:]{4,8}[ \t]+(?:\w+/)?(?P<event>\w+)[ \t]*(?=[\s\w])",
    re.MULTILINE,
)
_BLANK: Final = re.compile(rb"\xc2\xa0|\xe2\x80[\x80-\x8a\xaf]|(?<![\x80-\xff])\xa0|\t")


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
    for _ in range(2):  # twice where a page shows the source of another
        text = _REFERENCE.sub(lambda match: unescape(match[0].decode()).encode(), _TAG.sub(b"", text))
    return text


def _of_whole_lines(text: bytes) -> bytes:
    """The parts of a line in a container's log at the place of the first."""
    rows = text.split(b"\n")
    at = -1
    for row, line in enumerate(rows):
        part = _PART.match(line)
        if part is None:
            at = -1
        elif at >= 0:
            rows[at] += line[part.end() :].rstrip(b"\r")
            rows[row] = b""
            at = at if part["tag"] == b"P" else -1
        elif part["tag"] == b"P":
            at, rows[row] = row, part["head"] + b"F " + line[part.end() :].rstrip(b"\r")
    return b"\n".join(rows)


def _is_coloured(text: bytes) -> bool:
    """Whether most lines are, at their ends or at the CPU; a colour within a thread's name is that name."""
    rows = [row for row in text.split(b"\n") if row.strip() and not row.startswith(b"#")]
    return sum(_COLOURED.search(row) is not None for row in rows) > 0.9 * len(rows)


def _of_graph(match: re.Match[bytes]) -> bytes:
    return b"%s [%03d] %s: %s" % (match["thread"], int(match["cpu"]), match["time"], match["event"])


def _of_verbose(match: re.Match[bytes]) -> bytes:
    seconds, micros = divmod(int(match["us"], 16), 1_000_000)
    return b"%s-%s [%03d] %d.%06d: " % (match["comm"], match["tid"], int(match["cpu"]), seconds, micros)


def _of_kernelshark(match: re.Match[bytes]) -> bytes:
    thread = b"%16s-%s" % (match["comm"], match["tid"])
    return b"%s [%03d] %s: %s: " % (thread, int(match["cpu"]), match["time"], match["event"])


def _is_of_perf_latency(text: bytes) -> bool:
    """Whether most lines have their CPU without brackets."""
    rows = [row for row in text.split(b"\n") if row.strip() and not row.startswith((b"#", b"\t"))]
    return sum(_PERF_LATENCY.match(row) is not None for row in rows) > 0.5 * len(rows)


def _with_brackets(text: bytes) -> bytes:
    return _PERF_LATENCY.sub(lambda match: b"%s [%03d] %s" % (match["thread"], int(match["cpu"]), match["rest"]), text)


def _told(told: Callable[[bytes], object], undo: Undo) -> Callable[[bytes], Undo | None]:
    return lambda sample: undo if told(sample) else None


def _without(
    pattern: re.Pattern[bytes], replacement: bytes | Callable[[re.Match[bytes]], bytes] = b""
) -> Callable[[bytes], Undo | None]:
    return _told(pattern.search, lambda text: pattern.sub(replacement, text))


def _without_colours(text: bytes) -> bytes:
    return _COLOUR.sub(b"", text)


_WAYS: Final = (
    _told(_is_quoted_printable, _from_quoted_printable),
    _told(re.compile(rb"=&(?:amp;)?gt; next_comm|&lt;(?:idle|\.\.\.)&gt;-|<pre[ >]|&nbsp;").search, _from_html),
    # Around an event's name, as grep puts them; within a thread's name they are that name.
    _told(re.compile(rb"\x1b\[[0-9;]*m(?:\x1b\[K)?(?:\w+:)?(?:sched_|kvm_|x86_fpu)").search, _without_colours),
    _told(_is_coloured, _without_colours),
    _without(re.compile(rb"\\u00(?:3[ce]|26)"), lambda match: bytes.fromhex(match[0][-2:].decode())),  # JSON of Go
    _without(re.compile(rb"\\n\\(?=\r?$)", re.MULTILINE)),  # systrace writes a string of JavaScript
    _without(re.compile(rb"(?<= )(?:\xe2\x87\x92|\xe2\x86\x92|(?:\xe2\x95\x90)+>)(?= next_comm=)"), b"==>"),  # arrows
    _without(re.compile(rb"(?<=\S)\xe2\x80[\x90-\x94](?=\d+ +\[\d{3,5}\] )"), b"-"),  # dashes
    _without(
        re.compile(rb"(?<=\]) +\[?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\]? +(?=\d+\.\d{6})"), b" "
    ),  # perf's -F +tod
    _without(re.compile(rb"(?<=\d:) +\([+-]?\d+(?:\.\d+)?\) +(?=\w+: )"), b" "),  # trace-cmd report --ts-diff
    _without(_GRAPH, _of_graph),
    _without(_VERBOSE, _of_verbose),
    _without(_KERNELSHARK, _of_kernelshark),
    _told(_is_of_perf_latency, _with_brackets),
    _told(re.compile(rb"^\S{20,40} std(?:out|err) P ", re.MULTILINE).search, _of_whole_lines),
    prefixes.of_columns,
    prefixes.of_instances,
)
"""In the order in which they are undone."""

_LAST: Final = _told(
    re.compile(rb"\xa0|\xe2\x80[\x80-\x8a\xaf]|\]\t|\d:\t|-\d+\t").search, lambda text: _BLANK.sub(b" ", text)
)


def undone(text: bytes, ways: tuple[Undo, ...]) -> bytes:
    """The text with all of ``ways`` undone."""
    for undo in ways:
        text = undo(text)
    return text


def ways(sample: bytes) -> tuple[Undo, ...]:
    """What undoes all that was done to a sample of the text."""
    found: list[Undo] = []
    for way in _WAYS:
        if undo := way(sample):
            found.append(undo)
            sample = undo(sample)
    for undo in prefixes.known(sample):
        found.append(undo)
        sample = undo(sample)
    if undo := _LAST(sample):
        found.append(undo)
    return tuple(found)
