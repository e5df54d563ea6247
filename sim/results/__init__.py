"""The results of a run: one record per replication, four tables, and the directory in which they are kept. pandas is
imported only when a table is made, so that the engine can make records without it.
"""

from os import PathLike
from typing import TYPE_CHECKING

from sim.results.record import Record

if TYPE_CHECKING:
    from sim.results.tables import Results

__all__ = ["Record", "load"]


def load(directory: str | PathLike[str], *, incomplete_ok: bool = False) -> "Results":
    """The results in ``directory``.

    Raises :class:`~sim.errors.InputError` for a directory that is not a result directory, whose tables do not fit its
    manifest, or whose run did not complete; with ``incomplete_ok`` the last gives the parts that were finished.
    """
    from sim.results.reading import load as load_directory

    return load_directory(directory, incomplete_ok=incomplete_ok)
