"""Compares what the processor model did in a step with what was recorded: all that is guaranteed, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.verification.vectors.schema import Expected, Reinit, Restore, Step, Vector
from sim.verification.vectors.values import COMPONENTS, MSRS, Content, describe, quadwords
from sim.xsave.area import INIT
from sim.xsave.components import FP, SSE, bits
from sim.xsave.unit import Unit


class Departure(NamedTuple):
    """A difference between a vector and the model: ``expected`` is the recorded value, ``got`` the model's."""

    id: str
    step: int
    field: str
    expected: Any
    got: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model did in a step, apart from what it left in the registers.

    ``left_open`` are the components of which a save may write or leave the area; the model has done as recorded.
    """

    fault: str | None = None
    bv: int | None = None
    cv: int | None = None
    offsets: Mapping[int, int] = field(default_factory=dict)
    compacted: bool = False
    written: int = 0
    left_open: int = 0
    contents: Mapping[int, Content] = field(default_factory=dict)
    mxcsr_saved: int | None = None

    @property
    def saved(self) -> bool:
        return self.bv is not None


def compare(vector: Vector, number: int, step: Step, unit: Unit, outcome: Outcome, last: bool) -> list[Departure]:
    """The departures of one step, in the order of the fields."""
    found: list[Departure] = []

    def differ(name: str, expected: Any, got: Any) -> None:
        found.append(Departure(vector.id, number, name, _shown(expected), _shown(got)))

    exp = step.exp
    if _kind(exp.fault) != _kind(outcome.fault):
        differ("fault", exp.fault, outcome.fault)
        return found
    # After a fault in a restore the architecture leaves RFBM open; the silicon's registers are known not to change.
    left_open = outcome.fault is not None and isinstance(step, Restore) and vector.src == "bochs"
    held = _not_initial(unit)
    if (exp.noninit ^ held) & ~(step.rfbm if left_open and isinstance(step, Restore) else 0):
        differ("noninit", exp.noninit, held)
    needed = (exp.noninit if left_open else held) & unit.xcr0
    if exp.xinuse is None:
        if not outcome.fault:
            differ("xinuse", None, f"a superset of {needed:#x}")
    elif needed & ~exp.xinuse or exp.xinuse & ~unit.xcr0:  # XGETBV(1) is XCR0 & XINUSE
        differ("xinuse", exp.xinuse, f"a superset of {needed:#x} within {unit.xcr0:#x}")
    _compare_save(exp, vector.src, outcome, differ)
    if not left_open:
        _compare_registers(exp, unit, isinstance(step, Restore | Reinit) or last, differ)
    return found


def _compare_save(exp: Expected, source: str, outcome: Outcome, differ: Any) -> None:
    for name in ("bv", "cv", "mxcsr_saved"):
        if getattr(exp, name) != getattr(outcome, name):
            differ(name, getattr(exp, name), getattr(outcome, name))
    letters = _letters(outcome) if outcome.saved else None
    _compare_by_key("w", exp.w, letters, differ)
    contents = {str(i): describe(i, content) for i, content in outcome.contents.items()}
    recorded = {str(piece): letter for piece, letter in (exp.w or {}).items()}
    for i in bits[outcome.left_open]:  # the model follows these letters: only the listed contents can contradict them
        name = {0: "x87", 1: "xmm"}.get(i, str(i))
        listed = "F" if str(i) in (exp.c or {}) else "N"
        if name in recorded and recorded[name] != listed:
            differ("w", {name: recorded[name]}, {name: listed})
    _compare_by_key("c", exp.c, contents if outcome.saved else None, differ)
    if exp.off is not None or (source == "bochs" and outcome.compacted):
        offsets = {str(i): at for i, at in outcome.offsets.items()} if outcome.compacted else None
        _compare_by_key("off", exp.off, offsets, differ)


def _compare_registers(exp: Expected, unit: Unit, listed: bool, differ: Any) -> None:
    if exp.regs is not None or listed:
        regs = {str(i): describe(i, unit.regs[i]) for i in COMPONENTS if i not in MSRS}
        _compare_by_key("regs", exp.regs, regs, differ)
    if exp.mxcsr is not None and exp.mxcsr != unit.mxcsr:
        differ("mxcsr", exp.mxcsr, unit.mxcsr)
    if exp.msrs is not None:
        msrs = {name: value for i in MSRS for name, value in zip(MSRS[i], quadwords(i, unit.regs[i]), strict=True)}
        recorded = {name: f"{value:#x}" for name, value in exp.msrs}
        _compare_by_key("msrs", recorded, {name: f"{value:#x}" for name, value in msrs.items()}, differ)


def _compare_by_key(name: str, expected: Mapping[Any, Any] | None, got: Mapping[str, Any] | None, differ: Any) -> None:
    """One departure with the entries that differ, if any do."""
    if expected is None or got is None:
        if expected is not got:
            differ(name, expected, got)
        return
    keys = [key for key in {**expected, **got} if expected.get(key, _ABSENT) != got.get(key, _ABSENT)]
    if keys:
        differ(name, {k: expected[k] for k in keys if k in expected}, {k: got[k] for k in keys if k in got})


_ABSENT = object()
_CET = [str(i) for i in MSRS]


def _letters(outcome: Outcome) -> dict[str, str]:
    mxcsr = outcome.mxcsr_saved is not None
    written = {"x87": outcome.written & FP, "mxcsr": mxcsr, "mxcsr_mask": mxcsr, "xmm": outcome.written & SSE}
    written |= {"tail": False, "hdr_rest": False, "beyond": False}  # no instruction of the model can reach them
    written |= {str(i): outcome.written >> i & 1 for i in outcome.offsets}
    return {name: "F" if is_written else "N" for name, is_written in written.items()}


def _not_initial(unit: Unit) -> int:
    return sum(1 << i for i in COMPONENTS if unit.regs[i] != INIT)


def _kind(fault: str | None) -> str | None:
    """The vector without its error code: the silicon's signal handler does not see the code."""
    return fault.partition("(")[0] if fault else None


def _shown(value: Any) -> Any:
    """Values as the files have them: masks and quadwords in hexadecimal, tags, offsets and letters as they are."""
    if isinstance(value, int):
        return f"{value:#x}"
    if isinstance(value, dict):
        return {k: _quadwords(v) if k in _CET and isinstance(v, list) else v for k, v in value.items()}
    return value


def _quadwords(values: list[int | None]) -> list[str | None]:
    return [value if value is None else f"{value:#x}" for value in values]
