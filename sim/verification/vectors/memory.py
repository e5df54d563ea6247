"""The buffers of a test vector: memory, byte for byte, and what an instruction sees of it.

Intel SDM vol. 1, section 13.4: legacy region, XSAVE header, and the extended region in its two formats.
"""

from collections.abc import Mapping
from typing import Any, Final

from sim.verification.vectors.schema import Header, Image
from sim.verification.vectors.values import (
    ALIGNED,
    BUFFER_BYTES,
    SIZES,
    X87_PIECES,
    XMM,
    Content,
    bytes_of,
    content_of,
    described,
    from_quadwords,
    in_memory,
)
from sim.xsave.area import CONTENTS, EXTENDED_OFFSET, INIT, LEGACY_BYTES, Area, compacted_layout
from sim.xsave.components import bits

UNWRITTEN: Final = None
"""Stands in an area for what a save has not written."""

STANDARD_OFFSETS: Final[Mapping[str, Mapping[int, int]]] = {
    "silicon": {2: 576, 5: 832, 6: 896, 7: 1408},
    "intel": {2: 576, 5: 1088, 6: 1152, 7: 1664},
    "bochs": {2: 576, 5: 1088, 6: 1152, 7: 1664},
}
"""Offsets of the standard format by source (AMD's and Intel's), unless a meta line has the CPUID registers."""

_NO_TAG = 0xA5
"""The byte between prefilled areas, where the record says nothing; registers with these bytes have no tag."""
_KNOWN = sum(1 << i for i in SIZES)
_MXCSR = slice(24, 28)
_XSTATE_BV = slice(LEGACY_BYTES, LEGACY_BYTES + 8)
_XCOMP_BV = slice(LEGACY_BYTES + 8, LEGACY_BYTES + 16)
_REST = slice(LEGACY_BYTES + 16, EXTENDED_OFFSET)


def compacted_offsets(xcomp_bv: int) -> Mapping[int, int]:
    """Offsets in the compacted format; bits of components that the vectors do not have are ignored."""
    return compacted_layout(xcomp_bv & _KNOWN, SIZES, ALIGNED).offsets


def put(memory: bytearray, component: int, offsets: Mapping[int, int], raw: bytes) -> None:
    """Puts the bytes of a component into its place; one of the extended region that has no place there is left out."""
    if component == 0:
        for piece in X87_PIECES:
            length = piece.stop - piece.start
            memory[piece], raw = raw[:length], raw[length:]
    elif component == 1:
        memory[XMM] = raw
    elif component in offsets:
        memory[offsets[component] : offsets[component] + len(raw)] = raw


def bytes_at(memory: bytes | bytearray, component: int, offsets: Mapping[int, int]) -> bytes:
    """The bytes in the place of a component."""
    if component == 0:
        return b"".join(memory[piece] for piece in X87_PIECES)
    place = XMM if component == 1 else slice(offsets[component], offsets[component] + SIZES[component])
    return bytes(memory[place])


class Buffer:
    """One buffer in memory.  ``standard`` are the offsets of the standard format, by component."""

    def __init__(self, address: int, standard: Mapping[int, int]) -> None:
        self.address = address
        self.standard = standard
        self._memory = bytearray(BUFFER_BYTES)

    @property
    def mxcsr(self) -> int:
        """The field MXCSR as it is now."""
        return self._get(_MXCSR)

    # What the test program does to it.

    def prefill(self, offsets: Mapping[int, int], tag: int, mxcsr: int, bv: int, cv: int, rest: int) -> None:
        """Overwrites the buffer with what is there before a save."""
        self._memory = bytearray([_NO_TAG]) * BUFFER_BYTES
        for i in (0, 1, *offsets):
            self._put(i, offsets, in_memory(i, tag))
        self._set(_MXCSR, mxcsr)
        self._set(_XSTATE_BV, bv)
        self._set(_XCOMP_BV, cv)
        self._memory[_REST] = bytes([rest]) * (_REST.stop - _REST.start)

    def craft(self, image: Image) -> None:
        """Overwrites the buffer with a crafted image."""
        self._memory = bytearray(BUFFER_BYTES)
        offsets = compacted_offsets(image.cv) if image.fmt == "c" else self.standard
        for name, held in image.tags.items():
            self._put(int(name), offsets, described(int(name), held))
        for cet, values in image.cet.items():
            self._put(int(cet), offsets, bytes_of(int(cet), from_quadwords(int(cet), values)))
        self._set(_MXCSR, image.mxcsr)
        self._set(_XSTATE_BV, image.bv)
        self._set(_XCOMP_BV, image.cv)
        for offset, value in image.hdr_bytes.items():
            self._memory[LEGACY_BYTES + int(offset)] = value

    def craft_header(self, header: Header) -> None:
        """Overwrites the 64 bytes of the header."""
        self._set(_XSTATE_BV, header.bv)
        self._set(_XCOMP_BV, header.cv)
        self._set(_REST, 0)

    # What instructions do to it.

    def to_save(self, misalign: int) -> Area:
        """The area as a save finds it; what the save leaves :data:`UNWRITTEN` stays as it is in memory."""
        area = self._area(misalign)
        nothing: list[Any] = [UNWRITTEN] * CONTENTS
        area.standard = area.compacted = nothing
        area.mxcsr = -1
        return area

    def to_restore(self, misalign: int) -> Area:
        """The area as a restore finds it, in either format."""
        area = self._area(misalign)
        area.standard = self._contents(self.standard)
        area.compacted = self._contents(compacted_offsets(area.xcomp_bv))
        area.mxcsr = self._get(_MXCSR)
        return area

    def saved(self, area: Area, contents: list[Any], offsets: Mapping[int, int]) -> int:
        """Puts into memory what a save wrote into ``area``; returns the components that it wrote."""
        written = [i for i, content in enumerate(contents) if content is not UNWRITTEN]
        for i in written:
            self._put(i, offsets, bytes_of(i, contents[i]))
        if area.mxcsr >= 0:
            self._set(_MXCSR, area.mxcsr)
        self._set(_XSTATE_BV, area.xstate_bv)
        self._set(_XCOMP_BV, area.xcomp_bv)
        return sum(1 << i for i in written)

    def held(self, components: int, offsets: Mapping[int, int]) -> dict[int, Content]:
        """What memory holds at the offsets of ``components``."""
        return {i: self._read(i, offsets) for i in bits[components]}

    def _area(self, misalign: int) -> Area:
        area = Area(self.address + misalign, self._get(_XCOMP_BV))
        area.xstate_bv = self._get(_XSTATE_BV)
        area.header_rest = self._get(_REST)
        return area

    def _contents(self, offsets: Mapping[int, int]) -> list[Any]:
        contents: list[Any] = [INIT] * CONTENTS
        for i in (0, 1, *offsets):
            contents[i] = self._read(i, offsets)
        return contents

    def _read(self, component: int, offsets: Mapping[int, int]) -> Content:
        return content_of(component, bytes_at(self._memory, component, offsets))

    def _put(self, component: int, offsets: Mapping[int, int], raw: bytes) -> None:
        put(self._memory, component, offsets, raw)

    def _get(self, place: slice) -> int:
        return int.from_bytes(self._memory[place], "little")

    def _set(self, place: slice, value: int) -> None:
        self._memory[place] = value.to_bytes(place.stop - place.start, "little")
