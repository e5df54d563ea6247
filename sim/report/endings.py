"""What ends a summary: integrity, what is hypothetical, and what is needed to repeat it."""

from typing import TYPE_CHECKING, Final

from sim.analysis.metrics import settings_of
from sim.kernel.config import strategy_of
from sim.kernel.integrity import KINDS
from sim.report.layout import wrapped
from sim.report.names import cut

if TYPE_CHECKING:
    from sim.analysis.comparison import Comparison

NAME: Final = 22
FIGURES: Final = "figures"
"""The folder of a result directory in which its figures are."""


def integrity(comparison: "Comparison") -> str:
    """What the integrity check found."""
    found = comparison.df_integrity()
    kinds = [kind for kind in KINDS if kind in found]
    lines = []
    for row in found.to_dict("records"):
        counts = ", ".join(f"{row[kind]} {kind}" for kind in kinds if row[kind])
        if not counts:
            continue
        where = f"{row['case']}, {cut(row['strategy'], NAME)}: {counts}"
        if row["violations"]:
            known = row["documented"]
            where += f" (documented as unsound: {known})" if known else " - UNEXPECTED: not documented as unsound"
        lines.append(_filled(where, indent="  "))
    checked = comparison.results.manifest["resolved"]["run"].get("integrity", True)
    if not checked:
        return "Integrity: not checked (run.integrity = false)."
    if not lines:
        return "Integrity: every consumer found its own values."
    return "Integrity (residue is a value that nobody reads, and not a violation):\n" + "\n".join(lines)


def hypothetical(comparison: "Comparison") -> str:
    """The strategies that no kernel has, and why they are there."""
    why = {
        name: strategy_of(settings_of(case, name)).hypothetical
        for case in comparison.results.cases
        for name in case["strategies"]
    }
    lines = [_filled(f"{cut(name, NAME)}: {text}", indent="  ") for name, text in why.items() if text]
    return "Hypothetical:\n" + "\n".join(lines) if lines else ""


def provenance(comparison: "Comparison") -> str:
    """What is needed to find the same numbers again."""
    results = comparison.results
    manifest = results.manifest
    versions = manifest["versions"]
    lines = [
        f"Seed {manifest['seed']}, {manifest['replications']} replications; fpswitch {versions['fpswitch']} (source "
        f"{versions['source_sha256'][:12]}), scenario {manifest['scenario_sha256'][:12]}, Python {versions['python']}, "
        f"numpy {versions['numpy']}."
    ]
    if results.directory:
        figures = (results.directory / FIGURES).is_dir()
        there = "Tables, manifest and figures" if figures else "Tables and manifest"
        lines.append(f"{there}: {results.directory}")
    return "\n".join(map(_filled, lines))


def _filled(line: str, indent: str = "") -> str:
    return "\n".join(wrapped(line, indent, indent * 2))
