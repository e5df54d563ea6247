"""What the kernel remembers per fpstate, task, vCPU and CPU: a handful of integers and masks, and no clock.

Field names are Linux's where Linux has the field: struct fpu and struct fpstate (arch/x86/include/asm/fpu/types.h),
struct task_struct, struct kvm_vcpu_arch (arch/x86/include/asm/kvm_host.h), struct vcpu_vmx and struct vcpu_svm.
"""

from __future__ import annotations

from typing import Any

from sim.kernel.mitigations import SpecCtrl
from sim.kernel.operations import Ledger
from sim.xsave.area import CONTENTS, INIT, Area
from sim.xsave.components import MXCSR_INIT, USER, bits
from sim.xsave.unit import Unit

USER_TASK = "user"
VCPU_TASK = "vcpu"
KTHREAD = "kthread"
IDLE_TASK = "idle"
TASK_KINDS = (USER_TASK, VCPU_TASK, KTHREAD, IDLE_TASK)

PKRU_DEFAULT = 0x55555554
"""init_pkru_value: keys 1-15 access-disabled (arch/x86/mm/pkeys.c)."""


class Context:
    """An owner of register contents: a task's user mode, or a guest.

    ``regs`` has what it must find in the registers when it runs: the architectural truth that the integrity check
    compares with.  ``carried`` is the same for carried MSRs that are in no component.  Each write gets a new token,
    writer << 32 | version.
    """

    __slots__ = ("carried", "guest", "id", "mxcsr", "name", "pkru", "regs", "version")

    def __init__(self, id: int, name: str, guest: bool) -> None:
        self.id = id
        self.name = name
        self.guest = guest
        self.version = 0
        self.regs: list[Any] = [INIT] * CONTENTS
        self.mxcsr = MXCSR_INIT
        self.pkru = PKRU_DEFAULT
        self.carried: tuple[int, ...] = ()

    def token(self) -> int:
        """A value that nobody has written before."""
        self.version += 1
        return self.id << 32 | self.version

    def write(self, unit: Unit, components: int) -> None:
        """The context writes registers of ``components``, on a CPU where it runs."""
        self.version += 1
        token = self.id << 32 | self.version
        truth, regs = self.regs, unit.regs
        for i in bits[components]:
            truth[i] = regs[i] = token
        unit.mark_written(components)

    def written_in_memory(self, components: int, token: int) -> None:
        """Another context has written ``token`` to its ``components`` while it was not running."""
        for i in bits[components]:
            self.regs[i] = token

    def __repr__(self) -> str:
        return f"<{'guest' if self.guest else 'task'} context {self.name}>"


class Fpstate:
    """struct fpstate: an XSAVE area and the features that are saved into it.

    ``xfeatures`` is the RFBM of every save into it; ``xfd`` the value of IA32_XFD while its owner runs.
    ``user_xfeatures`` is what user space sees of them, in signal frames and by ptrace.
    """

    __slots__ = ("area", "context", "in_use", "is_guest", "size", "user_xfeatures", "xfd", "xfeatures")

    def __init__(self, area: Area, xfeatures: int, xfd: int, size: int, context: Context, is_guest: bool) -> None:
        self.area = area
        self.xfeatures = xfeatures
        self.user_xfeatures = xfeatures & USER
        self.xfd = xfd
        self.size = size
        self.context = context
        self.is_guest = is_guest
        self.in_use = False

    def __repr__(self) -> str:
        return (
            f"<{'guest' if self.is_guest else 'normal'} fpstate of {self.context.name} xfeatures={self.xfeatures:#x}>"
        )


class Task:
    """A thread and its struct fpu; a vCPU thread also has only one.

    ``need_fpu_load`` is TIF_NEED_FPU_LOAD; ``runnable`` is False once the task has exited.  ``user_fpu`` is False for
    PF_KTHREAD and PF_USER_WORKER, which never return to user mode.  ``saved_fpstate`` is __task_fpstate: the normal one
    while the guest's is active.  ``notifier`` is the vCPU whose preempt notifier is registered (between vcpu_load and
    vcpu_put).  ``host_value`` is what the host needs in a carried MSR while this task is in user mode (SSP0 with host
    shadow stacks, FRED_RSP0).
    """

    __slots__ = (
        "context",
        "cpu",
        "fpstate",
        "frames",
        "host_value",
        "id",
        "kind",
        "last_cpu",
        "name",
        "need_fpu_load",
        "notifier",
        "pkru",
        "runnable",
        "saved_fpstate",
        "user_fpu",
        "vcpu",
    )

    def __init__(self, id: int, name: str, kind: str, fpstate: Fpstate, context: Context) -> None:
        self.id = id
        self.name = name
        self.kind = kind
        self.user_fpu = kind in (USER_TASK, VCPU_TASK)
        self.fpstate = fpstate
        self.saved_fpstate: Fpstate | None = None
        self.context = context
        self.last_cpu = -1
        self.need_fpu_load = True
        self.pkru = PKRU_DEFAULT
        self.runnable = True
        self.cpu: Cpu | None = None
        self.vcpu: Vcpu | None = None
        self.notifier: Vcpu | None = None
        self.frames: list[SignalFrame] = []
        self.host_value = 0

    def __repr__(self) -> str:
        where = f"cpu {self.cpu.id}" if self.cpu else "off"
        return f"<{self.kind} {self.name} {where} need_fpu_load={self.need_fpu_load:d} last_cpu={self.last_cpu}>"


