"""From the size of an XSAVE area to the masks that give it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from sim.xsave.area import compacted_layout, standard_layout
from sim.xsave.components import (
    ALL,
    APX,
    AVX,
    AVX512,
    CET_S,
    CET_U,
    FP,
    MPX,
    PASID,
    PKRU,
    SSE,
    SUPERVISOR,
    XTILE,
    bits,
)  # fmt: skip
from sim.xsave.geometry import Geometry

LINUX: Final = FP | SSE | AVX | MPX | AVX512 | PKRU | PASID | CET_U | CET_S | XTILE | APX
"""What any kernel from v6.6 to v7.1 may have in fpstates (XFEATURE_MASK_USER_SUPPORTED, ..._SUPERVISOR_SUPPORTED)."""

TOGETHER: Final = (MPX, AVX512, XTILE)
"""Components that are enabled together or not at all (Intel SDM vol. 1, section 13.3)."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A mask, and the format in which its area has the size that was asked for."""

    mask: int
    format: str


def masks_of(size: int, geometry: Geometry) -> list[Sized]:
    """Every mask of the components of ``geometry`` whose area has ``size`` bytes, those that Linux enables first.

    AVX-512 needs AVX, and APX excludes MPX.  x87 and SSE, which take no place of their own, are in every mask.
    """
    return sorted(
        _found(size, geometry), key=lambda each: (bool(each.mask & ~LINUX), FORMATS.index(each.format), each.mask)
    )


FORMATS: Final = ("compacted", "compacted without alignment", "standard")


def _found(size: int, geometry: Geometry) -> Iterator[Sized]:
    for mask in _masks(geometry):
        if compacted_layout(mask, geometry.sizes, geometry.aligned).size == size:
            yield Sized(mask, FORMATS[0])
        elif mask & geometry.aligned and compacted_layout(mask, geometry.sizes, 0).size == size:
            yield Sized(mask, FORMATS[1])
        if not mask & SUPERVISOR and standard_layout(mask, geometry.sizes, geometry.offsets).size == size:
            yield Sized(mask, FORMATS[2])


def _masks(geometry: Geometry) -> Iterator[int]:
    there = geometry.components & ALL
    groups = [group for group in TOGETHER if group & there == group]
    single = [1 << i for i in bits[there & ~sum(TOGETHER) & ~(FP | SSE)]]
    for chosen in product(*((0, part) for part in (*groups, *single))):
        mask = FP | SSE | sum(chosen)
        if (mask & AVX512 and not mask & AVX) or (mask & APX and mask & MPX):
            continue
        yield mask
