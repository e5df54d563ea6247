"""Boot logs as people send them: quoted, wrapped, copied from a web page, in excerpts, several boots in one file."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Final

from sim import mailed, packed
from sim.errors import InputError
from sim.kernel import bootlog_cut, no_bootlog
from sim.kernel.bootlog import BootLog, NoBoot, layout, mask_of
from sim.xsave.components import FP, SSE, SUPERVISOR

EXPECTED: Final = """\
expected lines as a kernel prints them at boot (dmesg | grep x86/fpu):
  x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'
  x86/fpu: xstate_offset[2]:  576, xstate_sizes[2]:  256
  x86/fpu: Enabled xstate features 0x1ae7, context size is 2480 bytes, using 'compacted' format."""

_WHY: Final = re.compile(
    r"x87\s+FPU\s+will\s+use\s+(?P<legacy>F(?:X)?SAVE)\b"
    r"|Legacy\s+x87\s+FPU\s+detected|No\s+FPU\s+detected"
    r"|XSAVE\s+disabled|disabling\s+XSAVE"
    r"|FP/SSE\s+not\s+present\s+amongst\s+the\s+CPU's\s+xstate\s+features(?::\s+0x[0-9a-f]+)?"
    r"|Both\s+APX/MPX\s+present\s+in\s+the\s+CPU's\s+xstate\s+features(?::\s+0x[0-9a-f]+)?"
    r"|(?P<inconsistent>XSAVE\s+consistency\s+problem)"
    r"(?::\s+(?:size\s+\d+\s+!=\s+kernel_size\s+\d+|No\s+structure\s+for\s+xstate:\s+\d+"
    r"|Got\s+supervisor\s+feature\s+\d+,\s+but\s+XSAVES\s+not\s+advertised))?"
    r"|[Cc]ommand\s+line:(?=[^\n]*\s(?P<parameter>noxsave|nofxsr|no387|clearcpuid=[^\s]*\bxsave)\b)"
    r"|CPUID\[0d,\s*01\]:\s*eax=(?P<instructions>[0-9a-f]{8})\b"
    r"|(?P<version>\bLinux\s+version\s+\d|-- Reboot --|-- Boot [0-9a-f]{32}\b)",
    re.ASCII,
)
"""What a kernel that does not use XSAVE says: fpu__init_system_xstate and XSTATE_WARN_ON of xstate.c, Linux v4.2 to
v7.1, and the lines by which another boot can be recognised, also in journalctl's output."""

_START: Final = re.compile(
    r"Supporting\s+XSAVE\s+feature\b|xstate_?offset\[|Enabled\s+xstate\s+features\b|enabled\s+xstate_bv\b|"
    + _WHY.pattern,
    re.ASCII,
)

_BEGINS: Final = re.compile(
    r"x86/fpu: |x86/fpu:$|\bxsave(?:/xrstor)?: |Supporting\b|xstate_?offset\[|Enabled\b|enabled xstate_bv|FPU|FP/SSE"
    r"|APX/MPX|XSAVE (?!feature)|[Dd]isabling\b|command line:|CPUID\[|Linux version|-- (?:Reboot|Boot) ",
    re.ASCII,
)
"""A line in which one of those begins; the next line may be its end."""

_WRAPPED: Final = 6
"""How many lines after such a line may be its end."""

MOST: Final = 32 << 20
"""The most bytes of a log that are read; many boots of a journal take less."""

_NUMBER = r"0[0-9a-f]{3}|\d{1,8}"  # "%04x" before Linux v4.4, "%4d" since; below 1000H the former starts with a 0

# Blanks may be line ends: mail programs wrap these lines; and Markdown makes italics of what is between underscores.
# Before Linux v4.2 the last of them was "xsave: enabled xstate_bv 0x%llx, cntxt size 0x%x" (arch/x86/kernel/xsave.c),
# since v3.17 with "using compacted form".
_LINE: Final = re.compile(
    r"Supporting\s+XSAVE\s+feature\s+0x(?P<supporting>[0-9a-f]{1,16}):"
    r"|xstate_?offset\[(?P<i>[1-5]?\d|6[0-2])\]:\s*(?P<offset>" + _NUMBER + r"),"
    r"\s*xstate_?sizes\[(?P<j>\d\d?)\]:\s*(?P<size>" + _NUMBER + r")\b"
    r"|Enabled\s+xstate\s+features\s+0x(?P<mask>[0-9a-f]{1,16}),"
    r"\s+context\s+size\s+is\s+(?P<total>0x[0-9a-f]{1,8}|\d{1,8})\s+bytes,"
    r"\s+using\s+['\"`]{0,3}(?P<format>compacted|standard)['\"`]{0,3}\s+format"
    r"|enabled\s+xstate_bv\s+0x(?P<old_mask>[0-9a-f]{1,16}),\s+cntxt\s+size\s+(?P<old_total>0x[0-9a-f]{1,8})\b"
    r"(?:\s+using\s+(?P<old_format>compacted|standard)\s+form\b)?",
    re.ASCII,
)

