"""The four tables of a run as frames, in memory and read from files.  The order of rows depends only on their contents,
and so not on the number of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from sim.errors import InputError
from sim.results.columns import ROW_FIELDS, SCHEMAS
from sim.results.groups import AT_A_TIME, Group, batch_of, lists_of, written
from sim.results.keys import Keys, Series
from sim.results.stored import Stored

if TYPE_CHECKING:
    import pandas as pd


TOGETHER: Final = 1000
"""Replications whose tables are in memory at a time, where that is possible."""


@dataclass(frozen=True, slots=True, repr=False)
class Results:
    """The results of a run.

    Every row begins with case, timed_by, strategy, replication: in one replication of a case all strategies follow the
    schedule of a host that one of them times.  An independent run of a strategy is one that it times itself.

    ``ledger``: one row per operation: thread_kind, phase, operation, rfbm, components (of a save: written; of a
    restore: loaded), initialised, level, count, cycles (TSC; count x price).  ``metrics``: metric, unit, value, as the
    simulated host counted them; they are the schedule's, so strategy is timed_by.  ``latency``: histogram, low, high,
    count, likewise; a bucket is [low, high) in TSC cycles.  ``integrity``: kind, count; there is no row if nothing was
    found.  The last columns of each describe the case: cpu, kernel, and one for each swept path (:func:`case_columns`).

    All cover only the measurement.  ``tables`` has them by name; those of a run in a directory are read when they are
    first used.  ``manifest`` says what was run, and with what; ``costs`` has the cost tables by name, as they were.
    ``directory`` is the result directory, or None.  ``notes`` are sentences that a reader should see.
    """

    tables: Mapping[str, pd.DataFrame]
    manifest: Mapping[str, Any]
    costs: Mapping[str, Any]
    directory: Path | None = None
    notes: tuple[str, ...] = ()

    first_screen: ClassVar[Callable[[Results], str] | None] = None
    """Makes HTML of results for Jupyter; set by the layer that has the reports (:mod:`sim`)."""

    @classmethod
    def of(
        cls,
        tables: Mapping[str, pd.DataFrame],
        manifest: Mapping[str, Any],
        costs: Mapping[str, Any],
        directory: Path | None = None,
        notes: tuple[str, ...] = (),
    ) -> Results:
        """Results from the four tables by name."""
        whole = {name: described(tables[name], manifest["cases"]) for name in SCHEMAS}
        return cls(whole, manifest, costs, directory, notes)

    @classmethod
    def on_disk(cls, directory: Path, manifest: Mapping[str, Any], costs: Mapping[str, Any]) -> Results:
        """Results whose four tables are files in ``directory``, which a run has just written."""
        return cls(OnDisk(directory, manifest["cases"]), manifest, costs, directory)

    @property
    def ledger(self) -> pd.DataFrame:
        """The table of this name."""
        return self.tables["ledger"]

    @property
    def metrics(self) -> pd.DataFrame:
        """The table of this name."""
        return self.tables["metrics"]

    @property
    def latency(self) -> pd.DataFrame:
        """The table of this name."""
        return self.tables["latency"]

    @property
    def integrity(self) -> pd.DataFrame:
        """The table of this name."""
        return self.tables["integrity"]

    def pieces(self, case: str = "") -> Iterator[Results]:
        """The results of some replications at a time, in their order, from tables in files; otherwise all at once.

        With ``case`` those of that case, beside which there may be others.
        """
        replications = int(self.manifest["replications"])
        if not isinstance(self.tables, Lazy) or replications <= TOGETHER:
            yield self
            return
        for begin in range(0, replications, TOGETHER):
            yield replace(self, tables=self.tables.some(case, begin, begin + TOGETHER))

    def __repr__(self) -> str:
        manifest = self.manifest
        number = self.tables.rows if isinstance(self.tables, OnDisk) else lambda name: len(self.tables[name])
        rows = ", ".join(f"{name} {number(name)}" for name in SCHEMAS)
        return (
            f"<Results of {manifest['scenario']}, {manifest['status']}: {len(self.cases)} cases, "
            f"{manifest['replications']} replications; rows: {rows}>"
        )

    def _repr_html_(self) -> str | None:
        """What Jupyter shows: the first screen, or the text of repr() if no renderer is registered."""
        show = type(self).first_screen
        return None if show is None else show(self)

    @property
    def cases(self) -> tuple[Mapping[str, Any], ...]:
        """The cases in the order of the scenario, each as the manifest has it."""
        return tuple(self.manifest["cases"])

    def case(self, name: str) -> Mapping[str, Any]:
        """The case called ``name``, or the only one of the CPU ``name``.

        Raises :class:`~sim.errors.InputError` if there is none, or if the CPU has several.
        """
        named = [case for case in self.cases if case["case"] == name]
        found = named or [case for case in self.cases if case["cpu"] == name]
        if len(found) != 1:
            known = ", ".join(repr(case["case"]) for case in found or self.cases)
            number = f"{len(found)} such cases" if found else "no such case"
            raise InputError(f"case {name!r}: {number} (allowed: {known})")
        return found[0]


class Lazy(Mapping[str, "pd.DataFrame"]):
    """The four tables, each made when it is first used: by ``make``, which gets its name.

    ``some`` gives those of some replications in the same way: of a case, or of all if that is empty, from one
    replication up to another.
    """

    def __init__(
        self, make: Callable[[str], pd.DataFrame], some: Callable[[str, int, int], Mapping[str, pd.DataFrame]]
    ) -> None:
        self._make, self.some = make, some
        self._made: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SCHEMAS)

    def __len__(self) -> int:
        return len(SCHEMAS)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({name: self[name] for name in self},)


class OnDisk(Lazy):
    """The four tables in a directory, as they are now.

    Without ``timed`` they are of version 0.1.0 (:class:`~sim.results.stored.Stored`).
    """

    def __init__(self, directory: Path, cases: Sequence[Mapping[str, Any]], *, timed: bool = True) -> None:
        stored = {name: Stored(name, directory / f"{name}.parquet", timed=timed) for name in SCHEMAS}

        def some(case: str, begin: int, end: int) -> Mapping[str, pd.DataFrame]:
            series = (case,) if case else ()
            return Lazy(lambda name: described(stored[name].some(series, begin, end), cases), some)

        super().__init__(lambda name: described(stored[name].frame(), cases), some)
        self.stored = stored

    def rows(self, name: str) -> int:
        """How many rows a table has, without reading them."""
        return self.stored[name].rows()

    def __del__(self) -> None:
        for stored in self.__dict__.get("stored", {}).values():
            stored.close()


def case_columns(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns that distinguish cases, which are entries of the manifest: cpu, kernel and the swept paths, such as
    "host.cpus"."""
    return list(dict.fromkeys(("cpu", "kernel", *(path for case in cases for path in case["sweep"]))))


