"""Twins of hosts that no rule of ``fpswitch fit`` was made on: simulated ones, halves of traces.

    python benchmarks/twins.py [--only NAME] [--seconds SECONDS] [--trace FILE ...]

Each host of ``twin_hosts.py`` and ``twin_hosts_further.py`` is simulated, exported as a recording (of 0.7 s, or of
SECONDS), and fitted; the twin is held against its recording, as a fit does, and as strictly against the host itself,
simulated with other random numbers: how far the recording is from its host is in the second.  Of each FILE the first
half is fitted, and held against the second.
Prints a table in Markdown of what misses; exit status 1 if anything does.
"""

import argparse
import gzip
import re
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import twin_hosts
import twin_hosts_further
from click.testing import CliRunner

from sim.analysis import fitness, tuning
from sim.cli import cli
from sim.scenario.cases import cases
from sim.scenario.reading import read
from sim.trace.fit import estimate, writing
from sim.trace.fit.estimate import Fitted

REPLICATIONS = 4
OTHER_SEED = 2
"""Of the truth: with that of the recording, which is the default, its first replication would be the recording."""
WARMUP_MS = 100
"""Of a host, recorded too."""
HOSTS = twin_hosts.HOSTS | twin_hosts_further.HOSTS
HEAD = """
title = "{name}"
[run]
measure = "{measure} ms"
warmup = "{warmup} ms"
[host]
cpus = {host.cpus}
cpu = ["{host.cpu}"]
kernel = ["{host.kernel}"]
preemption = "{host.preemption}"
{host.lines}
"""


def tuned(file: Path, out: Path, preemption: str, cpu: str = "zen4") -> Fitted:
    """The scenario of a recording, tuned, in ``out``."""
    with open(file, "rb") as stream:
        fitted = estimate.fit(stream, file.name, cpu=cpu, preemption=preemption, all_strategies=True)
    writing.write(fitted, out, force=True)
    return tuning.tune(fitted, out, 1)


def of_a_host(name: str, folder: Path, seconds: float) -> tuple[list[fitness.Compared], list[fitness.Compared]]:
    """The twin of a simulated host against that host with other random numbers, and against its recording of that
    length.
    """
    host = HOSTS[name]
    scenario, run = folder / "host.toml", folder / "run.txt"
    run_ms = {"measure": round(1000 * seconds) - WARMUP_MS, "warmup": WARMUP_MS}
    scenario.write_text(HEAD.format(name=name, host=host, **run_ms) + host.text)
    command = ["export", str(scenario), "-o", str(run), "--strategy", "xstate-guest", "--force"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    lines = (line for line in run.open() if not line.startswith("# fpswitch "))
    run.write_text("".join(lines).replace("rcu_preempt/0", "rcu_preempt"))
    fitted = tuned(run, folder / "twin.toml", host.preemption, host.cpu)
    (truth,) = cases(read(scenario, {"run.seed": OTHER_SEED}))
    there = fitness.recordings(fitted, truth, REPLICATIONS, 1)
    here = fitness.recordings(fitted, fitness.twin(fitted, folder / "twin.toml"), REPLICATIONS, 1)
    recorded = fitness.side_by_side(fitted.counted, here, fitted.unsure)
    found = []
    for one, other in zip(fitness.side_by_side(fitted.counted, there), recorded, strict=False):
        if one.low is None or one.high is None or one.what != other.what:
            continue
        half = (one.high - one.low) / 2
        found.append(replace(other, trace=one.simulated, low=one.simulated - half, high=one.simulated + half))
    return found, recorded


def of_halves(trace: Path, folder: Path) -> tuple[list[fitness.Compared], list[fitness.Compared]]:
    """The twin of the first half of a trace against the second half, and against the first itself."""
    content = trace.read_bytes()
    lines = (gzip.decompress(content) if trace.suffix == ".gz" else content).decode().splitlines(keepends=True)
    time = re.compile(r"\]\s+(\d+\.\d+):")
    at = [float(match[1]) for line in lines if (match := time.search(line))]
    middle = (at[0] + at[-1]) / 2
    files = [folder / "first.txt", folder / "second.txt"]
    for number, file in enumerate(files):
        file.write_text(
            "".join(each for each in lines if not (m := time.search(each)) or (float(m[1]) > middle) == bool(number))
        )
    fitted = tuned(files[0], folder / "twin.toml", "none")
    with open(files[1], "rb") as stream:
        other = estimate.fit(stream, "second half", cpu="zen4", preemption="none", all_strategies=True)
    simulated = fitness.recordings(fitted, fitness.twin(fitted, folder / "twin.toml"), REPLICATIONS, 1)
    return (
        fitness.side_by_side(other.counted, simulated, other.unsure),
        fitness.side_by_side(fitted.counted, simulated, fitted.unsure),
    )


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=HOSTS)
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--trace", action="append", type=Path, default=[])
    chosen = parser.parse_args()
    hosts = chosen.only or ([] if chosen.trace else HOSTS)
    work = [(name, partial(of_a_host, name, seconds=chosen.seconds)) for name in hosts]
    work += [(trace.name, partial(of_halves, trace)) for trace in chosen.trace]
    missed = 0
    print("| host | compared | miss | of its recording | the largest difference of a rate | what misses |")
    print("|---|---|---|---|---|---|")
    for name, compared in work:
        with tempfile.TemporaryDirectory() as folder:
            host, recording = compared(folder=Path(folder))
        found = [each for each in host if each.holds is not None]
        own = sum(each.holds is False for each in recording)
        misses = [each for each in found if not each.holds]
        missed += bool(misses)
        rates = [each for each in found if each.unit == "1/s" and each.trace]
        largest = max(rates, key=lambda each: abs(each.simulated / each.trace - 1), default=None)
        text = "; ".join(f"{each.what} {each.simulated:.4g} for {each.trace:.4g}" for each in misses[:4])
        worst = "" if largest is None else f"{largest.what} {largest.simulated / largest.trace - 1:+.1%}"
        print(f"| {name} | {len(found)} | {len(misses)} | {own} | {worst} | {text} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
