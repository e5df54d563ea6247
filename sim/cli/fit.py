"""``fpswitch fit``: a recorded trace in, a scenario out, and the two side by side."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import counting_events, emit, jobs_option, json_option, kernel_name, table
from sim.cli.compared import compared_text
from sim.cli.fit_exits import fit_exits
from sim.cli.replay import costs_option, opened
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.analysis.fitness import Compared
    from sim.trace.fit.estimate import Fitted


@click.command()
@click.argument("trace")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FILE.toml", help="The scenario.")
@click.option(
    "--cpu",
    metavar="NAME|FILE",
    help="The CPU profile and cost table; default: the nearest by its state components.",
)
@costs_option
@click.option(
    "--recorded-preemption",
    metavar="MODEL",
    help="The recorded kernel's preemption model, if the trace does not say (none, voluntary, full or lazy).",
)
@click.option("--kernel", callback=kernel_name, metavar="NAME", help="Also simulate the twin with this kernel.")
@click.option("--preemption", metavar="MODEL", help="Also simulate the twin with this preemption model.")
@click.option("--force", is_flag=True, help="Replace FILE.toml and its samples.")
@click.option("--exits", "exits_only", is_flag=True, help="Fit only the VM exits; the trace needs only KVM's events.")
@click.option("--no-check", is_flag=True, help="Do not simulate the scenario.")
@click.option("--replications", default=5, show_default=True, type=click.IntRange(1, 1000), metavar="N",
              help="Of the check.")  # fmt: skip
@jobs_option()
@json_option
def fit(
    trace: str,
    out: Path,
    cpu: str | None,
    costs: str | None,
    recorded_preemption: str | None,
    kernel: str | None,
    preemption: str | None,
    force: bool,
    exits_only: bool,
    no_check: bool,
    replications: int,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Fit a scenario to a recorded TRACE, and show how the two compare.

    TRACE is as for fpswitch replay; - is standard input. FILE.toml gets threads, vCPUs, bursts, sleeps, exits to user
    space, halts and what ends them, FPU use and affinity; the samples are CSV files in FILE.samples beside it
    (docs/fit.md).

    The scenario is then simulated with the recorded kernel's strategy, and tuned until threads and vCPUs wait for CPUs
    and go to sleep as often as in the trace. Then it is recorded as the trace was, and both recordings are counted and
    priced in the same way: context switches, KVM_RUN round trips, vCPU load/put pairs, VM entries, wake-ups,
    migrations, and the cost of every strategy, within 5 % or the 95 % interval from blocks of the trace, whichever is
    wider; skipped restores within 1 percentage point or their interval, CPU utilisation within 2. The exit status is 1
    if a figure misses; the output then says which assumption of the simulated twin is likely wrong. With --no-check
    nothing is simulated or tuned.

    With --kernel or --preemption the twin is also simulated with another kernel or preemption model, and the output
    shows what changes; FILE.toml is still that of the recorded host.

    A trace with KVM's events alone (kvm_entry, kvm_exit, kvm_userspace_exit) gives the exits, round trips and halts of
    its vCPUs; so does any other with --exits. The output lists what such events do not show.

    With --json: scenario, cpu, strategy, seconds, groups (entry, name, kind, threads, simulated, samples), notes,
    unsupported, and with the check: compared (figure, unit, trace, simulated, low, high, samples, holds, likely),
    holds, and with --kernel or --preemption: changed (figure, unit, recorded, other). Of exits alone: scenario, cpu,
    kernel, seconds, guests (name, vcpus, exits by kind), notes, not_said, and with the check compared and holds.

    \b
    Example:
      fpswitch fit trace.txt.gz -o my-host.toml --cpu zen4
    """
    from sim.kernel.versions import version
    from sim.trace.fit import estimate, writing
    from sim.trace.following.replay import KvmAlone

    other = kernel is not None or preemption is not None
    if other and no_check:
        raise InputError("--no-check simulates nothing, and --kernel and --preemption need it: leave one of them out")
    if kernel is not None:
        version(kernel)
    writing.check_target(out, force=force)
    if exits_only:
        if other or recorded_preemption is not None:
            raise InputError("--exits fits the exits alone: leave out --recorded-preemption, --kernel and --preemption")
        fit_exits(trace, out, cpu, costs, force, None if no_check else replications, jobs, as_json)
    try:
        with opened(trace) as (stream, name):
            fitted = estimate.fit(
                stream,
                name,
                progress=counting_events,
                cpu=cpu,
                costs=costs,
                preemption=recorded_preemption,
                all_strategies=not no_check,
            )
    except KvmAlone:
        if trace == "-" or other or recorded_preemption is not None:  # a stream is read once
            raise
        fit_exits(trace, out, cpu, costs, force, None if no_check else replications, jobs, as_json)
    from sim.analysis.fitness import unsupported as unsupported_by

    unsupported = unsupported_by(fitted.counted)
    if other:
        _refuse(fitted, kernel, preemption)
    writing.write(fitted, out, force=force)
    if not as_json:
        for each in unsupported:
            click.echo(f"note: {each}")
    compared: list[Compared] | None = None
    changed: list[tuple[str, str, float, float]] = []
    if not no_check:
        fitted, compared, changed = _simulated(fitted, out, replications, jobs, kernel, preemption, other=other)
    document: dict[str, Any] = {
        "scenario": str(out),
        "cpu": fitted.cpu,
        "strategy": fitted.strategy,
        "seconds": fitted.counted.seconds,
        "groups": [
            {
                "entry": group.entry,
                "name": group.key[1],
                "kind": group.key[0],
                "threads": group.threads,
                "simulated": group.rows,
                "samples": len(group.compute),
            }
            for group in fitted.groups
        ],
        "notes": list(fitted.notes),
        "unsupported": unsupported,
    }
    text = _text(fitted, out)
    held = True
    if compared is not None:
        from sim.analysis.fitness import holds

        held = holds(compared)
        document |= {"compared": [each.document() for each in compared], "holds": held}
        text += "\n\n" + compared_text(compared, replications)
    if changed:
        document["changed"] = [
            dict(zip(("figure", "unit", "recorded", "other"), each, strict=True)) for each in changed
        ]
        what = " ".join(filter(None, (kernel or fitted.kernel, preemption)))
        rows = [
            [name, *(f"{x:.1%}" if unit == "share" else f"{x:.0f}" for x in (before, after))]
            for name, unit, before, after in changed
        ]
        text += f"\n\nThe twin with the recorded kernel, and with {what}, per second:\n"
        text += table(rows, ["", "recorded", what])
    emit(document, text, as_json)
    sys.exit(0 if held else 1)


