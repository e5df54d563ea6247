"""A booted kernel: its CPUs, tasks and vCPUs, and what the functions of the flow often need.

The flow itself is in :mod:`sim.kernel.fpu`, :mod:`sim.kernel.process`, :mod:`sim.kernel.signal` and
:mod:`sim.kernel.kvm`, as functions that take the kernel first and the CPU second.
"""

from collections.abc import Callable
from typing import Final, Protocol

from sim.kernel import mitigations, vpmu
from sim.kernel.carriers import hooks
from sim.kernel.config import Config
from sim.kernel.guests import AS_ALL, GuestChoice, features
from sim.kernel.integrity import Integrity
from sim.kernel.operations import BHB_LONG_CLEAR, IBPB, Key, Ledger, LedgerFactory
from sim.kernel.state import IDLE_TASK, USER_TASK, VCPU_TASK, Context, Cpu, Fpstate, Task, Vcpu
from sim.kernel.uret import URET_MSRS
from sim.xsave.area import INIT, Area
from sim.xsave.components import CET, CET_S, COMPACTED, PKRU, USER
from sim.xsave.unit import Unit

Hook = Callable[["Kernel", Cpu, Vcpu], None]


class BufferLevel(Protocol):
    """Says where an area is (L1, L2, memory) when an instruction uses it."""

    def __call__(self, cpu: Cpu, area: Area) -> str: ...

    def forget(self, area: Area) -> None:
        """The area has been freed."""


MSRS: Final = {
    "XFD": 0x1C4,
    "XFD_ERR": 0x1C5,
    "XSS": 0xDA0,
    "KERNEL_GS_BASE": 0xC0000102,
    "U_CET": 0x6A0,
    "PL3_SSP": 0x6A7,
    **URET_MSRS,
}
"""MSR numbers (arch/x86/include/asm/msr-index.h)."""

PLAIN_REGISTERS: Final = -1
"""The number under which a CPU keeps the content of carried registers that are neither MSRs nor a state component."""

AREA_BYTES = 0x4000
"""Distance between the made-up addresses of areas: more than any area's size, and aligned."""


def _at_once(cpu: Cpu, key: Key) -> None:
    cpu.record(key)


class IllegalFlow(Exception):
    """A step that a kernel cannot take in the state in which it is."""


