"""To which vCPU of its VM a spinning vCPU gives its CPU, and how (sim.host.directed_yield)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.host import is_pending
from sim.engine.jit import Memory, compiled
from sim.engine.kernel_table import flag_of
from sim.engine.layout import (
    ACCOUNT,
    BLOCKED,
    BOOSTED,
    COUNTS_STEPS,
    CPU,
    DY_ELIGIBLE,
    F_NOTIFIER,
    GUEST_SPIN,
    IN_SPIN_LOOP,
    INTERRUPTS,
    KT_FRAGMENT,
    LOCK_HOLDER,
    NEED_RESCHED,
    NOTHING,
    POSTS,
    RUNNING,
    SLEPT,
    THREAD,
    VM_FIRST,
    VM_INDEX,
    VM_SIZE,
)
from sim.engine.rescheduling import post
from sim.engine.run_queue import alone, forfeit, nominate
from sim.host.directed_yield import ESRCH, TRIES


@compiled
def is_ready(a: Memory, t: int) -> bool:
    """vcpu->ready: the vCPU was preempted in KVM_RUN, or woken there, and does not run yet."""
    notifier = flag_of(a, 0, a.kt[0, t, KT_FRAGMENT], F_NOTIFIER)
    return notifier != 0 and not a.t[t, BLOCKED] and a.c[a.t[t, CPU], THREAD] != t


@compiled
def preempted_in_kernel(a: Memory, t: int) -> bool:
    """At CPL 0: it holds the lock, or spins for it."""
    return a.t[a.t[t, VM_FIRST], LOCK_HOLDER] == t or a.t[t, ACCOUNT] == GUEST_SPIN


@compiled
def runs_again(a: Memory, t: int) -> None:
    """The end of kvm_vcpu_on_spin()."""
    a.t[t, IN_SPIN_LOOP] = a.t[t, DY_ELIGIBLE] = 0


@compiled
def on_spin(a: Memory, c: int, me: int) -> bool:
    """kvm_vcpu_on_spin(me, true): whether ``me`` has yielded; a VM with one vCPU has no other vCPU to spin for."""
    first, n = a.t[me, VM_FIRST], a.t[me, VM_SIZE]
    a.t[me, IN_SPIN_LOOP] = 1
    start, tries = a.t[first, BOOSTED] + 1, TRIES
    for i in range(n):
        number = (start + i) % n
        t = first + number
        if number == a.t[me, VM_INDEX] or not is_ready(a, t):
            continue
        pending = a.t[t, POSTS] and is_pending(a, t)  # without APICv nobody asks
        if not a.t[t, SLEPT] and not pending and not preempted_in_kernel(a, t):
            continue
        eligible = not a.t[t, IN_SPIN_LOOP] or a.t[t, DY_ELIGIBLE] != 0
        if a.t[t, IN_SPIN_LOOP]:
            a.t[t, DY_ELIGIBLE] = 0 if a.t[t, DY_ELIGIBLE] else 1
        if not eligible:
            continue
        yielded = yield_to(a, c, t)
        if yielded > 0:
            a.t[first, BOOSTED] = i if a.g[COUNTS_STEPS] else number
            return True
        if yielded < 0:
            tries -= 1
            if tries == 0:
                break
    runs_again(a, me)
    return False


@compiled
def yield_to(a: Memory, c: int, target: int) -> int:
    """yield_to(target, preempt = true) by the thread that runs on the CPU: 1, 0 if it failed, or ESRCH."""
    its = a.t[target, CPU]
    if alone(a, c) and a.c[its, RUNNING] == 1:
        return ESRCH
    if a.c[its, THREAD] == target or a.t[target, BLOCKED] or not nominate(a, its, target):
        return 0
    forfeit(a, c)
    if its != c and not a.c[its, NEED_RESCHED]:
        a.c[its, NEED_RESCHED] = 1
        post(a, its, draw(a, a.g[INTERRUPTS]), 0, NOTHING, 0, -1, False)
    a.c[c, NEED_RESCHED] = 1
    return 1
