"""The table of ``perf kvm stat report`` and ``perf kvm stat live``: how many VM exits there were, by reason.

Format: tools/perf/builtin-kvm.c print_result() of Linux v3.9 (without Min Time and Max Time) to v6.19, and what its TUI
shows since v6.4 without --stdio, in nanoseconds, with or without lines around the columns.  Exit reasons are those of
arch/x86/include/uapi/asm/vmx.h (capitals) and svm.h (small letters), and UNKNOWN as often as perf has no name.  Text
that went through a mailer or a web page is read, too: quoted, wrapped, encoded (:mod:`sim.mailed`), cut down to the
first reasons; packed, too.

The table does not say how long was recorded.  The time in its last line is what the exits took, each from exit to
entry, HLT with the sleep in it; on a host with several vCPUs it may be more than was recorded, and it is less where
guests run.  ``live`` prints the time of day above each table, which begins at the one before it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sim import mailed, packed
from sim.errors import InputError
from sim.kinds import Kind, wanted
from sim.trace.reading.exit_reasons import UNKNOWN, vendor_of

QUOTE: Final = re.compile(r"^[>| \t]+(?=\S)", re.MULTILINE)
"""Quotation marks and indentation."""
HEADER: Final = re.compile(r"(?P<what>VM-EXIT|MMIO Access|IO Port Access|MSR Access)\s+Samples\s+Samples%")
OF_TUI: Final = re.compile(r"Event +name\s+Samples\s+Sample%\s+Time +\(ns\)")
TUI_ROW: Final = re.compile(
    r"(?<![\w:.+-])(?P<reason>[A-Z]{2} excp|[A-Za-z_][\w:.+-]*)\s+(?P<samples>\d+)\s+\d+\.\d+%\s+(?P<ns>\d+)"
    r"\s+\d+\.\d+%\s+\d+\s+\d+\s+\d+\b"
)
_ROW: Final = r"(?<![\w:.+-])(?P<reason>[A-Z]{2} excp|[A-Za-z_][\w:.+-]*)\s+(?P<samples>\d+)\s+\d+\.\d+%\s+\d+\.\d+%"
ROW: Final = re.compile(_ROW + r"\s+(?P<mean>\d+\.\d+)us\b")
RANGE: Final = re.compile(r"\bMin\s+Time\b(?!\s*\(ns)")
ROW_WITH_RANGE: Final = re.compile(_ROW + r"\s+\d+\.\d+us\s+\d+\.\d+us\s+(?P<mean>\d+\.\d+)us\b")
"""Where the header has Min Time and Max Time: of a row that is cut off behind the former, that is not the mean."""
LIKE_A_ROW: Final = re.compile(
    r"(?<!\S)(?P<reason>[A-Za-z_][\w:.+-]*)\s[^%A-Za-z]{1,40}%\s+[^%\s]{1,20}%(?:[ \t]+[^\s%]{1,20}){0,3}"
)
"""What remains of the rows once those that can be read are taken out."""
COMMA: Final = re.compile(r"(?<=\d),(?=\d{2}(?:us|%))")
"""The decimal mark of other locales."""
TOTAL: Final = re.compile(
    r"Total\s+Samples:\s*(?P<samples>\d+),\s*Total\s+events\s+handled\s+time:\s*(?P<us>\d+\.\d+)us"
)
LOST: Final = re.compile(r"Lost\s+events:\s*(?P<events>\d{1,18}\b)")
TIME_OF_DAY: Final = re.compile(r"(?<!\d)(\d\d):(\d\d):(\d\d)\.(\d{6})(?!\d)")
RECORDED: Final = re.compile(
    r"duration\s*[:=]?\s*(\d+(?:\.\d+)?)\s*s(?:ec(?:ond)?s?)?\b"
    r"|recorded\s+for\s+(\d+(?:\.\d+)?)\s*s(?:ec(?:ond)?s?)?\b"
    r"|(\d+\.\d+)\s+seconds\s+time\s+elapsed",
    re.IGNORECASE,
)
"""How people write down what the table lacks; the last is the line of ``perf stat``."""

OF_ARM: Final = frozenset(
    ("IRQ", "TRAP", "WFX", "DABT_LOW", "IABT_LOW", "SYS64", "HVC64", "SMC64", "CP15_32", "CP15_64", "FP_ASIMD", "SVE")
)
"""Exit reasons of arm64 (tools/perf/util/kvm-stat-arch/kvm-stat-arm64.c), in capitals."""

MANY_DIGITS: Final = re.compile(r"\d{21,}", re.ASCII)
"""No number of 64 bits has as many, and what has is no cell of a table."""

DAY_S: Final = 86_400.0
MOST_BYTES: Final = 16 << 20


class _Table(NamedTuple):
    exits: dict[str, int]
    took_s: dict[str, float]
    total: int
    handled_s: float | None
    time_of_day_s: float | None
    lost: int


@dataclass(frozen=True, slots=True)
class KvmStat:
    """VM exits as perf counted them.

    ``exits``: by reason; ``others``: those whose rows were cut off, by the total.  ``handled_s`` is the time that they
    took, in seconds, None if the text does not say it; ``recorded_s`` how long was recorded, None if it does not say
    that.  ``lost`` are events that perf lost.  ``took_s``: by reason how long all of its exits took, until the guest
    was entered again.
    """

    exits: Mapping[str, int]
    others: int
    handled_s: float | None
    recorded_s: float | None
    lost: int
    took_s: Mapping[str, float]

    @property
    def total(self) -> int:
        """All exits."""
        return sum(self.exits.values()) + self.others

    @property
    def halts(self) -> int:
        """HLT exits: the vCPU waits for an interrupt, and if that takes longer than KVM polls, off its CPU."""
        return self._count("HLT", "IDLE-HALT")

    @property
    def port_io(self) -> int:
        """Exits of port I/O, most of which go to user space."""
        return self._count("IO_INSTRUCTION", "IO")

    def _count(self, *reasons: str) -> int:
        return sum(samples for reason, samples in self.exits.items() if reason.upper() in reasons)

    @property
    def vendor(self) -> str:
        """vmx or svm, by the letters of the exit reasons."""
        return vendor_of(self.exits)


def read(path: str) -> KvmStat:
    """The table in a file; :class:`~sim.errors.InputError` for one that cannot be read, or is something else."""
    try:
        with wanted(path, Kind.EXITS), Path(path).open("rb") as stream:
            lines = packed.lines(packed.unpacked(stream, path), path, MOST_BYTES)
            return parse("".join(mailed.text_lines(lines)), path)
    except packed.DAMAGED as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def parse(text: str, name: str) -> KvmStat:
    """The same for text that errors call ``name``."""
    text = QUOTE.sub("", "".join(mailed.undone(text.splitlines(keepends=True))).replace("|", " "))
    text = COMMA.sub(".", text)
    if long := MANY_DIGITS.search(text):
        raise InputError(f"{name}: a number of {len(long[0])} digits (allowed: what perf prints, which has 20 at most)")
    text = OF_TUI.sub(_OF_STDIO, TUI_ROW.sub(_row_of_stdio, text))
    headers = list(HEADER.finditer(text))
    if not headers:
        raise InputError(
            f"{name}: no table of VM exits (allowed: the text of perf kvm stat report --stdio, whose first column is "
            "VM-EXIT, or of its TUI)"
        )
    for header in headers:
        if header["what"] != "VM-EXIT":
            line = text.count("\n", 0, header.start()) + 1
            raise InputError(f"{name}, line {line}: a table of {header['what']} (allowed: VM-EXIT, perf's default)")
    ends = [header.start() for header in headers[1:]] + [len(text)]
    starts = [0, *(header.end() for header in headers)]
    tables = [
        _table(text[before : header.start()], text[header.end() : end], name)
        for before, header, end in zip(starts, headers, ends, strict=False)
    ]
    if len(tables) == 1:
        (table,) = tables
        told = RECORDED.search(text)
        recorded = float(next(filter(None, told.groups()))) if told else None
        others = table.total - sum(table.exits.values())
        if not table.total:
            raise InputError(f"{name}: Total Samples:0 (allowed: VM exits; perf kvm stat record needs root)")
        return KvmStat(table.exits, others, table.handled_s, recorded or None, table.lost, table.took_s)
    return _live(tables, name)


HEADING: Final = 160
"""Characters in which the rest of a table's header is, also where a mail program wrapped it."""
_OF_STDIO: Final = "VM-EXIT Samples Samples%"


