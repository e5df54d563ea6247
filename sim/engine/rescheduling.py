"""Who asks a CPU to reschedule, and when that is seen (sim.host.cpu, preemption, hrtick); what is posted to a CPU."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.events import kick, peek
from sim.engine.interrupts import note_due
from sim.engine.jit import Memory, compiled
from sim.engine.layout import (
    ALL_EVENTS,
    CLOCK,
    FAIL_POSTED,
    FAILED,
    HRTICK,
    HRTICK_ASKED,
    HRTICK_LEAST,
    HRTICK_SLACK,
    HRTICK_TIME,
    IDLE_THREAD,
    INF,
    INTERRUPTS,
    KERNEL_CODE,
    KERNEL_FLOW,
    KERNEL_POINTS,
    LAZY,
    NEED_RESCHED,
    NEED_RESCHED_LAZY,
    NOTHING,
    NOW,
    POSTED,
    POSTED_HEAD,
    POSTED_MOST,
    START_HRTICK,
    THREAD,
    TO_USER,
    W_CALL,
    W_INTERRUPT,
    W_WAKEUP,
    W_WHAT,
    W_WHOM,
    WHERE,
)
from sim.engine.run_queue import time_to_deadline
from sim.engine.walking import touch


@compiled
def resched_curr_lazy(a: Memory, c: int, asker: int) -> None:
    """The fair class requests a reschedule.  A lazy request sends no interrupt; idle is always preempted at once."""
    if a.c[c, NEED_RESCHED]:
        kick(a, c)
        return
    if a.g[LAZY] and a.c[c, THREAD] != a.c[c, IDLE_THREAD]:
        a.c[c, NEED_RESCHED_LAZY] = 1
        kick(a, c)
        return
    a.c[c, NEED_RESCHED] = 1
    if c != asker:
        post(a, c, draw(a, a.g[INTERRUPTS]), 0, NOTHING, 0, -1, False)


@compiled
def preempts(a: Memory, c: int) -> bool:
    """Whether TIF_NEED_RESCHED takes the CPU from the running thread, given where that is."""
    seen = a.t[a.c[c, THREAD], WHERE] != KERNEL_CODE or a.g[KERNEL_POINTS] != 0
    return a.c[c, NEED_RESCHED] != 0 and seen


@compiled
def must_schedule(a: Memory, c: int) -> bool:
    """The same in the kernel, where a thread that goes on to user or guest mode sees the lazy flag, too."""
    return preempts(a, c) or (a.c[c, NEED_RESCHED_LAZY] != 0 and a.t[a.c[c, THREAD], WHERE] == TO_USER)


@compiled
def due_after(a: Memory, c: int, delay: int) -> int:
    """When a timer for ``delay`` from now is due; one that is due at about that time already is left as it is."""
    at = a.g[NOW] + max(delay, a.g[HRTICK_LEAST])
    return a.c[c, HRTICK_TIME] if abs(at - a.c[c, HRTICK_TIME]) <= a.g[HRTICK_SLACK] else at


@compiled
def hrtick_start_fair(a: Memory, c: int) -> None:
    """Starts the timer for the end of the running thread's request, if another thread waits."""
    if a.g[HRTICK]:
        delay = time_to_deadline(a, c)
        if delay >= 0:
            a.c[c, HRTICK_TIME] = due_after(a, c, delay)
            note_due(a, c)


@compiled
def hrtick_update(a: Memory, c: int, asker: int) -> None:
    """``asker`` has enqueued a thread: starts the timer, on another CPU by an IPI."""
    idle = a.c[c, THREAD] == a.c[c, IDLE_THREAD]
    if not a.g[HRTICK] or a.c[c, HRTICK_ASKED] or a.c[c, HRTICK_TIME] != INF or idle:
        return
    if c == asker:
        hrtick_start_fair(a, c)
        return
    at = due_after(a, c, time_to_deadline(a, c))  # of the thread that runs there, behind which another is queued now
    a.c[c, HRTICK_ASKED] = 1
    post(a, c, draw(a, a.g[INTERRUPTS]), 0, START_HRTICK, at, -1, False)


@compiled
def post(a: Memory, c: int, interrupt: int, wakeup: int, what: int, whom: int, call_kind: int, first: bool) -> None:
    """Posts an interrupt to a CPU; ``first``: as a part of what it is doing, before all else that is posted."""
    n, head, most = a.c[c, POSTED], a.c[c, POSTED_HEAD], POSTED_MOST
    if n >= most:
        a.g[FAILED] = FAIL_POSTED
        return
    if first:
        head = (head - 1) % most
        a.c[c, POSTED_HEAD] = head
        i = head
    else:
        i = (head + n) % most
    a.c[c, POSTED] = n + 1
    a.posted[c, i, W_INTERRUPT] = interrupt
    a.posted[c, i, W_WAKEUP] = wakeup
    a.posted[c, i, W_WHAT] = what
    a.posted[c, i, W_WHOM] = whom
    a.posted[c, i, W_CALL] = call_kind
    if not first:
        kick(a, c)


@compiled
def spend(a: Memory, c: int, account: int, cycles: int) -> None:
    """Spends cycles on kernel work other than operations."""
    a.c[c, account] += cycles
    a.c[c, CLOCK] += cycles
    touch(a, c, cycles, a.t[a.c[c, THREAD], KERNEL_FLOW])


@compiled
def undisturbed(a: Memory, until: int) -> bool:
    """Whether nothing else happens in the simulation up to then."""
    return a.g[ALL_EVENTS] == 0 and peek(a) > until
