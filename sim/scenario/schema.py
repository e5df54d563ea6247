"""What a scenario file may say: every key, its unit, its default and what it means.

Times are kept in seconds, rates per second, sizes in bytes; a case (:mod:`sim.scenario.cases`) turns them into cycles
of its CPU's TSC.  A default that nobody has published is an assumption, and says so.  The descriptions are those of the
JSON Schema and of docs/scenarios.md, which :mod:`sim.scenario.document` makes from this module
and :mod:`sim.scenario.run_schema`.
"""

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, Field

from sim.errors import InputError
from sim.kernel.config import HostShadowStacks, MsrAccess
from sim.kernel.cpu_models import components, of_template
from sim.kernel.guests import GuestChoice
from sim.kernel.mitigations import IbpbAt, MitigationKind, VmscapeBy
from sim.kernel.versions import Exit as FastpathExit
from sim.kernel.versions import Preemption
from sim.kernel.vpmu import Vpmu
from sim.scenario.distribution import Distribution, Intervals, Times
from sim.scenario.run_schema import Component, Run, Section, Switch
from sim.scenario.units import Flow, Rate, Size, Time

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Count = Annotated[int, Field(ge=1, le=65536, strict=True)]
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Factor = Annotated[int, Field(ge=0, le=1000, strict=True)]
Nice = Annotated[int, Field(ge=-20, le=19, strict=True)]
Weight = Annotated[int, Field(ge=15, le=88_761, strict=True)]
Mask = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]


def _cpu_model(value: Any) -> Any:
    """A CPU model by its name and features; a template of Firecracker is read."""
    if not isinstance(value, str):
        return value
    try:
        model = of_template(value) if value.endswith(".json") else value
        components(model)
    except InputError as error:
        raise ValueError(str(error)) from error
    return model


CpuModel = Annotated[str, BeforeValidator(_cpu_model)]
Affinity = Literal["any", "pinned"] | tuple[Annotated[int, Field(ge=0, strict=True)], ...]
"""any CPU; pinned: the n-th thread of this entry to CPU n modulo the number of CPUs; or a list of CPUs."""

Reason = (
    FastpathExit
    | Literal[
        "apic-access", "cpuid", "cr-access", "ept-misconfig", "ept-violation", "external-interrupt", "io", "msr-read",
        "msr-write", "pause", "pmu", "vmcall", "other",
    ]
)  # fmt: skip

FASTPATH: Final = get_args(FastpathExit)
"""Reasons that the fastpath of some kernel handles."""

NO_TIME: Final = Distribution(kind="constant", mean=0.0)

AFFINITY: Final = (
    "any CPU; pinned: the n-th of this entry (of pipes: the n-th pair, both ends) on CPU n modulo the number of CPUs; "
    "or a list of CPUs, from 0"
)


def is_mask(path: str) -> bool:
    """Whether the value of a key is a mask, which is written in hexadecimal."""
    return path.endswith(("xss", "xcr0"))


