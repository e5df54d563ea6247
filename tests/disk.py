"""A disk whose power can be cut between any two calls: what is sure to be there afterwards, and what may be.

A file's contents survive if they were synced, and a name does if its directory was synced since.  Whatever else was
done may survive or not: of the changes of a directory since it was synced any, also a later one without the earlier
ones, contents that were written since, a part of them, or a file of length 0.  A rename in a directory is one change.

POSIX gives changes of a directory no order, and not all file systems do: after a directory was renamed and another
made in its place, Btrfs (Linux 4.4) kept the second without the rename, and what lay in the first was lost (xfstests
generic/341; of files F2FS did the same in 4.15, generic/342).

The calls are those of :mod:`os` through which Python changes names and syncs; libraries may write contents in any way
they like.
"""

import os
import random
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CALLS = ("fsync", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir")

Names = dict[str, int]
"""What a directory has, by name: inodes."""


@dataclass(frozen=True)
class Cut:
    """What lay on the disk just before a call: ``call`` says which; ``told`` is what had been reported by then."""

    call: str
    told: object
    root: int
    synced: dict[int, bytes]
    names: dict[int, list[Names]]
    """By directory: as synced, and then as they were at each call since; the last ones are those of now."""
    contents: dict[int, bytes]

    def worst(self, place: Path) -> None:
        """Nothing survives that was not synced."""
        self._make(place, self.root, lambda each: each[0], lambda inode: self.synced.get(inode, b""))

    def empty_files(self, place: Path) -> None:
        """All names survive, and no contents that were not synced."""
        self._make(place, self.root, lambda each: each[-1], lambda inode: self.synced.get(inode, b""))

    def last_names(self, place: Path) -> None:
        """Of the changes of each directory only the last one survives, and no contents that were not synced."""
        self._make(place, self.root, lambda each: _with(each, [-1]), lambda inode: self.synced.get(inode, b""))

    def some_of_it(self, place: Path, seed: int) -> None:
        """Of what was not synced something survives."""
        chosen = random.Random(seed)

        def content(inode: int) -> bytes:
            synced = self.synced.get(inode, b"")
            now = self.contents.get(inode, synced)
            return synced if now == synced else chosen.choice([synced, now, now[: chosen.randint(0, len(now))]])

        def names(each: list[Names]) -> Names:
            changes = range(1, len(each))
            return _with(each, sorted(chosen.sample(changes, chosen.randint(0, len(changes)))))

        self._make(place, self.root, names, content)

    def _make(
        self, place: Path, inode: int, names: Callable[[list[Names]], Names], content: Callable[[int], bytes]
    ) -> None:
        place.mkdir(parents=True)
        for name, each in names(self.names[inode]).items():
            if each in self.names:
                self._make(place / name, each, names, content)
            else:
                (place / name).write_bytes(content(each))


class Disk:
    """The disk of what is below ``root``; ``cuts`` are those before each call, and one at the end.

    What is there at first is synced, except that a name in ``unsynced`` need not survive.  ``told`` is called at each
    cut.
    """

    def __init__(self, root: Path, told: Callable[[], object], unsynced: Container[Path] = ()) -> None:
        self.cuts: list[Cut] = []
        self._root, self._told = root, told
        self._synced: dict[int, bytes] = {}
        self._names: dict[int, list[Names]] = {}
        self._held: dict[int, int] = {}
        """Inodes that are open here, so that no other file gets their number."""
        for path in (root, *root.rglob("*")):
            self._sync(path)
            if path.is_dir():
                names = self._names[self._inode(path)]
                names[:0] = [{name: inode for name, inode in names[0].items() if path / name not in unsynced}]

    def _sync(self, path: Path) -> None:
        inode = self._inode(path)
        if path.is_dir():
            self._names[inode] = [_names(path)]
        else:
            self._synced[inode] = path.read_bytes()

    def _inode(self, path: Path) -> int:
        inode = os.stat(path).st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)
        return inode

    def _is_below(self, path: str) -> bool:
        return Path(path).is_relative_to(self._root)

    def _look(self, call: str) -> None:
        contents = {}
        for path in (self._root, *self._root.rglob("*")):
            with suppress(FileNotFoundError):  # a thread of a run has replaced it
                inode = self._inode(path)
                if not path.is_dir():
                    contents[inode] = path.read_bytes()
                elif (now := _names(path)) != (so_far := self._names.setdefault(inode, [{}]))[-1]:
                    self._names[inode] = [*so_far, now]
        root = os.stat(self._root).st_ino
        self.cuts.append(Cut(call, self._told(), root, dict(self._synced), dict(self._names), contents))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watches what happens in the block."""
        plain = {name: getattr(os, name) for name in CALLS}

        def watching(name: str) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                where = self._path_of(arguments[0], options.get("dir_fd"))
                if where is None:
                    return plain[name](*arguments, **options)
                self._look(f"{name} {where.relative_to(self._root)}")
                done = plain[name](*arguments, **options)
                if name == "fsync":
                    self._sync(where)
                return done

            return call

        for name in CALLS:
            setattr(os, name, watching(name))
        try:
            yield
            self._look("the end")
        finally:
            for name in CALLS:
                setattr(os, name, plain[name])
            for each in self._held.values():
                os.close(each)

    def _path_of(self, what: object, directory: object) -> Path | None:
        """Where a call does something, if that is on this disk."""
        if isinstance(what, int):
            path = os.readlink(f"/proc/self/fd/{what}")
        elif isinstance(directory, int):
            path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), os.fsdecode(what))
        else:
            path = os.path.abspath(os.fsdecode(what))
        return Path(path) if self._is_below(path) else None


def _with(states: list[Names], changes: Sequence[int]) -> Names:
    """The first of some states of a directory, with some of the changes that led to the others."""
    found = dict(states[0])
    for i in changes if len(states) > 1 else ():
        before, after = states[i - 1], states[i]
        for name in before.keys() - after:
            if found.get(name) == before[name]:
                del found[name]
        found |= {name: inode for name, inode in after.items() if before.get(name) != inode}
    return found


def _names(path: Path) -> Names:
    return {each.name: each.inode() for each in os.scandir(path)}
