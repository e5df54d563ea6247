"""What queueing theory says about a host.

Machine repairman (M/M/c//N): N threads each sleep and then want a CPU, of which there are c.  With exponential times
the order of service does not matter (Kleinrock, Queueing Systems vol. 1, 1975, sec. 3.8 and 3.10).  With one CPU that
all who want it share equally, the law of the times does not matter either, only their means (Baskett, Chandy, Muntz
and Palacios, J. ACM 22(2), 1975, pp. 248-260): the formula is the same.  A queue with Poisson arrivals that has its
server to itself (M/G/1) begins arrivals x (1 - utilisation) busy periods per second, whatever its service times are.
"""

from math import inf
from typing import NamedTuple


class Repairman(NamedTuple):
    """The steady state: shares between 0 and 1, completions per second, and times in seconds."""

    utilisation: float
    throughput_hz: float
    response_s: float


def repairman(cpus: int, sources: int, service_s: float, sleep_s: float) -> Repairman:
    """M/M/c//N with these means."""
    weights = [1.0]
    for wanting in range(1, sources + 1):
        arrivals, services = (sources - wanting + 1) / sleep_s, min(wanting, cpus) / service_s
        weights.append(weights[-1] * arrivals / services)
    busy = sum(min(wanting, cpus) * weight for wanting, weight in enumerate(weights)) / sum(weights)
    throughput = busy / service_s
    return Repairman(busy / cpus, throughput, sources / throughput - sleep_s if throughput else inf)


def busy_periods_hz(arrivals_hz: float, service_s: float) -> float:
    """How many busy periods of an M/G/1 queue begin per second; 0 if the server is always busy."""
    return max(0.0, arrivals_hz * (1 - arrivals_hz * service_s))


def share(weights: tuple[float, ...]) -> float:
    """The share of a CPU, shared by weight, of the first of several that always run."""
    return weights[0] / sum(weights)
