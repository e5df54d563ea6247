"""How long each shipped scenario takes on two cores, as ``fpswitch scenarios`` says it.

``python benchmarks/scenarios.py [NAME ...]`` runs those scenarios, or all, and writes the seconds into
scenarios/seconds.json.  They are those of two idle cores also where the machine is busy: the CPU time of this process,
plus that of the processes that simulate divided by two.  Figures and the result directory are left out.
"""

import json
import resource
import sys

import sim
from sim.scenario.shipped import DURATIONS, names

JOBS = 2


def _cpu_seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _taken() -> float:
    return _cpu_seconds(resource.RUSAGE_SELF) + _cpu_seconds(resource.RUSAGE_CHILDREN) / JOBS


def main(chosen: list[str]) -> None:
    """Times them, and writes the file after each."""
    seconds = json.loads(DURATIONS.read_text(encoding="utf-8")) if DURATIONS.exists() else {}
    for name in chosen or names():
        begin = _taken()
        sim.compare(sim.run(name, jobs=JOBS)).summary()
        seconds[name] = round(_taken() - begin) or 1
        print(f"{name}: {seconds[name]} s", flush=True)
        DURATIONS.write_text(json.dumps(dict(sorted(seconds.items())), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
