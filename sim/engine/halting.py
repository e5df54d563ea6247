"""A vCPU that has halted: polling, what ends it, and interrupts for the guest (sim.host.vcpu)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.guest import follow_guest
from sim.engine.host import does, take_pending
from sim.engine.jit import Memory, compiled
from sim.engine.kernel_table import passes, passes_signal, runs_guest
from sim.engine.layout import (
    ACCOUNT,
    BLOCKED,
    CLOCK,
    CPU,
    FROM_EVENT,
    GUEST,
    HALT_POLL,
    HALTED_AT,
    INTERRUPTS,
    NOTHING,
    NOW,
    P_COLUMNS,
    P_END,
    PLANNED,
    POINT_LEAVE_RUN,
    POLL_GROW,
    POLL_MOST,
    POLL_SHRINK,
    POLL_START,
    POLLED,
    POLLS,
    POSTS,
    REMAINING,
    REQUESTED,
    ROUND_TRIPS,
    SIGNAL_TIMES,
    SLEPT,
    SPAN_BEGIN,
    THREAD,
    TO_USER,
    VMM,
    VMM_POINT,
    WAITING,
    WAITING_REQUESTS,
    WHERE,
    WINDOW,
    WOKEN_AT,
)
from sim.engine.process import has_woken
from sim.engine.rescheduling import post


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
    elif window < most and halted < most and a.t[t, POLL_GROW]:
        window = max(window * a.t[t, POLL_GROW], a.t[t, POLL_START])
    a.t[t, WINDOW] = window


@compiled
def begin_polling(a: Memory, c: int, t: int) -> None:
    """kvm_vcpu_halt(): for how long it polls."""
    a.t[t, WHERE] = POLLS
    a.t[t, HALTED_AT] = a.c[c, CLOCK]
    a.t[t, WINDOW] = min(a.t[t, WINDOW], a.t[t, POLL_MOST])


@compiled
def has_event(a: Memory, c: int, t: int) -> bool:
    """vcpu_block(), when it is called and again while it polls: True, and on to the guest, if it need not block."""
    called = a.t[t, WHERE] == TO_USER
    if called:
        begin_polling(a, c, t)
    if not take_pending(a, t):
        return False
    if not called:
        if a.t[t, WINDOW] > 0 and not a.t[t, SLEPT]:
            a.c[c, POLLED] += 1
        a.t[t, SLEPT] = 0
        end_polling(a, t, a.c[c, CLOCK] - a.t[t, HALTED_AT])
    does(a, t, GUEST)
    return True


@compiled
def handles_signal(a: Memory, c: int, t: int) -> None:
    """A signal has ended the halt: out of KVM_RUN without a VM entry, the handler, and the VMM's next span."""
    if a.t[t, WOKEN_AT] >= 0:
        has_woken(a, c, t, 0)
    passes(a, c, POINT_LEAVE_RUN, -1)
    a.c[c, ROUND_TRIPS] += 1
    passes_signal(a, c)
    passes(a, c, a.t[t, VMM_POINT], -1)
    does(a, t, VMM)
    a.t[t, REMAINING] = draw(a, a.t[t, SIGNAL_TIMES])


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
    if a.g[FROM_EVENT] and a.t[t, ACCOUNT] == HALT_POLL and a.t[t, WOKEN_AT] < 0:
        a.t[t, WOKEN_AT] = a.g[NOW]
    if a.t[t, POSTS] and in_guest(a, t):
        a.t[t, WAITING_REQUESTS] += 1
    else:
        post(a, a.t[t, CPU], draw(a, a.g[INTERRUPTS]), 0, REQUESTED, t, -1, False)


@compiled
def in_guest(a: Memory, t: int) -> bool:
    """Whether the guest runs right now (IN_GUEST_MODE), and KVM is not handling one of its exits."""
    c = a.t[t, CPU]
    if a.c[c, THREAD] != t or not runs_guest(a, c):
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
