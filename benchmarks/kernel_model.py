"""What a context switch costs the kernel model, as a ratio to one bare SimPy timeout measured in the same run.

Two user threads alternate on one CPU: schedule(), return_to_user(), and the thread writes two components; with the
ledger and the integrity check.  Machines are noisy, so both are timed in turn, in CPU time and in short pieces, and the
median ratio counts.
"""

import sys
from statistics import median
from time import process_time

import simpy

from sim.kernel import process
from sim.kernel.config import Settings, boot
from sim.kernel.kernel import Kernel
from sim.xsave.components import AVX, SSE

LIMIT = 5.0
ROUNDS = 75
SWITCHES = 4_000


def timeout_seconds(events: int) -> float:
    """Seconds of CPU time per bare ``yield env.timeout(1)``."""
    environment = simpy.Environment()

    def process_() -> simpy.events.ProcessGenerator:
        while True:
            yield environment.timeout(1)

    environment.process(process_())
    start = process_time()
    environment.run(until=events)
    return (process_time() - start) / events


def switch_seconds(settings: Settings, switches: int, integrity: bool = True) -> float:
    """Seconds of CPU time per context switch between two user threads that write SSE and AVX."""
    k = Kernel(boot(settings), integrity=integrity)
    cpu = k.cpus[0]
    tasks = [k.new_task("A"), k.new_task("B")]
    schedule, return_to_user, user_writes = process.schedule, process.return_to_user, process.user_writes
    start = process_time()
    for _ in range(switches // 2):
        for task in tasks:
            schedule(k, cpu, task)
            return_to_user(k, cpu)
            user_writes(k, cpu, SSE | AVX)
    cpu.ledger.fold()
    seconds = (process_time() - start) / switches
    assert cpu.ledger.count("XSAVES") == switches - 1, "the benchmark does not switch"
    return seconds


def main() -> int:
    """Prints the ratios; exit status 1 if one is over the limit."""
    over = False
    for cpu in ("sapphire-rapids", "zen4"):
        settings = Settings(cpu=cpu)
        timeouts, switches, unchecked = [], [], []
        for _ in range(ROUNDS):
            timeouts.append(timeout_seconds(SWITCHES))
            switches.append(switch_seconds(settings, SWITCHES))
            unchecked.append(switch_seconds(settings, SWITCHES, integrity=False))
        ratio = median(s / t for s, t in zip(switches, timeouts, strict=True))
        check = median(s / u - 1 for s, u in zip(switches, unchecked, strict=True))
        over |= ratio >= LIMIT
        print(
            f"{cpu}: a context switch takes {ratio:.2f} times a bare SimPy timeout (limit {LIMIT:g}; "
            f"{median(switches) * 1e6:.2f} us and {median(timeouts) * 1e6:.2f} us); "
            f"the integrity check is {check:.0%} of it"
        )
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
