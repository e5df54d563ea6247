"""A unit with everything enabled, and an area for it."""

from sim.xsave.area import Area
from sim.xsave.components import (
    AVX,
    CET_S,
    CET_U,
    COMPACTED,
    FP,
    HI16_ZMM,
    PKRU,
    SSE,
    XTILE,
    ZMM_HI256,
    bits,
)
from sim.xsave.freedoms import DEFAULT_FREEDOMS, Freedoms
from sim.xsave.unit import Unit

XCR0 = FP | SSE | AVX | ZMM_HI256 | HI16_ZMM | PKRU | XTILE
XSS = CET_U | CET_S
ENABLED = XCR0 | XSS
MXCSR = 0x3F80


def unit(freedoms: Freedoms = DEFAULT_FREEDOMS) -> Unit:
    return Unit(XCR0, XSS, freedoms)


def area(number: int = 1, xcomp_bv: int = ENABLED | COMPACTED) -> Area:
    return Area(number << 12, xcomp_bv)


def restored(mask: int = ENABLED, freedoms: Freedoms = DEFAULT_FREEDOMS) -> tuple[Unit, Area]:
    """A unit that has just loaded every component of ``mask`` from an area, so that nothing is modified."""
    cpu, memory = unit(freedoms), area()
    memory.xstate_bv = ENABLED
    for i in bits[ENABLED]:
        memory.compacted[i] = f"old {i}"
    memory.pkru = 4
    cpu.xrstors(memory, mask)
    return cpu, memory
