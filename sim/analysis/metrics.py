"""The metrics of each replication: what the host counted, as rates and shares that can be compared between hosts.

A metric is there where it means something: a ratio per VM exit is absent, and not NaN, where there were no exits.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.analysis.categories import CARRYING, CATEGORIES, FPU, MSR, XSS, category, instructions
from sim.analysis.latency import OF_QUANTILE, quantiles
from sim.analysis.pricing import by_cost_row, repriced
from sim.analysis.replicated import Replicated
from sim.costs.check import GRADES
from sim.errors import InputError
from sim.kernel import operations as op
from sim.kernel.config import boot
from sim.kernel.masks import BootMasks
from sim.results.columns import RUN_COLUMNS
from sim.results.settings import settings_of as settings_of
from sim.results.tables import Results

PARTS: Final = (
    "operations", "guest", "user", "vmm", "exit_handler", "syscall", "interrupt", "wakeup", "halt_poll", "idle",
)  # fmt: skip
"""The parts of a host's time, which with :data:`WAITS` sum to all of it."""

WAITS: Final = ("guest_poll", "guest_spin")
"""Its parts in which a guest runs and gets nothing done; results of earlier versions lack them."""

STOLEN: Final = "steal_cycles"

COUNTS: Final = (
    "context_switches", "preemptions", "migrations", "wakeups", "vm_exits", "kvm_run_round_trips", "vcpu_loads",
    "halts", "halts_polled", "requests", "handoffs", "bursts", "forks", "guest_task_switches", "ticks", "interrupts",
    "kernel_fpu_uses",
)  # fmt: skip

EVENTS: Final = {"context_switch": "context_switches", "kvm_run": "kvm_run_round_trips", "vm_exit": "vm_exits"}
"""Events to which operations are related, by the name that the metric has for one of them."""

PHASES: Final = {
    "context_switch": (op.SWITCH, op.VCPU_LOAD, op.VCPU_PUT, op.USER_RETURN, op.URET),
    "kvm_run": (op.SWAP_LOAD, op.SWAP_PUT),
    "vm_exit": (op.GUEST_ENTRY, op.GUEST_EXIT, op.XSS_PHASE, op.TRANSITION),
}
"""The phases whose operations are related to each event.  vcpu-load, vcpu-put and the return to user mode belong to
round trips, too, and guest-entry has what is done once per vcpu-load: a phase is the finest that the ledger knows."""

COST: Final = "cost"
COST_WITHOUT_XSS: Final = "cost_without_xss"
CARRYING_COST: Final = "cost_carrying"
"""FPU, MSR and XSS: what a strategy does by itself; the rest is how the host reacts, and chance."""
CARRYING_COST_WITHOUT_XSS: Final = "cost_carrying_without_xss"

COLUMNS: Final = ("case", "strategy", "replication", "metric", "unit", "value")

OF_OPERATIONS: Final = re.compile(r"cost\b.*|cost_.*|cpu_share.*|(\w+_)?operations_per_\w+|(task|guest)_fpstate_\w+")
"""Metrics that follow from a strategy's own operations; all others only the host shows that it times."""

Array = NDArray[Any]
"""One value for each record, in the order of the records: arithmetic on a hundred short columns takes pandas long."""

Column = tuple[str, str, Array]
"""A metric, its unit, and its values."""


def is_of_operations(metric: str) -> bool:
    """Whether strategies that walked one schedule may be compared by this metric."""
    return OF_OPERATIONS.fullmatch(metric) is not None


AMX_DATA: Final = "XTILEDATA"
"""The component whose first use gives a thread another fpstate."""


def per_replication(results: Results) -> Replicated:
    """All metrics of all replications: case, strategy, replication, metric, unit, value; each metric in one frame.

    ``results`` are those of one schedule a replication (:func:`sim.analysis.schedules.walked`), or of independent runs
    (:func:`~sim.analysis.schedules.independent`).  Metrics that only a host shows are there for the strategy that timed
    it; what operations are related to (seconds, events) is the schedule's.  A latency is there for a strategy whose
    every replication has enough samples for the quantile.
    """
    replications: Counter[Any] = Counter()

    def frames() -> Iterator[pd.DataFrame]:
        for piece in results.pieces():
            replications.update(piece.metrics.groupby(["case", "strategy"])["replication"].nunique().to_dict())
            yield _of_piece(piece)

    found = Replicated(frames(), [name for name in COLUMNS if name not in ("replication", "value")], apart="metric")
    numbers = found.numbers()

    def is_everywhere(key: Mapping[str, str]) -> bool:
        latency = re.search(OF_QUANTILE, key["metric"])
        return not latency or numbers[tuple(key.values())] == replications[key["case"], key["strategy"]]

    return found.where(is_everywhere)


