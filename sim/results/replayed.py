"""The directory of a replayed trace: replay.json, ledger.parquet and a manifest; only an earlier replay is replaced."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.bounded import content
from sim.errors import InputError
from sim.results import files
from sim.results.lock import Lock

if TYPE_CHECKING:
    import pandas as pd

FORMAT: Final = "fpswitch replay 1"
MANIFEST: Final = "manifest.json"
DOCUMENT: Final = "replay.json"
LEDGER: Final = "ledger.parquet"


class ReplayDirectory:
    """A directory for the results of a replay.

    Raises :class:`InputError`, before anything is touched, for one that is not empty and not an earlier replay's, and
    for one in which something else is going on.
    """

    def __init__(self, path: Path) -> None:
        path = self.path = files.resolved(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"--out {path}: not a directory")
        self._lock = Lock(path)
        if path.is_dir() and files.has_contents(path, MANIFEST) and not _is_replay(path):
            self.close()
            raise InputError(
                f"--out {path}: it is not empty, and holds no earlier replay (allowed: an empty directory, one that is "
                "not there yet, or an earlier replay's)"
            )

    def write(self, document: Mapping[str, Any], ledger: "pd.DataFrame", about: Mapping[str, Any]) -> None:
        """Writes what came out; the manifest, with ``about``, says "complete" when all of it is on the disk."""
        try:
            files.make_directory(self.path)
            for name in (MANIFEST, DOCUMENT, LEDGER):
                files.remove_left(self.path / name)
            self._manifest("running", about)
            (self.path / LEDGER).unlink(missing_ok=True)
            files.write_kept(self.path / DOCUMENT, (json.dumps(document, indent=1) + "\n").encode())
            temporary = self.path / f".{LEDGER}"
            with temporary.open("wb") as file:  # of a path pandas would take "~" for somebody's home
                ledger.to_parquet(file, index=False)
            files.sync(temporary)
            temporary.replace(self.path / LEDGER)
            self._manifest("complete", about)
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be written ({error.strerror})") from error

    def _manifest(self, status: str, about: Mapping[str, Any]) -> None:
        files.sync(self.path)
        text = json.dumps({"format": FORMAT, "status": status, **about}) + "\n"
        files.write_kept(self.path / MANIFEST, text.encode())
        files.sync(self.path)

    def close(self) -> None:
        """Lets others write to it."""
        self._lock.release()


def _is_replay(path: Path) -> bool:
    try:
        found = json.loads(content(path / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return False
    of_0_1 = isinstance(found, dict) and found.keys() == {"status", "trace", "command"}  # which named no format
    return of_0_1 or (isinstance(found, dict) and found.get("format") == FORMAT)