def _row_of_stdio(row: re.Match[str]) -> str:
    """A row of the TUI as --stdio prints it; the percentages are not read."""
    samples, ns = int(row["samples"]), int(row["ns"])
    return f"{row['reason']} {samples} 0.00% 0.00% {ns / samples / 1e3 if samples else 0.0:.9f}us"


def _table(above: str, below: str, name: str) -> _Table:
    total = TOTAL.search(below)
    rows = below[: total.start() if total else len(below)]
    pattern = ROW_WITH_RANGE if RANGE.search(rows[:HEADING]) else ROW
    exits: dict[str, int] = {}
    took_s: dict[str, float] = {}
    for row in pattern.finditer(rows):
        reason, samples = row["reason"], int(row["samples"])
        if reason in exits and reason != UNKNOWN:
            raise InputError(f"{name}: {reason} is there twice in one table (allowed: each exit reason once)")
        if reason.upper() in OF_ARM:
            raise InputError(f"{name}: {reason} is an exit reason of arm64 (allowed: those of x86, VMX's or SVM's)")
        exits[reason] = exits.get(reason, 0) + samples
        took_s[reason] = took_s.get(reason, 0.0) + samples * float(row["mean"]) * 1e-6
    if unread := LIKE_A_ROW.search(pattern.sub(" ", rows)):
        raise InputError(
            f"{name}: a row that cannot be read: {' '.join(unread[0].split())!r} (allowed: whole rows, samples without "
            "separators and times in us, as perf prints them)"
        )
    counted = sum(exits.values())
    if total is None and not exits:
        raise InputError(f"{name}: a table of VM exits without a row (allowed: one with exit reasons and samples)")
    if total is not None and int(total["samples"]) < counted:
        raise InputError(f"{name}: {counted} samples in the rows, and {total['samples']} in the line with the total")
    times = [_seconds(match) for match in TIME_OF_DAY.finditer(above)]
    lost = LOST.search(below)
    return _Table(
        exits=exits,
        took_s=took_s,
        total=int(total["samples"]) if total else counted,
        handled_s=float(total["us"]) / 1e6 if total else None,
        time_of_day_s=times[-1] if times else None,
        lost=int(lost["events"]) if lost else 0,
    )


