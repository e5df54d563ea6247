"""`fpswitch verify statistics`: the claims about intervals and own operations, checked with many runs."""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import emit, jobs_option, json_option, table, wrapped

if TYPE_CHECKING:
    from sim.verification.statistics.coverage import Coverage
    from sim.verification.statistics.per_event import Finding


@click.command(short_help="Check how often printed intervals have the true value.")
@click.option("--repetitions", metavar="N", type=click.IntRange(min=2), help="Runs behind the coverage; 2000.")
@click.option("--replications", metavar="N", type=click.IntRange(min=3), help="Of each strategy and case; 12.")
@jobs_option()
@json_option
def statistics(repetitions: int | None, replications: int | None, jobs: int | None, as_json: bool) -> None:
    """Check the statistics of an answer with many runs; this takes a quarter of an hour (docs/statistics.md).

    Coverage: a short scenario is run --repetitions times, each time until its own stopping rule is satisfied. How many
    of the printed 95 % intervals contain the mean of all these runs?

    Per event: each strategy of each shipped scenario follows the common schedule, and also runs on one of its own. What
    it runs per VM exit, per vCPU load/put pair and per context switch must be the same, and the numbers of these events
    must explain the difference of the totals.

    The exit status is 1 if a coverage is outside 93 % to 97 %, or a comparison is outside its interval, which is
    adjusted for the number of comparisons.

    With --json: {"coverage": {"own" | "cost" | "contrast": {"covered", "repetitions", "truth", "share", "low", "high",
    "replications", "holds"}}, "per_event": {"comparisons", "explained", "failures": [{"scenario", "case", "strategy",
    "what", "mean", "low", "high", "of"}]}}.

    \b
    Example:
      fpswitch verify statistics --repetitions 200
    """
    from sim.scenario import shipped
    from sim.verification.statistics import coverage, per_event

    jobs = jobs or len(os.sched_getaffinity(0))
    intervals = coverage.study(repetitions or coverage.REPETITIONS, jobs)
    compared = per_event.study(shipped.names(), jobs, replications or per_event.REPLICATIONS)
    findings, explained = per_event.findings(compared), per_event.explained(compared)
    failures = [each for each in findings if not each.holds]
    document = {
        "coverage": coverage.document(intervals),
        "per_event": {
            "comparisons": len(findings),
            "explained": explained,
            "failures": [each._asdict() for each in failures],
        },
    }
    emit(document, _text(intervals, findings, failures, explained), as_json)
    sys.exit(0 if not failures and all(each.holds for each in intervals.values()) else 1)


def _text(
    intervals: "dict[str, Coverage]", findings: "list[Finding]", failures: "list[Finding]", explained: float
) -> str:
    rows: list[tuple[Any, ...]] = [
        (kind, f"{each.share:.1%}", f"{each.low:.1%} - {each.high:.1%}", each.repetitions, f"{each.replications:.1f}")
        for kind, each in intervals.items()
    ]
    lines = [
        table(rows, ("interval of 95 %", "coverage", "known to", "runs", "replications")),
        "",
        wrapped(
            f"{len(findings)} comparisons of one schedule with independent runs, {len(failures)} outside their "
            f"intervals; rates of events explain {explained:.2%} of the feedback's sum of squares."
        ),
    ]
    lines += [
        f"  {each.scenario}, {each.case}, {each.strategy}, {each.what}: {each.mean:.4g} ({each.low:.4g} to "
        f"{each.high:.4g}) of {each.of:.4g}"
        for each in failures
    ]
    return "\n".join(lines)
