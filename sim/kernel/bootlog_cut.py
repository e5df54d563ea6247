"""Lines of a boot log whose end is missing: cut -c, less -S, a pager, a list that shows so many columns.

What is left is believed if it begins as the kernel prints it.  A number at the edge may lack digits.
"""

import re
from dataclasses import dataclass
from typing import Final

_ENABLED: Final = re.compile(r"Enabled xstate features 0x(?P<mask>[0-9a-f]{1,16}),(?P<rest>[^\n]*)", re.ASCII)
_OFFSET: Final = re.compile(r"xstate_?offset\[\d{1,2}\]:(?P<rest>[^\n]*)", re.ASCII)
_SUPPORTING: Final = re.compile(r"Supporting XSAVE feature(?: 0x[0-9a-f]{0,16}[ …>$.]*)?$", re.ASCII)
_NUMBERS: Final = re.compile(r":(?P<offset>[ \t]*\w+),\s*\S+\]:(?P<size>[ \t]*(?P<digits>\w+))$", re.ASCII)
_PADDED: Final = re.compile(r"_?offset\[\d+\]: {2,}\d", re.ASCII)
_COLUMNS: Final = 5
"""A blank, and "%4d" or "%04x"."""
_DIGITS: Final = re.compile(r"\d+", re.ASCII)
_BLANKS: Final = re.compile(r" +", re.ASCII)

_EDGE: Final = " \t\r…>$."
"""What stands at the edge."""
_WHOLE: Final = tuple(f" context size is 0 bytes, using '{form}' format" for form in ("compacted", "standard"))
_WHOLE_OFFSET: Final = " 0, xstatesizes[0]: 0"


@dataclass(frozen=True, slots=True)
class Cut:
    """What an Enabled line had before the edge: mask, size and format, 0 and "" if they are behind it; None: another
    line.
    """

    enabled: tuple[int, int, str] | None = None


def told(line: str) -> Cut | None:
    """What is left of a line that is cut off; None if it does not begin as the kernel prints it."""
    if found := _OFFSET.match(line):
        return Cut() if _begins(_WHOLE_OFFSET, found["rest"].replace("_", "")) else None
    if _SUPPORTING.match(line):
        return Cut()
    found = _ENABLED.match(line)
    if found is None:
        return None
    fitting = [whole for whole in _WHOLE if _begins(whole, found["rest"])]
    if not fitting:
        return None
    number = _DIGITS.search(found["rest"])
    size = int(number[0]) if number and found["rest"].startswith(" b", number.end()) else 0
    form = "" if len(fitting) > 1 else "compacted" if fitting[0] == _WHOLE[0] else "standard"
    return Cut((int(found["mask"], 16), size, form))


def _begins(whole: str, rest: str) -> bool:
    """Whether ``rest`` is a beginning of ``whole``, numbers aside, and not all of it."""
    shown = _DIGITS.sub("0", _BLANKS.sub(" ", rest.rstrip(_EDGE)))
    return len(shown) < len(whole) and whole.startswith(shown)


def is_padded(text: str) -> bool:
    """Whether blanks before numbers are as the kernel prints them, and no web page has made one of several."""
    return _PADDED.search(text) is not None


def lacks_digits(line: str, padded: bool) -> bool:
    """Whether the last number of a whole xstate_offset line lacks digits: it is in fewer columns than others."""
    found = _NUMBERS.search(line)
    if found is None:
        return False
    padded = padded and len(found["offset"]) >= _COLUMNS
    of_hexadecimal = len(found["digits"]) > 1 and found["digits"].startswith("0")
    return len(found["size"]) < _COLUMNS and (padded or of_hexadecimal)
