"""A span of any kind of thread: when it ends, and what it has done by then."""

from __future__ import annotations

from sim.engine.guest import follow, follow_guest, settle, settle_guest
from sim.engine.guest_lock import spins_until
from sim.engine.halting import polls_until
from sim.engine.jit import Memory, compiled
from sim.engine.layout import (
    ACCOUNT,
    CLOCK,
    DUE,
    GUEST,
    GUEST_POLL,
    GUEST_SPIN,
    HALT_POLL,
    HALTED_AT,
    HRTICK_TIME,
    INF,
    KIND,
    NEED_RESCHED_LAZY,
    NEXT_TICK,
    NOW,
    P_END,
    P_SELF,
    P_UNTIL,
    PLANNED,
    REMAINING,
    SPAN,
    THREAD,
    TICK,
    TIMER_DUE,
    TO_USER,
    VCPU,
    WHERE,
    WINDOW,
)
from sim.engine.run_queue import alone, preempt_time


@compiled
def settle_span(a: Memory, c: int, begin: int, until: int, soft: bool) -> int:
    """The span has run up to ``until``; the CPU's clock is set to when it can be taken."""
    t = a.c[c, THREAD]
    if a.t[t, KIND] == VCPU and a.t[t, ACCOUNT] == GUEST:
        end = settle_guest(a, c, begin, until, soft)
    else:
        end = settle(a, c, begin, until)
    a.c[c, CLOCK] = end
    return end


@compiled
def resched_tick(a: Memory, c: int) -> int:
    """The first tick that finds the thread's slice over."""
    time, tick = preempt_time(a, c), a.c[c, NEXT_TICK]
    if time == INF:
        return INF
    late = time - tick
    return tick if late <= 0 else tick + -(-late // a.g[TICK]) * a.g[TICK]


@compiled
def plan(a: Memory, c: int, begin: int) -> tuple[int, bool, int]:
    """When the span that begins now ends, whether it ends by itself, and the latest end that may be planned."""
    t = a.c[c, THREAD]
    guest = a.t[t, KIND] == VCPU and a.t[t, ACCOUNT] == GUEST
    longest = begin + SPAN
    limit = min(a.c[c, NEXT_TICK], longest)
    if guest or begin + a.t[t, REMAINING] > limit:
        limit = min(resched_tick(a, c), longest)
    limit = min(limit, a.c[c, HRTICK_TIME])
    if a.c[c, NEED_RESCHED_LAZY]:  # the next interrupt shows it, or in the kernel the next tick promotes it
        limit = min(limit, a.c[c, DUE] if a.t[t, WHERE] == TO_USER else a.c[c, NEXT_TICK])
    a.c[c, PLANNED] = 1
    if guest and a.t[t, TIMER_DUE]:
        over = max(begin, a.g[NOW])
        follow_guest(a, c, begin, min(limit, over), False)
        return a.c[c, P_UNTIL], a.c[c, P_UNTIL] >= over, longest
    if guest:
        follow_guest(a, c, begin, limit, False)
        return a.c[c, P_UNTIL], a.c[c, P_SELF] != 0, longest
    account = a.t[t, ACCOUNT]
    if account in (HALT_POLL, GUEST_POLL, GUEST_SPIN):
        if account == HALT_POLL:
            over = a.t[t, HALTED_AT] + a.t[t, WINDOW] if alone(a, c) else a.g[NOW]
        else:  # an interrupt for the host is an exit
            limit = min(limit, a.c[c, DUE])
            over = spins_until(a, t) if account == GUEST_SPIN else polls_until(a, t)
        over = max(begin, over)
        follow(a, c, begin, min(limit, over))
        return a.c[c, P_END], a.c[c, P_END] >= over, longest
    follow(a, c, begin, limit)
    return a.c[c, P_END], a.c[c, P_SELF] != 0, longest


@compiled
def is_interrupted(a: Memory, c: int, begin: int, end: int) -> bool:
    """Whether an interrupt is being served now, in the span from ``begin``, which could go on at ``end`` after it."""
    t = a.c[c, THREAD]
    return a.t[t, WHERE] == TO_USER and begin <= a.g[NOW] < end and a.t[t, ACCOUNT] != GUEST
