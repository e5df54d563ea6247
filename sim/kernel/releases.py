"""Releases of Linux that are not kernels of the model: the nearest kernel that is, and what differs from it or may
differ.

Some of them were read; what they do differently is in ``releases.toml`` beside this module, row by row of
:mod:`sim.kernel.versions`, each with its source.  For a release between two that were read, a row is known if both do
the same, or if it is known which release brought the difference (``since``); other rows may differ.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import ConfigDict, TypeAdapter

if TYPE_CHECKING:
    from sim.kernel.versions import Difference

_FILE: Final = "releases.toml"
_STRICT: Final = ConfigDict(extra="forbid", strict=True)
_NAME: Final = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:[.+~-].*)?", re.ASCII)
_MAJOR: Final = re.compile(r"v?\d{1,4}", re.ASCII)

LAST_MINORS: Final = {2: 6, 3: 19, 4: 20, 5: 19, 6: 19}
"""The last minor version of each major one that has ended (the tags of Linux)."""
LAST_MINOR: Final = max(LAST_MINORS.values())
"""No later major version is expected to have a higher minor number."""

Release = tuple[int, int]
"""Major and minor number of a mainline release; a stable release is that of the mainline release before it."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A repository in which a kernel was read, or a source package; ``commit`` is then the package's version."""

    repository: str
    commit: str
    about: str

    @property
    def shown_commit(self) -> str:
        """The commit, abbreviated; of a package the version."""
        return self.commit[:12] if len(self.commit) == 40 else self.commit


@dataclass(frozen=True, slots=True)
class ReadTree(Tree):
    """What was read of a release."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str


@dataclass(frozen=True, slots=True)
class Departure:
    """What a release does differently from the kernel that it is compared with, in one row.  ``values`` are the values
    that differ; empty if the difference is in no value.  ``until`` is the later release that does what that kernel
    does, if it is known; ``since`` the one that brought what this release does.  ``like`` is the kernel of the model
    that does the same in this row, if one does and no value says it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    number: int
    says: str
    source: str
    values: dict[str, Any] = field(default_factory=dict)
    since: str = ""
    until: str = ""
    like: str = ""


@dataclass(frozen=True, slots=True)
class ReadRelease:
    """A release that was read: the kernel of the model that it resembles, where it differs from it, and what is in no
    row."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    like: str
    tree: ReadTree
    differs: tuple[Departure, ...]
    besides: str = ""


@dataclass(frozen=True, slots=True)
class Beyond:
    """What is known of releases after the newest kernel of the model."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    says: str
    source: str


@dataclass(frozen=True, slots=True)
class Stable:
    """The stable release that a kernel's rows were read in, and the rows in which others differ or may, and why."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    read: str
    may_differ: tuple[int, ...]
    because: str


@dataclass(frozen=True, slots=True)
class Nearest:
    """The kernel of the model that is nearest to a release, and a sentence on what differs or may differ; empty if
    nothing does.

    ``differs`` and ``may_differ`` are numbers of rows.  ``was_read`` is the release itself, if a tree of it was read.
    """

    kernel: str
    says: str
    differs: tuple[int, ...] = ()
    may_differ: tuple[int, ...] = ()
    was_read: ReadRelease | None = None


def release(name: str) -> Release | None:
    """The release that a name such as v6.14, 6.14.3 or 6.14.0-rc2 belongs to; None for any other kind of name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match and not never(name) else None


def spelled(name: str) -> str:
    """A kernel's name as the model has it: 6.18 is v6.18."""
    return f"v{name}" if re.fullmatch(r"\d{1,3}\.\d{1,3}", name, re.ASCII) else name


def never(name: str) -> str:
    """Why no release has this name, such as v5.20 or v8; empty if one has or may have, and for other kinds of names."""
    match = _NAME.fullmatch(name)
    if match is None:
        return "a release has two numbers, as v7.3 has" if _MAJOR.fullmatch(name) else ""
    major, minor = int(match[1]), int(match[2])
    if (last := LAST_MINORS.get(major, LAST_MINOR)) >= minor:
        return ""
    followed = f"the last v{major} was v{major}.{last}" if major in LAST_MINORS else f"v{major} has not come so far"
    return f"there is no Linux v{major}.{minor}: {followed}"


def read_releases() -> Mapping[str, ReadRelease]:
    """The releases that were read and are not kernels of the model, oldest first."""
    return _file()[0]


def of_a_stable(name: str, kernel: str, differences: Sequence[Difference]) -> str:
    """What is to be known of ``name``, a stable release of ``kernel``, in a sentence; empty if that very one was
    read."""
    stable, level = _file()[2][kernel], re.match(r"v?(\d+\.\d+(?:\.\d+)?)", name, re.ASCII)
    assert level is not None
    if level[1] in (stable.read, stable.read.removesuffix(".0")):
        return ""
    says = f"Linux {level[1]} is a release of {kernel}, whose rows were read in {stable.read}"
    if not stable.may_differ:
        return f"{says}; what other stable releases of it do was not read"
    return f"{says}: {_amiss([], _rows(differences, stable.may_differ))}: {stable.because}"


def beyond() -> Beyond:
    """What is known of releases after the newest kernel of the model."""
    return _file()[1]


