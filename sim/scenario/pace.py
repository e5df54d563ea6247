"""What is too fast to be simulated: events that follow each other in less time than any machine needs for one."""

from collections.abc import Iterator
from typing import Final

from sim.scenario.distribution import Distribution
from sim.scenario.schema import Scenario
from sim.scenario.units import rate_text, time_text

SHORTEST: Final = 100e-9
"""Seconds between two events of a kind, at least, on average.

It is less than an interrupt, a context switch or a VM exit takes on any of the CPUs.  Where nothing that the cost table
has comes between two, the model would need as many steps as there are, and with fewer cycles than one it would stand.
"""

Problem = tuple[str, str]


def problems(scenario: Scenario, tsc_hz: float) -> Iterator[Problem]:
    """All that comes too fast on a CPU with this TSC, each with its path."""
    least = max(SHORTEST, 1 / tsc_hz)
    for path, times in _gaps(scenario):
        if times.mean < least:
            yield path, f"found {_mean_text(times)}; allowed: {_least_text(least)} or more from one to the next"
    for name, thread in scenario.threads.items():
        burst = thread.compute.mean + thread.syscall.mean
        if thread.sleep is None and burst < least:
            yield (
                f"threads.{name}.compute",
                f"found {time_text(burst)} a burst, with syscall; allowed: {_least_text(least)} or more without sleep",
            )


def _gaps(scenario: Scenario) -> Iterator[tuple[str, Distribution]]:
    for name, interrupt in scenario.interrupts.items():
        yield f"interrupts.{name}.every", interrupt.every
    for name, guest in scenario.guests.items():
        where = f"guests.{name}"
        for path, times in (
            (f"{where}.arrivals", guest.arrivals),
            (f"{where}.task_switch", guest.task_switch),
            (f"{where}.fpu.every", guest.fpu.every),
            *((f"{where}.exits.{kind}.every", each.every) for kind, each in guest.exits.items()),
        ):
            if times is not None:
                yield path, times


def _mean_text(times: Distribution) -> str:
    return repr(time_text(times.mean)) if times.kind == "constant" else f"a mean of {time_text(times.mean)}"


def _least_text(least: float) -> str:
    return f"{time_text(least)} ({rate_text(round(1 / least))})"
