"""Damage to files that people write and tools print: in bytes, in words and numbers, and in lines."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Final

MOST_BYTES: Final = 1 << 17
NUMBER: Final = re.compile(rb"-?\b(?:0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\b")
WORD: Final = re.compile(rb"[A-Za-z_][\w.-]*")
NUMBERS: Final = (
    b"0", b"-1", b"1", b"1e308", b"-1e308", b"1e-320", b"nan", b"inf", b"-inf", b"2147483648", b"4294967296",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551615", b"18446744073709551616", b"0x7fffffff",
    b"0xffffffffffffffff", b"0.1", b"1e3", b"00", b"9" * 40, b"9" * 5000, b"0x" + b"f" * 40, b"true", b'"7"', b"[]",
    b"{}", b"''",
)  # fmt: skip
TEXTS: Final = (
    b"\x00", b"\xff", b"\x1b[31m", b"\x1b]0;t\x07", b"\r", b"\n", b"\xe2\x80\xae", b"\xc2\x9b2J",
    b"\xed\xa0\x80", b"'", b'"', b"{", b"}", b"[", b"]", b"=", b",", b"#", b"../../x", b"/etc/passwd", b"/dev/null",
    b"%s%n", b"x" * 5000, b"[" * 3000, b"{a=" * 2000, b"a." * 2000, b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"-",
    b"",
)  # fmt: skip
"""What terminals, parsers and file systems do not take for text."""


def mutated(seed: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    """The seed, damaged in one to six places."""
    found = seed
    for _ in range(chosen.choice((1, 1, 1, 2, 3, 6))):
        found = chosen.choice(MUTATIONS)(found, others, chosen)[:MOST_BYTES]
    return found


def _span(data: bytes, chosen: random.Random) -> tuple[int, int]:
    begin = chosen.randrange(len(data) + 1)
    return begin, min(len(data), begin + chosen.choice((1, 2, 4, 16, 64, 1024)))


def _flip(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    if not data:
        return data
    at = chosen.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chosen.randrange(8)]) + data[at + 1 :]


def _delete(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    begin, end = _span(data, chosen)
    return data[:begin] + data[end:]


def _repeat(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    begin, end = _span(data, chosen)
    return data[:end] + data[begin:end] * chosen.choice((1, 2, 50)) + data[end:]


def _cut(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    return data[: chosen.randrange(len(data) + 1)]


def _insert(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    at = chosen.randrange(len(data) + 1)
    return data[:at] + chosen.choice(TEXTS) + data[at:]


def _splice(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    other = chosen.choice(others)
    begin, end = _span(other, chosen)
    at = chosen.randrange(len(data) + 1)
    return data[:at] + other[begin:end] + data[at:]


def _one_of(pattern: "re.Pattern[bytes]", data: bytes, chosen: random.Random) -> "re.Match[bytes] | None":
    """The first match after a random place, or one before it, without looking for all of them."""
    at = chosen.randrange(len(data) + 1)
    return pattern.search(data, at) or pattern.search(data)


def _number(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    match = _one_of(NUMBER, data, chosen)
    return data if match is None else data[: match.start()] + chosen.choice(NUMBERS) + data[match.end() :]


def _word(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    match, other = _one_of(WORD, data, chosen), _one_of(WORD, chosen.choice(others), chosen)
    if match is None:
        return data
    instead = other[0] if other is not None and chosen.random() < 0.7 else chosen.choice(TEXTS)
    return data[: match.start()] + instead + data[match.end() :]


def _lines(data: bytes, others: Sequence[bytes], chosen: random.Random) -> bytes:
    found = data.split(b"\n")
    i, j = chosen.randrange(len(found)), chosen.randrange(len(found))
    match chosen.randrange(4):
        case 0:
            found[i], found[j] = found[j], found[i]
        case 1:
            del found[i]
        case 2:
            found.insert(i, found[j])
        case _:
            found.insert(i, chosen.choice(chosen.choice(others).split(b"\n")))
    return b"\n".join(found)


MUTATIONS: Final[tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...]] = (
    _flip, _delete, _repeat, _cut, _insert, _splice, _number, _number, _number, _word, _word, _word, _lines, _lines,
)  # fmt: skip
