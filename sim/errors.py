"""What the user gets to see when an input is wrong."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """An input that the model cannot take; the command line prints it and exits with status 2.

    The message says where, what was found and what is allowed, in one sentence.
    """


class RunError(Exception):
    """A run that did not get to its end, through no fault of the input; the command line exits with status 1."""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not one of ``allowed``, with the nearest one that is."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {name!r}{hint} (allowed: {', '.join(names)})")
