"""A kernel's boot log: which xfeatures it enabled, and where its XSAVE areas hold them.

The lines are printed by print_xstate_features, print_xstate_offset_size and fpu__init_system_xstate (Linux v6.6 to
v7.1, arch/x86/kernel/fpu/xstate.c), in this order and for fpu_kernel_cfg.max_features.  That is more than the host's
fpstates hold: guest-only and dynamic xfeatures are in it.  :mod:`sim.kernel.bootlog_reading` reads them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from sim.xsave.area import EXTENDED_OFFSET, Layout, compacted_layout, standard_layout
from sim.xsave.components import ALL, COMPONENTS, EXTENDED, SUPERVISOR, bits
from sim.xsave.components import names as component_names
from sim.xsave.geometry import GENERIC, Geometry


@dataclass(frozen=True, slots=True)
class BootLog:
    """What a kernel said at boot: its largest mask, and size and place of every component in bytes."""

    mask: int
    size: int
    format: Literal["compacted", "standard"]
    offsets: Mapping[int, int]
    sizes: Mapping[int, int]
    supporting: int
    """The mask of the "Supporting XSAVE feature" lines; 0 if the log has none."""
    boots: int
    """How many boots the log has."""
    number: int = 1
    """Which of these boots this is, from 1."""
    warnings: tuple[str, ...] = ()
    """What the kernel warned about, although it uses XSAVE."""
    has_enabled_line: bool = True
    """False: mask and format follow from the other lines, and ``size`` is 0."""
    cut: bool = False
    """Lines are cut off at an edge; ``size`` is 0 and ``format`` follows from the others, if the cut took these."""


@dataclass(frozen=True, slots=True)
class NoBoot:
    """A boot whose lines say nothing about a layout, and the reason."""

    why: str


def layout(log: BootLog, geometry: Geometry = GENERIC) -> Layout:
    """Our layout of the mask that the log says is enabled, from the component sizes in the log.

    Alignment, sizes that the log lacks and the offsets of the standard format come from ``geometry``.  In the latter
    vendors differ: those of :data:`~sim.xsave.profiles.GENERIC` are Intel's.
    """
    sizes = {**geometry.sizes, **log.sizes}
    if log.format == "compacted":
        return compacted_layout(log.mask & mask_of(sizes), sizes, geometry.aligned)
    return standard_layout(log.mask & mask_of(geometry.offsets), sizes, geometry.offsets)


def check(log: BootLog, geometry: Geometry = GENERIC) -> list[str]:
    """One sentence for each disagreement between the log and our layout; none if they agree."""
    found = []
    if unknown := log.mask & ~ALL:
        found.append(f"components above {len(COMPONENTS) - 1} are not known here: {unknown:#x}")
    if missing := log.mask & ALL & ~geometry.components:
        found.append(f"enabled, but {geometry.name} does not have it: {_list(missing)}")
    if log.format == "standard" and (supervisor := log.mask & SUPERVISOR):
        found.append(f"the standard format has no place for supervisor components: {_list(supervisor)}")
    placed = mask_of(log.offsets)
    if extra := placed & ~log.mask:
        found.append(f"with an xstate_offset line, but not enabled: {_list(extra)}")
    if extra := log.supporting & ~log.mask:
        found.append(f'with a "Supporting XSAVE feature" line, but not enabled: {_list(extra)}')
    for i, size in log.sizes.items():
        if size != geometry.sizes.get(i, size):
            found.append(f"{_list(1 << i)}: the log has size {size}, {geometry.name} has {geometry.sizes[i]}")

    ours = layout(log, geometry)
    for i, offset in ours.offsets.items():
        if offset != log.offsets.get(i, offset):
            found.append(f"{_list(1 << i)}: the log has offset {log.offsets[i]}, our layout has {offset}")
    if log.has_enabled_line and ours.size != log.size and not (log.cut and not log.size):
        found.append(f"context size: the log has {log.size}, our layout has {ours.size}")
    return [*found, *_overlaps(log)]


def absent(log: BootLog) -> list[str]:
    """What an excerpt leaves out, a sentence for each kind of line: neither a disagreement nor compared."""
    found = []
    if not log.has_enabled_line:
        same = "" if log.mask & SUPERVISOR or log.format == "standard" else "; AMD's standard format looks the same"
        found.append(f'no "Enabled xstate features" line: mask and format follow from the others, size unknown{same}')
    if log.cut:
        found.append("lines are cut off at the edge: what is behind it is not compared")
    if missing := log.mask & EXTENDED & ALL & ~mask_of(log.offsets):
        are = "the offset of {} is" if missing.bit_count() == 1 else "the offsets of {} are"
        found.append(f"{are.format(_list(missing))} not in the log")
    if log.supporting and (missing := log.mask & ALL & ~log.supporting):
        found.append(f'no "Supporting XSAVE feature" line for {_list(missing)}')
    return found


def _overlaps(log: BootLog) -> Iterator[str]:
    end, last = EXTENDED_OFFSET, "the header"
    for i, offset in sorted(log.offsets.items(), key=lambda item: item[1]):
        if offset < end:
            yield f"{_list(1 << i)} at {offset} overlaps {last}, which ends at {end}"
        end, last = offset + log.sizes[i], _list(1 << i)


def mask_of(components: Iterable[int]) -> int:
    """The mask with the bits of these components."""
    return sum(1 << i for i in components)


def _list(mask: int) -> str:
    return ", ".join(f"{i} ({component_names(1 << i)})" for i in bits[mask])
