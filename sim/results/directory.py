"""A result directory: started with its manifest, filled part by part, and complete only in one last step.

``manifest.json``, ``costs.json``, the four Parquet tables, and in ``inputs/`` the files that the scenario names; while
a run is going on also ``parts/``, a file for each replication that is finished.  A later run of the same scenario,
costs, seed and code that finds an unfinished directory takes its parts over; a directory with something else in it is
set aside until the new run is complete.
"""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from sim.errors import InputError
from sim.results import files, parts, tables
from sim.results import manifest as manifests
from sim.results.lock import Lock
from sim.results.record import Part, Record
from sim.results.tables import SCHEMAS, Results


class ResultDirectory:
    """A directory in which a run is going on.

    Raises :class:`InputError`, before anything is touched, if ``path`` is empty, the current directory or one above it,
    something else than a directory, or holds files and is not one of ours; if that holds of where it would be set
    aside; or if another run goes on in it, until :meth:`close`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        manifest: Mapping[str, Any],
        costs: Mapping[str, Any],
        inputs: Mapping[str, bytes],
    ) -> None:
        if not os.fspath(directory):
            raise InputError(
                "result directory '': a path is empty (allowed: a directory that is empty or not yet there)"
            )
        path = self.path = Path(os.path.realpath(directory)) if os.path.islink(directory) else Path(directory)
        if Path.cwd().is_relative_to(os.path.realpath(path)):
            raise InputError(f"{path}: the current directory, or one above it, cannot be a result directory")
        self._lock = Lock(path)
        try:
            self._start(manifest, costs, inputs)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets others run in it."""
        self._lock.release()

    def _start(self, manifest: Mapping[str, Any], costs: Mapping[str, Any], inputs: Mapping[str, bytes]) -> None:
        path = self.path
        self._started = time.monotonic()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self.manifest: dict[str, Any] = {
            "format": manifests.FORMAT, "status": manifests.RUNNING, **manifest, "started": started, "wall_s": None,
            "error": None, "files": {},
        }  # fmt: skip
        self.set_aside = _set_aside(path)
        if not self._continues():
            self._make_room()
        manifests.write(path, self.manifest)
        (path / parts.FOLDER).mkdir(exist_ok=True)
        self._write(manifests.COSTS, (json.dumps(costs, indent=1) + "\n").encode())
        for place, content in inputs.items():
            self._write(place, content)
        manifests.write(path, self.manifest)

    def _write(self, place: str, content: bytes) -> None:
        path = self.path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, content)
        files.sync(path.parent)
        self.manifest["files"] |= {place: sha256(content).hexdigest()}

    def _continues(self) -> bool:
        """Whether an unfinished run of the same things lies here."""
        if not self.path.is_dir() or not (self.path / manifests.NAME).exists():
            return False
        found = manifests.read(self.path)
        unfinished = found["status"] != manifests.COMPLETE and (self.path / parts.FOLDER).is_dir()
        return bool(unfinished and found["fingerprint"] == self.manifest["fingerprint"])

    def _make_room(self) -> None:
        path, aside = self.path, _previous(self.path)
        try:
            if path.is_dir() and any(path.iterdir()):
                status = manifests.read(path)["status"]
                if aside.exists() and status != manifests.COMPLETE:
                    shutil.rmtree(path)  # what is set aside is a complete result, and this one is not
                else:
                    if aside.exists():
                        shutil.rmtree(aside)
                    path.rename(aside)
                    self.set_aside = aside
            path.mkdir(parents=True, exist_ok=True)
        except InputError as error:
            raise InputError(f"{error}; it is not empty, and nothing in it is overwritten") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be made a result directory ({error.strerror})") from error

    def keep(self, record: Record) -> None:
        """Keeps a finished replication, for a later run if this one does not get to its end."""
        parts.write(record, parts.path_of(record.part, self.path))

    def kept(self, wanted: Iterable[Part]) -> Iterator[Record]:
        """Those of ``wanted`` that are finished."""
        for part in wanted:
            path = parts.path_of(part, self.path)
            if path.exists():
                yield parts.read(path)

    def complete(self, results: Results) -> Results:
        """Writes the tables, and then says in the manifest that they are there; what was set aside is deleted."""
        for name in SCHEMAS:
            temporary = self.path / f".{name}.parquet"
            tables.write(getattr(results, name), name, temporary)
            files.sync(temporary)
            self.manifest["files"] |= {f"{name}.parquet": files.sha256(temporary)}
            os.replace(temporary, self.path / f"{name}.parquet")
        self.end(manifests.COMPLETE)
        files.remove(self.path / parts.FOLDER)
        notes = results.notes
        if self.set_aside is not None:
            notes = (*notes, f"{self.path}: replaces {_described(manifests.read(self.set_aside))}")
            files.remove(self.set_aside)
        return replace(results, manifest=self.manifest, directory=self.path, notes=notes)

    def end(self, status: str, error: str | None = None) -> None:
        """Says in the manifest how the run ended."""
        self.manifest |= {"status": status, "wall_s": round(time.monotonic() - self._started, 3), "error": error}
        manifests.write(self.path, self.manifest)


def _described(manifest: Mapping[str, Any]) -> str:
    """What was there before, in words."""
    strategies = len({name for case in manifest["cases"] for name in case["strategies"]})
    return f"an earlier result ({strategies} strategies, {manifest['replications']} replications)"


def _previous(path: Path) -> Path:
    """Where the contents of ``path`` are while a new run fills it."""
    whole = Path(os.path.normpath(path))
    return whole.with_name(f"{whole.name}.previous")


def _set_aside(path: Path) -> Path | None:
    """What an earlier run set aside; :class:`InputError` if something lies there that no run can have put there."""
    aside = _previous(path)
    if not os.path.lexists(aside):
        return None
    try:
        if aside.is_symlink():
            raise InputError(f"{aside}: a symbolic link")
        manifests.read(aside)
    except InputError as error:
        raise InputError(
            f"{error}; earlier results in {path} would be set aside as {aside}, and what is there is not overwritten: "
            "move it, or give another directory"
        ) from error
    return aside
