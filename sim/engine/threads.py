"""What threads do between two calls of the scheduler (sim.host.thread)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.events import push
from sim.engine.host import block, start, wake
from sim.engine.interrupts import tick_after
from sim.engine.jit import Memory, compiled
from sim.engine.layout import (
    ACCOUNT,
    AFTER_DRAWS,
    AT_TICKS,
    BLOCKED,
    BURST_DRAWS,
    BURSTS,
    BYTES,
    CHILD,
    ENDED,
    EXECS,
    FAIL_CHILDREN,
    FAILED,
    FORK,
    FORKED_CHILD,
    FORKS,
    FPU_DRAWS,
    FREE_AFTER,
    FREE_THREAD,
    HANDOFFS,
    HAS_FPU,
    HAS_WOKEN,
    IDLE,
    IDLE_EXIT,
    IDLE_KIND,
    IN_KERNEL,
    KERNEL_CODE,
    KERNEL_POINTS,
    KIND,
    KTHREAD_KIND,
    LEFT_THEN,
    NEED_RESCHED,
    NOW,
    ON_QUEUE,
    OTHER_END,
    PIPE,
    POINT_EXEC,
    POINT_EXIT,
    POINT_FORK,
    POINT_RETURN,
    PREPARED,
    REL_DEADLINE,
    REMAINING,
    SLEEP_DRAWS,
    SYSCALL,
    SYSCALL_DRAWS,
    T_COLUMNS,
    THEN,
    THREAD,
    THREADS,
    TIMER,
    TO_USER,
    USER,
    VCPU,
    VPROT_HIGH,
    VRUNTIME,
    VRUNTIME_HIGH,
    WAIT_QUEUE,
    WAKE_TIMER,
    WAKES_END,
    WAKES_FIRST,
    WAKEUP,
    WAKEUPS,
    WHERE,
    WOKEN_AT,
    WRITES_POINT,
    WROTE,
)
from sim.engine.process import (
    AFTER_BURST,
    EVENT,
    EXITED,
    FORKED,
    PIPE_READS,
    PIPE_SYNCED,
    PIPE_WAKES,
    SLEEPS,
    SPAN_BEGINS,
    TOP,
    WAKES_ONE,
    has_woken,
    synced,
)
from sim.engine.rescheduling import spend
from sim.engine.vcpus import enter_vcpu, leave_vcpu, vcpu_event
from sim.engine.wait_queues import join, limit_wait, waits
from sim.engine.waiting import set_wakes, wakes_others
from sim.engine.walking import passes


@compiled
def begin_burst(a: Memory, t: int) -> None:
    """Draws the next burst, and whether it writes registers."""
    a.t[t, REMAINING] = draw(a, a.t[t, BURST_DRAWS])
    a.t[t, WROTE] = 1
    if a.t[t, HAS_FPU] and draw(a, a.t[t, FPU_DRAWS]):
        a.t[t, WROTE] = 0


@compiled
def writes(a: Memory, c: int, t: int) -> None:
    """What the burst does to the registers, once."""
    if not a.t[t, WROTE]:
        a.t[t, WROTE] = 1
        passes(a, c, a.t[t, WRITES_POINT], -1)


@compiled
def fork(a: Memory, c: int, t: int) -> None:
    """A parent forks a child, which has one burst."""
    child = a.g[FREE_THREAD]
    if child >= a.g[THREADS]:
        a.g[FAILED] = FAIL_CHILDREN
        return
    a.g[FREE_THREAD] = a.t[child, FREE_AFTER]
    a.c[c, FORKS] += 1
    passes(a, c, POINT_FORK, child)
    for i in range(T_COLUMNS):
        a.t[child, i] = a.t[t, i]
    for i in range(VRUNTIME, REL_DEADLINE + 1):
        a.t[child, i] = 0
    for i in range(VRUNTIME_HIGH, VPROT_HIGH + 1):
        a.t[child, i] = 0
    a.t[child, KIND] = CHILD
    a.t[child, BLOCKED] = 1
    a.t[child, WOKEN_AT] = -1
    a.t[child, SLEEP_DRAWS] = -1
    begin_burst(a, child)
    a.t[t, WROTE] = 1
    a.t[t, REMAINING] = 0
    a.t[t, FORKED_CHILD] = child


@compiled
def enter(a: Memory, c: int) -> None:
    """Kernel work up to the span."""
    t = a.c[c, THREAD]
    kind = a.t[t, KIND]
    if kind == IDLE_KIND:
        return
    if kind == KTHREAD_KIND:
        a.t[t, WHERE] = KERNEL_CODE
        if a.t[t, WOKEN_AT] >= 0:
            has_woken(a, c, t, 1)
        return
    if kind == VCPU:
        enter_vcpu(a, c, t)
        return
    if a.t[t, EXECS] and kind == CHILD:
        a.t[t, EXECS] = 0
        passes(a, c, POINT_RETURN, -1)  # from fork(), to call execve()
        passes(a, c, POINT_EXEC, -1)
    if a.t[t, ACCOUNT] != USER:
        return
    passes(a, c, POINT_RETURN, -1)
    if a.t[t, WOKEN_AT] >= 0:
        has_woken(a, c, t, 1)
    if not a.t[t, THEN]:
        writes(a, c, t)


@compiled
def goes_on(a: Memory, t: int, cycles: int, then: int) -> None:
    """The next span is in the kernel, after which the process goes on at ``then``."""
    a.t[t, LEFT_THEN] = a.t[t, REMAINING]
    a.t[t, REMAINING] = cycles
    a.t[t, THEN] = then
    a.t[t, ACCOUNT] = SYSCALL
    a.t[t, WHERE] = KERNEL_CODE


@compiled
def computes_on(a: Memory, t: int, then: int) -> None:
    """The rest of a burst that has woken somebody, after which the process goes on at ``then``."""
    goes_on(a, t, draw(a, a.t[t, AFTER_DRAWS]), then)
    a.t[t, ACCOUNT] = USER
    a.t[t, WHERE] = TO_USER


@compiled
def is_preempted(a: Memory, c: int, t: int, then: int) -> bool:
    """The preempt_enable() at the end of try_to_wake_up(): a preemptible kernel switches before it goes on."""
    if a.g[IN_KERNEL] and a.c[c, NEED_RESCHED]:
        goes_on(a, t, 0, then)
        return True
    return False


@compiled
def cond_resched(a: Memory, c: int, t: int) -> bool:
    """At the end of a kernel thread's burst: without preemption, the first place that sees the request."""
    if a.t[t, KIND] == KTHREAD_KIND and not a.g[KERNEL_POINTS] and a.c[c, NEED_RESCHED]:
        a.t[t, WHERE] = TO_USER
        return True
    return False


