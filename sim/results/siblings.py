"""Result directories in one folder that one command makes, one after the other: what need not be done for each."""

import os
import re
from pathlib import Path
from typing import Final

from sim.results import files

_LOCK: Final = re.compile(r"\..+\.lock")


class Siblings:
    """The result directories in ``folder``, which need not be there; no other command writes there meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._written: dict[str, tuple[bytes, Path, os.stat_result]] = {}
        try:
            names = os.listdir(folder)
        except OSError:
            names = []
        self.is_left = any(name.startswith(".") and not _LOCK.fullmatch(name) for name in names)
        """Whether something lies beside them that a kill may have left, or a run set aside."""

    def write(self, directory: Path, place: str, content: bytes) -> None:
        """Writes a file, as :func:`sim.results.files.write_kept` does: the one of the last sibling, if it is the same.

        It then has a name in both directories, where the file system has links, and each can be copied alone.
        """
        path = directory / place
        if place in self._written and self._written[place][0] == content and _link(*self._written[place][1:], path):
            return
        files.write_kept(path, content)
        self._written[place] = content, path, os.stat(path)


def _link(file: Path, was: os.stat_result, path: Path) -> bool:
    """Gives a file a second name, if nothing has that, and the file is what it was."""
    try:
        os.link(file, path)
    except OSError:  # it is gone or has too many links, the name is taken, or the file system has no links
        return False
    if _what(os.stat(path)) == _what(was):
        return True
    path.unlink()
    return False


def _what(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
