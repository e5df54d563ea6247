"""A kernel's boot log: which xfeatures it enabled, and where its XSAVE areas hold them.

The lines are printed by print_xstate_features, print_xstate_offset_size and fpu__init_system_xstate (Linux v6.6 to
v7.1, arch/x86/kernel/fpu/xstate.c), in this order and for fpu_kernel_cfg.max_features.  That is more than the host's
fpstates hold: guest-only and dynamic xfeatures are in it.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final, Literal

from sim.errors import InputError
from sim.xsave.area import EXTENDED_OFFSET, Layout, compacted_layout, standard_layout
from sim.xsave.components import ALL, COMPONENTS, EXTENDED, bits
from sim.xsave.components import names as component_names
from sim.xsave.profiles import GENERIC, CpuProfile, Geometry

EXPECTED: Final = """\
expected lines as a kernel prints them at boot (dmesg | grep x86/fpu):
  x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'
  x86/fpu: xstate_offset[2]:  576, xstate_sizes[2]:  256
  x86/fpu: Enabled xstate features 0x1ae7, context size is 2480 bytes, using 'compacted' format."""

_MAYBE = re.compile(r"Supporting XSAVE feature|xstate_offset\[|Enabled xstate features")

_NUMBER = r"0[0-9a-f]{3}|\d{1,8}"  # "%04x" before Linux v4.4, "%4d" since; below 1000H the former starts with a 0

# Blanks may be line ends: mail programs wrap these lines.
_LINE = re.compile(
    r"Supporting\s+XSAVE\s+feature\s+0x(?P<supporting>[0-9a-f]{1,16}):"
    r"|xstate_offset\[(?P<i>\d\d?)\]:\s*(?P<offset>" + _NUMBER + r"),"
    r"\s*xstate_sizes\[(?P<j>\d\d?)\]:\s*(?P<size>" + _NUMBER + r")\b"
    r"|Enabled\s+xstate\s+features\s+0x(?P<mask>[0-9a-f]{1,16}),"
    r"\s+context\s+size\s+is\s+(?P<total>0x[0-9a-f]{1,8}|\d{1,8})\s+bytes,"
    r"\s+using\s+'(?P<format>compacted|standard)'\s+format"
)


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
    """How many boots the log holds; this is the last of them."""


def read(stream: IO[bytes], name: str) -> BootLog:
    """The last boot in a log, which may be gzipped; ``name`` is what an error calls it."""
    buffered: io.BufferedReader[Any] = io.BufferedReader(stream)  # for peek(), which not every stream has
    try:
        if buffered.peek(2)[:2] == b"\x1f\x8b":
            buffered = io.BufferedReader(gzip.GzipFile(fileobj=buffered))
        if b"\0" in buffered.peek(1):
            raise InputError(f"{name} is not text; {EXPECTED}")
        return parse(io.TextIOWrapper(buffered, encoding="utf-8", errors="replace"), name)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {name}: {error}; {EXPECTED}") from error


def parse(lines: Iterable[str], name: str) -> BootLog:
    """The last boot in the lines of a log, whatever stands before each line (timestamps, "kernel:", "#")."""
    boots: list[list[re.Match[str]]] = [[]]
    for match in _LINE.finditer("".join(_candidates(lines))):
        boots[-1].append(match)
        if match["mask"]:
            boots.append([])
    rest = boots.pop()
    if not boots:
        raise InputError(f'{name} has no "Enabled xstate features" line; {EXPECTED}')
    # One boot may have its lines in any order; with several, the Enabled line ends each.
    return _boot(boots[-1] if len(boots) > 1 else boots[0] + rest, name, len(boots))


def _candidates(lines: Iterable[str]) -> Iterator[str]:
    """The lines that may matter, and the one after each, which may be its wrapped end."""
    keep = False
    for line in lines:
        found = _MAYBE.search(line) is not None
        if found or keep:
            yield line
        keep = found


def _boot(matches: Iterable[re.Match[str]], name: str, boots: int) -> BootLog:
    supporting = 0
    offsets: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for match in matches:
        if match["supporting"]:
            supporting |= int(match["supporting"], 16)
        elif match["mask"]:
            mask, size, form = int(match["mask"], 16), int(match["total"], 0), match["format"]
        else:
            i, place = int(match["i"]), (_number(match["offset"]), _number(match["size"]))
            if int(match["j"]) != i or (offsets.get(i, place[0]), sizes.get(i, place[1])) != place:
                raise InputError(f"{name} has garbled or contradictory xstate_offset[{i}] lines: {match[0]!r}")
            offsets[i], sizes[i] = place
    return BootLog(mask, size, "compacted" if form == "compacted" else "standard", offsets, sizes, supporting, boots)


def _number(text: str) -> int:
    return int(text, 16 if text.startswith("0") else 10)


def layout(log: BootLog, geometry: Geometry = GENERIC) -> Layout:
    """Our layout of the mask that the log says is enabled, from the component sizes in the log.

    Alignment comes from ``geometry``.  So do sizes that the log lacks, and the offsets of the standard format if
    ``geometry`` is that of a CPU; else they are the log's, since vendors differ.
    """
    sizes = {**geometry.sizes, **log.sizes}
    if log.format == "compacted":
        return compacted_layout(log.mask & _sum(sizes), sizes, geometry.aligned)
    offsets = geometry.offsets if isinstance(geometry, CpuProfile) else log.offsets
    return standard_layout(log.mask & _sum(offsets), sizes, offsets)


def check(log: BootLog, geometry: Geometry = GENERIC) -> list[str]:
    """What is wrong with the log, or with our layout: one sentence for each disagreement, none if all agrees."""
    found = []
    if unknown := log.mask & ~ALL:
        found.append(f"components above {len(COMPONENTS) - 1} are not known here: {unknown:#x}")
    if missing := log.mask & ALL & ~geometry.components:
        found.append(f"enabled, but {geometry.name} does not have it: {_list(missing)}")
    placed = _sum(log.offsets)
    if missing := log.mask & EXTENDED & ~placed:
        found.append(f"enabled, but without an xstate_offset line: {_list(missing)}")
    if extra := placed & ~log.mask:
        found.append(f"with an xstate_offset line, but not enabled: {_list(extra)}")
    if log.supporting and (missing := log.mask & ~log.supporting):
        found.append(f'enabled, but without a "Supporting XSAVE feature" line: {_list(missing)}')
    if extra := log.supporting & ~log.mask:
        found.append(f'with a "Supporting XSAVE feature" line, but not enabled: {_list(extra)}')
    for i, size in log.sizes.items():
        if size != geometry.sizes.get(i, size):
            found.append(f"{_list(1 << i)}: the log has size {size}, {geometry.name} has {geometry.sizes[i]}")

    ours = layout(log, geometry)
    for i, offset in ours.offsets.items():
        if offset != log.offsets.get(i, offset):
            found.append(f"{_list(1 << i)}: the log has offset {log.offsets[i]}, our layout has {offset}")
    if ours.size != log.size:
        found.append(f"context size: the log has {log.size}, our layout has {ours.size}")
    return [*found, *_overlaps(log)]


def _overlaps(log: BootLog) -> Iterator[str]:
    end, last = EXTENDED_OFFSET, "the header"
    for i, offset in sorted(log.offsets.items(), key=lambda item: item[1]):
        if offset < end:
            yield f"{_list(1 << i)} at {offset} overlaps {last}, which ends at {end}"
        end, last = offset + log.sizes[i], _list(1 << i)


def _sum(components: Iterable[int]) -> int:
    return sum(1 << i for i in components)


def _list(mask: int) -> str:
    return ", ".join(f"{i} ({component_names(1 << i)})" for i in bits[mask])
