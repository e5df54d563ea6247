"""Writes guests that are known by their VM exits as a scenario, with the samples as CSV files beside it."""

from pathlib import Path
from typing import Final

import tomlkit
from tomlkit.items import Table

from sim.scenario.units import rate_text, time_text
from sim.trace.fit.guests import FittedExits, GuestEntry
from sim.trace.fit.writing import (
    COUNTED,
    MEASURE_S,
    Columns,
    Samples,
    exit_table,
    ns_text,
    samples_of,
    store,
    whole_path,
)

SHORTEST_S: Final = 0.02
"""The shortest replication of a scenario made of rates alone, which has no length of its own."""


def write(fitted: FittedExits, out: Path, *, force: bool = False) -> None:
    """Writes ``out`` and, in a directory beside it, its CSV files, as :func:`sim.trace.fit.writing.write`."""
    text, columns = scenario_text(fitted, samples_of(out).name)
    store(text, columns, out, fitted.name, force=force)


def scenario_text(fitted: FittedExits, folder: str) -> tuple[str, Columns]:
    """The scenario as TOML whose CSV files are in ``folder``, and their samples."""
    columns: Columns = {}
    document = tomlkit.document()
    name = Path(fitted.name).name
    document.add(tomlkit.comment(f"Fitted to {name}: {fitted.per_second:.0f} VM exits per second"))
    for line in fitted.notes:
        document.add(tomlkit.comment(line))
    document.add("title", tomlkit.item(f"Fitted to the exits of {name}"[:200]))
    run = tomlkit.table()
    run.add("measure", time_text(measure(fitted)))
    document.add("run", run)
    host = tomlkit.table()
    host.add("cpus", fitted.cpus)
    cpu = whole_path(fitted.cpu)
    host.add("cpu", [cpu])
    if fitted.costs is not None:
        host.add("costs", {cpu: whole_path(fitted.costs)})
    if fitted.tsc_hz:
        host.add("tsc", rate_text(fitted.tsc_hz))
    host.add("kernel", [fitted.kernel])
    host.add("hz", fitted.hz)
    if fitted.interrupt_ns is not None:
        host.add("interrupt_time", ns_text(fitted.interrupt_ns))
    if not fitted.polls:
        host.add("halt_poll", "0 ns")
    document.add("host", host)
    guests = tomlkit.table(is_super_table=True)
    for guest in fitted.guests:
        guests.add(guest.name, _guest(guest, Samples(folder, guest.name, columns)))
    document.add("guests", guests)
    return tomlkit.dumps(document), columns


def measure(fitted: FittedExits) -> float:
    """As long as the trace, and longer, up to MEASURE_S, until enough exits are counted in it."""
    enough = COUNTED / max(1.0, fitted.per_second)
    return round(max(SHORTEST_S, min(MEASURE_S, max(fitted.seconds, enough))), 3)


def _guest(guest: GuestEntry, samples: Samples) -> Table:
    table = tomlkit.table()
    for line in guest.comments:
        table.add(tomlkit.comment(line))
    table.add("vcpus", guest.vcpus)
    if guest.demand is not None and guest.sleep is not None:
        table.add("demand", samples.of("demand", guest.demand, by_chance=True))
        table.add("sleep", samples.of("halt", guest.sleep))
    if guest.exits:
        exits = tomlkit.table(is_super_table=True)
        for each in guest.exits:
            exits.add(each.name, exit_table(each, samples))
        table.add("exits", exits)
    return table
