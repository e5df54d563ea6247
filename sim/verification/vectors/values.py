"""Register contents: as tags of the test vectors, as bytes in memory, and as the processor model holds them.

The formula of the tags is in tests/data/vectors/README.md; the places of the x87 fields and of XMM in the legacy region
are in Intel SDM vol. 1, section 13.4.1 and vol. 2, FXSAVE (64-bit mode, REX.W = 1); the quadwords of CET_U and CET_S in
vol. 1, sections 13.5.9.1 and 13.5.9.2; the fields of TILECFG in vol. 2, LDTILECFG.
"""

import struct
from functools import cache
from typing import Final

from sim.xsave.area import INIT
from sim.xsave.components import XTILE

Content = int | bytes
"""INIT, or the bytes that the component has in memory."""

Described = int | str | list[int | None] | list[int]
"""A tag; "fninit:<tag>"; one tag or None per register; the quadwords of components 11 and 12."""

SIZES: Final = {2: 256, 5: 64, 6: 512, 7: 1024, 11: 16, 12: 24, 17: 64, 18: 8192}
"""Sizes of the components of the extended region in the vectors."""
ALIGNED: Final = XTILE
"""Those of them that start on a 64-byte boundary in the compacted format."""
BUFFER_BYTES: Final = 16384
REGISTERS: Final = {1: 16, 2: 16, 5: 8, 6: 16, 7: 16, 18: 7}
"""Registers by component that a tag fills; of eight tiles the last stays initial, since its shape is TILECFG's tag."""
COMPONENTS: Final = (0, 1, *SIZES)
AMX: Final = (17, 18)
"""Components that only the vectors have whose XCR0 has them."""
MSRS: Final = {11: ("U_CET", "PL3_SSP"), 12: ("PL0_SSP", "PL1_SSP", "PL2_SSP")}
"""The MSRs of components 11 and 12 in the order of their quadwords."""

X87_PIECES: Final = (slice(0, 24), slice(32, 160))
"""x87 in the legacy region: MXCSR and MXCSR_MASK lie between its two pieces."""
XMM: Final = slice(160, 416)

_CONTROL = struct.Struct("<HHBxHQQ")  # FCW, FSW, abridged FTW, FOP, FIP, FDP
_ST_BYTES = 10
_ST_PITCH = 16
_INIT_CONTROL = _CONTROL.pack(0x37F, 0, 0, 0, 0, 0)
_TILECFG = struct.Struct("<B15x8H16x8B8x")  # palette, bytes per row and rows of each tile
_TILE_BYTES = 1024
_NO_TAGS: Final[list[int | None]] = [None]
_TAGS = 256
_INVERSE_37 = pow(37, -1, _TAGS)


def _pattern(component: int, first: int, length: int, tag: int) -> bytes:
    return bytes((37 * tag + 11 * component + 7 * i + 13 * (i >> 3)) & 255 for i in range(first, first + length))


def _x87(control: bytes, data: bytes) -> bytes:
    registers = (data[i : i + _ST_BYTES] for i in range(0, len(data), _ST_BYTES))
    return control + b"".join(register.ljust(_ST_PITCH, b"\0") for register in registers)


def _x87_control(tag: int) -> bytes:
    if not tag:
        return _INIT_CONTROL
    fcw, fsw = 0x37F | (tag & 3) << 10, (tag >> 2 & 1) << 8 | (tag >> 3 & 1) << 14
    return _CONTROL.pack(fcw, fsw, 37 * tag & 255 | 1, 0, 0, 0)


def _x87_data(content: bytes) -> bytes:
    start = _CONTROL.size
    return b"".join(content[start + i * _ST_PITCH :][:_ST_BYTES] for i in range(8))


def width_of(component: int) -> int:
    """Bytes of one of its registers."""
    return _TILE_BYTES if component == 18 else size_of(component) // REGISTERS[component]


def size_of(component: int) -> int:
    """Bytes in memory of a component other than x87."""
    return SIZES[component] if component in SIZES else XMM.stop - XMM.start


@cache
def in_memory(component: int, tag: int) -> bytes:
    """The bytes of a component that holds ``tag``; tag 0 is its initial configuration."""
    if component == 0:
        return _x87(_x87_control(tag), _pattern(0, 16, 80, tag) if tag else bytes(80))
    size = size_of(component)
    if not tag:
        return bytes(size)
    if component == 17:
        rows, columns = 1 + (tag & 15), 4 + 4 * (tag >> 4)
        return _TILECFG.pack(1, *(64,) * 7, columns, *(16,) * 7, rows)
    filled = REGISTERS[18] * _TILE_BYTES if component == 18 else size
    return _pattern(component, 0, filled, tag).ljust(size, b"\0")


