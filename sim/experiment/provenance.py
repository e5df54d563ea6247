"""What was run, with what: the manifest of an experiment as a document."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sim.costs import document as cost_documents
from sim.costs.rows import CostTable
from sim.experiment.inputs import Inputs, placed
from sim.kinds import Kind, wanted
from sim.results import manifest as manifests
from sim.results import settings
from sim.results.world import NOT_OF_THE_WORLD, WORLDS_VERSIONS
from sim.scenario.cases import Case, contrasts
from sim.scenario.schema import Scenario
from sim.scenario.shipped import is_path

TABLES_KEPT: Final = 8
"""Cost tables whose documents stay in memory: all points of a design have the same ones."""


def costs_of(cases: Sequence[Case]) -> dict[str, Any]:
    """The cost tables of the cases by name, as costs.json has them; they are the caller's own."""
    return {case.costs: cost_documents.copied(_cost_document(case.table)) for case in cases}


def costs_json(cases: Sequence[Case]) -> bytes:
    """The same as a file."""
    return _costs_json(tuple({case.costs: case.table for case in cases}.values()))


@lru_cache(maxsize=TABLES_KEPT)
def _costs_json(tables: tuple[CostTable, ...]) -> bytes:
    return (json.dumps({table.name: _cost_document(table) for table in tables}, indent=1) + "\n").encode()


@lru_cache(maxsize=TABLES_KEPT)
def _cost_document(table: CostTable) -> dict[str, Any]:
    """The table as it is written and hashed, which leaves this module only as a copy."""
    return cost_documents.document(table)


@lru_cache(maxsize=TABLES_KEPT)
def _cost_sha256(table: CostTable) -> str:
    return manifests.sha256(_cost_document(table))


def document(
    scenario: Scenario, cases: Sequence[Case], inputs: Inputs, name: str, source: str, command: Sequence[str]
) -> dict[str, Any]:
    """The manifest of a run of ``cases``; ``name`` is the scenario's, ``source`` its file."""
    resolved = inputs.placed(scenario)
    versions = manifests.versions()
    documents = [_case_document(case, inputs, versions) for case in cases]
    return {
        "scenario": name,
        "scenario_file": source or None,
        "scenario_sha256": manifests.sha256(resolved),
        "fingerprint": manifests.sha256([each["fingerprint"] for each in documents]),
        "resolved": resolved,
        "seed": scenario.run.seed,
        "replications": scenario.run.replication_bounds[0],
        "contrasts": [[list(a), list(b)] for a, b in contrasts(scenario, cases)],
        "cases": documents,
        "inputs": list(inputs.documents),
        "versions": versions,
        "commit": manifests.commit(),
        "platform": manifests.platform_document(),
        "command": list(command),
    }


def name_of(source: str, title: str) -> str:
    """The name of the scenario in the file ``source``, or of one called ``title`` that is in no file."""
    if source.endswith(".json"):
        with wanted(source, Kind.SCENARIO):
            return str(manifests.read_file(Path(source))["scenario"])
    return Path(source).stem if is_path(source) else source or title


def directory_for(source: str) -> Path:
    """The result directory of a run of the scenario ``source`` where none is named; never that of a manifest."""
    name = name_of(source, "")
    found = Path("results") / (re.sub(r"[^\w. -]+", "-", name).strip(". ") or "scenario")
    if source.endswith(".json") and os.path.realpath(found) == os.path.realpath(Path(source).parent):
        return found.with_name(f"{found.name}-again")
    return found


def other_versions(source: str) -> str:
    """What tells the versions with which the run of a manifest was made from those here; empty if nothing does."""
    if not source.endswith(".json"):
        return ""
    made, here = manifests.read_file(Path(source))["versions"], manifests.versions()
    other = [name for name in WORLDS_VERSIONS if made.get(name) != here[name]]
    if not other:
        return ""
    words = (f"{name} {made.get(name, '?')[:12]} (here {here[name][:12]})" for name in other)
    return f"{source} was made with {', '.join(words)}, so the numbers here may differ"


def _case_document(case: Case, inputs: Inputs, versions: Mapping[str, str]) -> dict[str, Any]:
    scenario, cost_table_sha256 = case.scenario, _cost_sha256(case.table)
    names = dict.fromkeys((case.timed_by, *case.strategies))
    return {
        "case": case.name,
        "fingerprint": _fingerprint(case, cost_table_sha256, versions),
        "cpu": case.cpu,
        "kernel": case.kernel,
        "sweep": dict(case.sweep),
        "cost_table": case.costs,
        "cost_table_sha256": cost_table_sha256,
        "tsc_hz": case.tsc_hz,
        "cpus": scenario.host.cpus,
        "vcpus": sum(guest.vms * guest.vcpus for guest in scenario.guests.values()),
        "pipes": sum(thread.count for thread in scenario.threads.values() if thread.kind == "pipe"),
        "measure_s": scenario.run.measure,
        "timed_by": case.timed_by,
        "strategies": list(case.strategies),
        "reference": case.reference,
        "resolved": inputs.placed(scenario),
        "settings": {name: settings.document(case.settings(name)) for name in names},
    }


def _fingerprint(case: Case, cost_table_sha256: str, versions: Mapping[str, str]) -> str:
    """The hash of all that decides what happens in a replication, but for strategies and the replication's number.

    Where a file lies is not in it.
    """
    world = placed(case.scenario, lambda path: "")
    world["run"] = {key: value for key, value in world["run"].items() if key not in NOT_OF_THE_WORLD}
    booted = settings.document(case.settings(case.reference))
    same = {
        "case": case.name,
        "scenario": {key: value for key, value in world.items() if key not in ("title", "question")},
        "own": {key: booted.get(key) for key in ("cpu", "carried")},
        "costs": cost_table_sha256,
        "versions": {name: versions[name] for name in WORLDS_VERSIONS},
    }
    return manifests.sha256(same)
