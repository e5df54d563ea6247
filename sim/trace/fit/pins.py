"""On which CPU a thread of a trace stays in the simulated host, which moves none between busy CPUs."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from sim.trace.fit.families import LONG_NS, series
from sim.trace.fit.thread_times import Life

Places = dict[int, tuple[int, ...]]
"""By id() of a thread, the CPU to which it is pinned; empty: any."""

ENOUGH_STINTS: Final = 5
"""A thread with this many stints on one CPU and none on another counts as pinned, or with this many times LONG_NS of
longer ones."""
MAINLY: Final = 0.85
"""A thread with this share of its CPU time on one CPU, or more, belongs there."""
WHOLE: Final = 0.95
"""A thread that is there for this share of the trace, or more, counts as there all the time."""
IDLE: Final = 0.02
"""The share of idle time below which CPUs count as never idle."""

_ON_A_CPU: Final = re.compile(r"/(\d+)(?!\d)")
"""Of a per-CPU kernel thread, as ksoftirqd/1 and kworker/1:0; the number in irq/25-nvme is no CPU."""


def pins(lives: Sequence[Life], idle: float) -> Places:
    """Threads that were always on one CPU are pinned to it.

    If CPUs are never idle, all threads that ran often enough are pinned: the simulated host moves none between busy
    CPUs, so a thread would stay where it begins.  Threads of short bursts go to the CPU on which they were most often.
    Busy threads that moved go, the busiest first, where the time that the trace shows of each CPU, and on it of threads
    of their name, is not used up.  A thread that came or went within the trace is not pinned: where it goes depends on
    which CPU is idle then.
    """
    found = {id(life): _always(life) for life in lives}
    if idle > IDLE:
        return found
    left: Counter[int] = Counter()
    of_series: dict[str, Counter[int]] = defaultdict(Counter)
    first, last = min((life.first_ns for life in lives), default=0), max((life.last_ns for life in lives), default=0)
    for life in lives:
        left.update(life.at_ns)
        of_series[series(life.name)].update(life.at_ns)
    moved = []
    for life in sorted(lives, key=lambda life: -life.at_ns.total()):
        total = life.at_ns.total()
        if not found[id(life)] and is_enough(life):
            cpu, ns = life.at_ns.most_common(1)[0]
            if total < LONG_NS * len(life.bursts):
                found[id(life)] = (life.cpus.most_common(1)[0][0],)
            elif ns >= MAINLY * total:
                found[id(life)] = (cpu,)
            elif has_moved(life, first, last):
                moved.append(life)
        for cpu in found[id(life)]:
            left[cpu] -= total
            of_series[series(life.name)][cpu] -= total
    for life in moved:
        alike = of_series[series(life.name)]
        cpu = max(life.at_ns, key=lambda each: left[each] + alike[each])
        found[id(life)] = (cpu,)
        left[cpu] -= life.at_ns.total()
        alike[cpu] -= life.at_ns.total()
    return found


def has_moved(life: Life, first_ns: int, last_ns: int) -> bool:
    """Whether it is a busy thread that was there for all of the trace, and on several CPUs for much of the time."""
    if not life.at_ns or _always(life) or not is_enough(life):
        return False
    total, most = life.at_ns.total(), max(life.at_ns.values())
    is_whole = life.last_ns - life.first_ns >= WHOLE * (last_ns - first_ns)
    return is_whole and total >= LONG_NS * len(life.bursts) and most < MAINLY * total


def is_enough(life: Life) -> bool:
    """Whether it ran often enough, or long enough, to show where it belongs."""
    return max(life.cpus.total(), life.at_ns.total() // LONG_NS) >= ENOUGH_STINTS


def _always(life: Life) -> tuple[int, ...]:
    if not life.user and (match := _ON_A_CPU.search(life.name)) and set(life.cpus) == {int(match[1])}:
        return (int(match[1]),)
    return tuple(life.cpus) if len(life.cpus) == 1 and is_enough(life) else ()
