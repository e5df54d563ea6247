"""Kills at random moments on this machine: of the driver, or of one of its processes, with SIGKILL.

The run of one seed and that of another take turns in one directory, so that kills also come while an earlier result is
set aside, replaced and deleted.  A turn ends when its run is complete, and now and then before: the other run then sets
an unfinished one aside, or is refused, since what is set aside already would be lost.  After each kill the directory
must be what it says, and hold all that it held of either seed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sim.errors import InputError
from sim.results import load, parts
from sim.results import manifest as manifests
from sim.results.columns import SCHEMAS
from sim.results.keys import Key
from sim.verification.kill.victim import REFUSED, killed

SEEDS: Final = (1, 2)
JOBS: Final = ("1", "2", "3")
EARLY: Final = 0.5
"""How often the other run has its turn after one that was killed."""
TIMEOUT_S: Final = 300
TIMED_EVERY: Final = 20
"""After so many kills it is measured again how long a run takes."""


@dataclass(slots=True)
class Campaign:
    """What was done, and what went wrong: sentences, none if all is well.

    ``kills`` are by what was killed and what the manifest said then; ``too_late`` came when the run had ended;
    ``complete`` runs were compared with one that nobody killed, byte for byte; ``early`` turns began after a run that
    was not complete, and ``refused`` runs would have lost something.
    """

    kills: Counter[str] = field(default_factory=Counter)
    too_late: int = 0
    complete: int = 0
    continued: int = 0
    early: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)


def campaign(kills: int, seed: int, place: Path) -> Iterator[Campaign]:
    """Kills runs below the empty directory ``place``, and reports after each kill."""
    chosen, found = random.Random(seed), Campaign()
    truth = {each: _tables_of(each, place / f"alone-{each}") for each in SEEDS}
    out, turn, length, timed_at = place / "r", 0, _length(place), 0
    kept: dict[int, set[Key]] = {each: set() for each in SEEDS}
    while found.kills.total() < kills:
        if found.kills.total() >= timed_at + TIMED_EVERY:  # a machine that others use may be slower by now
            length, timed_at = _length(place), found.kills.total()
        which, jobs = SEEDS[turn % len(SEEDS)], chosen.choice(JOBS)
        moment = chosen.uniform(0, length * 1.2)
        what = f"seed {which}, {jobs} jobs, after {moment:.3f} s"
        before, has_no_room = found.kills.total(), all(kept.values()) and _seed(out) not in (which, None)
        status = _run(which, out, jobs, moment, chosen, found)
        is_complete = _is_complete(out, which)
        there = {each: _finished(out, each) for each in SEEDS}
        found.problems += _lost(kept, there, what, (which,) if is_complete and not has_no_room else SEEDS)
        found.continued += bool(there[which] - kept[which])
        if status == 0 or is_complete:
            found.complete += 1
            found.problems += _other(out, truth[which], f"seed {which}, {jobs} jobs")
            turn += 1
        elif status == REFUSED:
            found.refused += 1
            if not has_no_room:
                found.problems.append(f"{what}: it was refused, though nothing would have been lost")
            turn += 1
        elif status not in (-signal.SIGKILL, 1):
            found.problems.append(f"{what}: exit status {status}")
        elif chosen.random() < EARLY:
            found.early += 1
            turn += 1
        kept = there
        if found.kills.total() > before:
            yield found
    status = _run(SEEDS[turn % len(SEEDS)], out, "2", TIMEOUT_S, chosen, found)
    if status == REFUSED:
        turn += 1
        status = _run(SEEDS[turn % len(SEEDS)], out, "2", TIMEOUT_S, chosen, found)
    if status:
        found.problems.append(f"the last run ended with status {status}")
    found.problems += _other(out, truth[SEEDS[turn % len(SEEDS)]], "the last run")
    yield found


def _lost(
    kept: Mapping[int, set[Key]], there: Mapping[int, set[Key]], what: str, seeds: Sequence[int]
) -> Iterator[str]:
    """What was kept of these seeds, and is not there any more."""
    for each in seeds:
        if lost := kept[each] - there[each]:
            yield f"{what}: {len(lost)} parts of seed {each} are lost"


def _tables_of(seed: int, out: Path) -> dict[str, bytes]:
    killed(seed, str(out), "1")
    return _bytes(out)


def _bytes(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.parquet").read_bytes() for name in SCHEMAS}


def _length(place: Path) -> float:
    """How long a run takes without kills."""
    shutil.rmtree(place / "timed", ignore_errors=True)
    began = time.monotonic()
    _started(SEEDS[0], place / "timed", "2").wait()
    return time.monotonic() - began


def _started(seed: int, out: Path, jobs: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "sim.verification.kill.victim", str(seed), str(out), jobs]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _run(seed: int, out: Path, jobs: str, moment: float, chosen: random.Random, found: Campaign) -> int:
    """Runs, and kills the run or one of its processes at that moment; returns its exit status."""
    process = _started(seed, out, jobs)
    try:
        process.wait(moment)
        found.too_late += 1
    except subprocess.TimeoutExpired:
        workers = _children(process.pid) if jobs != "1" else []
        whom = chosen.choice(workers) if workers and chosen.random() < 0.4 else process.pid
        try:
            os.kill(whom, signal.SIGKILL)
        except ProcessLookupError:
            found.too_late += 1
        else:
            found.kills[f"{'driver' if whom == process.pid else 'worker'}, {_state(out)}"] += 1
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        found.problems.append(f"seed {seed}, {jobs} jobs, after {moment:.3f} s: still not over {TIMEOUT_S} s later")
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _state(out: Path) -> str:
    try:
        return str(manifests.read(out)["status"])
    except InputError:
        return "no result yet"


def _finished(out: Path, seed: int) -> set[Key]:
    """The keys of all that is finished of a seed's run, in place or set aside; nothing is, beside a complete result."""
    found: set[Key] = set()
    has_ended = False
    for place in (out, out.with_name(f"{out.name}.previous")):
        try:
            manifest = manifests.read(place)
        except InputError:
            continue
        if has_ended:
            break
        has_ended = manifest["status"] == manifests.COMPLETE
        if manifest["seed"] == seed:
            keys = set(parts.keys(manifest, manifest["replications"]).values())
            complete = manifest["status"] == manifests.COMPLETE
            found |= keys if complete else keys & set(parts.keys_kept(place))
    return found


def _seed(out: Path) -> int | None:
    try:
        return int(manifests.read(out)["seed"])
    except InputError:
        return None


def _is_complete(out: Path, seed: int) -> bool:
    try:
        return bool(load(out).manifest["seed"] == seed)
    except InputError:
        return False


def _other(out: Path, truth: dict[str, bytes], what: str) -> Iterator[str]:
    """What differs in a complete run from one without kills."""
    try:
        load(out)
    except InputError as error:
        yield f"{what}: {error}"
        return
    for name, content in _bytes(out).items():
        if content != truth[name]:
            yield f"{what}: {name}.parquet has other bytes"
