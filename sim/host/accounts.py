"""Where the cycles of a CPU go, and what is counted on it."""

from typing import Final

ACCOUNTS: Final = {
    "operations": "operations_cycles",
    "guest": "guest_cycles",
    "guest_poll": "guest_poll_cycles",
    "guest_spin": "guest_spin_cycles",
    "user": "user_cycles",
    "vmm": "vmm_cycles",
    "handler": "exit_handler_cycles",
    "syscall": "syscall_cycles",
    "interrupt": "interrupt_cycles",
    "wakeup": "wakeup_cycles",
    "halt_poll": "halt_poll_cycles",
    "idle": "idle_cycles",
}
"""The metric of each account; the accounts of a CPU add up to its elapsed TSC cycles."""

COUNTS: Final = {
    "count_switches": "context_switches",
    "count_preemptions": "preemptions",
    "count_migrations": "migrations",
    "count_wakeups": "wakeups",
    "count_exits": "vm_exits",
    "count_round_trips": "kvm_run_round_trips",
    "count_loads": "vcpu_loads",
    "count_halts": "halts",
    "count_polled": "halts_polled",
    "count_requests": "requests",
    "count_handoffs": "handoffs",
    "count_bursts": "bursts",
    "count_forks": "forks",
    "count_guest_switches": "guest_task_switches",
    "count_ticks": "ticks",
    "count_interrupts": "interrupts",
    "count_kernel_fpu": "kernel_fpu_uses",
}
"""The metric of each count."""

TIMES: Final = {"steal": "steal_cycles"}
"""The metric of each time that is no CPU's: how long vCPUs were runnable and did not run, in TSC cycles."""


class Accounts:
    """The accounts of one CPU, in TSC cycles, its counts, and the times that ended on it."""

    __slots__ = (*ACCOUNTS, *COUNTS, *TIMES)

    operations: int
    guest: int
    guest_poll: int
    guest_spin: int
    user: int
    vmm: int
    handler: int
    syscall: int
    interrupt: int
    wakeup: int
    halt_poll: int
    idle: int
    count_switches: int
    count_preemptions: int
    count_migrations: int
    count_wakeups: int
    count_exits: int
    count_round_trips: int
    count_loads: int
    count_halts: int
    count_polled: int
    count_requests: int
    count_handoffs: int
    count_bursts: int
    count_forks: int
    count_guest_switches: int
    count_ticks: int
    count_interrupts: int
    count_kernel_fpu: int
    steal: int

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """All is zero: the measurement begins."""
        for name in (*ACCOUNTS, *COUNTS, *TIMES):
            setattr(self, name, 0)
