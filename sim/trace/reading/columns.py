"""Many lines of a trace at once, into columns.

Lines as the tools print them are found by the places of a few characters, and their fields are read for all lines
together (:mod:`sim.trace.reading.digits`).  Every character between the fields is compared, so a line is read here
exactly as :mod:`sim.trace.reading.lines` reads it, or left to that.
"""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.trace.reading.digits import Block, Mask, Places, Words, word
from sim.trace.reading.events import CODE, SUBSYSTEM
from sim.trace.reading.lines import printable


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
