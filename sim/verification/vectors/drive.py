"""Runs test vectors against the processor model, driven: after each step the model's XINUSE is set to the recorded one.

What the recordings guarantee, and what they leave to a processor, is in tests/data/vectors/README.md.  Where a
processor may choose, the model follows the record, so that memory stays what it was on the recorded machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never

from sim.verification.vectors import refusals
from sim.verification.vectors.compare import Departure, Outcome, compare
from sim.verification.vectors.memory import Buffer, compacted_offsets
from sim.verification.vectors.schema import (
    Expected,
    Ldmxcsr,
    Reinit,
    Restore,
    Save,
    Step,
    Touch,
    Touch1,
    Vector,
    VectorFile,
    Wrmsr,
    read,
)
from sim.verification.vectors.values import (
    MSRS,
    after_fninit,
    content_of,
    from_quadwords,
    in_memory,
    quadwords,
    with_register,
)
from sim.xsave.area import INIT, Area
from sim.xsave.components import ALL, AVX, COMPACTED, FP, HI16_ZMM, MXCSR_INIT, OPMASK, SSE, ZMM_HI256, bits
from sim.xsave.unit import Fault, Freedoms, Unit

STANDARD_OFFSETS: Final[Mapping[str, Mapping[int, int]]] = {
    "silicon": {2: 576, 5: 832, 6: 896, 7: 1408},
    "bochs": {2: 576, 5: 1088, 6: 1152, 7: 1664},
}
"""Offsets of the standard format by source (AMD's and Intel's), unless a meta line has the CPUID registers."""

MODE: Final = {"silicon": 3, "bochs": 0}
"""CPL by source."""

_REINIT: Final = {
    "xorps": SSE,
    "avxhi0": AVX,
    "vzeroupper": AVX | ZMM_HI256,
    "vzeroall": SSE | AVX | ZMM_HI256,
    "kxor": OPMASK,
    "zmmhi0": ZMM_HI256,
    "hi160": HI16_ZMM,
}
_BY_VALUE = sum(1 << i for i in MSRS)
_BUFFERS = 3
_BUFFER_PITCH = 1 << 16
_EBX = 1
_ECX = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """The recorded machine, as far as CPUID tells: the places of the standard format, and the bits of IA32_XSS."""

    standard: Mapping[int, int]
    xss: int

    @classmethod
    def of(cls, source: str, cpuid_0d: Mapping[str, list[int]]) -> "Machine":
        recorded = {i: cpuid_0d[str(i)][_EBX] for i in STANDARD_OFFSETS[source] if str(i) in cpuid_0d}
        xss = cpuid_0d["1"][_ECX] if "1" in cpuid_0d else refusals.SUPPORTED_XSS
        return cls({**STANDARD_OFFSETS[source], **recorded}, xss)


@dataclass(frozen=True, slots=True)
class FileResult:
    """What came of one file."""

    path: Path
    vectors: int
    steps: int
    disputed: int
    departures: list[Departure]


def verify(path: Path) -> FileResult:
    """Reads one file and runs its vectors."""
    return run(read(path))


def run(file: VectorFile) -> FileResult:
    """Runs the vectors of one file that was read."""
    departures: list[Departure] = []
    for vector in file.vectors:
        machine = Machine.of(vector.src, file.cpuid_0d.get(vector.src, {}))
        departures += _Run(vector, machine).departures()
    steps = [step for vector in file.vectors for step in vector.steps]
    return FileResult(
        file.path,
        len(file.vectors),
        len(steps),
        sum(step.exp.disputed is not None for step in steps),
        departures,
    )


class _Run:
    """One vector on its way through the model."""

    def __init__(self, vector: Vector, machine: Machine) -> None:
        self.vector = vector
        self.machine = machine
        self.unit = Unit(vector.xcr0, vector.xss or 0, Freedoms(xinuse_by_value=_BY_VALUE))
        self.unit.mode = MODE[vector.src]
        self.unit.xinuse = vector.x0 & vector.xcr0
        self.buffers = [Buffer((i + 1) * _BUFFER_PITCH, machine.standard) for i in range(_BUFFERS)]

    def departures(self) -> list[Departure]:
        found: list[Departure] = []
        for number, step in enumerate(self.vector.steps):
            outcome = self._step(number, step)
            if step.exp.disputed is None:
                last = number + 1 == len(self.vector.steps)
                found += compare(self.vector, number, step, self.unit, outcome, last)
            if outcome.fault or step.exp.fault:
                break
            self._follow_xinuse(step.exp)
        return found

    def _follow_xinuse(self, exp: Expected) -> None:
        """XINUSE as recorded; of components that XGETBV does not show, and those that are not initial, by value."""
        unit = self.unit
        if exp.xinuse is not None:
            held = sum(1 << i for i in bits[ALL] if unit.regs[i] != INIT)
            unit.xinuse = exp.xinuse & unit.xcr0 | held

    def _step(self, number: int, step: Step) -> Outcome:
        try:
            match step:
                case Save():
                    return self._save(number, step)
                case Restore():
                    return self._restore(step)
                case Touch():
                    self.unit.write(step.comp, content_of(step.comp, in_memory(step.comp, step.tag)))
                case Touch1():
                    held = self.unit.regs[step.comp]
                    self.unit.write(step.comp, with_register(step.comp, held, step.reg, step.tag))
                case Reinit():
                    self._reinit(step)
                case Ldmxcsr():
                    self._check_mxcsr(step.value)
                    self.unit.ldmxcsr(step.value)
                case Wrmsr():
                    self._wrmsr(step)
                case _:
                    assert_never(step)
        except Fault as fault:
            return Outcome(fault=fault.vector)
        return Outcome()

    def _reinit(self, step: Reinit) -> None:
        if step.how == "fninit":
            self.unit.write(0, after_fninit(self.unit.regs[0]))
        else:
            self.unit.initialise(_REINIT[step.how])

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
        if step.op == "xrstor":
            self.unit.xrstor(area, step.rfbm)
        else:
            self.unit.xrstors(area, step.rfbm)
        return Outcome()

    def _save(self, number: int, step: Save) -> Outcome:
        unit, exp = self.unit, step.exp
        compacted = step.op in ("xsavec", "xsaves")
        rfbm = step.rfbm & (unit.xcr0 | unit.xss if step.op == "xsaves" else unit.xcr0)
        offsets = compacted_offsets(rfbm) if compacted else self.machine.standard
        buffer = self.buffers[step.buf]
        buffer.prefill(offsets, 100 + 2 * number, MXCSR_INIT | 1 + number, step.pre_bv, step.pre_cv, step.pre_rest)
        area = buffer.to_save(step.misalign)
        recorded = _recorded_as_written(exp)
        # Of SSE, XGETBV does not tell XINUSE while MXCSR is not initial (SDM vol. 1, section 13.6).
        unknown = rfbm & SSE if unit.mxcsr != MXCSR_INIT and unit.regs[1] == INIT and not compacted else 0
        left_open = self._skippable(area, rfbm) | unknown if step.op == "xsaveopt" else 0
        xmodified = unit.xmodified
        if step.op == "xsaveopt":
            unit.xmodified |= recorded
            unit.xinuse = unit.xinuse & ~unknown | unknown & recorded
        elif step.op == "xsaves":
            unit.xmodified = ALL  # the emulator has no modified optimisation
        try:
            _SAVES[step.op](unit, area, step.rfbm)
        finally:
            unit.xmodified = xmodified
        if exp.bv is not None:
            area.xstate_bv = area.xstate_bv & ~unknown | exp.bv & unknown
        written = buffer.saved(area, area.compacted if compacted else area.standard, offsets)
        return Outcome(
            bv=area.xstate_bv,
            cv=area.xcomp_bv,
            offsets=offsets,
            compacted=compacted,
            written=written,
            left_open=left_open,
            contents=buffer.held(written, offsets),
            mxcsr_saved=area.mxcsr if area.mxcsr >= 0 else None,
        )

    def _skippable(self, area: Area, rfbm: int) -> int:
        """Components in use that the modified optimisation of XSAVEOPT may skip (SDM vol. 1, section 13.9)."""
        unit = self.unit
        matches = (unit.info_address, unit.info_xcomp_bv, unit.info_mode) == (area.address, 0, unit.mode)
        return rfbm & unit.xinuse & ~unit.xmodified if matches else 0


_SAVES: Final[Mapping[str, Any]] = {
    "xsave": Unit.xsave,
    "xsaveopt": Unit.xsaveopt,
    "xsavec": Unit.xsavec,
    "xsaves": Unit.xsaves,
}


def _recorded_as_written(exp: Expected) -> int:
    written = {name for name, letter in (exp.w or {}).items() if letter == "F"}
    legacy = FP * ("x87" in written) | SSE * ("xmm" in written)
    return legacy | sum(1 << int(name) for name in written if name.isdecimal())
