"""What the kernel does on a CPU before a thread goes on: interrupts that are due, posted work, context switches.

As in HostCpu._kernel_work() of sim.host.cpu.
"""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.events import log
from sim.engine.halting import deliver
from sim.engine.host import before_switch, switch, wake
from sim.engine.interrupts import device_cycles, device_fpu, device_time, note_due, serve_ticks, tick_cycles
from sim.engine.jit import Memory, call, compiled
from sim.engine.kernel_table import charge
from sim.engine.layout import (
    ASK_PRICE,
    BLOCKED,
    CALLBACK,
    CLOCK,
    DEVICE_INTERRUPTS,
    DEVICES,
    DUE,
    FAILED,
    HRTICK_ASKED,
    HRTICK_TIME,
    INF,
    INTERRUPT,
    INTERRUPTS,
    MEASURING,
    NEED_RESCHED,
    NEED_RESCHED_LAZY,
    NEXT_TICK,
    NOW,
    PENDING,
    POINT_SERVE,
    POSTED,
    POSTED_HEAD,
    POSTED_MOST,
    REQUESTED,
    START_HRTICK,
    THREAD,
    TICK,
    TICKS,
    W_ACTION,
    W_CALL,
    W_INTERRUPT,
    W_THREAD,
    W_WAKEUP,
    W_WHAT,
    W_WHOM,
    WAITING_REQUESTS,
    WAKE,
    WAKE_VCPU,
    WAKEUP,
    WAKEUPS,
)
from sim.engine.process import (
    KERNEL,
    KERNEL_ACTION,
    KERNEL_LATER,
    KERNEL_SYNCED,
    SPAN_BEGINS,
    synced,
    use_kernel_fpu,
    wait_until,
)
from sim.engine.rescheduling import must_schedule, post, resched_curr_lazy, spend, undisturbed
from sim.engine.run_queue import preempt_time, update_current
from sim.engine.threads import enter


@compiled
def sched_tick(a: Memory, c: int, tick: int) -> None:
    """Promotes a lazy request that is already there, and then asks whether the slice is over."""
    if a.c[c, NEED_RESCHED_LAZY]:
        a.c[c, NEED_RESCHED] = 1
    if preempt_time(a, c) <= tick:
        resched_curr_lazy(a, c, c)
        if not must_schedule(a, c):  # else the pick that follows at once accounts for the slice
            update_current(a, c, tick)


@compiled
def serve_due(a: Memory, c: int) -> None:
    """One tick, device interrupt or expiry of the HRTICK, in the kernel."""
    tick = a.c[c, NEXT_TICK]
    if a.c[c, HRTICK_TIME] < min(tick, device_time(a, c, 0)):
        a.c[c, HRTICK_TIME] = INF
        a.c[c, NEED_RESCHED] = 1
        a.c[c, DEVICE_INTERRUPTS] += 1
        spend(a, c, INTERRUPT, draw(a, a.g[INTERRUPTS]))
        note_due(a, c)
        return
    if tick <= device_time(a, c, 0):
        sched_tick(a, c, tick)
        a.c[c, NEXT_TICK] = tick + a.g[TICK]
        a.c[c, TICKS] += 1
        spend(a, c, INTERRUPT, tick_cycles(a, c, 0))
        serve_ticks(a, c, 1)
        note_due(a, c)
        return
    point = device_fpu(a, c, 0)
    if point >= 0:
        use_kernel_fpu(a, c, point)
    a.c[c, DEVICE_INTERRUPTS] += 1
    spend(a, c, INTERRUPT, device_cycles(a, c, 0))
    a.c[c, DEVICES] += 1
    note_due(a, c)


@compiled
def act(a: Memory, c: int, what: int, t: int) -> None:
    """Does what a piece of work was posted for."""
    if what == WAKE:
        wake(a, t, c, False)
    elif what == REQUESTED:
        a.t[t, WAITING_REQUESTS] += 1
        if deliver(a, t):
            post(a, c, 0, draw(a, a.g[WAKEUPS]), WAKE_VCPU, t, -1, True)
    elif what == WAKE_VCPU and a.t[t, BLOCKED]:
        wake(a, t, c, False)
    elif what == START_HRTICK:
        a.c[c, HRTICK_ASKED] = 0
        if a.c[c, HRTICK_TIME] == INF:
            a.c[c, HRTICK_TIME] = t
            note_due(a, c)


@compiled
def kernel_work(a: Memory, c: int, place: int) -> int:
    """HostCpu._kernel_work(): serves what is due and schedules, until a thread can go on; -1: it waits."""
    now = a.g[NOW]
    while a.g[FAILED] == 0:
        if place == KERNEL:
            charge(a, c)
            clock = a.c[c, CLOCK]
            if clock > now and not undisturbed(a, clock):
                wait_until(a, c, clock, KERNEL_SYNCED, False)
                return -1
            place = KERNEL_SYNCED
        if place == KERNEL_SYNCED:
            if a.t[a.c[c, THREAD], BLOCKED]:
                switch(a, c)
                place = KERNEL
                continue
            if a.c[c, DUE] <= a.c[c, CLOCK]:
                serve_due(a, c)
                place = KERNEL
                continue
            if not (a.c[c, POSTED] or must_schedule(a, c)):
                enter(a, c)
                return SPAN_BEGINS
            if a.c[c, CLOCK] > now:
                wait_until(a, c, a.c[c, CLOCK], KERNEL_LATER, False)
                return -1
            place = KERNEL_LATER
        if place == KERNEL_LATER:
            if a.c[c, POSTED]:
                i = a.c[c, POSTED_HEAD]
                a.c[c, POSTED] -= 1
                a.c[c, POSTED_HEAD] = (i + 1) % POSTED_MOST if a.c[c, POSTED] else 0  # 0: keeps to few cache lines
                kind = a.posted[c, i, W_CALL]
                if kind >= 0:
                    log(a, c, POINT_SERVE, -1)
                    a.calls[kind] += a.c[c, MEASURING]
                    if a.call_prices[kind] < 0:
                        call(a.g[CALLBACK], ASK_PRICE, kind, 1, 0, 0)
                    a.c[c, PENDING] += a.call_prices[kind]
                a.c[c, W_ACTION] = a.posted[c, i, W_WHAT]
                a.c[c, W_THREAD] = a.posted[c, i, W_WHOM]
                interrupt = a.posted[c, i, W_INTERRUPT]
                spend(a, c, INTERRUPT, interrupt)
                spend(a, c, WAKEUP, a.posted[c, i, W_WAKEUP])
                if interrupt > 0:
                    a.c[c, DEVICE_INTERRUPTS] += 1
                if not synced(a, c, KERNEL_ACTION):
                    return -1
                place = KERNEL_ACTION
            else:
                before_switch(a, c)
                switch(a, c)
                place = KERNEL
                continue
        act(a, c, a.c[c, W_ACTION], a.c[c, W_THREAD])
        place = KERNEL
    return -1
