"""Designs: points in ranges of a scenario's keys, every combination of levels or spread evenly over all at once.

M. D. McKay, R. J. Beckman, W. J. Conover, Technometrics 21, 1979, pp. 239-245; I. M. Sobol, USSR Comput. Math. Math.
Phys. 7, 1967, pp. 86-112, scrambled by A. B. Owen's method: Latin hypercube and Sobol sampling, both as
:mod:`scipy.stats.qmc` has them.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from itertools import chain, product
from typing import Any, Final

from sim.errors import InputError, unknown
from sim.scenario.explain import keys, path_text, takes_whole
from sim.scenario.sweep import NOT_SWEPT, is_swept
from sim.scenario.units import KINDS as UNITS
from sim.scenario.units import exchanged

LHS: Final = "lhs"
SOBOL: Final = "sobol"
FACTORIAL: Final = "factorial"
KINDS: Final = (LHS, SOBOL, FACTORIAL)
MOST_POINTS: Final = 100_000
_DESIGN: Final = re.compile(r"(\w+):([1-9]\d{0,8})", re.ASCII)
_END: Final = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z/%]*)", re.ASCII)
LOG: Final = " log"
DIGITS: Final = 6
"""Significant digits of a value: what a scenario file would have."""


@dataclass(frozen=True, slots=True)
class Range:
    """Values of the key at ``path`` from ``low`` to ``high``, evenly or by their logarithm; ``unit`` may be empty.

    ``whole``: both ends are whole numbers, the key takes no others, and so all values are.
    """

    path: str
    low: float
    high: float
    unit: str = ""
    log: bool = False
    whole: bool = False

    @classmethod
    def parsed(cls, text: str) -> "Range":
        """``PATH=LOW..HIGH``, followed by "log" for an even spread of the logarithm; :class:`InputError` for anything
        else."""
        name, equals, ends = text.partition("=")
        wrong = InputError(
            f"range {text!r} (allowed: PATH=LOW..HIGH, such as host.cpus=1..64 or guests.web.demand='1 ms..1 s log')"
        )
        ends = ends.strip().strip("'\"")
        low, dots, high = ends.removesuffix(LOG).partition("..")
        found = [_END.fullmatch(each.strip()) for each in (low, high)]
        try:
            path = path_text(keys(name.strip())) if equals else ""
        except ValueError:
            raise wrong from None
        if not (path and dots and found[0] and found[1]):
            raise wrong
        if not is_swept(path):
            raise InputError(f"range {text!r}: {path} is the same at all points (as are {', '.join(NOT_SWEPT)})")
        (a, unit_a), (b, unit_b) = found[0].groups(), found[1].groups()
        unit = unit_a or unit_b
        if others := [each for each in (unit_a, unit_b) if each and not any(each in units for units in UNITS)]:
            known = ", ".join(dict.fromkeys(chain.from_iterable(UNITS)))
            raise InputError(f"range {text!r}: unit {others[0]!r} (allowed: {known}, or none)")
        worth = exchanged(unit_b or unit, unit)
        last = float(Decimal(b) * worth) if worth else math.nan
        if not float(a) < last or not math.isfinite(last):
            raise InputError(
                f"range {text!r}: found {low.strip()} to {high.strip()} (allowed: units of one kind, and low < high)"
            )
        log = ends.endswith(LOG)
        if log and float(a) <= 0:
            raise InputError(f"range {text!r}: log from {a} (allowed: from above 0)")
        whole = not unit and float(a).is_integer() and last.is_integer() and takes_whole(path)
        return cls(path, float(a), last, unit, log, whole)

    def value(self, share: float) -> Any:
        """The value at this fraction (0 to 1) of the range."""
        if self.whole:
            n = math.floor(self._at(share, self.low, self.high + 1))
            return min(n, int(self.high))
        return self._written(share)

    def levels(self, number: int) -> list[Any]:
        """So many values, both ends among them; fewer if there are no more whole ones."""
        shares = [n / (number - 1) for n in range(number)]
        if not self.whole:
            return [self._written(share) for share in shares]
        return list(dict.fromkeys(round(self._at(share, self.low, self.high)) for share in shares))

    def _written(self, share: float) -> Any:
        found = float(f"{self._at(share, self.low, self.high):.{DIGITS}g}")
        return f"{found!r} {self.unit}" if self.unit else found

    def _at(self, share: float, low: float, high: float) -> float:
        return low * (high / low) ** share if self.log else low + (high - low) * share

    def number(self, value: Any) -> float:
        """A value as a number in the range's unit."""
        return float(str(value).split()[0])