class Host(Section):
    """The machine and its scheduler."""

    cpus: Count = Field(description="logical CPUs of the host")
    cpu: tuple[str, ...] = Field(
        description="CPU profiles, such as zen4 (fpswitch cpu list), or files of the user's; each is a case"
    )
    tsc: Rate | dict[str, Rate] | None = Field(
        None,
        description="TSC frequency, of all CPU profiles or by profile: a cycle of the results is one of the TSC; "
        "absent: that of the CPU profile",
    )
    kernel: tuple[str, ...] = Field(("v6.18",), description="kernels (fpswitch kernels); each is a case")
    costs: dict[str, str] = Field(
        default_factory=dict,
        description="cost table by CPU profile: a name (fpswitch costs list) or a file; the profile's own where absent",
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
        description="whether a timer ends a slice when it is over, and not the next tick; absent: false up to v6.19, "
        "true in v7.3",
    )
    wakeup_preemption: Switch = Field(True, description="whether a thread that wakes may preempt the running one")
    idle_balancing: Switch = Field(True, description="whether a CPU that runs out of threads takes some of another's")
    halt_poll: Time = Field(
        200e-6, description="kvm.halt_poll_ns, the most that a vCPU polls after HLT; 0 ns: it blocks at once"
    )
    halt_poll_grow: Factor = Field(
        2, description="kvm.halt_poll_ns_grow, by which a vCPU's window grows; 0: it does not"
    )
    halt_poll_grow_start: Time = Field(10e-6, description="kvm.halt_poll_ns_grow_start, the least window")
    halt_poll_shrink: Factor | None = Field(
        None,
        description="kvm.halt_poll_ns_shrink, by which a window shrinks; 0: it ends; 1: it stays; absent: the kernel's "
        "default (docs/kernel-versions.md)",
    )
    idle_exit: Time = Field(
        0.0,
        description="how long an idle CPU takes to leave its idle state (exit_latency of the state, see "
        "/sys/devices/system/cpu/cpu0/cpuidle)",
    )
    ple_gap: Factor = Field(
        128,
        description="ple_gap of kvm_intel, pause_filter_thresh of kvm_amd; 0: a guest that spins never exits for it",
    )
    ple_window: Count | None = Field(
        None,
        description="how long a guest spins before it exits: ple_window of kvm_intel in TSC cycles (absent: 4096), "
        "pause_filter_count of kvm_amd in PAUSEs (absent: 3000)",
    )
    ple_window_grow: Factor = Field(2, description="ple_window_grow, pause_filter_count_grow")
    ple_window_shrink: Factor = Field(
        0, description="ple_window_shrink, pause_filter_count_shrink; 0: back to the first"
    )
    ple_window_max: Annotated[int, Field(ge=1, lt=1 << 32, strict=True)] | None = Field(
        None, description="ple_window_max, pause_filter_count_max; absent: 2^32 - 1 and 65535"
    )
    ple_time: Times = Field(
        Distribution(kind="constant", mean=500e-9),
        description="kernel time of the handler of such an exit, kvm_vcpu_on_spin() included, beside the listed "
        "operations (assumed)",
    )
    directed_yield: Literal["none", "v7.3", "lag-credit"] = Field(
        "v7.3",
        description="to whom a guest that spins yields: none: to nobody; v7.3: kvm_vcpu_on_spin() and yield_to(); "
        "lag-credit: with the scheduler's side of a series that is not merged (docs/questions/overcommit-ratio.md)",
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
        description="where an fpstate is when it is used: touched: by what ran on the CPU since (docs/host.md); L1, "
        "memory: always there",
    )
    l1: Size | None = Field(None, description="L1 data cache of a core; absent: what CPUID of the CPU profile says")
    l2: Size | None = Field(None, description="L2 cache of a core; absent: what CPUID of the CPU profile says")


