"""The task switch and the return to user mode: the two ends of every restore that Linux defers.

Source: kernel/sched/core.c __schedule() and context_switch(), arch/x86/kernel/process_64.c __switch_to(),
arch/x86/include/asm/entry-common.h arch_exit_to_user_mode_prepare(), Linux v6.19.
"""

from typing import Final

from sim.kernel import fpu, kvm
from sim.kernel.carriers import update_host_msr
from sim.kernel.kernel import IllegalFlow, Kernel
from sim.kernel.operations import CONTEXT_SWITCH, FOLD_AT, FORK, RDPKRU, SWITCH, USER_RETURN, WRPKRU
from sim.kernel.state import TASK_KINDS, Cpu, Task
from sim.kernel.uret import kvm_on_user_return

# One object per operation, because the ledger counts the same object faster than an equal one.
CONTEXT_SWITCH_BY: Final = {kind: (kind, SWITCH, CONTEXT_SWITCH) for kind in TASK_KINDS}
RDPKRU_BY: Final = {kind: (kind, SWITCH, RDPKRU) for kind in TASK_KINDS}


def schedule(k: Kernel, cpu: Cpu, next: Task) -> None:
    """__schedule() from the current task to ``next``: notifiers, XSAVES if the registers are live, PKRU; no restore."""
    if next.cpu is not None or cpu.guest is not None or not next.runnable:
        raise IllegalFlow(f"{cpu!r} cannot switch to {next!r}")
    if len(cpu.pending) > FOLD_AT:
        cpu.ledger.fold()
    switch_out(k, cpu, next.name)
    switch_in(k, cpu, next)


def switch_out(k: Kernel, cpu: Cpu, next_comm: str = "") -> None:
    """The half of a switch that concerns the task that leaves, whatever comes next."""
    prev = cpu.current
    cpu.record(CONTEXT_SWITCH_BY[prev.kind])
    if k.tracing:
        cpu.ledger.trace("sched:sched_switch", prev_comm=prev.name, next_comm=next_comm)
    if prev.notifier is not None:
        kvm.kvm_sched_out(k, cpu, prev.notifier)
    fpu.switch_fpu(k, cpu, prev)
    if k.pku:
        cpu.record(RDPKRU_BY[prev.kind])
        prev.pkru = cpu.unit.pkru
    prev.cpu = None


def switch_in(k: Kernel, cpu: Cpu, next: Task) -> None:
    """The half that concerns the next task; of the previous one, only its kind matters."""
    if k.pku:
        x86_pkru_load(cpu, next)
    next.cpu = cpu
    cpu.current = next
    if not k.tif_set_on_prev:
        next.need_fpu_load = True  # switch_fpu_finish(), before v6.16
    if next.notifier is not None:
        kvm.kvm_sched_in(k, cpu, next.notifier)


def x86_pkru_load(cpu: Cpu, next: Task) -> None:
    """PKRU is switched eagerly and outside the fpstate (arch/x86/kernel/process_64.c); it has been read already."""
    if cpu.unit.pkru != next.pkru:
        cpu.record((cpu.current.kind, SWITCH, WRPKRU))
        cpu.unit.write_pkru(next.pkru)


def return_to_user(k: Kernel, cpu: Cpu) -> None:
    """The exit to user mode, interrupts off: user-return MSRs, the deferred restore, per-task MSRs, VMSCAPE."""
    task = cpu.current
    if cpu.user_return_notify:
        kvm_on_user_return(k, cpu)
    if task.need_fpu_load:
        fpu.switch_fpu_return(k, cpu, USER_RETURN)
    if k.host_writes_at_user_return:
        update_host_msr(k, cpu, USER_RETURN)
    if cpu.ibpb_exit_to_user:
        cpu.ibpb_exit_to_user = False
        cpu.record((task.kind, USER_RETURN, k.vmscape_operation))
    if k.integrity:
        unit, context = cpu.unit, task.context
        if (
            unit.regs != context.regs
            or unit.mxcsr != context.mxcsr
            or unit.pkru != context.pkru
            or k.carried_msrs_per_task
        ):
            k.integrity.return_to_user(cpu, task)


def user_writes(k: Kernel, cpu: Cpu, components: int) -> None:
    """User code of the current task writes registers of ``components`` (PKRU: see :func:`user_wrpkru`)."""
    cpu.current.context.write(cpu.unit, components)


def user_wrpkru(cpu: Cpu, value: int) -> None:
    """User code of the current task runs WRPKRU."""
    cpu.unit.write_pkru(value)
    cpu.current.context.pkru = value


def fork(k: Kernel, cpu: Cpu, name: str) -> Task:
    """fork() by the current task; the child is on no CPU yet."""
    child = k.new_task(name)
    fpu.fpu_clone(k, cpu, child)
    if k.pku:  # copy_thread()
        cpu.record((cpu.current.kind, FORK, RDPKRU))
        child.pkru = cpu.unit.pkru
    return child


def exec(k: Kernel, cpu: Cpu) -> None:
    """execve() by the current task."""
    fpu.fpu_flush_thread(k, cpu)


def exit(k: Kernel, cpu: Cpu) -> None:
    """do_exit() by the current task, up to its last __schedule()."""
    fpu.fpu__drop(k, cpu)
    cpu.current.runnable = False
