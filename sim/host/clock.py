"""Simulated time: SimPy's, in whole TSC cycles."""

from typing import TYPE_CHECKING

import simpy

if TYPE_CHECKING:

    class Clock(simpy.Environment):
        """An environment whose time is an integer."""

        @property
        def now(self) -> int:
            """TSC cycles since the simulation began."""
            ...

else:
    Clock = simpy.Environment  # a subclass would be slower
