"""Compares what the processor model did in a step with what was recorded: all that is guaranteed, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sim.verification.vectors.schema import Expected, Reinit, Restore, Save, Step, Vector
from sim.verification.vectors.values import AMX, COMPONENTS, MSRS, Content, describe, quadwords
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
    ``contents`` are those of the components that the record is to list, ``mxcsr_saved`` likewise.
    """

    fault: str | None = None
    bv: int | None = None
    cv: int | None = None
    offsets: Mapping[int, int] = field(default_factory=dict)
    compacted: bool = False
    rfbm: int = 0
    written: int = 0
    left_open: int = 0
    contents: Mapping[int, Content] = field(default_factory=dict)
    wrote_mxcsr: bool = False
    mxcsr_saved: int | None = None

    @property
    def saved(self) -> bool:
        return self.bv is not None


class Comparison:
    """One step: what departs from the record in ``departures``, in the order of the fields.

    ``free``: the model was told nothing.  Then ``left_open`` has what differs and is left to a processor.
    """

    def __init__(self, vector: Vector, number: int, step: Step, free: bool) -> None:
        self.vector, self.number, self.step, self.free = vector, number, step, free
        self.departures: list[Departure] = []
        self.left_open: list[Departure] = []

    def run(self, unit: Unit, outcome: Outcome, last: bool) -> "Comparison":
        """Compares all of the step."""
        exp, step = self.step.exp, self.step
        if _kind(exp.fault) != _kind(outcome.fault):
            self._differ("fault", exp.fault, outcome.fault)
            return self
        # After a fault in a restore the architecture leaves RFBM open; the silicon's registers are known not to change.
        unknown = outcome.fault is not None and isinstance(step, Restore) and self.vector.src != "silicon"
        held = _not_initial(unit)
        if (exp.noninit ^ held) & ~(step.rfbm if unknown and isinstance(step, Restore) else 0):
            self._differ("noninit", exp.noninit, held)
        needed = (exp.noninit if unknown else held) & unit.xcr0
        if exp.xinuse is None:
            if not outcome.fault:
                self._differ("xinuse", None, f"a superset of {needed:#x}")
        elif needed & ~exp.xinuse or exp.xinuse & ~unit.xcr0:  # XGETBV(1) is XCR0 & XINUSE
            self._differ("xinuse", exp.xinuse, f"a superset of {needed:#x} within {unit.xcr0:#x}")
        elif self.free and exp.xinuse != unit.xgetbv1():
            self._differ("xinuse", exp.xinuse, unit.xgetbv1(), left_open=True)
        self._save(outcome)
        if not unknown:
            self._registers(unit, isinstance(step, Restore | Reinit) or last)
        return self

    def _differ(self, name: str, expected: Any, got: Any, left_open: bool = False) -> None:
        found = self.left_open if left_open else self.departures
        found.append(Departure(self.vector.id, self.number, name, _shown(expected), _shown(got)))

    def _save(self, outcome: Outcome) -> None:
        exp = self.step.exp
        # A free processor's own choices: XINUSE and XMODIFIED, and so what a save with an optimisation skips.
        optimised = self.free and isinstance(self.step, Save) and self.step.op != "xsave"
        self._bv(exp, outcome)
        if exp.cv != outcome.cv:
            self._differ("cv", exp.cv, outcome.cv)
        if exp.mxcsr_saved != outcome.mxcsr_saved:
            choice = optimised and outcome.compacted and None in (exp.mxcsr_saved, outcome.mxcsr_saved)
            self._differ("mxcsr_saved", exp.mxcsr_saved, outcome.mxcsr_saved, choice)
        self._letters(exp, outcome, optimised)
        contents = {str(i): describe(i, content) for i, content in outcome.contents.items()}
        self._by_key("c", exp.c, contents if outcome.saved else None, one_sided=optimised)
        if exp.off is not None or (self.vector.src == "bochs" and outcome.compacted):
            offsets = {str(i): at for i, at in outcome.offsets.items()} if outcome.compacted else None
            self._by_key("off", exp.off, offsets)

    def _bv(self, exp: Expected, outcome: Outcome) -> None:
        if exp.bv == outcome.bv:
            return
        if not self.free or exp.bv is None or outcome.bv is None:
            self._differ("bv", exp.bv, outcome.bv)
            return
        impossible = (exp.bv ^ outcome.bv) & ~outcome.rfbm or exp.noninit & outcome.rfbm & ~exp.bv
        self._differ("bv", exp.bv, outcome.bv, left_open=not impossible)

    def _letters(self, exp: Expected, outcome: Outcome, optimised: bool) -> None:
        if exp.w is None or not outcome.saved:
            if (exp.w is None) is outcome.saved:
                self._differ("w", exp.w, _letters(outcome) if outcome.saved else None)
            return
        letters = _letters(outcome)
        recorded = {str(piece): letter for piece, letter in exp.w.items()}
        prefilled = isinstance(self.step, Save) and self.step.prefill is None
        if not prefilled:
            letters |= {piece: "?" for piece in letters if recorded.get(piece) == "?"}
            if not self.free and exp.bv is not None and exp.bv & SSE:  # a processor may skip it with XMM, or never
                letters |= {piece: recorded[piece] for piece in ("mxcsr", "mxcsr_mask") if piece in recorded}
        fixed = {"tail", "hdr_rest", "beyond", *(() if outcome.compacted else ("mxcsr", "mxcsr_mask"))}
        choices = {piece for piece in letters if optimised and piece not in fixed and recorded.get(piece, "P") != "P"}
        for is_choice in (False, True):
            some = [{k: v for k, v in each.items() if (k in choices) is is_choice} for each in (recorded, letters)]
            self._by_key("w", some[0], some[1], left_open=is_choice)
        if prefilled and not self.free:
            for i in bits[
                outcome.left_open
            ]:  # the model follows these letters: only the listed contents can contradict
                name = {0: "x87", 1: "xmm"}.get(i, str(i))
                listed = "F" if str(i) in (exp.c or {}) else "N"
                if name in recorded and recorded[name] != listed:
                    self._differ("w", {name: recorded[name]}, {name: listed})

    def _registers(self, unit: Unit, listed: bool) -> None:
        exp = self.step.exp
        if exp.regs is not None or listed:
            shown = [i for i in COMPONENTS if i not in MSRS and (i not in AMX or unit.xcr0 >> i & 1)]
            regs = {str(i): describe(i, unit.regs[i]) for i in shown}
            self._by_key("regs", exp.regs, regs)
        if exp.mxcsr is not None and exp.mxcsr != unit.mxcsr:
            self._differ("mxcsr", exp.mxcsr, unit.mxcsr)
        if exp.msrs is not None:
            msrs = {name: value for i in MSRS for name, value in zip(MSRS[i], quadwords(i, unit.regs[i]), strict=True)}
            recorded = {name: f"{value:#x}" for name, value in exp.msrs}
            self._by_key("msrs", recorded, {name: f"{value:#x}" for name, value in msrs.items()})

    def _by_key(
        self,
        name: str,
        expected: Mapping[Any, Any] | None,
        got: Mapping[str, Any] | None,
        left_open: bool = False,
        one_sided: bool = False,
    ) -> None:
        """One departure with the entries that differ, if any do; if ``one_sided``, what one side lacks is left open."""
        if expected is None or got is None:
            if expected is not got:
                self._differ(name, expected, got)
            return
        keys = [key for key in {**expected, **got} if expected.get(key, _ABSENT) != got.get(key, _ABSENT)]
        alone = [key for key in keys if one_sided and (key in expected) is not (key in got)]
        for some, is_left_open in (([key for key in keys if key not in alone], left_open), (alone, True)):
            if some:
                recorded = {key: expected[key] for key in some if key in expected}
                self._differ(name, recorded, {key: got[key] for key in some if key in got}, is_left_open)


_ABSENT = object()
_CET = [str(i) for i in MSRS]


def _letters(outcome: Outcome) -> dict[str, str]:
    mxcsr = outcome.wrote_mxcsr
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
