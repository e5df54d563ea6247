"""What was run, with what: the manifest of an experiment as a document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from sim.costs.table import CostTable
from sim.kernel.config import Settings
from sim.kernel.strategies import names, strategy
from sim.results import manifest as manifests
from sim.scenario.cases import Case, contrasts
from sim.scenario.schema import Scenario
from sim.xsave import profiles


def cost_document(table: CostTable) -> dict[str, Any]:
    """A cost table as costs.json has it."""
    return {
        "name": table.name,
        "title": table.title,
        "derived_from": table.derived_from,
        "rows": [asdict(row) for row in table.rows.values()],
    }


def document(
    scenario: Scenario, cases: Sequence[Case], costs: Mapping[str, Any], source: str, command: Sequence[str]
) -> dict[str, Any]:
    """The manifest of a run of ``cases``; ``costs`` are the documents of their cost tables, ``source`` is a file."""
    resolved = scenario.written()
    hashes = {name: manifests.sha256(document) for name, document in costs.items()}
    versions = manifests.versions()
    world = resolved | {"run": {k: v for k, v in resolved["run"].items() if k not in _NOT_OF_THE_WORLD}}
    same = {
        "scenario": world,
        "costs": hashes,
        "strategies": [asdict(strategy(name)) for name in _of_users(cases)],
        "cpus": [each for each in map(_cpu_document, cases) if each],
        "source": versions["source_sha256"],
    }
    return {
        "scenario": Path(source).stem if source else scenario.title,
        "scenario_file": source or None,
        "scenario_sha256": manifests.sha256(resolved),
        "fingerprint": manifests.sha256(same),
        "resolved": resolved,
        "seed": scenario.run.seed,
        "replications": scenario.run.replication_bounds[0],
        "contrasts": [[list(a), list(b)] for a, b in contrasts(scenario, cases)],
        "cases": [_case_document(case, hashes[case.costs]) for case in cases],
        "versions": versions,
        "command": list(command),
    }


_NOT_OF_THE_WORLD: Final = (
    "replications", "precision", "min_replications", "max_replications", "strategies", "reference", "contrasts",
    "cases", "feedback",
)  # fmt: skip
"""Settings that say what runs and how often, and not what happens in a replication."""


def _of_users(cases: Sequence[Case]) -> list[str]:
    """Strategies that are files of the user's, and so no part of our own source."""
    shipped = names()
    return sorted({name for case in cases for name in case.strategies if name not in shipped})


def _case_document(case: Case, cost_table_sha256: str) -> dict[str, Any]:
    scenario = case.scenario
    return {
        "case": case.name,
        "cpu": case.cpu,
        "cpu_profile": _cpu_document(case),
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
        "resolved": scenario.written(),
        "settings": {
            name: _settings_document(case.settings(name)) for name in dict.fromkeys((case.timed_by, *case.strategies))
        },
    }


def _cpu_document(case: Case) -> dict[str, Any] | None:
    """What a CPU is that is a file of the user's, and so no part of our own source."""
    if case.cpu in profiles.names():
        return None
    document = asdict(profiles.profile(case.cpu))
    return document | {"features": sorted(document["features"])}


def _settings_document(settings: Settings) -> dict[str, Any]:
    """What the kernel is booted with, without what has its default."""
    chosen = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {key: value for key, value in chosen.items() if value != getattr(_DEFAULTS, key)}


_DEFAULTS: Final = Settings()
