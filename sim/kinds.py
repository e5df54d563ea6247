"""The kinds of files that commands here take, told by how they begin: for a message where one is given for another."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from sim.errors import InputError

LOOKED_AT: Final = 1 << 16
"""Characters of the beginning; bytes of a file."""


class Kind(Enum):
    """A kind of file: what it is, and in parentheses what takes it."""

    CARRIED = "a carried state (for --carried, or kernel.carried of a scenario)"
    STRATEGY = "a strategy (for --strategies, --strategy, or run.strategies of a scenario)"
    COSTS = "a cost table (for fpswitch costs show, --costs, or host.costs of a scenario)"
    PROFILE = "a CPU profile (for fpswitch cpu show, --cpu, or host.cpu of a scenario)"
    SCENARIO = "a scenario (for fpswitch run or show)"
    MANIFEST = (
        "the manifest of a result directory (fpswitch run FILE repeats the run, fpswitch compare takes the directory)"
    )
    TRACE = "a trace (for fpswitch replay, fit or timeline)"
    EXITS = "a table of perf kvm stat (for --perf-kvm-stat of fpswitch new or price)"
    BOOT_LOG = "a boot log (for fpswitch layout --boot-log)"
    REGISTERS = "a dump of CPUID registers (for fpswitch cpu import)"
    RESULT = "a result directory (for fpswitch compare, report or uncertainty)"
    RT_APP = "a configuration of rt-app (for fpswitch new --rt-app)"


_OURS: Final = (Kind.CARRIED, Kind.STRATEGY, Kind.COSTS, Kind.PROFILE, Kind.SCENARIO, Kind.MANIFEST)
"""Those that are written for fpswitch alone; readers of logs and dumps know the others themselves."""

_BEGINS: Final = tuple(
    (kind, re.compile(pattern, re.ASCII | re.MULTILINE))
    for kind, pattern in (
        (Kind.PROFILE, r"^\[cpuid\.\w+\]"),
        (Kind.COSTS, r"^rows\s*=\s*\[|^\[\[rows\]\]|^(?:derived_from|inherited_spread)\s*="),
        (Kind.STRATEGY, r"^mechanism\s*=\s*\""),
        (Kind.CARRIED, r"^(?:msrs\s*=\s*\{|\[msrs\]|per_task_msr\s*=|size_bytes\s*=)"),
        (Kind.MANIFEST, r"\A\s*\{\s*\"format\"\s*:\s*\"fpswitch\b"),
        (Kind.SCENARIO, r"^\[(?:run|host|kernel|sweep|(?:guests|threads|interrupts)\.[^\]\n]+)\]\s*(?:#.*)?$"),
        (Kind.RT_APP, r"\A\s*\{[^{}]*\"(?:tasks|global|resources)\"\s*:\s*\{"),
        (Kind.EXITS, r"\bVM-EXIT +Samples\b"),
        (Kind.TRACE, r"\[\d{3,5}\] .*\b(?:sched|kvm|x86_fpu)_\w+: "),
        (Kind.BOOT_LOG, r"Enabled xstate features|Supporting XSAVE feature"),
        (Kind.REGISTERS, r"\beax\s*=\s*0x[0-9a-f]{8}\b.*\bebx|^CPUID [0-9A-F]{8}:"),
    )
)
"""The first that fits counts."""


def told(text: str) -> Kind | None:
    """The kind of a text by its beginning; None if it is none of these."""
    text = text[:LOOKED_AT]
    return next((kind for kind, pattern in _BEGINS if pattern.search(text)), None)


def ours(text: str) -> str:
    """What a text is that was written for fpswitch, as a message says it; empty if it is none of those."""
    kind = told(text)
    return kind.value if kind in _OURS else ""


@contextmanager
def wanted(path: str | Path, kind: Kind) -> Iterator[None]:
    """Where what is read refuses a file that is of another kind, the error says so instead of what it stumbled over.

    A file of the kind that was wanted keeps its error, and so does one that is of no kind known here.
    """
    try:
        yield
    except InputError as error:
        if another := _another(Path(path), kind):
            name = str(path) if str(path).isprintable() else repr(str(path))
            raise InputError(f"{name}: this is {another}; allowed: {kind.value.split(' (')[0]}") from error
        raise


def _another(file: Path, kind: Kind) -> str:
    """What a file is that is not of this kind; empty if it is, or of no kind, or cannot be read twice."""
    try:
        if file.is_dir():
            return Kind.RESULT.value if (file / "manifest.json").is_file() else ""
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            text = stream.read(LOOKED_AT).decode("utf-8", "replace")
    except (OSError, ValueError):  # the latter for a null character
        return ""
    found = told(text)
    taken = (kind, Kind.MANIFEST) if kind is Kind.SCENARIO else (kind,)  # a manifest repeats its run
    if found is None or any(pattern.search(text) for each, pattern in _BEGINS if each in taken):
        return ""
    return found.value
