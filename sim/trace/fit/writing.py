"""Writes what was fitted as a scenario: a TOML file with comments, and beside it the samples as CSV files."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tomlkit
from tomlkit.items import Table

from sim.errors import InputError
from sim.results import files
from sim.scenario.checks import MASKS
from sim.scenario.reading import read
from sim.scenario.units import rate_text, time_text
from sim.trace.fit.entries import ENOUGH, ExitEntry, Group, Key, Times
from sim.trace.fit.estimate import Fitted
from sim.trace.fit.thread_times import USERSPACE
from sim.xsave.components import XTILEDATA
from sim.xsave.profiles import profile

MOST_SAMPLES: Final = 2000
"""The most samples of a file; of more, this many quantiles are written, scaled to the mean of all."""

MEASURE_S: Final = 5.0
COUNTED: Final = 60_000
"""A replication is as long as the trace, or longer, up to MEASURE_S, until this much has been counted in it."""


def check_target(out: Path, *, force: bool = False) -> None:
    """Raises :class:`~sim.errors.InputError` if ``out`` cannot be written or, without ``force``, exists."""
    if out.suffix != ".toml":
        raise InputError(f"-o {str(out)!r}: allowed is the path of a file that ends in '.toml'")
    if not out.parent.is_dir():
        raise InputError(f"-o {out}: there is no directory {out.parent}")
    for each in (out, samples_of(out)):
        if each.exists() and not force:
            raise InputError(f"{each} exists; --force replaces it")


def samples_of(out: Path) -> Path:
    """The directory of the samples of a scenario."""
    return out.with_name(out.stem + ".samples")


def write(fitted: Fitted, out: Path, *, force: bool = False) -> None:
    """Writes ``out`` and, in a directory beside it, its CSV files: both or neither.

    Raises :class:`~sim.errors.InputError` if one of them exists (without ``force``) or cannot be written.
    """
    text, columns = scenario_text(fitted, samples_of(out).name)
    store(text, columns, out, fitted.name, force=force)


def store(text: str, columns: "Columns", out: Path, name: str, *, force: bool = False) -> None:
    """Writes a scenario made of ``name``, and the CSV files of its samples if it has any; raises as :func:`write`."""
    check_target(out, force=force)
    samples = samples_of(out)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as temporary:
            made = Path(temporary)
            if columns:
                (made / samples.name).mkdir()
            for column, values in columns.items():
                lines = "".join(f"{value:.3f}\n" for value in values)
                (made / samples.name / f"{column}.csv").write_text(f"us\n{lines}")
            (made / out.name).write_text(text)
            try:
                read(made / out.name)
            except InputError as error:
                what = str(error).replace(f"{made}{os.sep}", "")
                raise InputError(f"{name}: the fitted scenario is not valid: {what}") from error
            _replace(made, out, samples)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error


def _replace(made: Path, out: Path, samples: Path) -> None:
    """Moves the new files into place; if the second cannot be moved, the first is put back."""
    old = made / "old"
    if samples.is_dir():
        samples.rename(old)
    elif samples.exists():
        raise InputError(f"{samples} is not a directory")
    try:
        if (made / samples.name).is_dir():
            (made / samples.name).rename(samples)
        files.write(out, (made / out.name).read_bytes())
    except OSError:
        shutil.rmtree(samples, ignore_errors=True)
        if old.exists():
            old.rename(samples)
        raise


Columns = dict[str, Sequence[float]]
"""Samples in us, by the name of their file."""


def scenario_text(fitted: Fitted, folder: str) -> tuple[str, Columns]:
    """The scenario as TOML whose CSV files are in ``folder``, and their samples."""
    columns: Columns = {}
    seconds = fitted.counted.seconds
    busy = 1 - fitted.seen.idle_ns * 1e-9 / (seconds * len(fitted.cpus))
    document = tomlkit.document()
    for line in (
        f"Fitted to {Path(fitted.name).name}: {fitted.seen.switches} context switches, {fitted.seen.round_trips} "
        f"KVM_RUN round trips, {fitted.seen.forks} forks",
        f"in {seconds:.3f} s on {len(fitted.cpus)} CPUs that were {busy:.1%} busy.",
        "Bursts are times on the CPU less what the simulated host itself charges.",
        *fitted.notes,
    ):
        document.add(tomlkit.comment(line))
    document.add("title", tomlkit.item(f"Fitted to {Path(fitted.name).name}"[:200]))
    run = tomlkit.table()
    run.add("measure", time_text(_measure(fitted)))
    document.add("run", run)
    host = tomlkit.table()
    host.add("cpus", len(fitted.cpus))
    cpu = whole_path(fitted.cpu)
    host.add("cpu", [cpu])
    if fitted.costs is not None:
        host.add("costs", {cpu: whole_path(fitted.costs)})
    host.add("tsc", rate_text(fitted.tsc_hz))
    host.add("kernel", [fitted.kernel])
    host.add("hz", fitted.hz)
    host.add(tomlkit.comment(f"preemption: {fitted.preemption_from}"))
    host.add("preemption", fitted.preemption)
    if any(group.halts for group in fitted.groups):
        host.add(
            tomlkit.comment(f"{fitted.seen.polled} polls of a halted vCPU succeeded, {fitted.seen.waited} did not")
        )
        if not fitted.seen.polled:
            host.add("halt_poll", "0 ns")
    if handlers := [group.lock.handler for group in fitted.groups if group.lock is not None and group.lock.handler]:
        host.add("ple_time", ns_text(sum(handlers) / len(handlers)))
    document.add("host", host)
    used: set[str] = set()
    for group in sorted(fitted.groups, key=lambda each: each.key[0] != "vcpu"):
        group.entry = _name(group, used)
        used.add(group.entry)
    for section in ("guests", "threads"):
        tables = tomlkit.table(is_super_table=True)
        for group in fitted.groups:
            if (group.key[0] == "vcpu") != (section == "guests"):
                continue
            tables.add(group.entry, _entry(fitted, group, folder, columns))
        if tables:
            document.add(section, tables)
    if families := {group.family: group.family_weight for group in fitted.groups if group.family}:
        tables = tomlkit.table(is_super_table=True)
        for name, weight in families.items():
            table = tomlkit.table()
            table.add("weight", weight)
            tables.add(name, table)
        document.add("groups", tables)
    if fitted.kernel_fpu:
        table = tomlkit.table()
        table.add(
            tomlkit.comment("kernel_fpu_begin() in interrupts, tasks or kernel threads; its time is in the bursts")
        )
        table.add("every", inline({"exponential": time_text(round(1 / fitted.kernel_fpu, 9))}))
        table.add("time", "0 ns")
        table.add("kernel_fpu", 1.0)
        document.add("interrupts", tomlkit.table(is_super_table=True).add("kernel-fpu", table))
    return tomlkit.dumps(document), columns


def whole_path(name: str) -> str:
    """An absolute path for a file that the user named: names in a scenario are relative to the scenario, and the
    user's to the current directory."""
    return os.path.abspath(name) if name.endswith(".toml") or os.sep in name or os.path.isfile(name) else name