class KernelSettings(Section):
    """What is chosen about the kernel and KVM."""

    carried: str = Field("cet-s", description="the carried state: a name or a file (docs/strategy-files.md)")
    guest_cet: Switch = Field(True, description="whether KVM is asked to give CET to guests")
    guest_xss: Mask | None = Field(
        None,
        description="IA32_XSS of guests with CET, such as 0x800 (Linux v6.6 to v6.16 as a guest; 0x1800: since v6.17); "
        "absent: all that KVM offers",
    )
    guest_xcr0: Mask | None = Field(
        None,
        description="XCR0 of guests, such as 0xe7 where they have no PKU (0x200): where it is not the host's, KVM runs "
        "XSETBV at entry and at exit; absent: all that KVM offers",
    )
    guest_amx: Switch = Field(False, description="whether guests have AMX, and so the 8 KiB of XTILEDATA")
    host_shadow_stacks: HostShadowStacks = Field(
        "off",
        description="the host's own supervisor shadow stacks (no kernel has them): SSP0 in every fpstate, or written "
        "on return to user mode",
    )
    msr_access: MsrAccess = Field(
        "rdmsr-wrmsr", description="instructions by which the carried MSRs are accessed one by one"
    )
    guest_uret_msrs: tuple[str, ...] | None = Field(
        None, description="user-return MSRs in which guest and host differ; absent: LSTAR (on Intel) and TSC_AUX"
    )
    mitigations: Switch | tuple[MitigationKind, ...] = Field(
        True,
        description="mitigations at VM entry and exit, vCPU switches and return to user mode: all that Linux has on "
        "this CPU, none, or those of some kinds",
    )
    vmscape_by: VmscapeBy = Field(
        "ibpb",
        description="what the mitigation vmscape runs at return to user mode: an IBPB, or the BHB clearing loop of a "
        "series that is not merged (Alder Lake and later)",
    )
    ibpb_at: IbpbAt = Field(
        "vcpu_load",
        description="where the mitigation ibpb is: in kvm_arch_vcpu_load(), or at the first entry after it, by a "
        "series that is not merged",
    )
    apx: Switch = Field(True, description="whether the kernel enables APX where the CPU has it (false: clearcpuid=apx)")
    vpmu: Vpmu = Field(
        "none",
        description="the guests' performance counters: emulated, where an exit with reason pmu costs a sample of perf "
        "in the guest; mediated (kvm.enable_mediated_pmu, v7.0 and later): loaded and put around the fastpath loop",
    )
    vpmu_in_use: Annotated[int, Field(ge=0, le=8, strict=True)] = Field(
        0, description="how many counters of each guest count; mediated: those are loaded and cleared, too"
    )
    pasid: Switch = Field(True, description="whether the kernel enables PASID where the CPU has it")
    hypothetical: Switch = Field(
        False, description="true: strategies that are named in run.strategies may need what the CPU lacks"
    )
    init_optimisation: Switch | None = Field(None, description="of XSAVES; absent: as the CPU profile says")
    modified_optimisation: Switch | None = Field(None, description="of XSAVES; absent: as the CPU profile says")
    vm_transition_clears_xrstor_info: Switch | None = Field(
        None, description="whether VM entry and exit end the modified optimisation; absent: as the CPU profile says"
    )
    legacy_sse_write_marks_avx_in_use: Switch | None = Field(
        None, description="whether XSAVES may leave a stale AVX area (docs/model.md); absent: as the CPU profile says"
    )


class FpuUse(Section):
    """Which components are written, and how often."""

    components: tuple[Component, ...] = Field((), description="state components, as XSAVE names them")
    every: Intervals | None = Field(
        None,
        description="guest CPU time between writes (guests only: a thread writes in its bursts)",
    )
    share: Share = Field(
        1.0,
        description="threads: probability that a burst writes them; guests: that the task to which the guest's kernel "
        "switches has them in use",
    )


class Exit(Section):
    """A kind of VM exit; its exits are drawn in guest CPU time, so that they do not come while the vCPU waits."""

    every: Intervals = Field(description="guest CPU time between two of them on one vCPU")
    reason: Reason = Field("other", description="KVM's reason; a kernel that has a fastpath for it takes the fastpath")
    handled: Literal["kernel", "userspace"] = Field(
        "kernel",
        description="kernel: in KVM, the vCPU keeps its CPU; userspace: KVM_RUN returns, the VMM runs, KVM_RUN again",
    )
    time: Times | None = Field(
        None,
        description="kernel time of its handler, beside the listed operations; absent: the row of its reason in the "
        "cost table, exit handler(cpuid) for one, and nothing where the fastpath re-enters",
    )
    vmm: Times = Field(
        NO_TIME,
        description="user time of the VMM between two KVM_RUNs (handled = userspace only)",
    )
    effect: Literal["none", "ipi"] = Field(
        "none",
        description="ipi: an interrupt to another vCPU of the VM, which is work like a request (those that are "
        "pending together are one), wakes it from HLT and, without posted interrupts, takes it out of the guest",
    )
    target: Literal["next", "random"] = Field("random", description="ipi: which of the VM's other vCPUs")
    kernel_fpu: Share = Field(
        0.0, description="probability that an interrupt is taken in its handler that uses kernel_fpu_begin()"
    )


class Lock(Section):
    """A spinlock in each VM of a kind, which its vCPUs take in turn (docs/host.md)."""

    every: Intervals = Field(description="guest CPU time of a vCPU between two critical sections")
    hold: Times = Field(description="guest CPU time of a critical section")


