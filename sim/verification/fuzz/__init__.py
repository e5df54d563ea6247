"""Damaged inputs for every reader: each must be read, or refused with one short message.

:mod:`~sim.verification.fuzz.readers` says what the readers are, :mod:`~sim.verification.fuzz.mutation` damages
what they read, :mod:`~sim.verification.fuzz.trying` tries it, guided by the coverage of the code if atheris is
installed, and :mod:`~sim.verification.fuzz.judging` runs a command in a process with limits and says what it did wrong.
"""

from sim.verification.fuzz.campaign import Found, campaign
from sim.verification.fuzz.readers import READERS

__all__ = ["READERS", "Found", "campaign"]
