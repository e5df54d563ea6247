"""What a manifest must have to be one: keys, types, ranges, and what in it must agree with itself."""

import json
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sim.errors import InputError, unknown
from sim.kernel.config import boot
from sim.kernel.datafile import shortened
from sim.results.lock import MOST_PID
from sim.results.settings import settings_of


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a text of one line without control characters")
    return text


def _below(name: str) -> str:
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError("the path of a file below the directory, relative to it")
    return name


Text = Annotated[str, AfterValidator(_one_line), Field(max_length=1000)]
Name = Annotated[Text, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Number = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]
FileName = Annotated[Name, AfterValidator(_below)]


class Part(BaseModel):
    """A table of a JSON document of ours."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Run(Part):
    integrity: bool = True
    feedback: bool = False


class _Resolved(Part):
    title: Annotated[str, Field(min_length=1)]
    question: str = ""
    run: _Run


class _OfCase(_Resolved):
    """The scenario of one case."""

    host: dict[str, Any]
    kernel: dict[str, Any]
    guests: dict[Name, dict[str, Any]]
    threads: dict[Name, dict[str, Any]]
    interrupts: dict[Name, dict[str, Any]]


class _Case(Part):
    case: Name
    cpu: Name
    kernel: Name
    sweep: dict[Name, bool | int | float | Text]
    cost_table: Name
    cost_table_sha256: Sha256
    tsc_hz: Number
    cpus: Annotated[int, Field(ge=1, le=65536)]
    vcpus: Annotated[int, Field(ge=0, le=1 << 32)]
    pipes: Annotated[int, Field(ge=0, le=1 << 32)]
    measure_s: Number
    strategies: Annotated[list[Name], Field(min_length=1)]
    reference: Name
    resolved: _OfCase
    settings: dict[Name, dict[str, Any]]


class _Versions(Part):
    fpswitch: Name
    source_sha256: Sha256
    python: Name
    numpy: Name


class _Manifest(Part):
    status: Literal["running", "complete", "failed", "interrupted"]
    scenario: Text
    scenario_sha256: Sha256
    fingerprint: Sha256
    resolved: _Resolved
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    replications: Annotated[int, Field(ge=1, le=100_000)]
    cases: Annotated[list[_Case], Field(min_length=1)]
    versions: _Versions
    error: str | None = None


_Count = Annotated[int, Field(ge=0, le=1 << 53)]
_Seconds = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
_Works = list[Annotated[tuple[Text, Text | None, _Count], Field(strict=False)]]


class ProgressFile(Part):
    """What a driver says while it runs; see :class:`sim.results.progress.Progress`."""

    model_config = ConfigDict(extra="forbid")
    finished: _Count
    total: _Count
    before: _Count
    elapsed_s: _Seconds
    at: _Seconds
    in_flight: _Seconds = 0.0
    fixed: bool = True
    workers: _Count = 1
    dashboard: Text = ""
    running: _Works = []
    failed: _Works = []
    pid: Annotated[int, Field(ge=1, le=MOST_PID)]
    began: Text = ""
    host: Text


class _CaseWithFingerprint(_Case):
    fingerprint: Sha256
    timed_by: Name


class _ManifestWithHashes(_Manifest):
    cases: Annotated[list[_CaseWithFingerprint], Field(min_length=1)]  # type: ignore[assignment]
    files: dict[FileName, Sha256]
    inputs: list[dict[str, Text]]


def check(document: Mapping[str, Any], where: str, *, hashes: bool) -> None:
    """Raises :class:`InputError` with ``where`` for the first thing that is wrong with a manifest.

    ``hashes``: whether it is of a form that has those of its files.
    """
    fits(_ManifestWithHashes if hashes else _Manifest, document, where)
    for problem in _problems(document):
        raise InputError(f"{where}: damaged: {problem}")


def fits(model: type[BaseModel], document: Any, where: str) -> None:
    """Raises :class:`InputError` with ``where`` for the first key that is not as the model has it."""
    try:
        model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{_short(part)}" for part in first["loc"]).strip(
            "."
        )
        found = "" if first["type"] == "missing" else f", found {shortened(first['input'])}"
        raise InputError(f"{where}: damaged: {f'{place}: ' if place else ''}{_plain(first['msg'])}{found}") from error


def _plain(message: str) -> str:
    return re.sub(r" or instance of \w+", "", message)


def _short(part: Any) -> str:
    text = str(part)
    return text if text.isprintable() and len(text) <= 60 else shortened(text)


def _problems(document: Mapping[str, Any]) -> Iterator[str]:
    for name, count in Counter(case["case"] for case in document["cases"]).items():
        if count > 1:
            yield f"the case {shortened(name)} is there {count} times"
    for case in document["cases"]:
        where = f"case {shortened(case['case'])}"
        strategies = case["strategies"]
        for name, count in Counter(strategies).items():
            if count > 1:
                yield f"{where}: strategy {shortened(name)} is there {count} times"
        for name in dict.fromkeys((*strategies, case.get("timed_by") or strategies[0])):
            if name not in case["settings"]:
                yield f"{where}: no settings of strategy {shortened(name)}"
            try:
                booted = boot(settings_of(case, name))
            except InputError as error:
                yield f"{where}: {shorter(error)}"
            else:
                for key, of_settings in (("cpu", booted.cpu.label), ("kernel", booted.settings.kernel)):
                    if case[key] != of_settings:
                        yield f"{where}: {key} {shortened(case[key])} is not that of its settings, {of_settings!r}"
        for section in ("title", "question", "guests", "threads", "interrupts"):
            both = (case["resolved"], document["resolved"])
            here, there = (_not_swept(each.get(section), section, case["sweep"]) for each in both)
            if section == "guests":
                here = _without_handler_times(here, there)
            if here != there:
                yield f"{where}: resolved.{section} is not that of the scenario"
        if case["reference"] not in strategies:
            yield f"{where}: {shorter(unknown('reference', case['reference'], strategies))}"


def _not_swept(value: Any, path: str, sweep: Container[str]) -> Any:
    """What lies at a path of a scenario, without what the sweep changes there."""
    if not isinstance(value, Mapping):
        return value
    inner = {key: (each, f"{path}.{key}") for key, each in value.items()}
    return {key: _not_swept(each, at, sweep) for key, (each, at) in inner.items() if at not in sweep}


def _without_handler_times(completed: Any, written: Any) -> Any:
    """A case's guests without the times of exit handlers that the scenario leaves to the cost table."""
    if not isinstance(completed, Mapping) or not isinstance(written, Mapping):
        return completed
    if "handled" in completed and "time" not in written:
        return {key: each for key, each in completed.items() if key != "time"}
    return {key: _without_handler_times(each, written.get(key)) for key, each in completed.items()}


def shorter(error: Exception) -> str:
    """A message as a part of another one."""
    text = str(error)
    return text if len(text) <= 300 else f"{text[:297]}..."


def parsed(content: bytes) -> Any:
    """A JSON document; ValueError for one that is none, or holds what cannot be printed or is not a number."""
    try:
        found = json.loads(content, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