@dataclass(frozen=True, slots=True)
class Design:
    """``n`` points by ``kind`` in all ``ranges`` at once; ``seed`` is that of the points, not of the runs.

    A factorial design has this many ``levels`` of each range, which take no seed.
    """

    kind: str
    n: int
    ranges: tuple[Range, ...]
    seed: int = 1
    levels: int = 0

    @classmethod
    def parsed(cls, text: str, ranges: Sequence[str], seed: int = 1) -> "Design":
        """``lhs:N`` or ``sobol:N`` with N points, a power of two for the latter, or ``factorial:L`` with L levels of
        each range; else :class:`InputError`."""
        match = _DESIGN.fullmatch(text)
        if match is None:
            raise InputError(
                f"design {text!r} (allowed: lhs:N, sobol:N with N points, factorial:L with L levels of each range)"
            )
        kind, n, levels = match[1], int(match[2]), 0
        if kind not in KINDS:
            raise unknown("design", kind, KINDS)
        found = tuple(map(Range.parsed, ranges))
        if not found:
            raise InputError(f"design {text!r} without a range (allowed: one --range PATH=LOW..HIGH or more)")
        if kind == FACTORIAL:
            levels = n
            if not 2 <= levels <= MOST_POINTS:
                raise InputError(f"design {text!r}: {levels} levels (allowed: 2 to {MOST_POINTS})")
            n = math.prod(len(each.levels(levels)) for each in found)
        if n > MOST_POINTS:
            raise InputError(f"design {text!r}: {n} points (allowed: up to {MOST_POINTS})")
        if kind == SOBOL and n & (n - 1):
            raise InputError(
                f"design {text!r}: {n} points (allowed: a power of two, for which the points are balanced)"
            )
        paths = [each.path for each in found]
        if twice := [path for path in paths if paths.count(path) > 1]:
            raise InputError(f"range {twice[0]}: found {paths.count(twice[0])} times (allowed: once)")
        return cls(kind, n, found, seed, levels)

    def check_alone(self, options: Mapping[str, str], given: Iterable[str], sweep: Iterable[str]) -> None:
        """Raises :class:`InputError` for a key that has a range, and is given or swept beside that.

        ``options`` are what the user calls keys that are given.
        """
        beside = {path: f"[sweep] {path}" for path in sweep} | {
            path: options.get(path, "an override") for path in given
        }
        for each in self.ranges:
            if each.path in beside:
                raise InputError(f"range {each.path}: found beside {beside[each.path]} (allowed: one of them)")

    def document(self) -> dict[str, Any]:
        """Everything that determines the points."""
        return {**asdict(self), "ranges": [asdict(each) for each in self.ranges]}

    def points(self) -> Iterator[dict[str, Any]]:
        """The values at each point, by path; of a factorial design those of the last range change fastest."""
        if self.kind == FACTORIAL:
            paths = [each.path for each in self.ranges]
            for values in product(*(each.levels(self.levels) for each in self.ranges)):
                yield dict(zip(paths, values, strict=True))
            return
        from scipy.stats import qmc  # half a second

        sampler = qmc.Sobol if self.kind == SOBOL else qmc.LatinHypercube
        for shares in sampler(len(self.ranges), rng=self.seed).random(self.n).tolist():
            yield {each.path: each.value(share) for each, share in zip(self.ranges, shares, strict=True)}
