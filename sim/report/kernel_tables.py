"""What the strategies are on each kernel: plain values; masks and sizes are those of :mod:`sim.kernel.config`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from sim.errors import InputError
from sim.kernel import strategies, versions
from sim.kernel.config import Config, Settings, boot, strategy_of
from sim.kernel.settings_checks import HostShadowStacks
from sim.xsave import profiles
from sim.xsave.components import CET


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
    """A strategy on a kernel; a pair that is impossible has a reason in ``refused`` and no masks.

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

    ``guest_xss`` is the IA32_XSS of guests with CET; it is not used for a strategy whose guests have none.
    Raises :class:`InputError` for what is impossible with every strategy; if it is with some, their rows say so.
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
    how = strategy_of(settings)
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
