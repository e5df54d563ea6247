"""Files that a user names, whole in memory: nothing that does not end, and no TOML that its parser takes hours for."""

import codecs
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from sim import packed

MOST: Final = 32 << 20
"""Bytes of a file that is read at once; JSON of that size takes at most a gibibyte."""
MOST_TOML: Final = 4 << 20
"""The largest table that is shipped has 0.15 MB."""
MOST_DOTTED: Final = 100
"""Parts of a key; tomllib takes time by the square of their number."""
MOST_LINE: Final = 100
"""Characters of a line that an error repeats."""

_AT_LINE: Final = re.compile(r"at line (\d+)")
_STRING: Final = r'"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"?+|\'[^\'\n]*+\'?+'
_PIECES: Final = re.compile(
    rf"(?P<key>(?:(?:{_STRING}|[\w-]++)[ \t]*+\.[ \t]*+){{{MOST_DOTTED}}})"
    r'|"""[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+(?:"{3,5}|\Z)'
    r"|'''[^']*+(?:'(?!'')[^']*+)*+(?:'{3,5}|\Z)"
    rf"|{_STRING}|\#[^\n]*+|[\w-]++",
    re.ASCII | re.DOTALL,
)
"""Keys that are too long, and what is none: strings, comments and other words.  A string that does not end takes the
rest of its line or file, of which the parser reads no more than that, so that none of it is looked at twice."""


def content(path: str | Path, most: int = MOST) -> bytes:
    """The bytes of a file, which may be a device or a pipe.

    Raises ValueError for one that is larger than ``most`` bytes and for a name that no file can have, and OSError for
    one that cannot be read.
    """
    with Path(path).open("rb") as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise ValueError(f"more than {most >> 20} MiB, which is what is read at most")
    return found


def text(raw: bytes, errors: str = "strict") -> str:
    """The text of a file, in UTF-8 or, as PowerShell writes it, in UTF-16 with a byte order mark.

    Raises ValueError for what is packed, and (UnicodeDecodeError) for what is neither, unless ``errors`` are to be
    replaced.
    """
    if packer := packed.kind(raw):
        raise ValueError(f"packed by {packer}, which is not unpacked here")
    is_utf_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return raw.decode("utf-16" if is_utf_16 else "utf-8-sig", errors)


def toml(raw: bytes) -> dict[str, Any]:
    """The table in a TOML file, also in UTF-16 or with a byte order mark, as some editors write it.

    Raises ValueError for a file that is not TOML, with the line at which it is not, or is nested more deeply than
    anybody would write.
    """
    try:
        found = text(raw)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"not UTF-8 text (line {line})") from error
    if _has_long_key(found):
        raise ValueError(f"not TOML: a key of {MOST_DOTTED} parts or more")
    try:
        return tomllib.loads(found)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}{_line(found, str(error))}") from error
    except RecursionError:
        raise ValueError("not TOML: nested too deeply") from None


def _has_long_key(found: str) -> bool:
    if all(line.count(".") < MOST_DOTTED for line in found.split("\n")):
        return False
    return any(piece["key"] for piece in _PIECES.finditer(found))


def _line(found: str, error: str) -> str:
    """The line that an error of tomllib names, as a reader would look it up; nothing if it names none."""
    at = _AT_LINE.search(error)
    line = found.split("\n")[int(at[1]) - 1].strip() if at else ""
    return f": {line if len(line) <= MOST_LINE else line[: MOST_LINE - 3] + '...'}" if line else ""
