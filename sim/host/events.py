"""What CPUs and timers ask of a CPU, and when."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import simpy

from sim.host.clock import Clock

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu


class Work(NamedTuple):
    """What another CPU or a timer asks of a CPU: an interrupt with these cycles, then ``action``.

    ``call``: a call_function_single() of another CPU is served in it; ``action`` may have more to do in it.
    """

    interrupt: int
    wakeup: int = 0
    action: Callable[["HostCpu"], "Work | None"] | None = None
    call: bool = False


class Until(simpy.Event):
    """An event at a given time; of those at the same time, the one with the lower priority comes first."""

    def __init__(self, env: Clock, at: int, priority: int) -> None:
        # As simpy.Timeout does it, without the call of Event.__init__().
        self.env = env
        self.callbacks = []
        self._value = None
        self._ok = True
        env.schedule(self, priority, at - env.now)  # type: ignore[arg-type]  # simpy's priorities are any integers
