"""The mediated vPMU: a guest's performance counters in hardware, loaded and put around the fastpath loop.

Source: arch/x86/kvm/pmu.c kvm_mediated_pmu_load(), kvm_mediated_pmu_put(), kvm_pmu_load_guest_pmcs(),
kvm_pmu_put_guest_pmcs(), and mediated_load, mediated_put in vmx/pmu_intel.c and svm/pmu.c, Linux v7.3.4.  The host uses
no counters, and overflow status is clear.  All counters are exposed; only ``vpmu_in_use`` general-purpose ones are
running, the others and the fixed ones are stopped.  While one of a guest's counts retired instructions, HLT, INVD and
WRMSR leave the fastpath loop, since kvm_skip_emulated_instruction() must then count the emulated one (pmu.h
kvm_pmu_is_fastpath_emulation_allowed(), msrs.c, x86.c; v7.0.0, v7.1.5 and v7.2.13 are the same).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, get_args

from sim.errors import InputError, unknown
from sim.kernel.operations import PERF_CONTEXT, RDPMC, VMREAD, VPMU, VPMU_SAMPLE
from sim.kernel.state import Cpu, Vcpu

if TYPE_CHECKING:
    from sim.kernel.kernel import Kernel

Vpmu = Literal["none", "emulated", "mediated"]
COUNTERS: Final = {"vmx": (8, 3), "svm": (6, 0)}
"""The most general-purpose and fixed counters that KVM gives a guest (asm/kvm_host.h); guests are assumed to have all
of them."""
SINCE: Final = ("v7.3",)
"""Kernels of the model that have it: it was merged for v7.0 (Linux commit bf2c3138ae36), off by default."""

Steps = tuple[str, ...]


EMULATED_IN_FASTPATH: Final = frozenset(("wrmsr-icr", "wrmsr-tsc-deadline", "wrmsr-imm", "hlt-event-pending", "invd"))
"""Exits whose fastpath emulates an instruction; that of the preemption timer does not."""


def check(
    vpmu: str, kernel: str, vendor: str, features: frozenset[str], cpu: str, in_use: int, instructions: bool
) -> None:
    """Raises :class:`~sim.errors.InputError` if guests cannot have this vPMU with that many counters in use.

    ``instructions``: one of those counts retired instructions.
    """
    if vpmu not in get_args(Vpmu):
        raise unknown("vpmu", vpmu, get_args(Vpmu))
    gp, _ = COUNTERS[vendor]
    if not 0 <= in_use <= gp:
        raise InputError(f"vpmu_in_use = {in_use} (allowed on {vendor.upper()}: 0 to {gp})")
    if instructions and not in_use:
        raise InputError("vpmu_counts_instructions with vpmu_in_use = 0 (allowed: with a counter in use)")
    if vpmu != "mediated":
        return
    if kernel not in SINCE:
        raise InputError(f"the mediated vPMU came with v7.0, and this is {kernel} (allowed: {', '.join(SINCE)})")
    if vendor == "svm" and "AVX512F" not in features:
        raise InputError(f"the mediated vPMU needs PerfMonV2, which {cpu} lacks: it came with Zen 4")
    if vendor == "vmx" and "SHSTK" not in features:
        raise InputError(
            f"the mediated vPMU of {cpu} saves GLOBAL_CTRL by the VM-exit MSR-store list, which is not modelled "
            "(allowed: Sapphire Rapids and later)"
        )


def load(vendor: str, in_use: int) -> Steps:
    """What kvm_mediated_pmu_load() runs, in its order; counters in hardware are 0, as the last put left them."""
    gp, fixed = COUNTERS[vendor]
    counters = [step for i in range(gp) for step in _load_counter(i < in_use)]
    own = (
        ("RDMSR(PERF_GLOBAL_STATUS)", "WRMSR(FIXED_CTR_CTRL)")
        if vendor == "vmx"
        else ("RDMSR(PERF_GLOBAL_STATUS)", "WRMSR(PERF_GLOBAL_STATUS_SET)", "WRMSR(PERF_GLOBAL_CTRL)")
    )
    return (PERF_CONTEXT, "WRMSR(PERF_GLOBAL_CTRL)", "WRMSR(LVTPC)", *counters, *(RDPMC,) * fixed, *own)


def by_in_use(steps: Callable[[str, int], Steps], vendor: str, mediated: bool) -> tuple[Steps, ...]:
    """What :func:`load` or :func:`put` runs, by the number of counters that a guest uses; nothing if not mediated."""
    gp, _ = COUNTERS[vendor]
    return tuple(steps(vendor, in_use) if mediated else () for in_use in range(gp + 1))


def _load_counter(counts: bool) -> Steps:
    """The counter only if it differs, the selector always."""
    return (RDPMC, *(("WRMSR(PERFCTR)",) if counts else ()), "WRMSR(PERFEVTSEL)")


def put(vendor: str, in_use: int) -> Steps:
    """What kvm_mediated_pmu_put() runs, in its order: what is not 0 is cleared."""
    gp, fixed = COUNTERS[vendor]
    counters = [step for i in range(gp) for step in _put_counter(i < in_use)]
    own: Steps = ("RDMSR(PERF_GLOBAL_STATUS)",)
    if vendor == "svm":
        own = ("WRMSR(PERF_GLOBAL_CTRL)", *own)
    return (*own, *counters, *(RDPMC,) * fixed, "WRMSR(LVTPC)", PERF_CONTEXT)


def _put_counter(counts: bool) -> Steps:
    return (RDPMC, "WRMSR(PERFCTR)", "WRMSR(PERFEVTSEL)") if counts else (RDPMC,)


AFTER_EXIT: Final[dict[str, Steps]] = {"vmx": (VMREAD,), "svm": ("RDMSR(PERF_GLOBAL_CTRL)",)}
"""After each exit, also in the fastpath loop: the guest's GLOBAL_CTRL, which it writes without an exit."""


def run(cpu: Cpu, vcpu: Vcpu, steps: Steps) -> None:
    """Records ``steps`` for a guest that has a PMU; nothing else of the model depends on counters."""
    if vcpu.has_vpmu:
        for step in steps:
            cpu.record((cpu.current.kind, VPMU, step))


def overflow(k: "Kernel", cpu: Cpu) -> None:
    """A counter of the guest has overflowed: with the emulated vPMU, everything that perf in the guest then does
    exits."""
    if k.config.settings.vpmu == "emulated":
        cpu.record((cpu.current.kind, VPMU, VPMU_SAMPLE))