class Kernel:
    """One booted kernel with ``cpus`` CPUs, all idle.

    ``ledger`` makes the ledger of each CPU; with ``buffer_level`` operations know where their buffer is.  ``integrity``
    is None when the check is off.  ``tracing`` passes tracepoints to the ledgers.  ``call_function_single`` runs an
    operation on another CPU (smp_call_function_single()), by default at once.
    """

    def __init__(
        self,
        config: Config,
        cpus: int = 1,
        *,
        ledger: LedgerFactory = lambda cpu: Ledger(),
        buffer_level: BufferLevel | None = None,
        integrity: bool = True,
        tracing: bool = False,
    ) -> None:
        self.config = config
        self.version = config.version
        self.vendor = config.vendor
        self.strategy = config.strategy
        self.buffer_level = buffer_level
        self.tracing = tracing
        self.call_function_single: Callable[[Cpu, Key], None] = _at_once
        self.pku = config.pku
        self.xfd_features = config.xfd
        self.tif_set_on_prev = config.version.need_fpu_load_set_on == "prev"
        self.restore_mask = config.masks.restore_mask
        self.restore_mask_normal = config.restore_mask_normal
        self.warn_mask = CET_S if config.patched and config.patched.warns and config.settings.debug_fpu else 0
        self.warnings: list[str] = []
        self.swaps_in_vcpu_run = config.version.xfeatures_swapped == "vcpu_run"
        self.fastpath = frozenset(config.version.fastpath[config.vendor])
        self.kvm_supported_xss = CET if config.kvm_offers_cet or config.guest_has_cet else 0
        self.vmscape = (
            config.version.ibpb_exit_to_user and "vmscape" in config.mitigations and "VMSCAPE" in config.cpu.bugs
        )
        self.vmscape_operation = IBPB if config.settings.vmscape_by == "ibpb" else BHB_LONG_CLEAR
        self.defers_ibpb = config.settings.ibpb_at == "vcpu_enter_guest"
        mediated = config.settings.vpmu == "mediated"
        self.vpmu_load = vpmu.by_in_use(vpmu.load, config.vendor, mediated)
        self.vpmu_put = vpmu.by_in_use(vpmu.put, config.vendor, mediated)
        self.vpmu_after_exit = vpmu.AFTER_EXIT[config.vendor] if mediated else ()
        on = mitigations.features(config.cpu, config.version, config.mitigations)
        self.mitigations_at_entry = mitigations.operations(on, mitigations.AT_ENTRY)
        self.rsb_at_exit = mitigations.operations(on, mitigations.RSB_AT_EXIT)
        self.mitigations_at_exit = mitigations.operations(on, mitigations.AT_EXIT)
        self.flushes_l1d = "l1d-flush" in config.mitigations and mitigations.L1TF in config.cpu.bugs
        self.host_spec_ctrl = config.vendor == "vmx" and bool(on & {"IBRS_ENHANCED", "KERNEL_IBRS"})
        self.writes_spec_ctrl_at_exit = "KERNEL_IBRS" in on

        carried, strategy = config.carried, config.strategy
        self.carried = carried
        self.carried_mask = carried.mask
        self.cleared_by_xsaves = 0 if carried.cleared_by_xsaves is None else carried.mask
        self.tests_xcr0 = strategy.mechanism == "instructions" and not strategy.always and bool(carried.mask & USER)
        self.carried_names = tuple(carried.msrs) or (carried.component,)  # without MSRs it is one value, never copied
        self.carried_numbers = tuple(carried.msrs.values())
        if not carried.msrs and carried.xfeature is None:
            self.carried_numbers = (PLAIN_REGISTERS,)
        self.not_restored = frozenset(self.carried_names[strategy.restore :])  # asked by user-return strategies only
        consumed = carried.mask if strategy.carries else 0
        # What guests consume whether they have CET or not, and what those do that have it; CET_S, too, if another state
        # is carried and the kernel carries CET_S by itself.
        self.guests_consume = consumed & ~CET_S
        self.cet_guests_consume = consumed & CET_S if carried.mask == CET_S else config.masks.guest_default & CET_S
        self.carried_msrs_per_task = carried.per_task_msr
        self.wrmsr = "WRMSRNS" if config.settings.msr_access == "wrmsrns" else "WRMSR"
        # wrmsrns() (asm/msr.h) is WRMSR where the CPU lacks the other.
        self.host_wrmsr = "WRMSRNS" if carried.per_task_msr and "WRMSRNS" in config.cpu.features else self.wrmsr
        self.host_consumes_carried = config.settings.host_shadow_stacks != "off"
        self.host_writes_at_user_return = carried.per_task_msr or config.settings.host_shadow_stacks == "return-to-user"

        self.contexts: dict[int, Context] = {}
        self._contexts_made = 0
        self.kernel_context = self._new_context("kernel", guest=False)
        self._areas = 0
        self.init_area = self.new_area(config.masks.host_default)
        """init_fpstate: everything initial."""
        self.integrity = Integrity(self) if integrity else None
        self.at: dict[str, tuple[Hook, ...]] = hooks(self)
        self.cpus: list[Cpu] = []
        for i in range(cpus):
            self.new_cpu(i, ledger(i))

    # Making things.

    def _new_context(self, name: str, guest: bool) -> Context:
        self._contexts_made += 1
        context = Context(self._contexts_made, name, guest)
        self.contexts[context.id] = context
        return context

    def new_area(self, xfeatures: int = 0) -> Area:
        """An area of its own, empty: XSTATE_BV = 0, XCOMP_BV as init_fpstate's for ``xfeatures``."""
        self._areas += 1
        return Area(self._areas * AREA_BYTES, xfeatures | COMPACTED if xfeatures else 0)

    def new_cpu(self, i: int, ledger: Ledger) -> Cpu:
        """One more CPU, idle."""
        masks = self.config.masks
        unit = Unit(masks.xcr0, masks.xss, self.config.cpu.freedoms)
        unit.xfd = masks.xfd
        idle = self.new_task(f"swapper/{i}", IDLE_TASK)
        cpu = Cpu(i, unit, idle, ledger)
        if self.pku:
            unit.write_pkru(idle.pkru)
        idle.cpu = cpu
        self.cpus.append(cpu)
        return cpu

    def new_normal_fpstate(self, context: Context, extra: int = 0) -> Fpstate:
        """A task's fpstate as fpstate_reset() leaves it; ``extra`` are features enabled later (AMX), with XFD = 0."""
        masks = self.config.masks
        xfeatures = masks.host_default | extra
        size = self.config.cpu.compacted(xfeatures).size
        return Fpstate(self.new_area(xfeatures), xfeatures, masks.xfd & ~extra, size, context, is_guest=False)

    def new_task(self, name: str, kind: str = USER_TASK) -> Task:
        """A task that is on no CPU, with everything initial."""
        context = self._new_context(name, guest=False)
        task = Task(context.id, name, kind, self.new_normal_fpstate(context), context)
        if (task.user_fpu and self.host_writes_at_user_return) or self.host_consumes_carried:
            task.host_value = context.token()
        self.host_ssp0_into_fpstate(task)
        return task

    def forget(self, task: Task) -> None:
        """A task has been freed (free_task()); what it left in registers still belongs to an owner, who no longer has a
        name."""
        del self.contexts[task.context.id]
        if self.buffer_level is not None:
            self.buffer_level.forget(task.fpstate.area)

    def new_vcpu(self, name: str, choice: GuestChoice = AS_ALL) -> Vcpu:
        """A vCPU thread (in user mode, in the VMM) and its vCPU, as KVM_CREATE_VCPU and KVM_SET_CPUID2 leave them.

        ``choice`` is what the CPUID of its guest has or lacks, where it differs from the settings for all guests.
        """
        config, offered = self.config, features(self.config, choice)
        task = self.new_task(name, VCPU_TASK)
        context = self._new_context(f"guest {name}", guest=True)
        area = self.new_area(offered.xfeatures)
        fpstate = Fpstate(area, offered.xfeatures, 0, offered.fpstate_size, context, is_guest=True)
        vcpu = Vcpu(context.id, task, fpstate, context)
        task.vcpu = vcpu
        vcpu.lacks = offered.lacks
        vcpu.has_cet = config.guest_has_cet and not offered.lacks & CET_S
        vcpu.xcr0 = offered.xcr0
        vcpu.xss = offered.xss
        vcpu.has_vpmu = choice.vpmu
        vcpu.vpmu_in_use = offered.vpmu_in_use
        vcpu.counts_instructions = config.settings.vpmu == "mediated" and offered.counts_instructions
        vcpu.spec_ctrl = vcpu.boots_with_spec_ctrl = choice.spec_ctrl or config.settings.guest_spec_ctrl
        vcpu.has_xsave = vcpu.cr4_osxsave = choice.xsave
        vcpu.has_xsaves = choice.xsave and (choice.xsaves or self.vendor == "svm")
        vcpu.has_pku = vcpu.cr4_pke = offered.pku
        # LSTAR differs between kernels (KASLR), TSC_AUX between CPUs; the host's value is 0 here.
        vcpu.uret = dict.fromkeys(config.guest_uret_msrs, context.id)
        vcpu.carried = context.carried = (0,) * len(self.carried_numbers or (self.carried.save_by and (0,)))
        return vcpu

    def host_ssp0_into_fpstate(self, task: Task) -> None:
        """With host shadow stacks, a task's SSP0 is there from the start, also in an fpstate that has room for it."""
        if not self.host_consumes_carried or not task.user_fpu:
            return
        i = CET_S.bit_length() - 1
        task.context.regs[i] = (task.host_value, 0, 0)
        if task.fpstate.xfeatures & CET_S:
            task.fpstate.area.compacted[i] = task.context.regs[i]
            task.fpstate.area.xstate_bv |= CET_S

    # Questions and notes.

    def pkru_switched(self, vcpu: Vcpu) -> bool:
        """Whether KVM switches PKRU for this guest, which then consumes it."""
        return self.pku and bool(vcpu.xcr0 & PKRU or vcpu.cr4_pke)

    def guest_has_carried(self, vcpu: Vcpu) -> bool:
        """Whether this guest has the carried state: CET_S comes with CET, a user component with XCR0, others always.

        A guest has no supervisor component that its CPU model lacks.
        """
        if self.carried_mask & USER:
            return bool(vcpu.xcr0 & self.carried_mask)
        if self.carried_mask & vcpu.lacks:
            return False
        return vcpu.has_cet or self.carried_mask != CET_S

    def carried_value(self, cpu: Cpu, index: int) -> int:
        """What carried MSR number ``index`` holds on this CPU."""
        if self.carried.xfeature is None:
            return cpu.msrs.get(self.carried_numbers[index], 0)
        content = cpu.unit.regs[self.carried.xfeature]
        return content[index] if isinstance(content, tuple) else 0

    def set_carried_value(self, cpu: Cpu, index: int, value: int) -> None:
        """Carried MSR number ``index`` gets ``value`` on this CPU."""
        i = self.carried.xfeature
        if i is None:
            cpu.msrs[self.carried_numbers[index]] = value
            return
        values = [self.carried_value(cpu, each) for each in range(len(self.carried_names))]
        values[index] = value
        cpu.unit.write(i, tuple(values) if any(values) else INIT)

    def wrmsr_carried(self, cpu: Cpu, index: int, value: int, phase: str, instruction: str = "") -> None:
        """Software writes carried MSR number ``index``, by ``instruction`` or else the one that the settings name."""
        name = self.carried_names[index]
        cpu.record((cpu.current.kind, phase, f"{instruction or self.wrmsr}({name})"))
        self.set_carried_value(cpu, index, value)
        self.trace_msr(cpu, "write", name)

    def warn_on_fpu(self, fpstate: Fpstate) -> None:
        """WARN_ON_FPU(!is_guest && mask & dynamic) in os_xsave(), the RFC's patch 8: warns once, changes nothing."""
        if not self.warnings:
            self.warnings.append(f"save of {fpstate!r} has a guest-only feature in its mask")

    def run_hooks(self, point: str, cpu: Cpu, vcpu: Vcpu) -> None:
        """Runs whatever the strategy does at this point of the flow."""
        for hook in self.at.get(point, ()):
            hook(self, cpu, vcpu)

    def trace_msr(self, cpu: Cpu, access: str, name: str) -> None:
        """msr:read_msr or msr:write_msr, with the number as the kernel prints it; values are tokens and left out."""
        if self.tracing:
            number = MSRS[name] if name in MSRS else self.carried.msrs[name]
            cpu.ledger.trace(f"msr:{access}_msr", msr=f"{number:x}")

    def trace_fpu(self, cpu: Cpu, event: str, task: Task) -> None:
        """An x86_fpu event: current's flag, and the header in memory of the active fpstate (asm/trace/fpu.h)."""
        area = task.fpstate.area
        cpu.ledger.trace(
            f"x86_fpu:x86_fpu_{event}",
            fpu=task.name,
            load=int(cpu.current.need_fpu_load),
            xfeatures=f"{area.xstate_bv:x}",
            xcomp_bv=f"{area.xcomp_bv:x}",
        )
