"""The progress of a run, as its driver writes it while it runs, and as its directory shows it afterwards."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sim.bounded import content
from sim.errors import InputError
from sim.results import manifest as manifests
from sim.results import parts
from sim.results.lock import Driver, own

NAME: Final = "progress.json"
"""The file in the directory, while a run is in progress there."""
EVERY_S: Final = 1.0
MOST_LISTED: Final = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """``finished`` of ``total`` parts (a strategy in a replication of a case); ``before``: were there at the start.

    ``in_flight`` is what is done of replications that run, in parts, as far as that is known.
    ``running`` and ``failed`` are (case, timed by, replication), at most 100 of the former; ``elapsed_s`` is the
    driver's time so far, ``at`` the time of day in seconds.  ``fixed`` says that the total is; otherwise more may be
    asked for, until the precision is reached.
    """

    finished: int
    total: int
    before: int
    elapsed_s: float
    at: float
    in_flight: float = 0.0
    fixed: bool = True
    workers: int = 1
    dashboard: str = ""
    running: Sequence[Sequence[Any]] = ()
    failed: Sequence[Sequence[Any]] = ()
    pid: int = field(default_factory=os.getpid)
    began: str = field(default_factory=lambda: own(os.getpid()))
    host: str = field(default_factory=socket.gethostname)

    @property
    def per_second(self) -> float:
        """Parts done in a second of this run; 0 as long as there are none."""
        return max(0.0, (self.finished + self.in_flight - self.before) / self.elapsed_s) if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at that rate, or None."""
        left = max(0.0, self.total - self.finished - self.in_flight)
        return left / self.per_second if self.per_second else None

    @property
    def driver(self) -> Driver:
        """The process that wrote it."""
        return Driver(self.pid, self.host, self.began, self.at)


def write(directory: Path, progress: Progress) -> None:
    """Writes it for other processes; nothing depends on the file, so this does not wait for the disk."""
    temporary = directory / f".{NAME}"
    temporary.write_text(json.dumps({name: getattr(progress, name) for name in progress.__slots__}))
    os.replace(temporary, directory / NAME)


def remove(directory: Path) -> None:
    """Of a run that has ended its manifest says all."""
    (directory / NAME).unlink(missing_ok=True)


def read(directory: Path) -> Progress | None:
    """What the driver said last; None if it said nothing, and :class:`InputError` if that cannot be read."""
    from sim.results import schema  # pydantic: a tenth of a second, for which only readers have to wait

    path = directory / NAME
    try:
        found = schema.parsed(content(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({schema.shorter(error)})") from error
    schema.fits(schema.ProgressFile, found, str(path))
    return Progress(**{"began": "", **found})  # which fpswitch 0.2.0 did not say


def on_disk(directory: Path, manifest: Mapping[str, Any]) -> tuple[int, int]:
    """How many parts of a run are finished, including those of earlier runs, and how many it needs."""
    if manifest["format"] == manifests.FORMAT_OF_0_1:  # whose parts have no keys, and cannot be read any more
        total = parts.number(manifest)
        return total if manifest["status"] == manifests.COMPLETE else 0, total
    wanted = parts.keys(manifest, manifest["replications"])
    if manifest["status"] == manifests.COMPLETE:
        return wanted.distinct, wanted.distinct
    there = {same: bytearray(wanted.replications) for same in wanted.series.values()}
    for same, n in parts.keys_kept(directory):
        if wanted.have((same, n)):
            there[same][n] = True
    aside = directory.with_name(f"{directory.name}.previous")
    if (aside / manifests.NAME).exists():
        try:
            earlier = manifests.read(aside)
        except InputError:
            earlier = {}
        if earlier.get("status") == manifests.COMPLETE:
            of_earlier = parts.keys(earlier, earlier["replications"])
            most = min(of_earlier.replications, wanted.replications)
            for same in there.keys() & set(of_earlier.series.values()):
                there[same][:most] = bytes([True]) * most
    return sum(map(sum, there.values())), wanted.distinct
