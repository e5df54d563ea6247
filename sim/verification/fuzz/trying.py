"""Damaged inputs, one after the other, in a process of its own; by atheris (libFuzzer) where it is, guided by coverage.

libFuzzer keeps inputs that reach code that none before them reached, and damages these further.  Without it, an input
is kept if its message is of a new kind.
"""

import gc
import os
import random
import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from sim.verification.fuzz.judging import Main, judged, limit_memory, watched
from sim.verification.fuzz.mutation import mutated
from sim.verification.fuzz.readers import MOST_OF_SEED, READERS

EVERY: Final = 200
"""Inputs between two reports."""
MOST_SEEDS: Final = 2000
COLLECT: Final = 20
"""Inputs between two garbage collections."""
OF_LIBFUZZER: Final = 0.4
"""The share of damage that is libFuzzer's own, which knows what the code compares with; the rest is mutation.py's."""
LIBFUZZER: Final = (
    "-len_control=0", "-verbosity=0", "-rss_limit_mb=0", "-malloc_limit_mb=0",
    "-detect_leaks=0", "-handle_abrt=0", "-handle_int=0", "-handle_term=0",
)  # fmt: skip
VARIABLE: Final = re.compile(r"'.*?'|\"[^\"]*\"|\d+|0x[0-9a-f]+|/\S+")

Tell = Callable[[dict[str, Any]], None]
"""Takes {"inputs", "messages" (kinds), "problems": [(kind, input in hex)]}, or {"none": true} without a seed."""


class Trying:
    """Tries ``inputs`` of a reader with the command line ``main``; ``place`` is the process's directory."""

    def __init__(self, main: Main, reader: str, inputs: int, data: Path, place: Path, tell: Tell) -> None:
        self._main, self._how, self._inputs, self._place, self._tell = main, READERS[reader], inputs, place, tell
        self.seeds = self._how.seeds(place, data)
        self._known: set[str] = set()
        self._done, self._told = 0, 0
        self._problems: list[tuple[str, str]] = []
        if self.seeds:
            self._watch = watched(place)
            for content in self.seeds[:8]:  # so that time and memory of imports do not count for an input
                judged(main, self._how.put(content, place), self._watch)
            gc.freeze()  # what is imported is not looked at again
            limit_memory()

    def attempt(self, content: bytes) -> bool:
        """Judges an input, and says whether its message is of a new kind."""
        (self._place / "last").write_bytes(content)
        wrong, message = judged(self._main, self._how.put(content, self._place), self._watch)
        if self._how.inside and self._done % COLLECT == 0:
            gc.collect()  # comparisons are reference cycles
        if wrong:
            self._problems.append((wrong, content.hex()))
        shape = sha256(VARIABLE.sub("", message).encode("utf-8", "replace")).hexdigest()[:16]
        is_new = shape not in self._known
        self._known.add(shape)
        self._done += 1
        if self._done - self._told == EVERY or self.is_done:
            self._tell({"inputs": self._done - self._told, "messages": sorted(self._known), "problems": self._problems})
            self._told, self._problems = self._done, []
        return is_new

    @property
    def is_done(self) -> bool:
        """Whether all inputs have been tried."""
        return self._done >= self._inputs

    def unguided(self, seed: int) -> None:
        """Tries all inputs, damaged by mutation.py alone."""
        chosen, seeds = random.Random(seed), self.seeds
        while not self.is_done:
            content = mutated(chosen.choice(seeds), seeds, chosen)
            if self.attempt(content) and len(seeds) < MOST_SEEDS:
                seeds.append(content)

    def guided(self, atheris: Any, seed: int, corpus: Path) -> None:
        """Tries all inputs with libFuzzer, which ends the process; ``corpus`` is where it keeps what got further."""
        is_damaged = False

        def damage(content: bytes, most: int, drawn: int) -> bytes:
            nonlocal is_damaged
            is_damaged = True
            chosen = random.Random(drawn)
            if chosen.random() < OF_LIBFUZZER:
                return bytes(atheris.Mutate(content, most))
            return mutated(content, self.seeds, chosen)[:most]

        def take(content: bytes) -> None:
            nonlocal is_damaged
            if is_damaged:
                self.attempt(content)
            else:  # libFuzzer first runs its corpus
                judged(self._main, self._how.put(content, self._place), self._watch)
            is_damaged = False
            if self.is_done:
                os._exit(0)

        _written(self.seeds, corpus)
        most = max(MOST_OF_SEED, *map(len, self.seeds))  # those that it keeps would grow without end, and take long
        options = (*LIBFUZZER, f"-max_len={most}", f"-seed={seed}")
        atheris.Setup(["fuzzed", *options, str(corpus)], take, custom_mutator=damage)
        atheris.Fuzz()


def _written(seeds: Sequence[bytes], corpus: Path) -> None:
    if not any(corpus.iterdir()):
        for number, content in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(content)
