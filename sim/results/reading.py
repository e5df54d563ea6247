"""Loading a result directory: what is in it is what the run wrote, or one message says what is not."""

import os
from collections.abc import Iterator
from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sim.bounded import content
from sim.errors import InputError
from sim.kinds import Kind, wanted
from sim.results import check, parts, schema, tables
from sim.results import manifest as manifests
from sim.results.columns import SCHEMAS
from sim.results.groups import Group
from sim.results.shelf import Shelf
from sim.results.tables import OnDisk, Results

if TYPE_CHECKING:
    import pandas as pd

ENDED: Final = {
    manifests.RUNNING: "has not ended, or was killed",
    manifests.FAILED: "failed",
    manifests.INTERRUPTED: "was interrupted",
}

WITHOUT_HASHES: Final = (
    "{} is of fpswitch 0.1.0, without hashes: nothing shows whether its files are as the run wrote them"
)


def load(directory: str | os.PathLike[str], *, incomplete_ok: bool = False) -> Results:
    """See :func:`sim.results.load`."""
    path = Path(directory)
    if not path.is_dir():
        meant = _meant(path)
        says = meant or " (allowed: the result directory of fpswitch run)"
        error = InputError(f"{path}: {'not a directory' if path.exists() else 'no such directory'}{says}")
        with nullcontext() if meant else wanted(path, Kind.RESULT):
            raise error
    manifest = manifests.read(path)
    status = manifest["status"]
    if status != manifests.COMPLETE and not incomplete_ok:
        raise InputError(
            f"{path}: the run {ENDED[status]} (status {status!r}), so these are not its results; the same command "
            "continues it"
        )
    if status != manifests.COMPLETE and manifest["format"] == manifests.FORMAT_OF_0_1:
        raise InputError(f"{path}: an unfinished run of fpswitch 0.1.0, whose parts cannot be read any more")
    opened: OnDisk | None = None
    if status == manifests.COMPLETE:  # before their hashes are compared: a later run may replace them meanwhile
        opened = OnDisk(path, manifest["cases"], timed=manifest["format"] == manifests.FORMAT)
    hashes: dict[str, str] = manifest.get("files", {})
    manifests.check_files(path, hashes)
    if status == manifests.COMPLETE and manifest["format"] == manifests.FORMAT:
        lacking = [name for name in (manifests.COSTS, *(f"{name}.parquet" for name in SCHEMAS)) if name not in hashes]
        if lacking:
            raise InputError(f"{path / manifests.NAME}: damaged: no sha256 of {lacking[0]}")
    costs, table_of = _costs(path / manifests.COSTS, manifest)
    if opened is None:
        return Results.of(_asked(path, manifest), manifest, costs, path)
    notes = (WITHOUT_HASHES.format(path),) if manifest["format"] == manifests.FORMAT_OF_0_1 else ()
    check.check(opened.stored, manifest, table_of, path)
    return Results(opened, manifest, costs, path, notes)


def _meant(path: Path) -> str:
    """Where results lie that somebody may have meant by the name of their scenario, or of its file."""
    found = Path("results") / path.stem
    return f"; did you mean {found}?" if path.stem and os.path.isfile(found / manifests.NAME) else ""


def finished(path: Path, problems: list[str]) -> Iterator[Group]:
    """All finished records of a directory; ``problems`` gets sentences about files that cannot be read.

    Raises :class:`InputError` for tables that are damaged.
    """
    yield from parts.kept(path, problems)
    if manifests.read(path)["status"] == manifests.COMPLETE:
        results = load(path)
        assert isinstance(results.tables, OnDisk)
        yield from tables.groups(results.tables.stored, parts.keys(results.manifest, results.manifest["replications"]))


def _asked(path: Path, manifest: dict[str, Any]) -> "dict[str, pd.DataFrame]":
    """The tables of what is finished of an unfinished run, also of what it took over."""
    problems: list[str] = []
    with closing(Shelf()) as shelf:
        for group in parts.kept(path, problems):
            shelf.add(group)
        if problems:
            raise InputError(problems[0])
        aside = path.with_name(f"{path.name}.previous")
        if (aside / manifests.NAME).exists():
            for group in finished(aside, []):
                shelf.add(group)
        keys, cases = parts.keys(manifest, manifest["replications"]), manifest["cases"]
        order = tables.in_order(keys, cases)
        return tables.frames(chain.from_iterable(shelf.tables(same, keys.replications) for same in order))


def _costs(path: Path, manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost tables as documents and as tables."""
    try:
        costs = schema.parsed(content(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({schema.shorter(error)})") from error
    return costs, check.cost_tables(costs, manifest, str(path))