def _seconds(match: re.Match[str]) -> float:
    hours, minutes, seconds, micros = map(int, match.groups())
    return hours * 3600 + minutes * 60 + seconds + micros / 1e6


def _live(tables: list[_Table], name: str) -> KvmStat:
    """Tables of perf kvm stat live: the first is left out, because its start is not known."""
    times = [table.time_of_day_s for table in tables if table.time_of_day_s is not None]
    if len(times) < len(tables):
        raise InputError(
            f"{name}: {len(tables)} tables (allowed: one, or those of perf kvm stat live with the time above each)"
        )
    recorded = (times[-1] - times[0]) % DAY_S
    exits: dict[str, int] = {}
    took_s: dict[str, float] = {}
    for table in tables[1:]:
        for reason, samples in table.exits.items():
            exits[reason] = exits.get(reason, 0) + samples
            took_s[reason] = took_s.get(reason, 0.0) + table.took_s[reason]
    handled = [table.handled_s for table in tables[1:]]
    return KvmStat(
        exits=exits,
        others=sum(table.total for table in tables[1:]) - sum(exits.values()),
        handled_s=sum(each for each in handled if each is not None) if None not in handled else None,
        recorded_s=recorded or None,
        lost=sum(table.lost for table in tables[1:]),
        took_s=took_s,
    )
