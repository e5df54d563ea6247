"""Numbers as people read them: three digits and k, M or G."""

import math
from typing import Final

LEAST_PERCENT: Final = 0.0001


def si(value: float, digits: int = 3, sign: str = "") -> str:
    """At most six characters with three digits, seven with a sign; k, M, G, T are powers of a thousand."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    size = 0
    while size < 4 and float(f"{abs(value):.{digits}g}") >= 1000:
        value /= 1000
        size += 1
    decimals = max(digits - 1 - max(math.floor(math.log10(abs(value))), 0), 0)
    shown = f"{value:{sign}.{decimals}f}"
    return shown + ("", "k", "M", "G", "T")[size]


def fixed(value: float, decimals: int) -> str:
    """A number with this many decimals, of which zero has no sign; a missing one is a dash."""
    return f"{value:z.{decimals}f}" if math.isfinite(value) else "-"


def with_half(mean: float, half: float) -> str:
    """A mean and half its interval, rounded to the first digit of the latter: "5.0 +- 0.3".

    Without an interval, the mean has three digits.
    """
    if not math.isfinite(mean):
        return "-"
    if half == 0 or not math.isfinite(half):
        return three_digits(mean)
    decimals = max(0, -math.floor(math.log10(half)))
    return f"{mean:z.{decimals}f} +- {half:.{decimals}f}"


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent if that fits."""
    if value == 0 or not math.isfinite(value):
        return fixed(value, 0)
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:z.{min(max(decimals, 0), 6)}f}"


def percent(value: float) -> str:
    """A share in %, to two digits: "0.037"."""
    if not math.isfinite(value) or value == 0:
        return fixed(value, 0)
    if abs(value) < LEAST_PERCENT:
        return f"{'-' if value < 0 else ''}<{LEAST_PERCENT:.4f}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"


def spread(low: float, high: float) -> str:
    """A range of cycles: "347k to 836k"."""
    return f"{si(low)} to {si(high)}" if math.isfinite(low) else "-"


def short_spread(low: float, high: float) -> str:
    """A range of cycles for narrow columns: "347k-836k"."""
    if si(low) == si(high):
        return si(low)
    return f"{si(low)}-{si(high)}" if low >= 0 else f"{si(low, 2)}..{si(high, 2)}"


def counted(number: int | str, noun: str) -> str:
    """So many of them; a text may be a range, such as "1 to 4": counted(1, "vCPU") is "1 vCPU"."""
    return f"{number} {noun}{'s' * (str(number) != '1')}"
