"""What each subset of the RFC's patches is: masks, sizes, and what is found by running it.

Masks and sizes are those of :mod:`sim.kernel.config`; the runs are in :mod:`sim.report.patch_runs`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sim.errors import InputError
from sim.kernel import versions
from sim.kernel.config import Config, Settings, boot
from sim.kernel.masks import ALIGN_STRUCT, PAGE, BootMasks, boot_masks, round_up
from sim.kernel.patches import ALL_PATCHES, Effect, effect
from sim.report.patch_runs import Verdict, forced, furthest_byte, run_tasks, run_vcpus
from sim.xsave import profiles
from sim.xsave.components import CET_S, XTILEDATA
from sim.xsave.profiles import CpuProfile


@dataclass(frozen=True, slots=True)
class Allocation:
    """The XSAVE area of a guest fpstate: bytes allocated and needed, without the header of struct fpstate."""

    allocated: int
    needed: int

    @property
    def difference(self) -> int:
        """Bytes to spare; negative if the area is too short."""
        return self.allocated - self.needed

    @property
    def short(self) -> bool:
        """Whether less was allocated than is needed."""
        return self.difference < 0

    @property
    def pages_suffice(self) -> bool:
        """Whether there is room in the whole pages that vzalloc() returns."""
        return round_up(ALIGN_STRUCT + self.allocated, PAGE) >= ALIGN_STRUCT + self.needed

    @property
    def hidden_by_pages(self) -> bool:
        """Whether the area is too short, and only rounding to pages keeps XSAVES from writing beyond it."""
        return self.short and self.pages_suffice


@dataclass(frozen=True, slots=True)
class PatchRow:
    """A subset of the patches: as asked for, as it builds, and what follows."""

    asked: frozenset[int]
    effect: Effect
    masks: BootMasks
    kvm_offers_cet: bool
    allocation: Allocation
    amx: Allocation | None
    """The fpstate of a guest that has AMX: what __xstate_request_perm() computes and what XSAVES then writes."""
    verdict: Verdict
    forced: Verdict | None
    """If KVM v6 gives guests no CET because of the CPU's vendor: the verdict as if it did."""
    tasks: Verdict
    """Two tasks that use IBT in user mode, on a CPU that has it."""

    @property
    def cet_s_in_normal_fpstates(self) -> bool:
        """Whether every task saves CET_S."""
        return bool(self.masks.host_default & CET_S)


@dataclass(frozen=True, slots=True)
class AllocationRow:
    """Patch 2 on one CPU: what v6.6 allocates for a guest fpstate, and what it needs there and with CET_U and CET_S.

    ``written_*``: how far XSAVES got when it was run, with a guest that uses what it has; None where no guest has CET.
    """

    cpu: str
    now: Allocation
    with_cet: Allocation
    written_now: int
    written_with_cet: int | None


def interesting_subsets() -> list[frozenset[int]]:
    """No patch, each alone, each prefix of the series, and the series without one of its patches."""
    singles = [frozenset((number,)) for number in sorted(ALL_PATCHES)]
    prefixes = [frozenset(range(1, end + 1)) for end in range(2, len(ALL_PATCHES))]
    gaps = [frozenset((1, 2, 3, 4, 5, 7)), frozenset((1, 2, 3, 4, 7, 8)), frozenset((3, 4, 8))]
    return [frozenset(), *singles, *prefixes, *gaps, ALL_PATCHES]


def parse_subset(text: str) -> frozenset[int]:
    """The patches that "1-3,5" names; "none" means no patch."""
    if text.strip() == "none":
        return frozenset()
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise InputError(f"subset {text!r}: {part.strip()!r} is not a patch or a range (such as 1-3,5, or none)")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= len(ALL_PATCHES):
            allowed = f"the patches are 1 to {len(ALL_PATCHES)} (such as 1-3,5, or none)"
            raise InputError(f"subset {text!r}: found {part.strip()!r}; {allowed}")
        numbers.update(range(low, high + 1))
    return frozenset(numbers)


