"""Runs that are killed again and again: they must not lose what was finished, and must end with the same bytes.

:mod:`~sim.verification.kill.here` kills drivers and processes on this machine at random moments;
:mod:`~sim.verification.kill.cluster` does to a Dask cluster what happens in practice: each part dies, a network is cut,
and workers are slow or late.
"""

from sim.verification.kill.cluster import Event, events
from sim.verification.kill.here import Campaign, campaign

__all__ = ["Campaign", "Event", "campaign", "events"]
