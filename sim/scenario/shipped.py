"""The scenarios that come with the package, by name: what each asks, and how long it takes."""

import json
import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from sim.errors import InputError, unknown

PATHS_END_IN: Final = (".toml", ".json")

_HERE: Final = Path(__file__).parent
_PACKED: Final = _HERE / "data"
_FOLDER: Final = _PACKED if _PACKED.is_dir() else _HERE.parents[1] / "scenarios"
"""In a wheel they are package data; in a checkout they lie at its top."""

DURATIONS: Final = _FOLDER / "seconds.json"


class Shipped(NamedTuple):
    """One of them; ``seconds`` is what ``fpswitch run NAME`` took on two cores."""

    name: str
    question: str
    seconds: int


@cache
def names() -> tuple[str, ...]:
    """Their names, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def is_path(text: str) -> bool:
    """Whether what a user gives for a scenario is the path of a file, and not a name."""
    return "/" in text or text.endswith(PATHS_END_IN)


def file(name: str) -> Path:
    """The file of a shipped scenario."""
    if name not in names():
        here = f"; did you mean the file {name}.toml?" if name and os.path.isfile(f"{name}.toml") else ""
        raise InputError(f"{unknown('scenario', name, names())}; the path of a file ends in .toml or has a /{here}")
    return _FOLDER / f"{name}.toml"


def catalogue() -> list[Shipped]:
    """All of them."""
    seconds = json.loads(DURATIONS.read_text(encoding="utf-8"))
    questions = {name: tomllib.loads(file(name).read_text(encoding="utf-8"))["question"] for name in names()}
    return [Shipped(name, question, seconds[name]) for name, question in questions.items()]
