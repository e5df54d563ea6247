"""The finished points of a design, each in a small file: what is told of it, without reading its tables again.

A point's file says what its directory was when it was finished: the hash of its manifest, which has those of all other
files, and how large these were.  That is enough to use it again; who loads its tables checks all hashes.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sim.bounded import content
from sim.results import files
from sim.results import manifest as manifests

SUFFIX: Final = ".json"
_LEFT: Final = re.compile(r"\.(\d+\.json)\.", re.ASCII)


class Finished:
    """The files in ``folder`` that are of the design with the hash ``of``."""

    def __init__(self, folder: Path, of: str) -> None:
        self._folder, self._of = folder, of

    def tidy(self) -> None:
        """Makes the folder, and removes what commands that were killed left there."""
        files.make_directory(self._folder)
        for each in list(self._folder.iterdir()):
            if left := _LEFT.match(each.name):
                files.remove_left(self._folder / left[1])

    def rows(self, point: Path) -> list[dict[str, Any]] | None:
        """What was told of the point in this directory; None if it is not finished, or no longer as it was."""
        try:
            found = json.loads(content(self._folder / f"{point.name}{SUFFIX}"))
            sha256 = found.pop(manifests.OWN_SHA256)
            if sha256 != manifests.sha256(found) or found["of"] != self._of or found["directory"] != _directory(point):
                return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        rows: list[dict[str, Any]] = found["rows"]
        return rows

    def keep(self, point: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """The point in this directory is finished, and these rows are told of it."""
        document = {"of": self._of, "directory": _directory(point), "rows": rows}
        document[manifests.OWN_SHA256] = manifests.sha256(document)
        path = self._folder / f"{point.name}{SUFFIX}"
        files.write_kept(path, (json.dumps(document) + "\n").encode())
        files.sync(path.parent)


def _directory(point: Path) -> dict[str, Any]:
    """What shows that a result directory is as it was."""
    manifest = content(point / manifests.NAME)
    names = json.loads(manifest)["files"]
    return {
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "bytes": {name: (point / name).stat().st_size for name in names},
    }