_NUMBERS: Final = re.compile(r"\d+", re.ASCII)
_REST_OF_NUMBER: Final = re.compile(r"\n\d{1,7}\n", re.ASCII)

_SHOWN = 160
"""The most characters of a garbled line that an error repeats."""


@dataclass(slots=True)
class _Boot:
    """The lines of one boot, its Enabled line, and what looks like one but is not as printed."""

    lines: list[re.Match[str]] = field(default_factory=list)
    garbled: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    disabled: bool = False
    """The last warning says that this kernel runs without XSAVE."""
    enabled: tuple[int, int, str] | None = None
    """Mask, size and format; of a line that is cut off, 0 and "" for what is not in it."""
    cut: bool = False
    """Lines are cut off at an edge."""
    before: str = ""
    """What precedes the Enabled line, such as its time."""
    begins: bool = False
    """Whether the log says that a boot begins here."""

    def repeats(self, other: "_Boot") -> bool:
        """Whether both end with the same Enabled line, and one of them has no other line and no different time."""
        if self.enabled != other.enabled or 1 not in (len(self.lines), len(other.lines)):
            return False
        return not (self.begins and other.begins) and not self._is_of_another_time(other)

    def _is_of_another_time(self, other: "_Boot") -> bool:
        alike = _NUMBERS.sub("0", self.before) == _NUMBERS.sub("0", other.before)
        return alike and _NUMBERS.findall(self.before) != _NUMBERS.findall(other.before)


def read(stream: IO[bytes], name: str, number: int | None = None) -> BootLog:
    """Boot ``number`` of a log, from 1, or the last; ``name`` is what an error calls it."""
    return chosen(read_all(stream, name), name, number)


def read_all(stream: IO[bytes], name: str) -> tuple[BootLog | NoBoot, ...]:
    """All boots in a log, which may be compressed (:mod:`sim.packed`)."""
    try:
        found = packed.unpacked(stream, name)
        is_binary = packed.is_binary(found)
        if what := packed.told(found):
            raise InputError(f"{name} is {what}; allowed: a boot log as text")
        # Serial lines have zeros and noise before the first boot, and journalctl -o export a length in binary.
        text = (line.replace(b"\0", b"") for line in packed.lines(found, name, MOST))
        try:
            return parse_all(mailed.text_lines(text), name)
        except InputError as error:
            if not is_binary:
                raise
            raise InputError(f"{name} is not text; {EXPECTED}") from error
    except packed.DAMAGED as error:
        raise InputError(f"cannot read {name}: {error}; {EXPECTED}") from error


def parse(lines: Iterable[str], name: str) -> BootLog:
    """The last boot in the lines of a log, whatever stands before each line (timestamps, "kernel:", "#")."""
    return chosen(parse_all(lines, name), name)


def chosen(boots: Sequence[BootLog | NoBoot], name: str, number: int | None = None) -> BootLog:
    """Boot ``number`` of those of a log, from 1, or the last; :class:`InputError` if it says nothing."""
    if number is not None and not 1 <= number <= len(boots):
        raise InputError(f"{name} has no boot {number}; it has {len(boots)}")
    boot = boots[(number or len(boots)) - 1]
    if isinstance(boot, BootLog):
        return boot
    which = ""
    if len(boots) > 1:
        others = ", ".join(str(k) for k, each in enumerate(boots, 1) if isinstance(each, BootLog))
        which = f", boot {number or len(boots)} of {len(boots)}" + (f" (boot {others} can be read)" if others else "")
    raise InputError(f"{name}{which}{boot.why}")


