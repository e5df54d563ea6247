"""Recorded vectors as JSON, and what the processor model departs from in one of them."""

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sim.verification.vectors.drive import run
from sim.verification.vectors.reading import VectorFile, read
from sim.verification.vectors.schema import Vector
from sim.xsave.freedoms import Freedoms

DATA = Path(__file__).parent / "data" / "vectors"
FILES = sorted(DATA.glob("*.jsonl"))
CPUID = read(DATA / "bochs.jsonl").cpuid_0d
ZERO_REGS = dict.fromkeys(("0", "1", "2", "5", "6", "7"), 0)
Json = dict[str, Any]


def records(paths: Iterable[Path]) -> list[Json]:
    """The vectors of files, without the lines that describe a processor."""
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [record for record in found if record["cat"] != "meta"]


def departures(record: Json, free: Freedoms | None = None) -> list[tuple[str, int, str]]:
    """(id, step, field) of what is found in one vector."""
    found = run(VectorFile(Path("one"), [Vector.model_validate(record)], CPUID), free).departures
    return [(departure.id, departure.step, departure.field) for departure in found]


def tolerated(mutate: Callable[[Json], bool], recorded: Iterable[Json]) -> int:
    """In how many vectors ``mutate`` finds something to change; the model must depart from none of them."""
    tried = 0
    for record in recorded:
        mutated = copy.deepcopy(record)
        if mutate(mutated):
            tried += 1
            assert departures(mutated) == [], record["id"]
    return tried


def hexadecimal(value: int) -> str:
    return f"{value:#x}"
