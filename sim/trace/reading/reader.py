"""Reads a trace: text in, chunks of columns out, in bounded memory, and a report of what was found amiss.

Text of ``perf script``, of the ftrace ``trace`` file or of ``trace-cmd report``, plain or packed (:mod:`sim.packed`),
from a file or a stream; also as people paste it (:mod:`sim.trace.reading.dialects`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from sim import packed
from sim.errors import InputError
from sim.kinds import LOOKED_AT
from sim.trace.reading import dialects, embedded, exit_reasons, lines
from sim.trace.reading.chunks import Chunk, Gap
from sim.trace.reading.columns import Interner, Lines
from sim.trace.reading.dialects import Dialect
from sim.trace.reading.digits import PADDING, Block
from sim.trace.reading.events import EVENTS, TABLE_OF, TABLES, Table
from sim.trace.reading.payloads import CODES, PARSERS, Columns
from sim.trace.reading.report import Report
from sim.trace.reading.sections import HEADED, Sections

BLOCK: Final = 2 << 20
"""Bytes of text that are read at a time; a line that is longer is foreign."""

JUMP_NS: Final = 1_000_000_000
"""A CPU's clock that steps back by this much shows that a file has two recordings."""

COMMENTS: Final = 10_000

TOO_LONG: Final = b"(a line that is too long) "
"""What is left of one, before its end."""


