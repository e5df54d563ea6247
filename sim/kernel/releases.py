"""Releases of Linux that are no kernel of the model: the nearest one that is, and what may differ from it.

The differences are those of :mod:`sim.kernel.versions`.  One whose release is known (``since``) is known to be there
or not; of the others between two kernels of the model nobody has looked which release brought them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sim.kernel.versions import Difference

_NAME: Final = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:[.+~-].*)?", re.ASCII)

LAST_MINOR: Final = 20
"""No major version of Linux since 3 has had a higher minor number: v3.19, v4.20, v5.19 and v6.19 were the last."""

Release = tuple[int, int]
"""Major and minor number of a mainline release; a stable release is that of the mainline release before it."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The kernel of the model that is nearest to a release, and in a sentence what may differ; empty: nothing."""

    kernel: str
    says: str


def release(name: str) -> Release | None:
    """The release that a name such as v6.14, 6.14.3 or 6.14.0-rc2 is of; None for another kind of name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match and int(match[2]) <= LAST_MINOR else None


def nearest(wanted: Release, kernels: Iterable[str], differences: Iterable[Difference]) -> Nearest:
    """The one of ``kernels`` that is nearest to a release by what is known of the differences between them."""
    rows = {found: name for name in kernels if (found := release(name))}
    if wanted in rows:
        return Nearest(rows[wanted], "")
    name, oldest, newest = _text(wanted), min(rows), max(rows)
    if wanted < oldest:
        first = rows[oldest]
        says = f"Linux {name} is older than {first}, the oldest kernel of the model; what differs is not known here"
        return Nearest(first, says)
    if wanted > newest:
        last = rows[newest]
        says = f"Linux {name} is newer than {last}, the newest kernel of the model; what has changed is not known here"
        return Nearest(last, says)
    lower, upper = next((rows[a], rows[b]) for a, b in pairwise(sorted(rows)) if a < wanted < b)
    between = [row for row in differences if row.cells[upper].since or _values_differ(row, lower, upper)]
    dated = [release(row.cells[upper].since) for row in between]
    come = sum(each is not None and each <= wanted for each in dated)
    to_come = sum(each is not None and each > wanted for each in dated)
    near = upper if 0 < come >= to_come else lower
    amiss = _amiss(between, wanted, near, upper)
    return Nearest(near, f"Linux {name} lies between {lower} and {upper}; {near} is nearest: {amiss}")


def _amiss(between: Sequence[Difference], wanted: Release, near: str, upper: str) -> str:
    """What differs between a release and the kernel that is nearest to it, as far as is known."""
    surely, perhaps = [], []
    for row in between:
        since = release(row.cells[upper].since)
        if since is None:
            perhaps.append(row)
        elif (since <= wanted) == _values_differ(row, near, upper):
            surely.append(row)
    parts = [f"it {what} in {_listed(rows)}" for what, rows in (("differs", surely), ("may differ", perhaps)) if rows]
    return ", and ".join(parts) if parts else "the two are the same in all rows of docs/kernel-versions.md"


def _values_differ(row: Difference, one: str, other: str) -> bool:
    return row.cells[one].values != row.cells[other].values


def _listed(rows: Sequence[Difference]) -> str:
    return ", ".join(f"{row.number} ({row.topic})" for row in rows)


def _text(wanted: Release) -> str:
    return f"{wanted[0]}.{wanted[1]}"
