"""Linux's preemption models: where and when a request to reschedule is noticed.

A request of the fair class sets TIF_NEED_RESCHED, or with lazy preemption TIF_NEED_RESCHED_LAZY, for which no IPI is
sent.  Both are seen where a thread goes on to user or guest mode; kernel code is preempted for TIF_NEED_RESCHED alone,
and by a kernel that is built or booted for it.

Source: kernel/sched/core.c (PREEMPT_DYNAMIC's table of NONE, VOLUNTARY, FULL and LAZY, resched_curr_lazy(),
__resched_curr(), sched_tick()), kernel/entry/common.c raw_irqentry_exit_cond_resched(), exit_to_user_mode_loop(), and
include/linux/entry-virt.h XFER_TO_GUEST_MODE_WORK; Linux v6.18 and v7.3.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

TO_USER: Final = 0
"""A place of a thread: in user or guest mode, or on the way there, where both flags are looked at."""
POLLS: Final = 1
"""Halt polling, which TIF_NEED_RESCHED ends in any model (kvm_vcpu_can_poll())."""
KERNEL: Final = 2
"""Kernel code."""


class Preemption(NamedTuple):
    """One model.

    ``lazy``: requests of the fair class are lazy (dynamic_preempt_lazy()).  ``kernel_points``: in a kernel thread the
    points at which TIF_NEED_RESCHED is seen lie so close that it is seen anywhere; else only cond_resched() at the end
    of a burst sees it.  ``in_kernel``: system calls and handlers of VM exits are preempted where they are
    (irqentry_exit_cond_resched, preempt_schedule), and cond_resched() does nothing.
    """

    lazy: bool
    kernel_points: bool
    in_kernel: bool

    def seen(self, place: int) -> bool:
        """Whether TIF_NEED_RESCHED is seen at ``place`` when an interrupt ends there."""
        return place != KERNEL or self.kernel_points


PREEMPTION: Final[Mapping[str, Preemption]] = {
    "none": Preemption(lazy=False, kernel_points=False, in_kernel=False),
    "voluntary": Preemption(lazy=False, kernel_points=True, in_kernel=False),
    "full": Preemption(lazy=False, kernel_points=True, in_kernel=True),
    "lazy": Preemption(lazy=True, kernel_points=True, in_kernel=True),
}
