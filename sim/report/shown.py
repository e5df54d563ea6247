"""What is shown of a comparison when there is little room: the strategies of each case by importance.

Strategies that do exactly the same share a line.  The cost of one that violates integrity, or is known to be unsound,
cannot be compared; only its name is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sim.analysis.answers import Answers, Difference, Load
from sim.analysis.contrasts import planned
from sim.errors import InputError
from sim.kernel.strategies import names as shipped
from sim.report import names
from sim.scenario.contrasts import Contrast

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

MOST_CASES: Final = 10
"""The most cases that are shown one by one; of more, :data:`SOME_CASES` that are evenly spaced."""
SOME_CASES: Final = 8
CARRYING: Final = "carrying"
SURVIVORS: Final = "survivors"
XSS: Final = "xss"
SCHEDULE: Final = "schedule"


@dataclass(frozen=True, slots=True)
class Line:
    """Strategies that do exactly the same, and how they differ from the reference; ``label`` is that of the first."""

    names: tuple[str, ...]
    label: str
    found: Difference


@dataclass(frozen=True, slots=True)
class Asked:
    """A contrast of a case; ``found`` is None if one of the two is unsound."""

    a: str
    b: str
    found: Difference | None


@dataclass(frozen=True, slots=True)
class Between:
    """A contrast of two cases; ``found`` is None if one is unsound, or has no replication of all strategies."""

    contrast: Contrast
    found: Difference | None


@dataclass(frozen=True, slots=True)
class ShownCase:
    """One case; ``document`` is its entry of the manifest, ``title`` what it is called, ``short`` under a heading.

    ``lines`` are the sound strategies other than the reference and those that are the ``same``, the most important
    first: those in contrasts, then the user's own, then those that were posted, then the others from the cheapest on.
    There are none if the reference is unsound.  ``unsound``: why, by strategy.  ``incomplete``: why there is no answer.
    ``one_of_many``: there are other cases.
    """

    document: Mapping[str, Any]
    title: str
    short: str
    labels: Mapping[str, str]
    reference: str
    same: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    asked: tuple[Asked, ...] = ()
    unsound: Mapping[str, str] = ()  # type: ignore[assignment]
    load: Load | None = None
    incomplete: str = ""
    one_of_many: bool = False

    @property
    def name(self) -> str:
        """The name of the case."""
        return str(self.document["case"])

    @property
    def per(self) -> str:
        """The unit of time to which amounts are related: vCPU-second or CPU-second."""
        return "vCPU" if self.document["vcpus"] else "CPU"

    def us(self, cycles: float) -> float:
        """Cycles per vCPU-second (CPU-second) in microseconds."""
        return float(1e6 * cycles / self.document["tsc_hz"])

    def percent(self, cycles: float) -> float:
        """Cycles per vCPU-second (CPU-second) as a share of all CPU time of the host, in %."""
        host = self.document
        return float(100 * cycles * (host["vcpus"] or host["cpus"]) / host["cpus"] / host["tsc_hz"])

    def in_order(self, lines: Sequence[Line]) -> list[Line]:
        """The lines in the order of the scenario."""
        order = list(self.document["strategies"])
        return sorted(lines, key=lambda line: order.index(line.names[0]))


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown; ``heading`` is what cases differ in, ``cases`` are all, or some of ``of``, evenly spaced."""

    comparison: "Comparison"
    answers: Answers
    manifest: Mapping[str, Any]
    heading: str
    cases: tuple[ShownCase, ...]
    of: int
    between: tuple[Between, ...]

    @property
    def asks(self) -> tuple[str, ...]:
        """What the answer is about, as in run.asks."""
        return tuple(self.manifest["resolved"]["run"].get("asks", (CARRYING,)))

    @property
    def of_the_user(self) -> frozenset[str]:
        """The names of the user's own strategies, which are printed unchanged."""
        return frozenset(label for case in self.cases for name, label in case.labels.items() if name not in shipped())

    @property
    def n(self) -> int:
        """Replications behind the estimates of the cases that are shown; the fewest, in an incomplete result."""
        found = [line.found.own.n for case in self.cases for line in case.lines]
        return min(found, default=int(self.manifest["replications"]))


