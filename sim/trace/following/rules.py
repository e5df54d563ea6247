"""The rules that an event of a trace must obey, each with the kernel source that makes it one."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """``says`` is what the kernel does; ``source`` where (Linux v6.18 unless it names another version)."""

    says: str
    source: str


RULES: Final = {
    "current": Rule(
        "events of a CPU come from the task that sched_switch put there",
        "kernel/sched/core.c __schedule()",
    ),
    "one-cpu": Rule(
        "a task runs on one CPU at a time",
        "kernel/sched/core.c context_switch(), try_to_wake_up() (p->on_cpu)",
    ),
    "save": Rule(
        "a task is saved in the switch away from it, and only then, if TIF_NEED_FPU_LOAD is clear",
        "arch/x86/include/asm/fpu/sched.h switch_fpu()",
    ),
    "restored-before": Rule(
        "TIF_NEED_FPU_LOAD is cleared without a restore only if the registers still hold the task's state "
        "(fpregs_owner here, last_cpu this CPU)",
        "arch/x86/kernel/fpu/context.h fpregs_restore_userregs(), fpregs_state_valid()",
    ),
    "load": Rule(
        "load is TIF_NEED_FPU_LOAD of the current task at the time of the event",
        "arch/x86/include/asm/trace/fpu.h",
    ),
    "fpstate": Rule(
        "the active fpstate is the guest's between kvm_fpu load and unload, and the task's otherwise; xcomp_bv is its "
        "mask",
        "arch/x86/kernel/fpu/core.c fpu_swap_kvm_fpstate(), arch/x86/kernel/fpu/xstate.c fpstate_init_user()",
    ),
    "xfeatures": Rule(
        "xfeatures is XSTATE_BV in memory: what the last save into this fpstate wrote, and a subset of xcomp_bv",
        "Intel SDM vol. 1, section 13.11; arch/x86/include/asm/trace/fpu.h",
    ),
    "pointer": Rule(
        "a task has one struct fpu for its life",
        "include/linux/sched.h, arch/x86/kernel/fpu/init.c; x86_task_fpu()",
    ),
    "swap": Rule(
        "kvm_fpu load and unload alternate for a thread, each right after the x86_fpu_regs_activated of its swap",
        "arch/x86/kvm/x86.c kvm_load_guest_fpu(), kvm_put_guest_fpu()",
    ),
    "signal": Rule(
        "only signal delivery and sigreturn mark registers as the task's without a restore from its fpstate, once "
        "each, and never inside KVM_RUN",
        "arch/x86/kernel/fpu/core.c fpu__clear_user_states(), arch/x86/kernel/fpu/signal.c __fpu_restore_sig()",
    ),
    "fork": Rule(
        "fork saves the parent's registers, which are its own, into the child",
        "arch/x86/kernel/fpu/core.c fpu_clone()",
    ),
    "drop": Rule(
        "an exiting task emits x86_fpu_regs_deactivated and x86_fpu_dropped together, if TIF_NEED_FPU_LOAD is clear",
        "arch/x86/kernel/fpu/core.c fpu__drop()",
    ),
    "guest-entry": Rule(
        "a guest is entered with the guest fpstate in the registers",
        "arch/x86/kvm/x86.c vcpu_enter_guest(), switch_fpu_return()",
    ),
    "event": Rule(
        "this kernel version has no such event, or never emits it in this state",
        "arch/x86/include/asm/trace/fpu.h",
    ),
}
"""By the name that a report uses."""