def subset_name(patches: frozenset[int]) -> str:
    """ "1-4,7,8" for a set of patches, "none" for the empty one."""
    runs: list[list[int]] = []
    for number in sorted(patches):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return ",".join(parts) or "none"


def patch_rows(cpu: str = "sapphire-rapids", subsets: Iterable[frozenset[int]] | None = None) -> list[PatchRow]:
    """A row for each subset; without ``subsets``, for the interesting ones."""
    machine = profiles.profile(cpu)
    return [_patch_row(machine, each) for each in (interesting_subsets() if subsets is None else subsets)]


def allocation_rows() -> list[AllocationRow]:
    """Patch 2 on every CPU."""
    rows = []
    for name in profiles.names():
        machine = profiles.profile(name)
        now, with_cet = (_patched_masks(machine, effect(frozenset(subset))) for subset in ((), (1, 3)))
        written = None
        if "SHSTK" in machine.features:
            patched = Settings(cpu=name, kernel="rfc", strategy="xstate-guest", patches=frozenset((1, 3)))
            written = furthest_byte(forced(boot(patched)))
        rows.append(
            AllocationRow(
                name,
                Allocation(now.guest_allocated, now.guest_size),
                Allocation(with_cet.guest_allocated, with_cet.guest_size),
                furthest_byte(boot(Settings(cpu=name, kernel="v6.6", strategy="no-cet"))),
                written,
            )
        )
    return rows


def cpus_that_show_patch_6() -> list[str]:
    """The CPUs with AMX on which a guest's permission has another size without patch 6 than with all eight."""
    shows = []
    for name in profiles.names():
        machine = profiles.profile(name)
        if machine.xcr0_supported & XTILEDATA:
            with_6, without = (_amx(machine, _patched_masks(machine, each), each) for each in map(effect, _WITH_6))
            if with_6 != without:
                shows.append(name)
    return shows


_WITH_6 = (ALL_PATCHES, ALL_PATCHES - {6})


def _patch_row(machine: CpuProfile, asked: frozenset[int]) -> PatchRow:
    built = effect(asked)
    config: Config | None = None
    try:
        config = boot(Settings(cpu=machine.name, kernel="rfc", strategy="xstate-guest", patches=asked))
        verdict = run_vcpus(config)
    except InputError as error:  # a CPU without SHSTK boots, but has no guests with CET
        verdict = Verdict(not_run=str(error))
    masks = config.masks if config else _patched_masks(machine, built)
    by_vendor = config is not None and not config.version.kvm_cet[config.vendor]
    return PatchRow(
        asked=asked,
        effect=built,
        masks=masks,
        kvm_offers_cet=config.kvm_offers_cet if config else False,
        allocation=Allocation(masks.guest_allocated, masks.guest_size),
        amx=_amx(machine, masks, built) if masks.max_features & XTILEDATA else None,
        verdict=verdict,
        forced=run_vcpus(forced(config)) if config and by_vendor and masks.xss & CET_S else None,
        tasks=run_tasks(machine.name, masks, built) if "IBT" in machine.features else Verdict(not_run="no IBT"),
    )


def _amx(machine: CpuProfile, masks: BootMasks, built: Effect) -> Allocation:
    """What __xstate_request_perm() computes for a guest with AMX, and what XSAVES then writes."""
    counted = CET_S & masks.max_features if built.in_guest_permission_size else 0
    return Allocation(
        allocated=machine.compacted(masks.host_default | counted | XTILEDATA).size,
        needed=machine.compacted(masks.guest_default | XTILEDATA).size,
    )


def _patched_masks(machine: CpuProfile, built: Effect) -> BootMasks:
    """The masks of v6.6 with patches, as :func:`~sim.kernel.config.boot` has them, for CPUs that it refuses too."""
    return boot_masks(
        machine,
        versions.version("v6.6"),
        enabled=CET_S if built.enables else 0,
        normal=CET_S if built.in_normal_fpstates else 0,
        guest=CET_S if built.in_guest_fpstates else 0,
        patched=built,
    )
