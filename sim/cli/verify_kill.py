"""`fpswitch verify kill`: runs that are killed, and lose nothing."""

import sys
import tempfile
from pathlib import Path

import click

from sim.cli.common import emit, json_option, say


@click.command(short_help="Kill runs at random moments: nothing that was kept is lost.")
@click.option("--kills", default=50, show_default=True, metavar="N", help="How often.")
@click.option("--seed", default=1, show_default=True, metavar="N", help="Of the moments.")
@click.option("--cluster", is_flag=True, help="Also what happens to a Dask cluster, with real processes.")
@json_option
def kill(kills: int, seed: int, cluster: bool, as_json: bool) -> None:
    """Kill runs at random moments, and check that nothing that was kept is lost and that the tables are byte-identical.

    Drivers and their processes get SIGKILL while they start, simulate, write, set an earlier result aside and delete
    it; then the same command continues, or one with another seed follows in the same directory. A kill takes three
    seconds. With --cluster, a scheduler, a driver and workers are killed, one worker is slow, one is late, and one
    loses its network (as root, in a network namespace). The exit status is 1 if anything was lost, or differs from a
    run without kills.

    With --json: {"kills": {WHAT: N}, "too_late", "complete", "continued", "early" (how often a run of another seed came
    before one was complete), "refused" (such runs that would have lost something), "problems", "cluster": [{"event",
    "how", "problems"}]}.

    \b
    Example:
      fpswitch verify kill --kills 500 --cluster
    """
    from sim.verification.kill import Campaign, campaign, events

    found = Campaign()
    with tempfile.TemporaryDirectory(prefix="fpswitch-kill.") as place:
        for found in campaign(kills, seed, Path(place)):
            n = found.kills.total()
            if n % 50 == 0:
                say([f"{n} of {kills} kills, {found.complete} runs complete, {len(found.problems)} problems"])
    happened = []
    if cluster:
        with tempfile.TemporaryDirectory(prefix="fpswitch-kill.") as place:
            for event in events(Path(place)):
                say([f"{event.name}: {'; '.join(event.problems) or event.how}"])
                happened.append(event)
    kinds = dict(sorted(found.kills.items()))
    document = {
        "kills": kinds,
        "too_late": found.too_late,
        "complete": found.complete,
        "continued": found.continued,
        "early": found.early,
        "refused": found.refused,
        "problems": found.problems,
        "cluster": [{"event": each.name, "how": each.how, "problems": each.problems} for each in happened],
    }
    lines = [
        f"{found.kills.total()} kills (and {found.too_late} that came too late):",
        *(f"  {n:>5}  {what}" for what, n in kinds.items()),
        f"{found.complete} runs were complete in the end, {found.continued} times a run went on from what was kept",
        f"{found.early} times another run came before one was complete, and {found.refused} such runs were refused",
        *(f"{each.name}: {'; '.join(each.problems) or each.how}" for each in happened),
        *(found.problems or ["nothing was lost, and all tables are byte-identical to those of runs without kills"]),
    ]
    emit(document, "\n".join(lines), as_json)
    sys.exit(1 if found.problems or any(each.problems for each in happened) else 0)
