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
from dataclasses import dataclass, field
from typing import IO, Any, Final, Literal

from sim.errors import InputError
from sim.xsave.area import EXTENDED_OFFSET, Layout, compacted_layout, standard_layout
from sim.xsave.components import ALL, COMPONENTS, EXTENDED, SUPERVISOR, bits
from sim.xsave.components import names as component_names
from sim.xsave.profiles import GENERIC, Geometry

EXPECTED: Final = """\
expected lines as a kernel prints them at boot (dmesg | grep x86/fpu):
  x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'
  x86/fpu: xstate_offset[2]:  576, xstate_sizes[2]:  256
  x86/fpu: Enabled xstate features 0x1ae7, context size is 2480 bytes, using 'compacted' format."""

_MAYBE = re.compile(r"Supporting XSAVE feature|xstate_offset\[|Enabled xstate features")

_START = re.compile(r"Supporting\s+XSAVE\s+feature\b|xstate_offset\[|Enabled\s+xstate\s+features\b", re.ASCII)

_NUMBER = r"0[0-9a-f]{3}|\d{1,8}"  # "%04x" before Linux v4.4, "%4d" since; below 1000H the former starts with a 0

# Blanks may be line ends: mail programs wrap these lines.
_LINE = re.compile(
    r"Supporting\s+XSAVE\s+feature\s+0x(?P<supporting>[0-9a-f]{1,16}):"
    r"|xstate_offset\[(?P<i>[1-5]?\d|6[0-2])\]:\s*(?P<offset>" + _NUMBER + r"),"
    r"\s*xstate_sizes\[(?P<j>\d\d?)\]:\s*(?P<size>" + _NUMBER + r")\b"
    r"|Enabled\s+xstate\s+features\s+0x(?P<mask>[0-9a-f]{1,16}),"
    r"\s+context\s+size\s+is\s+(?P<total>0x[0-9a-f]{1,8}|\d{1,8})\s+bytes,"
    r"\s+using\s+'(?P<format>compacted|standard)'\s+format",
    re.ASCII,
)

_SHOWN = 160
"""Characters of a garbled line that an error repeats."""


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


@dataclass(slots=True)
class _Boot:
    """The lines of one boot, the last of them its Enabled line, and what looks like one but is not as printed."""

    lines: list[re.Match[str]] = field(default_factory=list)
    garbled: list[str] = field(default_factory=list)

    def repeats(self, other: "_Boot") -> bool:
        """Whether both end with the same Enabled line, and one of them is nothing else."""
        said, again = (boot.lines[-1].group("mask", "total", "format") for boot in (self, other))
        return said == again and 1 in (len(self.lines), len(other.lines))


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
    text = "".join(_candidates(lines))
    boots: list[_Boot] = []
    current = _Boot()
    for start in _START.finditer(text):
        match = _LINE.match(text, start.start())
        if match is None:
            current.garbled.append(_line_at(text, start.start()))
            continue
        current.lines.append(match)
        if match["mask"]:
            if boots and current.repeats(boots[-1]):
                boots[-1].lines += current.lines
                boots[-1].garbled += current.garbled
            else:
                boots.append(current)
            current = _Boot()
    if garbled := [*(boots[-1].garbled if boots else ()), *current.garbled]:
        raise InputError(f"{name} has a line that is not as a kernel prints it: {garbled[0]!r}; {EXPECTED}")
    if not boots:
        raise InputError(f'{name} has no "Enabled xstate features" line; {EXPECTED}')
    # One boot may have its lines in any order; with several, the Enabled line ends each.
    return _boot(boots[-1].lines if len(boots) > 1 else boots[0].lines + current.lines, name, len(boots))


def _candidates(lines: Iterable[str]) -> Iterator[str]:
    """The lines that may matter, and the one after each, which may be its wrapped end."""
    keep = False
    for line in lines:
        found = _MAYBE.search(line) is not None
        if found or keep:
            yield line
        keep = found


def _line_at(text: str, place: int) -> str:
    line = text[text.rfind("\n", 0, place) + 1 :].partition("\n")[0].strip()
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


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

    Alignment, sizes that the log lacks and the offsets of the standard format come from ``geometry``.  In the latter
    vendors differ: those of :data:`~sim.xsave.profiles.GENERIC` are Intel's.
    """
    sizes = {**geometry.sizes, **log.sizes}
    if log.format == "compacted":
        return compacted_layout(log.mask & _sum(sizes), sizes, geometry.aligned)
    return standard_layout(log.mask & _sum(geometry.offsets), sizes, geometry.offsets)


def check(log: BootLog, geometry: Geometry = GENERIC) -> list[str]:
    """What is wrong with the log, or with our layout: one sentence for each disagreement, none if all agrees."""
    found = []
    if unknown := log.mask & ~ALL:
        found.append(f"components above {len(COMPONENTS) - 1} are not known here: {unknown:#x}")
    if missing := log.mask & ALL & ~geometry.components:
        found.append(f"enabled, but {geometry.name} does not have it: {_list(missing)}")
    if log.format == "standard" and (supervisor := log.mask & SUPERVISOR):
        found.append(f"the standard format has no place for supervisor components: {_list(supervisor)}")
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
