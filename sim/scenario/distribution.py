"""Distributions of times: constant, exponential, lognormal, and the empirical one of a CSV column."""

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_serializer

from sim import bounded
from sim.errors import unknown
from sim.scenario.units import (
    MOST_TIME,
    RATES,
    TIMES,
    is_in,
    parsed_rate,
    parsed_time,
    pattern,
    time_text,
)

Kind = Literal["constant", "exponential", "lognormal", "empirical"]
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "constant": ("constant",),
    "exponential": ("exponential",),
    "lognormal": ("lognormal", "sigma"),
    "empirical": ("empirical", "column", "unit", "sha256"),
}
"""The keys of a distribution that is written as a table, by its kind."""

MOST_SIGMA: Final = 5.0
"""With more, one sample in a thousand is more than five million times the median."""


class Distribution(BaseModel):
    """A distribution of times, which are in seconds.

    ``mean`` is the arithmetic mean of all kinds: for a lognormal one exp(mu + sigma**2 / 2), so that its median is
    smaller, mean * exp(-sigma**2 / 2).  ``sigma`` is the standard deviation of the logarithm (lognormal only).
    ``values`` are the samples of an empirical one, each as likely as the next; ``source``, ``column``, ``unit`` and
    ``sha256`` say from where they were read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    mean: float
    sigma: float = 0.0
    values: tuple[float, ...] = ()
    source: str = ""
    column: str = ""
    unit: str = ""
    sha256: str = ""

    @property
    def mu(self) -> float:
        """The mean of the logarithm of seconds (lognormal only)."""
        return math.log(self.mean) - self.sigma**2 / 2

    @model_serializer
    def _as_written(self) -> Any:
        if self.kind == "constant":
            return time_text(self.mean)
        if self.kind == "exponential":
            return {"exponential": time_text(self.mean)}
        if self.kind == "lognormal":
            return {"lognormal": time_text(self.mean), "sigma": self.sigma}
        return {"empirical": self.source, "column": self.column, "unit": self.unit, "sha256": self.sha256}


def is_distribution(table: Mapping[str, Any]) -> bool:
    """Whether a table of a scenario file is a distribution, and not a table of keys."""
    return any(kind in table for kind in KEYS)


def _from_table(table: Mapping[str, Any]) -> Distribution:
    kinds = [kind for kind in KEYS if kind in table]
    if not kinds:
        wrong = next(iter(table), "")
        raise ValueError(str(unknown("distribution", str(wrong), KEYS)))
    if len(kinds) > 1:
        raise ValueError(f"one of {', '.join(kinds)}")
    kind = kinds[0]
    for key in table:
        if key not in KEYS[kind]:
            raise ValueError(str(unknown("key", str(key), KEYS[kind])) + f" with {kind}")
    if kind == "empirical":
        return _empirical(table)
    try:
        mean = parsed_time(table[kind])
    except ValueError as error:
        raise ValueError(f"{kind} = {error}") from error
    if kind == "constant":
        return Distribution(kind="constant", mean=mean)
    if kind == "exponential":
        return Distribution(kind="exponential", mean=mean)
    sigma = table.get("sigma")
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma <= MOST_SIGMA:
        raise ValueError(
            f"lognormal with sigma, the standard deviation of the logarithm: a number above 0, up to {MOST_SIGMA:g}"
        )
    if mean == 0:
        raise ValueError("lognormal with a mean above 0")
    return Distribution(kind="lognormal", mean=mean, sigma=float(sigma))


def _empirical(table: Mapping[str, Any]) -> Distribution:
    for key in KEYS["empirical"]:
        if key != "sha256" and key not in table:
            raise ValueError(f"empirical with {key}: {{empirical = 'FILE.csv', column = 'NAME', unit = 'us'}}")
        if not isinstance(table.get(key, ""), str):
            raise ValueError(f"empirical with {key} as a text in quotes")
    source, column, unit = table["empirical"], table["column"], table["unit"]
    if unit not in TIMES:
        raise ValueError(str(unknown("unit", unit, TIMES)))
    try:
        content = bounded.content(source)
    except OSError as error:
        raise ValueError(f"a CSV file that can be read; {source}: {error.strerror}") from error
    except ValueError as error:  # too large, or a null character in the name
        raise ValueError(f"a CSV file that can be read; {source}: {error}") from error
    try:
        text = content.decode("utf-8-sig")
    except ValueError as error:
        raise ValueError(f"a CSV file of UTF-8 text, which {source} is not") from error
    digest = hashlib.sha256(content).hexdigest()
    if table.get("sha256", digest) != digest:
        raise ValueError(f"the file with that sha256; that of {source} is {digest}")
    values = tuple(_column(text.splitlines(), source, column, float(TIMES[unit])))
    return Distribution(
        kind="empirical",
        mean=math.fsum(values) / len(values),
        values=values,
        source=source,
        column=column,
        unit=unit,
        sha256=digest,
    )


def _column(lines: Iterable[str], source: str, column: str, unit: float) -> Iterable[float]:
    """The samples in seconds."""
    reader = csv.DictReader(lines, strict=True)
    try:
        names = list(reader.fieldnames or ())
        if column not in names:
            raise ValueError(f"a column of {source}; {unknown('column', column, names)}")
        if names.count(column) > 1:
            raise ValueError(f"a column that is there once; {source} has {names.count(column)} called {column!r}")
        found = 0
        for row in reader:
            yield _sample(row[column], f"{source}:{reader.line_num}", unit)
            found += 1
    except csv.Error as error:
        raise ValueError(f"a CSV file, which {source}:{reader.line_num} is not ({error})") from error
    if not found:
        raise ValueError(f"samples in {source}, which has none below its header")


def _sample(text: str | None, where: str, unit: float) -> float:
    try:
        value = float(text or "") * unit
    except ValueError as error:
        raise ValueError(f"numbers in the column; {where} has {text or 'nothing'!r}") from error
    if not 0 <= value <= MOST_TIME:  # NaN is neither
        raise ValueError(f"numbers from 0 to {time_text(MOST_TIME)} in the column; {where} has {text!r}")
    return value


def _parser(rates: bool) -> Callable[[Any], Distribution]:
    def parse(written: Any) -> Distribution:
        if isinstance(written, Mapping):
            return _from_table(written)
        if rates and is_in(written, RATES):
            return Distribution(kind="exponential", mean=1 / parsed_rate(written))
        if is_in(written, RATES):
            raise ValueError("a time like '2 ms', since a rate has no meaning here")
        if not isinstance(written, str) or not is_in(written, TIMES):
            also = ", a rate like '20 kHz' (then exponential)" if rates else ""
            raise ValueError(
                f"a time like '2 ms' (units: {', '.join(TIMES)}){also} or a table like {{exponential = '2 ms'}} "
                f"(kinds: {', '.join(KEYS)})"
            )
        return Distribution(kind="constant", mean=parsed_time(written))

    return parse


_TIME: Final = {"type": "string", "pattern": pattern(TIMES)}
_TABLES: Final = [
    {"type": "object", "properties": {kind: _TIME}, "required": [kind], "additionalProperties": False}
    for kind in ("constant", "exponential")
] + [
    {
        "type": "object",
        "properties": {
            "lognormal": _TIME | {"description": "the arithmetic mean"},
            "sigma": {
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": MOST_SIGMA,
                "description": "standard deviation of the logarithm",
            },
        },
        "required": ["lognormal", "sigma"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "empirical": {"type": "string", "description": "a CSV file, relative to this file"},
            "column": {"type": "string", "description": "the column with the samples"},
            "unit": {"enum": list(TIMES), "description": "what its numbers are in"},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "of the file, if it must be that"},
        },
        "required": ["empirical", "column", "unit"],
        "additionalProperties": False,
    },
]

Times = Annotated[
    Distribution,
    BeforeValidator(_parser(rates=False)),
    WithJsonSchema({"anyOf": [_TIME | {"examples": ["2 ms"]}, *_TABLES]}),
]
"""Durations: a time, or a table with the kind as its key."""
Intervals = Annotated[
    Distribution,
    BeforeValidator(_parser(rates=True)),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": pattern({**TIMES, **RATES}), "examples": ["20 kHz"]}, *_TABLES]}
    ),
]
"""Times between events: also a rate, which makes them exponential with its inverse as their mean."""
