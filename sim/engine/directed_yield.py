"""To which vCPU of its VM a spinning vCPU gives its CPU, and how (sim.host.directed_yield, and parts of run queues)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.host import is_pending
from sim.engine.jit import Memory, compiled
from sim.engine.kernel_table import flag_of
from sim.engine.layout import (
    ACCOUNT,
    BLOCKED,
    BOOSTED,
    BUDDY,
    CPU,
    CURRENT_ENTITY,
    DEADLINE,
    DELAYED,
    DY_ELIGIBLE,
    F_NOTIFIER,
    FORCED_AT,
    FORCED_EVERY,
    GUEST_SPIN,
    IN_SPIN_LOOP,
    INTERRUPTS,
    INV_WEIGHT,
    KT_FRAGMENT,
    LAG_CREDIT,
    LOCK_HOLDER,
    NEED_RESCHED,
    NOTHING,
    NOW,
    QUEUED,
    ROUND_ROBIN,
    RUNNING,
    SLEPT,
    SLICE,
    THREAD,
    TICK,
    VM_FIRST,
    VM_INDEX,
    VM_SIZE,
    VPROT,
    VRUNTIME,
    WEIGHT,
)
from sim.engine.rescheduling import post
from sim.engine.scheduler import avg_vruntime, insert, remove, update_current
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
        if not a.t[t, SLEPT] and not is_pending(a, t) and not preempted_in_kernel(a, t):
            continue
        eligible = not a.t[t, IN_SPIN_LOOP] or a.t[t, DY_ELIGIBLE] != 0
        if a.t[t, IN_SPIN_LOOP]:
            a.t[t, DY_ELIGIBLE] = 0 if a.t[t, DY_ELIGIBLE] else 1
        if not eligible:
            continue
        yielded = yield_to(a, c, t)
        if yielded > 0:
            a.t[first, BOOSTED] = number
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
    if a.c[c, RUNNING] == 1 and a.c[its, RUNNING] == 1:
        return ESRCH
    if a.c[its, THREAD] == target or a.t[target, BLOCKED] or not nominate(a, its, target):
        return 0
    forfeit(a, c)
    if its != c:
        a.c[its, NEED_RESCHED] = 1
        post(a, its, draw(a, a.g[INTERRUPTS]), 0, NOTHING, 0, -1, False)
    a.c[c, NEED_RESCHED] = 1
    return 1


@compiled
def nominate(a: Memory, c: int, entity: int) -> bool:
    """yield_to_task_fair(): sets the buddy, which is made eligible first if the target gets a credit of lag."""
    if a.g[ROUND_ROBIN] or a.t[entity, DELAYED]:
        return False
    a.c[c, BUDDY] = entity
    if a.g[LAG_CREDIT]:
        t, queued = a.t, a.c[c, QUEUED]
        update_current(a, c, a.g[NOW])
        weight, inv = t[entity, WEIGHT], t[entity, INV_WEIGHT]
        margin = max(2 * t[entity, SLICE], a.g[TICK]) * inv  # the upper bound
        eighth, rest = t[entity, SLICE] * inv // 8, t[entity, SLICE] * inv % 8
        if queued <= margin // max(eighth, 1):  # otherwise the sum exceeds the bound, and may not fit in 64 bits
            margin = min(margin, queued * eighth + queued * rest // 8)
        remove(a, c, entity)
        others = t[a.c[c, CURRENT_ENTITY], WEIGHT] if a.c[c, CURRENT_ENTITY] >= 0 else 0
        for i in range(a.c[c, QUEUED]):
            others += t[a.queue[c, i], WEIGHT]
        inflated = 0
        if others:
            quotient = margin // others
            inflated = margin + quotient * weight + (margin - quotient * others) * weight // others
        moved = max(0, t[entity, VRUNTIME] - (avg_vruntime(a, c) - inflated))
        t[entity, VRUNTIME] -= moved
        t[entity, DEADLINE] -= moved
        insert(a, c, entity)
    return True


@compiled
def forfeit(a: Memory, c: int) -> None:
    """yield_task_fair(); with a credit of lag, the thread that yields loses its protection, once in FORCED_EVERY.

    There is no buddy to clear: a thread that runs is not one.
    """
    t, current, now = a.t, a.c[c, CURRENT_ENTITY], a.g[NOW]
    if a.g[ROUND_ROBIN] or current < 0 or a.c[c, RUNNING] == 1:
        return
    update_current(a, c, now)
    if t[current, VRUNTIME] <= avg_vruntime(a, c):
        t[current, VRUNTIME] = t[current, DEADLINE]
        t[current, DEADLINE] += t[current, SLICE] * t[current, INV_WEIGHT]
    if a.g[LAG_CREDIT] and (a.c[c, FORCED_AT] < 0 or now - a.c[c, FORCED_AT] >= a.g[FORCED_EVERY]):
        a.c[c, FORCED_AT] = now
        t[current, VPROT] = min(t[current, VPROT], t[current, VRUNTIME])
