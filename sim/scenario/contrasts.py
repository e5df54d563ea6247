"""Planned contrasts: pairs of strategies, in one case or in two, whose difference a scenario asks about."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

BETWEEN = "@"
"""Between a strategy and its case.  A strategy that is a file ends at ".toml", so that its path may have one, too."""


class Operand(NamedTuple):
    """A strategy (a name or a file), and the name of the case in which it is meant; "": in each case."""

    strategy: str
    case: str = ""

    def __str__(self) -> str:
        return f"{self.strategy}{BETWEEN}{self.case}" if self.case else self.strategy


class Contrast(NamedTuple):
    """What is asked about: ``a`` less ``b``, each with its case; mostly it is the same."""

    a: Operand
    b: Operand


def operand(text: str) -> Operand:
    """STRATEGY or STRATEGY@CASE."""
    file, there, case = text.partition(f".toml{BETWEEN}")
    if there:
        return Operand(f"{file}.toml", case)
    if text.endswith(".toml"):
        return Operand(text)
    strategy, _, case = text.partition(BETWEEN)
    return Operand(strategy, case)


def in_case(pairs: Iterable[Iterable[Operand]], case: str) -> Iterator[tuple[str, str]]:
    """The strategies of those pairs that are asked about within a case."""
    for a, b in pairs:
        if a.case == b.case and a.case in ("", case):
            yield a.strategy, b.strategy


def named_for(pairs: Iterable[Iterable[Operand]], case: str) -> Iterator[str]:
    """The strategies that some pair names for this case itself."""
    for each in (operand for pair in pairs for operand in pair):
        if each.case == case:
            yield each.strategy
