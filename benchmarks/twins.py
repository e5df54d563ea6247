"""Twins of hosts that no rule of ``fpswitch fit`` was made on: simulated ones, halves of traces.

    python benchmarks/twins.py [--only NAME] [--seconds SECONDS] [--trace FILE ...]

Each host below is simulated, exported as a recording (of 0.7 s, or of SECONDS), and fitted; the twin is held against
its recording, as a fit does, and as strictly against the host itself, simulated with other random numbers: how far the
recording is from its host is in the second.  Of each FILE the first half is fitted, and held against the second.
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
HEAD = """
title = "{name}"
[run]
measure = "{measure} ms"
warmup = "{warmup} ms"
[host]
cpus = {cpus}
cpu = ["zen4"]
preemption = "{preemption}"
{host}
"""
SSE = 'fpu = { components = ["SSE", "AVX"] }\n'
HOGS = '[threads.hog]\ncount = {n}\ncompute = "1 ms"\nfpu = {{ components = ["SSE", "AVX"] }}\n'
SLEEPERS = (
    '[threads.sleeper]\ncount = {n}\ncompute = {{ exponential = "200 us" }}\nsleep = {{ exponential = "1500 us" }}\n'
)
RCU = '[threads.rcu_preempt]\nkind = "kthread"\ncompute = "8 us"\nsleep = { exponential = "9 ms" }\ntimer = "tick"\n'
SPIN = '[guests.vm]\nvcpus = {n}\nfpu = {{ components = ["SSE"], every = "1 ms" }}\n'
HALTING = """
[guests.vm]
vcpus = 3
demand = {{ exponential = "150 us" }}
{end}
signalled = {signalled}
signal_time = "10 us"
fpu = {{ components = ["SSE"], every = "1 ms" }}
[guests.vm.exits.io]
every = {{ exponential = "200 us" }}
reason = "io"
handled = "userspace"
vmm = "10 us"
"""
KICKER = '[threads.kicker]\ncompute = "20 us"\nsleep = { exponential = "700 us" }\nwakes = { vm = 1.0 }\n' + SSE
OUT = """
[guests.vm]
vcpus = 2
fpu = { components = ["SSE"], every = "1 ms" }
[guests.vm.exits.io]
every = { exponential = "30 us" }
reason = "io"
handled = "userspace"
vmm = { exponential = "8 us" }
"""
PIPE = '[threads.sched-pipe]\nkind = "pipe"\ncompute = "40 us"\nsyscall = "20 us"\n' + SSE
BUILD = """
[threads.sh]
kind = "fork"
compute = { lognormal = "4 ms", sigma = 1.0 }
sleep = { exponential = "8 ms" }
wakes = { make = 1.0 }
[threads.make]
compute = { exponential = "300 us" }
waits = { share = 1.0 }
fpu = { components = ["SSE"] }
"""
GROUPED = (
    SPIN.format(n=4).replace("vcpus", 'group = "load"\nvcpus')
    + SLEEPERS.format(n=3).replace("count", 'group = "load"\ncount')
    + HOGS.format(n=1)
    + '[threads.other]\ncompute = "1 ms"\nnice = 5\n'
    + SSE
    + "[groups.load]\nweight = 600\n"
)
VHOST = """
[threads.source]
compute = { exponential = "60 us" }
sleep = { exponential = "400 us" }
wakes = { worker = 0.8 }
[threads.worker]
kind = "kthread"
count = 2
compute = { exponential = "40 us" }
waits = { share = 1.0 }
"""
STORM = """
[guests.vm]
vcpus = 2
fpu = { components = ["SSE"], every = "1 ms" }
[guests.vm.exits.cpuid]
every = { exponential = "25 us" }
reason = "cpuid"
[guests.vm.exits.io]
every = { exponential = "300 us" }
reason = "io"
handled = "userspace"
vmm = "10 us"
"""
IDLING = """
[guests.vm]
vcpus = {n}
demand = {{ exponential = "{demand}" }}
sleep = {{ exponential = "{sleep}" }}
fpu = {{ components = ["SSE", "AVX"], every = "1 ms" }}
"""
TIMERS = """
[threads.timer]
count = 3
compute = "60 us"
sleep = "1 ms"
fpu = { components = ["SSE"] }
[threads.frame]
compute = { lognormal = "3 ms", sigma = 0.3 }
sleep = "13 ms"
fpu = { components = ["SSE", "AVX"] }
"""
PIPELINE = """
[threads.source]
compute = { exponential = "100 us" }
sleep = { exponential = "300 us" }
wakes = { filter = 1.0 }
fpu = { components = ["SSE"] }
[threads.filter]
compute = { exponential = "80 us" }
waits = { share = 1.0 }
wakes = { sink = 0.5 }
fpu = { components = ["SSE", "AVX"] }
[threads.sink]
compute = { exponential = "60 us" }
waits = { share = 1.0 }
fpu = { components = ["SSE"] }
"""
MAKE_J = """
[threads.make]
kind = "fork"
compute = { lognormal = "8 ms", sigma = 1.0 }
sleep = { exponential = "5 ms" }
fpu = { components = ["SSE"] }
"""
KICKS = """
[guests.vm]
vcpus = 2
fpu = {{ components = ["SSE", "AVX"], every = "1 ms" }}
[guests.vm.exits.kick]
every = {{ exponential = "150 us" }}
reason = "ept-misconfig"
handled = "{handled}"
vmm = {vmm}
wakes = {{ vhost = {mean} }}
[threads.vhost]
{kind}
compute = {{ exponential = "25 us" }}
waits = {{ share = 1.0 }}
"""
FPU_IRQ = """
[interrupts.crypto]
every = { exponential = "500 us" }
time = "5 us"
kernel_fpu = 1.0
"""
CONTAINERS = """
[groups.one]
weight = 1024
[groups.two]
weight = 512
[threads.hog]
group = "one"
count = 2
compute = "1 ms"
fpu = { components = ["SSE", "AVX"] }
[threads.server]
group = "one"
count = 3
compute = { exponential = "150 us" }
sleep = { exponential = "1 ms" }
fpu = { components = ["SSE"] }
[threads.batch]
group = "two"
count = 4
compute = "1 ms"
fpu = { components = ["SSE", "AVX"] }
[threads.other]
count = 2
compute = "1 ms"
"""
DATABASE = """
[threads.client]
count = 6
compute = { exponential = "120 us" }
sleep = { exponential = "800 us" }
waits = { share = 0.6 }
wakes = { log = 1.0 }
fpu = { components = ["SSE", "AVX"] }
[threads.log]
compute = { exponential = "40 us" }
waits = { share = 1.0 }
wakes = { client = 3.0 }
fpu = { components = ["SSE"] }
"""
WORKERS = """
[threads.worker]
count = 2
affinity = "pinned"
compute = { lognormal = "60 us", sigma = 1.0 }
sleep = { exponential = "110 us" }
fpu = { components = ["SSE"] }
[threads.ksoftirqd]
kind = "kthread"
count = 2
affinity = "pinned"
compute = { exponential = "30 us" }
sleep = { exponential = "2 ms" }
[interrupts.nic]
every = { exponential = "150 us" }
time = "4 us"
"""
PERIODIC = """
[threads.control]
nice = -20
compute = "120 us"
sleep = "880 us"
fpu = { components = ["SSE", "AVX"] }
[threads.logger]
nice = 10
compute = { exponential = "300 us" }
sleep = { exponential = "3 ms" }
fpu = { components = ["SSE"] }
"""
VIRTIO = """
[guests.vm]
vcpus = 2
demand = { exponential = "200 us" }
waits = { share = 0.7, at_most = "5 ms" }
sleep = { exponential = "600 us" }
fpu = { components = ["SSE", "AVX"], every = "1 ms" }
[guests.vm.exits.doorbell]
every = { exponential = "180 us" }
reason = "ept-misconfig"
wakes = { iothread = 1.0 }
[threads.iothread]
compute = { exponential = "30 us" }
waits = { share = 1.0 }
wakes = { vm = 0.8 }
fpu = { components = ["SSE"] }
"""
HOSTS = {
    "pipe beside a hog": (1, "none", "", PIPE + HOGS.format(n=1) + RCU),
    "sleepers and hogs": (2, "voluntary", "", HOGS.format(n=3) + SLEEPERS.format(n=6) + RCU),
    "a half idle host": (4, "voluntary", "", SLEEPERS.format(n=8) + HOGS.format(n=1) + RCU),
    "halts that timers end": (
        2, "none", 'halt_poll = "0 ns"',
        HALTING.format(end='sleep = { exponential = "900 us" }', signalled=0.0)
        + SLEEPERS.format(n=2) + HOGS.format(n=1),
    ),
    "halts that a kicker ends": (
        2, "none", 'halt_poll = "0 ns"',
        HALTING.format(end="waits = { share = 1.0 }", signalled=0.95)
        + KICKER + HOGS.format(n=2) + SLEEPERS.format(n=2),
    ),
    "OUT exits": (2, "none", "", OUT + SLEEPERS.format(n=2) + HOGS.format(n=2)),
    "overcommitted spinners": (2, "none", "", SPIN.format(n=5) + SLEEPERS.format(n=3) + HOGS.format(n=1) + RCU),
    "spinners in a control group": (2, "none", "", GROUPED + RCU),
    "a build": (2, "voluntary", "", BUILD + HOGS.format(n=1) + RCU),
    "a worker pool": (2, "full", "", VHOST + HOGS.format(n=2) + SLEEPERS.format(n=2)),
    "CPUID storms": (2, "none", "", STORM + SLEEPERS.format(n=2) + HOGS.format(n=1) + RCU),
    "halts that KVM polls": (4, "voluntary", "", IDLING.format(n=3, demand="80 us", sleep="150 us") + RCU),
    "overcommit with halts": (
        2, "none", 'halt_poll = "0 ns"', IDLING.format(n=6, demand="300 us", sleep="500 us") + HOGS.format(n=1) + RCU,
    ),
    "vhost threads that KVM wakes": (
        2, "none", "",
        KICKS.format(handled="kernel", mean=0.8, vmm='"0 ns"', kind='kind = "kthread"')
        + HOGS.format(n=1) + SLEEPERS.format(n=2) + RCU,
    ),
    "an I/O thread that the VMM wakes": (
        2, "voluntary", "",
        KICKS.format(handled="userspace", mean=1.0, vmm='"8 us"', kind=SSE) + HOGS.format(n=1) + RCU,
    ),
    "periodic timers": (2, "none", "", TIMERS + HOGS.format(n=2) + RCU),
    "a pipeline": (2, "voluntary", "", PIPELINE + HOGS.format(n=2) + RCU),
    "a parallel make": (2, "voluntary", "", MAKE_J + SLEEPERS.format(n=3) + RCU),
    "interrupts that use the FPU": (
        2, "none", "", SPIN.format(n=2) + HOGS.format(n=2) + SLEEPERS.format(n=3) + SSE + RCU + FPU_IRQ,
    ),
    "two containers": (2, "none", "", CONTAINERS + RCU),
    "group commit": (2, "voluntary", "", DATABASE + HOGS.format(n=1) + RCU),
    "pinned workers": (2, "full", "", WORKERS + HOGS.format(n=1) + RCU),
    "a periodic thread above others": (1, "full", "", PERIODIC + HOGS.format(n=2) + RCU),
    "a vCPU and its I/O thread": (3, "voluntary", 'halt_poll = "0 ns"', VIRTIO + HOGS.format(n=1) + RCU),
}  # fmt: skip


def tuned(file: Path, out: Path, preemption: str) -> Fitted:
    """The scenario of a recording, tuned, in ``out``."""
    with open(file, "rb") as stream:
        fitted = estimate.fit(stream, file.name, cpu="zen4", preemption=preemption, all_strategies=True)
    writing.write(fitted, out, force=True)
    return tuning.tune(fitted, out, 1)


def of_a_host(name: str, folder: Path, seconds: float) -> tuple[list[fitness.Compared], list[fitness.Compared]]:
    """The twin of a simulated host against that host with other random numbers, and against its recording of that
    length.
    """
    cpus, preemption, host, text = HOSTS[name]
    scenario, run = folder / "host.toml", folder / "run.txt"
    run_ms = {"measure": round(1000 * seconds) - WARMUP_MS, "warmup": WARMUP_MS}
    scenario.write_text(HEAD.format(name=name, cpus=cpus, preemption=preemption, host=host, **run_ms) + text)
    command = ["export", str(scenario), "-o", str(run), "--strategy", "xstate-guest", "--force"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    lines = (line for line in run.open() if not line.startswith("# fpswitch "))
    run.write_text("".join(lines).replace("rcu_preempt/0", "rcu_preempt"))
    fitted = tuned(run, folder / "twin.toml", preemption)
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