def _of_piece(results: Results) -> pd.DataFrame:
    index = pd.MultiIndex.from_frame(
        pd.concat([results.ledger[list(RUN_COLUMNS)], results.metrics[list(RUN_COLUMNS)]]).drop_duplicates()
    )
    raw = results.metrics.pivot(index=["case", "timed_by", "replication"], columns="metric", values="value")
    lacking = [name for name in (*(f"{part}_cycles" for part in PARTS), "elapsed_cycles") if name not in raw]
    if lacking:
        where = f"{results.directory / 'metrics.parquet'}: " if results.directory else ""
        raise InputError(f"{where}the metrics of the results lack {', '.join(lacking)}")
    raw = raw.reindex(columns=raw.columns.union([*COUNTS, *(f"{part}_cycles" for part in WAITS), STOLEN]))
    raw = raw.loc[index.droplevel("strategy")]
    cases = pd.DataFrame([dict(case) for case in results.cases]).set_index("case")
    host = cases.loc[index.get_level_values("case"), ["cpus", "tsc_hz", "vcpus", "pipes"]]
    columns = _columns(results, index, _arrays(raw), _arrays(host))
    units = np.where(host["vcpus"] == 0, "cycles/CPU-s", "cycles/vCPU-s")
    frames = [_long(columns, index, units), _latency(results, cases), _bytes(results, index)]
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def _arrays(frame: pd.DataFrame) -> dict[str, Array]:
    return {str(name): column.to_numpy() for name, column in frame.items()}


def _long(columns: Iterable[Column], index: pd.MultiIndex, cost_units: Array) -> pd.DataFrame:
    """All columns, one below the other, without what means nothing; together, since there are a hundred of them."""
    timing = index.get_level_values("timed_by") == index.get_level_values("strategy")
    at, found = [], []
    names: list[str] = []
    units: list[str] = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for metric, unit, values in columns:
            kept = np.flatnonzero(~np.isnan(values) & (timing | is_of_operations(metric)))
            at.append(kept)
            found.append(values[kept])
            names += [metric] * len(kept)
            units += [unit] * len(kept) if unit else cost_units[kept].tolist()
    frame = index.to_frame(index=False).take(np.concatenate(at))
    return frame.assign(metric=names, unit=units, value=np.concatenate(found))[list(COLUMNS)]


def _columns(
    results: Results, index: pd.MultiIndex, raw: Mapping[str, Array], host: Mapping[str, Array]
) -> Iterator[Column]:
    """Unit "" is cycles per vCPU-second, or per CPU-second of a host without vCPUs."""
    elapsed = raw["elapsed_cycles"]
    host_seconds = elapsed / (host["cpus"] * host["tsc_hz"])
    seconds = host_seconds * np.where(host["vcpus"] > 0, host["vcpus"], host["cpus"])
    ledger = _Ledger(results, index)
    cycles = ledger.by_category(ledger.cycles)
    total = cycles.sum(axis=1)
    yield from _costs(cycles, seconds)
    for name in CATEGORIES:
        yield f"cost_{name.lower()}", "", _of(cycles, name) / seconds
    yield "cpu_share", "%", 100 * total / elapsed
    yield "cpu_share_without_xss", "%", 100 * (total - _of(cycles, XSS)) / elapsed
    for name in CATEGORIES:
        yield f"cpu_share_{name.lower()}", "%", 100 * _of(cycles, name) / elapsed
    for level, name in (("L1", "_all_warm"), ("memory", "_all_memory")):
        yield from _costs(ledger.by_category(repriced(results, level).to_numpy()), seconds, name)
    yield from _grades(results, index)
    for event, count in EVENTS.items():
        events = _some(raw[count])
        counted = ledger.by_category(ledger.carrying, PHASES[event])
        yield f"operations_per_{event}", "operations", counted.sum(axis=1) / events
        for name in CARRYING:
            yield f"{name.lower()}_operations_per_{event}", "operations", _of(counted, name) / events
    yield from _throughput(raw, host, host_seconds)
    for part in (*PARTS, *WAITS):
        yield f"time_{part}", "%", 100 * raw[f"{part}_cycles"] / elapsed
    for count in COUNTS:
        yield f"{count}_per_second", "1/s", raw[count] / host_seconds


def _some(values: Array) -> Array:
    """NaN where there are none."""
    return np.where(values > 0, values, np.nan)


def _of(by_category: Array, *names: str) -> Array:
    """The sum of these columns of a table of :meth:`_Ledger.by_category`."""
    found: Array = by_category[:, [CATEGORIES.index(name) for name in names]].sum(axis=1)
    return found


def _costs(cycles: Array, seconds: Array, suffix: str = "") -> Iterator[Column]:
    total = cycles.sum(axis=1)
    yield f"{COST}{suffix}", "", total / seconds
    yield f"{COST_WITHOUT_XSS}{suffix}", "", (total - _of(cycles, XSS)) / seconds
    yield f"{CARRYING_COST}{suffix}", "", _of(cycles, *CARRYING) / seconds
    yield f"{CARRYING_COST_WITHOUT_XSS}{suffix}", "", _of(cycles, FPU, MSR) / seconds


