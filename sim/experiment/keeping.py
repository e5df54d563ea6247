"""What a result directory holds after a run: what was asked for, and of what was there before nothing less.

The tables are always those of one scenario with one number of replications, so that its manifest repeats them.  It is
the earlier scenario with all strategies of both, where that is finished; otherwise what was asked for, and the rest is
kept beside the tables.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from sim.errors import InputError
from sim.experiment import stopping
from sim.experiment.inputs import Inputs, gathered
from sim.experiment.provenance import costs_json, costs_of, document
from sim.results import manifest as manifests
from sim.results import parts
from sim.results.keys import Key, Keys
from sim.results.shelf import Shelf
from sim.scenario.cases import Case, cases
from sim.scenario.reading import read
from sim.scenario.run_schema import Run
from sim.scenario.schema import Scenario

SHOWN = 4
"""Names in a sentence."""


@dataclass(frozen=True)
class Experiment:
    """A scenario with its cases and files; ``name`` is the scenario's, ``source`` its file."""

    scenario: Scenario
    cases: Sequence[Case]
    inputs: Inputs
    name: str
    source: str
    command: Sequence[str]

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """What the manifest says of it."""
        return document(self.scenario, self.cases, self.inputs, self.name, self.source, self.command)

    @property
    def costs(self) -> Mapping[str, Any]:
        """Its cost tables, which are the caller's own."""
        return costs_of(self.cases)

    @cached_property
    def contents(self) -> Mapping[str, bytes]:
        """The files of a run that are there before its tables, by their place in the directory."""
        return {manifests.COSTS: costs_json(self.cases), **self.inputs.contents}

    def exactly(self, replications: int) -> "Experiment":
        """The same with exactly this many replications."""
        if self.scenario == stopping.exactly(self.scenario, replications):
            return self
        return replace(
            self,
            scenario=stopping.exactly(self.scenario, replications),
            cases=[stopping.exact_case(case, replications) for case in self.cases],
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """What the tables of a directory show: the parts of ``manifest``, by their keys."""

    experiment: Experiment
    manifest: Mapping[str, Any]
    keys: Keys


def shown(asked: Experiment, whole: Path | None, there: Container[Key]) -> Shown:
    """What the directory is to show after a run of ``asked``, which has an exact number of replications.

    ``whole`` is where a complete earlier result lies, or None; ``there`` are the keys of all that is finished.
    """
    best = _shown(asked)
    if whole is None:
        return best
    wanted, old = best.keys, keys_of(manifests.read(whole))
    most = old.shared(wanted)
    for each in _with_what_was_there(asked, whole):
        if most == old.distinct:
            break
        found = _shown(each)
        have = found.keys
        if old.shared(have) > most and wanted.is_within(have) and all(key in there for key in have.values()):
            best, most = found, old.shared(have)
    return best


def _shown(experiment: Experiment) -> Shown:
    manifest = experiment.manifest
    return Shown(experiment, manifest, parts.keys(manifest, manifest["replications"]))


def keys_of(manifest: Mapping[str, Any]) -> Keys:
    """The keys of the parts in the tables of a complete result."""
    return parts.keys(manifest, manifest["replications"])


def _with_what_was_there(asked: Experiment, whole: Path) -> Iterator[Experiment]:
    """What was asked for with all that an earlier result has, and then with less of it."""
    try:
        earlier = read(whole / manifests.NAME)
        of_earlier = cases(earlier)
    except InputError:  # it was made by a version that knew something else
        return
    run, old = asked.scenario.run, earlier.run
    fewest = run.replication_bounds[0]
    numbers = sorted({fewest, max(fewest, old.replication_bounds[0])}, reverse=True)
    for base, feedback, strategies in product(
        (earlier, asked.scenario),
        sorted({run.feedback, run.feedback or old.feedback}, reverse=True),
        _strategies(run, old, [*of_earlier, *asked.cases]),
    ):
        both = run.model_copy(update={"strategies": strategies, "cases": _cases(run, old), "feedback": feedback})
        texts = {"title": asked.scenario.title, "question": asked.scenario.question}
        scenario = base.model_copy(update={"run": both, **texts})
        try:
            of_scenario = cases(scenario)
        except InputError:
            continue
        found = replace(asked, scenario=scenario, cases=of_scenario, inputs=gathered(scenario, of_scenario))
        yield from map(found.exactly, numbers)


def _strategies(run: Run, old: Run, of_both: Sequence[Case]) -> list[tuple[str, ...] | Literal["all"]]:
    """Those of both; and, where not every case can have each, those that are in all cases."""
    given = {
        name: text for case in of_both for name, text in zip(case.strategies, case.scenario.run.strategies, strict=True)
    }
    everywhere = tuple(text for name, text in given.items() if all(name in case.strategies for case in of_both))
    found: list[tuple[str, ...] | Literal["all"]] = ["all"] if "all" in (run.strategies, old.strategies) else []
    return [*found, tuple(given.values()), everywhere]


def _cases(run: Run, old: Run) -> tuple[str, ...] | None:
    return None if run.cases is None or old.cases is None else tuple(dict.fromkeys((*old.cases, *run.cases)))


def words(asked: Experiment, there: Shelf, path: Path) -> str:
    """A sentence on what a directory keeps beside what was asked for; empty if that is nothing."""
    least = _shown(asked)
    others = list(there.beside(least.keys))
    if not others:
        return ""
    elsewhere = _names({case for (case, *_), _ in others} - {case for case, *_ in least.keys.series})
    strategies = _names({strategy for (*_, strategy), _ in others} - {strategy for *_, strategy in least.keys.series})
    most, n = max(last for _, last in others) + 1, least.manifest["replications"]
    kept = [
        f"cases {elsewhere}" if elsewhere else "",
        f"strategies {strategies}" if strategies else "",
        f"{most} replications" if most > n else "",
    ]
    found = ", ".join(filter(None, kept)) or "other schedules"
    return f"{path} also keeps what was not asked for: {found}; fpswitch compare {path} shows that, and not this answer"


def _names(names: set[str]) -> str:
    some = sorted(names)
    more = f" and {len(some) - SHOWN} more" if len(some) > SHOWN else ""
    return ", ".join(some[:SHOWN]) + more
