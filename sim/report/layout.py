"""Text that must fit on a screen: parts in several lengths, and which to shorten first."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 72
INDENT: Final = "  "
"""What stands before the second and later lines of a paragraph."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A part's lines at one length; ``loss`` is how much worse it is than the longer one before it."""

    lines: Sequence[str]
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """A part in its ``variants``, from the longest to the shortest; ``gap``: a blank line is before it, if one fits."""

    variants: Sequence[Variant]
    gap: bool = True


def part(*variants: Sequence[str], losses: Sequence[float] = (), gap: bool = True) -> Part:
    """A part; ``losses`` are those of the second and later variants, each shorter than the one before it."""
    return Part([Variant(lines, loss) for lines, loss in zip(variants, (0.0, *losses), strict=True)], gap)


GAP: Final = 2.5
"""The loss of a blank line."""


def fitted(parts: Sequence[Part], most: int) -> list[str]:
    """The lines of all parts, at most ``most``: the part that loses least is shortened, until all fit.

    Parts without a line are left out, and so is the blank line before them.  What does not fit with every part at its
    shortest is cut off.
    """
    parts = [each for each in parts if any(variant.lines for variant in each.variants)]
    at = [0] * len(parts)
    gaps = [each.gap and i > 0 for i, each in enumerate(parts)]

    def lines() -> Iterator[str]:
        for i, each in enumerate(parts):
            found = each.variants[at[i]].lines
            yield from ([""] if found and gaps[i] else [])
            yield from found

    while len(list(lines())) > most:
        steps = [
            (parts[i].variants[at[i] + 1].loss, i) for i in range(len(parts)) if at[i] + 1 < len(parts[i].variants)
        ]
        loss, number = min(steps, default=(float("inf"), -1))
        if any(gaps) and loss >= GAP:
            gaps[max(i for i, gap in enumerate(gaps) if gap)] = False
        elif number >= 0:
            at[number] += 1
        else:
            break
    for i, each in enumerate(parts):  # one step may have made more room than was needed
        gaps[i] = each.gap and i > 0
        if len(list(lines())) > most:
            gaps[i] = False
    return list(lines())[:most]


def wrapped(text: str, first: str = "", rest: str = "", *, break_words: bool = True) -> list[str]:
    """A paragraph of at most :data:`WIDTH` columns; ``first`` is before its first line, ``rest`` before the others.

    Without ``break_words`` a word that is longer than a line stays whole, as one of a command must.
    """
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=break_words
    )


def item(label: str, text: str, *, break_words: bool = True) -> list[str]:
    """A paragraph that begins with a word in capitals."""
    return wrapped(text, f"{label}  ", INDENT, break_words=break_words) if text else []


def whole(label: str, sentences: Sequence[str], most: int) -> list[str]:
    """A paragraph of as many of the first sentences as fit whole; the first one always is there."""
    for n in range(len(sentences), 1, -1):
        if len(lines := item(label, " ".join(sentences[:n]))) <= most:
            return lines
    return at_most(item(label, " ".join(sentences[:1])), most)


def at_most(lines: list[str], most: int) -> list[str]:
    """The first lines; an ellipsis shows that others were cut off."""
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    return [*lines[: most - 1], f"{last[: WIDTH - 4].rstrip()} ..."]
