"""The run that is killed: ``python -m sim.verification.kill.victim SEED OUT JOBS|ADDRESS [REPLICATIONS]``."""

import sys
from typing import Final

from sim.errors import InputError
from sim.experiment import run
from sim.results.tables import Results

OVERRIDES: Final = {
    "run.measure": "4 ms",
    "run.warmup": "1 ms",
    "run.strategies": ["free-ssp", "manual-load", "xstate-guest"],
    "run.contrasts": [],
    "run.feedback": False,
    "host.cpu": ["zen4"],
}
"""What reduces rfc-question to a second or two of work."""
REPLICATIONS: Final = 40
"""Enough for more than one group of replications, even in one process."""
REFUSED: Final = 2
"""The exit status of a run that is refused, as that of the command."""


def killed(seed: int, out: str, where: str, replications: int = REPLICATIONS) -> Results:
    """The run, in ``where`` processes, or on the cluster at that address."""
    jobs, cluster = (int(where), None) if where.isdecimal() else (None, where)
    return run(
        "rfc-question",
        overrides=OVERRIDES,
        replications=replications,
        seed=seed,
        jobs=jobs,
        cluster=cluster,
        out=out,
    )


if __name__ == "__main__":
    try:
        killed(int(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
