"""What the strategies are on each kernel, and what each subset of the RFC's patches is: rows of plain values.

Masks and sizes are those of :mod:`sim.kernel.config`.  Whether a subset of the patches is sound is not looked up: each
is booted, and a vCPU goes through the sequences of :data:`SEQUENCES` with the integrity check on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from sim.errors import InputError
from sim.kernel import guest, kvm, process, strategies, versions
from sim.kernel.config import (
    ALIGN_STRUCT,
    CET,
    PAGE,
    BootMasks,
    Config,
    HostShadowStacks,
    Settings,
    boot,
    boot_masks,
    round_up,
)
from sim.kernel.integrity import VIOLATIONS, WRONG_VALUE, Finding
from sim.kernel.kernel import Kernel
from sim.kernel.patches import ALL_PATCHES, Effect, effect
from sim.kernel.state import Cpu, Task, Vcpu
from sim.xsave import profiles
from sim.xsave.components import CET_S, COMPONENTS, FP, SSE, XTILEDATA
from sim.xsave.profiles import CpuProfile

# Strategies.


@dataclass(frozen=True, slots=True)
class StrategyMasks:
    """What a kernel sets up under a strategy, and the guest that runs on it.

    ``*_save`` and ``*_restore`` are the RFBM of XSAVES and XRSTORS of normal and of guest fpstates; ``*_bytes`` the
    size of their XSAVE areas.  ``swaps_xss`` and ``swaps_xcr0``: KVM writes the register at VM entry and exit, since
    guest and host differ.  ``kvm_offers_cet`` is KVM's own rule; ``guest_has_cet`` may override it.
    """

    host_xcr0: int
    host_xss: int
    normal_save: int
    normal_restore: int
    guest_save: int
    guest_restore: int
    guest_xcr0: int
    guest_xss: int
    swaps_xcr0: bool
    swaps_xss: bool
    kvm_offers_cet: bool
    guest_has_cet: bool
    normal_bytes: int
    guest_bytes: int


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """A strategy on a kernel; a pair that makes no sense has a reason in ``refused`` and no masks.

    ``hypothetical`` is about the strategy anywhere, ``unsound`` about it with these host shadow stacks, ``overrides``
    about this pair.
    """

    kernel: str
    strategy: str
    mechanism: str
    title: str
    hypothetical: str
    unsound: str
    overrides: tuple[str, ...] = ()
    refused: str = ""
    masks: StrategyMasks | None = None


def strategy_rows(
    kernels: Iterable[str] = (),
    cpu: str = "sapphire-rapids",
    *,
    names: Sequence[str] = (),
    guest_xss: int | None = None,
    host_shadow_stacks: str = "off",
    hypothetical: bool = False,
) -> list[StrategyRow]:
    """Every strategy on every kernel; without ``kernels`` and ``names``, all that are shipped.

    ``guest_xss`` is the IA32_XSS of guests with CET; it says nothing of a strategy whose guest has none.
    Raises :class:`InputError` for what no strategy could make sense of; what some cannot is a row of its own.
    """
    profiles.profile(cpu)
    chosen = tuple(kernels) or versions.names()
    for each in chosen:
        versions.version(each)
    if host_shadow_stacks not in get_args(HostShadowStacks):
        raise InputError(
            f"host shadow stacks {host_shadow_stacks!r} (allowed: {', '.join(get_args(HostShadowStacks))})"
        )
    if guest_xss is not None and guest_xss & ~CET:
        raise InputError(f"guest IA32_XSS {guest_xss:#x}: KVM offers bits of {CET:#x}, CET_U and CET_S, at most")
    rows = []
    for kernel in chosen:
        for name in names or strategies.names():
            settings = Settings(
                cpu=cpu,
                kernel=kernel,
                strategy=name,
                guest_xss=guest_xss if strategies.strategy(name).guest_has_cet else None,
                host_shadow_stacks=host_shadow_stacks,  # type: ignore[arg-type]  # checked above
                hypothetical=hypothetical,
            )
            rows.append(_strategy_row(settings))
    return rows


def _strategy_row(settings: Settings) -> StrategyRow:
    how = strategies.strategy(settings.strategy)
    general = (settings.kernel, how.name, how.mechanism, how.title, how.hypothetical)
    unsound = how.why_unsound(settings.host_shadow_stacks)
    try:
        config = boot(settings)
    except InputError as error:
        return StrategyRow(*general, unsound, refused=str(error))
    of_strategy = f"{how.name}: {how.hypothetical}"
    return StrategyRow(
        *general,
        unsound,
        overrides=tuple(note for note in config.hypothetical if note != of_strategy),
        masks=_strategy_masks(config),
    )


def _strategy_masks(config: Config) -> StrategyMasks:
    masks = config.masks
    return StrategyMasks(
        host_xcr0=masks.xcr0,
        host_xss=masks.xss,
        normal_save=masks.host_default,
        normal_restore=config.restore_mask_normal,
        guest_save=config.guest_xfeatures,
        guest_restore=masks.restore_mask,
        guest_xcr0=config.guest_xcr0,
        guest_xss=config.guest_xss,
        swaps_xcr0=config.guest_xcr0 != masks.xcr0,
        swaps_xss=config.guest_xss != masks.xss,
        kvm_offers_cet=config.kvm_offers_cet,
        guest_has_cet=config.guest_has_cet,
        normal_bytes=masks.host_size,
        guest_bytes=config.guest_fpstate_size,
    )


# Subsets of the RFC's patches.


@dataclass(frozen=True, slots=True)
class Allocation:
    """The XSAVE area of a guest fpstate: bytes allocated and needed, without the header of struct fpstate."""

    allocated: int
    needed: int

    @property
    def difference(self) -> int:
        """Bytes to spare; negative where the area is too short."""
        return self.allocated - self.needed

    @property
    def short(self) -> bool:
        """Less was allocated than is needed."""
        return self.difference < 0

    @property
    def pages_suffice(self) -> bool:
        """vzalloc() gives whole pages, and those have the room."""
        return round_up(ALIGN_STRUCT + self.allocated, PAGE) >= ALIGN_STRUCT + self.needed

    @property
    def hidden_by_pages(self) -> bool:
        """The area is too short, and only the rounding to pages keeps XSAVES from writing beyond the memory."""
        return self.short and self.pages_suffice


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found by running the sequences: findings by sequence, and warnings of the kernel.

    ``no_cet`` says why the guest had no CET, and so nothing to lose; ``not_run`` why there was no run at all.
    """

    no_cet: str = ""
    findings: tuple[tuple[str, Finding], ...] = ()
    warnings: tuple[str, ...] = ()
    not_run: str = ""

    @property
    def sound(self) -> bool | None:
        """Nobody got what is not his own; None if nothing was run."""
        return None if self.not_run else not any(finding.kind in VIOLATIONS for _, finding in self.findings)

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        if self.not_run:
            return f"not run: {self.not_run}"
        sequences: dict[str, list[str]] = {}
        for sequence, finding in self.findings:
            sequences.setdefault(_finding_text(finding), []).append(sequence)
        parts = [f"{text} ({', '.join(where)})" for text, where in sequences.items()]
        if not parts:
            parts = [f"no CET for guests: {self.no_cet}" if self.no_cet else "sound"]
        if self.warnings:
            parts.append("WARN_ON_FPU at the save of a normal fpstate")
        return "; ".join(parts)


