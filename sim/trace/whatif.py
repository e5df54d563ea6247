"""What if: every strategy on the real schedule of a trace, in operations and cycles per second.

The strategies meet the same flow points, which the follower finds in the trace.  What a trace cannot say is a setting
with a stated default: what guests do with their shadow stacks, and which of the components in use somebody writes while
running.  Which other components are in use is taken from the trace, from ``xfeatures`` at each save and restore.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, get_args

from sim.costs.price import Prices
from sim.costs.rows import CostTable
from sim.errors import InputError, unknown
from sim.kernel.config import Config, Settings, boot
from sim.kernel.operations import (
    CONTEXT_SWITCH,
    KVM_RUN,
    RESTORE_SKIPPED,
    VMENTRY,
    XRSTORS,
    XSAVES,
    XSS_PHASE,
    Operation,
)
from sim.kernel.strategies import names as strategy_names
from sim.kernel.versions import version
from sim.trace.following.replay import Recorded, Replayed
from sim.trace.following.replica import Replica, Uses, changed_and_common
from sim.trace.following.told import ToldReplica
from sim.xsave.components import CET_S
from sim.xsave.profiles import profile

Ssp = Literal["none", "constant", "rewritten"]
"""What guests do with PL0-2_SSP: never write them, write them once, or new ones each time they run."""

Touched = Literal["common", "all", "changed"]
"""What is written of the components in use: SSE and AVX (YMM), all of them, or none but those that became in use."""

GROUPS: Final = {
    "switches": (CONTEXT_SWITCH,),
    "KVM_RUN": (KVM_RUN,),
    "entries": (VMENTRY,),
    "XSAVES": (XSAVES,),
    "XRSTORS": (XRSTORS,),
    "skipped": (RESTORE_SKIPPED,),
}
"""Columns of a report, by operation."""


def _all(before: int, after: int, is_guest: bool) -> int:
    return after


def _changed(before: int, after: int, is_guest: bool) -> int:
    return after & ~before


USES: Final[dict[str, Uses]] = {"common": changed_and_common, "all": _all, "changed": _changed}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user asks; ``cpu`` None: the recorded machine, whose cost table is unknown.

    ``reference`` comes along with the strategies that are named, if it is possible there.
    """

    cpu: str | None = None
    kernel: str | None = None
    strategies: tuple[str, ...] = ()
    ssp: Ssp = "constant"
    touched: Touched = "common"
    reference: str = ""


def configs(recorded: Recorded, choices: Choices) -> dict[str, Config]:
    """The kernels to run side by side, by strategy.

    Without a CPU they have the masks of the trace; with one, those that it would have.  Strategies that were named must
    be possible there; of all others those that are not are left out.
    """
    kernel = version(choices.kernel).name if choices.kernel else recorded.config.version.name
    as_recorded = None if choices.cpu else recorded.config.cpu
    cpu = profile(choices.cpu).name if choices.cpu else recorded.config.settings.cpu
    found: dict[str, Config] = {}
    chosen = partial(replace, Settings()) if recorded.told is None else recorded.told.chosen
    stated = recorded.told is not None and recorded.told.settings.hypothetical
    wanted = choices.strategies or strategy_names()
    if choices.reference and choices.reference not in wanted:
        wanted = (choices.reference, *wanted)
    for name in wanted:
        hypothetical = bool(choices.strategies) or stated
        settings = chosen(cpu=cpu, kernel=kernel, strategy=name, hypothetical=hypothetical)
        try:
            config = boot(settings, as_recorded)
        except InputError:
            if name in choices.strategies:
                raise
        else:
            found[config.strategy.name] = config
    return found


def replicas(recorded: Recorded, choices: Choices) -> dict[str, Replica]:
    """A kernel model for each strategy."""
    for value, allowed, what in ((choices.ssp, Ssp, "guest SSP use"), (choices.touched, Touched, "touched")):
        if value not in get_args(allowed):
            raise unknown(what, value, get_args(allowed))
    uses, told = USES[choices.touched], recorded.told
    if told is not None:
        return {name: ToldReplica(config, told) for name, config in configs(recorded, choices).items()}
    shown = recorded.config.masks.max_features & ~CET_S  # CET_S is as ``choices.ssp`` says, in every strategy
    return {
        name: Replica(config, uses=uses, ssp=choices.ssp, shown=shown)
        for name, config in configs(recorded, choices).items()
    }


@dataclass(frozen=True, slots=True)
class Priced:
    """One strategy on the schedule of a trace: operation, count over the whole trace, TSC cycles (None: unpriced)."""

    strategy: str
    config: Config
    rows: tuple[tuple[Operation, int, int | None], ...]

    @property
    def cycles(self) -> int | None:
        """All of them."""
        total = 0
        for _, _, cycles in self.rows:
            if cycles is None:
                return None
            total += cycles
        return total

    @property
    def xss_cycles(self) -> int:
        """Those of the phase in which IA32_XSS is switched, in which strategies differ by who differs from the host."""
        return sum(cycles or 0 for operation, _, cycles in self.rows if operation.phase == XSS_PHASE)

    def count(self, *operations: str) -> int:
        """How often any of ``operations`` ran."""
        return sum(count for operation, count, _ in self.rows if operation.operation in operations)

    def count_msrs(self) -> int:
        """RDMSR and WRMSR of the carried MSRs, however they are accessed."""
        names = tuple(self.config.carried.msrs)
        return sum(count for operation, count, _ in self.rows if any(name in operation.operation for name in names))


def priced(replicas: dict[str, Replica], table: CostTable | None) -> list[Priced]:
    """The ledgers of all CPUs together, with their prices."""
    prices = Prices(table) if table else None
    found = []
    for name, replica in replicas.items():
        rows = tuple(
            (Operation(*key), count, None if prices is None else count * prices[key])
            for key, count in sorted(replica.counts().items())
        )
        found.append(Priced(name, replica.kernel.config, rows))
    return found


def document(results: Sequence[Priced], replayed: Replayed, reference: str) -> dict[str, Any]:
    """By strategy: operations, TSC cycles per second, how many of them are WRMSR XSS, and the difference to another."""
    seconds = replayed.seconds or 1.0
    base = next((result.cycles for result in results if result.strategy == reference), None)
    out: dict[str, Any] = {}
    for result in results:
        operations: dict[str, dict[str, Any]] = {}
        for operation, count, cycles in result.rows:
            entry = operations.setdefault(operation.operation, {"count": 0, "per_second": 0.0, "cycles": None})
            entry["count"] += count
            entry["per_second"] = entry["count"] / seconds
            if cycles is not None:
                entry["cycles"] = (entry["cycles"] or 0) + cycles
        total = result.cycles
        out[result.strategy] = {
            "operations": operations,
            "cycles_per_second": None if total is None else total / seconds,
            "xss_cycles_per_second": None if total is None else result.xss_cycles / seconds,
            "difference": None if total is None or base is None else (total - base) / seconds,
            "hypothetical": list(result.config.hypothetical),
            "unsound": result.config.unsound,
        }
    return out
