"""struct fpu and its fpstates: save, lazy restore, the KVM swap, kernel_fpu_begin, and what fork, exec and exit do.

Functions have the names of arch/x86/kernel/fpu/{core,xstate,context}.[ch], arch/x86/include/asm/fpu/sched.h and
arch/x86/kernel/traps.c and do, in the same order, what those of Linux v6.19 do; what differs in other versions
is a field of :class:`~sim.kernel.versions.KernelVersion`.  The instruction behind save is XSAVES, behind restore
XRSTORS (arch/x86/kernel/fpu/xstate.h os_xsave(), os_xrstor()).
"""

from sim.kernel.kernel import Kernel
from sim.kernel.operations import (
    AMX,
    EXEC,
    EXIT,
    FORK,
    FWAIT,
    IDLE,
    KERNEL_FPU,
    LDMXCSR,
    RDMSR_XFD_ERR,
    RESTORE_SKIPPED,
    SWAP_LOAD,
    SWAP_PUT,
    SWITCH,
    TILERELEASE,
    WRMSR_XFD,
    WRMSR_XFD_ERR,
    WRPKRU,
    XGETBV1,
)
from sim.kernel.state import PKRU_DEFAULT, Cpu, Fpstate, Task, Vcpu
from sim.kernel.xstate import os_xrstor, os_xsave
from sim.xsave.area import CONTENTS, INIT
from sim.xsave.components import MXCSR_INIT, PASID, XTILE, XTILEDATA


def save_fpregs_to_fpstate(k: Kernel, cpu: Cpu, fpstate: Fpstate, phase: str) -> None:
    """XSAVES with RFBM = fpstate->xfeatures; the registers stay as they are."""
    if fpstate.xfeatures & k.warn_mask and not fpstate.is_guest:
        k.warn_on_fpu(fpstate)
    written = os_xsave(k, cpu, fpstate.area, fpstate.xfeatures, phase)
    if k.integrity and cpu.unit.regs != fpstate.context.regs:
        k.integrity.saved(cpu, fpstate.context, written, "guest fpstate" if fpstate.is_guest else "normal fpstate")


def xfd_update_state(k: Kernel, cpu: Cpu, fpstate: Fpstate, phase: str) -> None:
    """WRMSR XFD if this CPU's last value differs; only on CPUs with XFD features (fpu_state_size_dynamic())."""
    if k.xfd_features and cpu.xfd_state != fpstate.xfd:
        cpu.record((cpu.current.kind, phase, WRMSR_XFD))
        cpu.xfd_state = cpu.unit.xfd = fpstate.xfd
        k.trace_msr(cpu, "write", "XFD")


def restore_fpregs_from_fpstate(k: Kernel, cpu: Cpu, fpstate: Fpstate, phase: str) -> None:
    """XRSTORS with RFBM = fpu_kernel_cfg.max_features & XFEATURE_MASK_FPSTATE (all but PKRU).

    That is not fpstate->xfeatures: what this fpstate lacks and the last owner used must go to its initial
    configuration.
    """
    xfd_update_state(k, cpu, fpstate, phase)
    os_xrstor(k, cpu, fpstate.area, k.restore_mask if fpstate.is_guest else k.restore_mask_normal, phase)


def fpregs_state_valid(cpu: Cpu, task: Task) -> bool:
    """The registers of this CPU still hold the task's state."""
    return cpu.fpregs_owner is task and task.last_cpu == cpu.id


def fpregs_activate(k: Kernel, cpu: Cpu, task: Task) -> None:
    """The registers now belong to ``task``."""
    cpu.fpregs_owner = task
    if k.tracing:
        k.trace_fpu(cpu, "regs_activated", task)


def fpregs_restore_userregs(k: Kernel, cpu: Cpu, phase: str) -> None:
    """Makes the registers valid for the current task, with a restore only if they are not (context.h)."""
    task = cpu.current
    if not task.user_fpu:
        return
    if not fpregs_state_valid(cpu, task):
        restore_fpregs_from_fpstate(k, cpu, task.fpstate, phase)
        fpregs_activate(k, cpu, task)
        task.last_cpu = cpu.id
    else:
        cpu.record((task.kind, phase, RESTORE_SKIPPED))
    task.need_fpu_load = False


switch_fpu_return = fpregs_restore_userregs
"""Before return to user mode or VM entry, if TIF_NEED_FPU_LOAD is set; a wrapper in Linux, the same function here."""


def switch_fpu(k: Kernel, cpu: Cpu, prev: Task) -> None:
    """Saves the registers of the task that leaves the CPU, if they hold its state; never restores (asm/fpu/sched.h).

    The owner is left as it is: the registers still hold prev's state.
    """
    if prev.user_fpu and not prev.need_fpu_load:
        if k.tif_set_on_prev:
            prev.need_fpu_load = True
        save_fpregs_to_fpstate(k, cpu, prev.fpstate, SWITCH)
        prev.last_cpu = cpu.id
        if k.tracing:
            k.trace_fpu(cpu, "regs_deactivated", prev)


def fpu_swap_kvm_fpstate(k: Kernel, cpu: Cpu, vcpu: Vcpu, enter_guest: bool) -> None:
    """Exchanges the task's normal fpstate and the vCPU's guest fpstate at KVM_RUN entry and exit.

    The save is skipped if memory is current already (TIF_NEED_FPU_LOAD); the restore is never skipped.
    """
    task, guest = vcpu.task, vcpu.fpstate
    phase = SWAP_LOAD if enter_guest else SWAP_PUT
    current = task.fpstate
    if not task.need_fpu_load:
        save_fpregs_to_fpstate(k, cpu, current, phase)
    if enter_guest:
        task.saved_fpstate = current
        task.fpstate = guest
    else:
        assert task.saved_fpstate is not None
        task.fpstate = task.saved_fpstate
        task.saved_fpstate = None
    guest.in_use = enter_guest
    restore_fpregs_from_fpstate(k, cpu, task.fpstate, phase)
    fpregs_activate(k, cpu, task)
    task.last_cpu = cpu.id
    task.need_fpu_load = False


