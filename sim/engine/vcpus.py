"""vCPU threads: VM exits, HLT and polling, the VMM between two KVM_RUNs, interrupts for the guest (sim.host.vcpu)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.exits import exit_fpu, exit_over, exit_time, kind_of, lay_out, learn, refill
from sim.engine.guest_lock import (
    grow,
    has_spun,
    returns,
    set_end,
    spins_from_now,
    takes_or_releases,
    yields,
)
from sim.engine.halting import (
    arm_timer,
    deliver,
    finds_work,
    halt,
    handles_signal,
    has_event,
    polls_in_guest,
    timer_is_pending,
)
from sim.engine.host import ask_elsewhere, block_vcpu, does, is_pending, take_pending, wake
from sim.engine.jit import Memory, compiled
from sim.engine.kernel_table import charge, flag_of, of_row
from sim.engine.layout import (
    ACCOUNT,
    AGAIN,
    BATCH,
    BEGUN,
    BLOCKED,
    BOUNDARY,
    CLOCK,
    DEMAND_DRAWS,
    DEMAND_END,
    EXIT_ROW,
    EXITS,
    F_CLEAN,
    GUEST,
    GUEST_POLL,
    GUEST_SPIN,
    GUEST_TIME,
    HALT_POLL,
    HALTS,
    HANDLED,
    HANDLER,
    HLT_KIND,
    IN_KERNEL,
    INTERRUPT_KIND,
    IPI_PENDING,
    K_EFFECT,
    K_KNOWN,
    K_POINT,
    K_POINT_REQUEST,
    K_TARGET,
    K_USERSPACE,
    K_VMM,
    K_WAKES_END,
    K_WAKES_FIRST,
    KT_FRAGMENT,
    KT_VMCS,
    LEARNING,
    LOADS,
    LOCKS,
    NEED_RESCHED_LAZY,
    NOW,
    ONGOING,
    OTHERS_DRAWS,
    PAUSE_KIND,
    PLE_DRAWS,
    POINT_BOOTS,
    POINT_CARRIED,
    POINT_ENTER_RUN,
    POINT_ENTRY,
    POINT_EXIT_FPU,
    POINT_LEAVE_RUN,
    POINT_RETURN,
    POLL_OVER,
    POSTED,
    R_RESULT,
    REMAINING,
    REQUEST_END,
    REQUESTS,
    ROUND_TRIPS,
    S_NEXT,
    SIGNALLED_DRAWS,
    TARGET,
    TIMER_DUE,
    TIMER_KIND,
    TURN,
    USE_CONSTANT,
    VM_FIRST,
    VM_INDEX,
    VM_SIZE,
    VMM,
    VMM_POINT,
    WAKES_NOW,
    WAKES_STOP,
    WAKEUP,
    WAKEUPS,
    WALL,
    WOKEN_AT,
)
from sim.engine.process import (
    EVENT,
    EXIT_HANDLED,
    EXIT_WAKES,
    EXIT_WAKES_ONE,
    GUEST_POLLS,
    HALTED,
    HAS_SPUN,
    IPI_SENT,
    IPI_WAKES,
    LOCK_TURN,
    PLE_EXITED,
    POLLED_OUT,
    RUN_ENTERED,
    SPAN_BEGINS,
    TOP,
    has_woken,
    pass_boundary,
    synced,
    use_kernel_fpu,
)
from sim.engine.rescheduling import preempts, spend
from sim.engine.run_queue import alone
from sim.engine.waiting import set_wakes, wakes_others
from sim.engine.walking import passes


@compiled
def vm_exit(a: Memory, c: int, t: int, kind: int) -> bool:
    """The VM exit; True if the fastpath has entered the guest again."""
    request = a.c[c, NEED_RESCHED_LAZY] != 0
    row = passes(a, c, a.k[kind, K_POINT_REQUEST if request else K_POINT], -1)
    again = of_row(a, 0, row, R_RESULT) != 0
    a.c[c, EXITS] += 1
    if not a.k[kind, K_KNOWN] and not a.k[kind, K_EFFECT] and a.g[BATCH] and not request:
        if again:
            learn(a, t, kind, row, -1)
        else:
            a.t[t, LEARNING] = kind
            a.t[t, EXIT_ROW] = row
    return again


@compiled
def enter_vcpu(a: Memory, c: int, t: int) -> None:
    """VcpuThread.enter(), or LockingVcpu's."""
    if not a.t[t, LOCKS]:
        enters(a, c, t)
        return
    returns(a, t)
    enters(a, c, t)
    spins_from_now(a, c, t)


