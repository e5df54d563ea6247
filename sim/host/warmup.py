"""How long a simulated host runs before it is measured.

The rule for ``warmup = "auto"``: the longest of

- ten rounds of the scheduler, where a round is a base slice, or a tick if that is longer, for each thread of a CPU,
  which makes 10 ms at the least, since no tick is shorter than 1 ms;
- ten times the longest mean of what threads and guests wait or compute between two interactions (a sleep, the time
  between requests, a request's demand, a burst of computing),

but not more than the measurement takes.  After that the queues, the caches' state of each fpstate, the poll windows and
the lag of each thread do not depend on the start any more, which tests check by doubling it.
"""

from typing import Final

from sim.scenario.cases import Case

ROUNDS: Final = 10


def warmup_seconds(case: Case) -> float:
    """Simulated time before the measurement, in seconds."""
    scenario = case.scenario
    if scenario.run.warmup != "auto":
        return scenario.run.warmup
    host = scenario.host
    threads = sum(guest.vms * guest.vcpus for guest in scenario.guests.values())
    threads += sum(thread.count * (2 if thread.kind == "pipe" else 1) for thread in scenario.threads.values())
    assert host.base_slice is not None, "cases are complete"
    scheduling = max(host.base_slice, 1 / host.hz) * -(-threads // host.cpus)
    waits = [
        times.mean
        for guest in scenario.guests.values()
        for times in (guest.demand, guest.arrivals, guest.sleep)
        if times is not None
    ]
    waits += [
        times.mean
        for thread in scenario.threads.values()
        for times in (thread.compute, thread.sleep)
        if times is not None
    ]
    return min(max(ROUNDS * scheduling, ROUNDS * max(waits, default=0.0)), scenario.run.measure)
