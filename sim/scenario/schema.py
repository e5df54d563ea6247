"""What a scenario file may contain: every key, its unit, its default and what it means.

Times are kept in seconds, rates per second, sizes in bytes; a case (:mod:`sim.scenario.cases`) turns them into cycles
of its CPU's TSC.  A default that nobody has published is an assumption, and says so.  The descriptions are those of the
JSON Schema and of docs/reference/scenario-keys.md, which :mod:`sim.scenario.document` makes from this module,
:mod:`sim.scenario.run_schema` and :mod:`sim.scenario.host_schema`.
"""

from dataclasses import replace
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticSerializationError

from sim.errors import InputError
from sim.kernel.cpu_model_files import of_file
from sim.kernel.cpu_models import offered
from sim.kernel.guests import GuestChoice
from sim.kernel.mitigations import SpecCtrl
from sim.kernel.versions import Exit as FastpathExit
from sim.scenario.distribution import Distribution, Intervals, Times
from sim.scenario.host_schema import Count, Counters, Host, KernelSettings, Mask
from sim.scenario.run_schema import Component, Run, Section, Switch
from sim.scenario.units import Flow, Time

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Wakes = Annotated[float, Field(gt=0.0, le=100.0, strict=True)]
Nice = Annotated[int, Field(ge=-20, le=19, strict=True)]
Weight = Annotated[int, Field(ge=15, le=88_761, strict=True)]


def _cpu_model(value: Any) -> Any:
    """A CPU model by its name and features; a file of Firecracker, QEMU or libvirt is read."""
    if not isinstance(value, str):
        return value
    try:
        model = of_file(value) if value.endswith((".json", ".xml")) else value
        offered(model)
    except InputError as error:
        raise ValueError(str(error)) from error
    return model


CpuModel = Annotated[str, BeforeValidator(_cpu_model)]
Affinity = Literal["any", "pinned"] | tuple[Annotated[int, Field(ge=0, strict=True)], ...]
"""Any CPU; pinned: the n-th thread of this entry to CPU n modulo the number of CPUs; or a list of CPUs."""

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
    "any CPU; pinned: the n-th thread of this entry (both ends of the n-th pipe) on CPU n modulo the number of CPUs; "
    "or a list of CPUs, from 0"
)


class FpuUse(Section):
    """Which state components are written, and how often."""

    components: tuple[Component, ...] = Field((), description="state components, as XSAVE names them")
    every: Intervals | None = Field(
        None,
        description="guest CPU time between writes (guests only: a thread writes in its bursts)",
    )
    share: Share = Field(
        1.0,
        description="threads: probability that a burst writes them; guests: probability that the task to which the "
        "guest's kernel switches has them in use",
    )


class Exit(Section):
    """A kind of VM exit; its exits are drawn in guest CPU time, so that there are none while the vCPU waits."""

    every: Intervals = Field(description="guest CPU time between two such exits of one vCPU")
    reason: Reason = Field("other", description="KVM's reason; a kernel that has a fastpath for it takes the fastpath")
    handled: Literal["kernel", "userspace"] = Field(
        "kernel",
        description="kernel: in KVM, and the vCPU keeps its CPU; userspace: KVM_RUN returns, the VMM runs, and calls "
        "KVM_RUN again",
    )
    time: Times | None = Field(
        None,
        description="kernel time of its handler, beside the listed operations; absent: the row of its reason in the "
        "cost table, for example exit handler(cpuid), and nothing if the fastpath re-enters the guest",
    )
    vmm: Times = Field(
        NO_TIME,
        description="user time of the VMM between two KVM_RUNs (handled = userspace only)",
    )
    effect: Literal["none", "ipi"] = Field(
        "none",
        description="ipi: an interrupt to another vCPU of the VM. It is work like a request (several that are pending "
        "count as one), wakes the vCPU from HLT and, without posted interrupts, makes it exit",
    )
    target: Literal["next", "random"] = Field("random", description="ipi: which of the VM's other vCPUs")
    kernel_fpu: Share = Field(
        0.0, description="probability that during its handler an interrupt arrives that uses kernel_fpu_begin()"
    )
    wakes: dict[Name, Wakes] = Field(
        default_factory=dict,
        description="by entry of [threads] with waits: how many of its threads such an exit wakes on average, as an "
        "ioeventfd wakes a vhost thread, or what the VMM does when KVM_RUN returns; else as wakes of [threads.NAME]",
    )


