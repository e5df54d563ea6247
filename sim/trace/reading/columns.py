"""Many lines of a trace at once, into columns.

Lines as the tools print them are found by the places of a few characters, and their fields are read for all lines
together (:mod:`sim.trace.reading.digits`).  Every character between the fields is compared, so a line is read here
exactly as :mod:`sim.trace.reading.lines` reads it, or left to that.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.trace.reading.digits import Block, Mask, Places, Words, word
from sim.trace.reading.events import CODE, EVENTS, SUBSYSTEM, TABLE_OF
from sim.trace.reading.lines import printable

Columns = dict[str, NDArray[Any]]
Name = tuple[Places, NDArray[np.intp], int]
"""Where names are in the block, how long they are, and in how many words of eight bytes they fit."""


class Lines:
    """Line starts and ends of a block, and the headers of those lines that have one as the tools print it.

    ``event`` is -1 where the line is left to the slow way.  Arrays have one element per line.
    """

    def __init__(self, block: Block, first: int) -> None:
        ends = block.places("\n")[:-8]
        self.block = block
        self.ends = ends
        self.starts = np.concatenate(([first], ends[:-1] + 1))
        count = len(ends)
        self.time_ns = np.zeros(count, dtype=np.int64)
        self.cpu = np.zeros(count, dtype=np.int32)
        self.tid = np.zeros(count, dtype=np.int32)
        self.event = np.full(count, -1, dtype=np.int8)
        self.payload = np.zeros(count, dtype=np.int64)
        if count:
            self._headers()

    def _headers(self) -> None:
        block = self.block
        colons = block.places(":")
        bracket, found = _first(block.places("["), self.starts, self.ends)
        colon = np.searchsorted(colons, bracket)
        time_end, second, third = (colons[np.minimum(colon + k, len(colons) - 1)] for k in range(3))
        good = np.flatnonzero(found & (bracket - self.starts < 64) & (second < self.ends))
        bracket, start, end, time_end, second, third = (
            array[good] for array in (bracket, self.starts, self.ends, time_end, second, third)
        )

        keep, with_subsystem = self._subsystems(time_end, second)
        name_end = np.where(with_subsystem, third, second)
        name = np.where(with_subsystem, second + 1, time_end + 2)
        keep &= (name_end < end) & (name_end - name < 25)
        name_end = np.where(keep, name_end, name)

        around = block.words(bracket)  # [000] and blanks
        digits = [(around >> np.uint64(8 * k) & np.uint64(255)).astype(np.int32) - ord("0") for k in (1, 2, 3)]
        keep &= np.logical_and.reduce([(d >= 0) & (d <= 9) for d in digits])
        keep &= around >> np.uint64(32) & np.uint64(0xFFFF) == word("] ")
        self.cpu[good] = digits[0] * 100 + digits[1] * 10 + digits[2]
        keep &= self._times(good, bracket + 5, time_end)
        keep &= self._threads(good, start, bracket)
        self.payload[good] = name_end + 1 + block.blanks(name_end + 1)
        self._names(good[keep], name[keep], name_end[keep])

    def _subsystems(self, time_end: Places, colon: Places) -> tuple[Mask, Mask]:
        """Whether the text between the time and the next colon is right, and whether it is a subsystem (perf)."""
        before = self.block.words(colon - 8)
        length = np.zeros(len(colon), dtype=np.int64)
        for name in SUBSYSTEMS:
            shown = (" " + name)[-8:]
            same = before >> np.uint64(64 - 8 * len(shown)) == word(shown)
            if len(shown) == len(name):
                same &= self.block.is_at(colon - 9, " ")
            length[same] = len(name)
        blanks = self.block.blanks(time_end + 1)
        with_subsystem = (length > 0) & ~self.block.is_at(colon + 1, " ")
        return np.where(with_subsystem, blanks == colon - length - time_end - 1, blanks == 1), with_subsystem

    def _times(self, good: Places, start: Places, end: Places) -> Mask:
        """Seconds with six or nine decimals, after blanks or (ftrace) after flags and blanks."""
        block = self.block
        nanoseconds = block.is_at(end - 10, ".")
        fraction, ok = block.fraction(end, 6)
        seconds, length = block.decimal_before(end - 7)
        ok &= block.is_at(end - 7, ".")
        first = end - 7 - length
        self.time_ns[good] = seconds * 1_000_000_000 + fraction * 1000
        if nanoseconds.any():
            where = np.flatnonzero(nanoseconds)
            last, fine = block.fraction(end[where], 8)
            hundreds = block.bytes[end[where] - 9].astype(np.int64) - ord("0")
            seconds, size = block.decimal_before(end[where] - 10)
            self.time_ns[good[where]] = seconds * 1_000_000_000 + hundreds * 100_000_000 + last
            ok[where] = fine & (hundreds >= 0) & (hundreds <= 9)
            length[where] = size
            first[where] = end[where] - 10 - size
        ok &= (length > 0) & (length < 8)
        plain = block.blank(start, first - start)
        flagged = np.flatnonzero(ok & ~plain)
        if len(flagged):
            flags = block.token(start[flagged] + 1, 2)
            behind = start[flagged] + 1 + flags
            plain[flagged] = (flags >= 4) & (flags <= 8) & block.blank(behind, first[flagged] - behind)
        return ok & plain

    def _threads(self, good: Places, start: Places, bracket: Places) -> Mask:
        """perf prints ``%16s %5d [`` (or ``%7d``), ftrace ``%16s-%-7d [``, trace-cmd ``%16s-%-5d [``."""
        block = self.block
        separator = block.bytes[start + 16]
        value, length = block.decimal_before(bracket - 1)
        negative = block.is_at(bracket - 2 - length, "-")
        number = bracket - 1 - length - negative
        ok: Mask = (separator == ord(" ")) & (length > 0) & (length < 8) & block.is_at(bracket - 1, " ")
        ok &= block.blank(start + 16, number - start - 16)
        self.tid[good] = np.where(negative, -value, value)
        dash = (separator == ord("-")) & (bracket - start < 27)
        if dash.any():
            where = np.flatnonzero(dash)
            value, length = block.decimal(start[where] + 17)
            self.tid[good[where]] = value
            behind = start[where] + 17 + length
            ok[where] = (length > 0) & (length < 8) & block.blank(behind, bracket[where] - behind)
        return ok

    def _names(self, good: Places, name: Places, end: Places) -> None:
        """The event by the whole of its name."""
        words = self.block.text_words(name, (end - name).astype(np.intp), 3)
        groups, first = grouped(words)
        codes = np.array([CODE.get(text_of(words, row), -1) for row in first.tolist()], dtype=np.int8)
        if len(codes):
            same = np.logical_and.reduce([each == each[first[groups]] for each in words])
            self.event[good] = np.where(same, codes[groups], -1)

    def comms(self, rows: Places) -> list[Words]:
        """The 16 characters of each line's name, as two words."""
        start = self.starts[rows]
        return [self.block.words(start), self.block.words(start + 8)]


def _first(places: Places, starts: Places, ends: Places) -> tuple[Places, Mask]:
    """The first of ``places`` in each line, and whether there is one."""
    found = places[np.searchsorted(places, starts)]
    return found, found < ends


SUBSYSTEMS: Final = tuple(sorted(set(SUBSYSTEM.values())))

Parsed = tuple[Mask, Columns, dict[str, Name]]
Parser = Callable[[Block, Places, Places], Parsed]


def _ends(block: Block, places: Places) -> Mask:
    """The line ends here."""
    here = block.bytes[places]
    found: Mask = (here == ord("\n")) | (here == ord("\r")) | (here == ord(" "))
    return found


def _x86_fpu(block: Block, start: Places, ends: Places) -> Parsed:
    """``x86/fpu: 0xffff8881056e68c0 load: 1 xfeatures: a2 xcomp_bv: 80000000000008e7``."""
    ok = (block.words(start) == word("x86/fpu:")) & block.is_at(start + 8, " ")
    at = start + 9
    prefixed = block.is_at(at, "0") & block.is_at(at + 1, "x")
    at = at + 2 * prefixed
    fpu, length = block.hexadecimal(at)
    at = at + length
    ok &= (length > 0) & block.is_at(at, " ") & (block.words(at - 1) >> np.uint64(16) == word("load: "))
    load = block.bytes[at + 7] - np.uint8(ord("0"))
    ok &= (load <= 1) & (block.words(at + 8) == word(" xfeatur")) & (block.words(at + 12) == word("atures: "))
    at = at + 20
    xfeatures, length = block.hexadecimal(at)
    at = at + length
    ok &= (length > 0) & (block.words(at) == word(" xcomp_b")) & (block.words(at + 3) == word("omp_bv: "))
    at = at + 11
    xcomp_bv, length = block.hexadecimal(at)
    ok &= (length > 0) & block.is_at(at + length, "\n")
    return ok, {"fpu": fpu, "load": load.astype(np.int8), "xfeatures": xfeatures, "xcomp_bv": xcomp_bv}, {}


def _equal_signs(block: Block, start: Places, ends: Places, count: int) -> tuple[list[Places], Mask]:
    """The places of the first ``count`` equal signs of each payload, and whether there are so many."""
    places = block.places("=")
    first = np.searchsorted(places, start)
    ok = places[np.minimum(first + count - 1, len(places) - 1)] < ends
    return [np.where(ok, places[np.minimum(first + k, len(places) - 1)], start) for k in range(count)], ok


def _label(block: Block, at: Places, label: str) -> Mask:
    """The label stands before the equal sign."""
    ok = block.words(at - 8) == word(label) if len(label) >= 8 else _short_label(block, at, label)
    for k, character in enumerate(reversed(label[:-8]), 9):
        ok &= block.is_at(at - k, character)
    return ok


def _short_label(block: Block, at: Places, label: str) -> Mask:
    found: Mask = block.words(at - 8) >> np.uint64(8 * (8 - len(label))) == word(label)
    return found


def _fields(block: Block, at: list[Places], labels: tuple[str, ...], ends: Places, ok: Mask) -> list[NDArray[np.int64]]:
    """Numbers that follow one another, each up to the label of the next or, the last one, to the end of the line."""
    values = []
    for k, label in enumerate(labels):
        ok &= _label(block, at[k], " " + label)
        value, length = block.signed(at[k] + 1)
        behind = at[k] + 1 + length
        ok &= length > 0
        ok &= behind + len(labels[k + 1]) + 1 == at[k + 1] if k + 1 < len(labels) else _ends(block, behind)
        values.append(value)
    return values


def _sched_switch(block: Block, start: Places, ends: Places) -> Parsed:
    at, ok = _equal_signs(block, start, ends, 9)
    ok &= at[0] == start + 9
    ok &= _label(block, at[0], "prev_comm")
    prev_pid, prev_prio = (
        _number(block, at[k], label, at[k + 1], behind, ok)
        for k, label, behind in ((1, " prev_pid", " prev_prio"), (2, " prev_prio", " prev_state"))
    )
    ok &= _label(block, at[3], " prev_state") & (at[5] == at[4] + 1) & block.is_at(at[4] - 1, " ")
    ok &= (at[6] == at[5] + 12) & _label(block, at[6], "> next_comm")
    state = block.bytes[at[3] + 1]
    ok &= (state | 32 >= ord("a")) & (state | 32 <= ord("z"))
    name, length = at[6] + 1, at[7] - 9 - (at[6] + 1)
    ok &= (length >= 0) & (length <= 15) & (at[1] - start < 40)
    next_pid = _number(block, at[7], " next_pid", at[8], " next_prio", ok)
    ok &= _label(block, at[8], " next_prio")
    next_prio, size = block.signed(at[8] + 1)
    ok &= (size > 0) & _ends(block, at[8] + 1 + size)
    columns: Columns = {
        "prev_pid": prev_pid,
        "prev_prio": prev_prio,
        "prev_state": state,
        "next_pid": next_pid,
        "next_prio": next_prio,
    }
    return ok, columns, {"next_comm": (name, np.clip(length, 0, 16), 2)}


def _number(block: Block, at: Places, label: str, next_at: Places, behind: str, ok: Mask) -> NDArray[np.int64]:
    """The number after ``label=``, which ends where the next label begins."""
    value, length = block.signed(at + 1)
    ok &= _label(block, at, label) & (length > 0) & (at + 1 + length + len(behind) == next_at)
    return value


def _numbered(first: str, *labels: str, keep: int | None = None) -> Parser:
    """Payloads that are a text ``first`` and then numbers with these labels, of which ``keep`` become columns."""

    def parser(block: Block, start: Places, ends: Places) -> Parsed:
        at, ok = _equal_signs(block, start, ends, len(labels) + 1)
        ok &= (at[0] == start + len(first)) & _label(block, at[0], first)
        if first == "comm":
            ok &= at[1] - start < 26
        values = _fields(block, at[1:], labels, ends, ok)
        return ok, dict(zip(labels[:keep], values[:keep], strict=True)), {}

    return parser


def _fork(block: Block, start: Places, ends: Places) -> Parsed:
    """``comm=cc1 pid=13099 child_comm=child child_pid=13100``."""
    at, ok = _equal_signs(block, start, ends, 4)
    ok &= (at[0] == start + 4) & _label(block, at[0], "comm") & (at[1] - start < 26)
    pid = _number(block, at[1], " pid", at[2], " child_comm", ok)
    ok &= _label(block, at[2], " child_comm") & _label(block, at[3], " child_pid")
    name, length = at[2] + 1, at[3] - 10 - (at[2] + 1)
    ok &= (length >= 0) & (length <= 15)
    child_pid, size = block.signed(at[3] + 1)
    ok &= (size > 0) & _ends(block, at[3] + 1 + size)
    return ok, {"pid": pid, "child_pid": child_pid}, {"child_comm": (name, np.clip(length, 0, 16), 2)}


def _vcpu_wakeup(block: Block, start: Places, ends: Places) -> Parsed:
    """``wait time 1854246 ns, polling valid``."""
    ok = (block.words(start) == word("wait tim")) | (block.words(start) == word("poll tim"))
    ok &= block.is_at(start + 8, "e") & block.is_at(start + 9, " ")
    ns, length = block.long_decimal(start + 10)
    behind = start + 10 + length
    ok &= (length > 0) & block.is_at(behind, " ") & block.is_at(behind + 1, "n") & block.is_at(behind + 2, "s")
    return ok, {"ns": ns}, {"how": (start, np.full(len(start), 4), 1)}


def _kvm_fpu(block: Block, start: Places, ends: Places) -> Parsed:
    length = block.token(start, 1)
    words = block.words(start)
    load = (length == 4) & (words << np.uint64(32) == word("load") << np.uint64(32))
    unload = (length == 6) & (words << np.uint64(16) == word("unload") << np.uint64(16))
    return load | unload, {}, {"load": (start, length, 1)}


def _kvm_entry(block: Block, start: Places, ends: Places) -> Parsed:
    ok = block.words(start - 3) >> np.uint64(24) == word("vcpu ")
    vcpu, length = block.decimal(start + 5)
    return ok & (length > 0) & (length < 8), {"vcpu": vcpu}, {}


def _reason(block: Block, start: Places, ends: Places) -> Parsed:
    """``[vcpu N ]reason NAME ...``."""
    vcpu = block.words(start - 3) >> np.uint64(24) == word("vcpu ")
    _, digits = block.decimal(start + 5)
    at = start + np.where(vcpu, 6 + digits, 0)
    ok = (~vcpu | ((digits > 0) & (digits < 8) & block.is_at(at - 1, " "))) & (
        block.words(at - 1) >> np.uint64(8) == word("reason ")
    )
    at = at + 7
    length = block.token(at)
    return ok & (length > 0) & (length < 32), {}, {"reason": (at, length, 4)}


def _signal_deliver(block: Block, start: Places, ends: Places) -> Parsed:
    """``sig=10 errno=0 code=-6 sa_handler=5636184039c0 sa_flags=4000000``."""
    at, ok = _equal_signs(block, start, ends, 4)
    ok &= (at[0] == start + 3) & _label(block, at[0], "sig")
    sig = _number(block, at[0], "sig", at[1], " errno", ok)
    ok &= _label(block, at[2], " code") & _label(block, at[3], " sa_handler")
    handler, length = block.hexadecimal(at[3] + 1)
    return ok & (length > 0) & _ends(block, at[3] + 1 + length), {"sig": sig, "handler": handler}, {}


def _nothing(block: Block, start: Places, ends: Places) -> Parsed:
    """No payload, as perf prints it."""
    nothing = np.zeros(len(start), dtype=np.intp)
    return start >= ends, {}, {"rest": (start, nothing, 1)}


def _told(block: Block, start: Places, ends: Places) -> Parsed:
    """``components: e7 carried: 1``."""
    ok = (block.words(start) == word("componen")) & (block.words(start + 4) == word("onents: "))
    components, length = block.hexadecimal(start + 12)
    at = start + 12 + length
    ok &= (length > 0) & (block.words(at) == word(" carried")) & (block.words(at + 2) == word("arried: "))
    carried, size = block.decimal(at + 10)
    return (
        ok & (size > 0) & (size < 8) & _ends(block, at + 10 + size),
        {"components": components, "carried": carried},
        {},
    )


PARSERS: Final[dict[str, Parser]] = {
    "x86_fpu": _x86_fpu,
    "sched_switch": _sched_switch,
    "sched_wakeup": _numbered("comm", "pid", "prio", "target_cpu"),
    "sched_migrate_task": _numbered("comm", "pid", "prio", "orig_cpu", "dest_cpu"),
    "sched_process_fork": _fork,
    "sched_process_exec": _numbered("filename", "pid", "old_pid"),
    "sched_process_exit": _numbered("comm", "pid", "prio", keep=1),
    "kvm_fpu": _kvm_fpu,
    "kvm_entry": _kvm_entry,
    "kvm_exit": _reason,
    "kvm_userspace_exit": _reason,
    "kvm_vcpu_wakeup": _vcpu_wakeup,
    "signal_deliver": _signal_deliver,
    "sys_enter_rt_sigreturn": _nothing,
    "told": _told,
}
"""By table."""

CODES: Final = {
    name: np.array([CODE[event] for event in EVENTS if TABLE_OF[event].name == name], dtype=np.int8) for name in PARSERS
}


class Interner:
    """Names and their codes, the same for a whole trace."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, name: str) -> int:
        """The code of one name."""
        code = self._codes.get(name)
        if code is None:
            code = self._codes[name] = len(self.names)
            self.names.append(name)
        return code

    def codes(self, words: list[Words]) -> NDArray[np.int32]:
        """The codes of names given as words, blanks around them left out."""
        groups, first = grouped(words)
        table = np.array([self.code(text_of(words, row)) for row in first.tolist()], dtype=np.int32)
        codes = table[groups] if len(table) else np.zeros(0, dtype=np.int32)
        # Two names may mix to the same value: then none of them is taken for the other.
        same = np.logical_and.reduce([each == each[first[groups]] for each in words])
        for row in np.flatnonzero(~same).tolist():
            codes[row] = self.code(text_of(words, row))
        return codes


def grouped(words: list[Words]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Texts given as words, by a value mixed of their words: the group of each, and the first text of each group."""
    mixed = words[0].copy()
    for k, more in enumerate(words[1:], 1):
        mixed ^= (more + np.uint64(k)) * np.uint64(0x9E3779B97F4A7C15)
    groups, values = pd.factorize(mixed)
    first = np.zeros(len(values), dtype=np.int64)
    first[groups[::-1]] = np.arange(len(groups) - 1, -1, -1)
    return groups, first


def text_of(words: list[Words], row: int) -> str:
    """One text given as words."""
    raw = b"".join(int(each[row]).to_bytes(8, "little") for each in words)
    return printable(raw.rstrip(b"\0"))