class SignalFrame:
    """What a signal delivery put on the user stack, and what the interrupted code had in its registers."""

    __slots__ = ("area", "features", "mxcsr", "pkru", "regs")

    def __init__(self, area: Area, features: int, regs: list[Any], mxcsr: int, pkru: int) -> None:
        self.area = area
        self.features = features
        self.regs = regs
        self.mxcsr = mxcsr
        self.pkru = pkru


class Vcpu:
    """struct kvm_vcpu: what KVM keeps for a guest's virtual CPU.

    ``xcr0``, ``xss`` and ``pkru`` are the guest's values; ``carried`` the guest's values of the carried state's MSRs
    while software keeps them (cet_s_ssp[] in the drafts of 2023).  ``spec_ctrl`` says what it has written to
    IA32_SPEC_CTRL so far, ``boots_with_spec_ctrl`` what its kernel writes (:data:`SpecCtrl`); ``counts_instructions``
    that one of its ``vpmu_in_use`` counters does.
    """

    __slots__ = (
        "boots_with_spec_ctrl",
        "carried",
        "carried_active",
        "carried_area",
        "carried_loaded",
        "context",
        "counts_instructions",
        "cr4_osxsave",
        "cr4_pke",
        "efer_sce",
        "fpstate",
        "guest_state_loaded",
        "guest_uret_msrs_loaded",
        "has_cet",
        "has_pku",
        "has_vpmu",
        "has_xsave",
        "has_xsaves",
        "host_pkru",
        "id",
        "l1tf_flush_l1d",
        "lacks",
        "name",
        "needs_ibpb",
        "pkru",
        "spec_ctrl",
        "task",
        "uret",
        "vmcs_cpu",
        "vpmu_in_use",
        "xcr0",
        "xfd_err",
        "xfd_passthrough",
        "xss",
    )

    def __init__(self, id: int, task: Task, fpstate: Fpstate, context: Context) -> None:
        self.id = id
        self.name = context.name
        self.task = task
        self.fpstate = fpstate
        self.context = context
        self.has_cet = False
        self.lacks = 0
        self.spec_ctrl: SpecCtrl = "host"
        self.boots_with_spec_ctrl: SpecCtrl = "host"
        self.has_vpmu = True
        self.vpmu_in_use = 0
        self.counts_instructions = False
        self.has_xsave = self.has_xsaves = True
        self.l1tf_flush_l1d = False
        self.needs_ibpb = False
        self.xcr0 = 0
        self.xss = 0
        self.pkru = PKRU_DEFAULT
        self.host_pkru = PKRU_DEFAULT
        self.cr4_osxsave = True
        self.efer_sce = True
        self.has_pku = True
        self.cr4_pke = True
        self.xfd_err = 0
        self.xfd_passthrough = False
        self.guest_state_loaded = False
        self.guest_uret_msrs_loaded = False
        self.uret: dict[str, int] = {}
        self.vmcs_cpu: Cpu | None = None
        self.carried: tuple[int, ...] = ()
        self.carried_active = False
        self.carried_loaded = False
        self.carried_area: Area | None = None

    def __repr__(self) -> str:
        return (
            f"<vcpu {self.name} loaded={self.task.notifier is self:d} guest_state_loaded={self.guest_state_loaded:d}>"
        )


class Cpu:
    """One logical processor as the kernel sees it: its per-CPU variables, who runs, and the XSAVE unit.

    ``fpregs_owner`` is fpu_fpregs_owner_ctx, ``xfd_state`` the last value written to IA32_XFD, ``uret`` the current
    value of each user-return MSR, ``msrs`` the carried MSRs that belong to no xfeature.  ``guest`` is the vCPU between
    VM entry and VM exit.
    """

    __slots__ = (
        "carried_cache",
        "current",
        "current_vmcs",
        "fpregs_owner",
        "guest",
        "ibpb_exit_to_user",
        "id",
        "idle",
        "last_vcpu",
        "ledger",
        "msrs",
        "pending",
        "record",
        "unit",
        "uret",
        "user_return_notify",
        "xfd_state",
    )

    def __init__(self, id: int, unit: Unit, idle: Task, ledger: Ledger) -> None:
        self.id = id
        self.unit = unit
        self.idle = idle
        self.current = idle
        self.ledger = ledger
        self.record = ledger.record
        self.pending = ledger.pending
        self.fpregs_owner: Task | None = None
        self.xfd_state = unit.xfd
        self.user_return_notify = False
        self.uret: dict[str, int] = {}
        self.ibpb_exit_to_user = False
        self.current_vmcs: Vcpu | None = None
        self.last_vcpu: Vcpu | None = None
        self.guest: Vcpu | None = None
        self.msrs: dict[int, int] = {}
        self.carried_cache: int | None = None

    def __repr__(self) -> str:
        owner = self.fpregs_owner.name if self.fpregs_owner else None
        guest = f" guest={self.guest.name}" if self.guest else ""
        return f"<cpu {self.id} runs {self.current.name}{guest} fpregs_owner={owner}>"
