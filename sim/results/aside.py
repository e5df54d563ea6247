"""Where a run sets aside what was in its directory before: ``DIR.previous``, with a mark beside it.

The mark is a file with the hash of the manifest that was set aside.  It is on the disk before that directory gets the
name, and goes after it.  So whatever lies there and is not what the mark names is somebody's own.
"""

import os
from pathlib import Path
from typing import Any

from sim.bounded import content
from sim.errors import InputError
from sim.results import files
from sim.results import manifest as manifests


class Aside:
    """The place for what is in ``directory``, which need not be there; nothing is looked at yet."""

    def __init__(self, directory: Path) -> None:
        self._directory, whole = directory, Path(os.path.normpath(directory))
        self.path = whole.with_name(f"{whole.name}.previous")
        self._mark = whole.with_name(f".{whole.name}.previous.mark")

    def found(self) -> dict[str, Any] | None:
        """The manifest of what a run has set aside; :class:`InputError` if something else lies there."""
        if not os.path.lexists(self.path):
            return None
        try:
            if self.path.is_symlink():
                raise InputError(f"{self.path}: a symbolic link")
            manifest = manifests.read(self.path)
            if not self._is_ours():
                raise InputError(f"{self.path}: was not set aside by a run in {self._directory}")
        except InputError as error:
            raise InputError(
                f"{error}; earlier results in {self._directory} would be set aside as {self.path}, and what is there "
                "is not overwritten: move it, or give another directory"
            ) from error
        return manifest

    def _is_ours(self) -> bool:
        """Whether it is what the mark names; of what is in the directory now it can only be somebody's copy."""
        try:
            marked = content(self._mark).decode()
        except (OSError, ValueError):
            return False
        return marked == _hash(self.path) != _hash(self._directory)

    def put(self) -> None:
        """Sets the directory aside; deletes what it has replaced, if a kill kept that from being deleted."""
        if self._is_ours():
            files.remove(self.path)
        files.write_kept(self._mark, files.sha256(self._directory / manifests.NAME).encode())
        files.sync(self._mark.parent)
        try:
            self._directory.rename(self.path)
        except OSError:  # somebody else's, in a directory like /tmp, where the mark would be in the owner's way
            self._mark.unlink()
            raise
        files.sync(self.path.parent)

    def delete(self) -> None:
        """Deletes what a run has set aside, unless somebody has moved it away, to keep it."""
        if self._is_ours():
            files.remove(self.path)
        self._mark.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes what a kill left of a deletion, and a mark of what is not there."""
        files.remove_deleted(self.path)
        files.remove_left(self._mark)
        if not os.path.lexists(self.path):
            self._mark.unlink(missing_ok=True)


def _hash(directory: Path) -> str | None:
    try:
        return files.sha256(directory / manifests.NAME)
    except OSError:
        return None
