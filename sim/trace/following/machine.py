"""The machine on which a trace was recorded: its feature masks, its kernel, and a kernel model booted like it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Final

from sim.errors import InputError
from sim.kernel import bootlog, bootlog_reading
from sim.kernel.config import Config, Settings, boot
from sim.kernel.masks import XSAVE_CPUID_FEATURES
from sim.kernel.releases import Nearest
from sim.kernel.versions import nearest, version
from sim.xsave.components import ALL, CET, CET_S, COMPACTED, SUPERVISOR, USER, XTILEDATA
from sim.xsave.geometry import GENERIC
from sim.xsave.profiles import CpuProfile, profile

_KERNEL: Final = re.compile(
    r"^#(?:\s*(?:kernel(?:\s+version)?\s*:?|os release\s*:|uname[^:]*:?)|.*\bLinux version"
    r"|.*\blatency trace v\S+ on)\s*v?(\d+)\.(\d+)"
    r"|^#.*\bLinux (?:\S+ )?(\d+)\.(\d+)\.\d",  # uname -a; a distribution's release has two numbers
    re.ASCII | re.IGNORECASE,
)
_BACKPORTS: Final = re.compile(r"\d\.\d+\.\d+-(?:[\w.]*\.el\d\w*|1\d{5}\.[\d.]+-\w+)", re.ASCII)
"""Releases of RHEL and its rebuilds (5.14.0-427.13.1.el9_4) and of SLE (5.14.21-150500.55.49-default)."""
_CPUS: Final = re.compile(r"^#.*?(?:\b(\d+) cpus\b|nrcpus online\s*:\s*(\d+)|#P:(\d+))", re.ASCII)
_TSC: Final = re.compile(r"TSC (\d+(?:\.\d+)?) MHz", re.ASCII)

_PREEMPTION: Final = re.compile(
    r"^#.*(?:\bPREEMPT_(?P<built>NONE|VOLUNTARY|LAZY)\b|Dynamic Preempt: (?P<chosen>none|voluntary|full|lazy)\b"
    r"|\bpreempt=(?P<asked>none|voluntary|full|lazy)\b|\bSMP (?P<full>PREEMPT)(?!_))",
    re.ASCII,
)
"""As uname -v, the boot log or the kernel's command line have it; PREEMPT_DYNAMIC alone says nothing."""

DEFAULT_KERNEL: Final = "v6.18"

_BASES: Final = ("emerald-rapids", "granite-rapids", "skylake-sp", "diamond-rapids")
"""Together these have every component that is in XCR0 or IA32_XSS of any CPU here."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the comments of a trace say: masks and layout, kernel version, number of CPUs, TSC frequency in Hz.

    ``preemption`` is the kernel's preemption model, None if nothing says it.  ``has_backports``: it is of a
    distribution that puts much of later releases into it.
    """

    log: bootlog.BootLog | None = None
    kernel: tuple[int, int] | None = None
    cpus: int | None = None
    tsc_hz: float | None = None
    preemption: str | None = None
    has_backports: bool = False


def header(comments: Iterable[str], name: str) -> Header:
    """Reads the comment lines of a trace; :class:`InputError` if its boot lines are garbled."""
    lines = list(comments)
    log = bootlog_reading.parse(lines, name) if any("Enabled xstate features" in line for line in lines) else None
    kernel = cpus = tsc = preemption = None
    has_backports = False
    for line in lines:
        if kernel is None and (match := _KERNEL.match(line)):
            major, minor = filter(None, match.groups())
            kernel = int(major), int(minor)
            has_backports = _BACKPORTS.search(line) is not None
        if cpus is None and (match := _CPUS.match(line)):
            cpus = int(next(filter(None, match.groups())))
        if tsc is None and (match := _TSC.search(line)):
            tsc = float(match[1]) * 1e6
        if match := _PREEMPTION.match(line):
            found = match["built"] or match["chosen"] or match["asked"]
            preemption = "full" if found is None else found.lower()
    return Header(log, kernel, cpus, tsc, preemption, has_backports)


@dataclass(frozen=True, slots=True)
class Masks:
    """The xfeatures of normal and of guest fpstates, and all that the kernel enabled."""

    normal: int
    guest: int
    maximum: int


