"""What a scenario file may say about the machine, its scheduler, its kernel and KVM.

See :mod:`sim.scenario.schema`.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from sim.kernel import releases
from sim.kernel.mitigations import IbpbAt, MitigationKind, SpecCtrl, VmscapeBy
from sim.kernel.settings_checks import HostShadowStacks, MsrAccess
from sim.kernel.versions import Preemption
from sim.kernel.vpmu import Vpmu
from sim.scenario.distribution import Distribution, Times
from sim.scenario.run_schema import Section, Switch
from sim.scenario.units import Rate, Size, Time
from sim.xsave.components import AVX, CET_S, CET_U, COMPONENTS, XTILECFG, XTILEDATA

Count = Annotated[int, Field(ge=1, le=65536, strict=True)]
Counters = Annotated[int, Field(ge=0, le=8, strict=True)]
Factor = Annotated[int, Field(ge=0, le=1000, strict=True)]
Kernel = Annotated[str, AfterValidator(releases.spelled)]

_BITS: Final = {each.name: each.mask for each in COMPONENTS} | {
    "AVX": AVX, "CET_U": CET_U, "CET_S": CET_S, "XTILECFG": XTILECFG, "XTILEDATA": XTILEDATA,
}  # fmt: skip
"""Components by Linux's names, and by the SDM's where other keys have those."""


def _mask(value: Any) -> Any:
    """The mask of components in a list; anything else as it is."""
    if not isinstance(value, list | tuple):
        return value
    if not all(isinstance(each, str) and each in _BITS for each in value):
        raise ValueError(f"a mask such as 0xe7, or a list of {', '.join(_BITS)}")
    return sum({_BITS[each] for each in value})


Mask = Annotated[
    int,
    BeforeValidator(_mask),
    Field(ge=0, lt=1 << 63, strict=True),
    WithJsonSchema(
        {
            "anyOf": [
                {"exclusiveMaximum": 1 << 63, "minimum": 0, "type": "integer"},
                {"items": {"enum": list(_BITS), "type": "string"}, "type": "array"},
            ]
        }
    ),
]


def is_mask(path: str) -> bool:
    """Whether the value of a key is a mask, which is written in hexadecimal."""
    return path.endswith(("xss", "xcr0"))


class Host(Section):
    """The machine and its scheduler."""

    cpus: Count = Field(description="logical CPUs of the host")
    cpu: tuple[str, ...] = Field(
        description="CPU profiles, such as zen4 (fpswitch cpu list), or files of your own; each is a case"
    )
    tsc: Rate | dict[str, Rate] | None = Field(
        None,
        description="TSC frequency, of all CPU profiles or by profile: a cycle of the results is one of the TSC; "
        "absent: that of the CPU profile",
    )
    kernel: tuple[Kernel, ...] = Field(("v6.18",), description="kernels (fpswitch kernels); each is a case")
    costs: dict[str, str] = Field(
        default_factory=dict,
        description="cost table by CPU profile: a name (fpswitch costs list) or a file; absent: that of the profile",
    )
    scheduler: Literal["eevdf", "round-robin"] = Field("eevdf", description="how a CPU chooses the next thread")
    hz: Literal[100, 250, 300, 1000] = Field(250, description="CONFIG_HZ")
    base_slice: Time | None = Field(
        None,
        description="sysctl_sched_base_slice, or the quantum of round-robin; absent: 0.70 ms x (1 + floor(log2 of the "
        "CPUs, 8 at most)), as kernel/sched/fair.c scales it",
    )
    preemption: Preemption | None = Field(
        None,
        description="the kernel's preemption model, of those that it has; absent: voluntary up to v6.19 "
        "(x86_64_defconfig), lazy in v7.3 (docs/scheduler.md)",
    )
    hrtick: Switch | None = Field(
        None,
        description="whether a timer ends a slice when it is used up, instead of the next tick; absent: false up to "
        "v6.19, true in v7.3",
    )
    wakeup_preemption: Switch = Field(True, description="whether a thread that wakes may preempt the running one")
    idle_balancing: Switch = Field(True, description="whether a CPU that runs out of threads takes some of another's")
    halt_poll: Time = Field(
        200e-6, description="kvm.halt_poll_ns, the most that a vCPU polls after HLT; 0 ns: it blocks at once"
    )
    halt_poll_grow: Factor = Field(
        2, description="kvm.halt_poll_ns_grow, the factor by which a vCPU's window grows; 0: it does not"
    )
    halt_poll_grow_start: Time = Field(10e-6, description="kvm.halt_poll_ns_grow_start, the smallest window")
    halt_poll_shrink: Factor | None = Field(
        None,
        description="kvm.halt_poll_ns_shrink, the divisor by which a window shrinks; 0: to nothing; 1: not at all; "
        "absent: the kernel's default (docs/kernel-versions.md)",
    )
    idle_exit: Time = Field(
        0.0,
        description="how long an idle CPU takes to leave its idle state (exit_latency of the state, see "
        "/sys/devices/system/cpu/cpu0/cpuidle)",
    )
    ple_gap: Factor = Field(
        128,
        description="ple_gap of kvm_intel, pause_filter_thresh of kvm_amd; 0: a guest that spins never exits",
    )
    ple_window: Count | None = Field(
        None,
        description="how long a guest spins before it exits: ple_window of kvm_intel in TSC cycles (absent: 4096), "
        "pause_filter_count of kvm_amd in PAUSEs (absent: 3000)",
    )
    ple_window_grow: Factor = Field(2, description="ple_window_grow, pause_filter_count_grow")
    ple_window_shrink: Factor = Field(
        0, description="ple_window_shrink, pause_filter_count_shrink; 0: back to ple_window"
    )
    ple_window_max: Annotated[int, Field(ge=1, lt=1 << 32, strict=True)] | None = Field(
        None, description="ple_window_max, pause_filter_count_max; absent: 2^32 - 1 and 65535"
    )
    ple_time: Times = Field(
        Distribution(kind="constant", mean=500e-9),
        description="kernel time of the handler of such an exit, including kvm_vcpu_on_spin(), beside the listed "
        "operations (assumed)",
    )
    directed_yield: Literal["none", "v6.18", "v7.3", "lag-credit"] | None = Field(
        None,
        description="to which vCPU a spinning guest yields: none: to none; v7.3: kvm_vcpu_on_spin() and yield_to(); "
        "v6.18: the same, but each search begins elsewhere (docs/host.md); lag-credit: v7.3 with the scheduler's side "
        "of a series that is not merged (docs/questions/overcommit-ratio.md); absent: v6.18 in v6.17 and v6.18, v7.3 "
        "in all others",
    )
    interrupt_time: Times = Field(
        Distribution(kind="constant", mean=1e-6),
        description="kernel time of a tick or an IPI beside the listed operations (assumed)",
    )
    wakeup_time: Times = Field(
        Distribution(kind="constant", mean=500e-9),
        description="kernel time of try_to_wake_up() for the waker (assumed)",
    )
    buffer_level: Literal["touched", "L1", "memory"] = Field(
        "touched",
        description="where an fpstate is when it is used: touched: depends on what ran on the CPU since "
        "(docs/host.md); L1, memory: always there",
    )
    l1: Size | None = Field(None, description="L1 data cache of a core; absent: what CPUID of the CPU profile says")
    l2: Size | None = Field(None, description="L2 cache of a core; absent: what CPUID of the CPU profile says")


class KernelSettings(Section):
    """Settings of the kernel and KVM."""

    carried: str = Field("cet-s", description="the carried state: a name or a file (docs/strategy-files.md)")
    guest_cet: Switch = Field(True, description="whether the VMM asks KVM to give guests CET")
    guest_xss: Mask | None = Field(
        None,
        description="IA32_XSS of guests with CET, such as 0x800 (Linux v6.6 to v6.16 as a guest; 0x1800: since v6.17); "
        "absent: all that KVM offers",
    )
    guest_xcr0: Mask | None = Field(
        None,
        description="XCR0 of guests, such as 0xe7 if they have no PKU (0x200): if it differs from the host's, KVM runs "
        "XSETBV at entry and at exit; absent: all that KVM offers",
    )
    guest_amx: Switch = Field(False, description="whether guests have AMX, and so the 8 KiB of XTILEDATA")
    guest_spec_ctrl: SpecCtrl = Field(
        "host",
        description="what guests write to IA32_SPEC_CTRL: the host's value; other: another one, such as IBRS without "
        "BHI_DIS_S, so that each VM entry and exit writes the MSR (Intel); unwritten: nothing, likewise",
    )
    host_shadow_stacks: HostShadowStacks = Field(
        "off",
        description="the host's own supervisor shadow stacks (no kernel has them): SSP0 in every fpstate, or written "
        "on return to user mode",
    )
    msr_access: MsrAccess = Field(
        "rdmsr-wrmsr", description="instructions by which the carried MSRs are accessed one by one"
    )
    guest_uret_msrs: tuple[str, ...] | None = Field(
        None,
        description="user-return MSRs whose values differ between guest and host; absent: LSTAR (on Intel) and TSC_AUX",
    )
    mitigations: Switch | tuple[MitigationKind, ...] = Field(
        True,
        description="mitigations at VM entry and exit, vCPU switches and return to user mode: all that Linux uses on "
        "this CPU, none, or those of the kinds listed",
    )
    vmscape_by: VmscapeBy = Field(
        "ibpb",
        description="what the mitigation vmscape runs at return to user mode: an IBPB, or the BHB clearing loop of a "
        "series that is not merged (Alder Lake and later)",
    )
    ibpb_at: IbpbAt = Field(
        "vcpu_load",
        description="where the mitigation ibpb is: in kvm_arch_vcpu_load(), or at the first entry after it (a "
        "series that is not merged)",
    )
    apx: Switch = Field(True, description="whether the kernel enables APX where the CPU has it (false: clearcpuid=apx)")
    vpmu: Vpmu = Field(
        "none",
        description="the guests' performance counters: emulated, where an exit with reason pmu costs a sample of perf "
        "in the guest; mediated (kvm.enable_mediated_pmu, v7.0 and later): loaded and put around the fastpath loop",
    )
    vpmu_in_use: Counters = Field(
        0, description="how many counters each guest uses; mediated: they are also loaded and cleared"
    )
    vpmu_counts_instructions: Switch = Field(
        False,
        description="whether one of them counts retired instructions, as that of perf stat does; mediated: KVM then "
        "has no fastpath for HLT, INVD and WRMSR of these guests",
    )
    pasid: Switch = Field(True, description="whether the kernel enables PASID where the CPU has it")
    hypothetical: Switch = Field(
        False, description="true: strategies named in run.strategies may need features that the CPU lacks"
    )
    init_optimisation: Switch | None = Field(None, description="whether XSAVES has it; absent: as the CPU profile says")
    modified_optimisation: Switch | None = Field(
        None, description="whether XSAVES has it; absent: as the CPU profile says"
    )
    vm_transition_clears_xrstor_info: Switch | None = Field(
        None, description="whether VM entry and exit end the modified optimisation; absent: as the CPU profile says"
    )
    legacy_sse_write_marks_avx_in_use: Switch | None = Field(
        None, description="whether XSAVES may leave a stale AVX area (docs/model.md); absent: as the CPU profile says"
    )