class Guest(Section):
    """Virtual machines of one kind."""

    vms: Count = Field(1, description="how many such VMs")
    vcpus: Count = Field(1, description="vCPUs of each")
    nice: Nice = Field(0, description="of the vCPU threads")
    weight: Weight | None = Field(
        None,
        description="load weight of each vCPU thread in place of nice's, as control groups come to it: 1024 is nice 0, "
        "and each step of nice is a factor of 1.25; absent: that of nice",
    )
    affinity: Affinity = Field("any", description=AFFINITY)
    demand: Times | None = Field(
        None,
        description="guest CPU time of a request; the vCPU runs HLT when it is done and no other waits; absent: the "
        "guest is always busy",
    )
    arrivals: Intervals | None = Field(
        None, description="wall time between requests to a vCPU, which queue (open; with demand)"
    )
    sleep: Times | None = Field(None, description="wall time from HLT to the next request (closed; with demand)")
    halt_poll: Time | None = Field(
        None, description="KVM_CAP_HALT_POLL, which stands in for host.halt_poll in these VMs; absent: host.halt_poll"
    )
    idle: Literal["hlt", "haltpoll"] = Field(
        "hlt",
        description="what the guest's kernel does when it is idle: hlt: HLT at once; haltpoll: the cpuidle governor of "
        "that name, which polls in the guest first and has KVM not poll (MSR_KVM_POLL_CONTROL)",
    )
    guest_halt_poll: Time = Field(200e-6, description="haltpoll.guest_halt_poll_ns, the most that such a guest polls")
    guest_halt_poll_grow_start: Time = Field(
        50e-6, description="haltpoll.guest_halt_poll_grow_start, the least window of such a guest"
    )
    lock: Lock | None = Field(None, description="a spinlock in the guest, for which its vCPUs contend; absent: none")
    exits: dict[Name, Exit] = Field(default_factory=dict, description="kinds of VM exits beside HLT, by a name")
    fpu: FpuUse = Field(FpuUse(), description="what the guest does with its FPU")
    task_switch: Intervals | None = Field(
        None,
        description="guest CPU time between context switches of the guest's kernel, each an XRSTORS in the guest that "
        "loads fpu.components with probability fpu.share; absent: none",
    )
    shadow_stacks: Literal["none", "constant", "rewritten"] = Field(
        "none",
        description="the guest's supervisor shadow stacks: none: SSPs initial; constant: written once; rewritten: new "
        "SSPs at each context switch of the guest's kernel, by its XRSTORS. No KVM up to v7.3 reports CET_SSS to a "
        "guest, without which the SDM advises against them",
    )
    cpu_model: CpuModel | None = Field(
        None,
        description="their CPU model, as QEMU and libvirt call it, with features added or taken away: Skylake-Server, "
        "EPYC-Milan-v2,-pku (avx, mpx, avx512f, pku, amx-tile); or a CPU template of Firecracker (.json). XCR0 has its "
        "components, as far as the host has them; absent: all that KVM offers",
    )
    xcr0: Mask | None = Field(
        None,
        description="XCR0 of these guests, such as 0xe7 without PKU; absent: as kernel.guest_xcr0, pku and amx say",
    )
    xss: Mask | None = Field(None, description="IA32_XSS of these guests, if less than kernel.guest_xss")
    pku: Switch | None = Field(
        None,
        description="whether their CPUID has PKU: without it XCR0[9] and CR4.PKE are clear, and KVM leaves PKRU alone; "
        "absent: what XCR0 has",
    )
    amx: Switch | None = Field(None, description="whether they have AMX; absent: kernel.guest_amx")
    vpmu: Switch = Field(
        True, description="whether their CPUID has the performance counters of kernel.vpmu; those without pay nothing"
    )
    posted_interrupts: Switch = Field(
        True, description="an interrupt for a running vCPU needs no VM exit (APICv, AVIC)"
    )
    touches: Flow = Field(
        1e9,
        description="cache filled with lines that the guest had not touched shortly before, per second (assumed)",
    )
    vmm_touches: Flow = Field(1e9, description="the same of the VMM and of KVM on behalf of this vCPU (assumed)")
    vmm_fpu: tuple[Component, ...] = Field(
        ("SSE", "AVX"), description="what the VMM writes between two KVM_RUNs, as by memcpy() (assumed)"
    )

    signalled: Share | None = Field(
        None,
        description="probability that a signal for the vCPU thread ends a halt: it leaves KVM_RUN (KVM_EXIT_INTR), "
        "runs the handler, and calls KVM_RUN again; absent: never",
    )
    signal_time: Times | None = Field(None, description="user time of the VMM then, the handler included (signalled)")

    @property
    def choice(self) -> GuestChoice:
        """What the kernel model is told of these guests alone."""
        model = None if self.cpu_model is None else components(self.cpu_model)
        return GuestChoice(self.xcr0, self.xss, self.pku, self.amx, self.vpmu, model)