def parse_all(lines: Iterable[str], name: str) -> tuple[BootLog | NoBoot, ...]:
    """All boots in the lines of a log; :class:`InputError` if there is none."""
    begins: list[str] = []
    text = "".join(_candidates(_kept(lines, begins)))
    padded = bootlog_cut.is_padded(text)
    boots: list[_Boot] = []
    current = _Boot()
    for start in _START.finditer(text):
        why = _WHY.match(text, start.start())
        if (current.disabled and why is None) or (current.warnings and why is not None and why["version"]):
            boots.append(current)
            current = _Boot()
        if why is not None:
            _note(current, why)
            continue
        match = _line(text, start.start())
        if match is not None and match["i"] and bootlog_cut.lacks_digits(match[0], padded):
            current.cut = True
        elif match is not None:
            current.lines.append(match)
            current.enabled = _enabled(match)
        elif cut := bootlog_cut.told(_rest_of_line(text, start.start())):
            current.cut = True
            current.enabled = cut.enabled
        else:
            current.garbled.append(_line_at(text, start.start()))
            continue
        if current.enabled is not None:
            current.before = text[text.rfind("\n", 0, start.start()) + 1 : start.start()].lstrip(" \t>|")
            if boots and current.repeats(boots[-1]):
                boots[-1].lines += current.lines
                boots[-1].garbled += current.garbled
                boots[-1].cut |= current.cut
            else:
                boots.append(current)
            current = _Boot()
    if current.warnings and (current.disabled or not boots):
        boots.append(current)
    elif boots:
        boots[-1].garbled += current.garbled
        if len(boots) == 1:  # one boot may have its lines in any order; with several, the Enabled line ends each
            boots[0].lines += current.lines
    elif current.garbled:
        raise InputError(f"{name}{_garbled(current)}")
    elif current.lines or current.cut:
        return (_without_enabled_line(current, name),)
    elif what := no_bootlog.told("".join(begins)):
        raise InputError(f"{name} {what}")
    else:
        is_empty = not "".join(begins).strip()
        what = "is empty" if is_empty else 'has no "Enabled xstate features" line'
        raise InputError(f"{name} {what}; {EXPECTED}")
    return tuple(_boot(boot, number, len(boots)) for number, boot in enumerate(boots, 1))


def _kept(lines: Iterable[str], begins: list[str]) -> Iterator[str]:
    """The lines; the first of them are kept in ``begins``."""
    left = no_bootlog.LOOKED_AT
    for line in lines:
        if left > 0:
            begins.append(line)
            left -= len(line)
        yield line


def _garbled(boot: _Boot) -> str:
    line = boot.garbled[0]
    if line.endswith((">", "…")):
        return f" has a line that a pager cut off at the edge (journalctl --no-pager does not): {line!r}; {EXPECTED}"
    return f" has a line that is not as a kernel prints it: {line!r}; {EXPECTED}"


def _candidates(lines: Iterable[str]) -> Iterator[str]:
    """The lines that may matter, and those behind each that may be its wrapped end, without what both begin with."""
    left, before = 0, ""
    for line in mailed.undone(lines):
        found = _BEGINS.search(line)
        if found is not None and left and _is_repeated(line, found):
            found = None
        if found is not None:
            left, before = _WRAPPED, line[: _keyword(line, found)]
            yield line
        elif left and line.strip(" \t>|\n"):
            left -= 1
            yield mailed.without_prefix(line, before)


def _is_repeated(line: str, found: re.Match[str]) -> bool:
    """Whether "x86/fpu:" begins the rest of a wrapped line, rather than a line of its own."""
    return found[0].startswith(("x86/fpu", "xsave")) and _BEGINS.search(line, found.end()) is None


def _keyword(line: str, found: re.Match[str]) -> int:
    inner = _BEGINS.search(line, found.end()) if found[0].startswith(("x86/fpu", "xsave")) else found
    return found.end() if inner is None else inner.start()


def _line(text: str, place: int) -> re.Match[str] | None:
    """The line that begins here, also where a terminal broke it in the middle of a word."""
    match = _LINE.match(text, place)
    if match is not None and not _REST_OF_NUMBER.match(text, match.end()):
        return match
    rest = text[place : place + _SHOWN]
    joined = (_LINE.match(rest.replace("\n", "", count)) for count in range(1, _WRAPPED + 1))
    return next(filter(None, joined), match)


