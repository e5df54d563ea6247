"""The XSAVE area: where each state component is, and what is in it.

Intel SDM vol. 1, section 13.4 "XSAVE area": legacy region (bytes 0-511), header (512-575), extended region (from 576).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sim.xsave.components import COMPACTED, EXTENDED, MXCSR_INIT, bits

LEGACY_BYTES = 512
HEADER_BYTES = 64
EXTENDED_OFFSET = LEGACY_BYTES + HEADER_BYTES
ALIGNMENT = 64

INIT = 0
"""Content of a component in its initial configuration."""

CONTENTS = 20
"""Components 0-19 have a place in :class:`Area` and in the register file."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The components of an XSAVE area: byte offsets by component number, and the size in bytes.

    Only components 2-62 are listed; x87 and SSE always lie in the legacy region.
    """

    offsets: Mapping[int, int]
    size: int


def compacted_layout(xcomp_bv: int, sizes: Mapping[int, int], aligned: int) -> Layout:
    """The compacted format for the components in ``xcomp_bv`` (bit 63 is ignored).

    ``sizes`` in bytes by component (CPUID.(EAX=0DH,ECX=i):EAX), ``aligned`` the mask of components that start on a
    64-byte boundary (ECX[1] of the same sub-leaf).  The size is not rounded up at the end.

    Source: Intel SDM vol. 1, section 13.4.3 "Extended Region of an XSAVE Area".
    """
    offset, offsets = EXTENDED_OFFSET, {}
    for i in bits[xcomp_bv & EXTENDED]:
        if aligned >> i & 1:
            offset = -(-offset // ALIGNMENT) * ALIGNMENT
        offsets[i] = offset
        offset += sizes[i]
    return Layout(offsets, offset)


def standard_layout(xcr0: int, sizes: Mapping[int, int], offsets: Mapping[int, int]) -> Layout:
    """The standard format for the user components in ``xcr0``.

    ``offsets`` in bytes by component (CPUID.(EAX=0DH,ECX=i):EBX).  The size is the end of the component that ends last.

    Source: Intel SDM vol. 1, section 13.4.3, and CPUID leaf 0DH, sub-leaf 0, EBX.
    """
    places = {i: offsets[i] for i in bits[xcr0 & EXTENDED]}
    return Layout(places, max((at + sizes[i] for i, at in places.items()), default=EXTENDED_OFFSET))


class Area:
    """One XSAVE area in memory, with a content for each component instead of its bytes.

    ``standard`` and ``compacted`` are the contents as an instruction of either format sees them; the kernel never uses
    an area in both, so here they are one list.  ``header_rest`` is header bytes 16-63 as a little-endian integer.  PKRU
    is kept separately, because Linux neither restores it from an area nor uses it there.

    ``check``, where an area has one, is called as ``check(unit, loaded)`` before a restore takes effect, and raises the
    fault for values that the processor refuses (tokens are never refused).
    """

    __slots__ = ("address", "check", "compacted", "header_rest", "mxcsr", "pkru", "standard", "xcomp_bv", "xstate_bv")

    def __init__(self, address: int, xcomp_bv: int = 0) -> None:
        self.address = address
        self.xstate_bv = 0
        self.xcomp_bv = xcomp_bv
        self.header_rest = 0
        self.mxcsr = MXCSR_INIT
        self.pkru = 0
        self.standard: list[Any] = [INIT] * CONTENTS
        self.compacted = self.standard
        self.check: Callable[[Any, int], None] | None = None

    def __repr__(self) -> str:
        kind = "compacted" if self.xcomp_bv & COMPACTED else "standard"
        return f"<{kind} area {self.address:#x} xstate_bv={self.xstate_bv:#x} xcomp_bv={self.xcomp_bv:#x}>"
