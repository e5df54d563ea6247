"""Student's t distribution: scipy.stats has it, too, but takes half a second longer to import than scipy.special."""

from typing import Any

from scipy.special import stdtr, stdtrit


def quantile(p: Any, degrees: Any) -> Any:
    """The value below which t is with probability ``p``; NaN for no degrees of freedom.  Numbers or arrays of them."""
    return stdtrit(degrees, p)


def upper_tail(t: Any, degrees: Any) -> Any:
    """The probability of more than ``t``; NaN for no degrees of freedom.  Numbers or arrays of them."""
    return stdtr(degrees, -t)