@compiled
def enters(a: Memory, c: int, t: int) -> None:
    """VcpuThread.enter()."""
    account = a.t[t, ACCOUNT]
    if a.t[t, TIMER_DUE] != 1 + c:
        timer_is_pending(a, t)
    if account == VMM:
        passes(a, c, POINT_RETURN, -1)
        passes(a, c, a.t[t, VMM_POINT], -1)
        return
    if account == HANDLER:
        return
    if account == HALT_POLL:
        if not has_event(a, c, t):
            return
        if a.t[t, SIGNALLED_DRAWS] >= 0 and draw(a, a.t[t, SIGNALLED_DRAWS]):
            handles_signal(a, c, t)
            return
    elif account == GUEST_POLL and take_pending(a, t):
        does(a, t, GUEST)
    learning, clean = a.t[t, LEARNING], flag_of(a, 0, a.kt[0, t, KT_FRAGMENT], F_CLEAN)
    row = passes(a, c, POINT_ENTRY, -1)
    if learning >= 0:
        a.t[t, LEARNING] = -1
        if clean:
            learn(a, t, learning, a.t[t, EXIT_ROW], row)
    if a.t[t, WOKEN_AT] >= 0 and a.t[t, ACCOUNT] != GUEST_POLL:
        has_woken(a, c, t, 0)
    if not a.t[t, BEGUN]:
        a.t[t, BEGUN] = 1
        passes(a, c, POINT_BOOTS, -1)
        if a.t[t, USE_CONSTANT]:
            passes(a, c, POINT_CARRIED, -1)


@compiled
def handles(a: Memory, t: int, kind: int, cycles: int) -> None:
    """A preemptible kernel: the handler is a span, before which vcpu_enter_guest() ends with preempt_enable()."""
    does(a, t, HANDLER)
    a.t[t, HANDLED] = kind
    a.t[t, REMAINING] = cycles


@compiled
def catches_up(a: Memory, c: int, t: int) -> None:
    """Accounts for the handler up to now, after a span with many exits was ended in the middle of one."""
    charge(a, c)
    passed = min(a.t[t, REMAINING], a.g[NOW] - a.c[c, CLOCK])
    if passed > 0:
        spend(a, c, HANDLER, passed)
        a.t[t, REMAINING] -= passed
        if a.c[c, BOUNDARY] and not (a.c[c, POSTED] or preempts(a, c)):
            pass_boundary(a, c)


@compiled
def leave_vcpu(a: Memory, c: int, t: int) -> None:
    """A span of a vCPU thread has ended before its own end."""
    if a.t[t, ACCOUNT] in (GUEST_POLL, GUEST_SPIN):
        vm_exit(a, c, t, a.t[t, INTERRUPT_KIND])
        return
    if a.t[t, ACCOUNT] != GUEST:
        a.t[t, POLL_OVER] = 1 if a.t[t, ACCOUNT] == HALT_POLL and not alone(a, c) else 0
        return
    kind = a.t[t, ONGOING]
    if kind < 0:
        vm_exit(a, c, t, a.t[t, INTERRUPT_KIND])
        return
    a.t[t, ONGOING] = -1
    vm_exit(a, c, t, kind)
    n = a.t[t, S_NEXT]
    if a.g[IN_KERNEL]:
        handles(a, t, kind, exit_time(a, t, n))
        catches_up(a, c, t)
    else:
        spend(a, c, HANDLER, exit_time(a, t, n))
    a.t[t, S_NEXT] = n + 1
    a.t[t, WALL] = exit_over(a, t, n)


