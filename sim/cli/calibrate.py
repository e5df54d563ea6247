"""`fpswitch calibrate`: measures this machine and writes a cost table."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import emit, json_option
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.calibrate import Result
    from sim.calibrate.rounds import Progress


@click.command()
@click.option("-o", "--out", "--output", "output", required=True, metavar="FILE.toml", help="The table to write.")
@click.option("--force", is_flag=True, help="Overwrite FILE and the list of measurements beside it.")
@click.option("--quick", is_flag=True, help="Ten seconds: fewer in-use sets, wider intervals.")
@click.option(
    "--budget", type=float, metavar="SECONDS", help="Measure for at most this long (default 120, or 8 with --quick)."
)
@click.option("--on", "cpu", type=int, metavar="N", help="The CPU to measure on (default: the last one allowed).")
@click.option("--derived-from", default="", metavar="NAME", help="The table for what cannot be measured.")
@click.option("--guest", is_flag=True, help="Also measure at CPL 0 of a small guest, by /dev/kvm.")
@json_option
def calibrate(
    output: str, force: bool, quick: bool, budget: float | None, cpu: int | None, derived_from: str, guest: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure this machine and write a cost table with `measured` rows.

    It needs a C compiler and no privileges. XSAVE, XSAVEC, XSAVEOPT and XRSTOR are timed in user mode for every in-use
    set. What runs in ring 0 is measured only as a difference: XSAVES and XRSTORS in place, in a write to /dev/urandom
    and, with CAP_SYS_NICE, in a switch between two threads; hand-offs between two processes; and KVM_RUN round trips if
    /dev/kvm can be used and does not interpret its guests. What cannot be measured is derived from the shipped table
    that is nearest to this CPU. All timings of the XSAVE instructions go to a .csv file beside FILE.

    With --guest, XSAVES, XRSTORS, XGETBV, RDMSR, WRMSR and WRMSRNS are also timed as whole instructions, at CPL 0 in a
    small virtual machine, and VM exits by kind. This needs access to /dev/kvm, and a KVM of Linux 5.14 or later that
    runs its guests by VMX or SVM; otherwise it is refused. CET_S and PL0-2_SSP are measured where KVM offers them
    (Linux 6.18).

    Leave the machine idle while it runs. Disturbed samples are rejected, but a busy neighbour is not always noticed.

    With --json: {"table", "measurements", "cpu", "derived_from", "rows", "processes", "rejected" (a fraction, by
    stage), "misfit" (by instruction and level), "differences", "spanning_zero", "left_out" (reasons), "widest" and
    "between_runs" (by kind of call, in TSC cycles: half of the widest interval, and by how much two halves of the
    processes differ at most)}.

    \b
    Examples:
      fpswitch calibrate -o my-machine.toml
      fpswitch calibrate -o my-machine.toml --guest
      fpswitch costs check my-machine.toml
    """
    from sim import calibrate as measuring
    from sim.calibrate.writing import refuse_existing, refuse_unwritable
    from sim.results import files

    path = Path(output)
    if path.suffix != ".toml":
        raise InputError(f"calibrate: --out {output!r}: the name of a cost table ends in .toml")
    beside = path.with_suffix(".csv")
    (refuse_unwritable if force else refuse_existing)([path, beside])
    seconds = _budget(budget, measuring.QUICK_BUDGET_S if quick else measuring.BUDGET_S, measuring.BUDGET_MOST_S)
    result = measuring.calibrate(_cpu(cpu), seconds, quick, derived_from, _bar, guest)
    files.write(beside, result.measurements.encode())
    files.write(path, result.table.encode())
    emit(_document(result, path, beside), _text(result, path, beside), as_json)


def _budget(given: float | None, usual: float, most: float) -> float:
    if given is None:
        return usual
    if not 1 <= given <= most:
        raise InputError(f"calibrate: --budget {given:g}: between 1 and {most:g} seconds are allowed")
    return given


def _cpu(given: int | None) -> int:
    """The CPU to measure on: the last allowed one sees the fewest interrupts."""
    allowed = sorted(os.sched_getaffinity(0))
    if given is None:
        return allowed[-1]
    if given not in allowed:
        raise InputError(f"calibrate: --on {given}: this process may run on {', '.join(map(str, allowed))}")
    return given


@contextmanager
def _bar(seconds: float) -> "Iterator[Progress]":
    from tqdm import tqdm

    form = "measuring: {percentage:3.0f}%|{bar}| at most {remaining} left"
    with tqdm(total=seconds, bar_format=form, disable=None) as bar:
        yield bar


def _document(result: "Result", path: Path, beside: Path) -> dict[str, Any]:
    machine = result.machine
    return {
        "table": str(path),
        "measurements": str(beside),
        "cpu": machine.where,
        "derived_from": result.derived_from,
        "rows": result.rows,
        "processes": result.processes,
        "rejected": result.rejected,
        "misfit": {f"{name}{'@' + level if level else ''}": off for (name, level), off in result.misfit.items()},
        "differences": result.spans_zero[1],
        "spanning_zero": result.spans_zero[0],
        "left_out": result.left_out,
        "widest": result.widest,
        "between_runs": result.between_runs,
    }


def _text(result: "Result", path: Path, beside: Path) -> str:
    from sim.calibrate import STAGES

    lines = [
        result.machine.where,
        f"{path}: {result.rows} rows, the rest from {result.derived_from}; all timings: {beside}",
        "",
        *(
            f"{STAGES[name]}: {count} processes, {result.rejected[name]:.1%} of the samples rejected"
            for name, count in result.processes.items()
        ),
        *(f"{STAGES[name]}: not measured ({reason})" for name, reason in result.left_out.items()),
        "largest misfit of the composed prices: "
        + ", ".join(f"{name} {level or 'L1'} {off:.0%}" for (name, level), off in result.misfit.items()),
        f"differences in ring 0 whose interval spans zero: {result.spans_zero[0]} of {result.spans_zero[1]}",
        *(
            f"{STAGES[where]}: differences known to +-{widest:.1f} TSC cycles or better within this run; its "
            f"two halves differ by at most {result.between_runs[where]:.1f}"
            for where, widest in result.widest.items()
        ),
    ]
    return "\n".join(lines)