def bytes_of(component: int, content: Content) -> bytes:
    """The bytes that a save stores for ``content``."""
    return content if isinstance(content, bytes) else in_memory(component, INIT)


def content_of(component: int, raw: bytes) -> Content:
    """What registers loaded from ``raw`` hold: reserved bytes of x87 are lost, and TILECFG takes valid values only."""
    if component == 0:
        raw = _x87(raw[:5] + b"\0" + raw[6 : _CONTROL.size], _x87_data(raw))
    elif component == 17 and not _is_tilecfg(raw):
        return INIT
    return INIT if raw == in_memory(component, INIT) else raw


def _is_tilecfg(raw: bytes) -> bool:
    """Whether LDTILECFG takes it as a configuration.  What it refuses, a restore initialises without a fault."""
    palette, *fields = _TILECFG.unpack(raw)
    columns, rows = fields[:8], fields[8:]
    reserved = raw[2:16] + raw[32:48] + raw[56:]
    of_tiles = zip(columns, rows, strict=True)
    fits = all(across <= 64 and down <= 16 and bool(across) is bool(down) for across, down in of_tiles)
    return palette == 1 and not any(reserved) and fits


def with_register(component: int, content: Content, register: int, tag: int) -> Content:
    """``content`` with one register loaded with ``tag``."""
    raw = bytearray(bytes_of(component, content))
    width = width_of(component)
    place = slice(register * width, (register + 1) * width)
    raw[place] = in_memory(component, tag)[place]
    return content_of(component, bytes(raw))


def after_fninit(content: Content) -> Content:
    """x87 ``content`` after FNINIT: control, status and tag words are initial, the data registers keep their values."""
    return content_of(0, _x87(_INIT_CONTROL, _x87_data(bytes_of(0, content))))


def quadwords(component: int, content: Content) -> list[int]:
    """The MSR values of component 11 or 12."""
    raw = bytes_of(component, content)
    return list(struct.unpack(f"<{len(raw) // 8}Q", raw))


def from_quadwords(component: int, values: list[int]) -> Content:
    """The content of component 11 or 12 with these MSR values."""
    return content_of(component, struct.pack(f"<{len(values)}Q", *values))


def _tag(component: int, first: int, raw: bytes) -> int | None:
    """The tag whose pattern, from byte ``first`` of the component on, is ``raw``; None if there is none."""
    if not any(raw):
        return INIT
    tag = (raw[0] - _pattern(component, first, 1, 0)[0]) * _INVERSE_37 % _TAGS
    return tag if tag and raw == _pattern(component, first, len(raw), tag) else None


def _per_register(component: int, first: int, data: bytes, width: int) -> list[int | None]:
    return [_tag(component, first + i, data[i : i + width]) for i in range(0, len(data), width)]


@cache
def describe(component: int, content: Content) -> Described:
    """``content`` in the words of the vectors."""
    if component in MSRS:
        return quadwords(component, content)
    raw = bytes_of(component, content)
    if component == 17:
        of_shape = (raw[55] - 1 | raw[30] - 4 << 2) & 255 if raw[0] else INIT
        return of_shape if raw == in_memory(17, of_shape) else _NO_TAGS
    if component:
        filled = REGISTERS[component] * width_of(component)
        tags = _per_register(component, 0, raw[:filled], width_of(component))
        return [*tags, None] if any(raw[filled:]) else same(tags)
    control, data = raw[: _CONTROL.size], _x87_data(raw)
    tag = _tag(0, 16, data)
    if tag is not None and control == _x87_control(tag):
        return tag
    if tag is not None and control == _INIT_CONTROL:
        return f"fninit:{tag}"
    return _per_register(0, 16, data, _ST_BYTES)


def described(component: int, held: int | str | list[int]) -> bytes:
    """The bytes of a component in memory: of a tag, of one tag per register, or of "fninit:<tag>"."""
    if isinstance(held, int):
        return in_memory(component, held)
    if isinstance(held, str):
        return bytes_of(component, after_fninit(in_memory(component, int(held.removeprefix("fninit:")))))
    content: Content = INIT
    for register, tag in enumerate(held):
        content = with_register(component, content, register, tag)
    return bytes_of(component, content)


def same(tags: list[int | None]) -> int | list[int | None]:
    """One tag if all registers hold it, otherwise the list."""
    first = tags[0] if tags else None
    return first if first is not None and tags == [first] * len(tags) else tags