def _refuse(fitted: "Fitted", kernel: str | None, preemption: str | None) -> None:
    """Raises InputError for a kernel or preemption model that the twin cannot have, before anything is written."""
    import tempfile

    from sim.analysis import fitness
    from sim.analysis.recorded_run import RecordedRun
    from sim.trace.fit import writing

    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "twin.toml"
        writing.write(fitted, trial)
        RecordedRun(fitness.twin(fitted, trial, kernel, preemption), fitted.strategy, 0)  # boots that kernel


def _simulated(
    fitted: "Fitted",
    out: Path,
    replications: int,
    jobs: int | None,
    kernel: str | None,
    preemption: str | None,
    *,
    other: bool,
) -> "tuple[Fitted, list[Compared], list[tuple[str, str, float, float]]]":
    """The scenario, tuned; how its simulation compares; and what another kernel changes."""
    from tqdm import tqdm

    from sim.analysis import fitness, tuning
    from sim.experiment.pools import cpus

    jobs = jobs or cpus()
    total = tuning.ROUNDS * tuning.REPLICATIONS + replications * (1 + other)
    with tqdm(total=total, unit="rep", desc="tuning and check", disable=None, file=sys.stderr, ncols=72) as bar:

        def step() -> None:
            bar.update()

        fitted = tuning.tune(fitted, out, jobs, step)
        simulated = fitness.recordings(fitted, fitness.twin(fitted, out), replications, jobs, step)
        changed = []
        if other:
            elsewhere = fitness.twin(fitted, out, kernel, preemption)
            changed = fitness.change(simulated, fitness.recordings(fitted, elsewhere, replications, jobs, step))
    return fitted, fitness.side_by_side(fitted.counted, simulated, fitted.unsure), changed


def _text(fitted: "Fitted", out: Path) -> str:
    from sim.trace.fit.entries import ENOUGH

    threads = sum(group.threads for group in fitted.groups)
    rows = sum(group.rows for group in fitted.groups)
    lines = [
        f"{fitted.name}: {threads} threads in {fitted.counted.seconds:.3f} s, in {out} as {rows} in "
        f"{len(fitted.groups)} entries; Linux {fitted.kernel}, {fitted.strategy}, {fitted.cpu}",
        *(f"note: {note}" for note in fitted.notes),
    ]
    few = [group.entry for group in fitted.groups if len(group.compute) < ENOUGH and group.order is None]
    if few:
        lines.append(f"note: fewer than {ENOUGH} samples, so the mean alone: {', '.join(few)}")
    lines += [f"note: {note}" for group in fitted.groups for note in group.notes]
    return "\n".join(lines)
