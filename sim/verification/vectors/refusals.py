"""Values that a processor does not take into MXCSR and the CET MSRs, by WRMSR, LDMXCSR or a restore.

Intel SDM vol. 1, section 10.2.3 "MXCSR Control and Status Register", and the chapter "Control-flow Enforcement
Technology (CET)"; vol. 4 for the MSRs.  XRSTORS checks the values of supervisor components as WRMSR does.
"""

from typing import Final

from sim.verification.vectors.values import MSRS
from sim.xsave.components import USER

LEGAL_MXCSR: Final = {"silicon": 0x2FFFF, "intel": 0xFFFF, "bochs": 0xFFFF}
"""MXCSR_MASK by source: the silicon has bit 17."""
SUPPORTED_XSS: Final = 0x1800

_U_CET_RESERVED = 0x3C0
_SUPPRESS_AND_TRACKER = 0xC00
_NARROW, _WIDE = 48, 57  # widths of a linear address: the CPU model's choice


def _canonical(value: int, width: int) -> bool:
    return value >> width - 1 in (0, (1 << 65 - width) - 1)


def refused(msr: str, value: int, supported_xss: int = SUPPORTED_XSS) -> bool | None:
    """Whether a write of ``value`` is a #GP(0); None if that depends on the CPU model."""
    if msr == "XSS":
        if value & USER:
            return True
        return None if value & ~supported_xss else False
    if msr == "U_CET":
        if value & _U_CET_RESERVED or value & _SUPPRESS_AND_TRACKER == _SUPPRESS_AND_TRACKER:
            return True
    elif value & 3:
        return True
    if not _canonical(value, _WIDE):
        return True
    if not _canonical(value, _NARROW):
        return None
    # Whether a shadow-stack pointer may be 4 bytes off an 8-byte boundary: Bochs takes it.
    return None if msr != "U_CET" and value & 4 else False


def component_refused(component: int, values: list[int]) -> bool | None:
    """The same for all MSRs of component 11 or 12."""
    verdicts = [refused(msr, value) for msr, value in zip(MSRS[component], values, strict=True)]
    return True if True in verdicts else None if None in verdicts else False