class Lock(Section):
    """A spinlock in each VM of a kind, which its vCPUs take in turn (docs/host.md)."""

    every: Intervals = Field(description="guest CPU time of a vCPU between two critical sections")
    hold: Times = Field(description="guest CPU time of a critical section")


class Waits(Section):
    """Sleeps that are ended by threads of an entry that names this one in its ``wakes``."""

    share: Share = Field(description="probability that a sleep, or a halt, waits to be woken; the others end by time")
    at_most: Time | None = Field(
        None, description="when such a wait ends by itself, as with a timeout of futex() or poll(); absent: never"
    )
    order: Literal["longest", "any"] | None = Field(
        None,
        description="which of those that wait is woken: longest: the one that has waited longest, as on a wait queue; "
        "any: each is as likely, as where signals are sent to single threads; absent: longest",
    )


class Guest(Section):
    """Virtual machines of one kind."""

    vms: Count = Field(1, description="how many such VMs")
    vcpus: Count = Field(1, description="vCPUs of each")
    nice: Nice = Field(0, description="of the vCPU threads")
    weight: Weight | None = Field(
        None,
        description="load weight of each vCPU thread, in place of that of nice, such as a control group gives it: 1024 "
        "is nice 0, and each step of nice is a factor of 1.25; absent: that of nice",
    )
    group: Name | None = Field(None, description="their control group, of [groups]; absent: the root group")
    affinity: Affinity = Field("any", description=AFFINITY)
    demand: Times | None = Field(
        None,
        description="guest CPU time of a request; the vCPU runs HLT when it is done and none is waiting; absent: the "
        "guest is always busy",
    )
    arrivals: Intervals | None = Field(
        None, description="wall time between requests to a vCPU, which queue (open; with demand)"
    )
    sleep: Times | None = Field(None, description="wall time from HLT to the next request (closed; with demand)")
    waits: Waits | None = Field(
        None, description="halts that a thread ends (with demand, and without arrivals); absent: none"
    )
    halt_poll: Time | None = Field(
        None, description="KVM_CAP_HALT_POLL, which overrides host.halt_poll for these VMs; absent: host.halt_poll"
    )
    idle: Literal["hlt", "haltpoll"] = Field(
        "hlt",
        description="what the guest's kernel does when it is idle: hlt: HLT at once; haltpoll: the cpuidle governor of "
        "that name, which polls in the guest first and turns off KVM's polling (MSR_KVM_POLL_CONTROL)",
    )
    guest_halt_poll: Time = Field(200e-6, description="haltpoll.guest_halt_poll_ns, the most that such a guest polls")
    guest_halt_poll_grow_start: Time = Field(
        50e-6, description="haltpoll.guest_halt_poll_grow_start, the smallest window of such a guest"
    )
    lock: Lock | None = Field(None, description="a spinlock in the guest, for which its vCPUs contend; absent: none")
    exits: dict[Name, Exit] = Field(default_factory=dict, description="kinds of VM exits besides HLT, by name")
    fpu: FpuUse = Field(FpuUse(), description="what the guest does with its FPU")
    task_switch: Intervals | None = Field(
        None,
        description="guest CPU time between context switches of the guest's kernel, each an XRSTORS in the guest that "
        "loads fpu.components with probability fpu.share; absent: no switches",
    )
    shadow_stacks: Literal["none", "constant", "rewritten"] = Field(
        "none",
        description="the guest's supervisor shadow stacks: none: SSPs initial; constant: written once; rewritten: new "
        "SSPs at each context switch of the guest's kernel, by its XRSTORS. Without CET_SSS, which no KVM up to v7.3 "
        "reports to a guest, the SDM advises against supervisor shadow stacks",
    )
    cpu_model: CpuModel | None = Field(
        None,
        description="their CPU model, as QEMU and libvirt name it, with features added or removed: Skylake-Server, "
        "EPYC-Milan-v2,-pku, SapphireRapids-v5 (avx, mpx, avx512f, pku, amx-tile, cet-ss, cet-ibt, arch-lbr, xsave, "
        "xsaves, xfd; without xsave KVM does not switch XCR0, without xsaves on VMX not IA32_XSS); or a file: a CPU "
        "template of Firecracker or the answer of QEMU's query-cpu-model-expansion (.json), a domain or "
        "capabilities of libvirt (.xml). XCR0 and IA32_XSS have its components, as far as the kernel's KVM offers "
        "them; absent: all that KVM offers",
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
        True,
        description="whether their CPUID has the performance counters of kernel.vpmu; without them they pay nothing",
    )
    vpmu_in_use: Counters | None = Field(None, description="how many counters they use; absent: kernel.vpmu_in_use")
    vpmu_counts_instructions: Switch | None = Field(
        None,
        description="whether one of them counts retired instructions; absent: kernel.vpmu_counts_instructions",
    )
    spec_ctrl: SpecCtrl | None = Field(
        None, description="what they write to IA32_SPEC_CTRL; absent: kernel.guest_spec_ctrl"
    )
    posted_interrupts: Switch = Field(
        True, description="whether an interrupt for a running vCPU needs no VM exit (APICv, AVIC)"
    )
    touches: Flow = Field(
        1e9,
        description="cache filled with lines that the guest had not touched shortly before, per second (assumed)",
    )
    vmm_touches: Flow = Field(1e9, description="the same for the VMM, and for KVM on behalf of this vCPU (assumed)")
    vmm_fpu: tuple[Component, ...] = Field(
        ("SSE", "AVX"), description="what the VMM writes between two KVM_RUNs, as by memcpy() (assumed)"
    )

    signalled: Share | None = Field(
        None,
        description="probability that a signal for the vCPU thread ends a halt: it leaves KVM_RUN (KVM_EXIT_INTR), "
        "runs the handler, and calls KVM_RUN again; absent: never",
    )
    signal_time: Times | None = Field(
        None, description="with signalled: user time of the VMM after such a signal, including the handler"
    )

    @property
    def choice(self) -> GuestChoice:
        """What the kernel model is told about these guests in particular."""
        choice = GuestChoice(
            *(self.xcr0, self.xss, self.pku, self.amx, self.vpmu),
            vpmu_in_use=self.vpmu_in_use,
            vpmu_counts_instructions=self.vpmu_counts_instructions,
            spec_ctrl=self.spec_ctrl,
        )
        if self.cpu_model is None:
            return choice
        model = offered(self.cpu_model)
        return replace(choice, components=model.components, xsave=model.xsave, xsaves=model.xsaves)


