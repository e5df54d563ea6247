"""What the user gets to see when an input is wrong."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import accumulate, takewhile
from typing import Final

MOST_COMPARED: Final = 100
MOST_LISTED: Final = 700
"""Characters of a name, and of the names that are allowed instead, in a message."""
MOST_SAID: Final = 1000
"""Characters of a line of a message."""


class InputError(Exception):
    """An input that the model cannot take; the command line prints it and exits with status 2.

    The message says where, what was found and what is allowed, in one sentence.  What a user's file or name has of
    control characters is shown as Python would write it: a terminal must not act on it.  Of a line that repeats more of
    it than a reader wants to see, the middle is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(cut(one_line(line)) for line in message.split("\n")))


def one_line(text: str) -> str:
    """The text with its control characters, line ends among them, as Python would write them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def cut(text: str) -> str:
    """The text, without its middle if it is too long for a message."""
    end = MOST_SAID // 4
    return text if len(text) <= MOST_SAID else f"{text[: MOST_SAID - end - 5]} ... {text[-end:]}"


class RunError(Exception):
    """A run that did not get to its end, through no fault of the input; the command line exits with status 1."""


class Interrupted(RunError):
    """The user ended the run; the exit status is 130, as a shell has it."""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not one of ``allowed``, with the nearest one that is.

    A long name is cut, and a long list of allowed ones ends with their number.
    """
    names = sorted(allowed)
    near = _meant(name[:MOST_COMPARED], names)
    hint = f"; did you mean {near!r}?" if near else ""
    found = repr(name) if len(name) <= MOST_COMPARED else f"{name[:MOST_COMPARED]!r}..."
    return InputError(
        f"unknown {kind} {found}{hint} (allowed: {_listed(names)})"
        if names
        else f"unknown {kind} {found}; there is none"
    )


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Of the names the one that is most like this, in capitals or not; empty if none is, to ``cutoff`` of difflib."""
    folded = {each.casefold(): each for each in names}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else ""


def _meant(name: str, names: Sequence[str]) -> str:
    """The name that this may have been meant to be, in whole or as far as it goes; empty if there is none."""
    if (near := nearest(name, names, cutoff=0.5)) or not name.strip():
        return near
    begins = {each[: len(name)]: each for each in reversed(names)}
    return begins.get(nearest(name, begins), "")


def _listed(names: Sequence[str]) -> str:
    shown = list(takewhile(lambda n: n <= MOST_LISTED, accumulate(len(name) + 2 for name in names)))
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return ", ".join(names[: len(shown)]) + more
