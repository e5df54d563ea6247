"""The tick of a recorded host: its period and phase, and which threads are woken at ticks.

A timer of the timer wheel (schedule_timeout()) expires at a tick, an hrtimer does not.  It matters, since the running
thread's slice ends at ticks, too: which of the two threads has the registers afterwards depends on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOW: Final = 0.05
"""The part of a period, after a tick, in which the tick's effects are seen."""
MOST: Final = 0.9
"""The least share of a thread's wake-ups in that part if its timers are those of the timer wheel."""
MAINLY: Final = 0.5
"""The same of a kernel thread: works are also queued between ticks (queue_work()), and a kworker that does these and
delayed ones has one kind of sleep here."""
TICKS_HZ: Final = (100, 250, 300, 1000)
WITNESSES: Final = ("rcu_preempt", "rcu_sched")
"""Kernel threads whose sleeps are timers of the timer wheel: rcu_gp_fqs_loop(), kernel/rcu/tree.c, Linux v6.18."""


EXPIRED: Final = 15
"""Slices that end at ticks, beyond those that do so by chance, from which on these tell CONFIG_HZ."""
FULLEST: Final = 3.0
"""Standard deviations by which the fullest window exceeds the mean if all is chance: 2.7 to 3.1 with 5 to 2,000."""
SPAN_NS: Final = 5_000_000_000
"""For longer, the clock of a trace and the one by which ticks are set may part by a window."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """Ticks come ``hz`` times a second; their effects are seen within a window from ``phase_ns`` of a period on."""

    hz: int
    phase_ns: float

    @property
    def period_ns(self) -> float:
        """Between two ticks."""
        return 1e9 / self.hz

    def wake(self, at_ns: ArrayLike, least: float = MOST) -> bool:
        """Whether at least this share of wake-ups at these times are those of a tick."""
        since = (np.asarray(at_ns, np.float64) - self.phase_ns) % self.period_ns
        return bool(since.size) and bool((since < WINDOW * self.period_ns).mean() >= least)


def config_hz(expired_ns: Iterable[ArrayLike]) -> int | None:
    """The lowest CONFIG_HZ in whose period slices end at one time, by when they did on each CPU; None: too few do.

    At a multiple of it they would do so, too, and at other rates at several times.  Some are in a window by chance.
    """
    ends = [np.asarray(each, np.float64) for each in expired_ns]
    ends = [each[each < each[0] + SPAN_NS] for each in ends if len(each)]
    by_chance = sum(WINDOW * len(each) + FULLEST * sqrt(WINDOW * len(each)) for each in ends)
    beyond_chance = {
        hz: sum(int(_inside(each % (1e9 / hz), 1e9 / hz)[2].max()) for each in ends) - by_chance for hz in TICKS_HZ
    }
    most = max(beyond_chance.values())
    return None if most < EXPIRED else next(hz for hz in TICKS_HZ if beyond_chance[hz] >= most / 2)


def _inside(
    phases: NDArray[np.float64], period: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The phases in order, with those of the next period behind them, and how many are in the window from each on."""
    phases = np.sort(phases)
    twice = np.concatenate((phases, phases + period))
    return phases, twice, np.searchsorted(twice, phases + WINDOW * period) - np.arange(len(phases))


def ticks(woken_ns: ArrayLike) -> Ticks | None:
    """The tick, by the wake-ups of one of the WITNESSES: the lowest CONFIG_HZ at which they come in one window.

    None if they come in none.
    """
    at = np.asarray(woken_ns, np.float64)
    for hz in TICKS_HZ:
        period = 1e9 / hz
        phases, twice, inside = _inside(at % period, period)
        best = int(inside.argmax())
        if inside[best] >= MOST * len(phases):
            middle = (phases[best] + twice[best + inside[best] - 1]) / 2
            found = Ticks(hz, float(middle) - WINDOW * period / 2)
            return found if found.wake(at) else None
    return None
