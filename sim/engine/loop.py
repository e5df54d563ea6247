"""One replication: the processes of sim.host.cpu, sim.host.thread and sim.host.vcpu as one loop over arrays.

A CPU's process is resumed at the place where it waits, PLACE; everything that happens at one instant happens in the
order in which SimPy has it: by time, priority and creation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sim.engine.cache import complete, making
from sim.engine.draws import draw
from sim.engine.events import MANY_CPUS, fill, kick, look_closer, number, pop, push
from sim.engine.exits import lay_out_all
from sim.engine.halting import guest_timer, request
from sim.engine.jit import HAVE_NUMBA, Memory, compile_entry, compiled, entry, memory
from sim.engine.kernel_table import charge
from sim.engine.kernel_work import kernel_work
from sim.engine.layout import (
    ARRIVAL,
    ARRIVAL_DRAWS,
    AT_TICKS,
    BLOCKED,
    BOUNDARY,
    BOUNDARY_IS,
    BUDGET,
    CLOCK,
    CPU,
    CPU_INTERRUPTED,
    CPU_STARTS,
    CPU_WAITS,
    CPUS,
    DUE,
    EXIT_REQUEST,
    FAILED,
    FIRST_EVENT,
    FROM_EVENT,
    GUEST_TIMER,
    HEAP_KEY,
    HEAP_TIME,
    HEAP_WHAT,
    INTERRUPTS,
    KIND,
    NEED_RESCHED,
    NEED_RESCHED_LAZY,
    NEXT_TICK,
    NOW,
    PAUSED,
    PAUSED_CPU,
    PLACE,
    POSTED,
    SPAN_BEGIN,
    SPAN_END,
    SPAN_LONGEST,
    SPAN_REACHED,
    THREAD,
    TIMEOUT,
    TIMER,
    VCPU,
    WAITING,
    WAKE,
    WAKE_TIMER,
    WAKEUPS,
    WOKEN_AT,
)
from sim.engine.process import (
    EVENT,
    KERNEL,
    KERNEL_ACTION,
    SPAN_BEGINS,
    SPAN_GOES_ON,
    SPAN_WAITS,
    STARTS,
    TOP,
    pass_boundary,
    wait_until,
)
from sim.engine.rescheduling import post, preempts, undisturbed
from sim.engine.spans import is_interrupted, plan, settle_span
from sim.engine.threads import enter, event, leave
from sim.engine.wait_queues import times_out
from sim.engine.walking import walk


@compiled
def resume(a: Memory, c: int, interrupted: bool) -> None:
    """The process of a CPU continues until it waits again."""
    place = a.c[c, PLACE]
    now = a.g[NOW]
    if place == SPAN_WAITS:
        begin = a.c[c, SPAN_BEGIN]
        if interrupted:
            place = SPAN_GOES_ON
            lazy = a.c[c, NEED_RESCHED_LAZY] != 0
            if (a.c[c, BOUNDARY] or lazy) and not (a.c[c, POSTED] or preempts(a, c)):
                begun, begin = begin, settle_span(a, c, begin, now, True)
                a.c[c, SPAN_BEGIN] = begin
                if begin < now or (lazy and is_interrupted(a, c, begun, begin)):
                    leave(a, c)
                    place = TOP
                elif a.c[c, BOUNDARY]:
                    pass_boundary(a, c)
        else:
            a.c[c, WAITING] = 0
            place = end_span(a, c)
    go_on(a, c, place)


@compiled
def go_on(a: Memory, c: int, place: int) -> None:
    """The same from a place at which it does not wait; also ends when the budget is used up, for signals."""
    now = a.g[NOW]
    while a.g[FAILED] == 0:
        a.g[BUDGET] -= 1
        if a.g[BUDGET] < 0:
            a.c[c, PLACE] = place
            a.g[PAUSED_CPU] = c
            return
        if place in (TOP, STARTS):
            charge(a, c)
            clock = a.c[c, CLOCK]
            if (
                a.c[c, POSTED] or a.c[c, NEED_RESCHED] or a.c[c, NEED_RESCHED_LAZY]
                or a.t[a.c[c, THREAD], BLOCKED] or a.c[c, DUE] <= clock or not (clock <= now or undisturbed(a, clock))
            ):  # fmt: skip
                place = KERNEL
            else:
                enter(a, c)
                place = SPAN_BEGINS
        elif place <= KERNEL_ACTION:
            place = kernel_work(a, c, place)
            if place < 0:
                return
        elif place == SPAN_BEGINS:
            charge(a, c)
            a.c[c, SPAN_BEGIN] = a.c[c, CLOCK]
            if a.c[c, BOUNDARY]:
                pass_boundary(a, c)
            place = SPAN_GOES_ON
        elif place == SPAN_GOES_ON:
            begin = a.c[c, SPAN_BEGIN]
            if a.c[c, POSTED] or preempts(a, c):
                settle_span(a, c, begin, now, True)
                leave(a, c)
                place = TOP
                continue
            a.c[c, EXIT_REQUEST] = a.c[c, NEED_RESCHED_LAZY]
            end, reached, longest = plan(a, c, begin)
            a.c[c, SPAN_END] = end
            a.c[c, SPAN_REACHED] = 1 if reached else 0
            a.c[c, SPAN_LONGEST] = longest
            if not undisturbed(a, end):
                a.c[c, WAITING] = 1
                wait_until(a, c, max(end, now), SPAN_WAITS, True)
                return
            place = end_span(a, c)
        else:
            place = event(a, c, place)
            if place < 0:
                return


@compiled
def end_span(a: Memory, c: int) -> int:
    """A span has ended as planned."""
    end, reached = a.c[c, SPAN_END], a.c[c, SPAN_REACHED]
    soft = not reached and end == a.c[c, SPAN_LONGEST]
    begin = settle_span(a, c, a.c[c, SPAN_BEGIN], end, soft)
    a.c[c, SPAN_BEGIN] = begin
    if reached:
        return EVENT
    if begin < end or a.c[c, DUE] <= end:
        leave(a, c)
        return TOP
    return SPAN_GOES_ON


@compiled
def wakes_at_tick(a: Memory, c: int, at_tick: bool) -> bool:
    """Whether a tick that is due now anyway is the interrupt that wakes a thread."""
    return at_tick and a.c[c, NEXT_TICK] <= a.g[NOW]


@compiled
def expires(a: Memory, t: int, at_tick: bool) -> None:
    """A timer wakes a thread."""
    if a.g[FROM_EVENT]:
        a.t[t, WOKEN_AT] = a.g[NOW]
    c = a.t[t, CPU]
    interrupt = 0 if wakes_at_tick(a, c, at_tick) else draw(a, a.g[INTERRUPTS])
    post(a, c, interrupt, draw(a, a.g[WAKEUPS]), WAKE, t, -1, False)


@entry
def run(handle: Any, budget: int) -> int:
    """Handles events until one stops the run (STOP, PATIENCE or OVER), and returns that; -1: it cannot go on.

    PAUSED: ``budget`` pieces of work have been done; call it again.
    """
    a = memory(handle)
    a.g[BUDGET] = budget
    c = a.g[PAUSED_CPU]
    if c >= 0:
        a.g[PAUSED_CPU] = -1
        go_on(a, c, a.c[c, PLACE])
    while a.g[FAILED] == 0:
        if a.g[BUDGET] < 0:
            return PAUSED
        fill(a)
        at, key = a.heap[FIRST_EVENT, HEAP_TIME], a.heap[FIRST_EVENT, HEAP_KEY]
        packed = a.heap[FIRST_EVENT, HEAP_WHAT]
        pop(a)
        a.g[NOW] = at
        if a.g[CPUS] >= MANY_CPUS:
            look_closer(a)
        what, whom = packed & 255, packed >> 8
        if what in (CPU_WAITS, CPU_STARTS):
            resume(a, whom, False)
        elif what == CPU_INTERRUPTED:
            resume(a, whom, True)
        elif what == WAKE_TIMER:
            expires(a, whom, a.t[whom, AT_TICKS] != 0)
        elif what == TIMEOUT:
            if times_out(a, whom, number(key)):
                if a.t[whom, KIND] == VCPU:
                    guest_timer(a, whom)
                else:
                    expires(a, whom, False)
        elif what == GUEST_TIMER:
            guest_timer(a, whom)
        elif what == ARRIVAL:
            request(a, whom)
            push(a, at + draw(a, a.t[whom, ARRIVAL_DRAWS]), TIMER, ARRIVAL, whom)
        else:
            walk(a)
            return what
    return -1


@entry
def schedule_event(handle: Any, at: int, priority: int, what: int, whom: int) -> None:
    """Schedules an event, for Python."""
    push(memory(handle), at, priority, what, whom)


@entry
def cross(handle: Any, boundary: int) -> None:
    """Now is the nominal end of warm-up (1) or measurement (2)."""
    a = memory(handle)
    a.g[BOUNDARY_IS] = boundary
    for c in range(a.g[CPUS]):
        a.c[c, BOUNDARY] = 1
        kick(a, c)


@entry
def begin(handle: Any) -> None:
    """Lays out the exits that have been drawn ahead."""
    lay_out_all(memory(handle))


ENTRIES = ((run, 2), (cross, 2), (begin, 1), (schedule_event, 5))
"""What Python calls, and the number of its arguments."""


@cache
def compile_all() -> None:
    """Compiles what Python calls, one process at a time, or reads it from the cache."""
    if HAVE_NUMBA:
        with making() as missing:
            kept = [compile_entry(function, arguments) for function, arguments in ENTRIES]
            if missing and all(kept):
                complete()
