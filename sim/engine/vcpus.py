"""vCPU threads: VM exits, HLT and polling, the VMM between two KVM_RUNs, interrupts for the guest (sim.host.vcpu)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.events import push
from sim.engine.exits import exit_fpu, exit_over, exit_time, kind_of, refill
from sim.engine.guest import follow_guest
from sim.engine.host import ask_elsewhere, block_vcpu, does, is_pending, post, spend, take_pending, wake
from sim.engine.jit import Memory, call, compiled
from sim.engine.kernel_table import passes
from sim.engine.layout import (
    ACCOUNT,
    AGAIN,
    ARMED,
    ASK_LEARN,
    BATCH,
    BEGUN,
    BLOCKED,
    CALLBACK,
    CLOCK,
    CPU,
    DEMAND_DRAWS,
    DEMAND_END,
    EXIT_ROW,
    EXITS,
    GUEST,
    GUEST_TIME,
    GUEST_TIMER,
    HALT_POLL,
    HALTED_AT,
    HALTS,
    HANDLER,
    HLT_KIND,
    INF,
    INTERRUPT_KIND,
    INTERRUPTS,
    IPI_PENDING,
    K_EFFECT,
    K_KNOWN,
    K_POINT,
    K_TARGET,
    K_USERSPACE,
    K_VMM,
    KC_SHAPE,
    KT_FRAGMENT,
    KT_VMCS,
    LEARNING,
    LOADS,
    NOTHING,
    NOW,
    ONGOING,
    OTHERS_DRAWS,
    P_COLUMNS,
    P_END,
    PLANNED,
    POINT_BOOTS,
    POINT_CARRIED,
    POINT_ENTER_RUN,
    POINT_ENTRY,
    POINT_EXIT_FPU,
    POINT_LEAVE_RUN,
    POINT_RETURN,
    POLL_MOST,
    POLL_SHRINK,
    POLL_START,
    POLLED,
    POSTS,
    R_RESULT,
    REMAINING,
    REQUEST_SLEEPS,
    REQUESTED,
    REQUESTS,
    ROUND_TRIPS,
    S_NEXT,
    SLEPT,
    SPAN_BEGIN,
    TARGET,
    THREAD,
    TIMER,
    USE_CONSTANT,
    VM_FIRST,
    VM_INDEX,
    VM_SIZE,
    VMM,
    VMM_POINT,
    VMX,
    WAITING,
    WAITING_REQUESTS,
    WAKEUP,
    WAKEUPS,
    WALL,
    WINDOW,
    WOKEN_AT,
)
from sim.engine.process import (
    EVENT,
    HALTED,
    IPI_SENT,
    IPI_WAKES,
    POLLED_OUT,
    RUN_ENTERED,
    SPAN_BEGINS,
    TOP,
    has_woken,
    synced,
    use_kernel_fpu,
)


@compiled
def vm_exit(a: Memory, c: int, t: int, kind: int) -> bool:
    """The VM exit; True if the fastpath has entered the guest again."""
    row = passes(a, c, a.k[kind, K_POINT], -1)
    again = a.rows[0, row, R_RESULT] != 0
    a.c[c, EXITS] += 1
    if not a.k[kind, K_KNOWN] and not a.k[kind, K_EFFECT] and a.g[BATCH]:
        if again:
            call(a.g[CALLBACK], ASK_LEARN, t, kind, row, -1)
        else:
            a.t[t, LEARNING] = kind
            a.t[t, EXIT_ROW] = row
    return again


@compiled
def enter_vcpu(a: Memory, c: int, t: int) -> None:
    """VcpuThread.enter()."""
    account = a.t[t, ACCOUNT]
    if account == VMM:
        passes(a, c, POINT_RETURN, -1)
        if a.t[t, WOKEN_AT] >= 0:
            has_woken(a, c, t, 1)
        passes(a, c, a.t[t, VMM_POINT], -1)
        return
    if account == HALT_POLL:
        if not take_pending(a, t):
            return
        if a.t[t, WINDOW] > 0 and not a.t[t, SLEPT]:
            a.c[c, POLLED] += 1
        a.t[t, SLEPT] = 0
        end_polling(a, t, a.c[c, CLOCK] - a.t[t, HALTED_AT])
        does(a, t, GUEST)
    learning, clean = a.t[t, LEARNING], a.task_flags[0, a.kt[0, t, KT_FRAGMENT], 1]
    row = passes(a, c, POINT_ENTRY, -1)
    if learning >= 0:
        a.t[t, LEARNING] = -1
        if clean:
            call(a.g[CALLBACK], ASK_LEARN, t, learning, a.t[t, EXIT_ROW], row)
    if a.t[t, WOKEN_AT] >= 0:
        has_woken(a, c, t, 0)
    if not a.t[t, BEGUN]:
        a.t[t, BEGUN] = 1
        passes(a, c, POINT_BOOTS, -1)
        if a.t[t, USE_CONSTANT]:
            passes(a, c, POINT_CARRIED, -1)


@compiled
def end_polling(a: Memory, t: int, halted: int) -> None:
    """HaltPolling.end()."""
    window, most = a.t[t, WINDOW], a.t[t, POLL_MOST]
    if most == 0:
        window = 0
    elif halted <= window:
        pass
    elif window and halted > most:
        window = window // a.t[t, POLL_SHRINK] if a.t[t, POLL_SHRINK] else 0
        if window < a.t[t, POLL_START]:
            window = 0
    elif window < most and halted < most:
        window = max(window * 2, a.t[t, POLL_START])
    a.t[t, WINDOW] = window


@compiled
def leave_vcpu(a: Memory, c: int, t: int) -> None:
    """Something else than its own end has ended a span of a vCPU thread."""
    if a.t[t, ACCOUNT] != GUEST:
        return
    kind = a.t[t, ONGOING]
    if kind < 0:
        vm_exit(a, c, t, a.t[t, INTERRUPT_KIND])
        return
    a.t[t, ONGOING] = -1
    vm_exit(a, c, t, kind)
    n = a.t[t, S_NEXT]
    spend(a, c, HANDLER, exit_time(a, t, n))
    a.t[t, S_NEXT] = n + 1
    a.t[t, WALL] = exit_over(a, t, n)


@compiled
def in_guest(a: Memory, t: int) -> bool:
    """Whether the guest runs right now (IN_GUEST_MODE), and KVM is not handling one of its exits."""
    c = a.t[t, CPU]
    if a.c[c, THREAD] != t or not a.in_guest[0, a.kc[0, c, KC_SHAPE]]:
        return False
    if not a.c[c, WAITING]:
        return True
    now = a.g[NOW]
    kept = a.plans
    for i in range(P_COLUMNS):
        kept[i] = a.c[c, PLANNED + i]
    follow_guest(a, c, a.c[c, SPAN_BEGIN], now, False)
    result = a.c[c, P_END] >= now
    for i in range(P_COLUMNS):
        a.c[c, PLANNED + i] = kept[i]
    return result


@compiled
def deliver(a: Memory, t: int) -> bool:
    """An interrupt has become pending for the guest: ends its polling or kicks it; True: it has to be woken up."""
    if a.t[t, BLOCKED]:
        return True
    c = a.t[t, CPU]
    if a.t[t, ACCOUNT] == HALT_POLL:
        if a.t[t, WOKEN_AT] < 0:
            a.t[t, WOKEN_AT] = a.g[NOW]
        if a.c[c, THREAD] == t:
            post(a, c, 0, 0, NOTHING, 0, -1, False)
    elif not a.t[t, POSTS] and in_guest(a, t):
        post(a, c, draw(a, a.g[INTERRUPTS]), 0, NOTHING, 0, -1, False)
    return False


@compiled
def request(a: Memory, t: int) -> None:
    """A request arrives for the guest."""
    if a.t[t, POSTS] and in_guest(a, t):
        a.t[t, WAITING_REQUESTS] += 1
    else:
        post(a, a.t[t, CPU], draw(a, a.g[INTERRUPTS]), 0, REQUESTED, t, -1, False)


@compiled
def begin_exit(a: Memory, c: int, t: int) -> None:
    """VcpuThread._exit(), up to what it does to others."""
    n = a.t[t, S_NEXT]
    kind, time, uses_fpu, over = kind_of(a, t, n), exit_time(a, t, n), exit_fpu(a, t, n), exit_over(a, t, n)
    again = vm_exit(a, c, t, kind)
    if uses_fpu and not again:
        use_kernel_fpu(a, c, POINT_EXIT_FPU)
    spend(a, c, HANDLER, time)
    a.t[t, S_NEXT] = n + 1
    a.t[t, WALL] = over
    a.c[c, AGAIN] = 1 if again else 0
    a.c[c, TARGET] = kind


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
        if account == VMM:
            place = RUN_ENTERED
            where = a.kt[0, t, KT_VMCS]
            if where >= 0 and where != c and a.g[VMX] and not synced(a, c, place):
                return -1
        elif account == HALT_POLL:
            place = POLLED_OUT
            if not synced(a, c, place):
                return -1
        elif a.t[t, GUEST_TIME] == a.t[t, DEMAND_END]:
            a.c[c, REQUESTS] += 1
            a.t[t, DEMAND_END] += draw(a, a.t[t, DEMAND_DRAWS])
            if take_pending(a, t):
                return SPAN_BEGINS
            vm_exit(a, c, t, a.t[t, HLT_KIND])
            a.c[c, HALTS] += 1
            place = HALTED
            if not synced(a, c, place):
                return -1
        else:
            begin_exit(a, c, t)
            refill(a, t)
            kind, again = a.c[c, TARGET], a.c[c, AGAIN]
            if again and a.k[kind, K_KNOWN] and not a.k[kind, K_EFFECT]:
                call(a.g[CALLBACK], ASK_LEARN, t, kind, -1, -1)
            if a.k[kind, K_TARGET]:
                place = IPI_SENT
                if not synced(a, c, place):
                    return -1
            else:
                if a.k[kind, K_USERSPACE]:
                    passes(a, c, POINT_LEAVE_RUN, -1)
                    a.c[c, ROUND_TRIPS] += 1
                    does(a, t, VMM)
                    a.t[t, REMAINING] = draw(a, a.k[kind, K_VMM])
                return SPAN_BEGINS if again else TOP
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
    if place == HALTED:
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
    return SPAN_BEGINS if a.c[c, AGAIN] else TOP


@compiled
def halt(a: Memory, c: int, t: int) -> None:
    """After HLT: the guest's timer, and then polling, or sleep."""
    a.t[t, HALTED_AT] = a.c[c, CLOCK]
    if a.t[t, REQUEST_SLEEPS] >= 0 and not a.t[t, ARMED]:
        a.t[t, ARMED] = 1
        push(a, a.g[NOW] + draw(a, a.t[t, REQUEST_SLEEPS]), TIMER, GUEST_TIMER, t)
    window = min(a.t[t, WINDOW], a.t[t, POLL_MOST])
    a.t[t, WINDOW] = window
    does(a, t, HALT_POLL)
    a.t[t, REMAINING] = INF
    if not window and not is_pending(a, t):
        block_vcpu(a, c, t)
