"""Finished replications as files, from which a later run continues."""

import os
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sim.bounded import content
from sim.errors import InputError
from sim.results import files
from sim.results import manifest as manifests
from sim.results.groups import MOST_OF_FILE, Group, checked, name_of
from sim.results.keys import Key, Keys, Series

FOLDER: Final = "parts"
SUFFIX: Final = ".arrow"
WITHOUT_HASH: Final = ".json"
"""A strategy in a replication, as fpswitch 0.2.0 kept it: nothing tells whether it is what the run wrote."""
_OURS: Final = re.compile(r"(?P<left>\.)?[0-9a-f]{32}(\.arrow|-\d+\.json)(?(left)\.\w+)")
"""The names of the files that runs write, and of those that a kill leaves of writing them."""


def schedules(case: Mapping[str, Any], *, feedback: bool) -> list[tuple[str, tuple[str, ...]]]:
    """The schedules of a case, an entry of the manifest: the strategy that times each, and all that walk it.

    With ``feedback`` each strategy also has one of its own.  In results of 0.1.0, where "timed_by" is None, it has no
    other.
    """
    strategies, timed_by = tuple(case["strategies"]), case["timed_by"]
    own: list[tuple[str, tuple[str, ...]]] = [(each, (each,)) for each in strategies if each != timed_by]
    if timed_by is None:
        return own
    return [(timed_by, tuple(dict.fromkeys((timed_by, *strategies)))), *(own if feedback else ())]


def series(manifest: Mapping[str, Any]) -> Iterator[Series]:
    """All that the run of a manifest consists of, without the replications."""
    feedback = bool(manifest["resolved"]["run"].get("feedback"))
    for case in manifest["cases"]:
        for timed_by, strategies in schedules(case, feedback=feedback):
            yield from ((case["case"], timed_by, strategy) for strategy in strategies)


def number(manifest: Mapping[str, Any]) -> int:
    """How many these are."""
    feedback = bool(manifest["resolved"]["run"].get("feedback"))
    of_all = (strategies for case in manifest["cases"] for _, strategies in schedules(case, feedback=feedback))
    return sum(map(len, of_all)) * int(manifest["replications"])


def keys(manifest: Mapping[str, Any], replications: int) -> Keys:
    """What tells each part of a run, of so many replications, from all that have another content.

    Two parts with one key are one record: their worlds are the same, and so are the strategies that time and walk the
    schedule, those in files by their contents.
    """
    feedback = bool(manifest["resolved"]["run"].get("feedback"))
    found: dict[Series, str] = {}
    for case in manifest["cases"]:
        settings = case["settings"]
        for timed_by, strategies in schedules(case, feedback=feedback):
            for strategy in strategies:
                same = manifests.sha256([case["fingerprint"], settings[timed_by], settings[strategy]])[:32]
                found[case["case"], timed_by, strategy] = same
    return Keys(found, replications)


def keep(group: Group, directory: Path) -> None:
    """Keeps a group in a result directory; when this returns it is on the disk.

    Raises OSError with the name of the file.
    """
    path = _path(group, directory)
    files.write_kept(path, group.content)
    files.sync(path.parent)


def kept(directory: Path, problems: list[str]) -> Iterator[Group]:
    """The groups that lie in a result directory as files, in no order.

    ``problems`` gets a sentence about each damaged file, and one about files of 0.2.0, which are not used.
    """
    without = 0
    for path in _files(directory / FOLDER):
        if path.name.startswith("."):
            continue
        if path.suffix == WITHOUT_HASH:
            without += 1
            continue
        try:
            yield _read(path)
        except InputError as error:
            problems.append(f"{error}: its replications are simulated again if asked for")
    if without:
        problems.append(
            f"{directory / FOLDER}: {without} files of fpswitch 0.2.0, which have no hash: their replications "
            "are simulated again if asked for"
        )
    problems.sort()


def has(group: Group, directory: Path) -> bool:
    """Whether a group is kept there, undamaged."""
    try:
        return content(_path(group, directory), MOST_OF_FILE) == group.content
    except (OSError, ValueError):
        return False


def has_any(directory: Path) -> bool:
    """Whether anything is kept there, damaged or not, by a run of any version."""
    try:
        return any(not path.name.startswith(".") for path in (directory / FOLDER).iterdir())
    except FileNotFoundError:
        return False


def _path(group: Group, directory: Path) -> Path:
    return directory / FOLDER / f"{group.name}{SUFFIX}"


def keys_kept(directory: Path) -> Iterator[Key]:
    """The keys of all that lies there as files."""
    return ((batch.same, n) for group in kept(directory, []) for batch in group.batches() for n in batch.replications)


def remove_all_but(wanted: Container[str], directory: Path) -> None:
    """Removes the files of all groups but those of these names, and the folder if nothing is left.

    Anything that no run wrote stays: a folder, a link, a file with another name.
    """
    folder = directory / FOLDER
    for path in _files(folder):
        if not path.is_symlink() and path.name.removesuffix(SUFFIX) not in wanted:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder with names that runs give, which may be a hundred thousand, one by one."""
    try:
        with os.scandir(folder) as found:
            ours = (each for each in found if _OURS.fullmatch(each.name))
            yield from (Path(each.path) for each in ours if not each.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return


def _read(path: Path) -> Group:
    try:
        found = content(path, MOST_OF_FILE)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: not replications that can be read ({why})") from error
    if name_of(found) != path.stem:
        raise InputError(f"{path}: is not what the run wrote (another sha256 than its name)")
    return checked(found, str(path))