@compiled
def wake_after(a: Memory, c: int, t: int, cycles: int) -> None:
    """Sets the timer that wakes a thread, on its own CPU; or has the first tick after that time wake it."""
    at = a.g[NOW] + cycles
    push(a, tick_after(a, c, at) if a.t[t, AT_TICKS] else at, TIMER, WAKE_TIMER, t)


@compiled
def concerns_others(a: Memory, t: int) -> bool:
    """Whether the thread may wait for others at the end of a burst, or wakes them."""
    return a.t[t, WAIT_QUEUE] >= 0 or a.t[t, WAKES_FIRST] < a.t[t, WAKES_END]


@compiled
def prepares_to_wait(a: Memory, t: int) -> None:
    """A thread that is going to wait joins its queue before it wakes others."""
    a.t[t, PREPARED] = 1 if waits(a, t) else 0
    if a.t[t, PREPARED]:
        join(a, t)


@compiled
def leave(a: Memory, c: int) -> None:
    """An interrupt, or the scheduler, takes the CPU from the span."""
    t = a.c[c, THREAD]
    if a.t[t, KIND] == VCPU:
        leave_vcpu(a, c, t)
    elif a.t[t, KIND] == IDLE_KIND:  # leaving the idle state takes time
        spend(a, c, IDLE, a.g[IDLE_EXIT])


