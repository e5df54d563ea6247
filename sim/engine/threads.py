"""What threads do between two calls of the scheduler (sim.host.thread)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.events import push
from sim.engine.host import block, spend, start, wake
from sim.engine.jit import Memory, compiled
from sim.engine.kernel_table import passes
from sim.engine.layout import (
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
    FORKS,
    FPU_DRAWS,
    FREE_AFTER,
    FREE_THREAD,
    HANDOFFS,
    HAS_FPU,
    IDLE_KIND,
    KIND,
    KTHREAD_KIND,
    NOW,
    OTHER_END,
    PIPE,
    POINT_EXEC,
    POINT_EXIT,
    POINT_FORK,
    POINT_RETURN,
    REL_DEADLINE,
    REMAINING,
    SLEEP_DRAWS,
    SLICE,
    SYSCALL,
    SYSCALL_DRAWS,
    T_COLUMNS,
    TARGET,
    THREAD,
    THREADS,
    TIMER,
    VCPU,
    WAKE_TIMER,
    WAKEUP,
    WAKEUPS,
    WOKEN_AT,
    WORDS,
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
    SPAN_BEGINS,
    TOP,
    has_woken,
    synced,
)
from sim.engine.vcpus import enter_vcpu, leave_vcpu, vcpu_event


@compiled
def begin_burst(a: Memory, t: int) -> None:
    """The next burst, and whether it writes registers."""
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
    spend(a, c, SYSCALL, draw(a, a.t[t, SYSCALL_DRAWS]))
    for i in range(T_COLUMNS):
        a.t[child, i] = a.t[t, i]
    for i in range(SLICE, REL_DEADLINE + 1):
        a.t[child, i] = 0
    for i in range(a.g[WORDS]):
        a.allowed[child, i] = a.allowed[t, i]
    a.t[child, KIND] = CHILD
    a.t[child, BLOCKED] = 1
    a.t[child, WOKEN_AT] = -1
    a.t[child, SLEEP_DRAWS] = -1
    begin_burst(a, child)
    a.c[c, TARGET] = child


@compiled
def enter(a: Memory, c: int) -> None:
    """Kernel work up to the span."""
    t = a.c[c, THREAD]
    kind = a.t[t, KIND]
    if kind == IDLE_KIND:
        return
    if a.t[t, EXECS] and kind == CHILD:
        a.t[t, EXECS] = 0
        passes(a, c, POINT_RETURN, -1)  # from fork(), to call execve()
        passes(a, c, POINT_EXEC, -1)
    if kind == VCPU:
        enter_vcpu(a, c, t)
        return
    if kind != KTHREAD_KIND:
        passes(a, c, POINT_RETURN, -1)
    if a.t[t, WOKEN_AT] >= 0:
        has_woken(a, c, t, 1)
    if kind != KTHREAD_KIND:
        writes(a, c, t)


@compiled
def leave(a: Memory, c: int) -> None:
    """An interrupt, or the scheduler, takes the CPU from the span."""
    t = a.c[c, THREAD]
    if a.t[t, KIND] == VCPU:
        leave_vcpu(a, c, t)


@compiled
def event(a: Memory, c: int, place: int) -> int:
    """The span has come to its own end, and what follows from it; where the process goes on, or -1: it waits."""
    t = a.c[c, THREAD]
    kind = a.t[t, KIND]
    if kind == VCPU:
        return vcpu_event(a, c, t, place)
    if place == EVENT:
        if kind == FORK:
            fork(a, c, t)
            place = FORKED
        elif kind == CHILD:
            a.c[c, BURSTS] += 1
            passes(a, c, POINT_EXIT, -1)
            a.t[t, ENDED] = 1
            place = EXITED
        elif kind == PIPE:
            a.c[c, HANDOFFS] += 1
            spend(a, c, SYSCALL, draw(a, a.t[t, SYSCALL_DRAWS]))
            begin_burst(a, t)
            place = PIPE_SYNCED
        else:
            a.c[c, BURSTS] += 1
            syscall = draw(a, a.t[t, SYSCALL_DRAWS])
            begin_burst(a, t)
            if a.t[t, SLEEP_DRAWS] < 0 and not syscall:
                writes(a, c, t)
                return SPAN_BEGINS
            spend(a, c, SYSCALL, syscall)
            place = AFTER_BURST
        if not synced(a, c, place):
            return -1
    if place == EXITED:
        block(a, c, t)
        return TOP
    if place == FORKED:
        start(a, a.c[c, TARGET], c)
        a.t[t, WROTE] = 1
        a.t[t, REMAINING] = 0
    if place in (AFTER_BURST, FORKED):
        if a.t[t, SLEEP_DRAWS] >= 0:
            push(a, a.g[NOW] + draw(a, a.t[t, SLEEP_DRAWS]), TIMER, WAKE_TIMER, t)
            block(a, c, t)
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
            place = PIPE_READS
    if place == PIPE_WAKES:
        wake(a, other, c, True)
    if a.t[t, BYTES]:
        a.t[t, BYTES] -= 1
    else:
        block(a, c, t)
    return TOP
