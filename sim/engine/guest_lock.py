"""A spinlock inside a guest, PAUSE-loop exiting, and what follows from them (sim.host.guest_lock, sim.host.ple).

The lock of a VM, and what KVM remembers of the VM, are in the row of its first vCPU.
"""

from __future__ import annotations

from sim.engine.directed_yield import on_spin, runs_again
from sim.engine.draws import draw
from sim.engine.events import kick
from sim.engine.host import does
from sim.engine.jit import Memory, compiled
from sim.engine.kernel_table import charge
from sim.engine.layout import (
    ACCOUNT,
    CLOCK,
    CPU,
    DEMAND_END,
    GUEST,
    GUEST_SPIN,
    GUEST_TIME,
    INF,
    LOCK_GAPS,
    LOCK_HOLDER,
    LOCK_HOLDS,
    NOW,
    OUT_SINCE,
    PLE_BASE,
    PLE_EXITS,
    PLE_GROW,
    PLE_MOST,
    PLE_SHRINK,
    PLE_UNIT,
    PLE_WINDOW,
    QUEUED_AT,
    REMAINING,
    REQUEST_END,
    SPINS_FROM,
    SPINS_SINCE,
    THREAD,
    TIMER_DUE,
    TO_USER,
    TURN,
    VM_FIRST,
    VM_SIZE,
    VMM,
    WAITING,
    WHERE,
    YIELDS,
)


@compiled
def grow(a: Memory, t: int) -> None:
    """The guest has spun for the whole window."""
    base, modifier, value = a.g[PLE_BASE], a.g[PLE_GROW], a.t[t, PLE_WINDOW]
    if modifier < 1:
        a.t[t, PLE_WINDOW] = base
    else:
        a.t[t, PLE_WINDOW] = min(value * modifier if modifier < base else value + modifier, a.g[PLE_MOST])


@compiled
def shrink(a: Memory, t: int) -> None:
    """The vCPU has been off its CPU."""
    base, modifier, value = a.g[PLE_BASE], a.g[PLE_SHRINK], a.t[t, PLE_WINDOW]
    if modifier < 1:
        a.t[t, PLE_WINDOW] = base
    else:
        a.t[t, PLE_WINDOW] = max(value // modifier if modifier < base else value - modifier, base)


@compiled
def window_of(a: Memory, t: int) -> int:
    """The window in TSC cycles."""
    return a.t[t, PLE_WINDOW] * a.g[PLE_UNIT]


@compiled
def is_free(a: Memory, t: int) -> bool:
    """Whether the lock may be taken by this vCPU, or has been given to it."""
    holder = a.t[a.t[t, VM_FIRST], LOCK_HOLDER]
    return holder < 0 or holder == t


@compiled
def spins_until(a: Memory, t: int) -> int:
    """When spinning ends, by the lock or by PLE."""
    if is_free(a, t) or a.t[t, TIMER_DUE]:
        return a.g[NOW]
    return a.t[t, SPINS_FROM] + window_of(a, t) if a.g[PLE_EXITS] else INF


@compiled
def set_end(a: Memory, t: int) -> None:
    """Whatever comes first ends the span; a request is not done before the critical section is over."""
    turn, end = a.t[t, TURN], a.t[t, REQUEST_END]
    if a.t[a.t[t, VM_FIRST], LOCK_HOLDER] == t or turn <= end:
        end = turn
    a.t[t, DEMAND_END] = max(end, a.t[t, GUEST_TIME])


@compiled
def returns(a: Memory, t: int) -> None:
    """The thread goes on, before the span: shrinks the window if the vCPU has been off its CPU within KVM_RUN."""
    if a.t[t, QUEUED_AT] != a.t[t, OUT_SINCE]:
        a.t[t, OUT_SINCE] = a.t[t, QUEUED_AT]
        if a.t[t, ACCOUNT] != VMM:
            shrink(a, t)
    runs_again(a, t)


@compiled
def spins_from_now(a: Memory, c: int, t: int) -> None:
    """The guest has been entered: PLE counts from here."""
    charge(a, c)
    a.t[t, SPINS_FROM] = a.c[c, CLOCK]


@compiled
def takes(a: Memory, t: int) -> None:
    """A vCPU takes the lock."""
    a.t[a.t[t, VM_FIRST], LOCK_HOLDER] = t
    a.t[t, TURN] = a.t[t, GUEST_TIME] + draw(a, a.t[t, LOCK_HOLDS])
    set_end(a, t)


@compiled
def release(a: Memory, first: int) -> None:
    """Gives the lock to the vCPU that spins now (of several, the one that has spun longest), or frees it."""
    holder = -1
    for t in range(first, first + a.t[first, VM_SIZE]):
        c = a.t[t, CPU]
        spins_now = a.t[t, ACCOUNT] == GUEST_SPIN and a.c[c, THREAD] == t and a.c[c, WAITING] != 0
        if spins_now and (holder < 0 or a.t[t, SPINS_SINCE] < a.t[holder, SPINS_SINCE]):
            holder = t
    a.t[first, LOCK_HOLDER] = holder
    if holder >= 0:
        kick(a, a.t[holder, CPU])


@compiled
def takes_or_releases(a: Memory, c: int, t: int) -> None:
    """A critical section ends, or the vCPU wants the lock: it takes it, or spins.  It stays in the guest."""
    first = a.t[t, VM_FIRST]
    if a.t[first, LOCK_HOLDER] == t:
        release(a, first)
        a.t[t, TURN] = a.t[t, GUEST_TIME] + draw(a, a.t[t, LOCK_GAPS])
        set_end(a, t)
    elif a.t[first, LOCK_HOLDER] < 0:
        takes(a, t)
    else:
        does(a, t, GUEST_SPIN)
        a.t[t, REMAINING] = INF
        a.t[t, SPINS_SINCE] = a.t[t, SPINS_FROM] = a.c[c, CLOCK]


@compiled
def has_spun(a: Memory, c: int, t: int) -> bool:
    """The spinning span is over: True if PLE makes the guest exit; if not, the vCPU has the lock, or spins on."""
    if is_free(a, t):
        does(a, t, GUEST)
        takes(a, t)
        return False
    return a.g[PLE_EXITS] != 0 and a.c[c, CLOCK] >= a.t[t, SPINS_FROM] + window_of(a, t)


@compiled
def yields(a: Memory, c: int, t: int) -> None:
    """What the handler of the exit does to others."""
    if a.g[YIELDS]:
        on_spin(a, c, t)
    a.t[t, WHERE] = TO_USER
