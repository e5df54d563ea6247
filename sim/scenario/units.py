"""Quantities as people write them: times, rates, sizes and flows, each with its unit.

A number is read and written in decimal, so that what a file says is what the model has: ``33.3 us`` is the double that
is nearest to 33.3e-6, and :func:`time_text` writes that double as ``33.3 us`` again.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

TIMES: Final = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "min": Decimal(60),
}
RATES: Final = {"/s": Decimal(1), "Hz": Decimal(1), "kHz": Decimal(1000), "MHz": Decimal(10**6), "GHz": Decimal(10**9)}
SIZES: Final = {"B": Decimal(1), "KiB": Decimal(1 << 10), "MiB": Decimal(1 << 20), "GiB": Decimal(1 << 30)}
PERCENT: Final = {"%": Decimal("0.01")}
FLOWS: Final = {f"{unit}/s": worth for unit, worth in SIZES.items()} | {
    "kB/s": Decimal(1000),
    "MB/s": Decimal(10**6),
    "GB/s": Decimal(10**9),
}

KINDS: Final = (TIMES, RATES, SIZES, FLOWS)

MOST_TIME: Final = 3600.0
"""Seconds.  No time of a scenario is longer."""

NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?"
_QUANTITY = re.compile(rf"({NUMBER}) *([A-Za-z/%]+)", re.ASCII)

FROM_FILE: Final = "from a file"
"""Key of a validation context that says so: a bare number is refused there.  Python code may give one in SI units."""


def pattern(units: Mapping[str, Decimal]) -> str:
    """The regular expression, as JSON Schema has it, of a quantity in one of these units."""
    return f"^{NUMBER} *({'|'.join(units)})$"


def exchanged(unit: str, other: str) -> Decimal | None:
    """How much of another unit is one of this; None if they are of different kinds."""
    if unit == other:
        return Decimal(1)
    return next((units[unit] / units[other] for units in KINDS if unit in units and other in units), None)


def is_in(text: Any, units: Mapping[str, Decimal]) -> bool:
    """Whether this is a quantity in one of these units."""
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    return match is not None and match[2] in units


def parsed(text: Any, what: str, units: Mapping[str, Decimal], example: str, most: float) -> float:
    """The quantity in SI units; ValueError says what is allowed instead."""
    if not is_in(text, units):
        raise ValueError(f"{what} like {example!r} (units: {', '.join(units)})")
    match = _QUANTITY.fullmatch(text)
    assert match
    value = float(Decimal(match[1]) * units[match[2]])
    if value > most:
        raise ValueError(f"{what} of at most {written(most, units)}")
    return value


def written(value: float, units: Mapping[str, Decimal]) -> str:
    """The value in the largest unit in which it is 1 or more and needs no more digits than in the smallest."""
    exact = Decimal(repr(value))
    best = ""
    for unit, worth in sorted(units.items(), key=lambda each: each[1]):
        number = exact / worth
        text = f"{number.normalize():f} {unit}"
        if number * worth == exact and (not best or (number >= 1 and len(text) <= len(best) + 2)):
            best = text
    return best


def time_text(seconds: float) -> str:
    """A time as a scenario would have it."""
    return written(seconds, {unit: worth for unit, worth in TIMES.items() if unit != "min"})


def rate_text(hertz: float) -> str:
    """A rate as a scenario would have it."""
    return written(hertz, {unit: worth for unit, worth in RATES.items() if unit != "/s"})


def size_text(size: float) -> str:
    """A size as a scenario would have it."""
    return written(size, SIZES)


def flow_text(flow: float) -> str:
    """Bytes per second as a scenario would have it."""
    return written(flow, {unit: worth for unit, worth in FLOWS.items() if "i" not in unit})


def percent_text(share: float) -> str:
    """A share as a scenario would have it."""
    return written(share, PERCENT)


def parsed_time(text: str) -> float:
    """A time in seconds."""
    return parsed(text, "a time", TIMES, "2 ms", MOST_TIME)


def parsed_rate(text: str) -> float:
    """A rate per second, not 0."""
    rate = parsed(text, "a rate", RATES, "20 kHz", 1e12)
    if rate == 0:
        raise ValueError("a rate above 0")
    return rate


def _quantity(parse: Callable[[Any], float]) -> BeforeValidator:
    def validate(text: Any, info: ValidationInfo) -> float:
        number = isinstance(text, int | float) and not isinstance(text, bool)
        if number and not (info.context or {}).get(FROM_FILE) and text >= 0:
            return float(text)
        return parse(text)

    return BeforeValidator(validate)


def _parsed_size(text: Any) -> float:
    return parsed(text, "a size", SIZES, "48 KiB", float(1 << 40))


def _parsed_flow(text: Any) -> float:
    return parsed(text, "a flow", FLOWS, "1 GB/s", 1e12)


def _parsed_percent(text: Any) -> float:
    return parsed(text, "a share", PERCENT, "2 %", 1.0)


def _schema(units: Mapping[str, Decimal], example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern(units), "examples": [example]})


Time = Annotated[float, _quantity(parsed_time), PlainSerializer(time_text), _schema(TIMES, "2 ms")]
"""Seconds."""
Rate = Annotated[float, _quantity(parsed_rate), PlainSerializer(rate_text), _schema(RATES, "20 kHz")]
"""Events or cycles per second."""
Size = Annotated[float, _quantity(_parsed_size), PlainSerializer(size_text), _schema(SIZES, "48 KiB")]
"""Bytes."""
Flow = Annotated[float, _quantity(_parsed_flow), PlainSerializer(flow_text), _schema(FLOWS, "1 GB/s")]
"""Bytes per second."""
Percent = Annotated[float, _quantity(_parsed_percent), PlainSerializer(percent_text), _schema(PERCENT, "2 %")]
"""A share, 1 at most."""
