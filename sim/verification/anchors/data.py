"""The published experiments, as they are in anchors.toml."""

import json
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

from sim.errors import InputError
from sim.kernel.mitigations import MitigationKind
from sim.kernel.vpmu import Vpmu

Unit = Literal["TSC cycles", "core cycles", "ns"]

STRICT: Final[dict[str, Any]] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True, slots=True)
class Setup:
    """The set-up of an experiment: fields of :class:`~sim.kernel.config.Settings` and of the guest.

    ``mitigations`` are taken to be off if a source does not say; the guests, mostly kvm-unit-tests, do not write
    IA32_SPEC_CTRL.  ``handler`` is the reason of an exit whose handler was part of what was measured.
    ``experiment`` is one of :data:`~sim.verification.anchors.experiments.EXPERIMENTS`.  ``without`` are phases or
    operations that the kernel of the experiment did not have, ``without_rows`` rows of the cost table that are outside
    what was measured.  ``operation``, ``components`` and ``requested`` are only for the experiment "instruction".
    """

    __pydantic_config__ = STRICT

    experiment: str
    kernel: str = "v6.18"
    strategy: str = "no-cet"
    guest_xcr0: int | None = None
    guest_xss: int | None = None
    guest_osxsave: bool = True
    guest_pke: bool = False
    guest_pkru_differs: bool = False
    mitigations: bool | tuple[MitigationKind, ...] = False
    handler: str = ""
    vpmu: Vpmu = "none"
    without: tuple[str, ...] = ()
    without_rows: tuple[str, ...] = ()
    operation: str = ""
    components: tuple[str, ...] = ()
    requested: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Anchor:
    """One published number.

    ``low`` and ``high`` are the spread that the source gives.  ``keys`` identify the source in a cost table's rows (a
    commit, a path of an address, a message id).  ``cpu`` and ``table`` are the profile and cost table of the
    prediction; ``stands_for`` says which CPU was measured if it is another.  ``hertz`` converts to ns: that of the TSC,
    or of the core with ``core_clock``.  ``minus`` is a second set-up; the prediction then is the difference.
    ``floor``: what the prediction leaves out, so that it can only be too low.  ``series`` separates numbers that cannot
    be compared.
    """

    __pydantic_config__ = STRICT

    id: str
    title: str
    series: str
    published: float
    unit: Unit
    source: str
    date: str
    keys: tuple[str, ...]
    cpu: str
    setup: Setup
    low: float | None = None
    high: float | None = None
    table: str = ""
    stands_for: str = ""
    hertz: float = 0.0
    core_clock: bool = False
    minus: Setup | None = None
    floor: str = ""
    note: str = ""

    @property
    def is_bound(self) -> bool:
        """Whether the number is smaller than the spread of its source, so that only the spread tells something."""
        return self.low is not None and self.high is not None and self.low < 0 < self.high


@dataclass(frozen=True, slots=True)
class NotExpressible:
    """A published measurement for which the model has no prediction, and why."""

    __pydantic_config__ = STRICT

    title: str
    published: str
    source: str
    date: str
    why: str


@dataclass(frozen=True, slots=True)
class Anchors:
    """The whole file; ``series`` says what each series is."""

    __pydantic_config__ = STRICT

    series: dict[str, str]
    anchors: tuple[Anchor, ...]
    not_expressible: tuple[NotExpressible, ...] = field(default=())


def read(path: Path | None = None) -> Anchors:
    """The shipped experiments, or those in the file ``path``.

    Raises :class:`InputError` for a file that is not TOML, a wrong key or value, an unknown series or an id twice.
    """
    from pydantic import TypeAdapter, ValidationError

    source = path or Path(str(files("sim.verification.anchors") / "anchors.toml"))
    try:
        document = tomllib.loads(source.read_text(encoding="utf-8"))
        found = TypeAdapter(Anchors).validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source.name}: {where}: {first['msg']}, found {first.get('input')!r}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{source.name}: {error}") from error
    seen: set[str] = set()
    for anchor in found.anchors:
        if anchor.id in seen:
            raise InputError(f"{source.name}: anchor {anchor.id!r} is there twice")
        if anchor.series not in found.series:
            raise InputError(f"{source.name}: anchor {anchor.id!r}: unknown series {anchor.series!r}")
        if anchor.unit == "ns" and not anchor.hertz > 0:
            raise InputError(f"{source.name}: anchor {anchor.id!r}: in ns, but without hertz")
        seen.add(anchor.id)
    return found