def shown(comparison: "Comparison", answers: Answers) -> Shown:
    """Computes what is shown of ``comparison``; ``answers`` are its own."""
    cases = comparison.results.cases
    some = [cases[i] for i in chosen(len(cases))]
    titles = names.titles(cases)
    return Shown(
        comparison,
        answers,
        comparison.results.manifest,
        titles.heading,
        tuple(_case(comparison, answers, case, titles.full[case["case"]], titles.short[case["case"]]) for case in some),
        len(cases),
        tuple(
            _between(comparison, answers, pair) for pair in planned(comparison.results) if pair.a.case != pair.b.case
        ),
    )


def _between(comparison: "Comparison", answers: Answers, pair: Contrast) -> Between:
    if any(each.strategy in comparison.unsound(each.case) for each in pair):
        return Between(pair, None)
    try:
        return Between(pair, answers.between(*pair))
    except InputError:
        return Between(pair, None)


def chosen(number: int) -> list[int]:
    """Indices of the cases that are shown: all, or some, evenly spaced, with the first and the last."""
    if number <= MOST_CASES:
        return list(range(number))
    return [round(i * (number - 1) / (SOME_CASES - 1)) for i in range(SOME_CASES)]


def _case(comparison: "Comparison", answers: Answers, case: Mapping[str, Any], title: str, short: str) -> ShownCase:
    name, reference = case["case"], comparison.references[case["case"]]
    unsound, many = comparison.unsound(case["case"]), len(comparison.results.cases) > 1
    found = ShownCase(case, title, short, names.labels(case), reference, unsound=unsound, one_of_many=many)
    pairs = [(a.strategy, b.strategy) for a, b in planned(comparison.results) if a.case == b.case == name]
    try:
        sound = [each for each in case["strategies"] if each not in unsound]
        asked = tuple(Asked(a, b, answers.difference(name, a, b) if {a, b} <= set(sound) else None) for a, b in pairs)
        named = [each for pair in pairs for each in pair]
        lines = _lines(answers, case, reference, sound, found.labels, named) if reference in sound else []
        load = answers.load(name)
    except InputError as error:
        return replace(found, incomplete=str(error))
    same = tuple(each for line in lines if _is_zero(line.found) for each in line.names)
    lines = [line for line in lines if not _is_zero(line.found)]
    rank = {line.names: _rank(line, case, named) for line in lines}
    lines.sort(key=lambda line: rank[line.names])
    return replace(found, same=same, lines=tuple(lines), asked=asked, load=load)


def _lines(
    answers: Answers,
    case: Mapping[str, Any],
    reference: str,
    sound: Sequence[str],
    labels: Mapping[str, str],
    asked: Sequence[str],
) -> list[Line]:
    """The strategies except the reference, grouped if they do exactly the same."""
    groups: dict[tuple[object, ...], list[str]] = {}
    differences = {each: answers.difference(case["case"], each, reference) for each in sound if each != reference}
    for each, found in differences.items():
        # The same to the last digit in every row of the cost table, under every draw of the costs.
        key = (found.rows, found.own.mean, found.own_without_xss.mean, found.range, found.range_without_xss)
        groups.setdefault(key, []).append(each)
    found_lines = []
    for group in groups.values():
        group.sort(key=lambda each: (each not in asked, bool(names.config_of(case, each).strategy.hypothetical)))
        found_lines.append(Line(tuple(group), labels[group[0]], differences[group[0]]))
    return found_lines


def _is_zero(found: Difference) -> bool:
    return not found.rows


def _rank(line: Line, case: Mapping[str, Any], asked: Sequence[str]) -> tuple[object, ...]:
    strategies = [names.config_of(case, each).strategy for each in line.names]
    return (
        not any(each in asked for each in line.names),
        all(each in shipped() for each in line.names),
        not any(each.carries for each in strategies),
        all(bool(each.hypothetical) for each in strategies),
        line.found.own_without_xss.mean,
    )
