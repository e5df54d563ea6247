"""``fpswitch fit`` of a trace with KVM's events alone."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sim.cli.common import counting_events, emit
from sim.cli.compared import compared_text
from sim.cli.replay import opened

if TYPE_CHECKING:
    from sim.analysis.fitness import Compared
    from sim.trace.exits import Exits
    from sim.trace.fit.guests import FittedExits


def fit_exits(
    trace: str,
    out: Path,
    cpu: str | None,
    costs: str | None,
    force: bool,
    replications: int | None,
    jobs: int | None,
    as_json: bool,
) -> NoReturn:
    """Fits the exits of a trace, and ends the command; ``replications`` None: nothing is simulated."""
    from sim.trace.fit import exits_writing, of_exits

    with opened(trace) as (stream, name):
        fitted, found = of_exits.fit(stream, name, progress=counting_events, cpu=cpu, costs=costs)
    exits_writing.write(fitted, out, force=force)
    compared = None if replications is None else _simulated(fitted, found, out, replications, jobs)
    document: dict[str, Any] = {
        "scenario": str(out),
        "cpu": fitted.cpu,
        "kernel": fitted.kernel,
        "seconds": fitted.seconds,
        "guests": [
            {"name": each.name, "vcpus": each.vcpus, "exits": {exit.name: exit.counted for exit in each.exits}}
            for each in fitted.guests
        ],
        "notes": list(fitted.notes),
        "not_said": found.unsaid,
    }
    vcpus = len(fitted.guests)
    lines = [
        f"{name}: {found.exits} VM exits and {found.round_trips} KVM_RUN round trips of {vcpus} "
        f"{'vCPU' if vcpus == 1 else 'vCPUs'} in {fitted.seconds:.6f} s, in {out}; Linux {fitted.kernel}, {fitted.cpu}",
        *(f"note: {each}" for each in fitted.notes),
        *(f"not said: {each}" for each in found.unsaid),
    ]
    held = True
    if compared is not None and replications is not None:
        from sim.analysis.fitness import holds

        held = holds(compared)
        document |= {"compared": [each.document() for each in compared], "holds": held}
        lines += ["", compared_text(compared, replications)]
    emit(document, "\n".join(lines), as_json)
    sys.exit(0 if held else 1)


def _simulated(
    fitted: "FittedExits", found: "Exits", out: Path, replications: int, jobs: int | None
) -> "list[Compared]":
    from tqdm import tqdm

    from sim.analysis.exits_fitness import side_by_side
    from sim.experiment.pools import cpus

    with tqdm(total=replications, unit="rep", desc="check", disable=None, file=sys.stderr, ncols=72) as bar:

        def step() -> None:
            bar.update()

        return side_by_side(fitted, found, out, replications, jobs or cpus(), step)
