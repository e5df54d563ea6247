"""Numbers as people read them: three digits and k, M or G."""

import math


def si(value: float, digits: int = 3, sign: str = "") -> str:
    """Six characters or fewer with three digits, with a sign seven; k, M, G, T are powers of a thousand."""
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