def _finding_text(finding: Finding) -> str:
    if finding.kind == WRONG_VALUE and finding.what == COMPONENTS[CET_S.bit_length() - 1].name:
        return f"guest loses its SSPs: {finding.kind} {finding.what}"
    return f"{finding.kind} {finding.what} of {finding.who}"


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

    @property
    def cet_s_in_normal_fpstates(self) -> bool:
        """Every task saves CET_S."""
        return bool(self.masks.host_default & CET_S)


@dataclass(frozen=True, slots=True)
class AllocationRow:
    """Patch 2 on one CPU: what v6.6 allocates for a guest fpstate, and what it needs there and with CET_U and CET_S."""

    cpu: str
    now: Allocation
    with_cet: Allocation


def interesting_subsets() -> list[frozenset[int]]:
    """No patch, each alone, each prefix of the series, and the subsets that lack one link."""
    singles = [frozenset((number,)) for number in sorted(ALL_PATCHES)]
    prefixes = [frozenset(range(1, end + 1)) for end in range(2, len(ALL_PATCHES))]
    gaps = [frozenset((1, 2, 3, 4, 5, 7)), frozenset((1, 2, 3, 4, 7, 8)), frozenset((3, 4, 8))]
    return [frozenset(), *singles, *prefixes, *gaps, ALL_PATCHES]


