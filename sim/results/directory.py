"""A result directory: started with its manifest, filled part by part, and complete only in one last step.

``manifest.json``, ``costs.json``, the four Parquet tables, in ``inputs/`` the files that the scenario names, and in
``parts/`` finished replications that are not in the tables, a file for each group that was run together.  Whatever is
finished of the same world is used again, from parts and from tables.  A complete directory is set aside until the new
run of it is complete, too.
"""

import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from sim.errors import InputError
from sim.results import files, parts, progress, reading
from sim.results import manifest as manifests
from sim.results.aside import Aside
from sim.results.columns import SCHEMAS
from sim.results.groups import Group
from sim.results.lock import Lock
from sim.results.siblings import Siblings
from sim.results.world import differences

FROM_THE_FIRST_RUN = ("started", "wall_s", "error", "versions", "commit", "platform", "files")
"""What a manifest says of how its tables were made."""


class ResultDirectory:
    """A directory for a run; before :meth:`begin` nothing in it is touched, but by :meth:`mend`.

    ``worlds`` are the fingerprints of the run's cases, ``siblings`` those that the same command makes beside it.
    ``found`` is the manifest of what lies there, ``aside`` that of what an earlier run set aside, in ``previous``.
    Beside a complete result nothing is aside: what lies in ``previous`` was replaced by it, and a kill interrupted its
    deletion.

    Raises :class:`InputError` if ``directory`` is empty, the current directory or one above it, something else than a
    directory, or holds files and is not one of ours; if ``previous`` holds what no run has set aside; if the one would
    have to be set aside where the other is; or if another run goes on in one of the two, until :meth:`close`.
    """

    def __init__(
        self, directory: str | os.PathLike[str], worlds: Container[str], siblings: Siblings | None = None
    ) -> None:
        if not os.fspath(directory):
            raise InputError(
                "result directory '': a path is empty (allowed: a directory that is empty or not yet there)"
            )
        path = self.path = files.resolved(directory)
        if Path.cwd().is_relative_to(os.path.realpath(path)):
            raise InputError(f"{path}: the current directory, or one above it, cannot be a result directory")
        self._place = Aside(path)
        self.previous = self._place.path
        self.begun = False
        self._worlds, self._siblings = worlds, siblings
        self._written: Mapping[str, bytes] = {}
        self.manifest: dict[str, Any] = {}
        self._locks = [Lock(path)]
        try:
            self._locks.append(Lock(self.previous))
            aside, self.found = self._place.found(), _found(path)
            self.aside = None if is_complete(self.found) else aside
            self._check_room()
        except BaseException:
            self.close()
            raise

    def _check_room(self) -> None:
        """There is one place to set something aside: what it holds, or what a run kept since then, would be lost."""
        found, aside = self.found, self.aside
        if found is None or aside is None or self._is_related(found) or not parts.has_any(self.path):
            return
        raise InputError(
            f"{self.path}: holds an unfinished run ({_words(found)}), and {self.previous} what it was to replace "
            f"({_words(aside)}); any other run would lose one of them (allowed: another directory, the command that "
            f"continues {self.path}, or this one when {self.path} or {self.previous} has been moved away or deleted)"
        )

    def close(self) -> None:
        """Lets others run in it."""
        for lock in self._locks:
            lock.release()

    def mend(self, contents: Mapping[str, bytes]) -> list[str]:
        """Writes files of complete results again that are not what the run wrote, where ``contents`` has that by their
        place, and says which.  They get inodes of their own: all points of a design may have the damaged one.
        """
        mended: dict[str, None] = {}
        for manifest, where in ((self.aside, self.previous), (self.found, self.path)):
            if manifest is None or not (self._is_related(manifest) and is_complete(manifest)):
                continue
            wanted = manifest.get("files", {})
            ours = [place for place, sha256 in hashes_of(contents).items() if sha256 == wanted.get(place)]
            for place in (place for place in ours if not _has(where / place, wanted[place])):
                _write_again(where / place, contents[place])
                mended[place] = None
        were = "was" if len(mended) == 1 else "were"
        return [f"{', '.join(mended)} {were} not what the run wrote, and {were} written again"] if mended else []

    def finished(self, notes: list[str]) -> Iterator[Group]:
        """What is finished of the run's cases, and what lies beside that.

        ``notes`` gets sentences on what is damaged.  Raises :class:`InputError` for tables that are.
        """
        for manifest, where in ((self.aside, self.previous), (self.found, self.path)):
            if self._is_related(manifest):
                problems: list[str] = []
                yield from reading.finished(where, problems)
                notes += problems

    def engines(self) -> dict[str, set[str]]:
        """The engines that simulated what :meth:`finished` gives, by case: tables do not say that, but manifests do."""
        found: dict[str, set[str]] = {}
        for manifest in filter(None, (self.aside, self.found)):
            of_cases = manifest.get("engines", {})
            for case in (each["case"] for each in manifest["cases"] if each.get("fingerprint") in self._worlds):
                if engines := of_cases.get(case):
                    found.setdefault(case, set()).update(engines)
        return found

    def whole(self) -> Path | None:
        """Where a complete result lies of which :meth:`finished` gave parts."""
        for manifest, where in ((self.found, self.path), (self.aside, self.previous)):
            if self._is_related(manifest) and is_complete(manifest):
                return where
        return None

    def _is_related(self, manifest: Mapping[str, Any] | None) -> bool:
        return manifest is not None and any(case.get("fingerprint") in self._worlds for case in manifest["cases"])

    def begin(self, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> list[str]:
        """Makes the directory that of a run with this manifest, and says what becomes of what was there.

        ``contents`` are the files that are there before its tables, by their place.
        """
        self._started = time.monotonic()
        notes, is_new = self._make_room(manifest)
        if not is_new:
            self._tidy_inside(contents)
        self._tidy_beside()
        self.manifest = {
            "format": manifests.FORMAT, "status": manifests.RUNNING, **manifest, "started": _now(), "wall_s": None,
            "error": None, "files": {},
        }  # fmt: skip
        manifests.write(self.path, self.manifest)
        self.begun = True
        if not files.make_directory(self.path / parts.FOLDER):
            files.sync(self.path / parts.FOLDER)  # a run that was killed need not have done so
        self._write_inputs(contents)
        manifests.write(self.path, self.manifest)
        return notes

    def _write_inputs(self, contents: Mapping[str, bytes]) -> None:
        """Writes them, unless this run has; their names here are on the disk with those of what comes next."""
        if contents == self._written:
            return
        for place, content in contents.items():
            path = self.path / place
            files.make_directory(path.parent)
            if self._siblings is None:
                files.write_kept(path, content)
            else:
                self._siblings.write(self.path, place, content)
            if path.parent != self.path:
                files.sync(path.parent)
        for place in self.manifest["files"].keys() - contents:
            (self.path / place).unlink()
        self.manifest["files"], self._written = hashes_of(contents), contents

    def tidy(self, contents: Iterable[str]) -> None:
        """Removes what commands that were killed left here and beside, of tables and of files with these places."""
        self._tidy_inside(contents)
        self._tidy_beside()
        if not self.begun:
            with suppress(OSError):
                progress.remove(self.path)

    def _tidy_inside(self, contents: Iterable[str]) -> None:
        inputs = {*contents, *(self.found or {}).get("files", ())}  # of which .mine.toml may be one, beside mine.toml
        own = {self.path / place for place in inputs}
        for place in (manifests.NAME, progress.NAME, *(f"{name}.parquet" for name in SCHEMAS), *contents):
            files.remove_left(self.path / place, but=own)

    def _tidy_beside(self) -> None:
        if self._siblings is None or self._siblings.is_left:
            with suppress(OSError):
                files.remove_deleted(self.path)
                self._place.tidy()

    def _make_room(self, manifest: Mapping[str, Any]) -> tuple[list[str], bool]:
        """Sets aside what is there, unless it is an unfinished run of the same world, which is continued.  Gives
        sentences, and whether the directory is new.
        """
        found, aside, notes = self.found, self.aside, []
        until = "until this run is complete, and then deleted"
        try:
            if found is not None and (is_complete(found) or not self._is_related(found)):
                if not is_complete(found) and not parts.has_any(self.path):
                    notes.append(f"the contents of {self.path} are deleted: {_words(found)}; nothing was kept of it")
                    files.remove(self.path)
                else:
                    if not self._is_related(found):
                        notes.append(
                            f"the contents of {self.path} are kept in {self.previous} {until}: {_words(found)}"
                            f"{_why(found, manifest)}; to keep them longer, move {self.previous} away before that"
                        )
                    self._place.put()
                    self.aside = found
                self.found = None
            if aside is not None and not self._is_related(aside):
                notes.append(
                    f"{self.previous} is kept {until}: {_words(aside)}{_why(aside, manifest)}; to keep it longer, move "
                    "it away before that"
                )
            is_new = files.make_directory(self.path)
            if not is_new:
                files.sync(self.path.parent)  # who made it before need not have done so
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made a result directory ({error.strerror})") from error
        return notes, is_new

    @property
    def has_set_aside(self) -> bool:
        """Whether results that were there before lie in ``previous``."""
        return self.aside is not None

    def keep(self, group: Group) -> None:
        """Keeps finished replications, for a later run if this one does not get to its end."""
        parts.keep(group, self.path)

    def complete(
        self,
        write_tables: Callable[[Mapping[str, Path]], None],
        manifest: Mapping[str, Any],
        contents: Mapping[str, bytes],
        others: Iterable[Group],
    ) -> list[str]:
        """Writes the tables, and then says in the manifest that they are there; what was set aside is deleted.

        ``write_tables`` writes those of ``manifest`` to files; ``others`` have what is finished, too, and not in them.
        Gives a sentence if what was set aside cannot be deleted.
        """
        kept = set()
        for group in others:
            kept.add(group.name)
            if not parts.has(group, self.path):
                self.keep(group)
        self.manifest |= manifest
        self._write_inputs(contents)
        written = {name: self.path / f".{name}.parquet" for name in SCHEMAS}
        write_tables(written)
        for name, temporary in written.items():
            files.sync(temporary)
            self.manifest["files"] |= {f"{name}.parquet": files.sha256(temporary)}
            os.replace(temporary, self.path / f"{name}.parquet")
        self.end(manifests.COMPLETE)
        parts.remove_all_but(kept, self.path)
        try:
            self._place.delete()
        except OSError as error:
            return [f"{self.previous} cannot be deleted ({error.strerror}); it is no longer needed"]
        return []

    def restate(self, manifest: Mapping[str, Any]) -> None:
        """Another manifest for the tables that are there."""
        assert self.found is not None, "there is nothing to restate"
        kept = {key: self.found[key] for key in FROM_THE_FIRST_RUN}
        manifests.write(self.path, {"format": manifests.FORMAT, "status": manifests.COMPLETE, **manifest, **kept})

    def end(self, status: str, error: str | None = None) -> None:
        """Says in the manifest how the run ended; what happens after it is complete takes nothing from that."""
        if self.manifest["status"] == manifests.COMPLETE:
            return
        wall_s = round(time.monotonic() - self._started, 3)
        ended = self.manifest | {"status": status, "wall_s": wall_s, "error": error}
        manifests.write(self.path, ended)
        self.manifest = ended
        progress.remove(self.path)

    def tell(self, how_far: "progress.Progress") -> None:
        """Writes the progress of the run for other processes."""
        progress.write(self.path, how_far)


def is_complete(manifest: Mapping[str, Any] | None) -> bool:
    """Whether there is a result, and it is complete."""
    return manifest is not None and manifest["status"] == manifests.COMPLETE


def hashes_of(contents: Mapping[str, bytes]) -> dict[str, str]:
    """The sha256 of each."""
    return {place: _sha256(content) for place, content in contents.items()}


@lru_cache(maxsize=4)  # the points of a design have the same cost tables
def _sha256(content: bytes) -> str:
    return sha256(content).hexdigest()


def _has(path: Path, sha256: str) -> bool:
    """Whether this is the hash of a file, which can be read."""
    try:
        return files.sha256(path) == sha256
    except OSError:
        return False


def _write_again(path: Path, content: bytes) -> None:
    try:
        files.make_directory(path.parent)
        files.write_kept(path, content)
        files.sync(path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: is not what the run wrote, and cannot be written again ({error.strerror})"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _words(manifest: Mapping[str, Any]) -> str:
    """Which run this is."""
    ended = "" if is_complete(manifest) else ", not complete"
    return (
        f"scenario {manifest['scenario']}, seed {manifest['seed']}, {manifest['replications']} replications, fpswitch "
        f"{manifest['versions']['fpswitch']} (source {manifest['versions']['source_sha256'][:12]}){ended}"
    )


def _why(earlier: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Why nothing of an earlier run can be used again."""
    found = differences(earlier, manifest)
    return f"; none of it can be used again: other than here are {', '.join(found)}" if found else ""


def _found(path: Path) -> dict[str, Any] | None:
    """The manifest of what lies in a directory; :class:`InputError` if that is not ours."""
    try:
        if not path.exists() or not files.has_contents(path, manifests.NAME):
            return None
        return manifests.read(path)
    except InputError as error:
        raise InputError(f"{error}; it is not empty, and nothing in it is overwritten") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be made a result directory ({error.strerror})") from error