def _measure(fitted: Fitted) -> float:
    seconds, seen = fitted.counted.seconds, fitted.seen
    enough = COUNTED * seconds / max(1.0, seen.switches + seen.round_trips)
    return round(max(seconds, min(MEASURE_S, enough)), 2)


def _name(group: Group, used: set[str]) -> str:
    _, stem, nice, pinned = group.key
    name = stem
    if name in used and nice:
        name = f"{stem}-nice{nice}".replace("nice-", "nice-minus-")
    if name in used and pinned:
        name += "-cpu" + "-".join(map(str, pinned))
    base, number = name, 2
    while name in used:
        name, number = f"{base}-{number}", number + 1
    return name


def _entry(fitted: Fitted, group: Group, folder: str, columns: Columns) -> Table:
    kind, _, _, pinned = group.key
    name = group.entry
    table = tomlkit.table()
    for line in _comments(group):
        table.add(tomlkit.comment(line))
    writer = Samples(folder, name, columns)
    if kind == "vcpu":
        table.add("vcpus", group.rows)
    else:
        if kind != "compute":
            table.add("kind", kind)
        if group.rows > 1:
            table.add("count", group.rows)
    if group.family:
        table.add("group", group.family)
    if group.weight is not None:
        table.add("weight", group.weight)
    elif group.key[2]:
        table.add("nice", group.key[2])
    if affinity := [fitted.cpus.index(cpu) for cpu in pinned if cpu in fitted.cpus]:
        table.add("affinity", affinity)
    if kind == "vcpu":
        _guest(table, fitted, group, writer)
        return table
    rows = None if group.order is None else group.order.rows
    few = ENOUGH if rows is None else 1
    table.add("compute", writer.times("compute", group.compute, rows, few))
    if kind != "pipe" and group.sleep and sum(group.sleep) > 0:
        table.add("sleep", writer.times("sleep", group.sleep, rows, few))
        if rows is not None:
            table.add("blocks", rows)
        if group.at_ticks:
            table.add("timer", "tick")
    _waking(table, fitted, group, writer)
    if group.syscall:
        table.add("syscall", writer.times("syscall", group.syscall))
    if kind != "kthread" and (components := _components(fitted, group.saves)):
        table.add("fpu", inline({"components": components}))
    return table