@cache
def _file() -> tuple[Mapping[str, ReadRelease], Beyond, Mapping[str, Stable]]:
    return parse(resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Mapping[str, ReadRelease], Beyond, Mapping[str, Stable]]:
    """What ``text`` describes in TOML; pydantic's ValidationError for what is missing, unknown or of a wrong type."""
    root = tomllib.loads(text)  # by way of JSON, because only there a strict check takes an array for a tuple
    found = TypeAdapter(dict[str, ReadRelease]).validate_json(json.dumps(root["release"]))
    stable = TypeAdapter(dict[str, Stable]).validate_json(json.dumps(root.get("stable", {})))
    return found, TypeAdapter(Beyond).validate_json(json.dumps(root["beyond"])), stable


def nearest(wanted: Release, kernels: Iterable[str], differences: Sequence[Difference]) -> Nearest:
    """The one of ``kernels`` that is nearest to a release by what is known of the differences between them."""
    rows = {found: name for name in kernels if (found := release(name))}
    if wanted in rows:
        return Nearest(rows[wanted], "")
    read = {found: each for name, each in read_releases().items() if (found := release(name))}
    name, oldest, newest = _text(wanted), rows[min(rows)], rows[max(rows)]
    if wanted > max(rows):
        says = (
            f"Linux {name} is newer than {newest}, the newest kernel of the model; what has changed is not known here"
        )
        return Nearest(newest, f"{says} ({beyond().says})")
    if wanted < min(read):
        says = f"older than {oldest}, the oldest kernel of the model, and than {_text(min(read))}, the oldest that was"
        return Nearest(oldest, f"Linux {name} is {says} read; what differs is not known here")
    where = f"Linux {name} is older than {oldest}, the oldest kernel of the model and so the nearest"
    if wanted > min(rows):
        where = "Linux {} lies between {} and {}; {{}} is nearest".format(name, *_around(wanted, rows.items()))
    if same := read.get(wanted):
        numbers = tuple(each.number for each in same.differs)
        amiss = _amiss(_rows(differences, numbers), [])
        told = f"{where.format(same.like)}: {amiss} (read in {same.tree.name})"
        return Nearest(same.like, told, numbers, (), same)
    near, surely, perhaps = _between(wanted, rows, read, differences)
    before, after = map(_text, _around(wanted, ((each, each) for each in {*rows, *read})))
    amiss = f"{_amiss(surely, perhaps)} (not read itself; this follows from {before} and {after}, which were)"
    return Nearest(near, f"{where.format(near)}: {amiss}", _numbers(surely), _numbers(perhaps))


def _between(
    wanted: Release, rows: Mapping[Release, str], read: Mapping[Release, ReadRelease], differences: Sequence[Difference]
) -> tuple[str, list[Difference], list[Difference]]:
    """Of a release between two that were read: the nearest kernel, the rows that differ from it and that may."""
    lower, upper = _around(wanted, ((each, each) for each in {*rows, *read}))
    below, above = (read[each].like if each in read else rows[each] for each in (lower, upper))
    known: dict[int, object] = {}

    def brought_by(row: Difference) -> Release | None:
        differs = read[upper].differs if upper in read else ()
        return release(next((each.since for each in differs if each.number == row.number), row.cells[above].since))

    for row in differences:
        old = _does(row, rows.get(lower), read.get(lower), wanted)
        new = _does(row, rows.get(upper), read.get(upper))
        lasts = (each.until for each in read[lower].differs if each.number == row.number) if lower in read else ()
        if old == new or any((release(until) or wanted) > wanted for until in lasts):
            known[row.number] = old
        elif since := brought_by(row):
            known[row.number] = new if since <= wanted else old
    perhaps = [row for row in differences if row.number not in known]
    surely = {
        kernel: [row for row in differences if row.number in known and known[row.number] != _does(row, kernel, None)]
        for kernel in (below, above)
    }
    near = min(surely, key=lambda kernel: len(surely[kernel]))
    return near, surely[near], perhaps


def _does(row: Difference, kernel: str | None, read: ReadRelease | None, later: Release | None = None) -> object:
    """What decides whether two releases differ in a row: values, and what no value says.

    With ``later``: what is left of it in that later release, as far as is known.
    """
    values = dict(row.cells[read.like if read else kernel or ""].values)
    for here in read.differs if read else ():
        if here.number == row.number and not (later and here.until and (release(here.until) or later) <= later):
            if here.like:
                return dict(row.cells[here.like].values), ""
            return values | here.values, "" if here.values else here.says
    return values, ""


def _around(wanted: Release, points: Iterable[tuple[Release, Any]]) -> tuple[Any, Any]:
    ordered = sorted(points, key=lambda point: point[0])
    return next((a[1], b[1]) for a, b in pairwise(ordered) if a[0] < wanted < b[0])


def _amiss(surely: Sequence[Difference], perhaps: Sequence[Difference]) -> str:
    """What differs between a release and the kernel that is nearest to it, as far as is known."""
    parts = [
        f"it {what} in row{'s' if len(rows) > 1 else ''} {_listed(rows)}"
        for what, rows in (("differs", surely), ("may differ", perhaps))
        if rows
    ]
    return ", and ".join(parts) if parts else "the two are the same in all rows of docs/kernel-versions.md"


def _rows(differences: Sequence[Difference], numbers: Iterable[int]) -> list[Difference]:
    return [row for row in differences if row.number in set(numbers)]


def _numbers(rows: Iterable[Difference]) -> tuple[int, ...]:
    return tuple(row.number for row in rows)


def _listed(rows: Sequence[Difference]) -> str:
    return ", ".join(f"{row.number} ({row.topic})" for row in rows)


def _text(wanted: Release) -> str:
    return f"{wanted[0]}.{wanted[1]}"
