"""A vCPU that has halted: polling, what ends it, and interrupts for the guest (sim.host.halting)."""

from __future__ import annotations

from sim.engine.draws import draw
from sim.engine.events import kick, push
from sim.engine.guest import follow_guest
from sim.engine.host import block_vcpu, does, is_pending, take_pending
from sim.engine.jit import Memory, compiled
from sim.engine.kernel_table import runs_guest
from sim.engine.layout import (
    ACCOUNT,
    ARMED,
    BLOCKED,
    CLOCK,
    CPU,
    FROM_EVENT,
    GUEST,
    GUEST_MOST,
    GUEST_POLL,
    GUEST_SPIN,
    GUEST_START,
    GUEST_TIMER,
    GUEST_WINDOW,
    HALT_POLL,
    HALTED_AT,
    INF,
    INTERRUPTS,
    NEED_RESCHED,
    NEED_RESCHED_LAZY,
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
    POLLS_UNTIL,
    POSTS,
    REMAINING,
    REQUEST_SLEEPS,
    REQUESTED,
    ROUND_TRIPS,
    SIGNAL_TIMES,
    SLEPT,
    SPAN_BEGIN,
    THREAD,
    TIMER,
    TIMER_DUE,
    TIMER_KIND,
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
from sim.engine.wait_queues import join, limit_wait, waits
from sim.engine.walking import passes, passes_signal
from sim.host.halt_polling import GUEST_GROW, GUEST_SHRINK


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
def has_halted(a: Memory, t: int, cycles: int) -> None:
    """GuestPolling.has_halted(); without haltpoll the maximum is 0, and so is the window."""
    window, most = a.t[t, GUEST_WINDOW], a.t[t, GUEST_MOST]
    if window < cycles <= most:
        window = min(max(window * GUEST_GROW, a.t[t, GUEST_START]), most)
    elif cycles > most:
        window = window // GUEST_SHRINK
        if window < a.t[t, GUEST_START]:
            window = 0
    a.t[t, GUEST_WINDOW] = window


@compiled
def polls_in_guest(a: Memory, c: int, t: int) -> bool:
    """haltpoll_select(): whether the guest polls before it runs HLT."""
    window = a.t[t, GUEST_WINDOW]
    if window:
        does(a, t, GUEST_POLL)
        a.t[t, REMAINING] = INF
        a.t[t, POLLS_UNTIL] = a.c[c, CLOCK] + window
    return window > 0


@compiled
def polls_until(a: Memory, t: int) -> int:
    """When the guest's polling ends."""
    return a.g[NOW] if is_pending(a, t) or a.t[t, TIMER_DUE] else a.t[t, POLLS_UNTIL]


@compiled
def finds_work(a: Memory, c: int, t: int) -> bool:
    """Ends the guest's polling if anything is pending."""
    if not take_pending(a, t):
        return False
    does(a, t, GUEST)
    has_woken(a, c, t, 0)
    return True


@compiled
def begin_polling(a: Memory, c: int, t: int) -> None:
    """kvm_vcpu_halt(): for how long it polls."""
    a.t[t, WHERE] = POLLS
    a.t[t, HALTED_AT] = a.c[c, CLOCK]
    a.t[t, WINDOW] = min(a.t[t, WINDOW], a.t[t, POLL_MOST])


@compiled
def arm_timer(a: Memory, t: int) -> None:
    """The guest is idle: starts its timer, or its wait for a thread, unless that has been done."""
    if a.t[t, ARMED]:
        return
    if waits(a, t):
        a.t[t, ARMED] = 1
        join(a, t)
        limit_wait(a, t)
    elif a.t[t, REQUEST_SLEEPS] >= 0:
        a.t[t, ARMED] = 1
        push(a, a.g[NOW] + draw(a, a.t[t, REQUEST_SLEEPS]), TIMER, GUEST_TIMER, t)


@compiled
def halt(a: Memory, c: int, t: int) -> None:
    """After HLT: polling, or sleep."""
    timer_is_pending(a, t)
    does(a, t, HALT_POLL)
    a.t[t, REMAINING] = INF
    if a.c[c, NEED_RESCHED] or a.c[c, NEED_RESCHED_LAZY]:  # vcpu_run() looks at both before it calls vcpu_block()
        a.t[t, WHERE] = TO_USER
        return
    begin_polling(a, c, t)
    if not a.t[t, WINDOW] and not is_pending(a, t):
        block_vcpu(a, c, t)


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
        has_halted(a, t, a.c[c, CLOCK] - a.t[t, HALTED_AT])
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
def note_wakeup(a: Memory, t: int) -> None:
    """From now on there is something to do."""
    if a.t[t, WOKEN_AT] < 0:
        a.t[t, WOKEN_AT] = a.g[NOW]


@compiled
def kick_poll(a: Memory, t: int) -> None:
    """The guest, which polls, sees what is pending."""
    c = a.t[t, CPU]
    if a.c[c, THREAD] == t:
        kick(a, c)


@compiled
def deliver(a: Memory, t: int) -> bool:
    """An interrupt has become pending: ends the vCPU's polling, or kicks it; True if it has to be woken up."""
    if a.t[t, BLOCKED]:
        return True
    c = a.t[t, CPU]
    if a.t[t, ACCOUNT] == HALT_POLL:
        note_wakeup(a, t)
        if a.c[c, THREAD] == t:
            post(a, c, 0, 0, NOTHING, 0, -1, False)
    elif a.t[t, ACCOUNT] == GUEST_POLL and a.t[t, POSTS]:
        note_wakeup(a, t)
        kick_poll(a, t)
    elif not a.t[t, POSTS] and in_guest(a, t):
        post(a, c, draw(a, a.g[INTERRUPTS]), 0, NOTHING, 0, -1, False)
    return False


@compiled
def request(a: Memory, t: int) -> None:
    """A request arrives for the guest."""
    if a.t[t, POSTS] and in_guest(a, t):
        a.t[t, WAITING_REQUESTS] += 1
        if a.t[t, ACCOUNT] == GUEST_POLL:
            note_wakeup(a, t)
            kick_poll(a, t)
    else:
        interrupts_host(a, t)


@compiled
def interrupts_host(a: Memory, t: int) -> None:
    """A request comes by an interrupt of the host."""
    if a.g[FROM_EVENT] and a.t[t, ACCOUNT] in (HALT_POLL, GUEST_POLL):
        note_wakeup(a, t)
    post(a, a.t[t, CPU], draw(a, a.g[INTERRUPTS]), 0, REQUESTED, t, -1, False)


@compiled
def guest_timer(a: Memory, t: int) -> None:
    """The guest's timer has expired: an exit (VMX); if it is halted, or on SVM, an interrupt of the host's hrtimer."""
    account = a.t[t, ACCOUNT]
    a.t[t, ARMED] = 0
    if a.t[t, TIMER_KIND] < 0 or a.t[t, BLOCKED] or a.t[t, WHERE] == POLLS:
        interrupts_host(a, t)
        return
    if account == GUEST_POLL:
        note_wakeup(a, t)
    a.t[t, TIMER_DUE] = 1 + a.t[t, CPU]
    if account == HALT_POLL:
        timer_is_pending(a, t)
    elif account in (GUEST, GUEST_POLL, GUEST_SPIN):
        kick_poll(a, t)


@compiled
def timer_is_pending(a: Memory, t: int) -> None:
    """An expired timer has become an interrupt, without an exit."""
    if a.t[t, TIMER_DUE]:
        a.t[t, TIMER_DUE] = 0
        a.t[t, WAITING_REQUESTS] += 1


@compiled
def in_guest(a: Memory, t: int) -> bool:
    """Whether the guest runs right now (IN_GUEST_MODE), and KVM is not handling one of its exits."""
    c = a.t[t, CPU]
    if a.c[c, THREAD] != t or not runs_guest(a, c):
        return False
    if not a.c[c, WAITING] or a.t[t, ACCOUNT] != GUEST:
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
