"""Thousands of damaged inputs for a reader, in a process of its own that is started again when an input ends it."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

OF_A_PROCESS: Final = 10_000
"""How many inputs a process tries.

A process remembers some of what it has read; a new one keeps that from counting against the limit of memory.
"""
IN_MEMORY: Final = Path("/dev/shm")
"""A file system on which writing takes a fiftieth of the time."""
PROCESS: Final = "import runpy; runpy.run_module('sim.cli.fuzzed', run_name='__main__')"
OURS: Final = [f"sim.verification.fuzz.{name}" for name in ("campaign", "judging", "mutation", "readers", "trying")]
"""Modules that read no input, so that their coverage does not matter."""
GUIDED: Final = f"import atheris\nwith atheris.instrument_imports(['sim'], {OURS}): {PROCESS}"


@dataclass(slots=True)
class Found:
    """How often a reader was tried, how many kinds of messages there were, and what kinds of problems.

    ``reached``: inputs that reached code that none before them had; None without coverage.  ``problems``: how
    often, by kind; ``examples``: the first input of each kind.
    """

    reader: str
    inputs: int = 0
    messages: set[str] = field(default_factory=set)
    reached: int | None = None
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, bytes] = field(default_factory=dict)

    def take(self, said: Mapping[str, Any]) -> None:
        """Adds what a process reported."""
        self.inputs += said["inputs"]
        self.messages.update(said["messages"])
        for kind, content in said["problems"]:
            self.problems[kind] += 1
            self.examples.setdefault(kind, bytes.fromhex(content))


def is_guided() -> bool:
    """Whether atheris (the extra ``fuzz``) is there."""
    return find_spec("atheris") is not None


def campaign(reader: str, inputs: int, seed: int, data: Path) -> Found:
    """Tries this many inputs; ``data`` is the directory of the tests' data."""
    found = Found(reader)
    with tempfile.TemporaryDirectory(prefix="fpswitch-fuzz.", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        corpus = Path(folder).resolve() / "corpus"
        corpus.mkdir()
        seeds = 0
        while found.inputs < inputs and _some(found, inputs, seed, data, corpus):
            seeds = seeds or len(list(corpus.glob("seed-*")))
        if seeds:
            found.reached = len(list(corpus.iterdir())) - seeds
    return found


def _some(found: Found, inputs: int, seed: int, data: Path, corpus: Path) -> bool:
    """Has one process try inputs; False if there is nothing to damage."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as folder, (corpus.parent / "stderr").open("w+b") as stderr:
        place, before = Path(folder) / "w", found.inputs
        place.mkdir()
        number = min(inputs - before, OF_A_PROCESS)
        request = [found.reader, str(number), str(seed + before), str(data.resolve()), str(place), str(corpus)]
        start = GUIDED if is_guided() else PROCESS
        process = subprocess.Popen([sys.executable, "-c", start, *request], stdout=subprocess.PIPE, stderr=stderr)
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith(b"\n"):  # the process ended in the middle of it, which its status says
                break
            said = json.loads(line)
            if said.get("none"):
                return False
            found.take(said)
        if status := process.wait():
            stderr.seek(0)
            why = stderr.read().decode("utf-8", "replace").strip()
            kind = f"ends the process with status {status}: {why[-100:]!r}"
            found.inputs += 1
            found.problems[kind] += 1
            last = [path for path in (place / "last",) if path.exists()]
            found.examples.setdefault(kind, last[0].read_bytes() if last else b"")
    return True
