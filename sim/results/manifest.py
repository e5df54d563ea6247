"""The manifest of a run: what was run, with what, and how it ended.

It is the first file that a run writes, with status "running", and the last that it changes; so a run that was killed
never reads as complete.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from sim.bounded import content
from sim.errors import InputError
from sim.kernel.datafile import shortened
from sim.release import __version__
from sim.results import files

NAME: Final = "manifest.json"
COSTS: Final = "costs.json"
"""The cost tables, beside the manifest."""
INPUTS: Final = "inputs"
"""The folder of the files that the scenario names."""
FORMAT: Final = "fpswitch results 2"
"""Says that a directory is one of ours, and in which form."""
FORMAT_OF_0_1: Final = "fpswitch results 1"
"""The format of fpswitch 0.1.0: no hashes, and the user's files by their paths."""
FORMATS: Final = (FORMAT, FORMAT_OF_0_1)

OWN_SHA256: Final = "sha256"
"""The key with the hash of all others."""

RUNNING: Final = "running"
COMPLETE: Final = "complete"
FAILED: Final = "failed"
INTERRUPTED: Final = "interrupted"
STATUSES: Final = (RUNNING, COMPLETE, FAILED, INTERRUPTED)

SCENARIOS: Final = Path(__file__).resolve().parents[1] / "scenario" / "data"
"""Where a wheel has the shipped scenarios."""

LIBRARIES: Final = ("numpy", "pandas", "pyarrow", "pydantic", "scipy", "simpy")


def sha256(document: Any) -> str:
    """The hash of a JSON document, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def source_sha256() -> str:
    """The hash of this package's own files (code and data), by which two versions of it are distinguished. The shipped
    scenarios, which a wheel has in the package and a checkout beside it, are not included: the manifest has that of a
    run.
    """
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".toml") and SCENARIOS not in path.parents:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package, its source, Python and the libraries that a number could depend on."""
    found = {"fpswitch": __version__, "source_sha256": source_sha256(), "python": platform.python_version()}
    return found | {library: _version(library) for library in LIBRARIES}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@cache
def commit() -> str | None:
    """What ``git describe`` says of the checkout whose source this package is; None outside one, and without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--tags", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def platform_document() -> dict[str, Any]:
    """The machine on which this runs: architecture, operating system, model of the CPU, and how many there are."""
    return {"machine": platform.machine(), "os": platform.platform(), "cpu": _cpu_model(), "cpus": os.cpu_count()}


@cache
def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def write(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest of ``directory``; when this returns it is on the disk, and what was written before, too."""
    files.sync(directory)
    document = {**manifest, OWN_SHA256: _own_sha256(manifest)}
    files.write_kept(directory / NAME, (json.dumps(document, indent=1) + "\n").encode())
    files.sync(directory)


def check_files(directory: Path, hashes: Mapping[str, str]) -> None:
    """Raises :class:`InputError` for a file in ``directory`` whose sha256 is another than that in ``hashes``."""
    for name, expected in hashes.items():
        try:
            found = files.sha256(directory / name)
        except OSError as error:
            raise InputError(f"{directory / name}: cannot be read ({error.strerror})") from error
        if found != expected:
            raise InputError(
                f"{directory / name}: is not what the run wrote (sha256 {found[:12]}..., in {NAME} {expected[:12]}...)"
            )


def read(directory: Path) -> dict[str, Any]:
    """The manifest of ``directory``; :class:`InputError` if it is not one of our directories."""
    if not (directory / NAME).exists():
        raise InputError(f"{directory}: not a result directory (it has no {NAME}{_inside(directory)})")
    return read_file(directory / NAME)


def _inside(directory: Path) -> str:
    """Which directory in this one is a result's, if any is: ``results``, or the directory of a design, was meant as
    that.
    """
    found = min((path for place in ("*", "points/*") for path in directory.glob(f"{place}/{NAME}")), default=None)
    return f"; {found.parent} is one" if found else ""


def read_file(path: Path) -> dict[str, Any]:
    """The manifest in a file; :class:`InputError` if it is none, or damaged."""
    from sim.results import schema  # pydantic: a tenth of a second, for which only results have to wait

    try:
        document = schema.parsed(content(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({schema.shorter(error)})") from error
    if not isinstance(document, dict) or document.get("format") not in FORMATS:
        found = document.get("format") if isinstance(document, dict) else None
        raise InputError(
            f"{path}: not the manifest of a result directory (format {shortened(found)}, allowed: {', '.join(FORMATS)})"
        )
    hashes = document["format"] == FORMAT
    schema.check(document, str(path), hashes=hashes)
    if document["scenario_sha256"] != sha256(document["resolved"]):
        raise InputError(f"{path}: damaged: 'resolved' is not what the run wrote (another sha256)")
    if document["format"] == FORMAT_OF_0_1:
        document["cases"] = [case | {"timed_by": None} for case in document["cases"]]
    if hashes and document.get(OWN_SHA256) != _own_sha256(document):
        raise InputError(f"{path}: is not what the run wrote (another sha256 than its own)")
    return document


def _own_sha256(document: Mapping[str, Any]) -> str:
    return sha256({key: value for key, value in document.items() if key != OWN_SHA256})
