"""Numbers, tokens and fixed words in a block of text, read at many places at once.

All functions work on eight bytes per place as one little-endian integer, so that the first character is the lowest byte
(the technique is known as SWAR).  A block has eight bytes or more of padding on both sides of any place.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Places = NDArray[np.int64]
Mask = NDArray[np.bool_]

PADDING: Final = 64
FAR: Final = 1 << 62


def _u64(value: int) -> np.uint64:
    return np.uint64(value)


_LOW, _HIGH = _u64(0x0101010101010101), _u64(0x8080808080808080)
_ZEROS, _NIBBLES = _u64(0x3030303030303030), _u64(0x0F0F0F0F0F0F0F0F)
_PAIRS, _QUADS = _u64(0x00FF00FF00FF00FF), _u64(0x0000FFFF0000FFFF)
_8, _16, _32, _1, _4 = _u64(8), _u64(16), _u64(32), _u64(1), _u64(4)
_EMPTY: Final = np.array([0] + [(1 << 8 * n) - 1 for n in range(1, 9)], dtype=np.uint64)
"""By number of characters: a mask of that many first bytes."""
_POWERS: Final = 10 ** np.arange(9)


def word(text: str) -> np.uint64:
    """The last eight characters of ``text`` as :meth:`Block.words` has them."""
    return np.uint64(int.from_bytes(text.encode()[-8:], "little"))


def _decimal(words: Words) -> Words:
    """Eight decimal digits each; any byte whose low half is 0 counts as the digit 0."""
    words = words & _NIBBLES
    words = (words * _u64(10 * 256 + 1) >> _8) & _PAIRS
    words = (words * _u64(100 * 65536 + 1) >> _16) & _QUADS
    return words * _u64(10000 * (1 << 32) + 1) >> _32


def _hexadecimal(words: Words) -> Words:
    """Eight hexadecimal digits each, in lower case."""
    letters = words >> _u64(6) & _LOW
    words = (words & _NIBBLES) + letters * _u64(9)
    words = (words << _4 | words >> _8) & _PAIRS
    words = (words << _8 | words >> _16) & _QUADS
    return (words << _16 | words >> _32) & _u64(0xFFFFFFFF)


def _not_decimal(words: Words) -> Words:
    """The high bit of each byte that is no decimal digit (bytes above 7FH count as none)."""
    offset = words ^ _ZEROS
    return ((offset & _u64(0x7F7F7F7F7F7F7F7F)) + _u64(0x7676767676767676) | offset) & _HIGH


def _not_blank(words: Words) -> Words:
    """Something in each byte that is no blank."""
    different = words ^ _LOW * _u64(ord(" "))
    return ((different & _u64(0x7F7F7F7F7F7F7F7F)) + _u64(0x7F7F7F7F7F7F7F7F) | different) & _HIGH


def _not_hexadecimal(words: Words) -> Words:
    low = words & _u64(0x7F7F7F7F7F7F7F7F)
    letter = (low + _u64(0x1F1F1F1F1F1F1F1F)) & ~(low + _u64(0x1919191919191919)) & _HIGH  # a to f
    flags: Words = _not_decimal(words) & ~letter | words & _HIGH
    return flags


def _leading(flags: Words) -> NDArray[np.intp]:
    """How many bytes come before the first flagged one."""
    lowest = flags & (~flags + _1)
    count: NDArray[np.intp] = np.bitwise_count((lowest - _1) >> _u64(7) & _LOW).astype(np.intp)
    return count


class Block:
    """Whole lines of text; places are offsets into the padded copy of it."""

    def __init__(self, text: bytes) -> None:
        padded = bytes(PADDING) + text + bytes(PADDING)
        self.text = padded
        self.bytes = np.frombuffer(padded, dtype=np.uint8)
        self._words = np.ndarray((len(padded) - 7,), dtype="<u8", buffer=padded, strides=(1,))
        self._places: dict[str, Places] = {}

    def places(self, character: str) -> Places:
        """Where a character is, ascending, followed by eight places that are beyond every line."""
        if character not in self._places:
            found = np.flatnonzero(self.bytes == ord(character))
            self._places[character] = np.append(found, [FAR] * 8)
        return self._places[character]

    def words(self, places: Places) -> Words:
        """The eight bytes from each place on."""
        return self._words[places]

    def is_at(self, places: Places, character: str) -> Mask:
        """Whether the character is there."""
        found: Mask = self.bytes[places] == ord(character)
        return found

    def blanks(self, places: Places) -> NDArray[np.intp]:
        """How many blanks there are from each place on, up to 48."""
        count = np.minimum(_leading(_not_blank(self._words[places])), 8)
        for k in (8, 16, 24, 32, 40):
            more = np.flatnonzero(count == k)
            if not len(more):
                break
            count[more] += _leading(_not_blank(self._words[places[more] + k]))
        return count

    def blank(self, places: Places, lengths: Places) -> Mask:
        """Whether there are blanks alone, and one to eight."""
        ok: Mask = (lengths > 0) & (lengths <= 8)
        ok &= _not_blank(self._words[places]) & _EMPTY[np.where(ok, lengths, 0)] == 0
        return ok

    def decimal(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Unsigned decimal numbers from each place on, and their lengths: 1 to 7; 0 or 8 where that is not so."""
        words = self._words[places]
        length = _leading(_not_decimal(words))
        aligned = np.where(length > 0, words << (_8 * (_8 - length.astype(np.uint64))) % _u64(64), _u64(0))
        return _decimal(aligned).astype(np.int64), length

    def signed(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """The same with a minus sign in front, or not; the length has the sign."""
        negative = self.bytes[places] == ord("-")
        value, length = self.decimal(places + negative)
        length = np.where((length > 0) & (length < 8), length + negative, 0)
        return np.where(negative, -value, value), length

    def long_decimal(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Unsigned decimal numbers of up to 15 digits from each place on; length 0 where that is not so."""
        words = self._words[places]
        length = _leading(_not_decimal(words))
        value = _decimal(words << (_8 * (_8 - length.astype(np.uint64))) % _u64(64)).astype(np.int64)
        value = np.where(length > 0, value, 0)
        low, more = self.decimal(places + 8)
        more = np.where(length == 8, more, 0)
        value = np.where(length == 8, value * _POWERS[more] + np.where(more > 0, low, 0), value)
        return value, np.where(more < 8, length + more, 0)

    def decimal_before(self, places: Places) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Unsigned decimal numbers that end before each place, and their lengths up to 8."""
        words = self._words[places - 8]
        flags = _not_decimal(words)
        flags |= flags >> _8
        flags |= flags >> _16
        flags |= flags >> _32
        digits = (flags ^ _HIGH) >> _u64(7)
        return _decimal(words & digits * _u64(255)).astype(np.int64), np.bitwise_count(digits).astype(np.intp)

    def fraction(self, places: Places, digits: int) -> tuple[NDArray[np.int64], Mask]:
        """Six or eight decimal digits that end before each place, and whether they are."""
        keep = _u64(0xFFFFFFFFFFFFFFFF & ~((1 << 8 * (8 - digits)) - 1))
        words = self._words[places - 8]
        return _decimal(words & keep).astype(np.int64), (_not_decimal(words) & keep) == 0

    def hexadecimal(self, places: Places) -> tuple[Words, NDArray[np.intp]]:
        """Hexadecimal numbers from each place on, and their lengths: 1 to 16; 0 where there is none."""
        first = self._words[places]
        length = _leading(_not_hexadecimal(first))
        long = length == 8
        value = _hexadecimal(first << (_8 * (_8 - length.astype(np.uint64))) % _u64(64))
        value = np.where(length > 0, value, _u64(0))
        if long.any():
            second = self._words[places[long] + 8]
            more = _leading(_not_hexadecimal(second))
            low = _hexadecimal(second << (_8 * (_8 - more.astype(np.uint64))) % _u64(64))
            low = np.where(more > 0, low, _u64(0))
            value[long] = value[long] << (_4 * more.astype(np.uint64)) | low
            length[long] += more
        return value, length

    def token(self, places: Places, words: int = 4) -> NDArray[np.intp]:
        """How many characters come before the next blank or line end, at most 8 * ``words``."""
        length = np.zeros(len(places), dtype=np.intp)
        going = np.ones(len(places), dtype=bool)
        for k in range(words):
            here = self._words[places + 8 * k]
            end = np.zeros_like(here)
            for character in b" \n\r":
                difference = here ^ _LOW * _u64(character)
                end |= (difference - _LOW) & ~difference & _HIGH
            length += np.where(going, _leading(end), 0)
            going &= end == 0
            if not going.any():
                break
        return length

    def text_words(self, places: Places, lengths: NDArray[np.intp], words: int) -> list[Words]:
        """The characters of tokens, as words; bytes after the end are 0."""
        return [self._words[places + 8 * k] & _EMPTY[np.clip(lengths - 8 * k, 0, 8)] for k in range(words)]
