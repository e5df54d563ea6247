"""What the steps of a vector write to registers, as the instructions of record.c do."""

from typing import Final

from sim.verification.vectors.halves import Halves
from sim.verification.vectors.values import Content, after_fninit, with_register
from sim.xsave.area import INIT
from sim.xsave.components import AVX, HI16_ZMM, OPMASK, SSE, XTILE, XTILEDATA, ZMM_HI256, bits
from sim.xsave.unit import Fault, Unit

_INITIALISES: Final = {"vzeroupper": AVX | ZMM_HI256, "vzeroall": SSE | AVX | ZMM_HI256, "tilerelease": XTILE}
_ZEROES: Final = {"xorps": SSE, "kxor": OPMASK, "hi160": HI16_ZMM}
_ZEROES_WITH_VEX: Final = {"vxorps": SSE, "vxorps256": SSE | AVX}
_LOADS_ZERO: Final = {"avxhi0": 2, "zmmhi0": 6, "tilezero": 18}
_VECTORS: Final = SSE | AVX | ZMM_HI256
_BY_512_BIT_WRITES: Final = (2, 6)
"""Components that the recording program writes with EVEX instructions of 512 bits."""


class Writes:
    """Writes of a processor's registers.  ``halves`` is of one that tracks registers 8-15 apart, and is left free.

    ``free``: it does as its profile says; else what it brings into use is recorded, and not known here.
    """

    def __init__(self, unit: Unit, free: bool) -> None:
        self._unit = unit
        self._free = free
        self.halves = Halves(unit) if free and unit.freedoms.upper_registers_apart else None

    def load(self, component: int, content: Content, vex: bool | None = None, register: int | None = None) -> None:
        """A register of ``component``, or all, is loaded, after which the component holds ``content``.

        Raises :class:`~sim.xsave.unit.Fault` for an instruction on tiles without a palette.
        """
        unit = self._unit
        if component == 17:
            unit.write(17, content)
            unit.initialise(XTILEDATA)  # LDTILECFG initialises the tiles, too
        elif vex:
            self._load_with_vex(component, content, register)
        else:
            if component == 18 and unit.regs[17] == INIT:
                raise Fault("#UD", "an instruction on tiles without a palette in TILECFG")
            unit.write(component, content)
            if self._free and component in _BY_512_BIT_WRITES:
                unit.mark_written(ZMM_HI256)
                self._mark(ZMM_HI256 | unit.freedoms.zmm_write_group, register)
            elif component == 1:
                self._mark(SSE, register)

    def ldmxcsr(self, value: int) -> None:
        """LDMXCSR; its mark is not of registers 8-15."""
        self._unit.ldmxcsr(value)
        if self._unit.freedoms.ldmxcsr_sets_xinuse:
            self._mark(SSE, register=0)

    def reinit(self, how: str) -> None:
        """An instruction of the vectors' ``reinit``."""
        unit = self._unit
        if how == "fninit":
            unit.write(0, after_fninit(unit.regs[0]))
        elif how in _LOADS_ZERO:
            self.load(_LOADS_ZERO[how], INIT)
        elif how == "vinsertf128":
            self.load(2, INIT, vex=True)
        elif how in _ZEROES_WITH_VEX:
            self._zero_with_vex(_ZEROES_WITH_VEX[how])
        elif how in _ZEROES:
            unit.zero(_ZEROES[how])
            self._mark(_ZEROES[how] & SSE)
        else:
            unit.initialise(_INITIALISES[how])
            if self.halves:
                self.halves.initialised(_INITIALISES[how])

    def _zero_with_vex(self, components: int) -> None:
        unit = self._unit
        for i in bits[_VECTORS]:
            unit.regs[i] = INIT
        if unit.freedoms.zeroing_idioms_set_xinuse & SSE:
            unit.write_with_vex(components)
        else:
            unit.initialise(_VECTORS)
        self._mark(components)

    def _mark(self, marked: int, register: int | None = None) -> None:
        if self.halves:
            self.halves.written(marked, register)

    def _load_with_vex(self, component: int, content: Content, register: int | None) -> None:
        unit = self._unit
        unit.regs[component] = content
        xmodified, unchanged = unit.xmodified, 0
        for above in (2, 6) if component == 1 else (6,):
            held = unit.regs[above]
            unit.regs[above] = INIT if register is None else with_register(above, held, register, INIT)
            unchanged |= (unit.regs[above] == held) << above
        unit.write_with_vex(1 << component)
        if register is None and unit.freedoms.vex_write_initialises_above:
            unit.xinuse &= ~(AVX | ZMM_HI256 if component == 1 else ZMM_HI256)
        if not self._free:  # zeros over zeros: a processor need not count that as a modification
            unit.xmodified &= ~unchanged | xmodified
        elif self.halves:
            marked = 1 << component | (unit.freedoms.ymm_write_group if component == 2 else 0)
            unit.xmodified &= xmodified | marked | self.halves.above(register)
            self.halves.written(marked, register)