class _Ledger:
    """The rows of the ledger: of which record, category and phase they are, cycles, and operations that carry state."""

    def __init__(self, results: Results, index: pd.MultiIndex) -> None:
        ledger = results.ledger
        self._shape = len(index), len(CATEGORIES)
        self._record = index.get_indexer(pd.MultiIndex.from_frame(ledger[list(RUN_COLUMNS)]))
        self._phase = ledger["phase"].to_numpy()
        pairs = list(zip(self._phase, ledger["operation"].to_numpy(), strict=True))
        of = {pair: (CATEGORIES.index(category(*pair)), instructions(*pair)) for pair in dict.fromkeys(pairs)}
        self._category, carries = np.array([of[pair] for pair in pairs], dtype=np.int64).reshape(-1, 2).T
        self.cycles = ledger["cycles"].to_numpy()
        self.carrying = ledger["count"].to_numpy() * carries

    def by_category(self, values: Array, phases: Collection[str] | None = None) -> Array:
        """Sums of these values of the rows, of all phases or of some: records x :data:`CATEGORIES`."""
        place = self._record * len(CATEGORIES) + self._category
        if phases is not None:
            here = np.isin(self._phase, list(phases))
            place, values = place[here], values[here]
        found = np.zeros(self._shape, dtype=np.int64)
        np.add.at(found.reshape(-1), place, values)
        return found


def _grades(results: Results, index: pd.MultiIndex) -> Iterator[Column]:
    """How much of the operations' cycles rests on rows of each grade, before rounding."""
    rows = by_cost_row(results)
    by_grade = rows.groupby([*RUN_COLUMNS, "grade"], sort=False)["cycles"].sum().unstack("grade")
    by_grade = by_grade.reindex(index=index, columns=list(GRADES)).fillna(0.0)
    everything = _some(by_grade.sum(axis=1).to_numpy())
    for grade in GRADES:
        yield f"cost_on_{grade}", "%", 100 * by_grade[grade].to_numpy() / everything


def _throughput(raw: Mapping[str, Array], host: Mapping[str, Array], seconds: Array) -> Iterator[Column]:
    vcpus = _some(host["vcpus"])
    yield "guest_cycles", "cycles/vCPU-s", raw["guest_cycles"] / (seconds * vcpus)
    of_vcpus = 100 / (seconds * host["tsc_hz"] * vcpus)
    yield "steal", "%", raw[STOLEN] * of_vcpus
    yield "polling", "%", (raw["halt_poll_cycles"] + np.nan_to_num(raw["guest_poll_cycles"])) * of_vcpus
    yield "spinning", "%", raw["guest_spin_cycles"] * of_vcpus
    yield "us_per_handoff", "us", 1e6 * seconds * _some(host["pipes"]) / _some(raw["handoffs"])


def _latency(results: Results, cases: pd.DataFrame) -> pd.DataFrame:
    """Wake-up latencies of each replication that has enough samples for the quantile."""
    found = quantiles(results.latency, ["case", "strategy", "replication"], cases["tsc_hz"])
    found["metric"] = [latency_metric(h, q) for h, q in zip(found["histogram"], found["quantile"], strict=True)]
    renamed: pd.DataFrame = found.assign(unit="us").rename(columns={"us": "value"})
    return renamed[list(COLUMNS)]


def latency_metric(histogram: str, quantile: str) -> str:
    """The metric of a quantile of a histogram."""
    return f"{histogram}_wakeup_{quantile}"


def _bytes(results: Results, index: pd.Index) -> pd.DataFrame:
    """Sizes that follow from the masks alone, and so are the same in all replications."""
    lines = []
    for case, strategy in dict.fromkeys((case, strategy) for case, _, strategy, _ in index):
        document = results.case(case)
        settings = settings_of(document, strategy)
        config = boot(settings)
        sizes = {
            "task_fpstate_bytes": (task_bytes := _task_bytes(document["resolved"], config.masks)),
            "task_fpstate_size": config.masks.host_size,
            "guest_fpstate_bytes": config.guest_fpstate_bytes,
            "guest_fpstate_size": config.guest_fpstate_size,
        }
        if task_bytes > config.masks.task_bytes:
            sizes["task_amx_fpstate_bytes"] = config.masks.amx_fpstate_bytes
        shown = {name: size for name, size in sizes.items() if document["vcpus"] or name.startswith("task")}
        replications = [r for c, _, s, r in index if (c, s) == (case, strategy)]
        lines += [(case, strategy, r, name, "B", float(size)) for r in replications for name, size in shown.items()]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _task_bytes(scenario: Mapping[str, Any], masks: BootMasks) -> float:
    """The mean over all user threads, including those of vCPUs, each with what its components need."""
    threads = [each for each in scenario.get("threads", {}).values() if each["kind"] != "kthread"]
    users = [(each["count"] * (1 + (each["kind"] == "pipe")), _uses_amx(each["fpu"])) for each in threads]
    users += [
        (each["vms"] * each["vcpus"], AMX_DATA in each["vmm_fpu"]) for each in scenario.get("guests", {}).values()
    ]
    total = sum(number for number, _ in users)
    with_amx = sum(number for number, uses_amx in users if uses_amx)
    share: float = with_amx / max(total, 1)
    return masks.task_bytes + (masks.amx_task_bytes - masks.task_bytes) * share


def _uses_amx(fpu: Mapping[str, Any]) -> bool:
    return AMX_DATA in fpu["components"] and bool(fpu["share"])