@compiled
def timer_exits(a: Memory, c: int, t: int) -> bool:
    """VcpuThread._timer_exits(), and LockingVcpu's."""
    again = False
    if a.t[t, ONGOING] >= 0:  # one of many exits is being handled, and the timer's follows the entry after it
        leave_vcpu(a, c, t)
    else:
        timer_is_pending(a, t)
        again = vm_exit(a, c, t, a.t[t, TIMER_KIND])
    if a.t[t, LOCKS]:
        spins_from_now(a, c, t)
    return again


@compiled
def begin_exit(a: Memory, c: int, t: int) -> bool:
    """VcpuThread._exit(), up to what it does to others; True if its handler is a span."""
    n = a.t[t, S_NEXT]
    kind, time, uses_fpu, over = kind_of(a, t, n), exit_time(a, t, n), exit_fpu(a, t, n), exit_over(a, t, n)
    again = vm_exit(a, c, t, kind)
    if uses_fpu and not again:
        use_kernel_fpu(a, c, POINT_EXIT_FPU)
    a.t[t, S_NEXT] = n + 1
    a.t[t, WALL] = over
    refill(a, t)
    if again and a.k[kind, K_KNOWN] and not a.k[kind, K_EFFECT]:
        lay_out(a, t)
    if a.g[IN_KERNEL] and not again:
        handles(a, t, kind, time)
        return True
    spend(a, c, HANDLER, time)
    a.c[c, AGAIN] = 1 if again else 0
    a.c[c, TARGET] = kind
    return False


@compiled
def ipi_target(a: Memory, t: int, kind: int) -> int:
    """Another vCPU of the sender's VM."""
    me, size = a.t[t, VM_INDEX], a.t[t, VM_SIZE]
    further = 0 if a.k[kind, K_TARGET] == 1 else draw(a, a.t[t, OTHERS_DRAWS])
    return a.t[t, VM_FIRST] + (me + 1 + further) % size


