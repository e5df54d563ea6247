"""The two instructions behind every save and restore of the kernel, with their records.

Source: arch/x86/kernel/fpu/xstate.h os_xsave(), os_xrstor(); on all CPUs here they are XSAVES and XRSTORS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.kernel.operations import XRSTORS, XSAVES
from sim.kernel.state import Cpu
from sim.xsave.area import Area

if TYPE_CHECKING:
    from sim.kernel.kernel import Kernel


def os_xsave(k: Kernel, cpu: Cpu, area: Area, mask: int, phase: str) -> int:
    """XSAVES; the components that it wrote.

    All of ``mask`` is enabled, because XCR0 and IA32_XSS have the host's values whenever the host saves or restores; so
    it is the RFBM.
    """
    written = cpu.unit.xsaves(area, mask)
    key = (cpu.current.kind, phase, XSAVES, mask, written, mask ^ area.xstate_bv)
    cpu.record((*key, k.buffer_level(cpu, area)) if k.buffer_level else key)
    if mask & k.cleared_by_xsaves:
        _clear_what_xsaves_clears(k, cpu)
    return written


def _clear_what_xsaves_clears(k: Kernel, cpu: Cpu) -> None:
    """UINV in IA32_UINTR_MISC; a token stands for the whole MSR."""
    index = k.carried.cleared_by_xsaves
    assert index is not None
    if k.carried_value(cpu, index):
        k.set_carried_value(cpu, index, 0)


def os_xrstor(k: Kernel, cpu: Cpu, area: Area, mask: int, phase: str) -> None:
    """XRSTORS; what ``mask`` has and XSTATE_BV lacks becomes initial."""
    loaded = cpu.unit.xrstors(area, mask)
    key = (cpu.current.kind, phase, XRSTORS, mask, loaded, mask ^ loaded)
    cpu.record((*key, k.buffer_level(cpu, area)) if k.buffer_level else key)
    if mask & k.carried_mask:
        cpu.carried_cache = None