def _waking(table: Table, fitted: Fitted, group: Group, writer: "Samples") -> None:
    if group.waits is not None:
        share, longest_ns = group.waits
        waits: dict[str, Any] = {"share": round(share, 4), "at_most": time_text(max(1e-6, round(longest_ns * 1e-9, 9)))}
        table.add("waits", inline(waits | ({"order": "any"} if group.any_order else {})))
    if group.wakes:
        table.add("wakes", _wakes(fitted, group.wakes))
        if group.after:
            table.add("compute_after", writer.times("after", group.after))


def _wakes(fitted: Fitted, wakes: Mapping[Key, float]) -> Any:
    entries = {each.key: each.entry for each in fitted.groups}
    return inline({entries[key]: round(max(1e-4, mean), 4) for key, mean in wakes.items()})


def _guest(table: Table, fitted: Fitted, group: Group, writer: "Samples") -> None:
    if group.halt or group.waits is not None:
        table.add("demand", writer.times("demand", group.demand))
        if group.halt:
            table.add("sleep", writer.times("halt", group.halt))
        _waking(table, fitted, group, writer)
        if group.signalled:
            table.add("signalled", round(min(1.0, len(group.signalled) / group.halts), 4))
            table.add("signal_time", writer.times("signal", group.signalled))
    if group.lock is not None:
        lock = tomlkit.table()
        lock.add("every", inline({"exponential": ns_text(group.lock.every)}))
        lock.add("hold", inline({"exponential": ns_text(group.lock.hold)}))
        table.add("lock", lock)
    if group.amx and profile(fitted.cpu).components & XTILEDATA:
        table.add("amx", True)
    if components := _components(fitted, group.saves):
        table.add("fpu", inline({"components": components, "every": time_text(1e-3)}))
    if group.vmm_saves:
        table.add("vmm_fpu", _components(fitted, group.vmm_saves))
    exits = tomlkit.table(is_super_table=True)
    if len(group.compute) >= ENOUGH:
        exit_ = tomlkit.table()
        exit_.add("every", writer.times("exit", group.compute))
        exit_.add("reason", "io")
        exit_.add("handled", "userspace")
        exit_.add("vmm", writer.times("vmm", group.vmm))
        exits.add(USERSPACE, exit_)
    for each in group.exits:
        exits.add(each.name, exit_table(each, writer))
    for name, wakes in group.exit_wakes.items():
        exits[name].add("wakes", _wakes(fitted, wakes))
    if exits:
        table.add("exits", exits)