def described(frame: pd.DataFrame, cases: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame with a column "case", and at its end the columns that describe the case (:func:`case_columns`)."""
    of = {case["case"]: {"cpu": case["cpu"], "kernel": case["kernel"], **case["sweep"]} for case in cases}
    values = {name: {case: each.get(name) for case, each in of.items()} for name in case_columns(cases)}
    return frame.assign(**{name: frame["case"].map(each) for name, each in values.items()})


def frames(pieces: Iterable[Mapping[str, pa.Table]]) -> dict[str, pd.DataFrame]:
    """The four tables by name, of their rows in pieces (:meth:`sim.results.shelf.Shelf.tables`)."""
    found: dict[str, list[pa.Table]] = {name: [schema.empty_table()] for name, schema in SCHEMAS.items()}
    for piece in pieces:
        for name, table in piece.items():
            found[name].append(table)
    return {name: pa.concat_tables(found.pop(name)).to_pandas() for name in SCHEMAS}


def in_order(keys: Keys, cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the keys of each series have in common, in the order of the tables.

    By case, what walked its schedule before independent runs, by strategy.  ``cases`` are entries of the manifest; of
    each the keys "case", "timed_by" and "strategies" are read.  A series that is not among them is left out.
    """
    placed = [(where, same) for series, same in keys.series.items() if (where := _place(series, cases)) is not None]
    return [same for _, same in sorted(placed)]


def _place(series: Series, cases: Iterable[Mapping[str, Any]]) -> tuple[int, int, int] | None:
    """Where a series stands among those of ``cases``; None if it was not asked for."""
    of_case, timed_by, strategy = series
    for i, case in enumerate(cases):
        if case["case"] != of_case:
            continue
        names = list(dict.fromkeys((*case["strategies"], case["timed_by"])))
        independent = timed_by != case["timed_by"]
        if strategy in names and (not independent or timed_by == strategy):
            return i, int(independent), names.index(strategy)
    return None


READ_TOGETHER: Final = 2 * AT_A_TIME
"""Replications of a series whose rows are in memory."""


def groups(stored: Mapping[str, Stored], keys: Keys) -> Iterator[Group]:
    """The records of four tables that have all parts of ``keys``; they have all but their engines."""
    for series, same in keys.series.items():
        for first in range(0, keys.replications, READ_TOGETHER):
            end = min(first + READ_TOGETHER, keys.replications)
            rows = {name: _ordered(each.few(series, first, end), name) for name, each in stored.items()}
            for begin in range(first, end, AT_A_TIME):
                wanted = range(begin, min(begin + AT_A_TIME, end))
                lists = {name: _by_replication(name, frame, wanted) for name, frame in rows.items()}
                yield Group(written([batch_of(same, series, wanted, [""] * len(wanted), lists)]))


def _ordered(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows of a series, by replication, and of each in their order in the table."""
    return rows.sort_values(["replication", *(field.name for field in ROW_FIELDS[name])])


def _by_replication(name: str, rows: pd.DataFrame, wanted: range) -> pa.ListArray:
    bounds = np.searchsorted(rows["replication"].to_numpy(), np.arange(wanted.start, wanted.stop + 1))
    some = rows.iloc[bounds[0] : bounds[-1]]
    columns = [pa.array(some[field.name].to_numpy(), field.type) for field in ROW_FIELDS[name]]
    return lists_of(name, columns, bounds - bounds[0])
