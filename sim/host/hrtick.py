"""HRTICK: a timer that ends a slice when it is over, and not at the next tick.

Source: kernel/sched/core.c hrtick(), hrtick_start(), hrtick_needs_rearm(), hrtick_schedule_exit(); kernel/sched/fair.c
hrtick_start_fair(), hrtick_update(), entity_tick(); Linux v7.3.
"""

from typing import Final

from sim.host.exits import INF

LEAST_S: Final = 10e-6
"""The shortest time for which the timer is started, in seconds."""
SLACK_S: Final = 5e-6
"""A timer that is due within this many seconds of the new time is left as it is."""


class Hrtick:
    """The hrtick_timer of one CPU; ``time`` is when it is due, far beyond every simulation if it is not started.

    ``asked``: another CPU's IPI to start it is on its way.  Times are in TSC cycles; ``least`` and ``slack`` are
    :data:`LEAST_S` and :data:`SLACK_S`.
    """

    __slots__ = ("_least", "_slack", "asked", "enabled", "time")

    def __init__(self, enabled: bool, least: int, slack: int) -> None:
        self.enabled = enabled
        self.asked = False
        self.time = INF
        self._least = least
        self._slack = slack

    def due_after(self, now: int, delay: int) -> int:
        """When a timer for ``delay`` from now is due; one that is started already and due at about that time stays."""
        at = now + max(delay, self._least)
        return self.time if abs(at - self.time) <= self._slack else at

    def stop(self) -> None:
        """It has expired, or the CPU goes idle."""
        self.time = INF