@compiled
def vcpu_event(a: Memory, c: int, t: int, place: int) -> int:
    """VcpuThread.event()."""
    if place == EVENT:
        account = a.t[t, ACCOUNT]
        if a.t[t, TIMER_DUE] and account in (GUEST, GUEST_POLL, GUEST_SPIN):
            return SPAN_BEGINS if timer_exits(a, c, t) else TOP
        if account == VMM:
            place = RUN_ENTERED
            where = a.kt[0, t, KT_VMCS]
            if where >= 0 and where != c and not synced(a, c, place):
                return -1
        elif account == HALT_POLL:
            place = POLLED_OUT
            if not synced(a, c, place):
                return -1
        elif account == GUEST_SPIN:
            place = HAS_SPUN
            if not synced(a, c, place):
                return -1
        elif account == GUEST and a.t[t, GUEST_TIME] == a.t[t, DEMAND_END]:
            if a.t[t, LOCKS] and a.t[t, GUEST_TIME] >= a.t[t, TURN]:
                place = LOCK_TURN
            else:
                a.c[c, REQUESTS] += 1
                renew_demand(a, t)
                if take_pending(a, t):
                    return SPAN_BEGINS
                place = GUEST_POLLS if polls_in_guest(a, c, t) else halts(a, c, t)
            if not synced(a, c, place):
                return -1
        elif account == GUEST_POLL:
            if finds_work(a, c, t):
                return SPAN_BEGINS
            place = halts(a, c, t)
            if not synced(a, c, place):
                return -1
        elif account == HANDLER:
            does(a, t, GUEST)
            a.c[c, AGAIN] = 0
            a.c[c, TARGET] = a.t[t, HANDLED]
            place = EXIT_HANDLED
        elif begin_exit(a, c, t):
            return TOP
        else:
            place = EXIT_HANDLED
    if place == EXIT_HANDLED:
        kind = a.c[c, TARGET]
        set_wakes(a, c, a.k[kind, K_WAKES_FIRST], a.k[kind, K_WAKES_END])
        if a.k[kind, K_USERSPACE]:
            passes(a, c, POINT_LEAVE_RUN, -1)
            a.c[c, ROUND_TRIPS] += 1
            does(a, t, VMM)
            a.t[t, REMAINING] = draw(a, a.k[kind, K_VMM])
        if not a.k[kind, K_TARGET]:
            return exit_wakes(a, c, EXIT_HANDLED)
        place = IPI_SENT
        if not synced(a, c, place):
            return -1
    if place == RUN_ENTERED:
        where = a.kt[0, t, KT_VMCS]
        ask_elsewhere(a, c, passes(a, c, POINT_ENTER_RUN, -1), where)
        a.c[c, LOADS] += 1
        does(a, t, GUEST)
        return TOP
    if place == POLLED_OUT:
        if not is_pending(a, t):
            block_vcpu(a, c, t)
        return TOP
    if place == LOCK_TURN:
        takes_or_releases(a, c, t)
        return SPAN_BEGINS
    if place == HAS_SPUN:
        if not has_spun(a, c, t):
            return SPAN_BEGINS
        vm_exit(a, c, t, a.t[t, PAUSE_KIND])
        spend(a, c, HANDLER, draw(a, a.t[t, PLE_DRAWS]))
        grow(a, t)
        place = PLE_EXITED
        if not synced(a, c, place):
            return -1
    if place == PLE_EXITED:
        yields(a, c, t)
        return TOP
    if place == GUEST_POLLS:
        arm_timer(a, t)
        return SPAN_BEGINS
    if place == HALTED:
        arm_timer(a, t)
        halt(a, c, t)
        return TOP
    if place == IPI_SENT:
        target = ipi_target(a, t, a.c[c, TARGET])
        a.c[c, TARGET] = target
        a.t[target, IPI_PENDING] = 1
        if deliver(a, target):
            spend(a, c, WAKEUP, draw(a, a.g[WAKEUPS]))
            if not synced(a, c, IPI_WAKES):
                return -1
            place = IPI_WAKES
    if place == IPI_WAKES and a.t[a.c[c, TARGET], BLOCKED]:
        wake(a, a.c[c, TARGET], c, False)
    return exit_wakes(a, c, place)


@compiled
def exit_wakes(a: Memory, c: int, place: int) -> int:
    """The exit has been handled, and wakes threads; where the process goes on, or -1: it waits."""
    if a.c[c, WAKES_NOW] < a.c[c, WAKES_STOP]:
        if place not in (EXIT_WAKES, EXIT_WAKES_ONE) and not synced(a, c, EXIT_WAKES):
            return -1
        if not wakes_others(a, c, place, EXIT_WAKES_ONE):
            return -1
    return SPAN_BEGINS if a.c[c, AGAIN] else TOP


@compiled
def renew_demand(a: Memory, t: int) -> None:
    """Draws the next request's work, which begins now."""
    if a.t[t, LOCKS]:
        a.t[t, REQUEST_END] = a.t[t, GUEST_TIME] + draw(a, a.t[t, DEMAND_DRAWS])
        set_end(a, t)
    else:
        a.t[t, DEMAND_END] += draw(a, a.t[t, DEMAND_DRAWS])


@compiled
def halts(a: Memory, c: int, t: int) -> int:
    """The guest runs HLT; where the process goes on."""
    vm_exit(a, c, t, a.t[t, HLT_KIND])
    a.c[c, HALTS] += 1
    return HALTED
