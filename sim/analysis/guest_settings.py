"""What the guests of a case have in particular (guests.NAME.xcr0 and so on), said of all guests of a kernel.

A sequence of the kernel model, and ``fpswitch price``, know one kind of guest.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sim.kernel.config import Settings, boot
from sim.kernel.cpu_models import offered
from sim.kernel.guests import AS_ALL, GuestChoice, features
from sim.xsave.components import CET, XTILEDATA

KEYS: Final = ("cpu_model", "xcr0", "xss", "pku", "amx", "vpmu", "vpmu_in_use", "vpmu_counts_instructions", "spec_ctrl")
"""The keys of a guest that choose what it has."""
USUAL: Final[Mapping[str, Any]] = {"vpmu": True}


def particular(case: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By guest of a case, an entry of the manifest, those of :data:`KEYS` that are set."""
    guests = case["resolved"].get("guests", {})
    return {
        name: {key: guest[key] for key in KEYS if guest.get(key, USUAL.get(key)) != USUAL.get(key)}
        for name, guest in guests.items()
    }


def for_all(case: Mapping[str, Any], settings: Settings) -> Settings | None:
    """``settings`` with what each guest of the case has; None if guests differ, or have what no setting says."""
    kinds = list(particular(case).values())
    if not any(kinds):
        return settings
    if any(kind != kinds[0] for kind in kinds):
        return None
    keys = dict(kinds[0])
    model = offered(keys.pop("cpu_model")) if "cpu_model" in keys else None
    choice = GuestChoice(**keys)
    if model is not None:
        choice = replace(choice, components=model.components, xsave=model.xsave, xsaves=model.xsaves)
    config = boot(settings)
    has = features(config, choice)
    cet = settings.guest_cet and has.lacks & CET != CET
    changed = replace(
        settings,
        guest_amx=bool(has.xfeatures & XTILEDATA),
        guest_xcr0=settings.guest_xcr0 if has.xcr0 == config.guest_xcr0 else has.xcr0,
        guest_cet=cet,
        guest_xss=(settings.guest_xss if has.xss == config.guest_xss else has.xss) if cet else None,
        vpmu=settings.vpmu if choice.vpmu else "none",
        vpmu_in_use=has.vpmu_in_use if choice.vpmu else 0,
        vpmu_counts_instructions=has.counts_instructions,
        guest_spec_ctrl=choice.spec_ctrl or settings.guest_spec_ctrl,
    )
    same = replace(features(boot(changed), AS_ALL), lacks=has.lacks, vpmu_in_use=has.vpmu_in_use) == has
    return changed if same and choice.xsave and choice.xsaves else None