class Thread(Section):
    """Threads of the host of one kind."""

    kind: Literal["compute", "kthread", "pipe", "fork"] = Field(
        "compute",
        description="compute: bursts in user mode; kthread: bursts in the kernel, without FPU state of its own; "
        "pipe: pairs that hand a byte to and fro; fork: a parent that sleeps and forks children",
    )
    count: Count = Field(1, description="how many; of kind pipe: pairs")
    nice: Nice = Field(0, description="of the threads")
    weight: Weight | None = Field(
        None,
        description="load weight of each thread in place of nice's, as control groups come to it: 1024 is nice 0, "
        "and each step of nice is a factor of 1.25; absent: that of nice",
    )
    affinity: Affinity = Field("any", description=AFFINITY)
    compute: Times = Field(description="CPU time of a burst; pipe: user time of each hand-off; fork: of a child")
    sleep: Times | None = Field(
        None, description="wall time between bursts, absent: none; fork: between two children; pipe: never"
    )
    timer: Literal["hrtimer", "tick"] | None = Field(
        None,
        description="what ends a sleep: hrtimer: when it is over (nanosleep, futex timeouts); tick: a timer of the "
        "timer wheel, at the first tick behind that (schedule_timeout(), by which rcu_preempt sleeps); absent: hrtimer",
    )
    syscall: Times = Field(
        NO_TIME,
        description="kernel time of the system calls of a burst or hand-off, beside the listed operations",
    )
    fpu: FpuUse = Field(FpuUse(), description="what the thread does with its FPU")
    exec: Switch = Field(True, description="fork: whether the child runs execve() first")
    touches: Flow = Field(
        1e9, description="cache filled with lines that it had not touched shortly before, per second (assumed)"
    )


class Interrupt(Section):
    """Interrupt work that arrives on each CPU in wall time."""

    every: Intervals = Field(description="wall time between two on one CPU")
    time: Times = Field(description="kernel time of one, beside the listed operations")
    kernel_fpu: Share = Field(0.0, description="probability that it uses kernel_fpu_begin()")
    components: tuple[Component, ...] = Field(("SSE", "AVX"), description="what it writes then")


class Scenario(Section):
    """A scenario file."""

    title: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="one line")
    question: str = Field("", description="what is asked of it")
    run: Run = Field(description="how long, how often, and with which strategies")
    host: Host = Field(description="the machine and its scheduler")
    kernel: KernelSettings = Field(KernelSettings(), description="what is chosen about the kernel and KVM")
    guests: dict[Name, Guest] = Field(default_factory=dict, description="virtual machines, by a name")
    threads: dict[Name, Thread] = Field(default_factory=dict, description="threads of the host, by a name")
    interrupts: dict[Name, Interrupt] = Field(default_factory=dict, description="interrupt work, by a name")
    sweep: dict[str, tuple[bool | int | float | str, ...]] = Field(
        default_factory=dict,
        description='values by the path of a key, such as "guests.web.exits.io.every"; each combination is a case',
    )

    def written(self) -> dict[str, Any]:
        """The scenario with all its defaults as a file would have it; what is absent has no default."""
        return self.model_dump(mode="json", exclude_none=True)