class Thread(Section):
    """Threads of the host of one kind."""

    kind: Literal["compute", "kthread", "pipe", "fork"] = Field(
        "compute",
        description="compute: bursts in user mode; kthread: bursts in the kernel, without FPU state of its own; "
        "pipe: pairs that pass a byte back and forth; fork: a parent that sleeps and forks children",
    )
    count: Count = Field(1, description="how many; of kind pipe: pairs")
    nice: Nice = Field(0, description="of the threads")
    weight: Weight | None = Field(
        None,
        description="load weight of each thread, in place of that of nice, such as a control group gives it: 1024 is "
        "nice 0, and each step of nice is a factor of 1.25; absent: that of nice",
    )
    group: Name | None = Field(None, description="their control group, of [groups]; absent: the root group")
    affinity: Affinity = Field("any", description=AFFINITY)
    compute: Times = Field(description="CPU time of a burst; pipe: user time of each hand-off; fork: of a child")
    sleep: Times | None = Field(
        None, description="wall time between bursts; fork: between two children; pipe: not allowed; absent: none"
    )
    timer: Literal["hrtimer", "tick"] | None = Field(
        None,
        description="what ends a sleep: hrtimer: when it is over (nanosleep, futex timeouts); tick: a timer of the "
        "timer wheel, at the first tick after that (schedule_timeout(), by which rcu_preempt sleeps); absent: hrtimer",
    )
    blocks: Annotated[int, Field(ge=2, le=65536, strict=True)] | None = Field(
        None,
        description="take compute and sleep together, row by row, from their files (empirical, with as many rows "
        "in both): this many rows in order, from a random one on, then from another; all rows (or more): again and "
        "again, with the threads of the entry evenly apart; fork: compute is the child's; absent: each is drawn by "
        "itself",
    )
    waits: Waits | None = Field(
        None, description="sleeps that another thread ends (compute and kthread); absent: none, all end by time"
    )
    wakes: dict[Name, Wakes] = Field(
        default_factory=dict,
        description="by entry of [threads] or [guests] with waits: how many of its threads or vCPUs are woken at the "
        "end of a burst, on average; only waiting ones are woken (wake_up() of a wait queue). fork: at the exit of a "
        "child",
    )
    compute_after: Times | None = Field(
        None,
        description="CPU time of a burst after it has woken somebody, before it sleeps (kind compute): back in "
        "user mode it may be preempted by whom it woke; absent: none, it sleeps at once",
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


class Group(Section):
    """A control group of threads and vCPUs, which competes for the CPUs as one (docs/scheduler.md)."""

    weight: Weight = Field(1024, description="its load weight on all CPUs together: cpu.weight 100 is 1024")


class Interrupt(Section):
    """Interrupt work that arrives on each CPU in wall time."""

    every: Intervals = Field(description="wall time between two interrupts on one CPU")
    time: Times = Field(description="kernel time of an interrupt, beside the listed operations")
    kernel_fpu: Share = Field(0.0, description="probability that it uses kernel_fpu_begin()")
    components: tuple[Component, ...] = Field(("SSE", "AVX"), description="what it then writes")


class Scenario(Section):
    """A scenario file."""

    title: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="one line")
    question: str = Field("", description="what the scenario is to answer")
    run: Run = Field(description="how long, how often, and with which strategies")
    host: Host = Field(description="the machine and its scheduler")
    kernel: KernelSettings = Field(KernelSettings(), description="settings of the kernel and KVM")
    guests: dict[Name, Guest] = Field(default_factory=dict, description="virtual machines, by name")
    threads: dict[Name, Thread] = Field(default_factory=dict, description="threads of the host, by name")
    groups: dict[Name, Group] = Field(default_factory=dict, description="control groups, by name")
    interrupts: dict[Name, Interrupt] = Field(default_factory=dict, description="interrupt work, by name")
    sweep: dict[str, tuple[bool | int | float | str, ...]] = Field(
        default_factory=dict,
        description='values by the path of a key, such as "guests.web.exits.io.every"; each combination is a case',
    )

    def written(self) -> dict[str, Any]:
        """The scenario with all its defaults, as a file would have it; what is absent has no default.

        Keys added after 0.2.0 appear only if they are used: the hash of this seeds the draws of costs.
        """
        try:
            found = self.model_dump(mode="json", exclude_none=True, warnings="error")
        except PydanticSerializationError as error:  # which pydantic also makes of an interrupt
            if KeyboardInterrupt.__name__ in str(error):
                raise KeyboardInterrupt from error
            raise
        exits = (exit for guest in found["guests"].values() for exit in guest["exits"].values())
        wakes = ((each, "wakes") for each in (*found["threads"].values(), *exits))
        for holder, key in ((found, "groups"), (found["kernel"], "vpmu_counts_instructions"), *wakes):
            if not holder[key]:
                del holder[key]
        if found["kernel"]["guest_spec_ctrl"] == "host":
            del found["kernel"]["guest_spec_ctrl"]
        return found
