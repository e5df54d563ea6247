"""Directed yield: which vCPU of a VM one that spins gives its CPU to, and how.

Source: virt/kvm/kvm_main.c kvm_vcpu_on_spin(), kvm_vcpu_eligible_for_directed_yield(), kvm_sched_out(), kvm_sched_in();
arch/x86/kvm/x86.c kvm_arch_vcpu_put() (preempted_in_kernel); kernel/sched/syscalls.c yield_to(); kernel/sched/fair.c
yield_to_task_fair(); Linux v7.3 (7.3.4).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from sim.host.cpu import HostCpu
    from sim.host.thread import Thread

TRIES: Final = 3
"""How many times yield_to() may fail as pointless."""
ESRCH: Final = -1
FORCED_EVERY_S: Final = 6e-3
"""How often a yield cancels the protection of the yielding thread, on one run queue, in the series that is not
merged."""


class Candidate(Protocol):
    """struct kvm_vcpu, as far as directed yield looks at it.

    ``ready``: runnable without running; ``preempted``: so since it was preempted, and not since it was woken.
    """

    in_spin_loop: bool
    dy_eligible: bool

    @property
    def ready(self) -> bool: ...

    @property
    def preempted(self) -> bool: ...

    @property
    def has_pending_interrupt(self) -> bool: ...

    @property
    def preempted_in_kernel(self) -> bool: ...


class Boosted:
    """kvm->last_boosted_vcpu of a VM; ``counts_steps``: what is kept is not the vCPU's index, as up to v6.18.2."""

    __slots__ = ("counts_steps", "last")

    def __init__(self, counts_steps: bool) -> None:
        self.counts_steps = counts_steps
        self.last = -1


def on_spin(me: int, vcpus: Sequence[Candidate], vm: Boosted, yield_to: Callable[[int], int]) -> bool:
    """kvm_vcpu_on_spin(me, true): whether ``me`` has yielded, by ``yield_to`` of a vCPU's number.

    A vCPU that has yielded is ``in_spin_loop`` until it runs again (:func:`runs_again`).
    """
    n = len(vcpus)
    if n < 2:
        return False
    vcpus[me].in_spin_loop = True
    start, tries = vm.last + 1, TRIES
    for i in range(n):
        number = (start + i) % n
        vcpu = vcpus[number]
        if number == me or not vcpu.ready:
            continue
        if vcpu.preempted and not vcpu.has_pending_interrupt and not vcpu.preempted_in_kernel:
            continue
        eligible = not vcpu.in_spin_loop or vcpu.dy_eligible
        if vcpu.in_spin_loop:
            vcpu.dy_eligible = not vcpu.dy_eligible
        if not eligible:
            continue
        yielded = yield_to(number)
        if yielded > 0:
            vm.last = i if vm.counts_steps else number
            return True
        if yielded < 0:
            tries -= 1
            if not tries:
                break
    runs_again(vcpus[me])
    return False


def runs_again(vcpu: Candidate) -> None:
    """The end of kvm_vcpu_on_spin(), which one that has yielded comes to when it runs again."""
    vcpu.in_spin_loop = vcpu.dy_eligible = False


def yield_to(cpu: "HostCpu", target: "Thread", *, credit: bool) -> int:
    """yield_to(target, preempt = true) by what runs on ``cpu``: 1, 0 if it failed, or :data:`ESRCH`.

    ``credit``: as the series "sched/fair, KVM: Semantics-aware directed yield for oversubscribed KVM" (v3, 12 June
    2026) has it: the target gets so much lag that the hint counts, and who yields loses its protection.
    """
    its = target.cpu
    if cpu.rq.alone and its.rq.nr_running == 1:
        return ESRCH
    if its.thread is target or target.blocked:
        return 0
    now = cpu.env.now
    if not its.rq.nominate(now, target, credit=credit):
        return 0
    cpu.rq.forfeit(now, force=credit)
    if its is not cpu:
        its.ask_resched()
    cpu.need_resched = True
    return 1
