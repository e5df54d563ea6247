"""A busy thread that was moved between CPUs, as one thread for each CPU: busy while it was there, else asleep.

The simulated host moves no thread between busy CPUs, and which CPU a busy thread is on makes a difference to all that
run there.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from sim.trace.fit.families import LONG_NS
from sim.trace.fit.pins import IDLE, has_moved, is_enough
from sim.trace.fit.thread_times import Burst, Bursts, Life

Parts = dict[int, list[Life]]
"""By id() of a thread that was moved, what stands for it on each CPU."""


def parts(lives: Sequence[Life], idle: float) -> Parts:
    """All threads that were moved between CPUs that are never idle; none if one of them cannot be cut.

    Who is moved follows from who else is there: beside a vCPU, say, that stays where it begins, the stays of another
    thread would meet a load that was elsewhere then.
    """
    if idle > IDLE:
        return {}
    first, last = min((life.first_ns for life in lives), default=0), max((life.last_ns for life in lives), default=0)
    found = {}
    for life in lives:
        if has_moved(life, first, last):
            split = _by_cpu(life)
            if not _can_be_cut(life, split):
                return {}
            found[id(life)] = split
    return found


def _can_be_cut(life: Life, split: Sequence[Life]) -> bool:
    """Whether nothing of it is lost, and its stays take several slices.

    A stay makes a wake-up and a sleep in the twin that the host did not have: of short ones these would be many.
    """
    if life.vcpu is not None or any(burst.forks for burst in life.bursts):
        return False
    return all(is_enough(each) and each.at_ns.total() >= LONG_NS * len(each.bursts) for each in split)


def _by_cpu(life: Life) -> list[Life]:
    """Its bursts, cut where it moved."""
    moves = [life.moves[i : i + 4] for i in range(0, len(life.moves), 4)]
    found: dict[int, Bursts] = defaultdict(Bursts)
    on_ns = stints = number = 0
    cpu = moves[0][0]
    for burst in life.bursts:
        begin, end_on, end_stints = burst.ready_ns, on_ns + burst.on_ns, stints + burst.stints
        while True:
            moved = number < len(moves) and moves[number][1] < burst.end_ns
            to, end, then_on, then_stints = moves[number] if moved else (cpu, burst.end_ns, end_on, end_stints)
            if then_on > on_ns:  # else it was moved while it waited for its first stint
                wakes = round(burst.wakes * (then_on - on_ns) / burst.on_ns)
                ran = Burst(begin, end, then_on - on_ns, max(1, then_stints - stints), wakes, 0, burst.waker)
                found[cpu].append(ran)
                begin, on_ns, stints = end, then_on, then_stints
            cpu = to
            if not moved:
                break
            number += 1
    return [
        replace(life, bursts=bursts, cpus=Counter({each: life.cpus[each]}), at_ns=Counter({each: life.at_ns[each]}))
        for each, bursts in found.items()
    ]