@compiled
def event(a: Memory, c: int, place: int) -> int:
    """A span has come to its own end: does what follows; where the process goes on, or -1: it waits."""
    t = a.c[c, THREAD]
    kind = a.t[t, KIND]
    if kind == VCPU:
        return vcpu_event(a, c, t, place)
    if place == EVENT:
        place = a.t[t, THEN]
        if place:
            a.t[t, THEN] = 0
            a.t[t, REMAINING] = a.t[t, LEFT_THEN]
            in_kernel = kind == KTHREAD_KIND
            a.t[t, ACCOUNT] = SYSCALL if in_kernel else USER
            a.t[t, WHERE] = KERNEL_CODE if in_kernel else TO_USER
        else:
            place = burst_over(a, c, t)
            if place in (SPAN_BEGINS, TOP):
                return place
        if not synced(a, c, place):
            return -1
    if place in (EXITED, SLEEPS, WAKES_ONE):
        if place == SLEEPS:
            prepares_to_wait(a, t)
        if place != WAKES_ONE:
            set_wakes(a, c, a.t[t, WAKES_FIRST], a.t[t, WAKES_END])
        if not wakes_others(a, c, place, WAKES_ONE):
            return -1
        if kind == CHILD:
            block(a, c, t)
            return TOP
        if a.c[c, HAS_WOKEN] and a.t[t, AFTER_DRAWS] >= 0:
            computes_on(a, t, AFTER_BURST)
            return TOP
        if a.c[c, HAS_WOKEN] and is_preempted(a, c, t, AFTER_BURST):
            return TOP
        place = AFTER_BURST
    if place == FORKED:
        start(a, a.t[t, FORKED_CHILD], c)
        if is_preempted(a, c, t, AFTER_BURST):
            return TOP
        place = AFTER_BURST
    if place == AFTER_BURST:
        if a.t[t, PREPARED]:
            if a.t[t, ON_QUEUE]:
                limit_wait(a, t)
                block(a, c, t)
        elif a.t[t, SLEEP_DRAWS] >= 0:
            wake_after(a, c, t, draw(a, a.t[t, SLEEP_DRAWS]))
            block(a, c, t)
        cond_resched(a, c, t)
        return TOP
    other = a.t[t, OTHER_END]
    if place == PIPE_SYNCED:
        if a.t[other, BLOCKED]:
            spend(a, c, WAKEUP, draw(a, a.g[WAKEUPS]))
            if not synced(a, c, PIPE_WAKES):
                return -1
            place = PIPE_WAKES
        else:
            a.t[other, BYTES] += 1
    if place == PIPE_WAKES:
        wake(a, other, c, True)
    if place != PIPE_READS and is_preempted(a, c, t, PIPE_READS):
        return TOP
    if a.t[t, BYTES]:
        a.t[t, BYTES] -= 1
    else:
        block(a, c, t)
    return TOP


@compiled
def burst_over(a: Memory, c: int, t: int) -> int:
    """A burst is over, and the system call at its end begins; where the process goes on after it."""
    kind = a.t[t, KIND]
    if kind == CHILD:
        a.c[c, BURSTS] += 1
        passes(a, c, POINT_EXIT, -1)
        a.t[t, ENDED] = 1
        return EXITED
    if kind == FORK:
        fork(a, c, t)
        place = FORKED
    else:
        a.c[c, HANDOFFS if kind == PIPE else BURSTS] += 1
        place = PIPE_SYNCED if kind == PIPE else SLEEPS if concerns_others(a, t) else AFTER_BURST
    cycles = draw(a, a.t[t, SYSCALL_DRAWS])
    if kind != FORK:
        begin_burst(a, t)
    if place == AFTER_BURST and a.t[t, SLEEP_DRAWS] < 0 and not cycles:
        writes(a, c, t)
        return TOP if cond_resched(a, c, t) else SPAN_BEGINS
    if a.g[IN_KERNEL]:
        goes_on(a, t, cycles, place)
        return TOP
    spend(a, c, SYSCALL, cycles)
    return place
