"""The manifest of a run: what was run, with what, and how it ended.

It is the first file that a run writes, with status "running", and the last that it changes; so a run that was killed
never reads as complete.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from sim.errors import InputError

NAME: Final = "manifest.json"
FORMAT: Final = "fpswitch results 1"
"""Says that a directory is one of ours, and in which form."""

RUNNING: Final = "running"
COMPLETE: Final = "complete"
FAILED: Final = "failed"
INTERRUPTED: Final = "interrupted"
STATUSES: Final = (RUNNING, COMPLETE, FAILED, INTERRUPTED)

LIBRARIES: Final = ("numpy", "pandas", "pyarrow", "pydantic", "scipy", "simpy")


def sha256(document: Any) -> str:
    """The hash of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def source_sha256() -> str:
    """The hash of this package's own files (code and data), by which two versions of it are told apart."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".toml"):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package, its source, Python and the libraries that a number could depend on."""
    import platform

    found = {"fpswitch": _version("fpswitch"), "source_sha256": source_sha256(), "python": platform.python_version()}
    return found | {library: _version(library) for library in LIBRARIES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader finds the old contents or the new ones, and nothing in between."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest of ``directory``."""
    write_text(directory / NAME, json.dumps(manifest, indent=1) + "\n")


def read(directory: Path) -> dict[str, Any]:
    """The manifest of ``directory``; :class:`InputError` if it is not one of our directories."""
    path = directory / NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory}: not a result directory (it has no {NAME})") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise InputError(f"{path}: not the manifest of a result directory (format {found!r}, allowed: {FORMAT!r})")
    lacking = [key for key in ("status", "cases", "seed", "replications", "fingerprint") if key not in document]
    if lacking or document["status"] not in STATUSES:
        raise InputError(f"{path}: damaged (lacks {', '.join(lacking) or 'a status'})")
    return document