NO_XSAVES: Final = (
    "this machine uses neither XSAVES nor XSAVEC (standard format, xcomp_bv 0): followed by its masks alone, and its "
    "saves and restores are counted as XSAVES and XRSTORS"
)


def left_out(head: Header, seen: Iterable[int], kernel: str) -> int:
    """The components of the boot log and of the masks ``seen`` that the model of this kernel puts into no fpstate."""
    model = version(kernel)
    enabled = reduce(or_, seen, head.log.mask if head.log else 0)
    return enabled & ALL & ~(model.user_supported | model.supervisor_supported | CET_S)


def masks(head: Header, seen: Iterable[int], standard: int = 0, without: int = 0) -> tuple[Masks, list[str]]:
    """Masks from the boot log, or without one from the xcomp_bv ``seen``; what the two disagree in, and what to know.

    ``standard`` are the components in xfeatures of a trace that shows the standard format, in which xcomp_bv is 0.
    ``without`` are components that count as not enabled.
    A normal fpstate has neither CET_S, which is guest-only since v6.17, nor, before its task has used AMX, XTILEDATA.
    """
    found = {mask & ~(COMPACTED | without) for mask in seen if mask & COMPACTED}
    normal = {mask & ~XTILEDATA for mask in found if not mask & CET_S}
    if head.log is not None:
        maximum = head.log.mask & ALL & ~without
        stated = Masks(maximum & ~XTILEDATA & ~CET_S, maximum & ~XTILEDATA, maximum)
        conflicts = [NO_XSAVES] if standard else []
        if normal and stated.normal not in normal:
            shown = ", ".join(f"{mask:#x}" for mask in sorted(normal))
            conflicts.append(f"the boot lines enable {maximum:#x}, but fpstates show xcomp_bv masks {shown}")
        return stated, conflicts
    if not found and standard:
        return Masks(standard, standard, standard), [NO_XSAVES]
    if not normal:
        normal = {mask & ~(CET_S | XTILEDATA) for mask in found} or {0}
    common = max(normal, key=lambda mask: (mask.bit_count(), mask))
    every = common
    for mask in found:
        every |= mask
    return Masks(common, common | every & CET_S, every), []


def nearest_kernel(head: Header, load_at_save: int | None) -> Nearest:
    """The kernel of the model that is nearest to the recorded one, and what may differ.

    By the version that the header names; without one by ``load`` at the first save.
    """
    if head.kernel is not None:
        return nearest(head.kernel)
    return Nearest("v6.6" if load_at_save == 0 else DEFAULT_KERNEL, "")


def cpu_profile(found: Masks, head: Header) -> CpuProfile:
    """A profile with the masks of the trace, and for the rest that of the first of :data:`_BASES` that has them all."""
    fitting = [each for each in map(profile, _BASES) if not found.maximum & ~each.components & ~CET_S]
    base = (fitting or [profile("zen4")])[0]
    features = {feature for components, feature in XSAVE_CPUID_FEATURES if found.maximum & components}
    if found.maximum & CET:
        features.add("SHSTK")
    if found.maximum & XTILEDATA:
        features.add("XFD")
    kept = base.features - {feature for _, feature in XSAVE_CPUID_FEATURES} - {"XFD"}
    sizes = {**GENERIC.sizes, **base.sizes, **(head.log.sizes if head.log else {})}
    offsets = {**GENERIC.offsets, **base.offsets}
    return replace(
        base,
        name=f"{base.name} as recorded",
        sizes=sizes,
        offsets=offsets,
        xcr0_supported=found.maximum & USER | 1,
        xss_supported=found.maximum & SUPERVISOR,
        features=frozenset(kept | features),
    )


def config(found: Masks, head: Header, kernel: str) -> Config:
    """The kernel model booted as the recorded kernel was."""
    strategy = "xstate-guest" if found.guest & CET_S and version(kernel).guest_only else "no-cet"
    booted = boot(Settings(kernel=kernel, strategy=strategy, hypothetical=True), cpu_profile(found, head))
    if booted.masks.host_default != found.normal:
        raise InputError(
            f"the trace shows fpstates with xcomp_bv mask {found.normal:#x}, and the model of Linux {kernel} has "
            f"{booted.masks.host_default:#x} on such a CPU"
        )
    return booted
