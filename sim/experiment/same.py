"""What the points of a design are made of, and in what two designs differ: points of both must never be mixed."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sim.experiment.keeping import Experiment
from sim.results import manifest as manifests
from sim.results.world import NOT_OF_THE_WORLD, differences

MAY_CHANGE: Final = ("replications", "strategies")
"""Settings of run of which a design may be given more or fewer later: what is finished stays, and is used again."""
KEYS: Final = ("scenario_sha256", "seed", "resolved", "inputs", "versions")


def made_of(first: Experiment) -> dict[str, Any]:
    """All that decides what is at the points, but for the design: that of its first point, as manifests have it.

    "had" are hashes of strategies by case and name, also of those that are not asked for any more.
    """
    cases = [
        {
            **{key: case[key] for key in ("case", "cpu", "cost_table_sha256", "fingerprint")},
            "settings_sha256": {name: manifests.sha256(each) for name, each in case["settings"].items()},
        }
        for case in first.manifest["cases"]
    ]
    had = {case["case"]: case["settings_sha256"] for case in cases}
    return {**{key: first.manifest[key] for key in KEYS}, "cases": cases, "had": had}


def had_by(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The strategies that points may have, by case: those of now, and those that were asked for at any time."""
    cases = dict.fromkeys([*there["had"], *here["had"]])
    return {case: {**there["had"].get(case, {}), **here["had"].get(case, {})} for case in cases}


def other_than(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what a design differs from the one that is there, in words; the number of replications and which strategies
    are asked for are no difference.
    """
    found = differences(there, here)
    before, now = there["resolved"]["run"], here["resolved"]["run"]
    for key in NOT_OF_THE_WORLD:
        if key not in MAY_CHANGE and before.get(key) != now.get(key):
            found.append(f"run.{key}")
    n, of_now = (run.get("replications") for run in (before, now))
    if (n is None) != (of_now is None):
        found.append(f"replications ({n or 'by precision'}, here {of_now or 'by precision'})")
    found += _of_strategies(there, here)
    if not found and _fingerprints(there) != _fingerprints(here):
        found.append("the cases")
    return found


def _of_strategies(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    before, now = _settings(there), _settings(here)
    for name in sorted({name for (case, name), sha256 in before.items() if now.get((case, name), sha256) != sha256}):
        yield f"the strategy {name}"


def _settings(made: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Hashes of strategies, as each case has them."""
    return {(case, name): each for case, of_case in made["had"].items() for name, each in of_case.items()}


def _fingerprints(made: Mapping[str, Any]) -> dict[str, str]:
    return {case["case"]: case["fingerprint"] for case in made["cases"]}
