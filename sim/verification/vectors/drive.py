"""Runs test vectors against the processor model, driven or free.

Driven: after each step the model's XINUSE is set to the recorded one, and where a processor may choose, the model
follows the record, so that memory is always what it was on the recorded machine.  Free: the model is told nothing, and
does what the freedoms of a CPU profile say.  tests/data/vectors/README.md says what the recordings guarantee, and what
they leave to a processor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, assert_never

from sim.verification.vectors import refusals
from sim.verification.vectors.compare import Comparison, Departure, Outcome
from sim.verification.vectors.memory import STANDARD_OFFSETS, Buffer, compacted_offsets
from sim.verification.vectors.reading import VectorFile, read
from sim.verification.vectors.schema import (
    Cpuid,
    Expected,
    Ldmxcsr,
    Reinit,
    Restore,
    Save,
    Step,
    Touch,
    Touch1,
    Vector,
    Wrmsr,
)
from sim.verification.vectors.values import (
    AMX,
    MSRS,
    SIZES,
    content_of,
    from_quadwords,
    in_memory,
    quadwords,
    with_register,
)
from sim.verification.vectors.writes import Writes
from sim.xsave.area import INIT, Area
from sim.xsave.components import (
    ALL,
    AVX,
    COMPACTED,
    FP,
    MXCSR_INIT,
    SSE,
    bits,
)
from sim.xsave.freedoms import Freedoms
from sim.xsave.unit import Fault, Unit

MODE: Final = {"silicon": 3, "intel": 3, "bochs": 0}
"""By source, the CPL of a step that does not say it."""

RECORDED: Final[Mapping[str, Any]] = {
    "silicon": {"outer_exit_disturbs": True},
    "intel": {},
    "bochs": {"modified_optimisation": False},
}
"""Freedoms that a free run takes from the recorded machine: its hypervisor, and what saves leave of a prefill."""

_BY_VALUE = sum(1 << i for i in MSRS)
_BUFFERS = 3
_BUFFER_PITCH = 1 << 16
_EBX = 1
_ECX = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """What CPUID tells about the recorded machine: the offsets of the standard format, and the bits of IA32_XSS."""

    standard: Mapping[int, int]
    xss: int

    @classmethod
    def of(cls, source: str, cpuid_0d: Mapping[str, list[int]]) -> "Machine":
        recorded = {i: cpuid_0d[str(i)][_EBX] for i in SIZES if i not in MSRS and str(i) in cpuid_0d}
        xss = cpuid_0d["1"][_ECX] if "1" in cpuid_0d else refusals.SUPPORTED_XSS
        return cls({**STANDARD_OFFSETS[source], **recorded}, xss)


@dataclass(frozen=True, slots=True)
class FileResult:
    """The result of one file.

    ``left_open`` has the differences of a free run in which a processor may choose.
    """

    path: Path
    vectors: int
    steps: int
    disputed: int
    departures: list[Departure]
    left_open: list[Departure]


def verify(path: Path, free: Freedoms | None = None) -> FileResult:
    """Reads one file and runs its vectors: driven or, with the freedoms of a processor, ``free``."""
    return run(read(path), free)


def run(file: VectorFile, free: Freedoms | None = None) -> FileResult:
    """Runs the vectors of one file that was read."""
    departures: list[Departure] = []
    left_open: list[Departure] = []
    for vector in file.vectors:
        machine = Machine.of(vector.src, file.cpuid_0d.get(vector.src, {}))
        found, choices = _Run(vector, machine, free and replace(free, **RECORDED[vector.src])).differences()
        departures += found
        left_open += choices
    steps = [step for vector in file.vectors for step in vector.steps]
    return FileResult(
        file.path,
        len(file.vectors),
        len(steps),
        sum(step.exp.disputed is not None for step in steps),
        departures,
        left_open,
    )


class _Run:
    """One vector while it runs through the model."""

    def __init__(self, vector: Vector, machine: Machine, free: Freedoms | None) -> None:
        self.vector = vector
        self.machine = machine
        self.free = free is not None
        driven = Freedoms(xinuse_by_value=_BY_VALUE, mxcsr_apart_from_xmm=vector.src == "silicon")
        self.unit = Unit(vector.xcr0, vector.xss or 0, free or driven)
        self.unit.mode = MODE[vector.src]
        self.writes = Writes(self.unit, self.free)
        self.unit.xinuse = vector.x0 & vector.xcr0
        self.buffers = [Buffer((i + 1) * _BUFFER_PITCH, machine.standard) for i in range(_BUFFERS)]

    def differences(self) -> tuple[list[Departure], list[Departure]]:
        """What departs from the record, and what differs from it where a processor may choose."""
        departures: list[Departure] = []
        left_open: list[Departure] = []
        for number, step in enumerate(self.vector.steps):
            outcome = self._step(number, step)
            if step.exp.disputed is None:
                last = number + 1 == len(self.vector.steps)
                compared = Comparison(self.vector, number, step, self.free).run(self.unit, outcome, last)
                departures += compared.departures
                left_open += compared.left_open
            if outcome.fault or step.exp.fault:
                break
            if not self.free:
                self._follow_xinuse(step.exp, may_stay_unmodified=AVX if _is_legacy_sse_write(step) else 0)
        return departures, left_open

    def _follow_xinuse(self, exp: Expected, may_stay_unmodified: int = 0) -> None:
        """Sets XINUSE as recorded; a component that XGETBV does not show is in use if its value is not initial.

        A component that comes into use counts as modified, since memory may hold something else.
        """
        unit = self.unit
        if exp.xinuse is not None:
            held = sum(1 << i for i in bits[ALL] if unit.regs[i] != INIT)
            xinuse = exp.xinuse & unit.xcr0 | held
            unit.xmodified |= xinuse & ~unit.xinuse & ~may_stay_unmodified
            unit.xinuse = xinuse

    def _step(self, number: int, step: Step) -> Outcome:
        try:
            match step:
                case Save():
                    return self._save(number, step)
                case Restore():
                    return self._restore(step)
                case Touch():
                    self.writes.load(step.comp, content_of(step.comp, in_memory(step.comp, step.tag)), step.vex)
                case Touch1():
                    held = self.unit.regs[step.comp]
                    self.writes.load(step.comp, with_register(step.comp, held, step.reg, step.tag), step.vex, step.reg)
                case Reinit():
                    self.writes.reinit(step.how)
                case Ldmxcsr():
                    self._check_mxcsr(step.value)
                    self.writes.ldmxcsr(step.value)
                case Wrmsr():
                    self._wrmsr(step)
                case Cpuid():
                    self.unit.exit_to_outer_hypervisor()
                case _:
                    assert_never(step)
        except Fault as fault:
            return Outcome(fault=fault.vector)
        return Outcome()

    def _check_mxcsr(self, value: int) -> None:
        if value & ~refusals.LEGAL_MXCSR[self.vector.src]:
            raise Fault("#GP(0)", f"MXCSR {value:#x} has reserved bits")

    @staticmethod
    def _refuse(verdict: bool | None, exp: Expected) -> None:
        """Raises the fault for a refused value; where the CPU model decides, as recorded."""
        if verdict or (verdict is None and exp.fault):
            raise Fault("#GP(0)", "a value that the MSR does not take")

    def _wrmsr(self, step: Wrmsr) -> None:
        self._refuse(refusals.refused(step.msr, step.value, self.machine.xss), step.exp)
        if step.msr == "XSS":
            self.unit.xss = step.value
            return
        component = next(i for i, names in MSRS.items() if step.msr in names)
        values = quadwords(component, self.unit.regs[component])
        values[MSRS[component].index(step.msr)] = step.value
        self.unit.write(component, from_quadwords(component, values))

    def _restore(self, step: Restore) -> Outcome:
        self.unit.mode = MODE[self.vector.src] if step.cpl is None else step.cpl
        buffer = self.buffers[step.buf]
        if step.image:
            buffer.craft(step.image)
        if step.hdr:
            buffer.craft_header(step.hdr)
        area = buffer.to_restore(step.misalign)
        if step.exp.disputed and not step.exp.fault:
            area.xstate_bv &= ~COMPACTED  # a processor that does not fault ignores the bit

        def check(unit: Unit, loaded: int) -> None:
            if loaded & SSE:
                self._check_mxcsr(area.mxcsr)
            for i in bits[loaded & _BY_VALUE]:
                self._refuse(refusals.component_refused(i, quadwords(i, area.compacted[i])), step.exp)

        area.check = check
        restore = self.unit.xrstor if step.op == "xrstor" else self.unit.xrstors
        loaded = restore(area, step.rfbm)
        if self.writes.halves:
            self.writes.halves.restored(step.rfbm & self.unit.xcr0, loaded)
        return Outcome()

    def _save(self, number: int, step: Save) -> Outcome:
        unit, exp = self.unit, step.exp
        unit.mode = MODE[self.vector.src] if step.cpl is None else step.cpl
        compacted = step.op in ("xsavec", "xsaves")
        rfbm = step.rfbm & (unit.xcr0 | unit.xss if step.op == "xsaves" else unit.xcr0)
        standard = {i: at for i, at in self.machine.standard.items() if i not in AMX or unit.xcr0 >> i & 1}
        offsets = compacted_offsets(rfbm) if compacted else standard
        buffer = self.buffers[step.buf]
        if step.pre_bv is not None and step.pre_cv is not None and step.pre_rest is not None:
            tag, mxcsr = 100 + 2 * number, MXCSR_INIT | 1 + number
            buffer.prefill(offsets, tag, mxcsr, step.pre_bv, step.pre_cv, step.pre_rest)
        elif not self.free:
            self._follow_xinuse(exp)  # recorded as it was before the save
        area = buffer.to_save(step.misalign)
        left_open = 0
        if self.free:
            _SAVES[step.op](unit, area, step.rfbm)
        else:
            left_open = self._save_as_recorded(step, area, rfbm)
        written = buffer.saved(area, area.compacted if compacted else area.standard, offsets)
        listed, saved = (written, area.mxcsr) if step.prefill is None else self._listed(exp, buffer, area)
        return Outcome(
            bv=area.xstate_bv,
            cv=area.xcomp_bv,
            offsets={i: at for i, at in offsets.items() if step.prefill is None or i not in MSRS},
            compacted=compacted,
            rfbm=rfbm,
            written=written,
            left_open=left_open,
            contents=buffer.held(listed, offsets),
            wrote_mxcsr=area.mxcsr >= 0,
            mxcsr_saved=saved if saved >= 0 else None,
        )

    def _save_as_recorded(self, step: Save, area: Area, rfbm: int) -> int:
        """Saves; what a processor may write or leave alone is written if the record says so; returns those."""
        unit, exp = self.unit, step.exp
        # While MXCSR is not initial, XGETBV does not show XINUSE of SSE (SDM vol. 1, section 13.6).
        standard = step.op in ("xsave", "xsaveopt")
        unknown = rfbm & SSE if unit.mxcsr != MXCSR_INIT and unit.regs[1] == INIT and standard else 0
        left_open = 0
        recorded = _recorded(exp, "F")
        xmodified = unit.xmodified
        if step.op == "xsaveopt":
            left_open = self._skippable(area, rfbm, 0) | unknown
            unit.xmodified |= recorded
            unit.xinuse = unit.xinuse & ~unknown | unknown & recorded
        elif step.op == "xsaves" and self.vector.src == "bochs":
            unit.xmodified = ALL  # the emulator has no modified optimisation
        elif step.op == "xsaves":
            left_open = self._skippable(area, rfbm, rfbm | COMPACTED)
            unit.xmodified |= recorded
        try:
            _SAVES[step.op](unit, area, step.rfbm)
        finally:
            unit.xmodified = xmodified
        if exp.bv is not None:
            area.xstate_bv = area.xstate_bv & ~unknown | exp.bv & unknown
        return left_open

    @staticmethod
    def _listed(exp: Expected, buffer: Buffer, area: Area) -> tuple[int, int]:
        """What a record lists of memory that was not prefilled: components, and MXCSR (-1: not listed).

        These are the components in XSTATE_BV, except those that were seen to be left alone.
        """
        mxcsr = area.xstate_bv & SSE and (exp.w or {}).get("mxcsr", "N") in "F?"
        return _recorded(exp, "F?") & area.xstate_bv, buffer.mxcsr if mxcsr else -1

    def _skippable(self, area: Area, rfbm: int, xcomp_bv: int) -> int:
        """Components in use that the modified optimisation may skip (SDM vol. 1, sections 13.9 and 13.11)."""
        unit = self.unit
        matches = (unit.info_address, unit.info_xcomp_bv, unit.info_mode) == (area.address, xcomp_bv, unit.mode)
        return rfbm & unit.xinuse & ~unit.xmodified if matches else 0


_SAVES: Final[Mapping[str, Any]] = {
    "xsave": Unit.xsave,
    "xsaveopt": Unit.xsaveopt,
    "xsavec": Unit.xsavec,
    "xsaves": Unit.xsaves,
}


def _is_legacy_sse_write(step: Step) -> bool:
    """After these AVX may be in use and unmodified, as on Zen 4, which contradicts the architecture; not required."""
    if isinstance(step, Touch | Touch1):
        return step.comp == 1
    return isinstance(step, Reinit) and step.how == "xorps"


def _recorded(exp: Expected, letters: str) -> int:
    """The components with one of these letters."""
    found = {name for name, letter in (exp.w or {}).items() if letter in letters}
    legacy = FP * ("x87" in found) | SSE * ("xmm" in found)
    return legacy | sum(1 << int(name) for name in found if name.isdecimal())