def _note(boot: _Boot, why: re.Match[str]) -> None:
    """Keeps what the kernel says about not using XSAVE."""
    said = " ".join(why[0].split())
    if why["version"]:
        boot.begins = True
        return
    if why["parameter"]:
        said = f"kernel parameter {why['parameter']}"
    elif why["instructions"]:
        if boot.warnings and not int(why["instructions"], 16):
            said = "CPUID leaf 0DH, sub-leaf 1 has EAX = 0: no XSAVEC, no XSAVES"
        else:
            return
    else:
        boot.disabled |= not why["inconsistent"]
    if said not in boot.warnings:
        boot.warnings.append(said)


def _enabled(match: re.Match[str]) -> tuple[int, int, str] | None:
    if match["mask"]:
        total = match["total"]
        return int(match["mask"], 16), int(total, 16 if total.startswith("0x") else 10), match["format"]
    if match["old_mask"]:
        return int(match["old_mask"], 16), int(match["old_total"], 16), match["old_format"] or "standard"
    return None


def _rest_of_line(text: str, place: int) -> str:
    end = text.find("\n", place)
    return text[place:] if end < 0 else text[place:end]


def _line_at(text: str, place: int) -> str:
    line = _rest_of_line(text, text.rfind("\n", 0, place) + 1).strip()
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def _boot(boot: _Boot, number: int, boots: int) -> BootLog | NoBoot:
    if boot.garbled:
        return NoBoot(_garbled(boot))
    if boot.enabled is None:
        return NoBoot(f": this kernel does not use XSAVE ({'; '.join(boot.warnings)})")
    if not boot.enabled[2]:
        return _of_either_format(boot, number, boots)
    supporting = 0
    offsets: dict[int, int] = {}
    sizes: dict[int, int] = {}
    mask, size, form = boot.enabled
    for match in boot.lines:
        if match["supporting"]:
            supporting |= int(match["supporting"], 16)
        elif match["i"]:
            i, place = int(match["i"]), (_number(match["offset"]), _number(match["size"]))
            if int(match["j"]) != i or (offsets.get(i, place[0]), sizes.get(i, place[1])) != place:
                return NoBoot(f" has garbled or contradictory xstate_offset[{i}] lines: {match[0]!r}")
            if place[1] or mask >> i & 1:  # Linux 3.10 of RHEL 7 prints zeros for what the CPU lacks
                offsets[i], sizes[i] = place
    return BootLog(
        mask,
        size,
        "compacted" if form == "compacted" else "standard",
        offsets,
        sizes,
        supporting,
        boots,
        number,
        tuple(boot.warnings),
        cut=boot.cut,
    )


def _of_either_format(boot: _Boot, number: int, boots: int) -> BootLog | NoBoot:
    """A boot whose Enabled line is cut off before the format: that which size and offsets have."""
    assert boot.enabled is not None
    mask, size, _ = boot.enabled
    found = _boot(replace(boot, enabled=(mask, size, "compacted")), number, boots)
    if isinstance(found, NoBoot):
        return found
    log = _in_one_format(found)
    if isinstance(log, BootLog):
        return log
    return NoBoot(
        f' has an "Enabled xstate features" line that is cut off before the format (0x{mask:x}), and what is left fits '
        f"{log}; {EXPECTED}"
    )


def _without_enabled_line(boot: _Boot, name: str) -> BootLog | NoBoot:
    """An excerpt without the last line: the mask of the others, in the one format that their offsets have."""
    found = _boot(replace(boot, enabled=(0, 0, "compacted")), 1, 1)
    if isinstance(found, NoBoot):
        return found
    mask = found.supporting | mask_of(found.offsets) | FP | SSE
    log = _in_one_format(replace(found, mask=mask, has_enabled_line=False))
    if isinstance(log, BootLog):
        return log
    raise InputError(f'{name} has no "Enabled xstate features" line, and the offsets that it has fit {log}; {EXPECTED}')


def _in_one_format(log: BootLog) -> BootLog | str:
    """A log in the one format that its size and offsets have; how many fit, in words, if it is not one."""
    fitting = [each for each in (replace(log, format="compacted"), replace(log, format="standard")) if _fits(each)]
    if len(fitting) == 1:
        return fitting[0]
    return "both formats" if fitting else "neither format"


def _fits(log: BootLog) -> bool:
    if log.format == "standard" and log.mask & SUPERVISOR:
        return False
    ours = layout(log)
    return ours.offsets.items() >= log.offsets.items() and log.size in (0, ours.size)


def _number(text: str) -> int:
    return int(text, 16 if text.startswith("0") else 10)
