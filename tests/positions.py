"""Where a task is in its path through the kernel, and what is legal there."""

from sim.xsave.components import AVX, AVX512, FP, SSE

# Positions of a task in its path, whether it is on a CPU or not.
USER_MODE = "in user mode"
KERNEL = "entered the kernel"
RETURNING = "about to return to user mode"
DEAD = "exited"
NEVER_IN_USER_MODE = "kernel thread"
RUN_LOADED = "KVM_RUN: after vcpu_load"
RUN_FPU = "KVM_RUN: after kvm_load_guest_fpu"
LOOP = "KVM_RUN: in the loop, outside the guest"
GUEST = "KVM_RUN: in the guest"
INIT_OUT = "KVM_RUN: in a guest INIT, with the guest fpstate in memory"
RUN_OUT = "KVM_RUN: after the strategy's part of leaving"
RUN_PUT = "KVM_RUN: after kvm_put_guest_fpu"
IOCTL = "short ioctl: after vcpu_load"
IOCTL_FPU = "short ioctl: with the guest FPU, where the access needs it"

NOT_PREEMPTIBLE = frozenset((USER_MODE, GUEST))
"""In user mode and in the guest something else comes first: an interrupt, a VM exit."""

AT: dict[str, frozenset[str]] = {
    action: frozenset(positions)
    for action, positions in {
        "enter_kernel": {USER_MODE},
        "user_writes": {USER_MODE},
        "user_wrpkru": {USER_MODE},
        "user_ldmxcsr": {USER_MODE},
        "user_xrstor": {USER_MODE},
        "return_to_user": {KERNEL, RETURNING},
        "deliver": {KERNEL, RETURNING},
        "sigreturn": {KERNEL},
        "fork": {KERNEL},
        "exec": {KERNEL},
        "exit": {KERNEL},
        "sync_fpstate": {KERNEL, RETURNING},
        "enable_amx": {KERNEL},
        "kvm_run": {KERNEL},
        "load_guest_fpu": {RUN_LOADED},
        "run_entry": {RUN_FPU},
        "enter_guest": {LOOP},
        "cancel_entry": {LOOP},
        "init_put": {LOOP},
        "init_load": {INIT_OUT},
        "run_exit": {LOOP},
        "put_guest_fpu": {RUN_OUT},
        "vcpu_put": {RUN_PUT, IOCTL},
        "ioctl": {KERNEL},
        "ioctl_load_fpu": {IOCTL},
        "access_msr": {IOCTL_FPU},
        "ioctl_put_fpu": {IOCTL_FPU},
        "exit_guest": {GUEST},
        "guest_writes": {GUEST},
        "guest_writes_cet_u": {GUEST},
        "guest_wrpkru": {GUEST},
        "guest_ldmxcsr": {GUEST},
        "guest_writes_carried": {GUEST},
        "guest_switches_task": {GUEST},
        "guest_writes_xfd": {GUEST},
        "guest_uses_disabled_amx": {GUEST},
    }.items()
}
"""The positions of the current task at which an action is legal; :meth:`World.legal` has the rest of the rule."""

NEXT = {
    USER_MODE: "enter_kernel",
    RETURNING: "return_to_user",
    RUN_LOADED: "load_guest_fpu",
    RUN_FPU: "run_entry",
    LOOP: "enter_guest",
    INIT_OUT: "init_load",
    GUEST: "exit_guest",
    RUN_OUT: "put_guest_fpu",
    RUN_PUT: "vcpu_put",
    IOCTL: "vcpu_put",
    IOCTL_FPU: "ioctl_put_fpu",
}
"""What a task does next if nothing comes between; after KERNEL it depends on the task."""

KERNEL_FPU_USES = FP | SSE | AVX | AVX512
MOST_TASKS = 5
SLOW_EXIT = "external-interrupt"
EXITS = (SLOW_EXIT, "wrmsr-icr", "wrmsr-tsc-deadline", "preemption-timer", "hlt-event-pending", "invd")