def _comments(group: Group) -> list[str]:
    kind = group.key[0]
    shown = ", ".join(group.names[:6]) + (", ..." if len(group.names) > 6 else "")
    lines = [f"{group.threads} in the trace, {group.rows} here: {shown}" if group.threads != group.rows else shown]
    found = {"bursts": group.compute, "sleeps": group.sleep}
    if kind == "fork":
        found = {"children up to their first sleep": group.compute, "bursts of parents that fork": group.syscall}
    if kind == "pipe":
        found = {"hand-offs": group.compute}
    if kind == "vcpu":
        found = {
            "times between returns to user space": group.compute,
            "times outside KVM_RUN": group.vmm,
            "halts that ended by themselves" if group.waits else "halts": group.halt,
            "halts that a signal ended": group.signalled,
        }
    lines.append(", ".join(f"{len(values)} {what}" for what, values in found.items()))
    if group.order is not None:
        lines.append(group.order.why)
    if group.waits is not None:
        lines.append(f"{group.waits[0]:.1%} of its sleeps are ended by the entries that name it in wakes")
    if group.weight is not None:
        lines.append(f"nice {group.key[2]} in the trace; on a CPU in {group.share:.0%} of its runnable time there")
    few = [what for what, values in found.items() if 0 < len(values) < ENOUGH and group.order is None]
    if few:
        lines.append(f"too few samples: {' and '.join(few)}")
    return lines + group.notes


class Samples:
    """Makes distributions of the samples of one entry; those that need a file go into ``columns``."""

    def __init__(self, folder: str, name: str, columns: Columns) -> None:
        self._folder = folder
        self._name = name
        self._columns = columns

    def times(self, what: str, ns: Sequence[float], rows: int | None = None, few: int = ENOUGH) -> Any:
        """Fewer than ``few`` samples (ns) become their mean, more a file; in order, if blocks of ``rows`` are kept."""
        values = np.array(ns) / 1e3
        if len(values) < few:
            return time_text(max(1e-9, round(float(values.mean()) * 1e-6, 9)))
        if len(values) > MOST_SAMPLES:
            mean = values.mean()
            if rows is None:
                values = np.quantile(values, (np.arange(MOST_SAMPLES) + 0.5) / MOST_SAMPLES)
            else:
                starts = np.linspace(0, len(values) - rows, max(1, MOST_SAMPLES // rows)).astype(int)
                values = np.concatenate([values[start : start + rows] for start in starts])
            values *= mean / values.mean()
        file = f"{self._name}-{what}"
        self._columns[file] = values.tolist()
        return inline({"empirical": f"{self._folder}/{file}.csv", "column": "us", "unit": "us"})

    def of(self, what: str, times: Times, *, by_chance: bool = False) -> Any:
        """The samples; if too few, an exponential distribution with their mean (``by_chance``), or just their mean."""
        if len(times.samples) >= ENOUGH:
            return self.times(what, times.samples)
        mean = ns_text(times.mean)
        return inline({"exponential": mean}) if by_chance else mean


def exit_table(exit: ExitEntry, samples: Samples) -> Table:
    """A kind of VM exit."""
    table = tomlkit.table()
    table.add(tomlkit.comment(f"{exit.counted} exits"))
    table.add("every", samples.of(f"{exit.name}-every", exit.every, by_chance=True))
    table.add("reason", exit.reason)
    if exit.ipi:
        table.add("effect", "ipi")
    time = samples.of(exit.name, exit.time)
    if exit.userspace:
        table.add("handled", "userspace")
        table.add("time", "0 ns")
        table.add("vmm", time)
    else:
        table.add("time", time)
    return table


def ns_text(ns: float) -> str:
    """A time in ns as it is written in a scenario."""
    return time_text(round(ns * 1e-9, 10))


def inline(values: Mapping[str, Any]) -> Any:
    """A table on one line."""
    table = tomlkit.inline_table()
    table.update(values)
    return table


def _components(fitted: Fitted, saves: Mapping[int, int]) -> list[str]:
    """The components that the most frequent save has in use, as far as the CPU has them."""
    if not saves:
        return []
    mask = max(saves, key=lambda each: saves[each]) & profile(fitted.cpu).components
    return [name for name, bit in MASKS.items() if mask & bit]
