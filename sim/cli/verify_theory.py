"""`fpswitch verify theory`: the simulated host against queueing theory."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import emit, jobs_option, json_option, table, wrapped

if TYPE_CHECKING:
    from sim.verification.theory.study import Finding


@click.command(short_help="Compare simulated hosts with queueing theory.")
@click.option("--replications", metavar="N", type=click.IntRange(min=2), help="Of each host; 20.")
@jobs_option()
@click.option("--figure", metavar="FILE", type=click.Path(path_type=Path), help="Draw it as well: .png or .svg.")
@json_option
def theory(replications: int | None, jobs: int | None, figure: Path | None, as_json: bool) -> None:
    """Compare simulated hosts with queueing theory; this takes ten minutes (docs/statistics.md).

    Machine repairman (M/M/c//N): threads, or vCPUs, that sleep and run for exponential times. Processor sharing:
    skewed bursts on one CPU with short slices, where only the means matter. M/G/1: how often a vCPU with Poisson
    requests halts. EEVDF: shares of a CPU by nice.

    The exit status is 1 if an interval, which is adjusted for the number of comparisons, is too wide, or misses what
    theory says by more than half a percent.

    With --json: {"findings": [{"theory", "what", "host", "simulated", "expected", "low", "high" (of simulated over
    expected less 1), "holds"}]}.

    \b
    Example:
      fpswitch verify theory --replications 5
    """
    from sim.verification.theory import study

    jobs = jobs or len(os.sched_getaffinity(0))
    findings = study.study(replications or study.REPLICATIONS, jobs)
    if figure:
        from sim.verification.theory.figure import draw

        draw(findings, figure)
    emit({"findings": study.document(findings)}, _text(findings), as_json)
    sys.exit(0 if all(each.holds for each in findings) else 1)


def _text(findings: "list[Finding]") -> str:
    rows = [
        (
            each.theory,
            each.host,
            each.what,
            f"{each.simulated:.4g}",
            f"{each.expected:.4g}",
            f"{each.low:+.2%} to {each.high:+.2%}",
            "" if each.holds else "DOES NOT HOLD",
        )
        for each in findings
    ]
    failures = sum(not each.holds for each in findings)
    said = f"{len(findings)} claims, {failures} do not hold. The interval is of simulated over theory less 1."
    return table(rows, ("theory", "host", "what", "simulated", "theory says", "interval", "")) + "\n\n" + wrapped(said)