def parse_subset(text: str) -> frozenset[int]:
    """The patches that "1-3,5" names; "none" is no patch at all."""
    if text.strip() == "none":
        return frozenset()
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise InputError(f"subset {text!r}: {part.strip()!r} is not a patch or a range (such as 1-3,5, or none)")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= len(ALL_PATCHES):
            raise InputError(f"subset {text!r}: {part.strip()!r} is not in 1-{len(ALL_PATCHES)}, in ascending order")
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
        rows.append(
            AllocationRow(
                name,
                Allocation(now.guest_allocated, now.guest_size),
                Allocation(with_cet.guest_allocated, with_cet.guest_size),
            )
        )
    return rows


def _patch_row(machine: CpuProfile, asked: frozenset[int]) -> PatchRow:
    built = effect(asked)
    config: Config | None = None
    try:
        config = boot(Settings(cpu=machine.name, kernel="rfc", strategy="xstate-guest", patches=asked))
        verdict = _run(config)
    except InputError as error:  # a CPU without SHSTK boots, but has no guests with CET
        verdict = Verdict(not_run=str(error))
    masks = config.masks if config else _patched_masks(machine, built)
    amx = None
    if masks.max_features & XTILEDATA:
        counted = CET_S & masks.max_features if built.in_guest_permission_size else 0
        amx = Allocation(
            allocated=machine.compacted(masks.host_default | counted | XTILEDATA).size,
            needed=machine.compacted(masks.guest_default | XTILEDATA).size,
        )
    return PatchRow(
        asked=asked,
        effect=built,
        masks=masks,
        kvm_offers_cet=config.kvm_offers_cet if config else False,
        allocation=Allocation(masks.guest_allocated, masks.guest_size),
        amx=amx,
        verdict=verdict,
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


# The sequences: a vCPU has written PL0-2_SSP in the guest; what is left of them after each?


def _enter(k: Kernel, cpu: Cpu) -> None:
    """ioctl(KVM_RUN) from user mode to the VM entry."""
    kvm.vcpu_load(k, cpu)
    kvm.kvm_load_guest_fpu(k, cpu)
    kvm.kvm_run_entry(k, cpu)
    kvm.vcpu_enter_guest(k, cpu)


def _preempted(k: Kernel, cpu: Cpu, vcpu: Vcpu, other: Task) -> None:
    kvm.vm_exit(k, cpu, "external-interrupt")
    process.schedule(k, cpu, other)
    process.return_to_user(k, cpu)
    process.user_writes(k, cpu, FP | SSE)
    process.schedule(k, cpu, vcpu.task)
    kvm.vcpu_enter_guest(k, cpu)


def _to_user_space(k: Kernel, cpu: Cpu, vcpu: Vcpu, other: Task) -> None:
    kvm.vm_exit(k, cpu, "io")
    kvm.kvm_run_exit(k, cpu)
    kvm.kvm_put_guest_fpu(k, cpu)
    kvm.vcpu_put(k, cpu)
    process.return_to_user(k, cpu)
    process.user_writes(k, cpu, FP | SSE)
    _enter(k, cpu)


def _halted(k: Kernel, cpu: Cpu, vcpu: Vcpu, other: Task) -> None:
    kvm.vm_exit(k, cpu, "hlt")
    process.schedule(k, cpu, cpu.idle)
    process.schedule(k, cpu, vcpu.task)
    kvm.vcpu_enter_guest(k, cpu)


SEQUENCES: Final[dict[str, Callable[[Kernel, Cpu, Vcpu, Task], None]]] = {
    "preempted by a user task": _preempted,
    "exit to user space": _to_user_space,
    "halt with idle": _halted,
}
"""From a guest that runs back to the same guest, by name."""


def _run(config: Config) -> Verdict:
    """Runs each sequence on a kernel of its own."""
    findings: list[tuple[str, Finding]] = []
    warnings: list[str] = []
    for name, sequence in SEQUENCES.items():
        k = Kernel(config)
        cpu, vcpu, other = k.cpus[0], k.new_vcpu("v0"), k.new_task("busy")
        process.schedule(k, cpu, vcpu.task)
        process.return_to_user(k, cpu)
        _enter(k, cpu)
        guest.writes(k, cpu, FP | SSE)
        for index in range(len(k.carried_names)):
            guest.writes_carried(k, cpu, index)
        sequence(k, cpu, vcpu, other)
        assert k.integrity is not None
        findings += [(name, finding) for finding in k.integrity.findings]
        warnings += [f"{name}: {warning}" for warning in k.warnings]
    no_cet = ""
    if not config.guest_has_cet:
        not_here = not config.version.kvm_cet[config.vendor]
        no_cet = f"KVM v6 on {config.vendor.upper()}" if not_here else "host XSS[12] = 0"
    return Verdict(no_cet, tuple(findings), tuple(warnings))