class Reader:
    """Reads one trace, once; :attr:`report` is complete when :meth:`chunks` has ended.

    ``follow`` is the file of a merged report whose lines are read, by default the host's.
    """

    def __init__(self, stream: IO[bytes], name: str, block: int = BLOCK, follow: str = "") -> None:
        self.name = name
        self.report = Report()
        self.comments: list[str] = []
        self._stream = stream
        self._block = block
        self._interner = Interner()
        self._line = 0
        self._clock: dict[int, int] = {}
        self._seen_event = False
        self._in_text = False
        self._dialect: Dialect | None = None
        self._late_cpu: int | None = None
        self._sections = Sections()
        self._follow = follow.encode()

    @property
    def dialect(self) -> Dialect:
        """How the trace is printed, as far as it has been read."""
        return self._dialect or Dialect()

    @property
    def names(self) -> list[str]:
        """The names that codes stand for; grows while the trace is read."""
        return self._interner.names

    def chunks(self) -> Iterator[Chunk]:
        """The events, in chunks.

        Raises :class:`InputError` if the stream cannot be read or is not text, or if most of its events cannot be read.
        """
        for text in self._blocks():
            if self._dialect is None:
                self._dialect = dialects.told(text)
                if self._dialect is not None and self._follow:
                    if not self._dialect.host:
                        raise InputError(
                            f"{self.name} is not a merged report of several files (trace-cmd report -i -i)"
                        )
                    self._dialect.host = self._follow
            if self._dialect is not None and not self._dialect.is_plain:
                text = self._dialect.plain(text)
            yield self._chunk(text)
        read = self.report.events.total()
        if 0 < read < self.report.headless:  # without any it is said what is missing
            raise InputError(
                f"{self.name}: {self.report.headless} lines name an event and lack its task, CPU or time, and {read} "
                f"have them (perf script -F comm,tid,cpu,time,event,trace), the first: {self.report.first_foreign!r}"
            )

        self._check_order()

    def _check_order(self) -> None:
        """Refuses events that are not in the order of time; some that are not, of lost events, are survived."""
        report = self.report
        if report.steps_back > max(_FEW, _BACKWARDS * report.events.total()):
            raise InputError(f"{self.name}: times run backwards, the newest first; tac FILE turns them round")
        late_cpu = self._sections.late_cpu()
        if late_cpu is None and report.recordings == 1 and not report.steps_back:
            late_cpu = self._late_cpu
        if late_cpu is not None:
            raise InputError(
                f"{self.name}: the events of CPU {late_cpu} begin before the last ones of other CPUs, as in the files "
                "of per_cpu one after the other (allowed: in the order of time, as perf script, trace-cmd report and "
                "cat trace have them)"
            )

    def _blocks(self) -> Iterator[bytes]:
        rest, returns = b"", False
        for data in self._pieces():
            returns = returns or (b"\n" not in data and b"\r" in data)
            if returns:  # of a terminal, or of a Macintosh
                data = data.replace(b"\r", b"\n")
            cut = data.rfind(b"\n") + 1
            if not cut:
                rest += data
                if len(rest) > 2 * self._block:  # no line of a trace is that long
                    rest = TOO_LONG
                continue
            yield rest + data[:cut]
            rest = data[cut:]
        if rest:  # a last line without its end may be cut in the middle of a number
            self.report.truncated = True
            self.report.lines += 1

    def _pieces(self) -> Iterator[bytes]:
        """Up to a block at a time; of a gzip file that is cut off or damaged, all that comes before that place."""
        parts: list[bytes] = []
        size, any_before = 0, False
        try:
            stream = packed.unpacked(self._stream, self.name)
            if what := packed.told(stream):
                raise InputError(f"{self.name} is {what}; allowed: a trace as text")
            if packed.is_binary(stream):
                raise InputError(
                    f"{self.name} is not text (perf.data and trace.dat are read by perf script and trace-cmd report; if"
                    " ftrace printed it with its option bin: echo nobin > trace_options, and read the file trace again)"
                )
            self.report.begins = stream.peek(LOOKED_AT)[:LOOKED_AT].decode("utf-8", "replace")
            plain, stream = stream, embedded.unwrapped(stream, self.name)
            while part := stream.read1(self._block - size):
                if stream is plain and not any_before and size < LOOKED_AT:
                    self.report.begins = b"".join((*parts, part))[:LOOKED_AT].decode("utf-8", "replace")
                parts.append(part)
                size += len(part)
                if size == self._block:
                    yield b"".join(parts)
                    parts, size, any_before = [], 0, True
        except packed.DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise InputError(f"cannot read {self.name}: {error.strerror}") from error
            if not (parts or any_before):
                raise InputError(f"cannot read {self.name}: {error}") from error
            self.report.truncated = True
        if parts:
            yield b"".join(parts)

    # One block.

    def _chunk(self, text: bytes) -> Chunk:
        block = Block(text)
        found = Lines(block, PADDING)
        count = len(found.ends)
        parts: dict[str, list[tuple[NDArray[np.int64], Columns]]] = {}
        for name, codes in CODES.items():
            rows = np.flatnonzero(np.isin(found.event, codes) if len(codes) > 1 else found.event == codes[0])
            if not len(rows):
                continue
            ok, columns, names = PARSERS[name](block, found.payload[rows], found.ends[rows])
            if not ok.all():
                found.event[rows[~ok]] = -1
                rows = rows[ok]
                if not len(rows):
                    continue  # a table without a row would say that there are such events
                columns = {key: values[ok] for key, values in columns.items()}
                names = {key: (places[ok], lengths[ok], words) for key, (places, lengths, words) in names.items()}
            for column, (places, lengths, words) in names.items():
                columns[column] = self._interner.codes(block.text_words(places, lengths, words))
            parts.setdefault(name, []).append((rows, columns))

        comm = np.zeros(count, dtype=np.int32)
        fast = np.flatnonzero(found.event >= 0)
        comm[fast] = self._interner.codes(found.comms(fast))
        gaps = self._slowly(found, comm, parts)
        return self._assembled(found, comm, parts, gaps)

    def _slowly(
        self, found: Lines, comm: NDArray[np.int32], parts: dict[str, list[tuple[NDArray[np.int64], Columns]]]
    ) -> list[Gap]:
        """The lines that are left, one by one; the places where events are missing."""
        gaps: list[Gap] = []
        slow: dict[str, tuple[list[int], list[tuple[Any, ...]]]] = {}
        text, report = found.block.text, self.report
        told = -1 if self._in_text else None
        for row in np.flatnonzero(found.event < 0).tolist():
            line = text[found.starts[row] : found.ends[row]]
            event = lines.parse(line)
            if isinstance(event, lines.Event):
                found.time_ns[row], found.cpu[row], found.tid[row] = event.time_ns, event.cpu, event.tid
                found.event[row] = event.event
                comm[row] = self._interner.code(lines.printable(event.comm))
                table = TABLE_OF[EVENTS[event.event]]
                rows, values = slow.setdefault(table.name, ([], []))
                rows.append(row)
                values.append(event.values)
            elif isinstance(event, str):
                report.others[event] += 1
                told = row if event in lines.OF_TEXT else told
            elif event is None and told == row - 1 and _goes_on(line):
                told = row
            else:
                if isinstance(event, lines.Unread):
                    report.unread[event.name] += 1
                    report.first_unread.setdefault(event.name, event.payload)
                self._other_line(line, row, found, gaps)
        self._in_text = told == len(found.event) - 1
        for table in TABLES:
            if table.name in slow:
                rows, values = slow[table.name]
                parts.setdefault(table.name, []).append((np.array(rows, dtype=np.int64), self._columns(table, values)))
        return gaps

    def _other_line(self, line: bytes, row: int, found: Lines, gaps: list[Gap]) -> None:
        report = self.report
        if _OF_BOOT.search(line) and not line.startswith(b"#"):  # the kernel's log, in front of the trace or around it
            line = b"# " + line
        if line.startswith(b"#") and not line.startswith(b"#####"):
            begins = b"Enabled xstate features" in line or b"# tracer:" in line
            if begins and (self._seen_event or (found.event[:row] >= 0).any()):
                report.recordings += 1
                gaps.append(Gap(row, HEADED))
            if len(self.comments) < COMMENTS:
                self.comments.append(line.decode("utf-8", "replace"))
        elif lost := lines.LOST.match(line):
            number = int(lost["number"] or lost["perf"] or lost["plain"] or 0)
            report.lost_times += 1
            report.lost_events += number
            gaps.append(Gap(row, "lost events"))
        elif not lines.FILLER.match(line):
            report.foreign += 1
            report.headless += lines.NAMES_EVENT.search(line) is not None and lines.HEADER.match(line) is None
            if not report.first_foreign:
                report.first_foreign = line[:160].decode("utf-8", "replace").strip()

    def _columns(self, table: Table, values: list[tuple[Any, ...]]) -> Columns:
        columns: Columns = {}
        for (name, kind), column in zip(table.fields, zip(*values, strict=True), strict=True):
            if kind == "name":
                codes = [self._interner.code(lines.printable(text)) for text in column]
                columns[name] = np.array(codes, dtype=np.int32)
            else:
                columns[name] = np.array(column, dtype=np.uint64 if kind == "hex" else np.int64)
        return columns

    def _as_kernel(self, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Codes of exit reasons, as those of the kernel's names for them."""
        kinds, at = np.unique(codes, return_inverse=True)
        known = [self._interner.code(exit_reasons.as_kernel(self._interner.names[code])) for code in kinds.tolist()]
        return np.array(known, dtype=np.int32)[at]

    def _assembled(
        self,
        found: Lines,
        comm: NDArray[np.int32],
        parts: dict[str, list[tuple[NDArray[np.int64], Columns]]],
        gaps: list[Gap],
    ) -> Chunk:
        is_event = found.event >= 0
        rows = np.flatnonzero(is_event)
        place = np.cumsum(is_event) - 1
        tables = {}
        for name, several in parts.items():
            at = np.concatenate([part[0] for part in several])
            columns = {key: np.concatenate([part[1][key] for part in several]) for key in several[0][1]}
            if len(several) > 1:
                order = np.argsort(at, kind="stable")
                at, columns = at[order], {key: values[order] for key, values in columns.items()}
            if name == "kvm_exit":
                columns["reason"] = self._as_kernel(columns["reason"])
            tables[name] = (place[at], columns)
        chunk = Chunk(
            line=rows + self._line + 1,
            time_ns=found.time_ns[rows],
            cpu=found.cpu[rows],
            tid=found.tid[rows],
            comm=comm[rows],
            event=found.event[rows],
            tables=tables,
            gaps=[Gap(int(place[gap.row]) + 1 if gap.row < len(place) else len(rows), gap.why) for gap in gaps],
        )
        self._line += len(found.ends)
        self._note(chunk)
        return chunk

    def _is_late(self, chunk: Chunk, row: int, before_ns: int) -> bool:
        """Whether the event of a row, the first of its CPU, is long before the last one of the others, which is at
        ``before_ns`` in earlier chunks.
        """
        first = self.report.first_ns or 0
        last = max(before_ns, int(chunk.time_ns[: row + 1].max()))
        return last - int(chunk.time_ns[row]) > max(_LATE_NS, _LATE * (last - first))

    def _note(self, chunk: Chunk) -> None:
        report = self.report
        report.lines = self._line
        counts = np.bincount(chunk.event, minlength=len(EVENTS)).tolist()
        report.events.update({EVENTS[code]: number for code, number in enumerate(counts) if number})
        if not len(chunk.line):
            return
        self._seen_event = True
        self._sections.add(chunk)
        if report.first_ns is None:
            report.first_ns = int(chunk.time_ns[0])
        before_ns = report.last_ns
        report.last_ns = max(report.last_ns, int(chunk.time_ns.max()))
        report.out_of_order += int((np.diff(chunk.time_ns) < 0).sum())
        present = np.flatnonzero(np.bincount(chunk.cpu)).tolist()
        report.cpus.update(present)
        for cpu in present:
            rows = np.flatnonzero(chunk.cpu == cpu)
            if cpu not in self._clock and self._late_cpu is None and self._is_late(chunk, int(rows[0]), before_ns):
                self._late_cpu = cpu
            times = np.concatenate(([self._clock.get(cpu, 0)], chunk.time_ns[rows]))
            self._clock[cpu] = int(times[-1])
            steps = np.diff(times)
            report.steps_back += int((steps < 0).sum())
            for row in rows[steps < -JUMP_NS].tolist():
                report.recordings += 1
                chunk.gaps.append(Gap(row, "the clock steps back"))
        for name, column in (("sched_wakeup", "target_cpu"), ("sched_migrate_task", "dest_cpu")):
            if name in chunk.tables:
                report.named_cpus.update(np.unique(chunk.tables[name][1][column]).tolist())
        chunk.gaps.sort(key=lambda gap: gap.row)


_BACKWARDS: Final = 0.8
"""The share of events before the one above them from which a text has the newest first, and how many are too few."""
_FEW: Final = 10
_LATE: Final = 0.1
"""The share of the time before a CPU's first event by which that is earlier than the last event before it, if not by
chance, and at least:"""
_LATE_NS: Final = 1_000_000


def _goes_on(line: bytes) -> bool:
    """Whether a line may be the next one of a text that somebody wrote to trace_marker."""
    other = lines.NAMES_EVENT.search(line) or lines.LOST.match(line) or _OF_BOOT.search(line)
    return not line.startswith(b"#") and other is None


_OF_BOOT: Final = re.compile(rb"\bx86/fpu: (?:Supporting|xstate_offset|Enabled)|\bLinux version \d")
