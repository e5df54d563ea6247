"""The tables of finished points as a partitioned dataset, by links to them where the file system has links."""

import os
import shutil
from pathlib import Path
from typing import Final

from sim.results import files
from sim.results.columns import SCHEMAS

DATASET: Final = "dataset"
PART: Final = "part.parquet"


class Dataset:
    """That of the design in ``path``.

    What has been added is on the disk after :meth:`sync`: one by one that would be eight calls for each point, and a
    later command adds what a power cut took.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / DATASET
        self._unsynced: list[Path] = []

    def add(self, point: Path, *, is_synced: bool = False) -> None:
        """The tables of the point in this directory; ``is_synced`` says that those which are there are on the disk."""
        for name in SCHEMAS:
            place = self._path / name / f"point={point.name}"
            if _add(point / f"{name}.parquet", place / PART) or not is_synced:
                self._unsynced.append(place)

    def sync(self) -> None:
        """Returns when all is on the disk."""
        for each in dict.fromkeys([*self._unsynced, *(each.parent for each in self._unsynced)]):
            files.sync(each)
        if self._unsynced:
            files.sync(self._path)
            files.sync(self._path.parent)
        self._unsynced.clear()


def _add(file: Path, place: Path) -> bool:
    """Puts a file in a second place; False if it is there already."""
    if place.exists() and (place.samefile(file) or files.sha256(place) == files.sha256(file)):
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(file, temporary)
    except OSError:  # a file system without links
        shutil.copyfile(file, temporary)
        files.sync(temporary)
    os.replace(temporary, place)
    return True
