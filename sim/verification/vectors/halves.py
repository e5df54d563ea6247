"""Registers 0-7 and 8-15 of XMM, YMM and ZMM, where a processor tracks what is in use in each half apart.

A restore that loads AVX or ZMM_Hi256 takes registers 8-15 for unused if all that they then hold is zero; what writes of
them alone had marked goes, also outside RFBM.  Found by 140 combinations of a write and a restore on an Intel server
processor at CPL 3.  The processor model holds components as wholes, so only vectors can show it.
"""

from typing import Final

from sim.verification.vectors.values import bytes_of, width_of
from sim.xsave.components import AVX, SSE, ZMM_HI256, bits
from sim.xsave.unit import Unit

VECTORS: Final = SSE | AVX | ZMM_HI256
_UPPER: Final = 8


class Halves:
    """What of SSE, AVX and ZMM_Hi256 is in use in the lower and in the upper half: XINUSE is both together."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._lower = self._upper = 0

    def above(self, register: int | None) -> int:
        """What a write of one register, or of all, with a VEX prefix modifies by zeroing what lies above its width."""
        lower = self._lower if register is None or register < _UPPER else 0
        upper = self._upper if register is None or register >= _UPPER else 0
        return (lower | upper) & (AVX | ZMM_HI256)

    def written(self, marked: int, register: int | None = None) -> None:
        """``marked`` are brought into use by a write of one register, or of all."""
        if register is None or register < _UPPER:
            self._lower |= marked
        if register is None or register >= _UPPER:
            self._upper |= marked

    def initialised(self, components: int) -> None:
        """By VZEROUPPER or VZEROALL."""
        self._lower &= ~components
        self._upper &= ~components

    def restored(self, rfbm: int, loaded: int) -> None:
        """Sets the processor's XINUSE as it is after a restore that it has done."""
        self._lower = self._lower & ~rfbm | loaded & VECTORS
        self._upper = self._upper & ~rfbm | loaded & VECTORS
        regs = self._unit.regs
        held = (bytes_of(i, regs[i])[_UPPER * width_of(i) :] for i in bits[VECTORS])
        if loaded & (AVX | ZMM_HI256) and not any(any(each) for each in held):
            self._upper = 0
        self._unit.xinuse = self._unit.xinuse & ~VECTORS | self._lower | self._upper
