"""Spans: how far a thread gets, with how many exits and interrupts (sim.host.thread, sim.host.guest_span)."""

from __future__ import annotations

from sim.engine.draws import draw, pass_instants
from sim.engine.exits import begins, kind_of, last_over, refill, stop_of, wall_at
from sim.engine.interrupts import absorbed, device_cycles, device_fpu, device_time, tick_cycles
from sim.engine.jit import Memory, compiled, load
from sim.engine.kernel_table import add_count, charge
from sim.engine.layout import (
    ACCOUNT,
    BATCH,
    CLOCK,
    DEMAND_END,
    EXIT_REQUEST,
    EXITS,
    FIRST_KIND,
    FLOW,
    GUEST,
    GUEST_SWITCHES,
    GUEST_TIME,
    HANDLER,
    IDLE_KIND,
    INF,
    INTERRUPT_KIND,
    K_COUNTS,
    K_CYCLES,
    K_ENTRY,
    K_FASTPATH,
    K_KNOWN,
    K_ROW,
    K_ROW2,
    KERNEL_FLOW,
    KIND,
    KINDS,
    MEASURING,
    NEXT_TICK,
    ONGOING,
    OPERATIONS,
    P_DEVICES,
    P_END,
    P_GUEST_WRITES,
    P_HITS,
    P_LAST,
    P_LEFT,
    P_ONGOING,
    P_SELF,
    P_SERVED,
    P_SWITCH_FPU,
    P_SWITCH_NONE,
    P_TICKS,
    P_UNTIL,
    P_WALL,
    PLANNED,
    REMAINING,
    S_GUEST,
    S_HANDLED,
    S_LEN,
    S_NEXT,
    S_WALL,
    THREAD,
    TICK,
    USE_FPU_DRAWS,
    USE_SWITCHES,
    USE_WRITES,
    WALL,
)
from sim.engine.walking import exits, passes, touch


@compiled
def follow(a: Memory, c: int, begin: int, until: int) -> None:
    """Thread._follow(): the span from ``begin`` to its end or to ``until``, into the CPU's plan."""
    now, left = begin, a.t[a.c[c, THREAD], REMAINING]
    tick = a.c[c, NEXT_TICK]
    ticks = n = served = 0
    while True:
        device = device_time(a, c, n)
        at = min(tick, device)
        if now + left <= at or at >= until:
            break
        if tick <= device:
            cycles = tick_cycles(a, c, ticks)
            ticks += 1
            tick += a.g[TICK]
        else:
            if device_fpu(a, c, n) >= 0:
                until = at
                break
            cycles = device_cycles(a, c, n)
            n += 1
        if at > now:
            left -= at - now
            now = at
        now += cycles
        served += cycles
    by_itself = 0
    if now + left <= until:
        now += left
        by_itself = 1
        left = 0
    elif until > now:
        left -= until - now
        now = until
    a.c[c, P_END] = now
    a.c[c, P_SELF] = by_itself
    a.c[c, P_LEFT] = left
    a.c[c, P_TICKS] = ticks
    a.c[c, P_DEVICES] = n
    a.c[c, P_SERVED] = served


@compiled
def settle(a: Memory, c: int, begin: int, until: int) -> int:
    """Thread.settle(): the span has run up to ``until``; when the thread can be taken from it."""
    thread = a.c[c, THREAD]
    if not a.c[c, PLANNED] or a.c[c, P_END] != until:
        follow(a, c, begin, until)
    a.c[c, PLANNED] = 0
    ran = a.t[thread, REMAINING] - a.c[c, P_LEFT]
    a.t[thread, REMAINING] = a.c[c, P_LEFT]
    a.c[c, a.t[thread, ACCOUNT]] += ran
    touch(a, c, ran, a.t[thread, FLOW])
    if a.c[c, P_TICKS] or a.c[c, P_DEVICES]:
        absorbed(a, c, a.c[c, P_TICKS], a.c[c, P_DEVICES], a.c[c, P_SERVED])
    if a.t[thread, KIND] == IDLE_KIND:
        a.t[thread, REMAINING] = INF
    return a.c[c, P_END]


@compiled
def stopped(a: Memory, c: int, now: int, wall: int, until: int, stop: int, soft: bool) -> None:
    """GuestSpan._stopped(), into the plan."""
    t, end = a.c[c, THREAD], until
    if until > now:
        wall += until - now
    else:
        end = now
    last = last_over(a, t, wall, stop)
    begin = begins(a, t, last + 1) if last + 1 < stop else INF
    ongoing = -1
    if not (wall < begin or (wall == begin and (soft or until < now))):
        over = load(a.t[t, S_WALL], last + 1)
        kind = kind_of(a, t, last + 1)
        opened = begin - 1 if a.k[kind, K_FASTPATH] else over - a.k[kind, K_ENTRY]
        if wall > opened:  # interrupts are off until the guest runs
            end += over - wall
            wall = over
            last += 1
        else:
            end += begin - wall
            wall = begin
            ongoing = kind
    a.c[c, P_END] = end
    a.c[c, P_UNTIL] = until
    a.c[c, P_SELF] = 0
    a.c[c, P_WALL] = wall
    a.c[c, P_LAST] = last
    a.c[c, P_ONGOING] = ongoing


