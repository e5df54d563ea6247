"""What decides what happens in a replication, as manifests have it, and in which of it two runs differ."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

WORLDS_VERSIONS: Final = ("source_sha256", "numpy", "simpy")
"""Versions of what decides what happens in a replication."""

NOT_OF_THE_WORLD: Final = (
    "replications", "precision", "min_replications", "max_replications", "strategies", "reference", "timed_by",
    "contrasts", "cases", "feedback", "asks", "beside",
)  # fmt: skip
"""Settings of run that say what runs and how often, and not what happens in a replication."""

SHOWN: Final = 3
"""Of how many keys of a scenario a sentence has the names."""


def differences(earlier: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What of two manifests decides what happens in a replication and is not the same: scenario, seed, costs, files,
    the program's source, libraries; in words.
    """
    found = []
    if keys := list(_keys(_scenario(earlier), _scenario(here))):
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        found.append(f"the scenario ({', '.join(keys[:SHOWN])}{more})")
    if earlier["seed"] != here["seed"]:
        found.append(f"the seed ({earlier['seed']}, here {here['seed']})")
    before, now = _costs(earlier), _costs(here)
    if any(before[cpu] != now[cpu] for cpu in before.keys() & now.keys()):
        found.append("the costs")
    if _files(earlier) != _files(here):
        found.append("files that the scenario names")
    before, now = earlier["versions"], here["versions"]
    for name in WORLDS_VERSIONS:
        if before.get(name) != now[name]:
            what = "the source of fpswitch" if name == "source_sha256" else name
            found.append(f"{what} ({before.get(name, 'none')[:12]}, here {now[name][:12]})")
    return found


def _scenario(manifest: Mapping[str, Any]) -> dict[str, Any]:
    resolved = dict(manifest["resolved"])
    run = {key: value for key, value in resolved["run"].items() if key not in (*NOT_OF_THE_WORLD, "seed")}
    host = {key: value for key, value in resolved["host"].items() if key != "costs"}
    resolved |= {"run": run, "host": host}
    return {key: value for key, value in resolved.items() if key not in ("title", "question")}


def _costs(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {case["cpu"]: case["cost_table_sha256"] for case in manifest["cases"]}


def _files(manifest: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Kinds and hashes of those that are there for all strategies."""
    return {(each["kind"], each["sha256"]) for each in manifest.get("inputs", ()) if each["kind"] != "strategy"}


def _keys(a: Any, b: Any, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys((*a, *b)):
            yield from _keys(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path
