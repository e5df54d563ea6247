"""Instructions at CPL 0 in a small KVM guest: guest.c makes it, and guest_code.c runs in it.

What KVM lets a guest do without an exit costs there what it costs anywhere at CPL 0: XSAVES, XRSTORS and XGETBV always;
RDMSR, WRMSR and WRMSRNS of some MSRs, among them U_CET, S_CET and PL0-3_SSP since Linux 6.18 on a CPU with supervisor
shadow stacks.  Which those are is counted, not assumed: KVM counts the exits of each block (KVM_GET_STATS_FD), and an
instruction that has one each time is a VM exit with its round trip, and is named so.

What is a VM exit in every hypervisor is timed, too: from the guest's instruction to the next.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.calibrate import samples
from sim.calibrate.differences import SLOWER
from sim.calibrate.plan import ladder
from sim.calibrate.programs import Programs
from sim.calibrate.rounds import Stage, Unavailable, output, small
from sim.calibrate.samples import Floats
from sim.xsave.components import CET, CET_S, CET_U

OPERATIONS: Final = (
    "ABOUT", "XSAVES", "XRSTORS", "XGETBV0", "XGETBV1", "RDMSR", "WRMSR", "WRMSRNS",
    "EXIT_CPUID", "EXIT_INVD", "EXIT_WRMSR", "EXIT_OUT", "EXIT_HLT",
)  # fmt: skip
"""enum operation of guest.h."""
REPETITIONS: Final = 40
"""In a block, as in guest.h."""
PASSES: Final = 9
QUICK_PASSES: Final = 5
XSS: Final = 0xDA0
SOME_SSP: Final = 0x1000
"""Written in turn with what the SSP holds; shadow stacks are off (CR4.CET), so nothing uses it."""

SAMPLE: Final = np.dtype([*samples.SAMPLE.descr, ("exits", "<u8"), ("fault", "<u8"), ("kept", "<u8")])
"""struct guest_sample of guest.c."""


@dataclass(frozen=True, slots=True)
class Msr:
    """An MSR to read and to write.

    ``first`` is written once before the block: KVM passes some through only after a value other than 0.  ``second`` is
    written in turn with what the MSR holds, if it is not 0.
    """

    name: str
    number: int
    first: int = 0
    second: int = 0


# Intel SDM vol. 4, and AMD APM vol. 2 appendix A, for the numbers.  Which of them KVM passes through: Linux v6.18,
# arch/x86/kvm/vmx/vmx.c, vmx_recalc_msr_intercepts(), and arch/x86/kvm/svm/svm.c, svm_recalc_msr_intercepts().
MSRS: Final = (
    Msr("FS_BASE", 0xC0000100),
    Msr("GS_BASE", 0xC0000101),
    Msr("KERNEL_GS_BASE", 0xC0000102),
    Msr("STAR", 0xC0000081),
    Msr("LSTAR", 0xC0000082),
    Msr("TSC_AUX", 0xC0000103),
    Msr("SYSENTER_CS", 0x174),
    Msr("SYSENTER_ESP", 0x175),
    Msr("SYSENTER_EIP", 0x176),
    Msr("SPEC_CTRL", 0x48, first=1),  # IBRS
    Msr("XFD", 0x1C4, first=1 << 18),  # tiles
    Msr("XFD_ERR", 0x1C5),
    Msr("XSS", XSS),
)
CET_MSRS: Final = (
    Msr("U_CET", 0x6A0),
    Msr("S_CET", 0x6A2),
    *(Msr(f"PL{level}_SSP", 0x6A4 + level, second=SOME_SSP) for level in range(4)),
)

EXITS: Final = {
    "EXIT_CPUID": ("CPUID", ""),
    "EXIT_INVD": ("INVD", ""),
    "EXIT_WRMSR": ("WRMSR of IA32_XSS", ""),
    "EXIT_OUT": ("OUT", "to user space and back, with the return from KVM_RUN and the next call of it"),
    "EXIT_HLT": ("HLT", "to user space and back, since there is no interrupt controller in the kernel"),
}
"""What the row of an exit is called, and what has to be said of it."""


@dataclass(frozen=True, slots=True)
class About:
    """What KVM offers the guest: the masks of XCR0 and of CET in IA32_XSS, and shadow stacks."""

    xcr0: int
    xss: int
    shadow_stacks: bool


@dataclass(frozen=True, slots=True)
class GuestRow:
    """One line of the plan of guest.c: struct guest_row."""

    operation: str
    xss: int = 0
    requested: int = 0
    in_use: int = 0
    same: bool = False
    touched: bool = False
    msr: int = 0
    first: int = 0
    second: int = 0

    @property
    def line(self) -> str:
        """As guest.c reads it."""
        _, *rest = astuple(self)
        return " ".join(f"{each:x}" for each in (OPERATIONS.index(self.operation), *rest))

    @property
    def exits(self) -> bool:
        """Whether the instruction exits in every hypervisor."""
        return self.operation in EXITS


def about(programs: Programs, cpu: int) -> About:
    """What the guest has, after a first run of it.

    Raises :class:`~sim.calibrate.rounds.Unavailable` if there is no KVM, if it interprets its guests, or if it cannot
    run one.
    """
    command = [str(programs.guest), str(cpu), str(programs.guest_code), "about", str(SLOWER)]
    said = json.loads(output(command))
    if not said["xsaves"]:
        raise Unavailable("KVM offers its guests no XSAVES, so nothing of it can be measured in one")
    return About(said["xcr0"], said["xss"] & CET, bool(said["shadow_stacks"]))


def guest_plan(offered: About, reachable: tuple[int, ...]) -> tuple[GuestRow, ...]:
    """All that is timed: ``reachable`` are the in-use sets that there are, empty if that is not known."""
    xss, everything = offered.xss, offered.xcr0 | offered.xss
    user = ladder(offered.xcr0, reachable)
    widest = [each for each in dict.fromkeys((0, 7, max(user))) if each in user]
    masks = [CET_U & xss, CET_S & xss, xss]
    with_cet = [each | cet for each in widest for cet in dict.fromkeys(masks) if cet]
    rows = []
    for each in (*user, *with_cet):
        rows += [
            GuestRow("XSAVES", xss, everything, each),
            GuestRow("XSAVES", xss, everything, each, same=True),
            GuestRow("XRSTORS", xss, everything, each),
        ]
    rows += [GuestRow("XSAVES", xss, everything, each, same=True, touched=True) for each in user if each]
    if xss & CET_S:  # what is asked of a host without the bit
        less = xss & ~CET_S
        rows += [GuestRow(name, less, offered.xcr0 | less, each) for name in ("XSAVES", "XRSTORS") for each in widest]
    rows += [GuestRow("XGETBV0"), GuestRow("XGETBV1")]
    for msr in (*MSRS, *(CET_MSRS if offered.shadow_stacks else ())):
        rows += [
            GuestRow(name, msr=msr.number, first=msr.first, second=msr.second) for name in ("RDMSR", "WRMSR", "WRMSRNS")
        ]
    rows += [GuestRow(each, msr=XSS if each == "EXIT_WRMSR" else 0) for each in EXITS]
    return tuple(rows)


def guest_stage(programs: Programs, plan: Sequence[GuestRow], budget_s: float, quick: bool) -> Stage:
    """Blocks of each row, one KVM_RUN each; :func:`_by_process` says what a process measures."""
    text = "".join(f"{each.line}\n" for each in plan)
    in_use = np.array([each.in_use for each in plan], np.uint64)
    arguments = (str(programs.guest_code), str(QUICK_PASSES if quick else PASSES), str(SLOWER))
    least = 6 if quick else 16
    settled = _settled(len(plan))
    return Stage(programs.guest, arguments, text, in_use, _by_process(plan), budget_s, least, settled, SAMPLE)


def _settled(count: int) -> Callable[[Floats], bool]:
    return lambda values: small(values[:count])


def _by_process(plan: Sequence[GuestRow]) -> Callable[[NDArray[np.void], NDArray[np.bool_]], Floats]:
    """Reduces the samples of a process to four numbers of each row, by number and not by row.

    They are its cycles, the exits in each repetition, the vector plus 1, and whether XSAVES left the area alone.

    Core cycles of XSAVES, XRSTORS and XGETBV, TSC cycles of all else.  A block counts only if it had as few exits as
    any of its row: none, or at least one in each repetition.
    """
    count = len(plan)
    core = np.array([each.operation in OPERATIONS[1:5] for each in plan])

    def reduce(found: NDArray[np.void], counts: NDArray[np.bool_]) -> Floats:
        mine = found[counts]
        rows = mine["row"].astype(int)
        faults, kept = (samples.medians_by_row(rows, mine[name].astype(float), count) for name in ("fault", "kept"))
        least = np.full(count, np.nan)
        np.fmin.at(least, rows, mine["exits"].astype(float))
        each_time = np.floor(least / REPETITIONS)
        calm = (mine["exits"] == least[rows]) & ((least == 0) | (each_time > 0))[rows] & (mine["fault"] == 0)
        mine, rows = mine[calm], rows[calm]
        ratio = np.where(core[rows], samples.clock_ratio(mine), 1.0)
        cycles = samples.medians_by_row(rows, samples.ticks(mine) / REPETITIONS * ratio, count)
        return np.concatenate([cycles, each_time, faults, kept])

    return reduce
