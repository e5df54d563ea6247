"""What the kernel of a case was booted with, as the manifest has it and as :func:`sim.kernel.config.boot` takes it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sim.errors import InputError
from sim.kernel.config import Settings

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_DEFAULTS: Final = Settings()


def document(settings: Settings) -> dict[str, Any]:
    """The settings that differ from their defaults; a user's CPU, strategy or carried state is included by content."""
    chosen = {field.name: getattr(settings, field.name) for field in fields(settings)}
    own = {key: asdict(chosen[key]) for key in ("cpu", "strategy", "carried") if not isinstance(chosen[key], str)}
    if "cpu" in own:
        own["cpu"]["features"] = sorted(own["cpu"]["features"])
    plain = json.loads(json.dumps(own))  # keys of JSON are texts, and so they are in what is hashed
    return {key: value for key, value in (chosen | plain).items() if value != getattr(_DEFAULTS, key)}


def settings_of(case: Mapping[str, Any], strategy: str) -> Settings:
    """What the kernel of a case, an entry of the manifest, is booted with under a strategy.

    Raises :class:`InputError` if these are not settings.
    """
    from pydantic import ValidationError  # a tenth of a second, for which only results have to wait

    try:
        return _adapter().validate_json(json.dumps(case["settings"][strategy]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"][:2]) or "settings"
        raise InputError(f"settings of strategy {strategy!r}: {key}: {first['msg']}") from error


@cache
def _adapter() -> "TypeAdapter[Settings]":
    from pydantic import TypeAdapter

    return TypeAdapter(Settings)