@compiled
def follow_guest(a: Memory, c: int, begin: int, until: int, soft: bool) -> None:
    """GuestSpan._follow_guest(): to the next exit with an effect, the end of the request, or ``until``."""
    t = a.c[c, THREAD]
    interrupt = a.t[t, INTERRUPT_KIND]
    request = a.c[c, EXIT_REQUEST] != 0
    known = a.g[BATCH] != 0 and a.k[interrupt, K_KNOWN] != 0 and not request
    stop = a.t[t, S_NEXT] if request else stop_of(a, t)
    by_itself = 1 if stop < a.t[t, S_LEN] else 0
    goal = begins(a, t, stop) if by_itself else load(a.t[t, S_WALL], a.t[t, S_LEN] - 1)
    demand = wall_at(a, t, a.t[t, DEMAND_END], stop)
    if demand >= 0:
        goal, by_itself = demand, 1
    now, wall = begin, a.t[t, WALL]
    tick, period = a.c[c, NEXT_TICK], a.g[TICK]
    hits = n = served = 0
    while True:
        device = device_time(a, c, n)
        is_tick = tick <= device
        at = tick if is_tick else device
        end = now + goal - wall
        if end <= at and end <= until:
            a.c[c, P_END] = end
            a.c[c, P_UNTIL] = end
            a.c[c, P_SELF] = by_itself
            a.c[c, P_WALL] = goal
            a.c[c, P_LAST] = last_over(a, t, goal, stop)
            a.c[c, P_ONGOING] = -1
            break
        if at >= until or not known or (not is_tick and device_fpu(a, c, n) >= 0):
            stopped(a, c, now, wall, min(at, until), stop, soft)
            break
        there = wall + at - now
        last = last_over(a, t, there, stop)
        cycles = tick_cycles(a, c, hits - n) if is_tick else device_cycles(a, c, n)
        over = at + a.k[interrupt, K_CYCLES] + cycles
        free = over - a.k[interrupt, K_ENTRY]
        after = min(tick + period, device) if is_tick else min(tick, device_time(a, c, n + 1))
        if at < now or there >= begins(a, t, last + 1) or min(until, after) <= free:
            stopped(a, c, now, wall, at, stop, soft)
            break
        hits += 1
        if is_tick:
            tick += period
        else:
            n += 1
        served += cycles
        wall = there
        now = over
    a.c[c, P_HITS] = hits
    a.c[c, P_DEVICES] = n
    a.c[c, P_SERVED] = served


@compiled
def repeat(a: Memory, c: int, kind: int, times: int) -> None:
    """Counts the exits of a kind in a span; their cost is known."""
    measuring = a.c[c, MEASURING]
    add_count(a, 0, a.k[kind, K_ROW], times * measuring)
    if a.k[kind, K_ROW2] >= 0:
        add_count(a, 0, a.k[kind, K_ROW2], times * measuring)
    a.c[c, OPERATIONS] += times * a.k[kind, K_CYCLES]
    exits(a, c, kind, times)


@compiled
def settle_guest(a: Memory, c: int, begin: int, until: int, soft: bool) -> int:
    """GuestSpan.settle()."""
    t = a.c[c, THREAD]
    if not (a.c[c, PLANNED] and a.c[c, P_UNTIL] == until and not soft):
        follow_guest(a, c, begin, until, soft)
    a.c[c, PLANNED] = 0
    end, wall, last = a.c[c, P_END], a.c[c, P_WALL], a.c[c, P_LAST]
    hits, devices = a.c[c, P_HITS], a.c[c, P_DEVICES]
    first = a.t[t, S_NEXT] - 1
    time = load(a.t[t, S_GUEST], last) + wall - load(a.t[t, S_WALL], last)
    ran = time - a.t[t, GUEST_TIME]
    a.t[t, GUEST_TIME] = time
    a.c[c, GUEST] += ran
    touch(a, c, ran, a.t[t, FLOW])
    if last > first:
        handled = load(a.t[t, S_HANDLED], last) - load(a.t[t, S_HANDLED], first)
        a.c[c, HANDLER] += handled
        touch(a, c, handled, a.t[t, KERNEL_FLOW])
        a.c[c, EXITS] += last - first
        for i in range(a.t[t, KINDS]):
            kind = a.t[t, FIRST_KIND] + i
            n = load(a.k[kind, K_COUNTS], last) - load(a.k[kind, K_COUNTS], first)
            if n:
                repeat(a, c, kind, n)
    if hits:
        repeat(a, c, a.t[t, INTERRUPT_KIND], hits)
        a.c[c, EXITS] += hits
        absorbed(a, c, hits - devices, devices, a.c[c, P_SERVED])
    a.t[t, S_NEXT] = last + 1
    a.t[t, WALL] = wall
    a.t[t, ONGOING] = a.c[c, P_ONGOING]
    a.c[c, CLOCK] = end
    if ran:
        uses_registers(a, c, t)
    refill(a, t)
    charge(a, c)
    return a.c[c, CLOCK]


@compiled
def uses_registers(a: Memory, c: int, t: int) -> None:
    """What the guest has done to its registers since it was last looked at; only the last of each kind matters."""
    now, switched = a.t[t, GUEST_TIME], -1
    if a.t[t, USE_SWITCHES] >= 0:
        n, switched = pass_instants(a, a.t[t, USE_SWITCHES], now)
        a.c[c, GUEST_SWITCHES] += n
        has_fpu = 0
        for _ in range(n):
            has_fpu = draw(a, a.t[t, USE_FPU_DRAWS])
        if n:
            passes(a, c, a.t[t, P_SWITCH_FPU] if has_fpu else a.t[t, P_SWITCH_NONE], -1)
    if a.t[t, USE_WRITES] >= 0:
        _, wrote = pass_instants(a, a.t[t, USE_WRITES], now)
        if wrote > switched:
            passes(a, c, a.t[t, P_GUEST_WRITES], -1)