def kernel_fpu_begin(k: Kernel, cpu: Cpu, used: int = 0) -> None:
    """The kernel takes the registers, and its code writes the components in ``used`` (kernel_fpu_begin_mask()).

    KFPU_MXCSR is the default mask of 64-bit kernels, hence LDMXCSR and no FNINIT.  kernel_fpu_end() runs no FPU
    instruction.
    """
    task = cpu.current
    if task.user_fpu and not task.need_fpu_load:
        task.need_fpu_load = True
        save_fpregs_to_fpstate(k, cpu, task.fpstate, KERNEL_FPU)
    cpu.fpregs_owner = None  # also in a kthread: whoever's state was there must be restored
    cpu.record((task.kind, KERNEL_FPU, LDMXCSR))
    cpu.unit.ldmxcsr(MXCSR_INIT)
    if used:
        cpu.unit.touch(used, k.kernel_context.token())


def fpu_clone(k: Kernel, cpu: Cpu, child: Task) -> None:
    """fork: the child's fpstate gets the parent's registers by an XSAVES into the child's area."""
    parent = cpu.current
    if parent.need_fpu_load:
        fpregs_restore_userregs(k, cpu, FORK)
    child.context.regs = list(parent.context.regs)
    child.context.mxcsr = parent.context.mxcsr
    child.context.pkru = parent.context.pkru
    save_fpregs_to_fpstate(k, cpu, child.fpstate, FORK)
    child.fpstate.area.xstate_bv &= ~PASID
    child.context.written_in_memory(PASID | XTILEDATA, INIT)  # dynamic features count as caller-saved
    k.host_ssp0_into_fpstate(child)
    if k.tracing:
        if k.version.fork_copies_parent_area:
            k.trace_fpu(cpu, "copy_src", parent)
        k.trace_fpu(cpu, "copy_dst", child)


def fpu_flush_thread(k: Kernel, cpu: Cpu) -> None:
    """exec: everything initial in memory, and nothing in the registers is the task's any more."""
    task = cpu.current
    if task.fpstate.xfeatures == k.config.masks.host_default:
        task.fpstate.area.xstate_bv = 0
    else:  # one that was enlarged for AMX is given up for the embedded one
        task.fpstate = k.new_normal_fpstate(task.context)
    task.context.regs = [INIT] * CONTENTS
    task.context.mxcsr = MXCSR_INIT
    k.host_ssp0_into_fpstate(task)
    task.frames.clear()
    task.last_cpu = -1
    task.need_fpu_load = True
    if k.pku:
        cpu.record((task.kind, EXEC, WRPKRU))
        cpu.unit.write_pkru(PKRU_DEFAULT)
        task.pkru = task.context.pkru = PKRU_DEFAULT


def fpu__drop(k: Kernel, cpu: Cpu) -> None:
    """exit: the registers belong to nobody, whoever owned them.

    TIF_NEED_FPU_LOAD stays as it is, so the task's last __switch_to() still saves them if it was clear and
    kernel_fpu_begin() has not run.
    """
    task = cpu.current
    if task.need_fpu_load and not k.version.drop_ignores_need_fpu_load:
        return
    cpu.record((task.kind, EXIT, FWAIT))
    cpu.fpregs_owner = None
    if k.tracing:
        k.trace_fpu(cpu, "regs_deactivated", task)
        k.trace_fpu(cpu, "dropped", task)


def fpu_idle_fpregs(k: Kernel, cpu: Cpu) -> None:
    """Entry of a C-state that flushes AMX state (intel_idle's xstate states): TILERELEASE if tiles are in use."""
    if not k.xfd_features:
        return
    cpu.record((cpu.current.kind, IDLE, XGETBV1))
    if cpu.unit.xgetbv1() & XTILE:
        cpu.record((cpu.current.kind, IDLE, TILERELEASE))
        cpu.unit.initialise(XTILE)
        cpu.fpregs_owner = None


def handle_xfd_event(k: Kernel, cpu: Cpu) -> None:
    """#NM at the first use of AMX in user mode: a larger fpstate and XFD = 0 (arch/x86/kernel/traps.c)."""
    task = cpu.current
    cpu.record((task.kind, AMX, RDMSR_XFD_ERR))
    k.trace_msr(cpu, "read", "XFD_ERR")
    cpu.record((task.kind, AMX, WRMSR_XFD_ERR))
    k.trace_msr(cpu, "write", "XFD_ERR")
    cpu.unit.xfd_err = 0
    if task.need_fpu_load:
        fpregs_restore_userregs(k, cpu, AMX)
    task.fpstate = k.new_normal_fpstate(task.context, extra=XTILEDATA)
    xfd_update_state(k, cpu, task.fpstate, AMX)


def fpu_update_guest_xfd(k: Kernel, cpu: Cpu, vcpu: Vcpu, xfd: int) -> None:
    """An intercepted guest write of IA32_XFD."""
    guest = vcpu.fpstate
    if k.version.guest_xfd_write_clears_xstate_bv and vcpu.task.need_fpu_load:
        # A later XRSTORS of a disabled component that memory says is in use would be #NM in the host.
        guest.area.xstate_bv &= ~xfd
        vcpu.context.written_in_memory(xfd, INIT)
    guest.xfd = xfd
    if guest.in_use:
        xfd_update_state(k, cpu, guest, AMX)
