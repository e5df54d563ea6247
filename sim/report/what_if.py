"""What `fpswitch replay` prints of strategies on a recorded schedule: at most 100 columns, in the units of a run."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sim.kernel.strategies import names as shipped
from sim.report.amounts import si, three_digits
from sim.trace.whatif import GROUPS, Priced

if TYPE_CHECKING:
    from sim.trace.following.replay import Replayed

COLUMNS: Final = 100
NAME: Final = 22
COLUMN: Final = 8
MORE: Final = 10


class Per(NamedTuple):
    """What amounts are divided by: ``seconds`` of all vCPUs (CPUs) together."""

    what: str
    number: int
    seconds: float


def per(replayed: "Replayed") -> Per:
    """vCPU-seconds, as in a run; of a trace without vCPUs those of its CPUs."""
    vcpus = max((replica.vcpus for replica in replayed.replicas), default=0)
    number = vcpus or len(replayed.report.cpus)
    return Per("vCPU" if vcpus else "CPU", number, number * replayed.seconds or 1.0)


def table(results: Sequence[Priced], reference: str, over: Per, tsc_hz: float | None) -> Iterator[str]:
    """A line for each strategy; ``tsc_hz`` is that of the CPU whose costs were taken, None where nothing is priced."""
    base = next((each.cycles for each in results if each.strategy == reference), None)
    names = [*GROUPS, "SSP MSRs" if all(each.config.carried.name == "cet-s" for each in results) else "MSRs"]
    widths = [max(COLUMN, len(name) + 1) for name in names]
    head = " " * NAME + "".join(name.rjust(width) for name, width in zip(names, widths, strict=True))
    more = MORE if base is not None and tsc_hz is not None else 0
    if more:
        yield f"more than {reference}, in".rjust(len(head) + 2 * more)
        head += "us".rjust(more) + "cycles".rjust(more)
    yield head
    for each in results:
        counts = [*(each.count(*operations) for operations in GROUPS.values()), each.count_msrs()]
        cells = [si(count / over.seconds).rjust(width) for count, width in zip(counts, widths, strict=True)]
        if base is not None and tsc_hz is not None and each.cycles is not None:
            cycles = (each.cycles - base) / over.seconds
            cells += [_us(cycles, tsc_hz, "+" * (cycles > 0)).rjust(more), si(cycles, sign="+").rjust(more)]
        name = ("! " if each.config.unsound else "") + label(each)
        if len(name) >= NAME:
            yield name
            name = ""
        yield name.ljust(NAME) + "".join(cells)
    if base is not None and tsc_hz is not None:
        whole = base / over.seconds
        yield f"{reference} in all: {_us(whole, tsc_hz)} us, {si(whole)} cycles"
    if unsound := [label(each) for each in results if each.config.unsound]:
        said = f"! UNSOUND, so its cost is not comparable: {', '.join(unsound)}"
        yield from textwrap.wrap(said, COLUMNS, subsequent_indent="  ")


def _us(cycles: float, tsc_hz: float, sign: str = "") -> str:
    return sign + three_digits(1e6 * cycles / tsc_hz)


def label(each: Priced) -> str:
    """The strategy's name; with its file, if that has the name of a shipped one."""
    name = each.config.strategy.name
    return f"{name} ({each.strategy})" if name != each.strategy and name in shipped() else name
