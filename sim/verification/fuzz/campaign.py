"""Thousands of damaged inputs for a reader, in a process of its own that is started again when an input ends it."""

import gc
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from sim.verification.fuzz.judging import Main, judged, limited
from sim.verification.fuzz.mutation import mutated
from sim.verification.fuzz.readers import READERS

EVERY: Final = 200
"""Inputs between two lines of a process."""
MOST_SEEDS: Final = 2000
OF_A_PROCESS: Final = {True: 20, False: 5000}
"""Inputs of a process, for files of a result directory and for others: what it remembers is no input's memory."""
VARIABLE: Final = re.compile(r"'.*?'|\"[^\"]*\"|\d+|0x[0-9a-f]+|/\S+")


@dataclass(slots=True)
class Found:
    """What was tried of a reader, how many of the inputs were read or refused, and the kinds of what was wrong.

    ``problems``: how often, by kind; ``examples``: the first input of each kind.
    """

    reader: str
    inputs: int = 0
    messages: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, bytes] = field(default_factory=dict)


def campaign(reader: str, inputs: int, seed: int, data: Path) -> Found:
    """Tries so many inputs; ``data`` is the directory of the tests' data."""
    found = Found(reader)
    while found.inputs < inputs:
        with tempfile.TemporaryDirectory(prefix="fpswitch-fuzz.") as folder:
            before = found.inputs
            place = Path(folder).resolve() / "w"
            place.mkdir()
            number = min(inputs - before, OF_A_PROCESS[bool(READERS[reader].inside)])
            request = [reader, str(number), str(seed + before), str(data.resolve()), str(place)]
            command = [sys.executable, "-m", "sim.cli.fuzzed", *request]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert process.stdout is not None
            for line in process.stdout:
                said = json.loads(line)
                if said.get("none"):
                    return found
                found.inputs += said["inputs"]
                found.messages = max(found.messages, said["messages"])
                for kind, content in said["problems"]:
                    found.problems[kind] += 1
                    found.examples.setdefault(kind, bytes.fromhex(content))
            assert process.stderr is not None
            why = process.stderr.read().decode("utf-8", "replace")
            if status := process.wait():
                kind = f"ends the process with status {status}: {why.strip()[-100:]!r}"
                found.inputs += 1
                found.problems[kind] += 1
                last = [path for path in (place / "last",) if path.exists()]
                found.examples.setdefault(kind, last[0].read_bytes() if last else b"")
    return found


def lines(main: Main, reader: str, inputs: int, seed: int, data: Path, place: Path) -> Iterator[dict[str, object]]:
    """What that process finds, by so many inputs; ``main`` is the command line."""
    how, chosen = READERS[reader], random.Random(seed)
    seeds = how.seeds(place, data)
    if not seeds:
        yield {"none": True}
        return
    watch = limited(place)
    for content in seeds[:8]:  # imports, which take long, are no hang, and their memory is no input's
        judged(main, how.put(content, place), watch)
    known: set[str] = set()
    problems: list[tuple[str, str]] = []
    for n in range(1, inputs + 1):
        content = mutated(chosen.choice(seeds), seeds, chosen)
        (place / "last").write_bytes(content)
        wrong, message = judged(main, how.put(content, place), watch)
        if how.inside:
            gc.collect()  # a comparison refers to itself
        if wrong:
            problems.append((wrong, content.hex()))
        shape = sha256(VARIABLE.sub("", message).encode("utf-8", "replace")).hexdigest()
        if shape not in known:  # it got to where nothing before it got
            known.add(shape)
            if len(seeds) < MOST_SEEDS:
                seeds.append(content)
        if n % EVERY == 0 or n == inputs:
            yield {"inputs": EVERY if n % EVERY == 0 else n % EVERY, "messages": len(known), "problems": problems}
            problems = []
